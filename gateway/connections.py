"""Connections of the HTTP port that take without giving: found by what the kernel knows of each, and closed.

The HTTP server itself bounds how long a handshake, a header and a pause between two HTTP/1.1 requests take, and
`gateway.limits` how slowly a body may come. Neither sees a connection that says nothing once it is encrypted, nor how
slowly an answer that is written already is taken from the kernel, nor how many connections there are. Here, every few
seconds:

- nothing has come or left for two minutes: longer than any request is worked on, so nobody waits for it;
- an answer is taken more slowly than 16 KiB/s, watched for half a minute: what a body may come at;
- there are more connections than there may be: those on which nothing has moved for longest.

Such a connection is reset, so that the kernel lets go of what it holds for it. Linux only; elsewhere nothing is closed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import structlog

_LOOK_EVERY: Final = 5.0
_NOT_CONNECTED: Final = frozenset({7, 10})
"""TCP_CLOSE and TCP_LISTEN."""
_SO_COOKIE: Final = 57
_TCP_INFO_BYTES: Final = 148
# struct tcp_info of <linux/tcp.h>: the state; packets under way; milliseconds since data was sent and was received;
# bytes taken by the other side; bytes that wait to be sent.
_STATE, _UNACKED, _SENT, _RECEIVED, _TAKEN, _UNSENT = 0, 24, 44, 52, 120, 144
_FD: Final = Path("/proc/self/fd")

_log = structlog.get_logger("gateway.connections")


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """How many connections; seconds of silence; seconds watched and bytes a second of an answer that is taken."""

    most: int = 4096
    silent: float = 120.0
    watched: float = 30.0
    slowest: float = 16 << 10


class Traffic(NamedTuple):
    """Of a connection: seconds since anything moved, whether bytes wait to be taken, those taken."""

    cookie: int
    silent: float
    waits: bool
    taken: int


class _Watched(NamedTuple):
    since: float
    taken: int


class Watch:
    """Which connections are to be closed, look after look. Pure but for what it remembers."""

    def __init__(self, bounds: ConnectionBounds) -> None:
        self._bounds = bounds
        self._slow: dict[int, _Watched] = {}

    def closes(self, seen: Sequence[Traffic], now: float) -> dict[int, str]:
        """The cookies of the connections to close among those seen, each with why."""
        found = {each.cookie: "silent" for each in seen if each.silent >= self._bounds.silent}
        found |= {each.cookie: "slow_reader" for each in self._slow_readers(seen, now)}
        beyond = len(seen) - len(found) - self._bounds.most
        if beyond > 0:
            others = [each for each in seen if each.cookie not in found]
            others.sort(key=lambda each: each.silent, reverse=True)
            found |= {each.cookie: "too_many" for each in others[:beyond]}
        return found

    def _slow_readers(self, seen: Sequence[Traffic], now: float) -> Iterator[Traffic]:
        before, self._slow = self._slow, {}
        for each in seen:
            if not each.waits:
                continue
            watched = before.get(each.cookie, _Watched(now, each.taken))
            seconds = now - watched.since
            if seconds >= self._bounds.watched:
                if each.taken - watched.taken < self._bounds.slowest * seconds:
                    yield each
                watched = _Watched(now, each.taken)
            self._slow[each.cookie] = watched


class Connections:
    """The connections that this process has accepted at a port."""

    def __init__(
        self,
        port: int,
        bounds: ConnectionBounds | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._port = port
        self._watch = Watch(bounds or ConnectionBounds())
        self._monotonic = monotonic

    async def run(self) -> None:
        """Look every few seconds, for ever; beside the event loop, which thousands of connections would hold up."""
        while sys.platform == "linux":
            await asyncio.sleep(_LOOK_EVERY)
            why = await asyncio.to_thread(self.look)
            for each in sorted(set(why)):
                _log.info("connections_closed", reason=each, count=why.count(each))

    def look(self) -> list[str]:
        """Close what is to be closed; why, of each that was."""
        seen: dict[int, tuple[Traffic, socket.socket]] = {}
        try:
            for connection in _accepted_at(self._port):
                with suppress(OSError):
                    traffic = _traffic(connection)
                    if traffic is not None and traffic.cookie not in seen:
                        seen[traffic.cookie] = (traffic, connection)
                        continue
                connection.close()
            closing = self._watch.closes([traffic for traffic, _ in seen.values()], self._monotonic())
            for cookie in closing:
                _reset(seen[cookie][1])
            return list(closing.values())
        finally:
            for _, connection in seen.values():
                connection.close()


def _accepted_at(port: int) -> Iterator[socket.socket]:
    """The TCP sockets of this process that are bound to a port, each as a descriptor of its own: the server may close
    its own at any time, and what is looked at must not become another connection meanwhile."""
    for entry in list(_FD.iterdir()):
        try:
            number = int(entry.name)
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            connection = socket.socket(fileno=os.dup(number))
        except OSError:
            continue
        try:
            internet = connection.family in (socket.AF_INET, socket.AF_INET6)
            if internet and connection.type == socket.SOCK_STREAM and connection.getsockname()[1] == port:
                yield connection
                continue
        except OSError:
            pass
        connection.close()


def _traffic(connection: socket.socket) -> Traffic | None:
    """None of a socket that has no other side."""
    if sys.platform != "linux":
        return None
    known = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    if len(known) < _TCP_INFO_BYTES or known[_STATE] in _NOT_CONNECTED:
        return None
    unacknowledged, unsent = _u32(known, _UNACKED), _u32(known, _UNSENT)
    return Traffic(
        cookie=struct.unpack("=Q", connection.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))[0],
        silent=min(_u32(known, _SENT), _u32(known, _RECEIVED)) / 1000,
        waits=unacknowledged + unsent > 0,
        taken=struct.unpack_from("=Q", known, _TAKEN)[0],
    )


def _u32(known: bytes, place: int) -> int:
    return int(struct.unpack_from("=I", known, place)[0])


def _reset(connection: socket.socket) -> None:
    """End it both ways. The server finds it ended and closes it, and what nobody has taken is then thrown away."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
