"""ListRecentDossiers: the dossiers that a caller is authorised on, by the last document that he may know of (TD0.4).

Consent names the dossiers. A dossier's clock, which each change of its documents moves, says when its newest document
can have come at the latest: dossiers are taken up in that order, asked about and looked into a slice at a time, and no
further than the page needs. What a dossier shows here is what a search in it would show first: one whose documents are
hidden from the caller, or were submitted before `since`, looks like one that has none.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document.access import view_of
from services.document.authorship import Authorship
from services.document.gate import Gate
from services.document.pages import scope_of
from services.document.store.reading import translated
from services.document.store.recent import RecentStore
from services.document.times import EPOCH, instant, is_valid, timestamp
from services.runtime.checks import dossiers_read
from services.runtime.context import Call
from services.runtime.errors import DmpError, invalid
from services.runtime.identifiers import dossier_name
from services.runtime.paging import PageTokens
from services.runtime.validation import validate

DEFAULT_PAGE: Final = 50
_SLICE: Final = 128
"""Dossiers asked about and looked into at once."""
_AT_ONCE: Final = 2
"""Listings at work in one process: each may ask consent about thousands of dossiers."""
_MICROSECOND: Final = timedelta(microseconds=1)
_POSITION_BYTES: Final = 16


class Place(NamedTuple):
    """Where a dossier stands in the list: greater comes first."""

    newest: datetime
    health_id: int


class Candidate(NamedTuple):
    """A dossier to ask about; no document of it, or of those linked with it, came after `latest`."""

    latest: datetime
    health_id: int


class Listed(NamedTuple):
    """A dossier that is shown, by which decision, and which dossier of the person has the newest document."""

    place: Place
    decision: consent_pb2.Decision
    owner: int


class RecentDossiers:
    """Lists them."""

    def __init__(
        self,
        store: RecentStore,
        gate: Gate,
        authorship: Authorship,
        tokens: PageTokens,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._gate = gate
        self._authorship = authorship
        self._tokens = tokens
        self._clock = clock
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def page(
        self, request: document_pb2.ListRecentDossiersRequest, call: Call
    ) -> document_pb2.ListRecentDossiersResponse:
        """A page, recorded in the trail of each dossier that it shows; an empty one, among the events about none."""
        async with self._places:
            decision, held = await self._gate.held(call)
            try:
                response, shown = await self._page(request, call, held)
            except DmpError as error:
                raise await self._gate.rejected(call, decision, error) from None
        if not shown:
            await self._gate.served(call, decision, ())
        await asyncio.gather(*(self._told(call, each) for each in shown))
        return response

    async def _page(
        self, request: document_pb2.ListRecentDossiersRequest, call: Call, held: Sequence[consent_pb2.HeldDossier]
    ) -> tuple[document_pb2.ListRecentDossiersResponse, list[Listed]]:
        validate(request)
        since = _since(request)
        scope, size = scope_of(request, call), request.page_size or DEFAULT_PAGE
        before = _position(self._tokens.read(request.page_token, scope)) if request.page_token else None
        found = await self._first(call, await self._candidates(held, since), since, before, size + 1)
        shown = found[:size]
        response = document_pb2.ListRecentDossiersResponse()
        for each in shown:
            response.dossiers.add(
                name=dossier_name(each.place.health_id), last_submit_time=timestamp(each.place.newest)
            )
        if len(found) > size:
            response.next_page_token = self._tokens.issue(scope, _position_bytes(shown[-1].place))
        return response, shown

    async def _candidates(self, held: Sequence[consent_pb2.HeldDossier], since: datetime | None) -> list[Candidate]:
        """The dossiers that may have a document since then, those that may have the newest first."""
        asked = list(dict.fromkeys(health_id for each in held for health_id in (each.health_id, *each.linked)))
        if not asked:
            return []
        with translated():
            changed = await self._store.changed(asked, since)
        found = []
        for each in held:
            times = [at for health_id in (each.health_id, *each.linked) if (at := changed.get(health_id)) is not None]
            if times:
                found.append(Candidate(max(times), each.health_id))
        return sorted(found, reverse=True)

    async def _first(
        self, call: Call, candidates: Sequence[Candidate], since: datetime | None, before: Place | None, wanted: int
    ) -> list[Listed]:
        """The first `wanted` dossiers after a place, in order: as soon as no other can come before them."""
        found: list[Listed] = []
        for start in range(0, len(candidates), _SLICE):
            first = candidates[start]
            if len(found) == wanted and found[-1].place > Place(first.latest, first.health_id):
                break
            asked = [each.health_id for each in candidates[start : start + _SLICE]]
            known = await self._looked_into(call, asked, since)
            later = (each for each in known if before is None or each.place < before)
            found = heapq.nlargest(wanted, (*found, *later), key=lambda each: each.place)
        return found

    async def _looked_into(self, call: Call, health_ids: Sequence[int], since: datetime | None) -> list[Listed]:
        """Those of a slice where the caller may know of a document since then."""
        decisions = await self._gate.may_list(call, health_ids)
        permitted = [(asked, yes) for asked, yes in zip(health_ids, decisions, strict=True) if yes.permitted]
        caller, now = self._authorship.of_caller(call.actor), self._clock()
        listed = []
        for group in _alike(permitted):
            view = view_of(group[0][1].filter, caller, now)
            members = dict.fromkeys(member for asked, yes in group for member in dossiers_read(asked, yes))
            with translated():
                newest = await self._store.newest(list(members), view, since)
            for asked, yes in group:
                times = [(newest[member], member) for member in dossiers_read(asked, yes) if member in newest]
                if times:
                    at, owner = max(times)
                    listed.append(Listed(Place(at, asked), yes, owner))
        return listed

    async def _told(self, call: Call, each: Listed) -> None:
        asked = each.place.health_id
        elsewhere = {} if each.owner == asked else {each.owner: (dossier_name(each.owner),)}
        await self._gate.served(call.within(asked), each.decision, (dossier_name(asked),), 1, elsewhere)


def _alike(
    permitted: Iterable[tuple[int, consent_pb2.Decision]],
) -> Iterable[Sequence[tuple[int, consent_pb2.Decision]]]:
    """Dossiers that are seen through the same filter: nearly always all of them, but for those of the MT."""
    groups: dict[bytes, list[tuple[int, consent_pb2.Decision]]] = {}
    for each in permitted:
        groups.setdefault(each[1].filter.SerializeToString(deterministic=True), []).append(each)
    return groups.values()


def _since(request: document_pb2.ListRecentDossiersRequest) -> datetime | None:
    if not request.HasField("since"):
        return None
    if not is_valid(request.since):
        raise invalid("since", "timestamp", "a time between the years 1 and 9999")
    return instant(request.since)


def _position_bytes(place: Place) -> bytes:
    since = (place.newest - EPOCH) // _MICROSECOND
    return since.to_bytes(8, "big", signed=True) + place.health_id.to_bytes(8, "big")


def _position(token: bytes) -> Place:
    if len(token) != _POSITION_BYTES:
        raise DmpError(reasons.ERROR_REASON_INVALID_PAGE_TOKEN)
    since = int.from_bytes(token[:8], "big", signed=True)
    return Place(EPOCH + since * _MICROSECOND, int.from_bytes(token[8:], "big"))
