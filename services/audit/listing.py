"""Reading a dossier's trail: pages, single events and whole trails, from sealed rows. No gRPC, no consent, no SQL."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit import store
from services.audit.entry import EntryDigests
from services.audit.filters import matches, narrows, period
from services.audit.leaf import ClearPart, EventPlace, open_clear
from services.audit.rules import TrailFilter, log_of
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.identifiers import event_name
from services.runtime.paging import PageTokens, page_scope
from services.runtime.postgres import Pool, translate
from services.runtime.sealing import DossierKey, SealBroken

DEFAULT_PAGE: Final = 50
_ACQUIRE_SECONDS: Final = 5.0
_CHUNK: Final = 400
"""Rows of one statement where events are opened to see whether they are asked for."""
_MOST_OPENED: Final = 4000
"""Events opened for one page; a page may therefore be short, and still have a next one."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads which trail, as far as which filter, and what of it was asked for."""

    health_id: int
    subject: str
    filter: TrailFilter
    asked: audit_pb2.EventFilter = field(default_factory=audit_pb2.EventFilter)

    @property
    def scope(self) -> tuple[bytes, ...]:
        """What a page token is bound to."""
        return (
            self.health_id.to_bytes(8, "big"),
            self.subject.encode(),
            self.asked.SerializeToString(deterministic=True),
        )


class OpenedEvent(NamedTuple):
    """An event of a trail, and what its entry commits to."""

    event: audit_pb2.TrailEvent
    part: ClearPart


class Page(NamedTuple):
    """Events, newest first, and the place before which the next page begins; None at the end."""

    events: list[audit_pb2.TrailEvent]
    next_before: int | None


class TrailReader:
    """Pages of trails: two statements each, whatever their size and the size of the log, unless events must be opened
    to be chosen."""

    def __init__(
        self, pool: Pool, keys: DossierKeys, digests: EntryDigests, tokens: PageTokens, log_count: int
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._digests = digests
        self._tokens = tokens
        self._log_count = log_count

    def position(self, page_token: str, reader: Reader, method: bytes = b"audit.ListEvents") -> int:
        """The place before which the page begins; INVALID_PAGE_TOKEN for a token of another dossier, reader or
        question."""
        if not page_token:
            return store.END_OF_LOG
        return int.from_bytes(self._tokens.read(page_token, page_scope(method, *reader.scope)), "big")

    def token(self, before: int | None, reader: Reader, method: bytes = b"audit.ListEvents") -> str:
        """The token of the page that begins before a place; empty for None."""
        return (
            "" if before is None else self._tokens.issue(page_scope(method, *reader.scope), before.to_bytes(8, "big"))
        )

    async def page(self, reader: Reader, before: int, page_size: int) -> audit_pb2.ListEventsResponse:
        """At most `page_size` events (0 for fifty) at places below `before`, newest first, and the next token.

        DmpError: CONTENT_DESTROYED when the dossier's key is; CONTENT_CORRUPTED when a row is not what was sealed.
        """
        page = await self.collect(reader, before, page_size or DEFAULT_PAGE)
        return audit_pb2.ListEventsResponse(events=page.events, next_page_token=self.token(page.next_before, reader))

    async def collect(self, reader: Reader, before: int, size: int) -> Page:
        """As `page`, with the place instead of the token."""
        query = self._query(reader)
        if query is None:
            return Page([], None)
        limit = _CHUNK if narrows(reader.asked) else size + 1
        events: list[audit_pb2.TrailEvent] = []
        opened = 0
        while True:
            rows, key = await self._rows(query, before, limit)
            for row in rows:
                if len(events) == size or opened == _MOST_OPENED:
                    return Page(events, before)
                found = _open(row, _known(key), query).event
                opened += 1
                if matches(found.event, reader.asked):
                    events.append(found)
                before = row.leaf_index
            if len(rows) < limit:
                return Page(events, None)

    async def event(self, reader: Reader, event_id: uuid.UUID) -> OpenedEvent:
        """One event. EVENT_NOT_FOUND if there is none, or the reader may not see it."""
        query = self._query(reader)
        if query is None:
            raise DmpError(reasons.ERROR_REASON_EVENT_NOT_FOUND)
        try:
            async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
                rows = await store.find_one(conn, query.log_id, reader.health_id, event_id)
                keys = await self._keys.for_read(conn, [reader.health_id])
        except Exception as error:
            raise translate(error) from error
        for row in rows:
            found = _open(row, keys[reader.health_id], query)
            actor = found.event.event.actor
            if (query.with_secret or not actor.secret_connection) and (
                not reader.filter.own_only or actor.subject == reader.subject
            ):
                return found
        raise DmpError(reasons.ERROR_REASON_EVENT_NOT_FOUND)

    async def whole(self, reader: Reader) -> AsyncIterator[audit_pb2.TrailEvent]:
        """The whole trail, oldest first, as of now on: in steps, so that no statement is long."""
        query = self._query(reader)
        start = 0
        while query is not None:
            try:
                async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
                    rows = await store.trail_forward(conn, query, start=start, limit=_CHUNK)
                    keys = await self._keys.for_read(conn, [reader.health_id])
            except Exception as error:
                raise translate(error) from error
            for row in rows:
                found = _open(row, keys[reader.health_id], query).event
                own = not reader.filter.own_only or found.event.actor.subject == reader.subject
                if own and matches(found.event, reader.asked):
                    yield found
            if len(rows) < _CHUNK:
                return
            start = rows[-1].leaf_index + 1

    def _query(self, reader: Reader) -> store.TrailQuery | None:
        """What to ask the database; None when nothing can be asked for and seen at once."""
        asked, visible = reader.asked, reader.filter
        subject = asked.actor
        if visible.own_only or asked.own_only:
            if subject not in ("", reader.subject):
                return None
            subject = reader.subject
        return store.TrailQuery(
            log_of(reader.health_id, b"", self._log_count),
            reader.health_id,
            visible.with_secret,
            self._digests.actor(reader.health_id, subject) if subject else None,
            period(asked),
        )

    async def _rows(
        self, query: store.TrailQuery, before: int, limit: int
    ) -> tuple[Sequence[store.SealedEvent], DossierKey | DmpError]:
        try:
            async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
                rows = await store.trail(conn, query, before=before, limit=limit)
                keys = await self._keys.for_read(conn, [query.health_id])
        except Exception as error:
            raise translate(error) from error
        try:
            return rows, keys[query.health_id]
        except DmpError as error:
            return rows, error


def _known(key: DossierKey | DmpError) -> DossierKey:
    if isinstance(key, DmpError):
        raise key
    return key


def _open(row: store.SealedEvent, key: DossierKey, query: store.TrailQuery) -> OpenedEvent:
    try:
        part = open_clear(key, row.sealed, EventPlace(query.health_id, row.event_id.bytes, query.log_id))
    except SealBroken as error:
        raise DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED) from error
    event = audit_pb2.TrailEvent(
        name=event_name(query.health_id, row.event_id),
        receipt=audit_pb2.AppendReceipt(log_id=query.log_id, leaf_index=row.leaf_index),
        event=audit_pb2.AuditEvent.FromString(part.clear),
    )
    return OpenedEvent(event, part)
