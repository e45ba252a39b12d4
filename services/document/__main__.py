"""The document service's composition root: what it is made of, and how it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from dmp.document.v1 import clinical_pb2, document_pb2
from services.document.authorship import Authorship
from services.document.clinical import Listings
from services.document.clinical_envelope import Digests
from services.document.clinical_lists import ClinicalLists
from services.document.clinical_service import ClinicalServicer
from services.document.clinical_store import ClinicalStore
from services.document.gate import Checks, Gate
from services.document.patients import PatientChecks, Verify, verify_through
from services.document.projecting import Ahead, Projector, ReadingSweep
from services.document.read import Reader
from services.document.search import Searcher
from services.document.service import DocumentServicer, Served
from services.document.settings import DocumentSettings
from services.document.store import DocumentStore
from services.document.submit import SubmissionLimits, Submitter
from services.document.unique_ids import UniqueIds
from services.runtime.checks import AccessChecks
from services.runtime.dossier_keys import DossierKeys
from services.runtime.jobs import Job, Jobs, Lease
from services.runtime.keyring import Keyring
from services.runtime.metrics import Metrics
from services.runtime.paging import PageTokens
from services.runtime.postgres import Pool
from services.runtime.server import Service, open_service, run
from services.runtime.trail import Trail

MIGRATIONS: Final = Path(__file__).parent / "migrations"


class DocumentService:
    """The service without its transport: what `__main__` serves, and tests call."""

    def __init__(
        self,
        pool: Pool,
        keyring: Keyring,
        checks: Checks,
        verify: Verify,
        trail: Trail,
        limits: SubmissionLimits,
        *,
        served: Served,
        committed: Callable[[Sequence[int]], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        keys = DossierKeys(keyring, "document")
        store = DocumentStore(pool, keys)
        gate = Gate(checks, trail)
        authorship, unique_ids = Authorship(keyring), UniqueIds(keyring)
        digests, tokens = Digests(keyring), PageTokens(keyring)
        self._projector = Projector(pool, store, keys, digests, clock)
        self.ahead = Ahead(self._projector)
        self.sweep = ReadingSweep(pool, self._projector, trail, clock)

        def told(health_ids: Sequence[int]) -> None:
            committed(health_ids)
            self.ahead.told(health_ids)

        self._submitter = Submitter(
            pool,
            keys,
            gate,
            PatientChecks(verify),
            authorship,
            unique_ids,
            limits,
            clock=clock,
            committed=told,
        )
        self._searcher = Searcher(store, gate, authorship, unique_ids, tokens, clock)
        self._reader = Reader(store, gate, authorship, clock)
        self.servicer = DocumentServicer(self._submitter, self._searcher, self._reader, served)
        listings = Listings(ClinicalStore(pool), store, self._projector, gate, authorship, digests, tokens, clock)
        self.clinical = ClinicalServicer(ClinicalLists(listings), self.sweep)

    async def close(self) -> None:
        """Finish what was accepted."""
        await self._submitter.close()
        await self._searcher.close()
        await self._reader.close()
        await self._projector.close()


async def main() -> None:
    """Start, serve until told to stop, close."""
    async with open_service("document", DocumentSettings, MIGRATIONS) as service:
        await _serve(service)


async def _serve(service: Service[DocumentSettings]) -> None:
    settings, pool = service.settings, service.pool
    checks = AccessChecks(service.peer("consent"))
    relay = service.outbox_relay()
    document = DocumentService(
        pool,
        service.keyring,
        checks,
        verify_through(service.peer("identity")),
        service.trail,
        SubmissionLimits(settings.max_document_bytes, settings.allow_masked_and_invisible),
        served=_counting(service.telemetry.metrics),
        committed=lambda _: relay.kick(),
    )
    sweep = Job("read-documents", timedelta(minutes=1), document.sweep.run)
    readings = Jobs(pool, [sweep], lease=Lease(pool, "readings"), metrics=service.telemetry.metrics)
    servicers = [
        (document_pb2.DESCRIPTOR.services_by_name["DocumentService"], document.servicer),
        (clinical_pb2.DESCRIPTOR.services_by_name["ClinicalService"], document.clinical),
    ]
    try:
        background = [relay.run, service.housekeeping().run, readings.run, document.ahead.run]
        await service.serve(servicers, background=background)
    finally:
        await document.close()
        await checks.close()


def _counting(metrics: Metrics) -> Served:
    documents, sizes = metrics.counter("dmp_documents_total"), metrics.histogram("dmp_content_bytes")

    def served(direction: str, size: int) -> None:
        documents.add(1, direction)
        sizes.record(size, direction)

    return served


if __name__ == "__main__":
    run(main)
