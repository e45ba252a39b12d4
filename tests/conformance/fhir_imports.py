"""A ledger of imports, and the jobs of exports, in memory, as the gateway's database keeps them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from gateway.fhir.ledger import ExportJob, FileProgress, LineRefusal


class MemoryLedger:
    """`gateway.fhir.ledger.ImportLedger` in memory."""

    def __init__(self) -> None:
        self._jobs: dict[uuid.UUID, str] = {}
        self._files: dict[tuple[uuid.UUID, str], FileProgress] = {}
        self._refusals: dict[uuid.UUID, list[LineRefusal]] = {}

    async def begin(self, job: uuid.UUID, client_id: str) -> None:
        self._jobs.setdefault(job, client_id)

    async def belongs(self, job: uuid.UUID, client_id: str) -> bool:
        return self._jobs.get(job) == client_id

    async def progress(self, job: uuid.UUID, file: str) -> FileProgress:
        return self._files.get((job, file), FileProgress(file))

    async def advance(
        self, job: uuid.UUID, before: FileProgress, after: FileProgress, refusals: Sequence[LineRefusal]
    ) -> bool:
        held = await self.progress(job, before.file)
        if held.finished or held.lines != before.lines:
            return False
        self._files[job, after.file] = after
        self._refusals.setdefault(job, []).extend(refusals)
        return True

    async def files(self, job: uuid.UUID) -> list[FileProgress]:
        return sorted((held for (of, _), held in self._files.items() if of == job), key=lambda each: each.file)

    async def refusals(self, job: uuid.UUID, after: tuple[str, int], limit: int) -> list[LineRefusal]:
        held = sorted(self._refusals.get(job, []), key=lambda each: (each.file, each.line))
        return [each for each in held if (each.file, each.line) > after][:limit]


class MemoryJobs:
    """`gateway.fhir.ledger.ExportJobs` in memory."""

    def __init__(self) -> None:
        self._jobs: dict[uuid.UUID, ExportJob] = {}

    async def begin(self, job: ExportJob) -> None:
        self._jobs[job.job] = job

    async def find(self, job: uuid.UUID) -> ExportJob | None:
        return self._jobs.get(job)

    async def end(self, job: uuid.UUID) -> None:
        self._jobs.pop(job, None)
