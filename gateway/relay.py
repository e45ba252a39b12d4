"""The gRPC relay for partner software: authenticates, then forwards bytes by method name without decoding them.

What a method does, whom it is for and which scope it needs is decided, and recorded, by the service that owns it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.callers import Caller, Callers, Refused
from gateway.fairness import Fairness, FairPlace
from gateway.forwarding import TOGETHER, Alone, Together
from gateway.relay_together import RelayTogether
from gateway.usage import OK, Usage, outcome_of_reason
from services.runtime.access import MethodAccess
from services.runtime.addresses import peer_address
from services.runtime.boundary import (
    Context,
    Metadata,
    Receive,
    RpcHandler,
    Rpcs,
    client_streaming,
    next_message,
    streaming,
    unary,
)
from services.runtime.channels import Peer
from services.runtime.context import go_on_as
from services.runtime.errors import DmpError
from services.runtime.limits import Limit
from services.runtime.observation import Calls, SecurityLog, Watch

_LONGEST_CALL = 60.0
_LONGEST_REQUEST = 20.0


@dataclass(frozen=True, slots=True)
class Own:
    """A method that the gateway answers itself: from the caller and the request's bytes to the answer's."""

    method: MethodAccess
    answer: Callable[[Caller, bytes], Awaitable[bytes]]


class Relay(Rpcs):
    """Forwards every method of the services."""

    def __init__(
        self,
        methods: Iterable[MethodAccess],
        peer_of: Callable[[str], Peer],
        callers: Callers,
        calls: Calls,
        security: SecurityLog,
        limit: Limit,
        fairness: Fairness,
        usage: Usage,
        *,
        known_first: bool,
        own: Mapping[str, Own] | None = None,
        bidirectional: Mapping[str, RpcHandler] | None = None,
    ) -> None:
        """`peer_of` gives the peer of a path such as `/dmp.audit.v1.AuditService/ListEvents`.

        `known_first` is that of `boundary.unary`: anyone may connect here, so nothing of an unknown caller is read.
        `own` are methods of the gateway itself, and `bidirectional` its streams, by path.
        """
        self._callers = callers
        self._calls = calls
        self._security = security
        self._fairness = fairness
        self._usage = usage
        self._known_first = known_first
        whole = list(methods)
        streamed = [method for method in whole if method.client_streaming]
        handlers = {m.path: self._handler(m, peer_of(m.path)) for m in whole if not m.client_streaming}
        handlers |= {path: self._own_handler(answer) for path, answer in (own or {}).items()}
        streams = {method.path: self._collecting(method, peer_of(method.path)) for method in streamed}
        self._together = {
            m.path: RelayTogether(m, peer_of(m.path), callers, calls, (limit, fairness), usage)
            for m in whole
            if m.path in TOGETHER
        }
        together = {path: each.arrive for path, each in self._together.items()}
        super().__init__(handlers, {**streams, **(bidirectional or {})}, together)

    async def close(self) -> None:
        """Answer what was accepted."""
        for each in self._together.values():
            await each.close()

    def _handler(self, method: MethodAccess, peer: Peer) -> RpcHandler:
        forward_stream = peer.stream_bytes(method.path)
        forward = Together(peer, method.path) if method.path in TOGETHER else Alone(peer, method.path)

        async def answer(receive: Receive, context: Context, metadata: Metadata, watch: Watch) -> bytes:
            with Counted(self._usage, method.path) as counted:
                caller = counted.of(await self._verify(method, metadata, context, watch, counted))
                data = await _in_time(receive)  # before it has its place: a sender may be slow
                async with self._place(method, caller):
                    return await forward(data, caller)

        async def answers(receive: Receive, context: Context, metadata: Metadata, watch: Watch) -> AsyncIterator[bytes]:
            with Counted(self._usage, method.path) as counted:
                caller = counted.of(await self._verify(method, metadata, context, watch, counted))
                data = await _in_time(receive)
                async with self._place(method, caller):  # until the first message is there: readers may be slow
                    messages = forward_stream(data, timeout=caller.timeout, metadata=caller.metadata())
                    first = await anext(messages, None)
                if first is not None:
                    yield first
                    async for message in messages:
                        yield message

        if method.server_streaming:
            return streaming(self._calls, method.path, answers, known_first=self._known_first)
        return unary(self._calls, method.path, answer, known_first=self._known_first)

    def _collecting(self, method: MethodAccess, peer: Peer) -> RpcHandler:
        """A stream of requests is passed on message by message, each read when the one before has gone."""
        forward = peer.collected_bytes(method.path)

        async def collected(
            messages: AsyncIterator[bytes], context: Context, metadata: Metadata, watch: Watch
        ) -> bytes:
            with Counted(self._usage, method.path) as counted:
                caller = counted.of(await self._verify(method, metadata, context, watch, counted))
                async with self._place(method, caller):  # to begin: a sender may be slow
                    pass
                return await forward.collect(_each(messages), timeout=caller.timeout, metadata=caller.metadata())

        return client_streaming(self._calls, method.path, collected)

    def _place(self, method: MethodAccess, caller: Caller) -> FairPlace:
        traffic = caller.traffic_of(method.traffic)
        go_on_as(traffic)
        return self._fairness.place(caller.actor.client_id, traffic, caller.timeout)

    def _own_handler(self, own: Own) -> RpcHandler:
        async def answer(receive: Receive, context: Context, metadata: Metadata, watch: Watch) -> bytes:
            with Counted(self._usage, own.method.path) as counted:
                caller = counted.of(await self._verify(own.method, metadata, context, watch, counted))
                data = await _in_time(receive)
                async with self._place(own.method, caller):
                    return await own.answer(caller, data)

        return unary(self._calls, own.method.path, answer, known_first=self._known_first)

    async def _verify(
        self, method: MethodAccess, headers: Metadata, context: Context, watch: Watch, counted: Counted
    ) -> Caller:
        timeout = min(context.time_remaining() or _LONGEST_CALL, _LONGEST_CALL)
        try:
            return await self._callers.verify(
                headers, watch.span.traceparent, timeout, method.traffic, peer_address(context.peer())
            )
        except Refused as error:
            counted.client_id = error.client_id
            raise
        except DmpError as error:
            self._security.refused(watch.path, error.reason_name, "")
            raise


class Counted:
    """One call on its way into its client's usage; one whose client is not known counts nowhere."""

    __slots__ = ("_operation", "_started", "_usage", "client_id")

    def __init__(self, usage: Usage, path: str) -> None:
        self._usage = usage
        self._operation = path.rpartition("/")[2]
        self.client_id = ""

    def of(self, caller: Caller) -> Caller:
        """The call is this caller's."""
        self.client_id = caller.actor.client_id
        return caller

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not self.client_id:
            return
        outcome = OK
        if isinstance(error, DmpError):
            outcome = outcome_of_reason(error.reason)
        elif error is not None:
            outcome = "failed"
        self._usage.add(self.client_id, self._operation, outcome, time.perf_counter() - self._started)


async def _each(messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The messages of a stream, unless their sender is too slow."""
    while (message := await next_message(messages, _LONGEST_REQUEST)) is not None:
        yield message


async def _in_time(receive: Receive) -> bytes:
    """The request, unless its sender is too slow."""
    try:
        async with asyncio.timeout(_LONGEST_REQUEST):
            return await receive()
    except TimeoutError:
        raise DmpError(reasons.ERROR_REASON_DEADLINE_EXCEEDED) from None
