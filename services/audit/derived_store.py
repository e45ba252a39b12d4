"""Every statement on what is made of the trail: counts, notices, unusual accesses. No rule and no sealing here."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple

from services.runtime.postgres import Connection

NEXT: Final = "SELECT next_leaf FROM derived WHERE log_id = $1"
BEGIN: Final = "INSERT INTO derived (log_id) VALUES ($1) ON CONFLICT (log_id) DO NOTHING"
MOVE: Final = "UPDATE derived SET next_leaf = $3 WHERE log_id = $1 AND next_leaf = $2"
ROWS: Final = """
SELECT leaf_index, health_id, event_id, actor_digest, event_time, sealed
FROM event WHERE log_id = $1 AND leaf_index >= $2 ORDER BY leaf_index LIMIT $3
"""
ROWS_AT: Final = """
SELECT leaf_index, health_id, event_id, actor_digest, event_time, sealed
FROM event WHERE log_id = $1 AND leaf_index = ANY($2::bigint[])
"""
SET_ASIDE: Final = """
INSERT INTO set_aside (log_id, leaf_index, error_type, next_attempt_at) VALUES ($1, $2, $3, now() + $4::interval)
ON CONFLICT (log_id, leaf_index) DO UPDATE
SET error_type = excluded.error_type, next_attempt_at = excluded.next_attempt_at
"""
TAKE_BACK: Final = "DELETE FROM set_aside WHERE log_id = $1 AND leaf_index = $2"
ALL_SET_ASIDE: Final = """
SELECT leaf_index, next_attempt_at <= now() FROM set_aside WHERE log_id = $1 ORDER BY next_attempt_at
"""
FIRST_TIMES: Final = """
SELECT leaf_index
FROM unnest($2::bigint[], $3::bytea[], $4::bigint[]) AS seen (health_id, actor_digest, leaf_index)
WHERE NOT EXISTS (
    SELECT FROM event
    WHERE event.log_id = $1 AND event.health_id = seen.health_id AND event.actor_digest = seen.actor_digest
      AND event.leaf_index < seen.leaf_index)
