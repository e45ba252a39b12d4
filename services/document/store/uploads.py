"""Contents on their way in, in chunks: every statement on `upload` and `upload_chunk` but the delete at the commit."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from services.runtime.postgres import Connection, Pool

BEGIN: Final = """
INSERT INTO upload (health_id, upload_id, client, size, created_at) VALUES ($1, $2, $3, $4, $5)
"""
FIND: Final = """
SELECT upload_id, size, written, created_at FROM upload WHERE health_id = $1 AND upload_id = $2 AND client = $3
"""
ADVANCE: Final = """
UPDATE upload SET written = $5 WHERE health_id = $1 AND upload_id = $2 AND client = $3 AND written = $4 RETURNING true
"""
PUT_CHUNK: Final = "INSERT INTO upload_chunk (health_id, upload_id, start, sealed) VALUES ($1, $2, $3, $4)"
CHUNKS: Final = "SELECT start, sealed FROM upload_chunk WHERE health_id = $1 AND upload_id = $2 ORDER BY start"
OPEN: Final = "SELECT count(*), coalesce(sum(size), 0)::bigint FROM upload WHERE health_id = $1 AND client = $2"
# A sweep, not a request: by age, some at a time.
SWEEP: Final = """
WITH old AS (
    SELECT health_id, upload_id FROM upload WHERE created_at < $1 ORDER BY created_at LIMIT $2
), chunks AS (
    DELETE FROM upload_chunk c USING old WHERE c.health_id = old.health_id AND c.upload_id = old.upload_id
)
DELETE FROM upload u USING old WHERE u.health_id = old.health_id AND u.upload_id = old.upload_id RETURNING true
"""


class UploadRow(NamedTuple):
    """An upload as its row has it."""

    upload_id: uuid.UUID
    size: int
    written: int
    created_at: datetime


async def find(conn: Connection | Pool, health_id: int, upload_id: uuid.UUID, client: str) -> UploadRow | None:
    """An upload of that client."""
    found = await conn.fetchrow(FIND, health_id, upload_id, client)
    return None if found is None else UploadRow._make(found)


async def under_way(conn: Connection, health_id: int, client: str) -> tuple[int, int]:
    """How many uploads of that client are open in the dossier, and of how many bytes in all."""
    row = await conn.fetchrow(OPEN, health_id, client)
    return (0, 0) if row is None else (row[0], row[1])


async def begin(conn: Connection, health_id: int, client: str, row: UploadRow) -> None:
    """Begin an upload."""
    await conn.execute(BEGIN, health_id, row.upload_id, client, row.size, row.created_at)


async def write(conn: Connection, health_id: int, client: str, row: UploadRow, sealed: bytes, length: int) -> bool:
    """Add a chunk at the end; False when the upload has moved on, or has gone."""
    end = row.written + length
    if not await conn.fetchval(ADVANCE, health_id, row.upload_id, client, row.written, end):
        return False
    await conn.execute(PUT_CHUNK, health_id, row.upload_id, row.written, sealed)
    return True


async def chunks(conn: Connection | Pool, health_id: int, upload_id: uuid.UUID) -> Sequence[tuple[int, bytes]]:
    """The chunks of an upload, in order."""
    return [(row[0], row[1]) for row in await conn.fetch(CHUNKS, health_id, upload_id)]


async def sweep(pool: Pool, before: datetime, limit: int) -> int:
    """Remove uploads begun before; gives how many."""
    return len(await pool.fetch(SWEEP, before, limit))
