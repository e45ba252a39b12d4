"""The one way into a service: decode, authenticate, route, serve, trace refusals, count, map errors.

Handlers are wrapped once per method and kept. Messages are decoded here, so that bytes that are no
message are a clear error and not the transport's INTERNAL. Rules about who may call are in
`authentication`; what a method does is in its service.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NoReturn, Protocol

from google.protobuf.message import DecodeError, Message

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.access import MethodAccess
from services.runtime.addresses import peer_address
from services.runtime.authentication import GATEWAY, Authenticator, Identified, about, route
from services.runtime.boundary import (
    Context,
    Metadata,
    Receive,
    RpcHandler,
    Rpcs,
    client_streaming,
    next_message,
    streaming,
    text_metadata,
    unary,
)
from services.runtime.context import Call, enter, go_on_as
from services.runtime.errors import DmpError
from services.runtime.limits import EMERGENCY, SERVICE, Limit, Place, is_lowered, said, traffic_of
from services.runtime.observation import Calls, SecurityLog, Watch
from services.runtime.relayed import PATH, RelayedCalls
from services.runtime.tls import peer_identity
from services.runtime.together import Admit, Admitted, Arrival, Asked, ServeMany, Together
from services.runtime.trail import Trail

Handler = Callable[[Any, Call], Any]
"""What serves a method: a coroutine function, an async generator function where it streams, and where the client
streams a coroutine function that is given the first message and returns a `Collecting`. A servicer may also have a
mapping `together`: by the names of methods, what serves many of their calls at once (`ServeMany`)."""


class Collecting(Protocol):
    """The rest of a stream of requests: told of each message, then of the end."""

    async def add(self, request: Any) -> None: ...
    async def end(self) -> Message: ...


class Dispatcher(Rpcs):
    """Serves every method of the registered servicers, each wrapped once."""

    def __init__(
        self,
        methods: Mapping[str, MethodAccess],
        servicers: Mapping[str, object],
        authenticator: Authenticator,
        trail: Trail,
        calls: Calls,
        security: SecurityLog,
        limit: Limit,
        *,
        slowest_message: float = 20,
    ) -> None:
        """`servicers` by full service name; each has a coroutine method per RPC, which gives the response message or
        its bytes. `slowest_message` is how many seconds a client may take for the next message of its stream."""
        self._limit = limit
        self._slowest = slowest_message
        self._authenticator = authenticator
        self._trail = trail
        self._calls = calls
        self._security = security
        relayed = methods.get(PATH)
        wrapped = {path: self._wrap(method, _find(servicers, path)) for path, method in methods.items() if path != PATH}
        streams = {path: handler for path, handler in wrapped.items() if methods[path].client_streaming}
        handlers = {path: handler for path, handler in wrapped.items() if path not in streams}
        self._together = {
            path: Together(path, self._admitting(methods[path]), serve, limit, calls)
            for path, serve in _served_together(servicers).items()
        }
        together = {path: each.arrive for path, each in self._together.items()}
        if relayed is not None:
            handlers[PATH] = self._relaying(relayed, RelayedCalls(dict(handlers), self._together))
        super().__init__(handlers, streams, together)

    async def close(self) -> None:
        """Answer what was accepted."""
        for each in self._together.values():
            await each.close()

    def _wrap(self, method: MethodAccess, handler: Handler) -> RpcHandler:
        async def answer(receive: Receive, context: Context, metadata: Metadata, watch: Watch) -> bytes:
            data = await receive()
            call = await self._authenticated(method, data, context, metadata, watch)
            async with self._place(call, metadata):
                call, request = await self._routed(call, data)
                response: Message | bytes = await handler(request, call)
                return response if isinstance(response, bytes) else response.SerializeToString()

        async def answers(receive: Receive, context: Context, metadata: Metadata, watch: Watch) -> AsyncIterator[bytes]:
            data = await receive()
            call = await self._authenticated(method, data, context, metadata, watch)
            async with self._place(call, metadata):  # until the first message is there: readers may be slow
                call, request = await self._routed(call, data)
                responses: AsyncIterator[Message] = handler(request, call)
                first = await anext(responses, None)
            if first is not None:
                yield first.SerializeToString()
                async for response in responses:
                    yield response.SerializeToString()

        async def collected(
            messages: AsyncIterator[bytes], context: Context, metadata: Metadata, watch: Watch
        ) -> bytes:
            peeked = await next_message(messages, self._slowest)
            call = await self._authenticated(method, peeked or b"", context, metadata, watch)
            if peeked is None:
                await self._refuse(Identified(call, DmpError(reasons.ERROR_REASON_MALFORMED_REQUEST)), b"")
            async with self._place(call, metadata):
                call, request = await self._routed(call, peeked)
                collecting: Collecting = await handler(request, call)
            while (data := await next_message(messages, self._slowest)) is not None:
                message = await self._decoded(call, data)
                async with self._place(call, metadata):  # not while it waits: senders may be slow
                    await collecting.add(message)
            async with self._place(call, metadata):
                response = await collecting.end()
            return response.SerializeToString()

        if method.client_streaming:
            return client_streaming(self._calls, method.path, collected)
        if method.server_streaming:
            return streaming(self._calls, method.path, answers)
        return unary(self._calls, method.path, answer)

    def _relaying(self, method: MethodAccess, relayed: RelayedCalls) -> RpcHandler:
        """The handler of calls that the gateway relays together."""

        async def answer(receive: Receive, context: Context, metadata: Metadata, watch: Watch) -> bytes:
            data = await receive()
            call = await self._authenticated(method, data, context, metadata, watch)
            if call.peer != GATEWAY.name:
                raise DmpError(reasons.ERROR_REASON_CALLER_NOT_ALLOWED)
            async with self._place(call, metadata):
                return await relayed.answer(data, context)

        return unary(self._calls, method.path, answer)

    def _admitting(self, method: MethodAccess) -> Admit:
        """The way in for calls that are served together: that of `answer`, which needs no waiting. Where it says no,
        and in an emergency, the call is left to `answer`."""

        def admit(arrival: Arrival) -> Admitted | None:
            context = arrival.context
            metadata, peer = text_metadata(context), peer_identity(context)
            remaining = context.time_remaining()
            if remaining is not None and remaining <= 0:
                return None
            watch = self._calls.begin(method.path, metadata.get("traceparent"))
            try:
                address = "" if peer == GATEWAY else peer_address(context.peer())
                traceparent = watch.span.traceparent
                call = self._authenticator.authenticate(method, peer, metadata, remaining, traceparent, address)
                request = _decode(call, method, arrival.data)
                call = route(call, request)
            except (DmpError, Identified):
                self._calls.forget(watch)
                return None
            traffic = traffic_of(method.traffic, call.actor, call.caller, lowered=is_lowered(metadata))
            if traffic == EMERGENCY:
                self._calls.forget(watch)
                return None
            return Admitted(Asked(call, request), arrival, watch, traffic, remaining)

        return admit

    async def _authenticated(
        self, method: MethodAccess, data: bytes, context: Context, metadata: Metadata, watch: Watch
    ) -> Call:
        """Who calls. A refusal of someone with a valid token is traced, which takes a place as any work does."""
        peer = peer_identity(context)
        try:
            return self._authenticator.authenticate(
                method,
                peer,
                metadata,
                context.time_remaining(),
                watch.span.traceparent,
                "" if peer == GATEWAY else peer_address(context.peer()),
            )
        except Identified as refused:
            async with self._place(refused.call, metadata):
                await self._refuse(refused, data)
        except DmpError as error:
            self._security.refused(method.path, error.reason_name, peer.name if peer else "")
            raise

    async def _routed(self, call: Call, data: bytes) -> tuple[Call, Message]:
        """Decode and route; the call is the current one from here on."""
        try:
            request = _decode(call, call.method, data)
            call = route(call, request)
        except Identified as refused:
            await self._refuse(refused, data)
        enter(call)
        return call, request

    async def _decoded(self, call: Call, data: bytes) -> Message:
        """A message that follows the first."""
        try:
            return _decode(call, call.method, data)
        except Identified as refused:
            await self._refuse(refused, b"")

    async def _refuse(self, refused: Identified, data: bytes) -> NoReturn:
        """Refusals of those with a valid token are traced before they are answered."""
        await self._trail.refuse(_with_dossier(refused.call, data), refused.error)
        raise refused.error from None

    def _place(self, call: Call, metadata: Metadata) -> Place:
        traffic = traffic_of(call.method.traffic, call.actor, call.caller, lowered=is_lowered(metadata))
        go_on_as(said(metadata) if traffic == SERVICE else traffic)
        return self._limit.place(traffic, call.remaining())


def _decode(call: Call, method: MethodAccess, data: bytes) -> Message:
    try:
        return method.request.FromString(data)
    except DecodeError:
        raise Identified(call, DmpError(reasons.ERROR_REASON_MALFORMED_REQUEST)) from None


def _with_dossier(call: Call, data: bytes) -> Call:
    try:
        return about(call, call.method.request.FromString(data))
    except DecodeError:
        return call


def _served_together(servicers: Mapping[str, object]) -> dict[str, ServeMany]:
    """By path, what the servicers can serve many calls of at once."""
    return {
        f"/{service}/{name}": serve
        for service, servicer in servicers.items()
        for name, serve in getattr(servicer, "together", {}).items()
    }


def _find(servicers: Mapping[str, object], path: str) -> Handler:
    _, service, name = path.split("/")
    handler: Handler = getattr(servicers[service], name)
    return handler
