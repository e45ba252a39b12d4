"""The document service as a process of its own: mutual TLS, tokens, its neighbours over gRPC, kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from dmp.identity.v1 import identity_pb2
from ops.local.keys import ensure_keyring, ensure_token_keys
from ops.local.pki import CertificateAuthority
from ops.local.state import State
from services.document.__main__ import MIGRATIONS
from services.document.patients import VERIFY_PATIENTS
from services.runtime.channels import Peer
from services.runtime.checks import CHECK_ACCESS
from services.runtime.errors import DmpError, to_status
from services.runtime.identifiers import dossier_name, new_health_id
from services.runtime.limits import BATCH, NAMES, TRAFFIC_HEADER
from services.runtime.postgres import migrate
from services.runtime.server import APPEND
from services.runtime.settings import ServiceSettings
from services.runtime.tls import server_credentials
from services.runtime.tokens import TokenIssuer
from tests.documents import METHODS, FakeAudit, FakeIdentity, cda, decision, new_oid, professional, submission

ROOT = Path(__file__).parents[2]
SERVICE = "/dmp.document.v1.DocumentService/"
Context = grpc.aio.ServicerContext[Any, Any]


class Neighbours:
    """Consent, identity and audit on one port, in the test's own process."""

    def __init__(self) -> None:
        self.decision = decision()
        self.identity = FakeIdentity()
        self.audit = FakeAudit()
        self.asked = 0
        self.everyday = asyncio.Event()
        """Until it is set, everyday checks get no answer."""
        self.everyday.set()

    async def check(self, request: consent_pb2.BatchCheckAccessRequest, _: Context) -> Message:
        self.asked += len(request.requests)
        if not any(asked.context.actor.access_mode == context_pb2.ACCESS_MODE_REGULATION for asked in request.requests):
            await self.everyday.wait()
        result = consent_pb2.CheckAccessResult(decision=self.decision)
        return consent_pb2.BatchCheckAccessResponse(results=[result] * len(request.requests))

    async def verify(self, request: identity_pb2.BatchVerifyPatientsRequest, _: Context) -> Message:
        results = []
        for outcome in await self.identity.verify(list(request.requests)):
            if isinstance(outcome, DmpError):
                results.append(identity_pb2.VerifyPatientResult(status=to_status(outcome)))
            else:
                results.append(identity_pb2.VerifyPatientResult(verified=outcome))
        return identity_pb2.BatchVerifyPatientsResponse(results=results)

    async def append(self, request: audit_pb2.BatchAppendEventsRequest, context: Context) -> Message:
        if self.audit.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        appended = await self.audit.append(list(request.events))
        receipts = [receipt for receipt in appended if not isinstance(receipt, DmpError)]
        results = [audit_pb2.AppendEventResult(receipt=receipt) for receipt in receipts]
        return audit_pb2.BatchAppendEventsResponse(results=results)

    async def start(self, authority: CertificateAuthority) -> tuple[grpc.aio.Server, str]:
        server = grpc.aio.server()
        for path, handler, kind in (
            (CHECK_ACCESS, self.check, consent_pb2.BatchCheckAccessRequest),
            (VERIFY_PATIENTS, self.verify, identity_pb2.BatchVerifyPatientsRequest),
            (APPEND, self.append, audit_pb2.BatchAppendEventsRequest),
        ):
            _, service, method = path.split("/")
            wrapped = grpc.unary_unary_rpc_method_handler(handler, kind.FromString, _serialized)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: wrapped}),))
        mine = authority.service("consent")
        port = server.add_secure_port("127.0.0.1:0", server_credentials(mine.certificate, mine.key, mine.authority))
        await server.start()
        return server, f"127.0.0.1:{port}"


