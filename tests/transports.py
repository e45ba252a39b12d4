"""A small service on a real transport: the runtime's own dispatcher and listener, a servicer whose answers a test sets,
and for `native` a real Envoy in front; `peers` is the door of a native service for the platform's other services. What
any client may do to a server is tried on it, on each transport alike.
"""

from __future__ import annotations

import asyncio
import io
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import grpc
import grpc.aio

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1.context_pb2 import ActingContext
from dmp.document.v1 import document_pb2
from dmp.gateway.v1 import relay_pb2
from ops.local.envoy import Terminator
from ops.local.keys import ensure_token_keys
from ops.local.pki import CertificateAuthority, Identity
from ops.local.readiness import client_credentials, serves_grpc
from ops.local.state import State
from ops.local.supervisor import Supervisor
from services.runtime import limits
from services.runtime.access import methods_of
from services.runtime.authentication import Authenticator
from services.runtime.context import Call
from services.runtime.dispatcher import Dispatcher
from services.runtime.errors import DmpError
from services.runtime.health import Health
from services.runtime.observation import Calls, SecurityLog
from services.runtime.settings import ServiceSettings, Transport
from services.runtime.telemetry import setup
from services.runtime.together import Asked, Outcome, ServeMany
from services.runtime.tokens import TokenVerifier
from services.runtime.trail import Trail
from services.runtime.transport import Server, listen
from tests.platform_calls import bearer, signed
from tests.ports import free_port

DESCRIPTOR: Final = document_pb2.DESCRIPTOR.services_by_name["DocumentService"]
RELAY: Final = relay_pb2.DESCRIPTOR.services_by_name["RelayService"]
METHODS: Final = methods_of([DESCRIPTOR, RELAY])
CLIENT: Final = "his"
Door = Transport | Literal["peers"]


class Servicer:
    """The document service's methods, answered as a test says."""

    def __init__(self) -> None:
        self.get: Callable[[document_pb2.GetDocumentRequest, Call], Awaitable[document_pb2.GetDocumentResponse]] = _echo
        self.read: Callable[
            [document_pb2.ReadDocumentRequest, Call], AsyncIterator[document_pb2.ReadDocumentResponse]
        ] = _chunks
        self.get_many: ServeMany | None = None
        """Serves calls of GetDocument that come together; without it each is served alone, by `get`."""
        self.together: dict[str, ServeMany] = {"GetDocument": self._get_many}
        self.sizes: list[int] = []
        self.collected: Collected

    async def GetDocument(self, request: document_pb2.GetDocumentRequest, call: Call) -> Any:
        return await self.get(request, call)

    async def _get_many(self, asked: Sequence[Asked]) -> Sequence[Outcome]:
        return [None] * len(asked) if self.get_many is None else await self.get_many(asked)

    async def ReadDocument(self, request: document_pb2.ReadDocumentRequest, call: Call) -> AsyncIterator[Any]:
        messages = self.read(request, call)
        try:
            async for message in messages:
                yield message
        finally:
            await messages.aclose()  # type: ignore[attr-defined]

    async def SubmitDocuments(self, request: document_pb2.SubmitDocumentsRequest, call: Call) -> Any:
        self.sizes.append(sum(len(each.content) for each in request.documents))
        return document_pb2.SubmitDocumentsResponse()

    async def UploadContent(self, request: document_pb2.UploadContentRequest, call: Call) -> Collected:
        self.collected = Collected(call)
        await self.collected.add(request)
        return self.collected

    async def SearchDocuments(self, request: document_pb2.SearchDocumentsRequest, call: Call) -> Any:
        return document_pb2.SearchDocumentsResponse()

    def __getattr__(self, name: str) -> Any:
        if name in DESCRIPTOR.methods_by_name:
            return self.SearchDocuments
        raise AttributeError(name)


