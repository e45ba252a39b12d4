"""The gRPC relay for partner software: authenticates, then forwards bytes by method name without decoding them.

What a method does, whom it is for and which scope it needs is decided, and recorded, by the service that owns it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable

from gateway.callers import Caller, Callers
from services.runtime.access import MethodAccess
from services.runtime.boundary import Context, Metadata, Receive, RpcHandler, Rpcs, streaming, unary
from services.runtime.channels import Peer
from services.runtime.context import hurry
from services.runtime.errors import DmpError
from services.runtime.limits import EMERGENCY, Limit, Place, traffic_of
from services.runtime.observation import Calls, SecurityLog, Watch

_LONGEST_CALL = 60.0


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
        *,
        known_first: bool,
    ) -> None:
        """`peer_of` gives the peer of a path such as `/dmp.audit.v1.AuditService/ListEvents`.

        `known_first` is that of `boundary.unary`: anyone may connect here, so nothing of an unknown caller is read.
        """
        self._callers = callers
        self._calls = calls
        self._security = security
        self._limit = limit
        self._known_first = known_first
        super().__init__({method.path: self._handler(method, peer_of(method.path)) for method in methods})

    def _handler(self, method: MethodAccess, peer: Peer) -> RpcHandler:
        forward, forward_stream = peer.unary_bytes(method.path), peer.stream_bytes(method.path)

        async def answer(receive: Receive, context: Context, metadata: Metadata, watch: Watch) -> bytes:
            caller = await self._verify(metadata, context, watch)
            data = await receive()  # before it has its place: a sender may be slow
            async with self._place(method, caller):
                return await forward(data, timeout=caller.timeout, metadata=caller.metadata())

        async def answers(receive: Receive, context: Context, metadata: Metadata, watch: Watch) -> AsyncIterator[bytes]:
            caller = await self._verify(metadata, context, watch)
            data = await receive()
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

    def _place(self, method: MethodAccess, caller: Caller) -> Place:
        traffic = traffic_of(method.traffic, caller.actor, caller.actor.caller, lowered=caller.lowered)
        if traffic == EMERGENCY:
            hurry()
        return self._limit.place(traffic, caller.timeout)

    async def _verify(self, headers: Metadata, context: Context, watch: Watch) -> Caller:
        timeout = min(context.time_remaining() or _LONGEST_CALL, _LONGEST_CALL)
        try:
            return await self._callers.verify(headers, watch.span.traceparent, timeout)
        except DmpError as error:
            self._security.refused(watch.path, error.reason_name, "")
            raise
