"""Health as a supervisor on the same machine asks for it: without TLS, on a port that serves nothing else.

A kubelet's probe shows no certificate, and every other port of a service demands one (docs/decisions/0008-probes.md).
The answers are those of the mutually authenticated port, given by the same event loop. No other method may live here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from services.runtime.settings import SettingsError

_OPTIONS: Final = [
    ("grpc.max_receive_message_length", 4 << 10),
    ("grpc.max_concurrent_streams", 16),
    ("grpc.so_reuseport", 0),
]


@asynccontextmanager
async def health_port(address: str | None, health: health_aio.HealthServicer) -> AsyncIterator[None]:
    """Answer health checks at `address` (host:port) during the body; without an address, do nothing.

    Raises SettingsError when it cannot listen there.
    """
    if address is None:
        yield
        return
    server = grpc.aio.server(options=_OPTIONS)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise SettingsError([f"DMP_HEALTH_LISTEN: cannot listen on {address}"]) from error
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)
