"""Answers on their way: how much of them this process holds for readers who take their time.

A large answer is given to the HTTP server in parts, the next when there is room for it, so that what a slow reader has
not taken stays here and is known. All that is held is bounded: when a further answer would be too much, the connection
whose reader has taken nothing for longest ends first. Who reads at all makes room again and again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from types import TracebackType
from typing import Final

LARGEST_PART: Final = 64 << 10
"""Bytes given to the HTTP server at once; a smaller answer is not held here."""
_MOST_HELD: Final = 64 << 20


class TooSlow(Exception):
    """The other side takes longer than it may; its connection is closed."""


class Answers:
    """The large answers of a process. Belongs to one event loop."""

    def __init__(self, most_held: int = _MOST_HELD) -> None:
        self._most_held = most_held
        self._held = 0
        self._waiting: OrderedDict[Held, None] = OrderedDict()

    def hold(self, size: int, patience: float) -> Held:
        """``async with answers.hold(…) as held:`` holds so many bytes inside; each part must be taken in `patience`
        seconds, after which, as when it has to make room, the body ends with TooSlow."""
        return Held(self, size, patience)

    def enter(self, held: Held) -> None:
        """Room for one more: those that wait longest make it. A single one may be larger than all that may be held."""
        self._waiting[held] = None
        self._held += held.size
        while self._held > self._most_held and len(self._waiting) > 1:
            first = next(iter(self._waiting))
            self.leave(first)
            first.end()

    def took(self, held: Held) -> None:
        """Its reader has taken a part."""
        if held in self._waiting:
            self._waiting.move_to_end(held)

    def leave(self, held: Held) -> None:
        """It is not held any more; a second time does nothing."""
        if held in self._waiting:
            del self._waiting[held]
            self._held -= held.size


class Held:
    """One answer while it is held."""

    __slots__ = ("_answers", "_ended", "_patience", "_timeout", "size")

    def __init__(self, answers: Answers, size: int, patience: float) -> None:
        self._answers = answers
        self._patience = patience
        self._ended = False
        self._timeout = asyncio.timeout(patience)
        self.size = size

    def took(self) -> None:
        """A part has been taken: the next has all the time again."""
        if self._ended:
            return
        self._answers.took(self)
        self._timeout.reschedule(asyncio.get_running_loop().time() + self._patience)

    def end(self) -> None:
        """It has to make room."""
        self._ended = True
        if self._timeout.expired():  # it is ending already, and its task has yet to run
            return
        self._timeout.reschedule(asyncio.get_running_loop().time())

    async def __aenter__(self) -> Held:
        await self._timeout.__aenter__()
        self._answers.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answers.leave(self)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise TooSlow from None
