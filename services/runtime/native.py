"""gRPC served by `pygrpc-native`: HTTP/2 and framing in Rust, outside the GIL; the handlers are those of `grpcio`.

It has no TLS: it listens on a Unix socket that this user alone may open, and the TLS terminator behind that socket says
who is connected in `x-forwarded-client-cert`. That header is believed here and nowhere else. What an identity may do is
not decided here.

The package's own drop-in server is not used: it keeps for ever the calls that are cancelled before their task begins,
makes up a deadline where there is none, and waits for slow readers on threads that all share
(docs/decisions/0009-native-transport.md). This stands on the layer below it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import structlog
from pygrpc_native import EVENT_CANCEL, STREAM_CLOSED, STREAM_FULL, NativeGrpcFront

from services.runtime.boundary import RpcHandler
from services.runtime.context import callers_a_turn
from services.runtime.errors import DmpError, trailing_metadata
from services.runtime.terminator import Metadata, forwarded, renamed

_BATCH: Final = 256
"""Events taken from Rust in one go."""
_IO_THREADS: Final = 1
"""Rust needs 25 µs a call, the terminator's connection is one, and a second thread costs 6 µs of every call."""
_SENDING_SECONDS: Final = 0.2
"""How long a front that stops may take to send the last answers."""
_FULL_FIRST, _FULL_LONGEST = 0.001, 0.02
"""Seconds before looking again whether a slow reader has read."""

Details = tuple[Metadata, str, float | None]
Behaviour = Any  # typed for one transport in grpcio's stubs
Event = tuple[int, int, int, bytes | None, bytes | str | None, Details | None]

_log = structlog.get_logger("native")


class NativeContext:
    """The part of `grpc.aio.ServicerContext` that the platform's handlers and the health service use."""

    def __init__(
        self, server: NativeServer, call_id: int, details: Details, serialize: Callable[[Any], bytes] | None
    ) -> None:
        self._server = server
        self._call_id = call_id
        self._serialize = serialize
        self._metadata, self._peer, remaining = details
        self._deadline = None if remaining is None else time.monotonic() + remaining

    def invocation_metadata(self) -> Metadata:
        """The client's metadata, in the order sent."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """As grpcio's for mutual TLS: `peer_spiffe_id` when the terminator states exactly one, else nothing."""
        return forwarded(self._metadata)

    def peer(self) -> str:
        """The other end of the socket, which is the terminator."""
        return self._peer

    async def write(self, message: Any) -> None:
        """Send one message of a stream; CancelledError when the client is gone."""
        await self._server.send(self._call_id, message if self._serialize is None else self._serialize(message))

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """End the call with an error."""
        self._server.fail(self._call_id, code, details, trailing_metadata)
        raise grpc.aio.AbortError


class _Arrival:
    """A call of a method whose calls are served together: `together.Arrival`."""

    __slots__ = ("_call_id", "_handler", "_server", "context", "data", "gone")

    def __init__(self, server: NativeServer, call_id: int, handler: RpcHandler, data: bytes, details: Details) -> None:
        self._server = server
        self._call_id = call_id
        self._handler = handler
        self.data = data
        self.gone = False
        self.context = NativeContext(server, call_id, details, None)

    def answer(self, data: bytes) -> None:
        """End the call with this message; nothing happens when the client is gone."""
        self._server.answer(self._call_id, data)

    def refuse(self, error: DmpError) -> None:
        """End the call with this error; nothing happens when the client is gone."""
        self._server.fail(self._call_id, error.code, error.message, trailing_metadata(error))

    def alone(self) -> None:
        """Serve it by its method's handler."""
        self._server.begin(self._call_id, self._handler, self.data, self.context)


