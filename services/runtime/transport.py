"""Where a service listens, by DMP_TRANSPORT: `grpcio` with mutual TLS in process, or `native` on a Unix socket behind a
TLS terminator, and beside it on grpcio for the platform's other services (DMP_PEER_LISTEN). The handlers, and what they
are told about the connection, are the same. No RPC of any service.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.runtime import tls
from services.runtime.acceptance import AcceptingServer, Registered
from services.runtime.boundary import RpcHandler, Rpcs
from services.runtime.health import Health
from services.runtime.settings import UNIX, ServiceSettings, SettingsError
from services.runtime.terminator import behind_terminator

_HEALTH: Final = "grpc.health.v1.Health"


class Server(Protocol):
    """A started server."""

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls; return when those under way have ended, at most `grace` seconds later."""
        ...


@dataclass(frozen=True, slots=True)
class _Told:
    """A server that tells those who watch its health before it stops."""

    server: Server
    health: Health

    async def stop(self, grace: float | None) -> None:
        """As the server's, once they have been told."""
        await self.health.leave()
        await self.server.stop(grace)


async def listen(
    settings: ServiceSettings,
    rpcs: Rpcs,
    services: Sequence[str] = (),
    *,
    serving: bool = True,
    client_certificate: bool = True,
) -> tuple[Server, Health]:
    """A started server of `rpcs` and of health, and who tells its health. To stop it tells that first.

    `services` are the full names that health and, if switched on, reflection know. `client_certificate` is false where
    callers are known by their token alone; on `native` it is the terminator that demands one.
    Raises SettingsError when it cannot listen.
    """
    health = Health()
    status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    for name in ("", *services):
        await health.set(name, status)
    known = (*services, reflection.SERVICE_NAME) if settings.reflection else ()
    try:
        if settings.transport == "native":
            native = await _native(settings, rpcs, health, known, client_certificate=client_certificate)
            return _Told(native, health), health
        server = await _grpcio(settings, settings.listen, rpcs, health, known, client_certificate=client_certificate)
        return _Told(server, health), health
    except (RuntimeError, OSError) as error:
        raise SettingsError([f"DMP_LISTEN: cannot listen on {settings.listen}"]) from error


def server_options(settings: ServiceSettings) -> list[tuple[str, int]]:
    """Transport options: bounded messages, no port sharing, keepalive that tolerates idle peers."""
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.so_reuseport", 0),
        # A client silent after the TLS handshake can crash grpcio 1.78.2 when the server stops: few, and not for long.
        ("grpc.server_handshake_timeout_ms", 5_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_concurrent_streams", settings.streams_per_connection),
        # It would reset calls of a client that keeps to that number, while ended ones are still being cleared away.
        ("grpc.http.overload_protection", 0),
    ]


async def _grpcio(
    settings: ServiceSettings,
    address: str,
    rpcs: Rpcs,
    health: Health,
    reflected: Sequence[str],
    *,
    client_certificate: bool,
) -> Server:
    server, registered = grpc.aio.server(options=server_options(settings)), Registered()
    registered.add_generic_rpc_handlers((rpcs,))
    if client_certificate:
        health_pb2_grpc.add_HealthServicer_to_server(health, registered)  # type: ignore[arg-type]  # it registers as a server does
    else:
        registered.add_generic_rpc_handlers((Rpcs(_public_health_handlers(health)),))
    if reflected:
        reflection.enable_server_reflection(reflected, registered)  # type: ignore[arg-type]
    credentials = tls.server_credentials(*settings.tls_files(), client_certificate=client_certificate)
    server.add_secure_port(address, credentials)
    accepting = AcceptingServer(server, registered)
    await accepting.start()
    return accepting


async def _native(
    settings: ServiceSettings, rpcs: Rpcs, health: Health, reflected: Sequence[str], *, client_certificate: bool
) -> Server:
    from services.runtime.native import NativeServer  # not needed, and on some systems not there, for grpcio

    path = settings.listen.removeprefix(UNIX)
    handlers = {**rpcs.handlers, **_health_handlers(health, watch=client_certificate)}
    server = NativeServer(path, handlers, rpcs.together, max_message_bytes=settings.max_message_bytes)
    beside: list[Server] = []
    if settings.peer_listen is not None:
        beside.append(await _for_peers(settings, settings.peer_listen, rpcs, health))
    if reflected or rpcs.bidirectional:
        streams = {name: behind_terminator(handler) for name, handler in rpcs.bidirectional.items()}
        beside.append(await _behind(f"{path}.reflection", reflected, streams, settings.max_message_bytes))
        server.fall_back_to(f"{path}.reflection")
    await server.start()
    return _Several((server, *beside)) if beside else server


async def _for_peers(settings: ServiceSettings, address: str, rpcs: Rpcs, health: Health) -> Server:
    """The same for the platform's own services, by mutual TLS in process (docs/decisions/0047)."""
    try:
        return await _grpcio(settings, address, rpcs, health, (), client_certificate=True)
    except (RuntimeError, OSError) as error:
        raise SettingsError([f"DMP_PEER_LISTEN: cannot listen on {address}"]) from error


def _health_handlers(health: Health, *, watch: bool) -> dict[str, RpcHandler]:
    """Whoever watches holds a stream for as long as it likes: not where anyone may connect."""
    request, response = health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
    check = {f"/{_HEALTH}/Check": grpc.unary_unary_rpc_method_handler(health.Check, request, response)}
    watched = {f"/{_HEALTH}/Watch": grpc.unary_stream_rpc_method_handler(health.Watch, request, response)}
    return check | watched if watch else check


def _public_health_handlers(health: Health) -> dict[str, RpcHandler]:
    """Health where anyone may connect: of the whole server, and without reading the request, however large it is."""

    async def check(_messages: object, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        response = await health.Check(health_pb2.HealthCheckRequest(), context)
        return response.SerializeToString()

    return {f"/{_HEALTH}/Check": grpc.stream_unary_rpc_method_handler(check)}


@dataclass(frozen=True, slots=True)
class _Several:
    """A native server, and the grpcio servers beside it: for peers, and behind it for what native does not serve, which
    is streams of requests."""

    servers: Sequence[Server]

    async def stop(self, grace: float | None) -> None:
        await asyncio.gather(*(server.stop(grace) for server in self.servers))


async def _behind(
    path: str, reflected: Sequence[str], bidirectional: Mapping[str, RpcHandler], max_message_bytes: int
) -> grpc.aio.Server:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", max_message_bytes)])
    server.add_generic_rpc_handlers((Rpcs({}, bidirectional),))
    if reflected:
        reflection.enable_server_reflection(reflected, server)
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"{UNIX}{path}")
    finally:
        os.umask(before)
    await server.start()
    return server
