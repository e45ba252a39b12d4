"""The document service's composition root: what it is made of, and how it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from dmp.document.v1 import clinical_pb2, document_pb2
from services.document.admission import Admission
from services.document.authorship import Authorship
from services.document.belongings import Belongings
from services.document.change import Changer
from services.document.changes import Changes, Watched
from services.document.clinical import Listings
from services.document.clinical_envelope import Digests
from services.document.clinical_linked import Joins
from services.document.clinical_lists import ClinicalLists
from services.document.clinical_service import ClinicalServicer
from services.document.clinical_sources import Documents
from services.document.clinical_store import ClinicalStore
from services.document.committing import Committer
from services.document.contents import Contents
from services.document.criteria import CriteriaReader
from services.document.gate import Checks, Gate
from services.document.listing import Lister
from services.document.naming import AuthorNaming
from services.document.objects import URL_SETTING, ObjectStore, StoreMisconfigured
from services.document.operations import Operations
from services.document.pages import Cursors, Opener
from services.document.patients import PatientChecks, Verify, verify_through
from services.document.projecting import Ahead, Projector, ReadingSweep
from services.document.read import Reader
from services.document.read_together import ReadTogether
from services.document.recent import RecentDossiers
from services.document.references import References
from services.document.scanning import ClamdScanner, NoScanner, Scanner
from services.document.search import Searcher
from services.document.service import DocumentServicer, Rooms, Served
from services.document.settings import DocumentSettings
from services.document.store.reading import DocumentStore
from services.document.store.recent import RecentStore
from services.document.store.searching import SearchStore
from services.document.submit import SubmissionLimits, Submitter
from services.document.unique_ids import UniqueIds
from services.document.upkeep import Deadlines, UniqueIdIndex
from services.document.uploads import Uploads
from services.document.verification import Verifier
from services.runtime.checks import AccessChecks
from services.runtime.dossier_keys import DossierKeys
from services.runtime.jobs import Job, Jobs, Lease
from services.runtime.keyring import Keyring
from services.runtime.metrics import Metrics
from services.runtime.paging import PageTokens
from services.runtime.postgres import Pool
from services.runtime.server import Service, StartRefused, open_service, run
from services.runtime.trail import Trail

MIGRATIONS: Final = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What the service asks of others."""

    checks: Checks
    verify: Verify
    trail: Trail
    scanner: Scanner
    objects: ObjectStore | None = None
    write_objects: bool = True


