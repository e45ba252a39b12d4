"""The document service as a process of its own: mutual TLS, tokens, and neighbours of our own over gRPC."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from dmp.identity.v1 import identity_pb2
from ops.local.keys import ensure_keyring, ensure_token_keys
from ops.local.pki import CertificateAuthority, Identity
from ops.local.state import State
from services.document.patients import VERIFY_PATIENTS
from services.runtime.boundary import text_metadata
from services.runtime.channels import Peer
from services.runtime.checks import CHECK_ACCESS
from services.runtime.errors import DmpError, to_status
from services.runtime.identifiers import new_health_id
from services.runtime.limits import BATCH, said
from services.runtime.server import APPEND
from services.runtime.settings import ServiceSettings
from services.runtime.tls import server_credentials
from services.runtime.tokens import TokenIssuer
from tests.documents import METHODS, FakeAudit, FakeIdentity, decision, professional, submission
from tests.faults.forked import Fork, Process
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
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
        self.batch = asyncio.Event()
        """Until it is set, checks said to be for batch work get none."""
        self.batch.set()

    async def check(self, request: consent_pb2.BatchCheckAccessRequest, context: Context) -> Message:
        self.asked += len(request.requests)
        if said(text_metadata(context)) == BATCH:
            await self.batch.wait()
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

    def __init__(
        self,
        directory: Path,
        dsn: str,
        address: str,
        authority: CertificateAuthority,
        state: State,
        neighbours: Neighbours,
    ) -> None:
        self.neighbours = neighbours
        self.authority = authority
        self.tokens = ensure_token_keys(state)
        self.keyring = ensure_keyring(state, "document")
        self.dsn_file = directory / "dsn"
        self.dsn_file.write_text(dsn)
        self.neighbours_address = address
        self.address = f"127.0.0.1:{free_port()}"
        self.dossier = new_health_id()
        self.fork: Fork | None = None
        """If set, how the process is had instead of being started."""
        self.peer = self._peer(authority.internal("his"))
        self.operations = self._peer(authority.operator("operations"))

    def _peer(self, identity: Identity) -> Peer:
        files = {"tls_cert": identity.certificate, "tls_key": identity.key, "tls_ca": identity.authority}
        return Peer("document", self.address, ServiceSettings(environment="test", **files))  # type: ignore[arg-type]

    async def close(self) -> None:
        """Close the connections."""
        await self.peer.close()
        await self.operations.close()

    async def spawn(self, more: Mapping[str, str] | None = None) -> Process:
        """Start the service, with more settings."""
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
            **(more or {}),
        }
        if self.fork is not None:
            return await self.fork("document", settings, self.dsn_file.with_name("log"))
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
        """The professional's metadata in an access mode."""
        issuer = TokenIssuer(self.tokens.signing_key, self.tokens.kid, "https://dmp.local")
        claims = professional()
        claims.access_mode = mode
        claims.caller = access_pb2.CALLER_KIND_INTERNAL
        scopes = ("ITI-65", "ITI-67", "ITI-68")
        return (("authorization", f"Bearer {issuer.issue(claims, 'dmp', 300, scopes=scopes)}"),)

    async def ask(self, method: str, request: Message, metadata: tuple[tuple[str, str], ...] | None = None) -> Any:
        access = METHODS[method]
        call = self.peer.unary(access.path, access.request, access.response)
        return await call(request, timeout=10, metadata=self.token if metadata is None else metadata)

    async def submit(self, content: bytes, request_id: str = "") -> document_pb2.SubmitDocumentsResponse:
        """Submit, trying again with the same request_id while the service cannot be reached."""
        request = submission(self.dossier, (document_pb2.Document(), content), request_id=request_id)
        response: document_pb2.SubmitDocumentsResponse = await self.patiently("SubmitDocuments", request)
        return response

    async def patiently(self, method: str, request: Message) -> Any:
        """Ask, again and again while the service cannot be reached."""
        return await self._patiently(lambda: self.ask(method, request))

    async def operate(self, method: str, request: Message) -> Any:
        """An operator's call, with an operator's certificate; again and again while the service cannot be reached."""
        issuer = TokenIssuer(self.tokens.signing_key, self.tokens.kid, "https://dmp.local")
        claims = context_pb2.ActingContext(
            actor_kind=context_pb2.ACTOR_KIND_OPERATOR,
            subject="operator-1",
            client_id="operations",
            caller=access_pb2.CALLER_KIND_OPERATOR,
        )
        access = METHODS[method]
        scopes = ("operator", *access.scopes)
        token = (("authorization", f"Bearer {issuer.issue(claims, 'dmp', 300, scopes=scopes)}"),)
        call = self.operations.unary(access.path, access.request, access.response)
        return await self._patiently(lambda: call(request, timeout=20, metadata=token))

    async def _patiently(self, attempt: Callable[[], Awaitable[Any]]) -> Any:
        give_up = time.monotonic() + 20
        while True:
            try:
                return await attempt()
            except DmpError as error:
                if error.reason != reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE or time.monotonic() > give_up:
                    raise
            await asyncio.sleep(0.05)

    async def told(self, count: int, name: str, action: str) -> None:
        """Wait until the log has so many events of an action about a document; more would be one told twice."""

        def events() -> int:
            return sum(e.action == action and name in e.objects for e in self.neighbours.audit.events)

        async with asyncio.timeout(20):
            while events() < count:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        distinct = {e.event_id for e in self.neighbours.audit.events if e.action == action and name in e.objects}
        assert len(distinct) == count

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
