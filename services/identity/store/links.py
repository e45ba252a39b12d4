"""Links between people, their ledger, what other services have yet to be told, and the work list of duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from services.runtime.postgres import Connection, Reader

SETS: Final = """
SELECT health_id, into_id, root_id, revision, member_ids FROM link_set WHERE health_id = ANY($1::bigint[])
"""
_WRITE_SET: Final = """
INSERT INTO link_set (health_id, into_id, root_id, revision, member_ids) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (health_id) DO UPDATE
SET into_id = excluded.into_id, root_id = excluded.root_id, revision = excluded.revision,
    member_ids = excluded.member_ids
"""
_REMEMBER: Final = """
INSERT INTO link_ledger (health_id, merged_id, survivor_id, revision, kind, recorded_at, sealed)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
LEDGER: Final = """
SELECT health_id, merged_id, survivor_id, revision, kind, recorded_at, sealed FROM link_ledger
WHERE health_id = ANY($1::bigint[]) ORDER BY recorded_at, revision
"""
_TELL: Final = """
INSERT INTO link_delivery (health_id, service, revision)
SELECT health_id, service, $3 FROM unnest($1::bigint[]) AS moved (health_id), unnest($2::text[]) AS told (service)
ON CONFLICT (health_id, service) DO UPDATE SET revision = greatest(link_delivery.revision, excluded.revision)
"""
UNTOLD: Final = """
SELECT health_id, revision FROM link_delivery
WHERE service = $1 AND ($2::bigint[] IS NULL OR health_id = ANY($2)) ORDER BY created_at LIMIT $3
"""
_TOLD: Final = """
DELETE FROM link_delivery USING unnest($1::bigint[], $2::bigint[]) AS told (health_id, revision)
WHERE link_delivery.service = $3 AND link_delivery.health_id = told.health_id
AND link_delivery.health_id = ANY($1) AND link_delivery.revision <= told.revision
"""
_FIND_PAIRS: Final = """
INSERT INTO possible_duplicate (low_id, high_id, weight, found_at)
SELECT low_id, high_id, weight, $4 FROM unnest($1::bigint[], $2::bigint[], $3::real[]) AS new (low_id, high_id, weight)
ORDER BY low_id, high_id
ON CONFLICT (low_id, high_id) DO NOTHING
"""
PAIRS: Final = """
SELECT low_id, high_id, weight, state, found_at, decided_at, decision FROM possible_duplicate
WHERE state = $1 AND (found_at, low_id, high_id) > ($2, $3, $4)
ORDER BY found_at, low_id, high_id LIMIT $5
"""
PAIRS_AMONG: Final = """
SELECT low_id, high_id FROM possible_duplicate
WHERE low_id = ANY($1::bigint[]) AND high_id = ANY($1::bigint[]) AND state <> $2 ORDER BY low_id, high_id
"""
_LOCK_PAIR: Final = """
SELECT low_id, high_id, weight, state, found_at, decided_at, decision FROM possible_duplicate
WHERE low_id = $1 AND high_id = $2 FOR UPDATE
"""
_DECIDE: Final = """
UPDATE possible_duplicate SET state = $3, decided_at = $4, decision = $5 WHERE low_id = $1 AND high_id = $2
"""


