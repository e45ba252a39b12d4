"""An event loop with a clock of its own: what is scheduled on it always runs the same way, and time costs nothing."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class NothingLeftToHappen(BaseException):
    """Every task waits, and nothing is scheduled to wake one."""


class _Clock(selectors.SelectSelector):
    """Where the loop would sleep, time jumps to what it sleeps for."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeftToHappen
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)
        self.complaints: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.complaints.append(context))

    def time(self) -> float:
        return self._clock.now


def on_virtual_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(main())
        assert loop.complaints == []
    finally:
        loop.close()
