"""The work list of unusual accesses: read and decided by operators. No gRPC here."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Final

from dmp.audit.v1 import notice_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit import derived_store, notice_store
from services.audit.listing import DEFAULT_PAGE
from services.audit.notice_store import NewNotice, UnusualRow
from services.audit.notices import item_aad, notice_aad, unusual_text
from services.audit.tags import RowTags
from services.runtime.dossier_keys import DossierKeyBatch, DossierKeys
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, uuid7
from services.runtime.paging import PageTokens, page_scope
from services.runtime.postgres import Connection, Pool, transaction, translate
from services.runtime.sealing import SealBroken, open_sealed, seal

PREFIX: Final = "unusualAccesses/"
_ACQUIRE_SECONDS: Final = 5.0
_BEGINNING: Final = (datetime(1, 1, 1, tzinfo=UTC), uuid.UUID(int=0))
_MICROSECOND: Final = 1_000_000


class WorkList:
    """Unusual accesses that wait for a person, and those that were decided."""

    def __init__(self, pool: Pool, keys: DossierKeys, tags: RowTags, tokens: PageTokens) -> None:
        self._pool = pool
        self._tags = tags
        self._keys = keys
        self._tokens = tokens

    async def page(
        self, subject: str, request: notice_pb2.ListUnusualAccessesRequest
    ) -> notice_pb2.ListUnusualAccessesResponse:
        """A page, oldest first; an item whose dossier is destroyed is not there any more."""
        scope = page_scope(b"audit.ListUnusualAccesses", subject.encode(), bytes([request.decided]))
        after = _position(self._tokens.read(request.page_token, scope)) if request.page_token else _BEGINNING
        size = request.page_size or DEFAULT_PAGE
        try:
            async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
                rows = await notice_store.unusual(conn, decided=request.decided, after=after, limit=size + 1)
                keys = await self._keys.for_read(conn, [row.health_id for row in rows])
        except Exception as error:
            raise translate(error) from error
        response = notice_pb2.ListUnusualAccessesResponse(unusual_accesses=[_item(row, keys) for row in rows[:size]])
        if len(rows) > size:
            response.next_page_token = self._tokens.issue(scope, _encoded(rows[size - 1]))
        return response

    async def decide(self, item_id: uuid.UUID, decision: int, operator: str) -> notice_pb2.UnusualAccess:
        """Closes an item; the same decision again changes nothing. UNUSUAL_ACCESS_NOT_FOUND if there is none, or it
        was decided otherwise."""
        try:
            async with transaction(self._pool, timeout=_ACQUIRE_SECONDS) as conn:
                row = await self._held(conn, item_id)
                changed = row is not None and not row.decision
                if row is not None and changed:
                    row = await notice_store.decide(conn, self._tags, row, decision, operator)
                if row is None or row.decision != decision:
                    raise DmpError(reasons.ERROR_REASON_UNUSUAL_ACCESS_NOT_FOUND)
                keys = await self._keys.for_write(conn, [row.health_id])
                item = _item(row, keys)
                if changed and decision == notice_pb2.UNUSUAL_DECISION_CONFIRMED and row.health_id:
                    secret = await notice_store.is_secret(conn, row.log_id, row.leaf_index)
                    notice = _told(row, item.explanation, keys, secret=secret)
                    await notice_store.add_notice(conn, self._tags, notice)
                return item
        except Exception as error:
            raise translate(error) from error

    async def _held(self, conn: Connection, item_id: uuid.UUID) -> UnusualRow | None:
        """An item that nobody else decides or deletes until the transaction ends."""
        row = await notice_store.one_unusual(conn, item_id)
        if row is None:
            return None
        await derived_store.hold(conn, self._tags, row.log_id)
        return await notice_store.one_unusual(conn, item_id)


def _item(row: UnusualRow, keys: DossierKeyBatch) -> notice_pb2.UnusualAccess:
    try:
        content = open_sealed(keys[row.health_id], row.sealed, item_aad(row.health_id, row.item_id))
    except SealBroken as error:
        raise DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED) from error
    item = notice_pb2.UnusualAccess.FromString(content)
    item.name = f"{PREFIX}{row.item_id}"
    item.detector = row.detector
    item.dossier = dossier_name(row.health_id) if row.health_id else ""
    item.detect_time.FromDatetime(row.detected_at)
    item.decision = row.decision  # type: ignore[assignment]
    item.decided_by = row.decided_by or ""
    if row.decided_at is not None:
        item.decide_time.FromDatetime(row.decided_at)
    return item


def _told(row: UnusualRow, explanation: str, keys: DossierKeyBatch, *, secret: bool) -> NewNotice:
    """The notice of a confirmed finding. A secret connection is told to the attending physician, as emergencies are:
    the patient's notices are read by the representatives too."""
    recipient = notice_pb2.NOTICE_RECIPIENT_ATTENDING_PHYSICIAN if secret else notice_pb2.NOTICE_RECIPIENT_PATIENT
    number = uuid7()
    text = unusual_text(explanation, recipient).encode()
    return NewNotice(
        row.health_id,
        number,
        notice_pb2.NOTICE_KIND_UNUSUAL_ACCESS,
        recipient,
        row.item_id.bytes,
        row.log_id,
        row.leaf_index,
        row.detected_at,
        seal(keys[row.health_id], text, notice_aad(row.health_id, number)),
    )


def _encoded(row: UnusualRow) -> bytes:
    micros = int(row.detected_at.timestamp()) * _MICROSECOND + row.detected_at.microsecond
    return micros.to_bytes(8, "big") + row.item_id.bytes


def _position(content: bytes) -> tuple[datetime, uuid.UUID]:
    micros = int.from_bytes(content[:8], "big")
    at = datetime.fromtimestamp(micros // _MICROSECOND, UTC).replace(microsecond=micros % _MICROSECOND)
    return at, uuid.UUID(bytes=content[8:24])
