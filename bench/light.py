"""A light generator: unary gRPC calls over HTTP/2 frames written here, for loads where grpcio's client would be what is
measured. grpcio's client costs 60 to 90 µs of CPU a call, a sixth of a whole read on the native transport; this a fifth
of that. An answer is the bytes of its message. Headers are decoded of calls that end without one alone: how they ended
is raised as `CallEnded`.

A `LightChannel` is used as a `grpc.aio.Channel` is by `load.Unary`. Calls beyond the streams that the server allows on
a connection wait for others to end, as with any client. It is no client for anything but a bench: calls have no timers
of their own (the server ends them), and requests must fit a stream's first window.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import Final, cast

from hpack import Decoder

from bench.echo import PATH as ECHO_PATH
from bench.load import CONNECTIONS, Metadata, Unary, WrongAnswer
from ops.local.pki import Identity

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK, _PADDED = 0x1, 0x4, 0x1, 0x8
_HEADER_TABLE, _NO_PUSH, _MOST_STREAMS, _STREAM_WINDOW = 1, 2, 3, 4
"""Settings. Without a table (0) each block of headers can be read alone, or passed over."""
_LARGEST_WINDOW: Final = (1 << 31) - 1
_FIRST_WINDOW: Final = 65_535
_TOP_UP: Final = 1 << 29
_PREFIX: Final = 5
"""Bytes before a gRPC message: not packed, its length."""

_ECHO_BYTES: Final = 600

_Answer = asyncio.Future[bytes]


class CallEnded(WrongAnswer):
    """A call ended without an answer: its gRPC status as a number, and its trailers."""

    def __init__(self, status: int, trailers: Mapping[str, str]) -> None:
        super().__init__(status, trailers.get("grpc-message", ""))
        self.status = status
        self.trailers = trailers


class LightChannel:
    """One connection."""

    def __init__(self, target: str, identity: Identity | None) -> None:
        """To `unix:/path` or `host:port`; by TLS, as `identity`, where it is given."""
        self._target = target
        self._identity = identity
        self._connection: _Connection | None = None

    async def channel_ready(self) -> None:
        """Connect."""
        loop = asyncio.get_running_loop()
        if self._target.startswith("unix:"):
            _, protocol = await loop.create_unix_connection(_Connection, self._target.removeprefix("unix:"))
        else:
            host, _, port = self._target.rpartition(":")
            context = None if self._identity is None else _tls(self._identity)
            name = None if context is None else host
            _, protocol = await loop.create_connection(_Connection, host, int(port), ssl=context, server_hostname=name)
        self._connection = protocol

    def unary_unary(self, path: str) -> Callable[..., _Answer]:
        """The callable of a method, bytes in and out."""

        def call(request: bytes, *, metadata: Metadata, timeout: float) -> _Answer:
            assert self._connection is not None
            return self._connection.call(_block(path, metadata, timeout), request)

        return call

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._calls: dict[int, tuple[_Answer, list[bytes]]] = {}
        self._next = 1
        self._rest = b""
        self._out: list[bytes] = []
        self._window = _FIRST_WINDOW
        self._streams = _LARGEST_WINDOW
        self._waiting: deque[tuple[_Answer, bytes, bytes]] = deque()
        self._taken = 0
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._loop = asyncio.get_running_loop()
        settings = b"".join(
            key.to_bytes(2, "big") + value.to_bytes(4, "big")
            for key, value in ((_HEADER_TABLE, 0), (_NO_PUSH, 0), (_STREAM_WINDOW, _LARGEST_WINDOW))
        )
        more = (_LARGEST_WINDOW - _FIRST_WINDOW).to_bytes(4, "big")
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, more))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._fail_all("the connection was lost")

    def close(self) -> None:
        self._transport.close()

    def call(self, block: bytes, request: bytes) -> _Answer:
        answer: _Answer = self._loop.create_future()
        if self._lost:
            answer.set_exception(WrongAnswer("the connection was lost"))
        elif self._waiting or not self._may_send(request):
            self._waiting.append((answer, block, request))
        else:
            self._send(answer, block, request)
        return answer

    def _may_send(self, request: bytes) -> bool:
        return len(request) + _PREFIX <= self._window and len(self._calls) < self._streams

    def _send_waiting(self) -> None:
        while self._waiting and self._may_send(self._waiting[0][2]):
            self._send(*self._waiting.popleft())

    def _send(self, answer: _Answer, block: bytes, request: bytes) -> None:
        stream, size = self._next, len(request)
        self._next += 2
        self._window -= size + _PREFIX
        self._calls[stream] = (answer, [])
        on = stream.to_bytes(4, "big")
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(
            b"%b\x01\x04%b%b%b\x00\x01%b\x00%b%b"
            % (len(block).to_bytes(3, "big"), on, block, (size + _PREFIX).to_bytes(3, "big"), on, _four(size), request)
        )

    def _flush(self) -> None:
        out, self._out = self._out, []
        self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, size = 0, len(data)
        while size - at >= 9:
            end = at + 9 + (data[at] << 16 | data[at + 1] << 8 | data[at + 2])
            if end > size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            if kind == _DATA:
                self._took(stream, flags, data[at + 9 : end])
            elif kind != _HEADERS:
                self._control(kind, flags, stream, data[at + 9 : end])
            if kind <= _HEADERS and flags & _END_STREAM:
                self._ended(stream, data[at + 9 : end] if kind == _HEADERS else b"")
            at = end
        self._rest = data[at:]

    def _took(self, stream: int, flags: int, part: bytes) -> None:
        if flags & _PADDED:
            part = part[1 : len(part) - part[0]]
        if stream in self._calls:
            self._calls[stream][1].append(part)
        self._taken += len(part)
        if self._taken >= _TOP_UP:
            self._transport.write(_frame(_WINDOW_UPDATE, 0, 0, _four(self._taken)))
            self._taken = 0

    def _ended(self, stream: int, block: bytes) -> None:
        answer, parts = self._calls.pop(stream, (None, []))
        if self._waiting:
            self._send_waiting()
        if answer is None or answer.done():
            return
        if parts:
            answer.set_result(b"".join(parts)[_PREFIX:])
            return
        trailers = _read(block)
        answer.set_exception(CallEnded(int(trailers.get("grpc-status", "2")), trailers))

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (_SETTINGS, _PING) and not flags & _ACK:
            if kind == _SETTINGS:
                self._set(payload)
            self._transport.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
            self._send_waiting()
        elif kind == _RST_STREAM:
            answer, _ = self._calls.pop(stream, (None, []))
            if answer is not None and not answer.done():
                answer.set_exception(WrongAnswer("the stream was reset"))
            self._send_waiting()
        elif kind == _GOAWAY:
            self._fail_all("the server goes away")

    def _set(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            if int.from_bytes(payload[at : at + 2], "big") == _MOST_STREAMS:
                self._streams = int.from_bytes(payload[at + 2 : at + 6], "big")

    def _fail_all(self, why: str) -> None:
        failed = [answer for answer, _ in self._calls.values()] + [answer for answer, _, _ in self._waiting]
        self._calls.clear()
        self._waiting.clear()
        for answer in failed:
            if not answer.done():
                answer.set_exception(WrongAnswer(why))


class LightCallers:
    """Ready connections, and calls of an echo through them, closed with `resources`."""

    def __init__(self, resources: AsyncExitStack) -> None:
        self._resources = resources

    async def connect(
        self, target: str, identity: Identity | None, connections: int = CONNECTIONS
    ) -> list[LightChannel]:
        """Connections to one server, as many as `load.connect` makes."""
        return await self.among([target], identity, connections)

    async def among(self, targets: Sequence[str], identity: Identity | None, connections: int) -> list[LightChannel]:
        """Connections to the replicas of a server, in turn."""
        made = [LightChannel(targets[number % len(targets)], identity) for number in range(connections)]
        for channel in made:
            self._resources.push_async_callback(channel.close)
            await channel.channel_ready()
        return made

    async def echo(self, target: str, identity: Identity | None, connections: int = CONNECTIONS) -> Unary:
        """Calls of the echo at a server, of about the weight of a metadata read."""
        payload = bytes(_ECHO_BYTES)
        connected = await self.connect(target, identity, connections)
        return Unary(connected, ECHO_PATH, lambda: (payload, ()), at_least=_ECHO_BYTES)


def _tls(identity: Identity) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(identity.authority))
    context.load_cert_chain(identity.certificate, identity.key)
    context.set_alpn_protocols(["h2"])
    return context


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3, "big"), kind, flags, _four(stream), payload)


def _four(number: int) -> bytes:
    return number.to_bytes(4, "big")


@lru_cache(maxsize=4096)
def _read(block: bytes) -> Mapping[str, str]:
    """The headers of a block, which has no state but its own. A server that pushes back says the same thing often."""
    return {str(name): str(value) for name, value in Decoder().decode(block)}


@lru_cache(maxsize=4096)
def _block(path: str, metadata: Metadata, timeout: float) -> bytes:
    """The headers of a call as HPACK literals that are not indexed: no state to keep (RFC 7541, 6.2.2)."""
    headers = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "bench"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", f"{timeout:.0f}S"),
        *metadata,
    )
    return b"".join(b"\x00" + _string(key) + _string(value) for key, value in headers)


def _string(text: str) -> bytes:
    """A literal with its length in seven bits and more (RFC 7541, 5.1)."""
    data = text.encode("ascii")
    length = len(data)
    if length < 127:
        return b"%c%b" % (length, data)
    written, length = bytearray((127,)), length - 127
    while length > 127:
        written.append(length & 127 | 128)
        length >>= 7
    written.append(length)
    return bytes(written) + data