class Platform:
    """What one document service needs around it, and how to start it and call it."""

    def __init__(self, directory: Path, dsn: str, address: str, authority: CertificateAuthority, state: State) -> None:
        self.authority = authority
        self.tokens = ensure_token_keys(state)
        self.keyring = ensure_keyring(state, "document")
        self.dsn_file = directory / "dsn"
        self.dsn_file.write_text(dsn)
        self.neighbours_address = address
        self.address = f"127.0.0.1:{_free_port()}"
        self.dossier = new_health_id()
        identity = authority.internal("his")
        self.peer = Peer(
            "document",
            self.address,
            ServiceSettings(
                environment="test", tls_cert=identity.certificate, tls_key=identity.key, tls_ca=identity.authority
            ),
        )

    async def spawn(self, **more: str) -> asyncio.subprocess.Process:
        identity = self.authority.service("document")
        settings = {
            "DMP_ENVIRONMENT": "test",
            "DMP_LISTEN": self.address,
            "DMP_TLS_CERT": str(identity.certificate),
            "DMP_TLS_KEY": str(identity.key),
            "DMP_TLS_CA": str(identity.authority),
            "DMP_DSN_FILE": str(self.dsn_file),
            "DMP_JWKS_FILE": str(self.tokens.key_set),
            "DMP_KEYRING_DIR": str(self.keyring),
            "DMP_CONSENT_ADDRESS": self.neighbours_address,
            "DMP_IDENTITY_ADDRESS": self.neighbours_address,
            "DMP_AUDIT_ADDRESS": self.neighbours_address,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "stubs"))),
            "PATH": os.environ["PATH"],
            **more,
        }
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.document",
            cwd=ROOT,
            env=settings,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )

    @property
    def token(self) -> tuple[tuple[str, str], ...]:
        return self.token_in(context_pb2.ACCESS_MODE_NORMAL)

    def token_in(self, mode: context_pb2.AccessMode.ValueType) -> tuple[tuple[str, str], ...]:
        issuer = TokenIssuer(self.tokens.signing_key, self.tokens.kid, "https://dmp.local")
        claims = professional()
        claims.access_mode = mode
        claims.caller = access_pb2.CALLER_KIND_INTERNAL
        scopes = ("ITI-65", "ITI-67", "ITI-68")
        return (("authorization", f"Bearer {issuer.issue(claims, 'dmp', 300, scopes=scopes)}"),)

    async def ask(self, method: str, request: Message, metadata: tuple[tuple[str, str], ...] | None = None) -> Any:
        access = METHODS[method]
        call = self.peer.unary(SERVICE + method, access.request, access.response)
        return await call(request, timeout=10, metadata=self.token if metadata is None else metadata)

    async def submit(self, content: bytes, request_id: str = "") -> document_pb2.SubmitDocumentsResponse:
        """Submit, trying again with the same request_id while the service cannot be reached."""
        request = submission(self.dossier, (document_pb2.Document(), content), request_id=request_id)
        give_up = time.monotonic() + 20
        while True:
            try:
                response: document_pb2.SubmitDocumentsResponse = await self.ask("SubmitDocuments", request)
            except DmpError as error:
                if error.reason != reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE or time.monotonic() > give_up:
                    raise
            else:
                return response
            await asyncio.sleep(0.05)

    async def get(self, name: str) -> document_pb2.Document:
        response = await self.ask("GetDocument", document_pb2.GetDocumentRequest(name=name))
        document: document_pb2.Document = response.document
        return document

    async def read(self, name: str) -> tuple[document_pb2.Document, bytes]:
        call = self.peer.stream(
            SERVICE + "ReadDocument", document_pb2.ReadDocumentRequest, document_pb2.ReadDocumentResponse
        )
        request = document_pb2.ReadDocumentRequest(name=name)
        parts = [part async for part in call(request, timeout=10, metadata=self.token)]
        return parts[0].document, b"".join(part.chunk for part in parts)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def database(postgres_url: Callable[[], str]) -> str:
    dsn = postgres_url()
    asyncio.run(migrate(dsn, MIGRATIONS, service="document"))
    return dsn


@pytest.fixture
async def neighbours() -> Neighbours:
    return Neighbours()


@pytest.fixture
async def platform(database: str, neighbours: Neighbours, tmp_path: Path) -> AsyncIterator[Platform]:
    state = State.open(tmp_path / "state")
    authority = CertificateAuthority(state)
    server, address = await neighbours.start(authority)
    made = Platform(tmp_path, database, address, authority, state)
    yield made
    await made.peer.close()
    await server.stop(None)


