"""Contents on the move on a running platform: documents to move, and readers who are served meanwhile."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import Final

from dmp.document.v1 import document_pb2
from services.runtime.errors import DmpError
from tests.documents import new_oid, submission
from tests.platform_fixture import Patient, Platform

_NOT_NOW: Final = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")


@dataclass
class Readers:
    """Reads documents at random until told to stop: each is its very bytes, or not now."""

    platform: Platform
    patient: Patient
    contents: dict[str, bytes]
    served: int = 0
    stopping: bool = False

    async def run(self) -> None:
        names = itertools.cycle(self.contents)
        while not self.stopping:
            name = next(names)
            try:
                _, content = await self.patient.acts.read(name)
            except DmpError as error:
                if error.code.name not in _NOT_NOW:
                    raise
                continue
            assert content == self.contents[name]
            self.served += 1

    async def until(self, served: int) -> None:
        """Until so many more have been served."""
        wanted = self.served + served
        async with asyncio.timeout(60):
            while self.served < wanted:
                await asyncio.sleep(0.02)


async def feed(platform: Platform, patient: Patient, count: int) -> dict[str, bytes]:
    """So many documents of a patient, by their names."""
    contents: dict[str, bytes] = {}
    for start in range(0, count, 40):
        made = [patient.cda(seed=seed) for seed in range(start, min(start + 40, count))]
        request = submission(patient.health_id, *((document_pb2.Document(mime_type="text/xml"), one) for one in made))
        request.request_id, request.submission_set.unique_id = platform.request_id(), new_oid()
        response = document_pb2.SubmitDocumentsResponse
        statement = patient.caregiver.statement()
        answer = await platform.session.call("document", "SubmitDocuments", request, response, statement, timeout=60)
        contents |= {document.name: one for document, one in zip(answer.documents, made, strict=True)}
    return contents


def go_on(printed: str) -> list[str]:
    """The arguments with which a command that was broken off says that it goes on."""
    return printed.rpartition("go on with: ")[2].split()[:2]
