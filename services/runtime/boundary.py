"""The edge of an RPC: counted, traced, and nothing crosses it but an answer or an error with a reason.

Used by the dispatcher of a service and by the gateway's relay; what they do inside is theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, NoReturn, Protocol, TypeAlias

import grpc
import grpc.aio
import structlog

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime import faults
from services.runtime.errors import DmpError, trailing_metadata
from services.runtime.observation import Calls, Watch

Metadata = Mapping[str, str]


class Context(Protocol):
    """What a handler needs of its call, on every transport: a part of `grpc.aio.ServicerContext`."""

    def invocation_metadata(self) -> Any: ...
    def time_remaining(self) -> float | None: ...
    def auth_context(self) -> Any: ...
    def peer(self) -> str: ...
    async def abort(self, code: grpc.StatusCode, details: str = ..., trailing_metadata: Any = ...) -> NoReturn: ...


RpcHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Receive = Callable[[], Awaitable[bytes]]
"""Gives the request's bytes; ask for them once the caller is known."""
Answer = Callable[[Receive, Context, Metadata, Watch], Awaitable[bytes]]
Collected = Callable[[AsyncIterator[bytes], Context, Metadata, Watch], Awaitable[bytes]]
"""Answers a stream of requests. Nothing of it is read before it is asked for."""
Answers = Callable[[Receive, Context, Metadata, Watch], AsyncIterator[bytes]]

_log = structlog.get_logger("rpc")


class Rpcs(grpc.GenericRpcHandler):
    """The handlers of a server by path ``/package.Service/Method``, for every transport."""

    def __init__(
        self,
        handlers: Mapping[str, RpcHandler],
        bidirectional: Mapping[str, RpcHandler] | None = None,
        together: Mapping[str, Callable[[Any], None]] | None = None,
    ) -> None:
        """`bidirectional` are those that only grpcio serves, behind every other transport: all whose client streams.
        `together` takes calls (`together.Arrival`) of some of the methods, where the transport gives them so."""
        self.handlers: Final = handlers
        self.together: Final[Mapping[str, Callable[[Any], None]]] = together or {}
        self.bidirectional: Final[Mapping[str, RpcHandler]] = bidirectional or {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> RpcHandler | None:
        """The handler of a path, as grpcio asks for it; None (UNIMPLEMENTED) for what is not ours."""
        path = handler_call_details.method
        return self.handlers.get(path) or self.bidirectional.get(path)


def unary(calls: Calls, path: str, answer: Answer, *, known_first: bool = False) -> RpcHandler:
    """The handler of a unary method, bytes in and out.

    `known_first` (grpcio only) leaves the request on the wire until `answer` asks for it. grpcio takes a whole message
    into memory before it looks at its size, so only callers who are known may make it do so.
    """

    async def serve_received(receive: Receive, context: Context) -> bytes:
        metadata = text_metadata(context)
        watch = calls.begin(path, metadata.get("traceparent"))
        try:
            response = await answer(receive, context, metadata, watch)
            faults.point("reply.before")
            return response
        except DmpError as error:
            watch.failed(error)
            await abort_with(context, error)
        except asyncio.CancelledError:
            watch.code = "CANCELLED"
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: nothing else may cross an RPC
            await abort_with(context, _defect(watch, error))
        finally:
            watch.end()

    async def serve(data: bytes, context: Context) -> bytes:
        return await serve_received(_received(data), context)

    async def serve_on_demand(messages: AsyncIterator[bytes], context: Context) -> bytes:
        return await serve_received(_on_demand(messages), context)

    if known_first:
        return grpc.stream_unary_rpc_method_handler(serve_on_demand)
    return grpc.unary_unary_rpc_method_handler(serve)


def streaming(calls: Calls, path: str, answers: Answers, *, known_first: bool = False) -> RpcHandler:
    """The handler of a server-streaming method, bytes in and out; `known_first` as for `unary`."""

    async def serve_received(receive: Receive, context: Context) -> AsyncGenerator[bytes, None]:
        metadata = text_metadata(context)
        watch = calls.begin(path, metadata.get("traceparent"))
        try:
            async for message in answers(receive, context, metadata, watch):
                yield message
        except DmpError as error:
            watch.failed(error)
            await abort_with(context, error)
        except (asyncio.CancelledError, GeneratorExit):
            watch.code = "CANCELLED"
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: nothing else may cross an RPC
            await abort_with(context, _defect(watch, error))
        finally:
            watch.end()

    async def serve(data: bytes, context: Context) -> AsyncIterator[bytes]:
        async with aclosing(serve_received(_received(data), context)) as answered:
            async for message in answered:
                yield message

    async def serve_on_demand(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async with aclosing(serve_received(_on_demand(messages), context)) as answered:
            async for message in answered:
                yield message

    if known_first:
        return grpc.stream_stream_rpc_method_handler(serve_on_demand)
    return grpc.unary_stream_rpc_method_handler(serve)


def client_streaming(calls: Calls, path: str, collected: Collected) -> RpcHandler:
    """The handler of a client-streaming method, bytes in and out. grpcio only."""

    async def serve(messages: AsyncIterator[bytes], context: Context) -> bytes:
        async def answer(_: Receive, context: Context, metadata: Metadata, watch: Watch) -> bytes:
            return await collected(messages, context, metadata, watch)

        behaviour: Any = unary(calls, path, answer).unary_unary
        response: bytes = await behaviour(b"", context)
        return response

    return grpc.stream_unary_rpc_method_handler(serve)


async def next_message(messages: AsyncIterator[bytes], seconds: float) -> bytes | None:
    """The next message of a client's stream, None at its end. DEADLINE_EXCEEDED when the sender stalls."""
    try:
        async with asyncio.timeout(seconds):
            return await anext(messages, None)
    except TimeoutError:
        raise DmpError(reasons.ERROR_REASON_DEADLINE_EXCEEDED) from None


def _received(data: bytes) -> Receive:
    async def receive() -> bytes:
        return data

    return receive


def _on_demand(messages: AsyncIterator[bytes]) -> Receive:
    """The one message of a unary call; a call without one, or with two, is no call of ours."""

    async def receive() -> bytes:
        data = [message async for message in messages]
        if len(data) != 1:
            raise DmpError(reasons.ERROR_REASON_MALFORMED_REQUEST)
        return data[0]

    return receive


def text_metadata(context: Context) -> dict[str, str]:
    """The text metadata of a call; of a key sent twice the last value counts, except that two tokens are none.

    A terminator makes one line of two, with a comma, which no token contains.
    """
    metadata: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            twice = key == "authorization" and (key in metadata or "," in value)
            metadata[key] = "" if twice else value
    return metadata


def _defect(watch: Watch, error: Exception) -> DmpError:
    """An unforeseen exception: logged by type and frames, never by its text, which may hold values."""
    _log.error("defect", method=watch.path, exc_info=error)
    defect = DmpError(reasons.ERROR_REASON_INTERNAL)
    watch.failed(defect)
    return defect


async def abort_with(context: Context, error: DmpError) -> NoReturn:
    """End the call with an error, on the wire as the table of reasons has it."""
    await context.abort(error.code, error.message, trailing_metadata(error))
    raise AssertionError("abort raises")
