"""A TCP proxy of our own between two parts of the platform: it delays, slices, swallows, cuts, and changes its target.

Lives here: bytes and connections only; it knows nothing of what it carries. Everything may be switched while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import Final

from ops.local.state import LOOPBACK

_CHUNK: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER without patience: closing sends RST instead of FIN."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to bytes. `there` and `back` are delays in seconds, towards the server and from it; `slice_bytes`
    the most that is written at once (0: as they come); `swallow` lets nothing through, and nobody is told."""

    there: float = 0.0
    back: float = 0.0
    slice_bytes: int = 0
    swallow: bool = False


FAIR: Final = Weather()


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes everything on. Use as an async context manager."""

    def __init__(self, target: str, weather: Weather = FAIR) -> None:
        """`target` is the `host:port` that new connections go to; "" refuses them."""
        self.target = target
        self.weather = weather
        self.address = ""
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._open, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def change(self, weather: Weather) -> None:
        """From now on."""
        self.weather = weather
        self._changed.set()
        self._changed = asyncio.Event()

    def cut(self, *, reset: bool = True) -> None:
        """End every connection, by RST or (not `reset`) by FIN."""
        for task, ends in list(self._open.items()):
            for writer in ends:
                if reset:
                    with contextlib.suppress(OSError):  # the other side may have closed it already
                        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    writer.transport.abort()
                else:
                    writer.close()
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        host, _, port = self.target.rpartition(":")
        try:
            server_reader, server_writer = await asyncio.open_connection(host, int(port or 0))
        except OSError:
            writer.transport.abort()
            return
        self._open[task] = (writer, server_writer)
        try:
            await asyncio.gather(
                self._pass(reader, server_writer, back=False), self._pass(server_reader, writer, back=True)
            )
        except (OSError, asyncio.CancelledError):
            pass  # one end is gone, or all are cut: so is the other, below
        finally:
            del self._open[task]
            writer.close()
            server_writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        """One direction, until its end; then the other side is told."""
        loop = asyncio.get_running_loop()
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sender = loop.create_task(self._send(due, writer))
        try:
            while chunk := await reader.read(_CHUNK):
                delay = self.weather.back if back else self.weather.there
                due.put_nowait((loop.time() + delay, chunk))
            due.put_nowait((0.0, b""))
            await sender
        finally:
            sender.cancel()

    async def _send(self, due: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        """Write each chunk when its time has come, in order."""
        loop = asyncio.get_running_loop()
        while True:
            when, chunk = await due.get()
            await asyncio.sleep(max(0.0, when - loop.time()))
            while self.weather.swallow:
                await self._changed.wait()
            if not chunk:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            size = self.weather.slice_bytes or len(chunk)
            for start in range(0, len(chunk), size):
                writer.write(chunk[start : start + size])
                await writer.drain()
                if self.weather.slice_bytes:
                    await asyncio.sleep(0)
