"""Reading a dossier's trail: what a page holds, from the sealed rows. No gRPC, no consent, no SQL text here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit import store
from services.audit.entry import EntryDigests
from services.audit.leaf import EventPlace, open_clear
from services.audit.rules import TrailFilter, log_of
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.identifiers import event_name
from services.runtime.paging import PageTokens, page_scope
from services.runtime.postgres import Pool, translate
from services.runtime.sealing import DossierKey, SealBroken

DEFAULT_PAGE: Final = 50
_ACQUIRE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads which trail, and as far as which filter."""

    health_id: int
    subject: str
    filter: TrailFilter


class TrailReader:
    """Pages of trails: two statements each, whatever their size and the size of the log."""

    def __init__(
        self, pool: Pool, keys: DossierKeys, digests: EntryDigests, tokens: PageTokens, log_count: int
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._digests = digests
        self._tokens = tokens
        self._log_count = log_count

    def position(self, page_token: str, health_id: int, subject: str) -> int:
        """The place before which the page begins; INVALID_PAGE_TOKEN for a token of another dossier or reader."""
        if not page_token:
            return store.END_OF_LOG
        return int.from_bytes(self._tokens.read(page_token, _scope(health_id, subject)), "big")

    async def page(self, reader: Reader, before: int, page_size: int) -> audit_pb2.ListEventsResponse:
        """At most `page_size` events (0 for fifty) at places below `before`, newest first, and the next token.

        DmpError: CONTENT_DESTROYED when the dossier's key is; CONTENT_CORRUPTED when a row is not what was sealed.
        """
        size = page_size or DEFAULT_PAGE
        log_id = log_of(reader.health_id, b"", self._log_count)
        own = self._digests.actor(reader.health_id, reader.subject) if reader.filter.own_only else None
        try:
            async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
                rows = await store.trail(
                    conn,
                    log_id,
                    reader.health_id,
                    before=before,
                    limit=size + 1,
                    with_secret=reader.filter.with_secret,
                    actor=own,
                )
                keys = await self._keys.for_read(conn, [reader.health_id])
        except Exception as error:
            raise translate(error) from error
        response = audit_pb2.ListEventsResponse()
        if not rows:
            return response
        key = keys[reader.health_id]
        for row in rows[:size]:
            response.events.append(_open(row, key, reader.health_id, log_id))
        if len(rows) > size:
            position = rows[size - 1].leaf_index.to_bytes(8, "big")
            response.next_page_token = self._tokens.issue(_scope(reader.health_id, reader.subject), position)
        return response


def _scope(health_id: int, subject: str) -> bytes:
    return page_scope(b"audit.ListEvents", health_id.to_bytes(8, "big"), subject.encode())


def _open(row: store.SealedEvent, key: DossierKey, health_id: int, log_id: int) -> audit_pb2.TrailEvent:
    try:
        part = open_clear(key, row.sealed, EventPlace(health_id, row.event_id.bytes, log_id))
    except SealBroken as error:
        raise DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED) from error
    return audit_pb2.TrailEvent(
        name=event_name(health_id, row.event_id),
        receipt=audit_pb2.AppendReceipt(log_id=log_id, leaf_index=row.leaf_index),
        event=audit_pb2.AuditEvent.FromString(part.clear),
    )