@asynccontextmanager
async def running(platform: Platform, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The service, until the block ends."""
    process = await platform.spawn(**settings)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def within(seconds: float, condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; fail when it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def refusal(attempt: Awaitable[object]) -> int:
    """The reason for which an attempt is refused."""
    with pytest.raises(DmpError) as caught:
        await attempt
    return caught.value.reason


async def test_a_document_goes_in_and_comes_out_traced(platform: Platform, neighbours: Neighbours) -> None:
    async with running(platform) as process:
        content = cda(new_oid(), body="<!-- " + "x" * 300_000 + " -->")
        [document] = (await platform.submit(content)).documents
        await within(5, lambda: bool(neighbours.audit.events))
        assert [event.action for event in neighbours.audit.events] == ["document.submit"]
        assert await platform.get(document.name) == document
        head, received = await platform.read(document.name)
        assert (head, received) == (document, content)
        parent = dossier_name(platform.dossier)
        found = await platform.ask("SearchDocuments", document_pb2.SearchDocumentsRequest(parent=parent))
        assert (list(found.documents), found.total_size) == ([document], 1)
        actions = [event.action for event in neighbours.audit.events]
        assert actions == ["document.submit", "document.get", "document.read", "document.search"]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0


async def test_refusals_cross_the_wire_with_their_reason(platform: Platform, neighbours: Neighbours) -> None:
    async with running(platform):
        [document] = (await platform.submit(cda(new_oid()))).documents
        request = document_pb2.GetDocumentRequest(name=document.name)
        assert await refusal(platform.ask("GetDocument", request, ())) == reasons.ERROR_REASON_TOKEN_MISSING
        malformed = document_pb2.GetDocumentRequest(name=dossier_name(platform.dossier) + "/documents/nothing")
        assert await refusal(platform.ask("GetDocument", malformed)) == reasons.ERROR_REASON_INVALID_FIELD
        neighbours.identity.answer = DmpError(reasons.ERROR_REASON_PATIENT_MISMATCH)
        assert await refusal(platform.submit(cda(new_oid()))) == reasons.ERROR_REASON_PATIENT_MISMATCH
        assert neighbours.audit.events[-1].reason == reasons.ERROR_REASON_PATIENT_MISMATCH
        neighbours.decision = consent_pb2.Decision(permitted=False, reason=reasons.ERROR_REASON_BLOCKED)
        assert await refusal(platform.read(document.name)) == reasons.ERROR_REASON_BLOCKED
        assert neighbours.audit.events[-1].reason == reasons.ERROR_REASON_BLOCKED


async def test_with_audit_down_reads_fail_and_writes_are_traced_later(
    platform: Platform, neighbours: Neighbours
) -> None:
    async with running(platform):
        [first] = (await platform.submit(cda(new_oid()))).documents
        # A process that was killed before may have left events, which come first.
        await within(15, lambda: any(first.name in event.objects for event in neighbours.audit.events))
        told = len(neighbours.audit.events)
        neighbours.audit.down = True
        assert await refusal(platform.get(first.name)) == reasons.ERROR_REASON_AUDIT_UNAVAILABLE
        assert await refusal(platform.read(first.name)) == reasons.ERROR_REASON_AUDIT_UNAVAILABLE
        [second] = (await platform.submit(cda(new_oid()))).documents
        assert len(neighbours.audit.events) == told
        neighbours.audit.down = False
        await within(15, lambda: len(neighbours.audit.events) == told + 1)
        assert second.name in neighbours.audit.events[-1].objects
        assert await platform.get(first.name) == first


async def test_what_was_acknowledged_survives_a_kill_exactly_once(platform: Platform, neighbours: Neighbours) -> None:
    acknowledged: list[document_pb2.Document] = []
    async with running(platform) as process:
        for number in range(5):
            acknowledged += (await platform.submit(cda(new_oid()), f"kill-test-{number}")).documents
        process.kill()
        await process.wait()
    async with running(platform):
        await platform.submit(cda(new_oid()))
        for document in acknowledged:
            assert await platform.get(document.name) == document
        await within(10, lambda: len(_submitted(neighbours)) == 6)


def _submitted(neighbours: Neighbours) -> set[bytes]:
    """The ids of the events of submissions, each once however often it was delivered."""
    return {event.event_id for event in neighbours.audit.events if event.action == "document.submit"}


async def test_everyday_and_batch_work_that_is_stuck_leaves_emergencies_alone(
    platform: Platform, neighbours: Neighbours
) -> None:
    places = {"DMP_CONCURRENCY_MIN": "4", "DMP_CONCURRENCY_MAX": "4", "DMP_WAITING_SECONDS": "60"}
    async with running(platform, **places):
        [document] = (await platform.submit(cda(new_oid()))).documents
        request = document_pb2.GetDocumentRequest(name=document.name)
        neighbours.everyday.clear()
        before = neighbours.asked
        batch = (*platform.token, (TRAFFIC_HEADER, NAMES[BATCH]))
        crowd = [asyncio.ensure_future(platform.ask("GetDocument", request)) for _ in range(12)]
        await within(5, lambda: neighbours.asked > before)
        crowd += [asyncio.ensure_future(platform.ask("GetDocument", request, batch)) for _ in range(12)]
        urgent = platform.token_in(context_pb2.ACCESS_MODE_REGULATION)
        for _ in range(3):
            assert (await platform.ask("GetDocument", request, urgent)).document == document
        assert not any(call.done() for call in crowd), "they wait, and nobody waits for them"
        neighbours.everyday.set()
        answers = await asyncio.gather(*crowd)
        assert all(answer.document == document for answer in answers), "none is lost when the way is free again"
