"""Accepting several calls in one turn of the event loop, where grpcio's own server accepts one.

Lives here: only that, on grpcio's inner interface (the version is pinned; a test says when it changes). What waits to
be accepted waits in order of coming and unseen: no class goes first there, no bound holds, no deadline is looked at. A
busy loop has long turns, so that with one call a turn most of the queue is there and not under the limit
(docs/decisions/0010-overload.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled, without types

EXTRA: Final = 31
"""Calls accepted in a turn beside grpcio's own one."""

_log = structlog.get_logger("acceptance")


class Registered:
    """Takes handlers as a grpcio server does, for `AcceptingServer`."""

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Serve these too."""
        self.handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """The same handlers a second time, by name, which grpc.aio does not use."""


class AcceptingServer:
    """A `grpc.aio` server without interceptors that accepts several calls a turn."""

    def __init__(self, server: grpc.aio.Server, registered: Registered) -> None:
        """`server` has a port, no handlers, and is not started."""
        self._server = server
        self._handlers = registered.handlers
        self._acceptors: list[asyncio.Task[None]] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Accept calls."""
        self._server.add_generic_rpc_handlers(tuple(self._handlers))
        await self._server.start()
        inner = self._server._server  # type: ignore[attr-defined]
        self._acceptors = [asyncio.create_task(self._accept(inner)) for _ in range(EXTRA)]

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls; return when those under way have ended, at most `grace` seconds later."""
        await self._server.stop(grace)
        await asyncio.gather(*self._acceptors)

    async def _accept(self, inner: Any) -> None:
        loop = asyncio.get_running_loop()
        while inner.is_running():
            try:
                state = await inner._request_call()
            except cygrpc._RequestCallError:  # the server stops
                return
            handling = cygrpc._handle_rpc(self._handlers, (), state, loop, False)
            call = loop.create_task(cygrpc._schedule_rpc_coro(handling, state, loop))
            self._calls.add(call)
            call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled() and (error := call.exception()) is not None:
            _log.error("call_failed", exc_info=error)
