"""The work list of possible duplicates: listed for people, decided by people. Nothing is merged by itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.changes import Changes, change_of, told
from services.identity.links import Links, told_of_link
from services.identity.matching import WEIGHTS
from services.identity.propagation import Propagation
from services.identity.records import Keys, open_change, open_person, seal_change, write_person
from services.identity.store import links as link_store
from services.identity.store import people as store
from services.identity.store.links import Pair
from services.runtime.context import Call
from services.runtime.errors import DmpError, invalid
from services.runtime.identifiers import dossier_of, format_health_id, parse_health_id, person_name
from services.runtime.outbox import OutboxRow
from services.runtime.paging import PageTokens, page_scope
from services.runtime.postgres import Connection

_PAGE: Final = 20
_BEGINNING: Final = (datetime(1970, 1, 1, tzinfo=UTC), 0, 0)
_STATES: Final = {
    pb.DUPLICATE_STATE_UNSPECIFIED: "open",
    pb.DUPLICATE_STATE_OPEN: "open",
    pb.DUPLICATE_STATE_DISTINCT: "distinct",
    pb.DUPLICATE_STATE_SAME: "same",
}
_WRITTEN: Final = {
    "open": pb.DUPLICATE_STATE_OPEN,
    "distinct": pb.DUPLICATE_STATE_DISTINCT,
    "same": pb.DUPLICATE_STATE_SAME,
}
_COLLECTION: Final = "duplicates/"


class Duplicates:
    """Lists and decides."""

    def __init__(self, changes: Changes, links: Links, propagation: Propagation, tokens: PageTokens) -> None:
        self._changes = changes
        self._links = links
        self._propagation = propagation
        self._tokens = tokens

    async def list(self, call: Call, request: pb.ListPossibleDuplicatesRequest) -> pb.ListPossibleDuplicatesResponse:
        """A page, oldest first. INVALID_PAGE_TOKEN."""
        state, size = _STATES[request.state], request.page_size or _PAGE
        scope = page_scope(b"identity.ListPossibleDuplicates", state.encode(), call.client_id.encode())
        after = _BEGINNING
        if request.page_token:
            after = _position(self._tokens.read(request.page_token, scope))
        response = pb.ListPossibleDuplicatesResponse()
        async with self._changes.pool.acquire() as conn:
            pairs = await link_store.pairs(conn, state, after, size + 1)
            rows = await store.people(conn, {each for pair in pairs for each in (pair.low_id, pair.high_id)})
            roots = await link_store.roots(conn, rows)
            keys = await self._changes.keys.for_read(conn, list(rows))
        response.duplicates.extend(_written(pair, rows, roots, keys) for pair in pairs[:size])
        if len(pairs) > size:
            last = pairs[size - 1]
            response.next_page_token = self._tokens.issue(scope, _token(last))
        return response

    async def decide(
        self, call: Call, request: pb.DecidePossibleDuplicateRequest
    ) -> pb.DecidePossibleDuplicateResponse:
        """DUPLICATE_NOT_FOUND, DUPLICATE_DECIDED, INVALID_FIELD; what linking raises when they are the same."""
        low, high = pair_of(request.name)
        same = request.state == pb.DUPLICATE_STATE_SAME
        survivor = dossier_of(request.survivor, "survivor") if same else 0
        if same and survivor not in (low, high):
            raise invalid("survivor", "duplicate.survivor", "the survivor is one of the two")
        merged = low if survivor == high else high
        now = self._changes.clock()

        async def work(
            conn: Connection,
        ) -> tuple[int, pb.DecidePossibleDuplicateResponse, Sequence[OutboxRow]]:
            for one in sorted({low, high}):  # people before pairs, as whoever links them
                await store.lock_person(conn, one)
            pair = await link_store.lock_pair(conn, low, high)
            if pair is None:
                raise DmpError(reasons.ERROR_REASON_DUPLICATE_NOT_FOUND)
            if pair.state != "open":
                raise DmpError(reasons.ERROR_REASON_DUPLICATE_DECIDED)
            if same:
                await self._links.join(conn, call, survivor, merged, request.reason, ("survivor", "name"))
            change = change_of(call, pb.PERSON_CHANGE_KIND_UPDATED, request.reason, now)
            keys = await self._changes.keys.for_read(conn, [low, high])
            state = _STATES[request.state]
            decision = seal_change(low, change, keys[low])
            await link_store.decide(conn, pair, state, now, decision)
            rows = await store.people(conn, (low, high))
            roots = await link_store.roots(conn, rows)
            decided = Pair(low, high, pair.weight, state, pair.found_at, now, decision)
            answer = pb.DecidePossibleDuplicateResponse(duplicate=_written(decided, rows, roots, keys))
            owner = survivor or low
            events = [told(call, owner, (("duplicate", state),), (merged if same else high,))]
            return owner, answer, [*events, *(told_of_link(call, survivor, merged) if same else ())]

        answer = await self._changes.make(call, request, pb.DecidePossibleDuplicateResponse, work)
        if same:
            await self._propagation.tell_consent([low, high], call.remaining())
        return answer


def pair_of(name: str) -> tuple[int, int]:
    """The pair in `duplicates/{low}.{high}`. INVALID_FIELD."""
    low, dot, high = name.removeprefix(_COLLECTION).partition(".")
    if not name.startswith(_COLLECTION) or not dot:
        raise invalid("name", "resource_name", "the name is duplicates/{person}.{person}")
    return parse_health_id(low, "name"), parse_health_id(high, "name")


def _written(
    pair: Pair, rows: dict[int, store.SealedPerson], roots: dict[int, int], keys: Keys
) -> pb.PossibleDuplicate:
    written = pb.PossibleDuplicate(
        name=f"{_COLLECTION}{format_health_id(pair.low_id)}.{format_health_id(pair.high_id)}",
        one=_shown(rows[pair.low_id], roots, keys),
        other=_shown(rows[pair.high_id], roots, keys),
        state=_WRITTEN[pair.state],
    )
    score = WEIGHTS.of(pair.weight)
    written.score, written.grade = score.probability, score.grade
    written.find_time.FromDatetime(pair.found_at)
    if pair.decision is not None:
        written.decision.CopyFrom(open_change(pair.low_id, pair.decision, keys))
    return written


def _shown(row: store.SealedPerson, roots: dict[int, int], keys: Keys) -> pb.Person:
    """A person of a pair; by name alone where the record does not open, so that the others can be decided."""
    try:
        return write_person(open_person(row, keys), merged_into=roots.get(row.health_id, 0))
    except DmpError:
        return pb.Person(name=person_name(row.health_id))


def _token(pair: Pair) -> bytes:
    micros = round((pair.found_at - _BEGINNING[0]).total_seconds() * 1_000_000)
    return b"".join(number.to_bytes(8, "big") for number in (micros, pair.low_id, pair.high_id))


def _position(token: bytes) -> tuple[datetime, int, int]:
    micros, low, high = (int.from_bytes(token[start : start + 8], "big") for start in (0, 8, 16))
    return datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=micros % 1_000_000), low, high