@dataclass(frozen=True, slots=True)
class Linked:
    """Someone's place among the links: `into_id` None for who is merged into nobody, `root_id` the survivor; `members`
    of a survivor are all merged into it, and itself."""

    health_id: int
    into_id: int | None
    root_id: int
    revision: int
    members: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """An entry of the ledger, as one of the two people has it."""

    health_id: int
    merged_id: int
    survivor_id: int
    revision: int
    kind: str
    recorded_at: datetime
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair on the work list."""

    low_id: int
    high_id: int
    weight: float
    state: str
    found_at: datetime
    decided_at: datetime | None = None
    decision: bytes | None = None


async def linked(reader: Reader, health_ids: Iterable[int]) -> dict[int, Linked]:
    """The places of these people; who never was in a link is absent."""
    rows = await reader.fetch(SETS, sorted(set(health_ids)))
    return {row["health_id"]: _linked(row) for row in rows}


def _linked(row: asyncpg.Record) -> Linked:
    health_id, into_id, root_id, revision, member_ids = row
    return Linked(health_id, into_id, root_id, revision, tuple(member_ids))


async def roots(reader: Reader, health_ids: Iterable[int]) -> dict[int, int]:
    """Whom each of these people that was merged is merged into, in the end."""
    return {one.health_id: one.root_id for one in (await linked(reader, health_ids)).values() if one.into_id}


async def together(reader: Reader, health_ids: Iterable[int]) -> dict[int, tuple[int, ...]]:
    """For each of these people all who are one person with it, the survivor first; oneself alone without links."""
    wanted = set(health_ids)
    places = await linked(reader, wanted)
    if above := {place.root_id for place in places.values()} - places.keys():
        places |= await linked(reader, above)
    found: dict[int, tuple[int, ...]] = {one: (one,) for one in wanted}
    for one in wanted & places.keys():
        root = places[places[one].root_id]
        found[one] = (root.health_id, *(each for each in root.members if each != root.health_id))
    return found


async def members(reader: Reader, root_id: int) -> list[Linked]:
    """Everyone merged into a survivor, and the survivor, by health id; empty for who never was in a link."""
    place = (await linked(reader, [root_id])).get(root_id)
    if place is None or place.into_id is not None:
        return []
    return sorted((await linked(reader, place.members)).values(), key=lambda one: one.health_id)


async def write_sets(conn: Connection, places: Sequence[Linked]) -> None:
    """Writes places; the members of survivors follow from them."""
    under: dict[int, list[int]] = {}
    for place in places:
        under.setdefault(place.root_id, []).append(place.health_id)
    await conn.executemany(
        _WRITE_SET,
        [
            (
                place.health_id,
                place.into_id,
                place.root_id,
                place.revision,
                sorted(under[place.health_id]) if place.into_id is None else [],
            )
            for place in sorted(places, key=lambda one: one.health_id)
        ],
    )


async def remember(conn: Connection, row: LedgerRow) -> None:
    """Adds to the ledger of one of the two people."""
    await conn.execute(
        _REMEMBER,
        row.health_id,
        row.merged_id,
        row.survivor_id,
        row.revision,
        row.kind,
        row.recorded_at,
        row.sealed,
    )


async def ledger(reader: Reader, health_ids: Sequence[int]) -> list[LedgerRow]:
    """What happened to these people, as merged ones and as survivors, oldest first."""
    return [LedgerRow(*row) for row in await reader.fetch(LEDGER, health_ids)]


async def tell(conn: Connection, health_ids: Sequence[int], services: Sequence[str], revision: int) -> None:
    """Remembers that these services must be told the sets of these people."""
    await conn.execute(_TELL, health_ids, services, revision)


async def untold(reader: Reader, service: str, health_ids: Sequence[int] | None, limit: int) -> list[tuple[int, int]]:
    """Whose sets a service has yet to be told (of these people, or of all), with the revision wanted."""
    return [(row["health_id"], row["revision"]) for row in await reader.fetch(UNTOLD, service, health_ids, limit)]


async def told(conn: Connection, service: str, sets: Sequence[tuple[int, int]]) -> None:
    """The service knows the sets of these people as of these revisions."""
    await conn.execute(_TOLD, [one for one, _ in sets], [revision for _, revision in sets], service)


async def find_pairs(conn: Connection, pairs: Sequence[tuple[int, int, float]], at: datetime) -> None:
    """Puts pairs (lower id first, weight) on the work list; those ever there stay as they are."""
    if pairs:
        low, high, weights = zip(*sorted(pairs), strict=True)
        await conn.execute(_FIND_PAIRS, low, high, weights, at)


async def pairs(reader: Reader, state: str, after: tuple[datetime, int, int], limit: int) -> list[Pair]:
    """A page of the work list."""
    return [Pair(*row) for row in await reader.fetch(PAIRS, state, *after, limit)]


async def pairs_among(reader: Reader, health_ids: Sequence[int], other_than: str) -> list[tuple[int, int]]:
    """The pairs of two of these people whose state is another one, lower id first."""
    return [(row["low_id"], row["high_id"]) for row in await reader.fetch(PAIRS_AMONG, health_ids, other_than)]


async def lock_pair(conn: Connection, low_id: int, high_id: int) -> Pair | None:
    """A pair, held until the transaction ends."""
    row = await conn.fetchrow(_LOCK_PAIR, low_id, high_id)
    return None if row is None else Pair(*row)


async def decide(conn: Connection, pair: Pair, state: str, at: datetime, decision: bytes) -> None:
    """Writes a decision."""
    await conn.execute(_DECIDE, pair.low_id, pair.high_id, state, at, decision)