class DocumentService:
    """The service without its transport: what `__main__` serves, and tests call."""

    def __init__(
        self,
        pool: Pool,
        keyring: Keyring,
        neighbours: Neighbours,
        limits: SubmissionLimits,
        *,
        served: Served,
        committed: Callable[[Sequence[int]], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        grace: timedelta = timedelta(days=1),
    ) -> None:
        """`grace` is how long what belongs to nothing is left alone by the sweep."""
        keys = DossierKeys(keyring, "document")
        store, found = DocumentStore(pool, keys), SearchStore(pool)
        gate, authorship = Gate(neighbours.checks, neighbours.trail), Authorship(keyring)
        unique_ids, tokens, watched = UniqueIds(keyring), PageTokens(keyring), Watched()
        cursors, opener, criteria = Cursors(tokens), Opener(store), CriteriaReader(authorship, unique_ids)
        contents = Contents(store, neighbours.objects, write_objects=neighbours.write_objects)
        digests, documents = Digests(keyring), Documents(store, contents, authorship, clock)
        self._projector = Projector(pool, documents, keys, digests, clock)
        self.ahead = Ahead(self._projector)
        self.sweep = ReadingSweep(pool, self._projector, neighbours.trail, clock)
        told = _each(watched.committed, committed, self.ahead.told)
        admission, checks = Admission(authorship, unique_ids), PatientChecks(neighbours.verify)
        committer = Committer(pool, keys, admission, clock=clock, committed=told, group=limits.group)
        uploads, scanner = Uploads(pool, keys, gate, limits.max_document_bytes, clock), neighbours.scanner
        reader, recent = Reader(store, contents, gate, authorship, clock), RecentStore(pool)
        references = References(found, gate, authorship, unique_ids, clock)
        verifier = Verifier(store, contents, authorship, unique_ids, Belongings(pool, unique_ids))
        self._rooms = Rooms(
            Submitter(pool, keys, gate, checks, unique_ids, uploads, contents, scanner, committer, limits),
            uploads,
            Searcher(found, gate, authorship, criteria, opener, tokens, cursors, references, clock),
            reader,
            ReadTogether(store, gate, authorship, reader.decided, clock),
            Lister(found, store, reader, gate, authorship, unique_ids, criteria, opener, tokens, clock),
            Changer(pool, keys, gate, authorship, both=limits.allow_masked_and_invisible, clock=clock, committed=told),
            Changes(found, gate, authorship, opener, cursors, watched, clock),
            Operations(pool, keys, keyring, contents, verifier, gate, tokens, clock=clock, grace=grace),
            RecentDossiers(recent, gate, authorship, tokens, clock),
            references,
        )
        self._opener, self._contents = opener, contents
        self.naming = AuthorNaming(pool, store, unique_ids)
        self.deadlines = Deadlines(pool, keys, clock=clock, committed=told)
        self.servicer = DocumentServicer(self._rooms, served)
        listings = Listings(ClinicalStore(pool), documents, self._projector, gate, digests, tokens)
        self.clinical = ClinicalServicer(ClinicalLists(listings, Joins(listings, digests)), self.sweep)

    async def close(self) -> None:
        """Finish what was accepted."""
        await self._rooms.submitter.close()
        await self._rooms.changes.close()
        await self._opener.close()
        await self._rooms.reader.close()
        await self._projector.close()
        await self._contents.close()


def _each(*listeners: Callable[[Sequence[int]], None]) -> Callable[[Sequence[int]], None]:
    """Tells them all of dossiers that have changed."""

    def told(health_ids: Sequence[int]) -> None:
        for listener in listeners:
            listener(health_ids)

    return told


async def main() -> None:
    """Start, serve until told to stop, close."""
    async with open_service("document", DocumentSettings, MIGRATIONS) as service:
        await _serve(service)


async def _serve(service: Service[DocumentSettings]) -> None:
    settings, pool, metrics = service.settings, service.pool, service.telemetry.metrics
    checks = AccessChecks(service.peer("consent"))
    relay = service.outbox_relay()
    elsewhere = metrics.counter("dmp_unique_id_elsewhere_total")
    index = UniqueIdIndex(pool, Lease(pool, "unique-ids"), elsewhere.add)

    def committed(_: Sequence[int]) -> None:
        relay.kick()
        index.kick()

    document = DocumentService(
        pool,
        service.keyring,
        Neighbours(
            checks,
            verify_through(service.peer("identity")),
            service.trail,
            NoScanner() if settings.scanner_address is None else ClamdScanner(settings.scanner_address),
            _objects(settings),
            settings.object_store_writes,
        ),
        SubmissionLimits(
            settings.max_document_bytes,
            settings.allow_masked_and_invisible,
            settings.max_submission_bytes,
            group=settings.submission_group,
        ),
        served=_counting(metrics),
        committed=committed,
    )
    sweep = Job("read-documents", timedelta(minutes=1), document.sweep.run)
    readings = Jobs(pool, [sweep, document.naming.job()], lease=Lease(pool, "readings"), metrics=metrics)
    servicers = [
        (document_pb2.DESCRIPTOR.services_by_name["DocumentService"], document.servicer),
        (clinical_pb2.DESCRIPTOR.services_by_name["ClinicalService"], document.clinical),
    ]
    housekeeping = service.housekeeping([document.deadlines.job()])
    background = [relay.run, index.run, housekeeping.run, readings.run, document.ahead.run]
    try:
        await service.serve(servicers, background=background)
    finally:
        await document.close()
        await checks.close()


def _objects(settings: DocumentSettings) -> ObjectStore | None:
    if settings.object_store_url is None:
        return None
    try:
        return ObjectStore.configured(settings.object_store_url, settings.object_store_config_file)
    except StoreMisconfigured as error:
        raise StartRefused(str(error)) from error
    except OSError as error:
        raise StartRefused(f"{URL_SETTING}: {error.strerror}") from error


def _counting(metrics: Metrics) -> Served:
    documents, sizes = metrics.counter("dmp_documents_total"), metrics.histogram("dmp_content_bytes")

    def served(direction: str, size: int) -> None:
        documents.add(1, direction)
        sizes.record(size, direction)

    return served


if __name__ == "__main__":
    run(main)
