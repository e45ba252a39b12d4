"""A service as a process of its own, between a real database and an audit log that is a list in the test's process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2
from dmp.common.v1.context_pb2 import ActingContext
from ops.local.keys import ensure_keyring, ensure_token_keys
from ops.local.pki import CertificateAuthority, Identity
from ops.local.state import ServiceName, State
from services.runtime import postgres
from services.runtime.access import MethodAccess
from services.runtime.channels import Peer
from services.runtime.server import APPEND
from services.runtime.settings import ServiceSettings
from services.runtime.tls import server_credentials
from services.runtime.tokens import TokenIssuer
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
Context = grpc.aio.ServicerContext[Any, Any]
Answer = TypeVar("Answer", bound=Message)


class AuditLog:
    """Keeps each event once; `down` makes it unreachable."""

    def __init__(self) -> None:
        self.events: dict[bytes, audit_pb2.AuditEvent] = {}
        self.down = False

    @property
    def actions(self) -> list[str]:
        """What was recorded, in order."""
        return [event.action for event in self.events.values()]

    async def append(self, request: audit_pb2.BatchAppendEventsRequest, context: Context) -> Message:
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        for event in request.events:
            self.events.setdefault(event.event_id, event)
        receipt = audit_pb2.AppendEventResult(receipt=audit_pb2.AppendReceipt())
        return audit_pb2.BatchAppendEventsResponse(results=[receipt] * len(request.events))

    async def start(self, mine: Identity) -> tuple[grpc.aio.Server, str]:
        """The server and its address."""
        _, service, method = APPEND.split("/")
        handler = grpc.unary_unary_rpc_method_handler(
            self.append,
            audit_pb2.BatchAppendEventsRequest.FromString,
            audit_pb2.BatchAppendEventsResponse.SerializeToString,
        )
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        port = server.add_secure_port("127.0.0.1:0", server_credentials(mine.certificate, mine.key, mine.authority))
        await server.start()
        return server, f"127.0.0.1:{port}"


class ServiceProcess:
    """One service, how to start it, and calls to it: by an internal system with a token, or by another service."""

    def __init__(self, service: ServiceName, directory: Path, dsn: str, audit_address: str, state: State) -> None:
        self.service = service
        self._authority = CertificateAuthority(state)
        self._tokens = ensure_token_keys(state)
        self._dsn_file = directory / "dsn"
        self._dsn_file.write_text(dsn)
        self._keyring = ensure_keyring(state, service)
        self._audit_address = audit_address
        self.address = f"127.0.0.1:{free_port()}"
        self._system = Peer(service, self.address, _as(self._authority.internal("his")))
        self._sibling = Peer(service, self.address, _as(self._authority.service("document")))

    async def spawn(self) -> asyncio.subprocess.Process:
        """Start the process."""
        mine = self._authority.service(self.service)
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"services.{self.service}",
            cwd=ROOT,
            env={
                "DMP_ENVIRONMENT": "test",
                "DMP_LISTEN": self.address,
                "DMP_TLS_CERT": str(mine.certificate),
                "DMP_TLS_KEY": str(mine.key),
                "DMP_TLS_CA": str(mine.authority),
                "DMP_DSN_FILE": str(self._dsn_file),
                "DMP_JWKS_FILE": str(self._tokens.key_set),
                "DMP_KEYRING_DIR": str(self._keyring),
                "DMP_AUDIT_ADDRESS": self._audit_address,
                "DMP_CONSENT_ADDRESS": self._audit_address,
                "DMP_DOCUMENT_ADDRESS": self._audit_address,
                "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "stubs"))),
                "PATH": os.environ["PATH"],
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )

    async def ask(self, access: MethodAccess, request: Message, actor: ActingContext) -> Any:
        """As an internal system, with a token that states who acts."""
        claims = ActingContext()
        claims.CopyFrom(actor)
        claims.caller = access_pb2.CALLER_KIND_INTERNAL
        claims.client_id = "his"
        issuer = TokenIssuer(self._tokens.signing_key, self._tokens.kid, "https://dmp.local")
        token = issuer.issue(claims, "dmp", 300, scopes=tuple(access.scopes))
        call = self._system.unary(access.path, access.request, access.response)
        return await call(request, timeout=10, metadata=(("authorization", f"Bearer {token}"),))

    async def ask_as_service(self, access: MethodAccess, request: Message) -> Any:
        """As another service of the platform."""
        return await self._sibling.unary(access.path, access.request, access.response)(request, timeout=10)

    async def ask_as_nobody(self, access: MethodAccess, request: Message) -> Any:
        """As an internal system, without a token."""
        return await self._system.unary(access.path, access.request, access.response)(request, timeout=10, metadata=())

    async def close(self) -> None:
        """Close the channels."""
        await self._system.close()
        await self._sibling.close()


@asynccontextmanager
async def running(process: ServiceProcess) -> AsyncIterator[asyncio.subprocess.Process]:
    """The service, until the block ends."""
    started = await process.spawn()
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


@asynccontextmanager
async def service_process(
    service: ServiceName, dsn: str, directory: Path
) -> AsyncIterator[tuple[ServiceProcess, AuditLog]]:
    """A service with its migrated database, and its audit log; started by `running`."""
    await postgres.migrate(dsn, ROOT / "services" / service / "migrations", service=service)
    state = State.open(directory / "state")
    log = AuditLog()
    server, address = await log.start(CertificateAuthority(state).service("audit"))
    process = ServiceProcess(service, directory, dsn, address, state)
    try:
        yield process, log
    finally:
        await process.close()
        await server.stop(None)


def _as(identity: Identity) -> ServiceSettings:
    return ServiceSettings(
        environment="test", tls_cert=identity.certificate, tls_key=identity.key, tls_ca=identity.authority
    )
