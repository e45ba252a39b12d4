"""ListChanges and WatchChanges: what happened to a dossier's documents, in order, from a cursor on.

Changes are numbered under the lock of the dossier, in the commit that makes them: none is missed, none told twice to
those who go on from the cursor. What is told is what the caller may know of now; each answer is authorised and recorded
anew, also those of a watch, which ends with the refusal when the rights are gone. Watches of one process ask together
where their dossiers are; a commit of this process wakes those concerned at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document.access import view_of
from services.document.authorship import Authorship
from services.document.gate import Gate
from services.document.linked import Elsewhere, elsewhere
from services.document.pages import Cursors, Opener, Seen
from services.document.store.reading import translated
from services.document.store.searching import SearchStore
from services.document.times import instant, is_valid, timestamp
from services.runtime.checks import dossiers_read
from services.runtime.coalescer import Coalescer
from services.runtime.context import Call
from services.runtime.errors import DmpError, invalid
from services.runtime.validation import validate_for_storage

DEFAULT_PAGE: Final = 20
_WATCH_PAGE: Final = 100
_POLL: Final = 1.0
"""Seconds between two looks of a watch, when nobody wakes it (a commit of another process)."""
_HEARTBEAT: Final = 20.0
_LAST_WORDS: Final = 1.0
"""Seconds before its deadline at which a watch ends in peace, to be taken up from its last cursor."""


class _Page(NamedTuple):
    """An answer, after what the next one goes on, and what of it lies in other dossiers."""

    response: document_pb2.ListChangesResponse
    after: Seen
    elsewhere: Elsewhere


class Watched:
    """Who waits for which dossier in this process."""

    def __init__(self) -> None:
        self._waiting: defaultdict[int, set[asyncio.Event]] = defaultdict(set)

    def committed(self, health_ids: Sequence[int]) -> None:
        """Wake those who wait for these dossiers."""
        for health_id in health_ids:
            for event in self._waiting.get(health_id, ()):
                event.set()

    async def wait(self, health_ids: Sequence[int], seconds: float) -> None:
        """Until a commit in any of these dossiers, or for so long."""
        event = asyncio.Event()
        for health_id in health_ids:
            self._waiting[health_id].add(event)
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return
        finally:
            for health_id in health_ids:
                self._waiting[health_id].discard(event)
                if not self._waiting[health_id]:
                    del self._waiting[health_id]


class Changes:
    """Tells of changes."""

    def __init__(
        self,
        store: SearchStore,
        gate: Gate,
        authorship: Authorship,
        opener: Opener,
        cursors: Cursors,
        watched: Watched,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._gate = gate
        self._authorship = authorship
        self._opener = opener
        self._cursors = cursors
        self._watched = watched
        self._clock = clock
        self._latest: Coalescer[int, int] = Coalescer("changes", store.latest, pace=0.05)

    async def list(self, request: document_pb2.ListChangesRequest, call: Call) -> document_pb2.ListChangesResponse:
        """A page, recorded."""
        decision = await self._gate.enter(call, consent_pb2.ACTION_SEARCH)
        try:
            validate_for_storage(request)
            after = self._cursors.read(request.cursor, call.health_id) if request.cursor else {}
            since = None if request.cursor or not request.HasField("since_time") else _since(request)
            page = await self._page(call, decision, after, since, request.page_size or DEFAULT_PAGE)
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from None
        await self._record(call, decision, page)
        return page.response

    async def watch(
        self, request: document_pb2.WatchChangesRequest, call: Call
    ) -> AsyncIterator[document_pb2.WatchChangesResponse]:
        """What happens from a cursor on, until the caller leaves or may not know any more."""
        decision = await self._gate.enter(call, consent_pb2.ACTION_SEARCH)
        try:
            validate_for_storage(request)
            with translated():
                dossiers = dossiers_read(call.health_id, decision)
                after = (
                    self._cursors.read(request.cursor, call.health_id)
                    if request.cursor
                    else dict(zip(dossiers, await self._store.latest(dossiers), strict=True))
                )
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from None
        await self._gate.served(call, decision, ())
        yield document_pb2.WatchChangesResponse(cursor=self._cursors.issue(call.health_id, after))
        told = time.monotonic()
        while (remaining := call.remaining()) is None or remaining > _LAST_WORDS:
            if await self._moved(call, dossiers, after):
                decision = await self._gate.enter(call, consent_pb2.ACTION_SEARCH)
                dossiers = dossiers_read(call.health_id, decision)
                page = await self._page(call, decision, after, None, _WATCH_PAGE)
                after, response = page.after, page.response
                if response.changes:
                    await self._record(call, decision, page)
                    told = time.monotonic()
                    yield document_pb2.WatchChangesResponse(changes=response.changes, cursor=response.cursor)
                    continue
            elif time.monotonic() - told > _HEARTBEAT:
                dossiers = dossiers_read(call.health_id, await self._gate.enter(call, consent_pb2.ACTION_SEARCH))
                told = time.monotonic()
                yield document_pb2.WatchChangesResponse(cursor=self._cursors.issue(call.health_id, after))
            await self._watched.wait(dossiers, min(_POLL, remaining or _POLL))

    async def close(self) -> None:
        """Finish the batches under way."""
        await self._latest.close()

    async def _moved(self, call: Call, dossiers: Sequence[int], after: Seen) -> bool:
        """Whether anything happened in any of these dossiers after what was seen."""
        for health_id in dossiers:
            if await self._latest.submit(health_id, timeout=call.remaining()) > after.get(health_id, 0):
                return True
        return False

    async def _page(
        self, call: Call, decision: consent_pb2.Decision, after: Seen, since: datetime | None, size: int
    ) -> _Page:
        """A page, and the changes after which the next one goes on."""
        dossiers = dossiers_read(call.health_id, decision)
        view = view_of(decision.filter, self._authorship.of_caller(call.actor), self._clock())
        with translated():
            page = await self._store.changes(dossiers, view, after, since, size + 1)
        shown = page.changes[:size]
        if len(page.changes) > size:
            seen = {health_id: after.get(health_id, 0) for health_id in dossiers}
            seen |= {change.row.health_id: change.sequence for change in shown}
        else:
            seen = {health_id: max(latest, after.get(health_id, 0)) for health_id, latest in page.latest.items()}
        response = document_pb2.ListChangesResponse(
            total_size=page.total, cursor=self._cursors.issue(call.health_id, seen)
        )
        documents = await self._opener.documents(call, [change.row for change in shown])
        for change, document in zip(shown, documents, strict=True):
            response.changes.add(
                change=change.kind,
                change_time=timestamp(change.changed_at),
                document=document,
            )
        others = elsewhere(
            decision, call.health_id, ((change.row.health_id, change.row.document_id) for change in shown)
        )
        return _Page(response, seen, others)

    async def _record(self, call: Call, decision: consent_pb2.Decision, page: _Page) -> None:
        names = list(dict.fromkeys(change.document.name for change in page.response.changes))
        await self._gate.served(call, decision, names, len(page.response.changes), page.elsewhere)


def _since(request: document_pb2.ListChangesRequest) -> datetime:
    if not is_valid(request.since_time):
        raise invalid("since_time", "timestamp", "a time between the years 1 and 9999")
    return instant(request.since_time)
