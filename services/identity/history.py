"""The past of a person: every version with who made it and why, the ledger of links, any past state told again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.civil_identity import PatientIdentifier
from services.identity.records import Keys, open_change, open_person, write_person
from services.identity.status_rules import shows_ins
from services.identity.store import links as link_store
from services.identity.store import people as store
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError, invalid
from services.runtime.identifiers import person_name
from services.runtime.paging import PageTokens, page_scope
from services.runtime.postgres import Connection, Pool

_PAGE: Final = 20
_KINDS: Final = {
    "linked": pb.LINK_EVENT_KIND_LINKED,
    "unlinked": pb.LINK_EVENT_KIND_UNLINKED,
    "split": pb.LINK_EVENT_KIND_SPLIT,
}


class History:
    """Tells the past."""

    def __init__(self, pool: Pool, keys: DossierKeys, tokens: PageTokens) -> None:
        self._pool = pool
        self._keys = keys
        self._tokens = tokens

    async def page(self, call: Call, request: pb.ListPersonHistoryRequest) -> pb.ListPersonHistoryResponse:
        """Versions, newest first; the ledger on the first page. PERSON_NOT_FOUND, INVALID_PAGE_TOKEN."""
        health_id, size = call.health_id, request.page_size or _PAGE
        scope = page_scope(b"identity.ListPersonHistory", health_id.to_bytes(8, "big"), call.client_id.encode())
        before = int.from_bytes(self._tokens.read(request.page_token, scope), "big") if request.page_token else 0
        response = pb.ListPersonHistoryResponse()
        async with self._pool.acquire() as conn:
            current = (await store.people(conn, [health_id])).get(health_id)
            if current is None:
                raise DmpError(reasons.ERROR_REASON_PERSON_NOT_FOUND)
            rows = [] if before else [current]
            rows += await store.history(conn, health_id, before or current.version, size + 1 - len(rows))
            keys = await self._keys.for_read(conn, [health_id])
            if not before:
                response.links.extend(await self._events(conn, [health_id]))
        shown = _shown_numbers(current, keys)
        response.versions.extend(written_version(row, keys, shown) for row in rows[:size])
        if len(rows) > size:
            response.next_page_token = self._tokens.issue(scope, rows[size - 1].version.to_bytes(4, "big"))
        return response

    async def as_of(self, call: Call, request: pb.GetPersonAsOfRequest) -> pb.GetPersonAsOfResponse:
        """What was known, and who was linked, at a time. PERSON_NOT_FOUND for a time before the registration."""
        health_id, at = call.health_id, _instant(request.read_time)
        async with self._pool.acquire() as conn:
            current = row = (await store.people(conn, [health_id])).get(health_id)
            if row is not None and at < (row.updated_at or row.created_at):
                row = await store.version_at(conn, health_id, at)
            if row is None or current is None:
                raise DmpError(reasons.ERROR_REASON_PERSON_NOT_FOUND)
            keys = await self._keys.for_read(conn, [health_id])
            parents = await self._parents(conn, health_id, at)
        version = written_version(row, keys, _shown_numbers(current, keys))
        root = root_of(health_id, parents)
        if root != health_id:
            version.person.merged_into = person_name(root)
        return pb.GetPersonAsOfResponse(
            version=version,
            linked=[
                person_name(one) for one in sorted(parents) if one != health_id and _is_under(one, health_id, parents)
            ],
        )

    async def _parents(self, conn: Connection, health_id: int, at: datetime) -> dict[int, int]:
        """Who was merged into whom at a time, among all who were ever connected with this person."""
        known: dict[tuple[int, int], link_store.LedgerRow] = {}
        seen: set[int] = set()
        todo = {health_id}
        while todo:
            seen |= todo
            rows = await link_store.ledger(conn, sorted(todo))
            known |= {(row.merged_id, row.revision): row for row in rows}
            todo = {each for row in rows for each in (row.merged_id, row.survivor_id)} - seen
        return parents_at(known.values(), at)

    async def _events(self, conn: Connection, health_ids: Sequence[int]) -> list[pb.LinkEvent]:
        rows = await link_store.ledger(conn, health_ids)
        keys = await self._keys.for_read(conn, health_ids)
        return [
            pb.LinkEvent(
                kind=_KINDS[row.kind],
                merged=person_name(row.merged_id),
                survivor=person_name(row.survivor_id),
                change=open_change(row.health_id, row.sealed, keys),
            )
            for row in rows
        ]


def _instant(read_time: Timestamp) -> datetime:
    try:
        return read_time.ToDatetime(UTC)
    except ValueError:
        raise invalid("read_time", "timestamp", "a time from year 1 to 9999") from None


def _shown_numbers(current: store.SealedPerson, keys: Keys) -> frozenset[PatientIdentifier]:
    """The national numbers that a past state may show: those of a person who is qualified now. What a split gave to
    somebody else, or what made the identity doubtful, is not sent out because it was believed once."""
    person = open_person(current, keys)
    if not shows_ins(person.status):
        return frozenset()
    return frozenset((*person.identifiers, *(one.identifier for one in person.held)))


def written_version(row: store.SealedPerson, keys: Keys, shown: frozenset[PatientIdentifier]) -> pb.PersonVersion:
    """A version as the contract shows it, with the national numbers that are among `shown`."""
    person = open_person(row, keys)
    person = replace(
        person,
        identifiers=tuple(one for one in person.identifiers if not one.is_ins or one in shown),
        held=tuple(one for one in person.held if one.identifier in shown),
    )
    version = pb.PersonVersion(person=write_person(person))
    if person.change is not None:
        version.change.CopyFrom(person.change)
    return version


def parents_at(rows: Iterable[link_store.LedgerRow], at: datetime) -> dict[int, int]:
    """Who was merged into whom at a time, by a ledger: in the order of revisions, which for one merged person only
    grow, whatever the clocks of the replicas that wrote them."""
    parents: dict[int, int] = {}
    for row in sorted(rows, key=lambda one: one.revision):
        if row.recorded_at > at or row.kind == "split":
            continue
        if row.kind == "linked":
            parents[row.merged_id] = row.survivor_id
        else:
            parents.pop(row.merged_id, None)
    return parents


def root_of(health_id: int, parents: Mapping[int, int]) -> int:
    """The survivor at the end of the chain; oneself without link."""
    while health_id in parents:
        health_id = parents[health_id]
    return health_id


def _is_under(health_id: int, above: int, parents: Mapping[int, int]) -> bool:
    while health_id in parents:
        health_id = parents[health_id]
        if health_id == above:
            return True
    return False
