"""Calls that the gateway relays together: each is served as if it had come alone (docs/decisions/0032-relay.md).

A call of its own costs the gateway and the service some 0.1 ms of CPU each, whatever it is for. What this saves is the
transport alone: every relayed call has its own token, which this process verifies, its own place under the limit,
its own decision, its own event and its own error, for it goes through the very handler of its method. Only the
certificate of the connection is shared; it is the gateway's, as it would be for each of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.gateway.v1 import relay_pb2
from services.runtime.addresses import ADDRESS_HEADER
from services.runtime.boundary import Context, RpcHandler
from services.runtime.context import callers_a_turn
from services.runtime.errors import DETAILS_KEY, DmpError, to_status
from services.runtime.limits import BATCH, NAMES, TRAFFIC_HEADER
from services.runtime.together import Together
from services.runtime.validation import validate
from services.runtime.wire import embedded

PATH: Final = "/dmp.gateway.v1.RelayService/RelayCalls"


class _Ended(Exception):
    """A relayed call has ended with an error."""

    def __init__(self, status: status_pb2.Status) -> None:
        self.status = status


class _RelayedContext:
    """What a handler needs of its call, for one of several: `boundary.Context`."""

    __slots__ = ("_connection", "_deadline", "_metadata")

    def __init__(self, call: relay_pb2.RelayedCall, connection: Mapping[str, Sequence[bytes]]) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + call.timeout_ms / 1000
        metadata = [("authorization", f"Bearer {call.token}"), ("x-request-id", call.request_id)]
        if call.traceparent:
            metadata.append(("traceparent", call.traceparent))
        if call.network_address:
            metadata.append((ADDRESS_HEADER, call.network_address))
        if call.lowered:
            metadata.append((TRAFFIC_HEADER, NAMES[BATCH]))
        self._metadata = metadata

    def invocation_metadata(self) -> list[tuple[str, str]]:
        """As the gateway would send it with the call alone."""
        return self._metadata

    def time_remaining(self) -> float:
        """Seconds until the call's own deadline."""
        return max(0.0, self._deadline - time.monotonic())

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """The connection's."""
        return self._connection

    def peer(self) -> str:
        """The gateway's end, which is nobody's address."""
        return ""

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """End this call, and no other."""
        status = status_pb2.Status(code=code.value[0], message=details)
        for key, value in trailing_metadata:
            if key == DETAILS_KEY:
                status.ParseFromString(value)
        raise _Ended(status)


class _Batch:
    """The results of one relayed request, until all of them are there."""

    def __init__(self, size: int) -> None:
        self._results = [b""] * size
        self._missing = size
        self._whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.tasks: list[asyncio.Task[None]] = []
        self.gone = False

    def take(self, number: int, outcome: bytes) -> None:
        """What became of a call: the one field of its RelayedResult."""
        self._results[number] = embedded(b"\x0a", outcome)
        self._missing -= 1
        if not self._missing and not self._whole.done():
            self._whole.set_result(None)

    async def response(self) -> bytes:
        """A RelayCallsResponse of all of them, in order."""
        await self._whole
        return b"".join(self._results)


class _Arrival:
    """A relayed call, to be served with others: `together.Arrival`."""

    __slots__ = ("_batch", "_handler", "_number", "context", "data")

    def __init__(
        self,
        batch: _Batch,
        number: int,
        handler: RpcHandler,
        call: relay_pb2.RelayedCall,
        connection: Mapping[str, Sequence[bytes]],
    ) -> None:
        self._batch = batch
        self._number = number
        self._handler = handler
        self.data = call.request
        self.context = _RelayedContext(call, connection)

    def answer(self, data: bytes) -> None:
        """End the call with this message."""
        self._batch.take(self._number, embedded(b"\x0a", data))

    def refuse(self, error: DmpError) -> None:
        """End the call with this error."""
        self._fail(to_status(error))

    def alone(self) -> None:
        """Serve it by its method's handler."""
        self._batch.tasks.append(asyncio.get_running_loop().create_task(self._serve()))

    @property
    def gone(self) -> bool:
        """Whether the gateway has given up all calls of the batch."""
        return self._batch.gone

    async def _serve(self) -> None:
        """A defect of it leaves the others alone, for `boundary.unary` makes an error of it."""
        behaviour: Any = self._handler.unary_unary
        try:
            self.answer(await behaviour(self.data, self.context))
        except _Ended as ended:
            self._fail(ended.status)

    def _fail(self, status: status_pb2.Status) -> None:
        self._batch.take(self._number, embedded(b"\x12", status.SerializeToString()))


class RelayedCalls:
    """Serves the calls of a batch by the handlers of their methods."""

    def __init__(self, handlers: Mapping[str, RpcHandler], together: Mapping[str, Together] | None = None) -> None:
        """`handlers` by path, bytes in and out; those of streams are not served together. `together` takes the calls of
        some of these paths instead."""
        self._handlers = handlers
        self._together = together or {}

    async def answer(self, data: bytes, context: Context) -> bytes:
        """The serialized RelayCallsResponse, once the last call has ended. DmpError for what is no such request.

        Whoever calls this has made sure that it is the gateway that asks.
        """
        try:
            request = relay_pb2.RelayCallsRequest.FromString(data)
        except DecodeError:
            raise DmpError(reasons.ERROR_REASON_MALFORMED_REQUEST) from None
        validate(request)
        handler = self._handlers.get(request.path)
        if handler is None or handler.response_streaming or request.path == PATH:
            raise DmpError(reasons.ERROR_REASON_METHOD_NOT_FOUND)
        connection, together = context.auth_context(), self._together.get(request.path)
        batch = _Batch(len(request.calls))
        arrivals = [_Arrival(batch, number, handler, call, connection) for number, call in enumerate(request.calls)]
        try:
            if together is None:
                await _begin(_Arrival.alone, arrivals)
            else:
                with together.group():
                    await _begin(together.arrive, arrivals)
            return await batch.response()
        except BaseException:
            batch.gone = True
            for task in batch.tasks:
                task.cancel()
            raise


async def _begin(serve: Callable[[Any], None], arrivals: Sequence[_Arrival]) -> None:
    """A few in each turn of the event loop."""
    left = callers_a_turn()
    for arrival in arrivals:
        serve(arrival)
        left -= 1
        if not left:
            await asyncio.sleep(0)
            left = callers_a_turn()
