"""Every statement on rows of the log that end, clear part or key, and on why. No rule and no sealing here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from services.audit.tags import Place, RowTags
from services.audit.tree_store import StoredRow
from services.runtime.postgres import Connection

ADD_DESTRUCTION: Final = """
INSERT INTO destruction (health_id, log_id, leaf_index, tag) VALUES ($1, $2, $3, $4) ON CONFLICT (health_id) DO NOTHING
"""
DESTRUCTIONS: Final = """
SELECT health_id, log_id, leaf_index, tag FROM destruction WHERE health_id = ANY($1::bigint[])
"""
UNENDED: Final = """
SELECT leaf_index, health_id, event_id, producer, event_time, secret, actor_digest, content_digest, leaf, sealed
FROM event WHERE log_id = $1 AND health_id = $2 AND content_digest <> '' ORDER BY leaf_index LIMIT $3
"""
END: Final = """
UPDATE event SET actor_digest = made.actor_digest, content_digest = ''
FROM unnest($2::bigint[], $3::bytea[]) AS made (leaf_index, actor_digest)
WHERE event.log_id = $1 AND event.leaf_index = made.leaf_index AND event.content_digest <> ''
"""
GIVE_UP: Final = """
UPDATE event SET sealed = '', actor_digest = made.actor_digest, content_digest = ''
FROM unnest($2::bigint[], $3::bytea[]) AS made (leaf_index, actor_digest)
WHERE event.log_id = $1 AND event.leaf_index = made.leaf_index AND event.content_digest <> ''
"""
AGES: Final = """
SELECT count(*), count(*) FILTER (WHERE event_time < $4),
       coalesce(bool_or(event_time < $4 AND leaf_index = $3 - 1), false)
FROM event WHERE log_id = $1 AND leaf_index >= $2 AND leaf_index < $3
"""
BARE: Final = """
SELECT leaf_index, health_id, event_id, producer, event_time, secret, actor_digest, content_digest, leaf, sealed
FROM event
WHERE log_id = $1 AND leaf_index >= $2 AND leaf_index < $3 AND content_digest = '' AND actor_digest = ''
ORDER BY leaf_index
"""
CLOTHE: Final = """
UPDATE event SET actor_digest = made.actor_digest
FROM unnest($2::bigint[], $3::bytea[]) AS made (leaf_index, actor_digest)
WHERE event.log_id = $1 AND event.leaf_index = made.leaf_index AND event.content_digest = '' AND event.actor_digest = ''
"""


class DestructionRow(NamedTuple):
    """A dossier whose key is destroyed, and the event that says so."""

    health_id: int
    log_id: int
    leaf_index: int
    tag: bytes

    @property
    def place(self) -> Place:
        """Where the event is."""
        return Place(self.log_id, self.leaf_index)


async def add_destruction(conn: Connection, tags: RowTags, health_id: int, place: Place) -> None:
    """Keeps, once, where it is said that a dossier is destroyed; in the transaction that destroys its key."""
    values = (health_id, *place)
    await conn.execute(ADD_DESTRUCTION, *values, tags.make("destruction", values))


async def destructions(conn: Connection, health_ids: Sequence[int]) -> dict[int, DestructionRow]:
    """Those of these dossiers."""
    return {row[0]: DestructionRow(*row) for row in await conn.fetch(DESTRUCTIONS, health_ids)}


async def unended(conn: Connection, log_id: int, health_id: int, limit: int) -> list[StoredRow]:
    """The first of a dossier's rows that have not ended."""
    return [StoredRow(*record) for record in await conn.fetch(UNENDED, log_id, health_id, limit)]


async def end(conn: Connection, log_id: int, leaves: Sequence[int], ends: Sequence[bytes]) -> None:
    """Gives rows that have not ended their ends."""
    if leaves:
        await conn.execute(END, log_id, leaves, ends)


async def give_up(conn: Connection, log_id: int, leaves: Sequence[int], ends: Sequence[bytes]) -> None:
    """The same, and empties their clear parts."""
    if leaves:
        await conn.execute(GIVE_UP, log_id, leaves, ends)


async def ages(conn: Connection, log_id: int, start: int, end_: int, cutoff: datetime) -> tuple[int, int, bool]:
    """Of the events from `start` on, before `end_`: how many, how many before `cutoff`, and whether the last is."""
    record = await conn.fetchrow(AGES, log_id, start, end_, cutoff)
    return (record[0], record[1], record[2]) if record is not None else (0, 0, False)


async def bare(conn: Connection, log_id: int, start: int, end_: int) -> list[StoredRow]:
    """Rows from a place on, before another, whose clear part is gone and that do not say why."""
    return [StoredRow(*record) for record in await conn.fetch(BARE, log_id, start, end_)]


async def clothe(conn: Connection, log_id: int, leaves: Sequence[int], ends: Sequence[bytes]) -> None:
    """Gives those their ends."""
    if leaves:
        await conn.execute(CLOTHE, log_id, leaves, ends)
