"""How to tell that a service answers: its port is open, then its gRPC health check says SERVING over mutual TLS."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

from ops.local.pki import Identity

_RETRY_SECONDS = 0.03
_CALL_SECONDS = 1.0
_QUICK_RECONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 30),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
)


async def accepts_tcp(address: str) -> None:
    """Waits until something listens on `host:port`."""
    host, port = address.rsplit(":", 1)
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            writer.close()
            return


async def serves_grpc(address: str, caller: Identity) -> None:
    """Waits until the server at `host:port` reports SERVING for itself as a whole."""
    await accepts_tcp(address)
    await _reports_serving(grpc.aio.secure_channel(address, client_credentials(caller), options=_QUICK_RECONNECT))


async def serves_grpc_at_socket(path: Path) -> None:
    """As `serves_grpc`, for a server at a Unix socket, without TLS."""
    await _reports_serving(grpc.aio.insecure_channel(f"unix:{path}", options=_QUICK_RECONNECT))


async def _reports_serving(connecting: grpc.aio.Channel) -> None:
    async with connecting as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        while True:
            try:
                answer = await check(health_pb2.HealthCheckRequest(), timeout=_CALL_SECONDS)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
            await asyncio.sleep(_RETRY_SECONDS)


def client_credentials(caller: Identity) -> grpc.ChannelCredentials:
    """Channel credentials that show `caller` and trust its authority."""
    return grpc.ssl_channel_credentials(
        root_certificates=caller.authority.read_bytes(),
        private_key=caller.key.read_bytes(),
        certificate_chain=caller.certificate.read_bytes(),
    )
