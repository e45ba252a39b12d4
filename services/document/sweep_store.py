"""How far the reading of all documents has come: one row, and the walk over the documents that it guides.

For a job and for operators; no request about a dossier comes here.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Final, NamedTuple

from services.document.clinical_sources import DocumentKey
from services.runtime.postgres import Connection, Pool

FIRST: Final = uuid.UUID(int=0)
"""Before every document."""

_SWEEP: Final = """
SELECT reader_version, started_at, health_id, document_id, read_count, failed_count, done
FROM reading_sweep WHERE name = 'all'
"""
_BEGIN_SWEEP: Final = """
INSERT INTO reading_sweep (
    name, reader_version, started_at, health_id, document_id, read_count, failed_count, done, request_id
)
VALUES ('all', $1, $2, 0, $3, 0, 0, false, $4)
ON CONFLICT (name) DO UPDATE SET
    reader_version = excluded.reader_version, started_at = excluded.started_at, health_id = 0,
    document_id = excluded.document_id, read_count = 0, failed_count = 0, done = false,
    request_id = coalesce(excluded.request_id, reading_sweep.request_id)
WHERE reading_sweep.reader_version < excluded.reader_version
OR excluded.request_id IS DISTINCT FROM reading_sweep.request_id AND excluded.request_id IS NOT NULL
"""
_ADVANCE: Final = """
UPDATE reading_sweep
SET health_id = $3, document_id = $4, read_count = read_count + $5, failed_count = failed_count + $6, done = $7
WHERE name = 'all' AND reader_version = $1 AND started_at = $2
"""
_NEXT: Final = """
SELECT d.health_id, d.document_id, r.read_at
FROM document d LEFT JOIN reading r ON r.health_id = d.health_id AND r.document_id = d.document_id
WHERE (d.health_id, d.document_id) > ($1, $2) ORDER BY d.health_id, d.document_id LIMIT $3
"""


class Sweep(NamedTuple):
    """How far the reading of all documents has come."""

    reader_version: int
    started_at: datetime
    health_id: int
    document_id: uuid.UUID
    read_count: int
    failed_count: int
    done: bool


class Passed(NamedTuple):
    """A document that the sweep passes, and when it was read, if it was."""

    key: DocumentKey
    read_at: datetime | None


class SweepStore:
    """Reads and moves the row. Each method is one statement."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def sweep(self) -> Sweep | None:
        """How far the reading of all documents has come; None before the first."""
        found = await self._pool.fetchrow(_SWEEP)
        return None if found is None else Sweep._make(found)

    async def renew_sweep(self, reader_version: int, now: datetime) -> None:
        """Begin from the first document when a newer reader is here, or there was none."""
        await self._pool.execute(_BEGIN_SWEEP, reader_version, now, FIRST, None)

    async def advance(self, sweep: Sweep, to: DocumentKey, read: int, failed: int, *, done: bool) -> None:
        """Go on with this sweep; nothing if another has begun meanwhile."""
        await self._pool.execute(_ADVANCE, sweep.reader_version, sweep.started_at, *to, read, failed, done)

    async def next(self, after: DocumentKey, limit: int) -> list[Passed]:
        """The documents after one, in the order of the primary key; across dossiers: for the sweep alone."""
        records = await self._pool.fetch(_NEXT, *after, limit)
        return [Passed(DocumentKey(row[0], row[1]), row[2]) for row in records]


async def restart_sweep(conn: Connection, reader_version: int, now: datetime, request_id: str) -> None:
    """Begin from the first document; nothing when that very request has done so."""
    await conn.execute(_BEGIN_SWEEP, reader_version, now, FIRST, request_id)
