"""Every statement on what is made of the trail: how far it was looked at, counts, what actors did, what waits. No rule
and no sealing here. Notices and unusual accesses are `notice_store`'s.

Each row bears its tag (`services.audit.tags`), and each change of a row gives it another, if it had the right one.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple

from services.audit.tags import RowTags
from services.runtime.postgres import Connection

CURSOR: Final = "SELECT log_id, next_leaf, counted, notices, items, aside, tag FROM derived WHERE log_id = $1"
HOLD: Final = """
SELECT log_id, next_leaf, counted, notices, items, aside, tag FROM derived WHERE log_id = $1 FOR UPDATE
"""
BEGIN: Final = "INSERT INTO derived (log_id, tag) VALUES ($1, $2) ON CONFLICT (log_id) DO NOTHING"
KEEP: Final = """
UPDATE derived SET next_leaf = $2, counted = $3, notices = $4, items = $5, aside = $6, tag = $7 WHERE log_id = $1
"""
ROWS: Final = """
SELECT leaf_index, health_id, event_id, actor_digest, event_time, sealed
FROM event WHERE log_id = $1 AND leaf_index >= $2 ORDER BY leaf_index LIMIT $3
"""
ROWS_AT: Final = """
SELECT leaf_index, health_id, event_id, actor_digest, event_time, sealed
FROM event WHERE log_id = $1 AND leaf_index = ANY($2::bigint[])
"""
ASIDE: Final = """
SELECT log_id, leaf_index, error_type, since, next_attempt_at, tag FROM set_aside WHERE log_id = $1 AND leaf_index = $2
"""
SET_ASIDE: Final = """
INSERT INTO set_aside (log_id, leaf_index, error_type, since, next_attempt_at, tag) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (log_id, leaf_index) DO UPDATE
SET error_type = excluded.error_type, next_attempt_at = excluded.next_attempt_at, tag = excluded.tag
"""
TAKE_BACK: Final = "DELETE FROM set_aside WHERE log_id = $1 AND leaf_index = $2"
ALL_SET_ASIDE: Final = """
SELECT leaf_index, next_attempt_at <= now() FROM set_aside WHERE log_id = $1 ORDER BY next_attempt_at
"""


def _earlier_acts(direction: str) -> str:
    """The acts of an actor in a dossier before a place, the last ones (DESC) or the first (ASC)."""
    return f"""
SELECT asked.leaf_index, earlier.event_id, earlier.sealed
FROM unnest($2::bigint[], $3::bytea[], $4::bigint[]) AS asked (health_id, actor_digest, leaf_index)
CROSS JOIN LATERAL (
    SELECT event.event_id, event.sealed FROM event
    WHERE event.log_id = $1 AND event.health_id = asked.health_id AND event.actor_digest = asked.actor_digest
      AND event.leaf_index < asked.leaf_index
    ORDER BY event.leaf_index {direction} LIMIT $5) AS earlier
