"""PartnerService: registrations, suspensions, keys and usage, for operators; usage of its own also for a partner.

A mutation is one transaction: the change, the answer that a retry gets, and the event for the trail. The event names
the client; no event says why somebody was suspended, which is with the registration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from google.protobuf.message import Message

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.gateway.v1 import partner_pb2 as pb
from gateway.denials import TOKEN_LIFE, Denials, Effect
from gateway.events import outbox_row
from gateway.partners.mapping import read_keys, registration_of, state_of
from gateway.store import ClientRow, Store, UsageStore
from services.runtime import idempotency
from services.runtime.access import MethodAccess
from services.runtime.context import Call
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.idempotency import IdempotencyKey
from services.runtime.outbox import put
from services.runtime.paging import PageTokens, page_scope
from services.runtime.postgres import Connection, Pool, transaction
from services.runtime.trail import Trail, build_event
from services.runtime.validation import validate

Answer = TypeVar("Answer", bound=Message)
T = TypeVar("T")
_NO_DOSSIER: Final = 0
_USAGE_DAYS: Final = timedelta(days=30)


class PartnerServicer:
    """The RPCs."""

    def __init__(
        self,
        pool: Pool,
        store: Store,
        usage: UsageStore,
        denials: Denials,
        trail: Trail,
        pages: PageTokens,
        methods: Iterable[MethodAccess],
        kick: Callable[[], None],
    ) -> None:
        """`kick` wakes the relay of the outbox after a commit."""
        self._kick = kick
        self._pool = pool
        self._store = store
        self._usage = usage
        self._denials = denials
        self._trail = trail
        self._pages = pages
        self._methods = list(methods)

    async def RegisterPartner(self, request: pb.RegisterPartnerRequest, call: Call) -> pb.RegisterPartnerResponse:
        """Register, or replace what was registered here."""
        await self._validated(request, call)
        registration = await self._traced(call, lambda: registration_of(request.partner, self._methods))

        async def change(connection: Connection) -> pb.RegisterPartnerResponse:
            known = await self._store.client(registration.client_id, connection)
            if known is not None and known.declared:
                raise DmpError(reasons.ERROR_REASON_PARTNER_DECLARED)
            if not await self._store.put_client(connection, registration, replace=request.replace):
                raise DmpError(reasons.ERROR_REASON_PARTNER_ALREADY_EXISTS)
            row = await self._known(registration.client_id, connection)
            return pb.RegisterPartnerResponse(state=state_of(row))

        return await self._mutation(call, request, pb.RegisterPartnerResponse, registration.client_id, change)

    async def GetPartner(self, request: pb.GetPartnerRequest, call: Call) -> pb.GetPartnerResponse:
        """One registration."""
        await self._validated(request, call)
        row = await self._store.client(request.client_id)
        if row is None:
            raise await self._refused(call, DmpError(reasons.ERROR_REASON_PARTNER_NOT_FOUND))
        await self._done(call, request.client_id)
        return pb.GetPartnerResponse(state=state_of(row))

    async def ListPartners(self, request: pb.ListPartnersRequest, call: Call) -> pb.ListPartnersResponse:
        """All registrations, in pages."""
        await self._validated(request, call)
        scope = page_scope(b"ListPartners", call.client_id.encode())
        after = ""
        if request.page_token:
            token = request.page_token
            after = await self._traced(call, lambda: self._pages.read(token, scope).decode())
        size = request.page_size or 50
        rows = await self._store.page(after, size + 1)
        await self._done(call, "")
        response = pb.ListPartnersResponse(states=[state_of(row) for row in rows[:size]])
        if len(rows) > size:
            response.next_page_token = self._pages.issue(scope, rows[size - 1].client_id.encode())
        return response

    async def SuspendPartner(self, request: pb.SuspendPartnerRequest, call: Call) -> pb.SuspendPartnerResponse:
        """Stop a client, here at once, and tell the services. Asked again, the services are told again."""
        await self._validated(request, call)

        async def change(connection: Connection) -> pb.SuspendPartnerResponse:
            if not await self._store.suspend(connection, request.client_id, request.reason):
                raise DmpError(reasons.ERROR_REASON_PARTNER_NOT_FOUND)
            row = await self._known(request.client_id, connection)
            response = pb.SuspendPartnerResponse(state=state_of(row))
            since = row.suspended_at or datetime.now(UTC)
            response.tokens_end.FromDatetime(since + TOKEN_LIFE)
            return response

        response = await self._mutation(call, request, pb.SuspendPartnerResponse, request.client_id, change)
        response.effects.extend(_effects(await self._denials.tell()))
        return response

    async def ResumePartner(self, request: pb.ResumePartnerRequest, call: Call) -> pb.ResumePartnerResponse:
        """Let a client call again."""
        await self._validated(request, call)

        async def change(connection: Connection) -> pb.ResumePartnerResponse:
            if not await self._store.resume(connection, request.client_id):
                raise DmpError(reasons.ERROR_REASON_PARTNER_NOT_FOUND)
            return pb.ResumePartnerResponse(state=state_of(await self._known(request.client_id, connection)))

        response = await self._mutation(call, request, pb.ResumePartnerResponse, request.client_id, change)
        response.effects.extend(_effects(await self._denials.tell()))
        return response

    async def RotatePartnerKey(self, request: pb.RotatePartnerKeyRequest, call: Call) -> pb.RotatePartnerKeyResponse:
        """Add keys, retire keys."""
        await self._validated(request, call)
        added = await self._traced(call, lambda: read_keys(request.jwks, "jwks"))
        if not added and not request.retire:
            violation = FieldViolation("jwks", "required", "keys to add, or to retire")
            raise await self._refused(call, DmpError(reasons.ERROR_REASON_INVALID_FIELD, fields=[violation]))

        async def change(connection: Connection) -> pb.RotatePartnerKeyResponse:
            if not await self._store.rotate_keys(connection, request.client_id, added, list(request.retire)):
                raise DmpError(reasons.ERROR_REASON_PARTNER_NOT_FOUND)
            return pb.RotatePartnerKeyResponse(state=state_of(await self._known(request.client_id, connection)))

        return await self._mutation(call, request, pb.RotatePartnerKeyResponse, request.client_id, change)

    async def GetPartnerUsage(self, request: pb.GetPartnerUsageRequest, call: Call) -> pb.GetPartnerUsageResponse:
        """Counts; a partner's own alone."""
        await self._validated(request, call)
        client_id = request.client_id
        if call.caller == access_pb2.CALLER_KIND_PARTNER:
            if client_id not in ("", call.client_id):
                raise await self._refused(call, DmpError(reasons.ERROR_REASON_PARTNER_NOT_FOUND))
            client_id = call.client_id
        since = request.since.ToDatetime(UTC) if request.HasField("since") else datetime.now(UTC) - _USAGE_DAYS
        rows = await self._usage.read(client_id, since.date())
        await self._done(call, client_id)
        return pb.GetPartnerUsageResponse(
            rows=[
                pb.PartnerUsage(
                    client_id=row.client_id,
                    day=row.day.isoformat(),
                    transaction=row.operation,
                    outcome=row.outcome,
                    count=row.count,
                    seconds=row.seconds,
                )
                for row in rows
            ]
        )

    async def _mutation(
        self,
        call: Call,
        request: Message,
        answer: type[Answer],
        client_id: str,
        change: Callable[[Connection], Awaitable[Answer]],
    ) -> Answer:
        """The change, its answer and its event in one transaction."""
        key = IdempotencyKey(_NO_DOSSIER, call.client_id, call.method.path, call.request_id)
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        try:
            async with transaction(self._pool, timeout=call.remaining()) as connection:
                remembered = await idempotency.begin(connection, key, digest)
                if remembered is not None:
                    return answer.FromString(remembered)
                response = await change(connection)
                await idempotency.finish(connection, key, response.SerializeToString())
                await put(connection, [outbox_row(_event(call, client_id))])
        except DmpError as error:
            raise await self._refused(call, error) from None
        self._kick()
        return response

    async def _known(self, client_id: str, connection: Connection) -> ClientRow:
        row = await self._store.client(client_id, connection)
        if row is None:
            raise DmpError(reasons.ERROR_REASON_PARTNER_NOT_FOUND)
        return row

    async def _validated(self, request: Message, call: Call) -> None:
        await self._traced(call, lambda: validate(request))

    async def _traced(self, call: Call, check: Callable[[], T]) -> T:
        try:
            return check()
        except DmpError as error:
            raise await self._refused(call, error) from None

    async def _refused(self, call: Call, error: DmpError) -> DmpError:
        """The error, once it is in the trail."""
        await self._trail.refuse(call, error)
        return error

    async def _done(self, call: Call, client_id: str) -> None:
        await self._trail.record(_event(call, client_id), call.remaining())


def _event(call: Call, client_id: str) -> audit_pb2.AuditEvent:
    objects = (f"partners/{client_id}",) if client_id else ()
    return build_event(call, outcome=audit_pb2.OUTCOME_SUCCESS, objects=objects)


def _effects(effects: Iterable[Effect]) -> list[pb.DenialEffect]:
    """The gateway's own first: it reads the database at every request."""
    gateway = pb.DenialEffect(service="gateway", acknowledged=True, processes=1, answered=1)
    return [
        gateway,
        *(
            pb.DenialEffect(
                service=effect.service,
                acknowledged=effect.acknowledged,
                processes=effect.processes,
                answered=effect.answered,
            )
            for effect in effects
        ),
    ]
