"""Every statement on giving up clear parts whose time has come. No rule and no sealing here."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from services.runtime.postgres import Connection

CURSOR: Final = "SELECT next_leaf FROM given_up WHERE log_id = $1 AND kind = $2"
CURSORS: Final = "SELECT kind, next_leaf FROM given_up WHERE log_id = $1"
AGED: Final = """
SELECT leaf_index, health_id, event_id, event_time, sealed
FROM event
WHERE log_id = $1 AND leaf_index >= $2
  AND leaf_index < (SELECT derived.next_leaf FROM derived WHERE derived.log_id = $1)
  AND leaf_index < (SELECT checkpoint.published_size FROM checkpoint WHERE checkpoint.log_id = $1)
ORDER BY leaf_index LIMIT $3
"""
GIVE_UP: Final = """
UPDATE event SET sealed = '', actor_digest = '', content_digest = ''
WHERE log_id = $1 AND leaf_index = ANY($2::bigint[])
"""
MOVE: Final = """
INSERT INTO given_up (log_id, kind, next_leaf) VALUES ($1, $2, $3)
ON CONFLICT (log_id, kind) DO UPDATE SET next_leaf = greatest(given_up.next_leaf, excluded.next_leaf)
"""
FORGET_NOTICES: Final = "DELETE FROM notice WHERE log_id = $1 AND leaves[cardinality(leaves)] < $2"
FORGET_UNUSUAL: Final = "DELETE FROM unusual_access WHERE log_id = $1 AND leaf_index < $2"


class AgedRow(NamedTuple):
    """An event that may have been kept long enough."""

    leaf_index: int
    health_id: int
    event_id: uuid.UUID
    event_time: datetime
    sealed: bytes


async def cursor(conn: Connection, log_id: int, kind: str) -> int:
    """The first event not yet looked at for a kind."""
    return await conn.fetchval(CURSOR, log_id, kind) or 0


async def cursors(conn: Connection, log_id: int, kinds: Sequence[str]) -> list[int]:
    """The same for each of these kinds; 0 for one that has not begun."""
    found = {row["kind"]: row["next_leaf"] for row in await conn.fetch(CURSORS, log_id)}
    return [found.get(kind, 0) for kind in kinds]


async def furthest(conn: Connection, log_id: int) -> int:
    """A place before which a clear part may have been given up."""
    return max((place for _, place in await conn.fetch(CURSORS, log_id)), default=0)


async def aged(conn: Connection, log_id: int, start: int, limit: int) -> list[AgedRow]:
    """Events from a place on, as far as they are in the published tree and were looked at by what derives from them."""
    return [AgedRow(*record) for record in await conn.fetch(AGED, log_id, start, limit)]


async def give_up(conn: Connection, log_id: int, kind: str, leaves: Sequence[int], end: int) -> None:
    """Empties the clear parts at these places and moves the kind's cursor; in one transaction."""
    if leaves:
        await conn.execute(GIVE_UP, log_id, leaves)
    await conn.execute(MOVE, log_id, kind, end)


async def forget_notices(conn: Connection, log_id: int, before: int) -> None:
    """Deletes the notices and findings about events that were given up."""
    await conn.execute(FORGET_NOTICES, log_id, before)
    await conn.execute(FORGET_UNUSUAL, log_id, before)