"""  # noqa: S608 (of two constants)


LATEST: Final = _earlier_acts("DESC")
EARLIEST: Final = _earlier_acts("ASC")
COUNT: Final = """
INSERT INTO day_count (log_id, day, action, outcome, access_mode, event_count)
SELECT $1::bigint, * FROM unnest($2::date[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
ON CONFLICT (log_id, day, action, outcome, access_mode)
DO UPDATE SET event_count = day_count.event_count + excluded.event_count
RETURNING log_id, day, action, outcome, access_mode, event_count, tag
"""
TAG_COUNTS: Final = """
UPDATE day_count SET tag = made.tag
FROM unnest($2::date[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[])
     AS made (day, action, outcome, access_mode, tag)
WHERE day_count.log_id = $1 AND day_count.day = made.day AND day_count.action = made.action
  AND day_count.outcome = made.outcome AND day_count.access_mode = made.access_mode
"""
COUNTS: Final = """
SELECT day, action, outcome, access_mode, sum(event_count)::bigint
FROM day_count WHERE log_id = ANY($1::bigint[]) AND day BETWEEN $2 AND $3
GROUP BY day, action, outcome, access_mode ORDER BY day, action, outcome, access_mode
"""
WINDOW: Final = """
SELECT actor, hour, new_dossiers, break_glass, tag FROM actor_window WHERE actor = ANY($1::bytea[]) AND hour > $2
"""
ADD_WINDOW: Final = """
INSERT INTO actor_window (actor, hour, new_dossiers, break_glass)
SELECT * FROM unnest($1::bytea[], $2::timestamptz[], $3::bigint[], $4::bigint[])
ON CONFLICT (actor, hour) DO UPDATE
SET new_dossiers = actor_window.new_dossiers + excluded.new_dossiers,
    break_glass = actor_window.break_glass + excluded.break_glass
RETURNING actor, hour, new_dossiers, break_glass, tag
"""
TAG_WINDOWS: Final = """
UPDATE actor_window SET tag = made.tag
FROM unnest($1::bytea[], $2::timestamptz[], $3::bytea[]) AS made (actor, hour, tag)
WHERE actor_window.actor = made.actor AND actor_window.hour = made.hour
"""
PURGE_WINDOW: Final = "DELETE FROM actor_window WHERE hour < $1"


class DerivedRow(NamedTuple):
    """How far a log was looked at, and how much was made of it; the last value of a row is its tag, here and below."""

    log_id: int
    next_leaf: int
    counted: int
    notices: int
    items: int
    aside: int
    tag: bytes


class UnderivedRow(NamedTuple):
    """An event that was not looked at yet."""

    leaf_index: int
    health_id: int
    event_id: uuid.UUID
    actor_digest: bytes
    event_time: datetime
    sealed: bytes


class EarlierRow(NamedTuple):
    """What an actor did before in a dossier, still sealed."""

    event_id: uuid.UUID
    sealed: bytes


class DayRow(NamedTuple):
    """What was counted of one day."""

    log_id: int
    day: date
    action: str
    outcome: int
    access_mode: int
    event_count: int
    tag: bytes


class WindowRow(NamedTuple):
    """What one actor did in one hour."""

    actor: bytes
    hour: datetime
    new_dossiers: int
    break_glass: int
    tag: bytes = b""


class AsideRow(NamedTuple):
    """An event that could not be looked at."""

    log_id: int
    leaf_index: int
    error_type: str
    since: datetime
    next_attempt_at: datetime
    tag: bytes


CountKey = tuple[date, str, int, int]


async def next_leaf(conn: Connection, tags: RowTags, log_id: int) -> int:
    """The first event not looked at."""
    found = await conn.fetchrow(CURSOR, log_id)
    if found is None:
        await _begin(conn, tags, log_id)
        return 0
    return DerivedRow(*found).next_leaf


async def hold(conn: Connection, tags: RowTags, log_id: int) -> DerivedRow:
    """How far a log was looked at, held until the transaction ends: nothing is made of it meanwhile."""
    found = await conn.fetch(HOLD, log_id)
    if not found:
        await _begin(conn, tags, log_id)
        found = await conn.fetch(HOLD, log_id)
    [row] = found
    return DerivedRow(*row)


async def move(conn: Connection, tags: RowTags, log_id: int, old: int, new: int) -> bool:
    """Moves on; False if another process did."""
    row = await hold(conn, tags, log_id)
    if row.next_leaf != old:
        return False
    await _keep(conn, tags, row, row._replace(next_leaf=new))
    return True


async def account(
    conn: Connection, tags: RowTags, log_id: int, *, counted: int = 0, notices: int = 0, items: int = 0, aside: int = 0
) -> None:
    """Takes down, in the transaction that adds or deletes them, how many more there are; negative for fewer."""
    if counted or notices or items or aside:
        row = await hold(conn, tags, log_id)
        more = row._replace(
            counted=row.counted + counted,
            notices=row.notices + notices,
            items=row.items + items,
            aside=row.aside + aside,
        )
        await _keep(conn, tags, row, more)


async def rows(conn: Connection, log_id: int, start: int, limit: int) -> list[UnderivedRow]:
    """Events from a place on."""
    return [UnderivedRow(*record) for record in await conn.fetch(ROWS, log_id, start, limit)]


async def row_at(conn: Connection, log_id: int, leaf_index: int) -> list[UnderivedRow]:
    """The event at a place; nothing if there is none."""
    return [UnderivedRow(*record) for record in await conn.fetch(ROWS_AT, log_id, [leaf_index])]


async def set_aside(
    conn: Connection, tags: RowTags, log_id: int, leaf_index: int, error_type: str, again: timedelta
) -> None:
    """Keeps an event for later; one that is kept already waits so long again. In a transaction."""
    now = datetime.now(UTC)
    record = await conn.fetchrow(ASIDE, log_id, leaf_index)
    before = None if record is None else AsideRow(*record)
    since, tag = (now, b"") if before is None else (before.since, before.tag)
    after = (log_id, leaf_index, error_type, since, now + again)
    await conn.execute(SET_ASIDE, *after, tags.anew("set_aside", None if before is None else before[:-1], tag, after))
    await account(conn, tags, log_id, aside=int(before is None))


async def take_back(conn: Connection, tags: RowTags, log_id: int, leaf_index: int) -> bool:
    """Keeps it no longer; False if another process did that. In a transaction."""
    await hold(conn, tags, log_id)
    taken = bool(await conn.execute(TAKE_BACK, log_id, leaf_index) == "DELETE 1")
    await account(conn, tags, log_id, aside=-int(taken))
    return taken


async def all_set_aside(conn: Connection, log_id: int) -> list[tuple[int, bool]]:
    """The places of what is kept for later, and whether its time has come."""
    return [(place, due) for place, due in await conn.fetch(ALL_SET_ASIDE, log_id)]


async def earlier(
    conn: Connection, statement: str, log_id: int, seen: Sequence[UnderivedRow], limit: int
) -> dict[int, list[EarlierRow]]:
    """At most `limit` earlier acts of the same actors in the same dossiers, by the places of these events; `statement`
    is LATEST or EARLIEST."""
    columns = ([r.health_id for r in seen], [r.actor_digest for r in seen], [r.leaf_index for r in seen])
    found: dict[int, list[EarlierRow]] = {}
    for leaf_index, *act in await conn.fetch(statement, log_id, *columns, limit):
        found.setdefault(leaf_index, []).append(EarlierRow(*act))
    return found


async def count(conn: Connection, tags: RowTags, log_id: int, counts: Mapping[CountKey, int]) -> None:
    """Adds to the counts of days, in one order so that two processes do not deadlock."""
    if not counts:
        return
    ordered = sorted(counts.items())
    keys = zip(*(key for key, _ in ordered), strict=True)
    records = await conn.fetch(COUNT, log_id, *(list(column) for column in keys), [number for _, number in ordered])
    made = []
    for after in (DayRow(*record) for record in records):
        before = after._replace(event_count=after.event_count - counts[after[1:5]])
        known = before[:-1] if before.event_count or before.tag else None
        made.append((*after[1:5], tags.anew("day_count", known, after.tag, after[:-1])))
    await conn.execute(TAG_COUNTS, log_id, *(list(column) for column in zip(*made, strict=True)))


async def counts(
    conn: Connection, logs: Sequence[int], first: date, last: date
) -> list[tuple[date, str, int, int, int]]:
    """Day, action, outcome, mode and number, over these logs."""
    return [(r[0], r[1], r[2], r[3], r[4]) for r in await conn.fetch(COUNTS, logs, first, last)]


async def windows(conn: Connection, actors: Sequence[bytes], since: datetime) -> list[WindowRow]:
    """What these actors did in hours after `since`."""
    return [WindowRow(*record) for record in await conn.fetch(WINDOW, actors, since)] if actors else []


async def add_windows(conn: Connection, tags: RowTags, added: Sequence[WindowRow]) -> None:
    """Adds to what actors did."""
    if not added:
        return
    columns = zip(*(row[:-1] for row in sorted(added)), strict=True)
    records = await conn.fetch(ADD_WINDOW, *(list(column) for column in columns))
    more = {(row.actor, row.hour): row for row in added}
    made = []
    for after in (WindowRow(*record) for record in records):
        by = more[after.actor, after.hour]
        before = after._replace(
            new_dossiers=after.new_dossiers - by.new_dossiers, break_glass=after.break_glass - by.break_glass
        )
        known = before[:-1] if before.new_dossiers or before.break_glass or before.tag else None
        made.append((after.actor, after.hour, tags.anew("actor_window", known, after.tag, after[:-1])))
    await conn.execute(TAG_WINDOWS, *(list(column) for column in zip(*made, strict=True)))


async def purge_windows(conn: Connection, before: datetime) -> None:
    """Forgets hours that no detector looks at any more."""
    await conn.execute(PURGE_WINDOW, before)


async def _begin(conn: Connection, tags: RowTags, log_id: int) -> None:
    await conn.execute(BEGIN, log_id, tags.make("derived", (log_id, 0, 0, 0, 0, 0)))


async def _keep(conn: Connection, tags: RowTags, before: DerivedRow, after: DerivedRow) -> None:
    await conn.execute(KEEP, *after[:-1], tags.anew("derived", before[:-1], before.tag, after[:-1]))
