"""What a TLS terminator before a native service tells it, and how that is believed: on a socket that only this user
may open, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from services.runtime.boundary import RpcHandler

FORWARDED_CERTIFICATE: Final = "x-forwarded-client-cert"
"""Whose certificate the terminator has verified. It removes what a client wrote there."""
FORWARDED_PUSHBACK: Final = "x-retry-pushback-ms"
"""Push-back on its way to the terminator, which calls it by its own name, `grpc-retry-pushback-ms`."""
_PUSHBACK: Final = "grpc-retry-pushback-ms"
_VERIFIED: Final = re.compile(r'(?:By=[^,;="\s]+;)?Hash=[0-9a-f]{64};URI=([^,;="\s]+)')

Metadata = tuple[tuple[str, str | bytes], ...]


@lru_cache(maxsize=4096)
def forwarded_id(header: str) -> bytes | None:
    """The URI name of the client's certificate in what the terminator wrote; None unless it is exactly one element
    with exactly one URI, in Envoy's own form: ``By=<own URI>;Hash=<SHA-256>;URI=<URI>``."""
    match = _VERIFIED.fullmatch(header)
    return None if match is None else match[1].encode()


def behind_terminator(handler: RpcHandler) -> RpcHandler:
    """A handler of grpcio, behind a native server, for which the terminator says who is connected, as it does here."""
    if not handler.request_streaming or handler.response_streaming:
        return handler
    behaviour: Any = handler.stream_unary

    async def serve(messages: Any, context: Any) -> Any:
        return await behaviour(messages, _BehindContext(context))

    return grpc.stream_unary_rpc_method_handler(serve, handler.request_deserializer, handler.response_serializer)


def forwarded(metadata: Metadata) -> Mapping[str, Sequence[bytes]]:
    """As grpcio's authentication context, from what the terminator wrote."""
    stated = [value for key, value in metadata if key == FORWARDED_CERTIFICATE]
    if len(stated) != 1 or not isinstance(stated[0], str):
        return {}
    identity = forwarded_id(stated[0])
    return {} if identity is None else {"peer_spiffe_id": [identity]}


class _BehindContext:
    """The context of a call that grpcio serves behind a native server, on a socket that this user alone may open."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def invocation_metadata(self) -> Metadata:
        """The client's metadata, in the order sent."""
        return tuple((key, value) for key, value in self._context.invocation_metadata() or ())

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, None without one."""
        remaining: float | None = self._context.time_remaining()
        return remaining

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """As that of `NativeContext`."""
        return forwarded(self.invocation_metadata())

    def peer(self) -> str:
        """The other end of the socket, which is the native server."""
        peer: str = self._context.peer()
        return peer

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """End the call with an error; push-back as `NativeServer.fail` names it."""
        await self._context.abort(code, details, tuple(renamed(trailing_metadata)))
        raise grpc.aio.AbortError


def renamed(trailing_metadata: Sequence[tuple[str, str | bytes]]) -> list[tuple[str, str | bytes]]:
    return [(FORWARDED_PUSHBACK if key == _PUSHBACK else key, value) for key, value in trailing_metadata]
