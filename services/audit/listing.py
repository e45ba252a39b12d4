"""Reading a dossier's trail: pages, single events and whole trails, from sealed rows. No gRPC, no consent, no SQL."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
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
_PLACE_BYTES: Final = 8 + 6
_FAR: Final = (1 << 48) - 1
"""A place after every event, as a page token holds it."""
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
    def dossiers(self) -> tuple[int, ...]:
        """The dossier asked for, and the others of the person."""
        return (self.health_id, *self.filter.linked)

    @property
    def scope(self) -> tuple[bytes, ...]:
        """What a page token is bound to."""
        return (
            b"".join(health_id.to_bytes(8, "big") for health_id in self.dossiers),
            self.subject.encode(),
            self.asked.SerializeToString(deterministic=True),
        )


class OpenedEvent(NamedTuple):
    """An event of a trail, and what its entry commits to."""

    event: audit_pb2.TrailEvent
    part: ClearPart


Place = dict[int, int]
"""For each dossier of a person, the leaf before which (or from which on) its trail goes on; absent at its end."""


class Page(NamedTuple):
    """Events, newest first, and the place before which the next page begins; None at the end."""

    events: list[audit_pb2.TrailEvent]
    next_before: Place | None


@dataclass(slots=True)
class _Stream:
    """The trail of one dossier on its way: rows read and not yet looked at, and where the next ones begin."""

    query: store.TrailQuery
    place: int
    linked: bool
    rows: deque[store.SealedEvent] = field(default_factory=deque)
    key: DossierKey | DmpError | None = None
    ended: bool = False

    def take(self, asked: int) -> OpenedEvent:
        """The next event, opened, by its name in the dossier asked for."""
        row = self.rows.popleft()
        self.place = row.leaf_index
        return _open(row, _known(self.key), self.query, asked)


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

    def position(self, page_token: str, reader: Reader, method: bytes = b"audit.ListEvents") -> Place:
        """The place before which the page begins; INVALID_PAGE_TOKEN for a token of another dossier, reader or
        question."""
        if not page_token:
            return dict.fromkeys(reader.dossiers, store.END_OF_LOG)
        content = self._tokens.read(page_token, page_scope(method, *reader.scope))
        if len(content) % _PLACE_BYTES:
            raise DmpError(reasons.ERROR_REASON_INVALID_PAGE_TOKEN)
        parts = [content[start : start + _PLACE_BYTES] for start in range(0, len(content), _PLACE_BYTES)]
        return {int.from_bytes(part[:8], "big"): int.from_bytes(part[8:], "big") for part in parts}

    def token(self, before: Place | None, reader: Reader, method: bytes = b"audit.ListEvents") -> str:
        """The token of the page that begins before a place; empty for None."""
        if before is None:
            return ""
        parts = (
            health_id.to_bytes(8, "big") + min(leaf, _FAR).to_bytes(_PLACE_BYTES - 8, "big")
            for health_id, leaf in before.items()
        )
        return self._tokens.issue(page_scope(method, *reader.scope), b"".join(parts))

    async def page(self, reader: Reader, before: Place, page_size: int) -> audit_pb2.ListEventsResponse:
        """At most `page_size` events (0 for fifty) at places below `before`, newest first, and the next token.

        DmpError: CONTENT_DESTROYED when the dossier's key is; CONTENT_CORRUPTED when a row is not what was sealed.
        """
        page = await self.collect(reader, before, page_size or DEFAULT_PAGE)
        return audit_pb2.ListEventsResponse(events=page.events, next_page_token=self.token(page.next_before, reader))

    async def collect(self, reader: Reader, before: Place, size: int) -> Page:
        """As `page`, with the place instead of the token. The trails of one person's dossiers are read side by side:
        each keeps its order, and between them the time decides."""
        streams = self._streams(reader, before)
        limit = _CHUNK if narrows(reader.asked) else size + 1
        events: list[audit_pb2.TrailEvent] = []
        opened = 0
        while True:
            await self._fill(streams, store.trail_before, limit)
            waiting = [stream for stream in streams if stream.rows]
            if not waiting:
                return Page(events, None)
            if len(events) == size or opened == _MOST_OPENED:
                return Page(events, {stream.query.health_id: stream.place for stream in waiting})
            found = max(waiting, key=_time).take(reader.health_id).event
            opened += 1
            if matches(found.event, reader.asked):
                events.append(found)

    async def event(self, reader: Reader, event_id: uuid.UUID) -> OpenedEvent:
        """One event. EVENT_NOT_FOUND if there is none, or the reader may not see it."""
        for stream in self._streams(reader, dict.fromkeys(reader.dossiers, 0)):
            query = stream.query
            try:
                async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
                    rows = await store.find_one(conn, query.log_id, query.health_id, event_id)
                    keys = await self._keys.for_read(conn, [query.health_id])
            except Exception as error:
                raise translate(error) from error
            for row in rows:
                found = _open(row, keys[query.health_id], query, reader.health_id)
                actor = found.event.event.actor
                if (query.with_secret or not actor.secret_connection) and (
                    not reader.filter.own_only or actor.subject == reader.subject
                ):
                    return found
        raise DmpError(reasons.ERROR_REASON_EVENT_NOT_FOUND)

    async def whole(self, reader: Reader) -> AsyncIterator[audit_pb2.TrailEvent]:
        """The whole trail, oldest first, as of now on: in steps, so that no statement is long."""
        streams = self._streams(reader, dict.fromkeys(reader.dossiers, 0))
        while True:
            await self._fill(streams, store.trail_from, _CHUNK)
            waiting = [stream for stream in streams if stream.rows]
            if not waiting:
                return
            stream = min(waiting, key=_time)
            found = stream.take(reader.health_id).event
            stream.place += 1
            own_only = reader.filter.own_only or reader.asked.own_only
            own = not own_only or found.event.actor.subject == reader.subject
            if own and matches(found.event, reader.asked):
                yield found

    def _streams(self, reader: Reader, places: Place) -> list[_Stream]:
        """The trails to read; none when nothing can be asked for and seen at once."""
        queries = [self._query(reader, health_id) for health_id in reader.dossiers if health_id in places]
        return [
            _Stream(query, places[query.health_id], linked=query.health_id != reader.health_id)
            for query in queries
            if query is not None
        ]

    async def _fill(self, streams: Sequence[_Stream], read: store.ReadTrail, limit: int) -> None:
        """Read on where nothing waits: two statements for each such trail."""
        for stream in streams:
            if stream.rows or stream.ended:
                continue
            health_id = stream.query.health_id
            try:
                async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
                    stream.rows.extend(await read(conn, stream.query, stream.place, limit))
                    keys = await self._keys.for_read(conn, [health_id])
            except Exception as error:
                raise translate(error) from error
            stream.ended = len(stream.rows) < limit
            try:
                stream.key = keys[health_id]
            except DmpError as error:
                stream.key = error
                if stream.linked and error.reason == reasons.ERROR_REASON_CONTENT_DESTROYED:
                    stream.rows.clear()  # what the person had destroyed hides nothing of the dossier that lives on
                    stream.ended = True

    def _query(self, reader: Reader, health_id: int) -> store.TrailQuery | None:
        """What to ask the database; None when nothing can be asked for and seen at once."""
        asked, visible = reader.asked, reader.filter
        subject = asked.actor
        if visible.own_only or asked.own_only:
            if subject not in ("", reader.subject):
                return None
            subject = reader.subject
        return store.TrailQuery(
            log_of(health_id, b"", self._log_count),
            health_id,
            visible.with_secret,
            self._digests.actor(health_id, subject) if subject else None,
            period(asked),
        )


def place_after(before: Place, events: Sequence[audit_pb2.TrailEvent]) -> Place:
    """Where a trail goes on after these events, which began at `before`."""
    return before | {event.event.health_id: event.receipt.leaf_index for event in events}


def _time(stream: _Stream) -> datetime:
    return stream.rows[0].event_time


def _known(key: DossierKey | DmpError | None) -> DossierKey:
    if isinstance(key, DossierKey):
        return key
    raise key or DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED)


def _open(row: store.SealedEvent, key: DossierKey, query: store.TrailQuery, asked: int) -> OpenedEvent:
    try:
        part = open_clear(key, row.sealed, EventPlace(query.health_id, row.event_id.bytes, query.log_id))
    except SealBroken as error:
        raise DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED) from error
    event = audit_pb2.TrailEvent(
        name=event_name(asked, row.event_id),
        receipt=audit_pb2.AppendReceipt(log_id=query.log_id, leaf_index=row.leaf_index),
        event=audit_pb2.AuditEvent.FromString(part.clear),
    )
    return OpenedEvent(event, part)
