"""Exports of home hosts under way: whose they are, and until when."""

from __future__ import annotations

import uuid
from datetime import datetime

from gateway.fhir.ledger import ExportJob
from services.runtime.postgres import Pool

_BEGIN = "INSERT INTO export_job (job, client_id, host, began_at, expires_at) VALUES ($1, $2, $3, $4, $5)"
_FIND = "SELECT job, client_id, host, began_at, expires_at FROM export_job WHERE job = $1"
_END = "DELETE FROM export_job WHERE job = $1"
_FORGET = "DELETE FROM export_job WHERE expires_at < $1"


class Exports:
    """The jobs (`gateway.fhir.ledger.ExportJobs`)."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def begin(self, job: ExportJob) -> None:
        """Note a job."""
        await self._pool.execute(_BEGIN, job.job, job.client_id, job.host, job.began_at, job.expires_at)

    async def find(self, job: uuid.UUID) -> ExportJob | None:
        """A job that has not been ended."""
        row = await self._pool.fetchrow(_FIND, job)
        return None if row is None else ExportJob(*row)

    async def end(self, job: uuid.UUID) -> None:
        """End a job; again changes nothing."""
        await self._pool.execute(_END, job)

    async def purge(self, before: datetime) -> None:
        """Forget jobs that were over before a time."""
        await self._pool.execute(_FORGET, before)
