"""Every statement that reads the tables made of the logs whole, part by part in the order of their keys. For those who
verify, and for what takes over rows from before they bore tags. No rule and no sealing here.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final, NamedTuple

from services.audit.notice_store import HOLD_NOTICE
from services.audit.tags import Value
from services.runtime.postgres import Connection

PAGE_DERIVED: Final = """
SELECT log_id, next_leaf, counted, notices, items, aside, tag FROM derived WHERE log_id > $1 ORDER BY log_id LIMIT $2
"""
PAGE_DAY_COUNT: Final = """
SELECT log_id, day, action, outcome, access_mode, event_count, tag
FROM day_count WHERE (log_id, day, action, outcome, access_mode) > ($1, $2, $3, $4, $5)
ORDER BY log_id, day, action, outcome, access_mode LIMIT $6
"""
PAGE_NOTICE: Final = """
SELECT health_id, notice_id, kind, recipient, actor_digest, log_id, leaves, happened_at, created_at, sealed, attempts,
       next_attempt_at, delivered_at, tag
FROM notice WHERE (health_id, notice_id) > ($1, $2) ORDER BY health_id, notice_id LIMIT $3
"""
PAGE_UNUSUAL_ACCESS: Final = """
SELECT item_id, health_id, log_id, leaf_index, detector, detected_at, sealed, decision, decided_at, decided_by, tag
FROM unusual_access WHERE item_id > $1 ORDER BY item_id LIMIT $2
"""
PAGE_ACTOR_WINDOW: Final = """
SELECT actor, hour, new_dossiers, break_glass, tag
FROM actor_window WHERE (actor, hour) > ($1, $2) ORDER BY actor, hour LIMIT $3
"""
PAGE_SET_ASIDE: Final = """
SELECT log_id, leaf_index, error_type, since, next_attempt_at, tag
FROM set_aside WHERE (log_id, leaf_index) > ($1, $2) ORDER BY log_id, leaf_index LIMIT $3
"""
PAGE_GIVEN_UP: Final = """
SELECT log_id, kind, next_leaf, tag FROM given_up WHERE (log_id, kind) > ($1, $2) ORDER BY log_id, kind LIMIT $3
"""
PAGE_DESTRUCTION: Final = """
SELECT health_id, log_id, leaf_index, tag FROM destruction WHERE health_id > $1 ORDER BY health_id LIMIT $2
"""
PAGE_KEYS: Final = """
SELECT health_id, wrapped, destroyed_at FROM dossier_key WHERE health_id > $1 ORDER BY health_id LIMIT $2
"""
TAG_DERIVED: Final = """
UPDATE derived SET counted = $2, notices = $3, items = $4, aside = $5, tag = $6 WHERE log_id = $1
"""
TAG_DAY_COUNT: Final = """
UPDATE day_count SET tag = $6
WHERE log_id = $1 AND day = $2 AND action = $3 AND outcome = $4 AND access_mode = $5 AND tag = ''
"""
TAG_NOTICE: Final = "UPDATE notice SET tag = $3 WHERE health_id = $1 AND notice_id = $2 AND tag = ''"
TAG_UNUSUAL_ACCESS: Final = "UPDATE unusual_access SET tag = $2 WHERE item_id = $1 AND tag = ''"
TAG_ACTOR_WINDOW: Final = "UPDATE actor_window SET tag = $3 WHERE actor = $1 AND hour = $2 AND tag = ''"
TAG_SET_ASIDE: Final = "UPDATE set_aside SET tag = $3 WHERE log_id = $1 AND leaf_index = $2 AND tag = ''"
TAG_GIVEN_UP: Final = "UPDATE given_up SET tag = $3 WHERE log_id = $1 AND kind = $2 AND tag = ''"
COUNTED: Final = "SELECT coalesce(sum(event_count), 0)::bigint FROM day_count WHERE log_id = $1"
NOTICES: Final = "SELECT count(*) FROM notice WHERE log_id = $1"
ITEMS: Final = "SELECT count(*) FROM unusual_access WHERE log_id = $1"
ASIDE: Final = "SELECT count(*) FROM set_aside WHERE log_id = $1"
# Beyond what a tree has: a level with too many tiles, or one that it does not reach.
TILE_BEYOND: Final = """
SELECT has.level FROM unnest($2::bigint[], $3::bigint[]) AS has (level, tiles)
WHERE EXISTS (SELECT FROM tile WHERE tile.log_id = $1 AND tile.level = has.level AND tile.number >= has.tiles)
   OR EXISTS (SELECT FROM tile WHERE tile.log_id = $1 AND tile.level = has.level AND tile.number < 0)
"""
TILE_LEVELS: Final = "SELECT min(level), max(level) FROM tile WHERE log_id = $1"
LOGS_OF_HEADS: Final = "SELECT min(log_id), max(log_id) FROM log_head"
LOGS_OF_EVENTS: Final = "SELECT min(log_id), max(log_id) FROM event"
LOGS_OF_CHECKPOINTS: Final = "SELECT min(log_id), max(log_id) FROM checkpoint"
LOGS_OF_TILES: Final = "SELECT min(log_id), max(log_id) FROM tile"
_LOGS_OF: Final[Mapping[str, str]] = {
    "log_head": LOGS_OF_HEADS,
    "event": LOGS_OF_EVENTS,
    "checkpoint": LOGS_OF_CHECKPOINTS,
    "tile": LOGS_OF_TILES,
}

Row = tuple[Value, ...]
"""The values of a row in the order of its table's page statement; the last is its tag."""


