"""The RPCs of the rights tables: what is in force, what a replacement would change, and the replacement."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import rights_pb2 as pb
from services.consent import store
from services.consent.acting import read_actor
from services.consent.changes import Clock, outbox_row
from services.consent.functional_rights import (
    SHIPPED,
    FunctionalRights,
    RightsTableError,
    TablesText,
    parse_rights,
)
from services.consent.mapping import write_time
from services.consent.rights_diff import cell_changes, decision_changes
from services.consent.rights_versions import RightsVersions
from services.consent.service import refused
from services.consent.store import StoredRights
from services.runtime import idempotency
from services.runtime.context import Call
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.idempotency import IdempotencyKey
from services.runtime.outbox import put
from services.runtime.paging import PageTokens, page_scope
from services.runtime.postgres import Pool, transaction, translate
from services.runtime.trail import Trail, build_event
from services.runtime.validation import validate

_PAGE: Final = 50
_LAST: Final = 1 << 62
_SHIPPED_SINCE: Final = datetime(1970, 1, 1, tzinfo=UTC)


class RightsServicer:
    """dmp.consent.v1.RightsService."""

    def __init__(
        self,
        pool: Pool,
        rights: RightsVersions,
        trail: Trail,
        tokens: PageTokens,
        clock: Clock,
        kick: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._rights = rights
        self._trail = trail
        self._tokens = tokens
        self._clock = clock
        self._kick = kick

    async def GetRights(self, request: pb.GetRightsRequest, call: Call) -> pb.GetRightsResponse:
        """The tables."""
        async with self._recording(call):
            validate(request)
            wanted = request.version if request.HasField("version") and request.version >= 0 else None
            version = await store.rights_in_force(self._pool) if wanted is None else wanted
            stored = await self._stored(version)
            response = pb.GetRightsResponse(version=_version(stored), tables=_tables(stored.text))
        await self._record(call)
        return response

    async def ListRightsVersions(
        self, request: pb.ListRightsVersionsRequest, call: Call
    ) -> pb.ListRightsVersionsResponse:
        """Newest first; the tables that the service came with are the last."""
        async with self._recording(call):
            validate(request)
            size, scope = request.page_size or _PAGE, page_scope(b"rights", call.actor.subject.encode())
            before = _LAST
            if request.page_token:
                before = int.from_bytes(self._tokens.read(request.page_token, scope), "big")
            versions = await store.rights_versions(self._pool, before, size + 1)
            shown = versions[:size]
            response = pb.ListRightsVersionsResponse(versions=[_version(each) for each in shown])
            if len(versions) > size:
                response.next_page_token = self._tokens.issue(scope, shown[-1].version.to_bytes(8, "big"))
            else:
                response.versions.append(_version(await self._stored(SHIPPED)))
        await self._record(call)
        return response

    async def DiffRights(self, request: pb.DiffRightsRequest, call: Call) -> pb.DiffRightsResponse:
        """The dry run."""
        async with self._recording(call):
            validate(request)
            version = await store.rights_in_force(self._pool)
            in_force = await self._rights.of(self._pool, version)
            proposed = self._proposed(request.tables, version + 1)
            response = pb.DiffRightsResponse(base_version=version)
            for cell in cell_changes(in_force, proposed):
                response.cells.add(**cell._asdict())
            for decision in decision_changes(in_force, proposed):
                response.decisions.add(**decision._asdict())
        await self._record(call)
        return response

    async def ReplaceRights(self, request: pb.ReplaceRightsRequest, call: Call) -> pb.ReplaceRightsResponse:
        """A new version in force, in one commit with its event; the second of two at once is CONCURRENT_CHANGE."""
        async with self._recording(call):
            if read_actor(call.actor).platform != "operator":
                raise DmpError(reasons.ERROR_REASON_RIGHT_DENIED)
            validate(request)
            stored = StoredRights(
                request.base_version + 1,
                self._proposed(request.tables, request.base_version + 1).text,
                self._clock(),
                call.actor.subject,
                request.comment,
            )
            key = IdempotencyKey(0, call.client_id, call.method.path, call.request_id)
            body = pb.ReplaceRightsRequest()
            body.CopyFrom(request)
            body.ClearField("request_id")
            digest = hashlib.sha256(body.SerializeToString(deterministic=True)).digest()
            async with transaction(self._pool, timeout=call.remaining()) as conn:
                replayed = await idempotency.begin(conn, key, digest)
                if replayed is not None:
                    return pb.ReplaceRightsResponse.FromString(replayed)
                if await store.add_rights(conn, stored) != request.base_version:
                    raise DmpError(reasons.ERROR_REASON_CONCURRENT_CHANGE)
                response = pb.ReplaceRightsResponse(version=_version(stored))
                await put(conn, [outbox_row(_event(call, stored), 0)])
                await idempotency.finish(conn, key, response.SerializeToString())
        self._kick()
        return response

    def _proposed(self, tables: pb.RightsTables, version: int) -> FunctionalRights:
        text = TablesText(tables.functional_rights_csv, tables.document_type_denials_csv)
        try:
            return parse_rights(text, version, known=self._rights.shipped)
        except RightsTableError as error:
            violation = FieldViolation("tables", "rights_table", str(error))
            raise DmpError(reasons.ERROR_REASON_RIGHTS_TABLE_INVALID, fields=(violation,)) from error

    async def _stored(self, version: int) -> StoredRights:
        if version == SHIPPED:
            return StoredRights(SHIPPED, self._rights.shipped.text, _SHIPPED_SINCE, "", "as the service came")
        stored = await store.read_rights(self._pool, version)
        if stored is None:
            raise DmpError(reasons.ERROR_REASON_NOTHING_TO_WITHDRAW)
        return stored

    async def _record(self, call: Call) -> None:
        await self._trail.record(build_event(call, outcome=audit_pb2.OUTCOME_SUCCESS), call.remaining())

    @asynccontextmanager
    async def _recording(self, call: Call) -> AsyncIterator[None]:
        try:
            yield
        except DmpError as error:
            await refused(self._trail, call, error)
            raise
        except Exception as error:  # a boundary: a fault of the database becomes UNAVAILABLE or INTERNAL
            raise translate(error) from error


def _event(call: Call, stored: StoredRights) -> audit_pb2.AuditEvent:
    change = audit_pb2.AttributeChange(
        attribute="rights", before=str(stored.version - 1), after=f"{stored.version} {stored.text.digest.hex()}"
    )
    return build_event(call, outcome=audit_pb2.OUTCOME_SUCCESS, changes=[change])


def _version(stored: StoredRights) -> pb.RightsVersion:
    return pb.RightsVersion(
        version=stored.version,
        effective_time=write_time(stored.effective_at),
        replaced_by=stored.replaced_by,
        comment=stored.comment,
        digest=stored.text.digest,
    )


def _tables(text: TablesText) -> pb.RightsTables:
    return pb.RightsTables(functional_rights_csv=text.functional_rights, document_type_denials_csv=text.type_denials)