class NativeServer:
    """Serves unary and server-streaming methods on one Unix socket, on the event loop that starts it."""

    def __init__(
        self,
        path: str,
        handlers: Mapping[str, RpcHandler],
        together: Mapping[str, Callable[[_Arrival], None]] | None = None,
        *,
        max_message_bytes: int,
    ) -> None:
        """Listens at `path` at once, replacing a socket that is left there. Raises OSError.

        `handlers` by path ``/package.Service/Method``; a handler is a coroutine function (which may write a stream by
        itself) or an async generator function. `together` takes the calls of some of these paths instead.
        """
        self._limit = max_message_bytes
        self._handlers = list(handlers.values())
        self._together = [(together or {}).get(name) for name in handlers]
        self._arrived: dict[int, _Arrival] = {}
        self._none_arrived = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._events: deque[Event] = deque()
        self._beginning = False
        self._stopping = False
        methods = [(name, bool(handler.response_streaming)) for name, handler in handlers.items()]
        before = os.umask(0o177)  # only this user may connect, from the first moment on
        try:
            self._front = NativeGrpcFront(
                f"unix:{path}", methods, _IO_THREADS, call_details=True, delay_stream_headers=True
            )
        finally:
            os.umask(before)

    def fall_back_to(self, path: str) -> None:
        """Hand methods that have no handler to a grpcio server at a Unix socket. To be called before `start`."""
        self._front.set_fallback(path)

    async def start(self) -> None:
        """Accept connections."""
        self._loop = asyncio.get_running_loop()
        self._front.start()
        self._thread = threading.Thread(target=self._receive, args=(self._loop,), name="native-receive", daemon=True)
        self._thread.start()

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls, let those under way end for `grace` seconds, cancel the rest, close. Callable once."""
        self._stopping = True
        ends = time.monotonic() + (grace or 0.0)
        if self._arrived and grace:
            self._none_arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none_arrived.wait(), grace)
        for call_id in list(self._arrived):
            self.fail(call_id, grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        tasks = list(self._tasks.values())
        if tasks and grace:
            await asyncio.wait(tasks, timeout=max(0.0, ends - time.monotonic()))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The front sends on threads of its own, cuts what it has not sent when closed, and has no way to wait for it.
        await asyncio.sleep(_SENDING_SECONDS)
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._front.close()
        self._thread.join()

    # --- answers ---

    def fail(
        self,
        call_id: int,
        code: grpc.StatusCode,
        details: str,
        trailing_metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        """End a call with an error; nothing happens when it has ended.

        The front takes no push-back, whose key begins with `grpc-`: it goes under FORWARDED_PUSHBACK, and the
        terminator gives it its own name.
        """
        self._ended(call_id)
        self._front.fail(call_id, code.value[0], details, renamed(trailing_metadata))

    def answer(self, call_id: int, data: bytes) -> None:
        """End a unary call with a message; nothing happens when it has ended."""
        if len(data) > self._limit:
            self._too_large(call_id, "Sent", data)
            return
        self._ended(call_id)
        self._front.respond(call_id, data)

    def _ended(self, call_id: int) -> None:
        """A call that came with others has its end, or goes on alone."""
        self._arrived.pop(call_id, None)
        if self._stopping and not self._arrived:
            self._none_arrived.set()

    async def send(self, call_id: int, data: bytes) -> None:
        """Send one message of a stream once the client has read enough of those before it.

        Raises CancelledError when the client is gone, AbortError for a message above the limit.
        """
        if len(data) > self._limit:
            self._too_large(call_id, "Sent", data)
            raise grpc.aio.AbortError
        wait = _FULL_FIRST
        while (sent := self._front.stream_try_send(call_id, data)) == STREAM_FULL:
            await asyncio.sleep(wait)
            wait = min(wait * 2, _FULL_LONGEST)
        if sent == STREAM_CLOSED:
            raise asyncio.CancelledError

    def _too_large(self, call_id: int, what: str, data: bytes) -> None:
        self.fail(
            call_id,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"SERVER: {what} message larger than max ({len(data)} vs. {self._limit})",
        )

    # --- calls ---

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        """On a thread of its own: wait in Rust, hand whole batches to the event loop."""
        while (events := self._front.recv_batch_details(_BATCH)) is not None:
            try:
                loop.call_soon_threadsafe(self._take, events)
            except RuntimeError:  # the loop was closed without `stop`
                self._front.close()
                return

    def _take(self, events: list[Event]) -> None:
        self._events += events
        if not self._beginning:
            self._beginning = True
            self._begin_some()

    def _begin_some(self) -> None:
        """Begin a few calls in this turn of the loop, the others in the next ones: a turn with all would be long."""
        for _ in range(min(callers_a_turn(), len(self._events))):
            kind, call_id, method_id, payload, _, details = self._events.popleft()
            if kind == EVENT_CANCEL:
                self._cancel(call_id)
            elif self._stopping:
                self.fail(call_id, grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            elif payload is not None and details is not None:
                self._arrive(call_id, method_id, payload, details)
        self._beginning = bool(self._events)
        if self._beginning:
            self._loop.call_soon(self._begin_some)

    def _cancel(self, call_id: int) -> None:
        """The client is gone."""
        task, arrival = self._tasks.get(call_id), self._arrived.get(call_id)
        if task is not None:
            task.cancel()
        elif arrival is not None:
            arrival.gone = True

    def _arrive(self, call_id: int, method_id: int, payload: bytes, details: Details) -> None:
        handler, together = self._handlers[method_id], self._together[method_id]
        if len(payload) > self._limit:
            self._too_large(call_id, "Received", payload)
        elif together is None:
            self.begin(call_id, handler, payload, NativeContext(self, call_id, details, handler.response_serializer))
        else:
            arrival = self._arrived[call_id] = _Arrival(self, call_id, handler, payload, details)
            together(arrival)

    def begin(self, call_id: int, handler: RpcHandler, payload: bytes, context: NativeContext) -> None:
        """Serve a call in a task of its own."""
        self._ended(call_id)
        serve = self._stream if handler.response_streaming else self._unary
        task = self._loop.create_task(serve(call_id, handler, payload, context))
        self._tasks[call_id] = task
        # Not in the coroutine's own `finally`: a call cancelled in the batch that brought it never begins.
        task.add_done_callback(lambda _: self._tasks.pop(call_id, None))

    async def _unary(self, call_id: int, handler: RpcHandler, payload: bytes, context: NativeContext) -> None:
        behaviour: Behaviour = handler.unary_unary
        parse, serialize = handler.request_deserializer, handler.response_serializer
        try:
            response = await behaviour(payload if parse is None else parse(payload), context)
            data = response if serialize is None else serialize(response)
        except asyncio.CancelledError:
            self._cancelled(call_id)
            raise
        except grpc.aio.AbortError:
            return
        except Exception as error:  # noqa: BLE001 - the boundary: a call ends, not the server
            self._defect(call_id, error)
            return
        self.answer(call_id, data)

    async def _stream(self, call_id: int, handler: RpcHandler, payload: bytes, context: NativeContext) -> None:
        behaviour: Behaviour = handler.unary_stream
        parse = handler.request_deserializer
        try:
            answers = behaviour(payload if parse is None else parse(payload), context)
            if isinstance(answers, AsyncGenerator):
                await _pump(answers, context)
            else:
                await answers
        except asyncio.CancelledError:
            self._cancelled(call_id)
            raise
        except grpc.aio.AbortError:
            return
        except Exception as error:  # noqa: BLE001 - the boundary: a call ends, not the server
            self._defect(call_id, error)
            return
        self._front.stream_end(call_id)

    def _cancelled(self, call_id: int) -> None:
        """Only a call that was not cancelled by its client still has one who hears this."""
        if self._stopping:
            self.fail(call_id, grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        else:
            self.fail(call_id, grpc.StatusCode.CANCELLED, "cancelled")

    def _defect(self, call_id: int, error: Exception) -> None:
        _log.error("defect", exc_info=error)
        self.fail(call_id, grpc.StatusCode.INTERNAL, "internal error")


async def _pump(messages: AsyncGenerator[Any, None], context: NativeContext) -> None:
    try:
        async for message in messages:
            await context.write(message)
    finally:
        await messages.aclose()