class Collected:
    """A stream of chunks as it came."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.chunks: list[bytes] = []
        self.refusal: DmpError | None = None

    async def add(self, request: document_pb2.UploadContentRequest) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.chunks.append(request.chunk)

    async def end(self) -> document_pb2.UploadContentResponse:
        written = sum(map(len, self.chunks))
        return document_pb2.UploadContentResponse(upload=document_pb2.Upload(written=written))


async def _echo(request: document_pb2.GetDocumentRequest, call: Call) -> document_pb2.GetDocumentResponse:
    return document_pb2.GetDocumentResponse(document=document_pb2.Document(name=request.name))


async def _chunks(
    request: document_pb2.ReadDocumentRequest, call: Call
) -> AsyncIterator[document_pb2.ReadDocumentResponse]:
    for number in range(5):
        yield document_pb2.ReadDocumentResponse(chunk=bytes([number]) * 100_000)


@dataclass(slots=True)
class Served:
    """A running service and how to call it."""

    transport: Door
    settings: ServiceSettings
    address: str
    state: State
    authority: CertificateAuthority
    servicer: Servicer
    server: Server
    limit: limits.Limit
    health: Health
    recorded: list[audit_pb2.AuditEvent]
    terminator: Terminator | None
    _channels: list[grpc.aio.Channel] = field(default_factory=list)

    def channel(self, identity: Identity | None = None, *, credentials: Any = None) -> grpc.aio.Channel:
        """A connection of its own, by default of the internal system CLIENT; closed with the service."""
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_retries", 0),
        ]
        shown = credentials or client_credentials(identity or self.authority.internal(CLIENT))
        channel = grpc.aio.secure_channel(self.address, shown, options)
        self._channels.append(channel)
        return channel

    def bearer(self, request_id: str = "") -> list[tuple[str, str]]:
        """The metadata of a call of CLIENT that may call any method."""
        return bearer(self.token(access_pb2.CALLER_KIND_INTERNAL, CLIENT), request_id)

    def token(self, caller: access_pb2.CallerKind.ValueType, client_id: str, patient: int = 0) -> str:
        """A token of a client for a professional, with every scope."""
        claims = ActingContext(
            actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
            subject="899700000001",
            caller=caller,
            client_id=client_id,
            patient_health_id=patient,
        )
        scopes = sorted({scope for method in METHODS.values() for scope in method.scopes})
        return signed(self.state, claims, scopes, now=time.time())

    async def close(self) -> None:
        """Close the channels, stop the service."""
        for channel in self._channels:
            await channel.close()
        await self.server.stop(1)


@asynccontextmanager
async def served(transport: Door, *, beside: Served | None = None, **more: Any) -> AsyncIterator[Served]:
    """The service, behind a terminator where the transport needs one; with `beside` of that one's authority."""
    async with AsyncExitStack() as resources:
        root = Path(tempfile.mkdtemp(prefix="dmp-served-"))
        resources.callback(shutil.rmtree, root)
        state = State.open(root)
        authority = CertificateAuthority(state) if beside is None else beside.authority
        mine, address, path = authority.service("document"), _free_address(), root / "document.sock"
        keys = ensure_token_keys(state)
        settings = ServiceSettings(
            environment="test",
            transport="grpcio" if transport == "grpcio" else "native",
            listen=address if transport == "grpcio" else f"unix:{path}",
            peer_listen=address if transport == "peers" else None,
            tls_cert=mine.certificate,
            tls_key=mine.key,
            tls_ca=mine.authority,
            **more,
        )
        telemetry = setup("document", settings, stream=io.BytesIO())
        resources.callback(telemetry.close)
        servicer, recorded = Servicer(), list[audit_pb2.AuditEvent]()
        trail = Trail(_append_to(recorded))
        resources.push_async_callback(trail.close)
        verifier = TokenVerifier(keys.key_set, settings.token_audience, settings.token_issuer)
        limit = limits.measured(limits.Bounds.of(settings), telemetry.metrics)
        dispatcher = Dispatcher(
            METHODS,
            {DESCRIPTOR.full_name: servicer},
            Authenticator(verifier),
            trail,
            Calls(telemetry),
            SecurityLog(telemetry),
            limit,
            slowest_message=settings.stream_stall_seconds,
        )
        server, health = await listen(settings, dispatcher, [DESCRIPTOR.full_name])
        terminator = None
        if transport == "native":
            supervisor = Supervisor(state)
            resources.push_async_callback(supervisor.stop_all)
            terminator = Terminator("envoy", address, path, mine, root / "envoy", client_certificate=True)
            watcher = authority.operator("watcher")
            await supervisor.start(terminator.spec(order=0, ready=lambda: serves_grpc(address, watcher)))
        running = Served(
            transport, settings, address, state, authority, servicer, server, limit, health, recorded, terminator
        )
        resources.push_async_callback(running.close)
        yield running


def _append_to(
    recorded: list[audit_pb2.AuditEvent],
) -> Callable[[list[audit_pb2.AuditEvent]], Awaitable[Sequence[audit_pb2.AppendReceipt | DmpError]]]:
    async def append(events: list[audit_pb2.AuditEvent]) -> Sequence[audit_pb2.AppendReceipt | DmpError]:
        await asyncio.sleep(0)
        recorded.extend(events)
        return [audit_pb2.AppendReceipt() for _ in events]

    return append


def _free_address() -> str:
    return f"127.0.0.1:{free_port()}"
