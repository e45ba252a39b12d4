"""The relay's transport, where anyone may connect: calls that are taken back at once cost little, and a client that has
many under way loses none."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio
import pytest_asyncio

from services.runtime.acceptance import AcceptingServer, Registered
from services.runtime.settings import ServiceSettings
from services.runtime.transport import server_options

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _RESET, _SETTINGS, _PING = 1, 3, 4, 6
_END_HEADERS, _ACK = 4, 1
_CANCEL: Final = struct.pack(">I", 8)
# HPACK without tables: POST, http, a path, an authority, the content type, te.
_CALL: Final = b"\x83\x86\x04\x06/a.B/C\x01\x01x\x0f\x10\x10application/grpc" + b"\x00\x02te\x08trailers"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Served:
    """A server as the relay's is, but for TLS; each call takes a moment."""

    def __init__(self) -> None:
        self.begun = 0
        self.port = 0

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_unary_rpc_method_handler(self._answer)

    async def _answer(self, messages: AsyncIterator[bytes], context: object) -> bytes:
        self.begun += 1
        await asyncio.sleep(0.002)
        return b"answer"


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    handler, registered = Served(), Registered()
    options = server_options(ServiceSettings(environment="test"), client_certificate=False)
    server = grpc.aio.server(options=options)
    registered.add_generic_rpc_handlers((handler,))  # type: ignore[arg-type]  # it has what is asked of one
    handler.port = server.add_insecure_port("127.0.0.1:0")
    accepting = AcceptingServer(server, registered)
    await accepting.start()
    yield handler
    await accepting.stop(0.1)


def take_back(port: int, calls: int) -> None:
    """Begin so many calls and take each back at once; return when the server has read all of it."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(_PREFACE + frame(_SETTINGS, 0, 0) + frame(_SETTINGS, _ACK, 0))
        for stream in range(1, 2 * calls, 40):
            some = range(stream, stream + 40, 2)
            connection.sendall(
                b"".join(frame(_HEADERS, _END_HEADERS, n, _CALL) + frame(_RESET, 0, n, _CANCEL) for n in some)
            )
            time.sleep(0)
        connection.sendall(frame(_PING, 0, 0, b"12345678"))
        received = b""
        while b"12345678" not in received and (part := connection.recv(1 << 16)):
            received += part


async def test_calls_that_are_taken_back_at_once_are_not_served_beyond_what_is_under_way(served: Served) -> None:
    calls = 8000
    await asyncio.to_thread(take_back, served.port, calls)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        method: Any = channel.unary_unary("/a.B/C")
        assert await method(b"", timeout=30) == b"answer"
    before = -1
    while served.begun > before:  # some are still on their way to the application
        before = served.begun
        await asyncio.sleep(0.3)
    assert 0 < served.begun < calls * 3 / 4


async def test_a_client_with_hundreds_of_calls_under_way_loses_none(served: Served) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        method: Any = channel.unary_unary("/a.B/C")

        async def some() -> list[bytes]:
            return [await method(b"", timeout=60) for _ in range(3)]

        answers = await asyncio.gather(*(some() for _ in range(400)))
    assert answers == [[b"answer"] * 3] * 400
