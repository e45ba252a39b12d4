"""How far imports are: jobs, files and refused lines."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import datetime

from gateway.fhir.ledger import FileProgress, LineRefusal
from services.runtime.postgres import Pool, transaction

_BEGIN = "INSERT INTO import_job (job, client_id) VALUES ($1, $2) ON CONFLICT (job) DO NOTHING"
_BELONGS = "SELECT true FROM import_job WHERE job = $1 AND client_id = $2"
_FILE = "SELECT file, lines, created, existed, refused, finished FROM import_file WHERE job = $1 AND file = $2"
_FILES = "SELECT file, lines, created, existed, refused, finished FROM import_file WHERE job = $1 ORDER BY file"
_NEW = "INSERT INTO import_file (job, file) VALUES ($1, $2) ON CONFLICT (job, file) DO NOTHING"
_ADVANCE = """
UPDATE import_file SET lines = $4, created = $5, existed = $6, refused = $7, finished = $8
WHERE job = $1 AND file = $2 AND lines = $3 AND NOT finished
RETURNING true
"""
_REFUSE = """
INSERT INTO import_refusal (job, file, line, outcome)
SELECT $1, $2, line, outcome::jsonb FROM unnest($3::bigint[], $4::text[]) AS refused (line, outcome)
"""
_REFUSALS = """
SELECT file, line, outcome FROM import_refusal
WHERE job = $1 AND (file, line) > ($2, $3) ORDER BY file, line LIMIT $4
"""
_OLD = "SELECT job FROM import_job WHERE created_at < $1 LIMIT 1000"
_FORGET = (
    "DELETE FROM import_refusal WHERE job = ANY($1::uuid[])",
    "DELETE FROM import_file WHERE job = ANY($1::uuid[])",
    "DELETE FROM import_job WHERE job = ANY($1::uuid[])",
)


class Imports:
    """The ledger of imports (`gateway.fhir.ledger.ImportLedger`)."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def begin(self, job: uuid.UUID, client_id: str) -> None:
        """Note a job; again changes nothing."""
        await self._pool.execute(_BEGIN, job, client_id)

    async def belongs(self, job: uuid.UUID, client_id: str) -> bool:
        """Whether this client began the job."""
        return bool(await self._pool.fetchval(_BELONGS, job, client_id))

    async def progress(self, job: uuid.UUID, file: str) -> FileProgress:
        """How far a file is; at line 0 if it is new."""
        row = await self._pool.fetchrow(_FILE, job, file)
        return FileProgress(file) if row is None else FileProgress(*row)

    async def advance(
        self, job: uuid.UUID, before: FileProgress, after: FileProgress, refusals: Sequence[LineRefusal]
    ) -> bool:
        """Note what became of further lines; false, and nothing noted, when the file is not as it was `before`."""
        counts = (after.lines, after.created, after.existed, after.refused, after.finished)
        async with transaction(self._pool) as conn:
            await conn.execute(_NEW, job, after.file)
            if not await conn.fetchval(_ADVANCE, job, after.file, before.lines, *counts):
                return False
            lines, outcomes = [each.line for each in refusals], [json.dumps(each.outcome) for each in refusals]
            await conn.execute(_REFUSE, job, after.file, lines, outcomes)
        return True

    async def files(self, job: uuid.UUID) -> list[FileProgress]:
        """All files of a job by name."""
        return [FileProgress(*row) for row in await self._pool.fetch(_FILES, job)]

    async def refusals(self, job: uuid.UUID, after: tuple[str, int], limit: int) -> list[LineRefusal]:
        """Refusals by file and line, those after a place."""
        rows = await self._pool.fetch(_REFUSALS, job, *after, limit)
        return [LineRefusal(row["file"], row["line"], json.loads(row["outcome"])) for row in rows]

    async def purge(self, before: datetime) -> None:
        """Forget jobs begun before a time; a thousand at most."""
        jobs = [row["job"] for row in await self._pool.fetch(_OLD, before)]
        if jobs:
            async with transaction(self._pool) as conn:
                for statement in _FORGET:
                    await conn.execute(statement, jobs)
