"""When the next batch of a coalescer may leave: how far apart batches are, and who is waited for. Of times and numbers
alone; no queue and no event loop here. Why it is so is in docs/decisions/0010 and 0035.
"""

from __future__ import annotations

from typing import Final

PACE = 0.002
"""Seconds at least between the batches of a request path (docs/decisions/0010)."""
_LONGEST: Final = {False: 0.012, True: 0.006}
"""Seconds at most, however slow or full the batches are; True where they go in turns."""
_MANY: Final = 64
"""A batch of so many items is followed by the next one at the earliest after twice the time that it took."""
_COMING_BACK: Final = (0.25, 0.012)
"""Those who have just been answered are waited for so much of the time that it took, and so many seconds at most."""
_NEVER: Final = float("-inf")


class Pace:
    """What was seen of the last batches; instants are the event loop's, in seconds."""

    __slots__ = ("_least", "_longest", "_size", "_started", "_turns", "_until", "expected", "took")

    def __init__(self, least: float, turns: int, *, in_turns: bool) -> None:
        """`least` seconds between batches, 0 for none; `turns` of them are spread over the time that one takes."""
        self._least = least
        self._turns = turns
        self._longest = _LONGEST[in_turns]
        self._started = _NEVER
        self._size = 0
        self._until = _NEVER
        self.took = 0.0
        """Seconds that the last batch took which has ended."""
        self.expected = 0
        """How many would wait if all who were answered last asked again."""

    def began(self, now: float, size: int) -> None:
        """A batch leaves."""
        self._started, self._size = now, size

    def comes_back(self, now: float, count: int) -> None:
        """Those who are answered now mostly ask again: so many are then there."""
        self.expected = count
        self._until = now + min(self.took * _COMING_BACK[0], _COMING_BACK[1])

    def nobody_comes_back(self) -> None:
        """Nobody is waited for."""
        self._until = _NEVER

    def wait(self, now: float) -> float:
        """Seconds until the next batch may leave: from the start of the last one as long as one takes, and the longer
        the more were in it, for what a batch costs whatever its size is then shared by more."""
        if not self._least:
            return self._started - now
        unhurried = self.took / self._turns * (1 + self._size / _MANY)
        return self._started + max(self._least, min(unhurried, self._longest)) - now

    def patience(self, now: float, waiting: int) -> float:
        """Seconds for which those who come back are still waited for, where `waiting` are there; 0 for not at all."""
        return self._until - now if now < self._until and waiting < self.expected else 0.0

    def single(self) -> bool:
        """Whether the last batch was of one who was alone."""
        return self._size <= 1
