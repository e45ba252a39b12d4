"""Every statement on the tree: checkpoints, tiles, and the entries that it is made of. No rule and no hashing here."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from services.audit.tags import Value
from services.runtime.postgres import Connection
from services.runtime.tlog.layout import Grown, Tile

STATE: Final = """
SELECT checkpoint.tree_size, root, signed, published_size, published, cosigners
FROM checkpoint WHERE log_id = $1
"""
BEGIN: Final = """
INSERT INTO checkpoint (log_id, tree_size, root, signed, published_size, published) VALUES ($1, 0, $2, $3, 0, $3)
ON CONFLICT (log_id) DO NOTHING
"""
SWAP: Final = """
UPDATE checkpoint SET tree_size = $4, root = $5, signed = $6
WHERE log_id = $1 AND tree_size = $2 AND root = $3
"""
PUBLISH: Final = """
UPDATE checkpoint SET published_size = $2, published = $3, cosigners = $4
WHERE log_id = $1 AND tree_size >= $2 AND (published_size < $2 OR (published_size = $2 AND published = $5))
"""
SIZE: Final = "SELECT size FROM log_head WHERE log_id = $1"
ENTRIES: Final = """
SELECT leaf_index, leaf FROM event WHERE log_id = $1 AND leaf_index >= $2 AND leaf_index < $3 ORDER BY leaf_index
"""
LAST: Final = "SELECT max(leaf_index) FROM event WHERE log_id = $1"
ROWS: Final = """
SELECT leaf_index, health_id, event_id, producer, event_time, secret, actor_digest, content_digest, leaf, sealed
FROM event WHERE log_id = $1 AND leaf_index >= $2 AND leaf_index < $3 ORDER BY leaf_index
"""
ROWS_AT: Final = """
SELECT leaf_index, health_id, event_id, producer, event_time, secret, actor_digest, content_digest, leaf, sealed
FROM event WHERE log_id = $1 AND leaf_index = ANY($2::bigint[])
"""
PUT_TILES: Final = """
INSERT INTO tile (log_id, level, number, hashes)
SELECT $1::bigint, level, number, hashes
FROM unnest($2::bigint[], $3::bigint[], $4::bytea[]) AS grown (level, number, hashes)
ON CONFLICT (log_id, level, number) DO UPDATE SET hashes = excluded.hashes
WHERE tile.hashes = substring(excluded.hashes FROM 1 FOR octet_length(tile.hashes))
"""
TILES: Final = """
SELECT level, number, hashes FROM tile
WHERE log_id = $1 AND (level, number) IN (SELECT * FROM unnest($2::bigint[], $3::bigint[]))
"""


class TreeState(NamedTuple):
    """The checkpoint row of a log."""

    size: int
    root: bytes
    signed: bytes
    published_size: int
    published: bytes
    cosigners: list[str]


class StoredRow(NamedTuple):
    """A row of the table `event`."""

    leaf_index: int
    health_id: int
    event_id: uuid.UUID
    producer: str
    event_time: datetime
    secret: bool
    actor_digest: bytes
    content_digest: bytes
    leaf: bytes
    sealed: bytes

    @property
    def ended(self) -> bool:
        """Whether its clear part is gone: then its actor's digest is its end (`services.audit.tags`)."""
        return not self.content_digest

    def kept(self, log_id: int, sealed: bytes) -> tuple[Value, ...]:
        """What its end vouches for."""
        return (
            *(log_id, self.leaf_index, self.health_id, self.event_id, self.producer, self.event_time, self.secret),
            *(self.leaf, sealed),
        )


async def begin(conn: Connection, log_id: int, root: bytes, signed: bytes) -> None:
    """Creates the checkpoint of an empty tree, if the log has none."""
    await conn.execute(BEGIN, log_id, root, signed)


async def state(conn: Connection, log_id: int) -> TreeState | None:
    """The checkpoint row; None for a log that has none."""
    record = await conn.fetchrow(STATE, log_id)
    return None if record is None else TreeState(*record)


async def swap(conn: Connection, log_id: int, old: TreeState, size: int, root: bytes, signed: bytes) -> bool:
    """Moves the tree from what it was; False if it is no longer that."""
    return bool(await conn.execute(SWAP, log_id, old.size, old.root, size, root, signed) == "UPDATE 1")


async def publish(
    conn: Connection, log_id: int, size: int, note: bytes, cosigners: Sequence[str], before: bytes
) -> bool:
    """Gives out a signed checkpoint. One that is older than what is out changes nothing (False); one of the same size
    only in the place of what was out `before`, to which it may add cosignatures."""
    return bool(await conn.execute(PUBLISH, log_id, size, note, list(cosigners), before) == "UPDATE 1")


async def size_of(conn: Connection, log_id: int) -> int:
    """How many events of the log are durable; 0 without such a log."""
    return await conn.fetchval(SIZE, log_id) or 0


async def entries(conn: Connection, log_id: int, low: int, high: int) -> list[tuple[int, bytes]]:
    """The entries at these places that exist, in order."""
    return [(index, leaf) for index, leaf in await conn.fetch(ENTRIES, log_id, low, high)]


async def put_tiles(conn: Connection, log_id: int, grown: Sequence[Grown]) -> int:
    """Lets tiles grow; how many did. A tile whose content is not the beginning of the new one does not."""
    columns = zip(*((each.tile.level, each.tile.number, each.hashes) for each in grown), strict=True)
    status: str = await conn.execute(PUT_TILES, log_id, *(list(column) for column in columns))
    return int(status.rpartition(" ")[2])


async def tiles(conn: Connection, log_id: int, wanted: Sequence[Tile]) -> dict[tuple[int, int], bytes]:
    """The content of tiles by (level, number), as far as they have grown; those that do not exist are left out."""
    records = await conn.fetch(TILES, log_id, [t.level for t in wanted], [t.number for t in wanted])
    return {(level, number): hashes for level, number, hashes in records}


async def events_of(conn: Connection, log_id: int) -> int:
    """How many events the log has, going by the last one."""
    last: int | None = await conn.fetchval(LAST, log_id)
    return 0 if last is None else last + 1


async def rows(conn: Connection, log_id: int, low: int, high: int) -> list[StoredRow]:
    """The events at these places, every column, in order."""
    return [StoredRow(*record) for record in await conn.fetch(ROWS, log_id, low, high)]


async def rows_at(conn: Connection, log_id: int, leaves: Sequence[int]) -> list[StoredRow]:
    """The events at these places that there are, every column."""
    return [StoredRow(*record) for record in await conn.fetch(ROWS_AT, log_id, leaves)]