"""
COUNT: Final = """
INSERT INTO day_count (log_id, day, action, outcome, access_mode, event_count)
SELECT $1::bigint, * FROM unnest($2::date[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
ON CONFLICT (log_id, day, action, outcome, access_mode)
DO UPDATE SET event_count = day_count.event_count + excluded.event_count
"""
COUNTS: Final = """
SELECT day, action, outcome, access_mode, sum(event_count)::bigint
FROM day_count WHERE log_id = ANY($1::bigint[]) AND day BETWEEN $2 AND $3
GROUP BY day, action, outcome, access_mode ORDER BY day, action, outcome, access_mode
"""
WINDOW: Final = """
SELECT actor, hour, new_dossiers, break_glass FROM actor_window WHERE actor = ANY($1::bytea[]) AND hour > $2
"""
ADD_WINDOW: Final = """
INSERT INTO actor_window (actor, hour, new_dossiers, break_glass)
SELECT * FROM unnest($1::bytea[], $2::timestamptz[], $3::bigint[], $4::bigint[])
ON CONFLICT (actor, hour) DO UPDATE
SET new_dossiers = actor_window.new_dossiers + excluded.new_dossiers,
    break_glass = actor_window.break_glass + excluded.break_glass
"""
PURGE_WINDOW: Final = "DELETE FROM actor_window WHERE hour < $1"
# Events come in the order of the log, which is not quite that of their times: one that happened just before the first
# of its episode, and comes after it, belongs to it as well.
EPISODE: Final = """
SELECT notice_id FROM notice
WHERE health_id = $1 AND kind = $2 AND recipient = $3 AND actor_digest = $4
  AND happened_at > $5::timestamptz - interval '8 hours' AND happened_at < $5::timestamptz + interval '8 hours'
ORDER BY happened_at <= $5 DESC, happened_at DESC LIMIT 1
"""
JOIN_EPISODE: Final = """
UPDATE notice SET leaves = leaves || $3::bigint
WHERE health_id = $1 AND notice_id = $2 AND cardinality(leaves) < 50 AND NOT leaves @> ARRAY[$3::bigint]
"""
ADD_NOTICE: Final = """
INSERT INTO notice (health_id, notice_id, kind, recipient, actor_digest, log_id, leaves, happened_at, sealed)
VALUES ($1, $2, $3, $4, $5, $6, ARRAY[$7::bigint], $8, $9) ON CONFLICT (health_id, notice_id) DO NOTHING
"""
NOTICES: Final = """
SELECT health_id, notice_id, kind, recipient, log_id, leaves, created_at, delivered_at, sealed, attempts
FROM notice WHERE health_id = ANY($1::bigint[]) AND recipient = ANY($2::bigint[]) AND notice_id < $3
ORDER BY notice_id DESC LIMIT $4
"""
DUE: Final = """
SELECT health_id, notice_id, kind, recipient, log_id, leaves, created_at, delivered_at, sealed, attempts
FROM notice WHERE delivered_at IS NULL AND next_attempt_at <= now() ORDER BY next_attempt_at LIMIT $1
"""
DELIVERED: Final = (
    "UPDATE notice SET delivered_at = now(), attempts = attempts + 1 WHERE health_id = $1 AND notice_id = $2"
)
FAILED: Final = """
UPDATE notice SET attempts = attempts + 1, next_attempt_at = now() + $3::interval
WHERE health_id = $1 AND notice_id = $2
"""
ADD_UNUSUAL: Final = """
INSERT INTO unusual_access (item_id, health_id, log_id, leaf_index, detector, sealed)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (item_id) DO NOTHING
"""
UNUSUAL: Final = """
SELECT item_id, health_id, log_id, leaf_index, detector, detected_at, sealed, decision, decided_at, decided_by
FROM unusual_access
WHERE (decision <> 0) = $1 AND (detected_at, item_id) > ($2, $3)
ORDER BY detected_at, item_id LIMIT $4
"""
ONE_UNUSUAL: Final = """
SELECT item_id, health_id, log_id, leaf_index, detector, detected_at, sealed, decision, decided_at, decided_by
FROM unusual_access WHERE item_id = $1
"""
DECIDE: Final = """
UPDATE unusual_access SET decision = $2, decided_at = now(), decided_by = $3 WHERE item_id = $1 AND decision = 0
"""
EVENT_IDS: Final = "SELECT leaf_index, event_id FROM event WHERE log_id = $1 AND leaf_index = ANY($2::bigint[])"
SECRECY: Final = "SELECT secret FROM event WHERE log_id = $1 AND leaf_index = $2"
DESTROYED_AT: Final = "SELECT destroyed_at FROM dossier_key WHERE health_id = $1"
FORGET: Final = (
    "UPDATE event SET actor_digest = '', content_digest = '' WHERE log_id = $1 AND health_id = $2",
    "DELETE FROM notice WHERE health_id = $1",
    "DELETE FROM unusual_access WHERE health_id = $1",
)


class UnderivedRow(NamedTuple):
    """An event that was not looked at yet."""

    leaf_index: int
    health_id: int
    event_id: uuid.UUID
    actor_digest: bytes
    event_time: datetime
    sealed: bytes


class NoticeRow(NamedTuple):
    """A notice as it is kept."""

    health_id: int
    notice_id: uuid.UUID
    kind: int
    recipient: int
    log_id: int
    leaves: list[int]
    created_at: datetime
    delivered_at: datetime | None
    sealed: bytes
    attempts: int


class UnusualRow(NamedTuple):
    """An item of the work list as it is kept."""

    item_id: uuid.UUID
    health_id: int
    log_id: int
    leaf_index: int
    detector: str
    detected_at: datetime
    sealed: bytes
    decision: int
    decided_at: datetime | None
    decided_by: str | None


class NewNotice(NamedTuple):
    """A notice to add."""

    health_id: int
    notice_id: uuid.UUID
    kind: int
    recipient: int
    actor_digest: bytes
    log_id: int
    leaf_index: int
    happened_at: datetime
    sealed: bytes


class WindowRow(NamedTuple):
    """What one actor did in one hour."""

    actor: bytes
    hour: datetime
    new_dossiers: int
    break_glass: int


CountKey = tuple[date, str, int, int]


async def next_leaf(conn: Connection, log_id: int) -> int:
    """The first event not looked at."""
    found: int | None = await conn.fetchval(NEXT, log_id)
    if found is None:
        await conn.execute(BEGIN, log_id)
        return 0
    return found


async def move(conn: Connection, log_id: int, old: int, new: int) -> bool:
    """Moves on; False if another process did."""
    return bool(await conn.execute(MOVE, log_id, old, new) == "UPDATE 1")


async def rows(conn: Connection, log_id: int, start: int, limit: int) -> list[UnderivedRow]:
    """Events from a place on."""
    return [UnderivedRow(*record) for record in await conn.fetch(ROWS, log_id, start, limit)]


async def row_at(conn: Connection, log_id: int, leaf_index: int) -> list[UnderivedRow]:
    """The event at a place; nothing if there is none."""
    return [UnderivedRow(*record) for record in await conn.fetch(ROWS_AT, log_id, [leaf_index])]


async def set_aside(conn: Connection, log_id: int, leaf_index: int, error_type: str, again: timedelta) -> None:
    """Keeps an event for later; one that is kept already waits so long again."""
    await conn.execute(SET_ASIDE, log_id, leaf_index, error_type, again)


async def take_back(conn: Connection, log_id: int, leaf_index: int) -> bool:
    """Keeps it no longer; False if another process did that."""
    return bool(await conn.execute(TAKE_BACK, log_id, leaf_index) == "DELETE 1")


async def all_set_aside(conn: Connection, log_id: int) -> list[tuple[int, bool]]:
    """The places of what is kept for later, and whether its time has come."""
    return [(place, due) for place, due in await conn.fetch(ALL_SET_ASIDE, log_id)]


async def first_times(conn: Connection, log_id: int, seen: Sequence[UnderivedRow]) -> set[int]:
    """The places of those events before which their actor had not been in their dossier."""
    columns = ([r.health_id for r in seen], [r.actor_digest for r in seen], [r.leaf_index for r in seen])
    return {record[0] for record in await conn.fetch(FIRST_TIMES, log_id, *columns)} if seen else set()


async def count(conn: Connection, log_id: int, counts: Mapping[CountKey, int]) -> None:
    """Adds to the counts of days, in one order so that two processes do not deadlock."""
    if counts:
        ordered = sorted(counts.items())
        keys = zip(*(key for key, _ in ordered), strict=True)
        await conn.execute(COUNT, log_id, *(list(column) for column in keys), [number for _, number in ordered])


async def counts(
    conn: Connection, logs: Sequence[int], first: date, last: date
) -> list[tuple[date, str, int, int, int]]:
    """Day, action, outcome, mode and number, over these logs."""
    return [(r[0], r[1], r[2], r[3], r[4]) for r in await conn.fetch(COUNTS, logs, first, last)]


async def windows(conn: Connection, actors: Sequence[bytes], since: datetime) -> list[WindowRow]:
    """What these actors did in hours after `since`."""
    return [WindowRow(*record) for record in await conn.fetch(WINDOW, actors, since)] if actors else []


async def add_windows(conn: Connection, added: Sequence[WindowRow]) -> None:
    """Adds to what actors did."""
    if added:
        await conn.execute(ADD_WINDOW, *(list(column) for column in zip(*sorted(added), strict=True)))


async def purge_windows(conn: Connection, before: datetime) -> None:
    """Forgets hours that no detector looks at any more."""
    await conn.execute(PURGE_WINDOW, before)


async def add_notice(conn: Connection, notice: NewNotice) -> bool:
    """Joins the event to the actor's episode less than eight hours from it, or adds a notice; whether it was added."""
    episode = await conn.fetchval(
        EPISODE, notice.health_id, notice.kind, notice.recipient, notice.actor_digest, notice.happened_at
    )
    if episode is not None:
        await conn.execute(JOIN_EPISODE, notice.health_id, episode, notice.leaf_index)
        return False
    return bool(await conn.execute(ADD_NOTICE, *notice) == "INSERT 0 1")


async def notices(
    conn: Connection, health_ids: Sequence[int], recipients: Sequence[int], before: uuid.UUID, limit: int
) -> list[NoticeRow]:
    """Notices about dossiers to these recipients, newest first."""
    return [NoticeRow(*record) for record in await conn.fetch(NOTICES, health_ids, recipients, before, limit)]


async def due(conn: Connection, limit: int) -> list[NoticeRow]:
    """Notices to deliver now."""
    return [NoticeRow(*record) for record in await conn.fetch(DUE, limit)]


async def unusual(
    conn: Connection, *, decided: bool, after: tuple[datetime, uuid.UUID], limit: int
) -> list[UnusualRow]:
    """The work list, oldest first, after an item."""
    return [UnusualRow(*record) for record in await conn.fetch(UNUSUAL, decided, *after, limit)]


async def one_unusual(conn: Connection, item_id: uuid.UUID) -> UnusualRow | None:
    """One item."""
    record = await conn.fetchrow(ONE_UNUSUAL, item_id)
    return None if record is None else UnusualRow(*record)


async def forget(conn: Connection, log_id: int, health_id: int) -> None:
    """Overwrites the digests of a dossier's events, and deletes what was made of them."""
    blank, notices_, unusual_ = FORGET
    await conn.execute(blank, log_id, health_id)
    await conn.execute(notices_, health_id)
    await conn.execute(unusual_, health_id)


async def event_ids(conn: Connection, log_id: int, leaves: Sequence[int]) -> dict[int, uuid.UUID]:
    """The ids of the events at these places."""
    return {record[0]: record[1] for record in await conn.fetch(EVENT_IDS, log_id, leaves)}


async def is_secret(conn: Connection, log_id: int, leaf_index: int) -> bool:
    """Whether the event at a place was of a secret connection."""
    return bool(await conn.fetchval(SECRECY, log_id, leaf_index))


async def destroyed_at(conn: Connection, health_id: int) -> datetime:
    """When the key of a dossier, whose key is destroyed, was."""
    at: datetime = await conn.fetchval(DESTROYED_AT, health_id)
    return at