class Kept(NamedTuple):
    """A table whose rows bear tags: how its key is written and read, where it begins, and its statements."""

    name: str
    page: str
    tag: str
    begin: tuple[Any, ...]
    read: tuple[Callable[[str], Any], ...]


_LOW: Final = -(1 << 63)
_NOBODY: Final = uuid.UUID(int=0)
_FIRST_DAY: Final = date(1, 1, 1)
_FIRST: Final = datetime(1, 1, 1, tzinfo=UTC)

DERIVED: Final = Kept("derived", PAGE_DERIVED, TAG_DERIVED, (_LOW,), (int,))
DAY_COUNT: Final = Kept(
    "day_count",
    PAGE_DAY_COUNT,
    TAG_DAY_COUNT,
    (_LOW, _FIRST_DAY, "", _LOW, _LOW),
    (int, date.fromisoformat, str, int, int),
)
NOTICE: Final = Kept("notice", PAGE_NOTICE, TAG_NOTICE, (_LOW, _NOBODY), (int, uuid.UUID))
UNUSUAL_ACCESS: Final = Kept("unusual_access", PAGE_UNUSUAL_ACCESS, TAG_UNUSUAL_ACCESS, (_NOBODY,), (uuid.UUID,))
ACTOR_WINDOW: Final = Kept(
    "actor_window", PAGE_ACTOR_WINDOW, TAG_ACTOR_WINDOW, (b"", _FIRST), (bytes.fromhex, datetime.fromisoformat)
)
SET_ASIDE: Final = Kept("set_aside", PAGE_SET_ASIDE, TAG_SET_ASIDE, (_LOW, _LOW), (int, int))
GIVEN_UP: Final = Kept("given_up", PAGE_GIVEN_UP, TAG_GIVEN_UP, (_LOW, ""), (int, str))
DESTRUCTION: Final = Kept("destruction", PAGE_DESTRUCTION, "", (_LOW,), (int,))
KEPT: Final = (DERIVED, DAY_COUNT, NOTICE, UNUSUAL_ACCESS, ACTOR_WINDOW, SET_ASIDE, GIVEN_UP, DESTRUCTION)


class KeyRow(NamedTuple):
    """A dossier's key as it is kept."""

    health_id: int
    wrapped: bytes | None
    destroyed_at: datetime | None


class Amounts(NamedTuple):
    """How much there is of what was made of a log."""

    counted: int
    notices: int
    items: int
    aside: int


async def page(conn: Connection, table: Kept, after: Sequence[Any], limit: int) -> list[Row]:
    """The rows after a key, in the order of keys."""
    return [tuple(record) for record in await conn.fetch(table.page, *after, limit)]


async def keys(conn: Connection, after: int, limit: int) -> list[KeyRow]:
    """Dossiers' keys after a health id."""
    return [KeyRow(*record) for record in await conn.fetch(PAGE_KEYS, after, limit)]


async def amounts(conn: Connection, log_id: int) -> Amounts:
    """What there is; all of one moment only in a transaction that says so, or that holds `derived`."""
    return Amounts(*[await conn.fetchval(each, log_id) or 0 for each in (COUNTED, NOTICES, ITEMS, ASIDE)])


async def has_more_tiles(conn: Connection, log_id: int, tiles: Sequence[int]) -> bool:
    """Whether there are other tiles than so many of each level, from level 0 on."""
    record = await conn.fetchrow(TILE_LEVELS, log_id)
    if record is not None and record[0] is not None and not 0 <= record[0] <= record[1] < len(tiles):
        return True
    return bool(await conn.fetch(TILE_BEYOND, log_id, list(range(len(tiles))), tiles))


async def strays(conn: Connection, log_count: int) -> list[str]:
    """The tables that hold rows of a log that there is not."""
    found = []
    for table, statement in _LOGS_OF.items():
        record = await conn.fetchrow(statement)
        if record is not None and record[0] is not None and not 0 <= record[0] <= record[1] < log_count:
            found.append(table)
    return found


async def held_notice(conn: Connection, key: Sequence[Value]) -> Row | None:
    """A notice that nobody else changes until the transaction ends."""
    record = await conn.fetchrow(HOLD_NOTICE, *key)
    return None if record is None else tuple(record)


async def tag(conn: Connection, table: Kept, key: Sequence[Value], made: bytes) -> bool:
    """Gives a row that has none its tag; whether it had none."""
    return bool(await conn.execute(table.tag, *key, made) == "UPDATE 1")


async def tag_derived(conn: Connection, log_id: int, found: Amounts, made: bytes) -> None:
    """Gives the row of a log its amounts and its tag."""
    await conn.execute(TAG_DERIVED, log_id, *found, made)
