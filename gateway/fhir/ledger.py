"""How far imports are, and which exports of hosts are under way, as protocols; implemented over the gateway's database
outside this package.

Only counts and refusals are kept, never what is imported or exported.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.fhir.node import JsonObject


@dataclass(frozen=True, slots=True)
class FileProgress:
    """How far one file is: `lines` were taken, each created something, found it there, or was refused."""

    file: str
    lines: int = 0
    created: int = 0
    existed: int = 0
    refused: int = 0
    finished: bool = False


@dataclass(frozen=True, slots=True)
class LineRefusal:
    """Why a line of a file was refused: an OperationOutcome."""

    file: str
    line: int
    outcome: JsonObject


class ImportLedger(Protocol):
    """What imports have done so far."""

    async def begin(self, job: uuid.UUID, client_id: str) -> None:
        """Note a job; again changes nothing."""
        ...

    async def belongs(self, job: uuid.UUID, client_id: str) -> bool:
        """Whether this client began the job."""
        ...

    async def progress(self, job: uuid.UUID, file: str) -> FileProgress:
        """How far a file is; at line 0 if it is new."""
        ...

    async def advance(
        self, job: uuid.UUID, before: FileProgress, after: FileProgress, refusals: Sequence[LineRefusal]
    ) -> bool:
        """Note what became of further lines; false, and nothing noted, when the file is not as it was `before`."""
        ...

    async def files(self, job: uuid.UUID) -> list[FileProgress]:
        """All files of a job by name."""
        ...

    async def refusals(self, job: uuid.UUID, after: tuple[str, int], limit: int) -> list[LineRefusal]:
        """Refusals by file and line, those after a place."""
        ...


@dataclass(frozen=True, slots=True)
class ExportJob:
    """The export of a home host: who began it, for which host, when, and until when its files are served."""

    job: uuid.UUID
    client_id: str
    host: str
    began_at: datetime
    expires_at: datetime


class ExportJobs(Protocol):
    """Which exports there are."""

    async def begin(self, job: ExportJob) -> None:
        """Note a job."""
        ...

    async def find(self, job: uuid.UUID) -> ExportJob | None:
        """A job that has not been ended; it may have expired."""
        ...

    async def end(self, job: uuid.UUID) -> None:
        """End a job; again changes nothing."""
        ...
