"""Waves: what is still served of clients that press beyond their quotas begins together, eight times a second.

A call that comes by itself costs the processors several times what it does together with others, and is in everybody's
way wherever it goes (docs/decisions/0048). So these wait for the next wave, before anything is looked up for them. What
may live here: when a wave begins. Who is in one is told by the quotas.
"""

from __future__ import annotations

import asyncio
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DmpError

_APART: Final = 0.12


class Waves:
    """Belongs to one event loop."""

    def __init__(self, apart: float = _APART) -> None:
        """Waves begin at least `apart` seconds after one another."""
        self._apart = apart
        self._began = float("-inf")
        self._waiting: list[asyncio.Future[None]] = []

    async def join(self, remaining: float) -> None:
        """Return with all others who wait, when the next wave begins. DEADLINE_EXCEEDED where that is too late."""
        loop = asyncio.get_running_loop()
        wait = self._began + self._apart - loop.time()
        if wait > remaining:
            raise DmpError(reasons.ERROR_REASON_DEADLINE_EXCEEDED)
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.append(waiter)
        if len(self._waiting) == 1:
            loop.call_later(max(0.0, wait), self._begin, loop)
        await waiter

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._began = loop.time()
        wave, self._waiting = self._waiting[::-1], []
        self._go_on(loop, wave)

    def _go_on(self, loop: asyncio.AbstractEventLoop, wave: list[asyncio.Future[None]]) -> None:
        """One in each turn of the loop, so that others have theirs between."""
        waiter = wave.pop()
        if not waiter.done():
            waiter.set_result(None)
        if wave:
            loop.call_soon(self._go_on, loop, wave)
