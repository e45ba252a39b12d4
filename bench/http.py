"""HTTP/1.1 requests as load: bytes in, bytes out, one connection each, nothing decoded but the length of the answer.

A general HTTP client would take more of the two cores than what it measures.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from bench.load import WrongAnswer

_LARGEST: Final = 64 << 20
_HEAD: Final = b"\r\n\r\n"


class Http:
    """Requests that `pick` chooses, on `connections` kept alive; another status than `status` is a wrong answer."""

    def __init__(self, base: str, trust: ssl.SSLContext, pick: Callable[[], bytes], *, status: int = 200) -> None:
        self._host, self._port = urlsplit(base).hostname or "", urlsplit(base).port or 443
        self._trust = trust
        self._pick = pick
        self._status = str(status).encode()
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, _: int) -> None:
        """One request on a free connection, a new one if there is none."""
        said, kept = self._pick(), self._living()
        try:
            reader, writer, head = await self._ask(said, kept or await self._connect())
        except (asyncio.IncompleteReadError, ConnectionError):
            if kept is None:
                raise
            reader, writer, head = await self._ask(said, await self._connect())  # it was being ended as it was asked
        body = await reader.readexactly(_length(head))
        if head[9:12] != self._status:
            raise WrongAnswer(f"{head[9:12].decode()}: {body[:300].decode(errors='replace')}")
        self._free.append((reader, writer))

    async def _ask(
        self, said: bytes, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        reader, writer = connection
        writer.write(said)
        return reader, writer, await reader.readuntil(_HEAD)

    def _living(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A free connection that the server has not ended meanwhile: it keeps none that is idle for ten seconds."""
        while self._free:
            reader, writer = self._free.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return None

    async def close(self) -> None:
        """Close every connection."""
        for _, writer in self._free:
            writer.close()
        self._free.clear()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port, ssl=self._trust, limit=_LARGEST)


def request(method: str, path: str, token: str, body: bytes = b"", kind: str = "application/fhir+json") -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "host: bench", f"authorization: Bearer {token}", "accept: */*"]
    if body:
        lines += [f"content-type: {kind}", f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + _HEAD + body


def _length(head: bytes) -> int:
    lower = head.lower()
    start = lower.find(b"content-length:")
    if start < 0:
        raise WrongAnswer("an answer without a length")
    return int(lower[start + 15 : lower.index(b"\r\n", start)])
