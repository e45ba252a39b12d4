"""Health as peers watch it, and as a supervisor on the same machine asks for it.

A replica that stops first says so to those who watch: they call another one from then on, so none of their calls comes
when it is too late (docs/decisions/0044-stopping-is-told.md). A kubelet's probe shows no certificate, and every other
port of a service demands one (docs/decisions/0008-probes.md): it asks on a port that serves nothing else. The answers
are those of the mutually authenticated port, given by the same event loop. No other method may live here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.settings import SettingsError

_OPTIONS: Final = [
    ("grpc.max_receive_message_length", 4 << 10),
    ("grpc.max_concurrent_streams", 16),
    ("grpc.so_reuseport", 0),
]


Status: TypeAlias = Any
"""One of `HealthCheckResponse`, whose stubs have no name for its type."""

_TOLD_WITHIN: Final = 0.25
"""Seconds that those who watch have to hear that a server stops, and to send what they have to another one."""


class Health(health_pb2_grpc.HealthServicer):
    """The health service of one server. Whoever watches waits for nobody else, and is let go when the server stops."""

    def __init__(self) -> None:
        self._status: dict[str, Status] = {"": health_pb2.HealthCheckResponse.SERVING}
        self._turned = asyncio.Event()
        self._leaving = self._gone = False
        self.watched = 0
        """By so many."""

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        """The status of a service of this server, of the whole server without a name."""
        status = self._status.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Tell the status now and at each change, until the server stops."""
        told: Status | None = None
        self.watched += 1
        try:
            while not self._gone:
                turned = self._turned
                status = self._status.get(request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
                if status != told:
                    await context.write(health_pb2.HealthCheckResponse(status=status))
                    told = status
                await turned.wait()
        finally:
            self.watched -= 1

    async def set(self, service: str, status: Status) -> None:
        """The status of a service from now on; nothing happens once the server leaves."""
        if not self._leaving:
            self._status[service] = status
            self._turn()

    async def enter_graceful_shutdown(self) -> None:
        """No service serves any more, whatever is said later."""
        self._leaving = True
        self._status = dict.fromkeys(self._status, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._turn()

    async def leave(self) -> None:
        """Before the server stops: tell those who watch, give them time to go elsewhere, and let them go."""
        await self.enter_graceful_shutdown()
        if self.watched:
            await asyncio.sleep(_TOLD_WITHIN)
        self._gone = True
        self._turn()

    def _turn(self) -> None:
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()


@asynccontextmanager
async def health_port(address: str | None, health: Health) -> AsyncIterator[None]:
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
