"""Every statement on how far clear parts were given up. No rule and no sealing here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from services.audit.tags import RowTags
from services.audit.tree_store import StoredRow
from services.runtime.postgres import Connection

CURSOR: Final = "SELECT log_id, kind, next_leaf, tag FROM given_up WHERE log_id = $1 AND kind = $2"
CURSORS: Final = "SELECT kind, next_leaf FROM given_up WHERE log_id = $1"
AGED: Final = """
SELECT leaf_index, health_id, event_id, producer, event_time, secret, actor_digest, content_digest, leaf, sealed
FROM event
WHERE log_id = $1 AND leaf_index >= $2
  AND leaf_index < (SELECT derived.next_leaf FROM derived WHERE derived.log_id = $1)
  AND leaf_index < (SELECT checkpoint.published_size FROM checkpoint WHERE checkpoint.log_id = $1)
ORDER BY leaf_index LIMIT $3
"""
MOVE: Final = """
INSERT INTO given_up (log_id, kind, next_leaf, tag) VALUES ($1, $2, $3, $4)
ON CONFLICT (log_id, kind) DO UPDATE SET next_leaf = excluded.next_leaf, tag = excluded.tag
WHERE given_up.next_leaf < excluded.next_leaf
"""


class CursorRow(NamedTuple):
    """How far the clear parts of a kind were given up."""

    log_id: int
    kind: str
    next_leaf: int
    tag: bytes


async def cursor(conn: Connection, log_id: int, kind: str) -> int:
    """The first event not yet looked at for a kind."""
    record = await conn.fetchrow(CURSOR, log_id, kind)
    return 0 if record is None else CursorRow(*record).next_leaf


async def cursors(conn: Connection, log_id: int, kinds: Sequence[str]) -> list[int]:
    """The same for each of these kinds; 0 for one that has not begun."""
    found = {row["kind"]: row["next_leaf"] for row in await conn.fetch(CURSORS, log_id)}
    return [found.get(kind, 0) for kind in kinds]


async def aged(conn: Connection, log_id: int, start: int, limit: int) -> list[StoredRow]:
    """Events from a place on, as far as they are in the published tree and were looked at by what derives from them."""
    return [StoredRow(*record) for record in await conn.fetch(AGED, log_id, start, limit)]


async def move(conn: Connection, tags: RowTags, log_id: int, kind: str, end: int) -> None:
    """Moves the kind's cursor on."""
    record = await conn.fetchrow(CURSOR, log_id, kind)
    before = None if record is None else CursorRow(*record)
    after = (log_id, kind, end)
    known, tag = (None, b"") if before is None else (before[:-1], before.tag)
    await conn.execute(MOVE, *after, tags.anew("given_up", known, tag, after))
