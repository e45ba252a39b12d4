"""The port of virus scanners: one that asks clamd, and one that is none.

A scanner that is configured must answer: what it cannot be asked about is UNAVAILABLE, never let through.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final, Protocol

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DmpError, FieldViolation, unavailable
from services.runtime.settings import UNIX

_CHUNK: Final = 64 * 1024
_TIMEOUT: Final = 30.0
_AT_ONCE: Final = 8


class Scanner(Protocol):
    """Looks for malware in a content."""

    async def scan(self, content: bytes) -> bool:
        """Whether it is clean. Raises DEPENDENCY_UNAVAILABLE when that cannot be told."""
        ...


class NoScanner:
    """No scanner is configured: nothing is looked for."""

    async def scan(self, content: bytes) -> bool:
        return True


class ClamdScanner:
    """ClamAV's daemon, by its INSTREAM command, at `host:port` or `unix:/path`."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def scan(self, content: bytes) -> bool:
        try:
            async with self._places, asyncio.timeout(_TIMEOUT):
                answer = await self._ask(content)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise unavailable("scanner") from error
        if answer.endswith(b"OK"):
            return True
        if answer.endswith(b"FOUND"):
            return False
        raise unavailable("scanner")

    async def _ask(self, content: bytes) -> bytes:
        reader, writer = await self._connect()
        try:
            writer.write(b"zINSTREAM\0")
            for start in range(0, len(content), _CHUNK):
                chunk = content[start : start + _CHUNK]
                writer.write(struct.pack(">I", len(chunk)) + chunk)
                await writer.drain()
            writer.write(struct.pack(">I", 0))
            await writer.drain()
            return (await reader.readuntil(b"\0")).rstrip(b"\0").strip()
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._address.startswith(UNIX):
            return await asyncio.open_unix_connection(self._address.removeprefix(UNIX))
        host, _, port = self._address.rpartition(":")
        return await asyncio.open_connection(host.strip("[]"), int(port))


def infected(indices: list[int]) -> DmpError:
    """The error of contents in which something was found."""
    fields = [FieldViolation(f"documents[{index}].content", "malware", "refused by the scanner") for index in indices]
    return DmpError(reasons.ERROR_REASON_CONTENT_INFECTED, fields=fields)
