"""Calls that the gateway relays together: each is served as if it had come alone (docs/decisions/0032-relay.md).

A call of its own costs the gateway and the service some 0.1 ms of CPU each, whatever it is for. What this saves is the
transport alone: every relayed call has its own token, which this process verifies, its own place under the limit,
its own decision, its own event and its own error, for it goes through the very handler of its method. Only the
certificate of the connection is shared; it is the gateway's, as it would be for each of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.gateway.v1 import relay_pb2
from services.runtime.addresses import ADDRESS_HEADER
from services.runtime.boundary import Context, RpcHandler
from services.runtime.context import callers_a_turn
from services.runtime.errors import DETAILS_KEY, DmpError
from services.runtime.limits import BATCH, NAMES, TRAFFIC_HEADER
from services.runtime.validation import validate

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


class RelayedCalls:
    """Serves the calls of a batch by the handlers of their methods."""

    def __init__(self, handlers: Mapping[str, RpcHandler]) -> None:
        """`handlers` by path, bytes in and out; those of streams are not served together."""
        self._handlers = handlers

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
        connection = context.auth_context()
        serving = []
        try:
            left = callers_a_turn()
            for call in request.calls:
                served = _served(handler, call, _RelayedContext(call, connection))
                serving.append(asyncio.get_running_loop().create_task(served))
                left -= 1
                if not left:
                    await asyncio.sleep(0)
                    left = callers_a_turn()
            results = await asyncio.gather(*serving)
        except BaseException:
            for task in serving:
                task.cancel()
            raise
        return relay_pb2.RelayCallsResponse(results=results).SerializeToString()


async def _served(
    handler: RpcHandler, call: relay_pb2.RelayedCall, context: _RelayedContext
) -> relay_pb2.RelayedResult:
    """What became of one call; a defect of it leaves the others alone, for `boundary.unary` makes an error of it."""
    behaviour: Any = handler.unary_unary
    try:
        return relay_pb2.RelayedResult(response=await behaviour(call.request, context))
    except _Ended as ended:
        return relay_pb2.RelayedResult(status=ended.status)
