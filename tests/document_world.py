"""A document service in a database of its own, with our own consent, identity and audit beside it.

Lives here: `World`, its fixtures, and nothing that one test alone needs.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.document.v1 import document_pb2
from services.document.__main__ import MIGRATIONS, DocumentService, Neighbours
from services.document.objects import ObjectStore
from services.document.scanning import NoScanner, Scanner
from services.document.submit import SubmissionLimits
from services.document.upkeep import UniqueIdIndex
from services.runtime.identifiers import dossier_name, new_health_id
from services.runtime.jobs import Lease
from services.runtime.keyring import Keyring
from services.runtime.postgres import Pool, connect, migrate
from services.runtime.trail import Trail
from tests.documents import FakeAudit, FakeConsent, FakeIdentity, call, cda, new_oid, submission

MAX_DOCUMENT = 4 << 20


@dataclass
class World:
    """The service and its neighbours."""

    pool: Pool
    consent: FakeConsent
    identity: FakeIdentity
    audit: FakeAudit
    dossier: int = field(default_factory=new_health_id)
    moments: Iterator[datetime] = field(
        default_factory=lambda: (
            datetime(2026, 11, 22, 8, tzinfo=UTC) + timedelta(milliseconds=n) for n in itertools.count()
        )
    )

    opened: list[DocumentService] = field(default_factory=list)
    service: DocumentService = field(init=False)

    def __post_init__(self) -> None:
        self.service = self.service_with(SubmissionLimits(MAX_DOCUMENT, allow_masked_and_invisible=False))

    def clock(self) -> datetime:
        """Later at each look."""
        return next(self.moments)

    def later(self, by: timedelta) -> None:
        """Let time pass."""
        now = next(self.moments) + by
        self.moments = (now + timedelta(milliseconds=n) for n in itertools.count())

    async def submit(
        self, *given: tuple[document_pb2.Document, bytes], request_id: str = "", dossier: int = 0
    ) -> document_pb2.SubmitDocumentsResponse:
        dossier = dossier or self.dossier
        return await self.send(submission(dossier, *given, request_id=request_id))

    async def send(self, request: document_pb2.SubmitDocumentsRequest) -> document_pb2.SubmitDocumentsResponse:
        dossier = int(request.parent[9:28])
        return await self.service.servicer.SubmitDocuments(request, call("SubmitDocuments", dossier))

    async def add(self, **given: object) -> document_pb2.Document:
        """Submit one CDA; `confidentiality` flags go into the metadata."""
        flags = given.pop("flags", ())
        metadata = document_pb2.Document()
        for flag in flags:  # type: ignore[attr-defined]
            metadata.confidentiality.add(system="1.2.250.1.213.1.1.4.13", code=flag)
        content = cda(new_oid(), **given)  # type: ignore[arg-type]
        return (await self.submit((metadata, content))).documents[0]

    async def add_version(self, unique_id: str, extra: str) -> document_pb2.Document:
        """Submit one CDA with these elements in its header."""
        return (await self.submit((document_pb2.Document(), cda(unique_id, extra=extra)))).documents[0]

    async def change(
        self, name: str, change: document_pb2.DocumentChange.ValueType, *, request_id: str = "", **expected: int
    ) -> document_pb2.Document:
        request = document_pb2.ChangeDocumentRequest(
            name=name,
            change=change,
            request_id=request_id or f"request-{uuid.uuid4()}",
            **expected,  # type: ignore[arg-type]
        )
        made = call("ChangeDocument", int(name[9:28]))
        return (await self.service.servicer.ChangeDocument(request, made)).document

    async def versions(self, name: str) -> list[document_pb2.DocumentVersion]:
        """All versions, two a page."""
        found: list[document_pb2.DocumentVersion] = []
        token = ""
        while True:
            request = document_pb2.ListDocumentVersionsRequest(name=name, page_size=2, page_token=token)
            answer = await self.service.servicer.ListDocumentVersions(
                request, call("ListDocumentVersions", int(name[9:28]))
            )
            found += answer.versions
            token = answer.next_page_token
            if not token:
                return found

    async def changes(self, cursor: str, dossier: int = 0) -> document_pb2.ListChangesResponse:
        dossier = dossier or self.dossier
        request = document_pb2.ListChangesRequest(parent=dossier_name(dossier), cursor=cursor)
        return await self.service.servicer.ListChanges(request, call("ListChanges", dossier))

    async def events(self, action: str) -> list[audit_pb2.AuditEvent]:
        """The events of an action in the outbox."""
        rows = await self.pool.fetch("SELECT payload FROM outbox WHERE health_id = $1", self.dossier)
        events = [audit_pb2.AuditEvent.FromString(row["payload"]) for row in rows]
        return [event for event in events if event.action == action]

    async def index(self) -> None:
        """Feed the look-up by uniqueId."""
        index = UniqueIdIndex(self.pool, Lease(self.pool, "unique-ids"), lambda count: None)
        while await index.feed():
            pass

    async def upload(self, content: bytes, chunk: int, *, lose: bool = False, stop: int = 0) -> document_pb2.Upload:
        """Upload in chunks, each sent twice when answers are lost; `stop` ends after so many."""
        servicer = self.service.servicer
        request = document_pb2.CreateUploadRequest(
            parent=dossier_name(self.dossier), size=len(content), request_id=f"request-{uuid.uuid4()}"
        )
        made = call("CreateUpload", self.dossier)
        upload = (await servicer.CreateUpload(request, made)).upload
        if lose:
            assert (await servicer.CreateUpload(request, made)).upload == upload
        for count, start in enumerate(range(0, len(content), chunk)):
            if stop and count >= stop:
                break
            for _ in range(1 + lose):
                upload = await self.write(upload.name, start, content[start : start + chunk])
        return upload

    async def stream(
        self, content: bytes, chunk: int, *, request_id: str, offset: int = 0, stop: int = 0
    ) -> document_pb2.Upload:
        """Upload in one stream, from `offset` on; `stop` ends after so many chunks."""
        starts = range(offset, len(content), chunk)
        first, *rest = (content[start : start + chunk] for start in starts[: stop or None])
        request = document_pb2.UploadContentRequest(
            parent=dossier_name(self.dossier), size=len(content), request_id=request_id, offset=offset, chunk=first
        )
        collecting = await self.service.servicer.UploadContent(request, call("UploadContent", self.dossier))
        for part in rest:
            await collecting.add(document_pb2.UploadContentRequest(chunk=part))
        return (await collecting.end()).upload

    async def write(self, name: str, offset: int, chunk: bytes) -> document_pb2.Upload:
        request = document_pb2.WriteUploadRequest(name=name, offset=offset, chunk=chunk)
        return (await self.service.servicer.WriteUpload(request, call("WriteUpload", self.dossier))).upload

    async def replace(self, target: document_pb2.Document, **given: object) -> document_pb2.Document:
        """A document that takes the place of another."""
        request = submission(self.dossier, (document_pb2.Document(), cda(new_oid(), **given)))  # type: ignore[arg-type]
        replaces = document_pb2.RELATIONSHIP_TYPE_REPLACES
        request.documents[0].relationships.add(type=replaces, target=target.name)
        return (await self.send(request)).documents[0]

    async def get(self, name: str, actor: context_pb2.ActingContext | None = None) -> document_pb2.Document:
        request = document_pb2.GetDocumentRequest(name=name)
        response = await self.service.servicer.GetDocument(request, call("GetDocument", int(name[9:28]), actor))
        return document_pb2.GetDocumentResponse.FromString(response).document

    async def read(self, name: str) -> list[document_pb2.ReadDocumentResponse]:
        request = document_pb2.ReadDocumentRequest(name=name)
        made = call("ReadDocument", int(name[9:28]))
        return [part async for part in self.service.servicer.ReadDocument(request, made)]

    async def content(self, name: str) -> bytes:
        return b"".join(part.chunk for part in await self.read(name))

    async def search(self, **criteria: object) -> document_pb2.SearchDocumentsResponse:
        client = str(criteria.pop("client_id", "his"))
        dossier = int(criteria.pop("dossier", self.dossier))  # type: ignore[call-overload]
        request = document_pb2.SearchDocumentsRequest(parent=dossier_name(dossier), **criteria)  # type: ignore[arg-type]
        made = call("SearchDocuments", dossier, client_id=client)
        return await self.service.servicer.SearchDocuments(request, made)

    def service_with(self, limits: SubmissionLimits) -> DocumentService:
        """The same service with other settings."""
        return self.service_of(limits)

    def service_of(
        self,
        limits: SubmissionLimits | None = None,
        *,
        objects: ObjectStore | None = None,
        write_objects: bool = True,
        scanner: Scanner | None = None,
        keyring: Keyring | None = None,
        grace: timedelta = timedelta(days=1),
    ) -> DocumentService:
        """The same service with other neighbours; the world closes it."""
        keyring = keyring or Keyring({1: b"k" * 32}, current=1, digests=[1])
        trail = Trail(self.audit.append)
        limits = limits or SubmissionLimits(MAX_DOCUMENT, allow_masked_and_invisible=False)
        made = DocumentService(
            self.pool,
            keyring,
            Neighbours(self.consent, self.identity.verify, trail, scanner or NoScanner(), objects, write_objects),
            limits,
            served=lambda direction, size: None,
            committed=lambda _: None,
            clock=self.clock,
            grace=grace,
        )
        self.opened.append(made)
        return made

    async def rows(self) -> dict[str, int]:
        tables = ("document", "content", "submission_set", "outbox", "idempotency")
        count = "SELECT count(*) FROM {} WHERE health_id = $1"
        return {table: await self.pool.fetchval(count.format(table), self.dossier) for table in tables}

    def last_event(self) -> audit_pb2.AuditEvent:
        return self.audit.events[-1]


@pytest.fixture(scope="module")
def document_database(postgres_url: Callable[[], str]) -> str:
    dsn = postgres_url()
    asyncio.run(migrate(dsn, MIGRATIONS, service="document"))
    return dsn


@pytest.fixture
async def world(document_database: str) -> AsyncIterator[World]:
    pool = await connect(document_database, min_size=1, max_size=4, name="dmp-test")
    made = World(pool, FakeConsent(), FakeIdentity(), FakeAudit())
    yield made
    for service in made.opened:
        await service.close()
    await pool.close()
