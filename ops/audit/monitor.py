"""Watching a log from outside: each new checkpoint must be signed, witnessed, and continue the one before.

What was seen is kept in a file, so that a log that was rewritten while nobody looked is found too. New entries are
verified as they come. An alarm names both checkpoints: the two together prove what the log did.

A log that has nothing new has its checkpoint cosigned again all the same, and a cosignature states its time: who is
shown a checkpoint that witnesses saw last some time ago sees a log that stands still, or is kept from what is newer.
Where the source tells how many events are acknowledged, they must be under the checkpoint as soon.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ops.audit.sources import Source, SourceFailed
from services.runtime.tlog.checkpoint import Checkpoint, parse
from services.runtime.tlog.layout import Bundle, Tile, decode_bundle, node_reader, tiles_for, width_at
from services.runtime.tlog.note import NoteWrong
from services.runtime.tlog.policy import Policy, Trusted, trust
from services.runtime.tlog.tree import (
    HASH_BYTES,
    ProofWrong,
    Range,
    consistency_ranges,
    leaf_hash,
    prove,
    range_hash,
    verify_consistency,
)

STALE_SECONDS: Final = 60.0
_LAST_SECOND: Final = 253_402_300_799
"""Of the year 9999."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """What is wrong with the log, and the two checkpoints that prove it (the second may be empty)."""

    problem: str
    before: bytes = b""
    now: bytes = b""


@dataclass(frozen=True, slots=True)
class Grown:
    """The log grew as it should."""

    trusted: Trusted
    size_before: int


@dataclass(frozen=True, slots=True)
class _Owed:
    """How many events were acknowledged at an instant (of the monotonic clock) and not under the checkpoint."""

    size: int
    since: float


class Monitor:
    """Follows one log."""

    def __init__(
        self,
        source: Source,
        policy: Policy,
        state: Path,
        *,
        stale: float = STALE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`state` is the file of the newest checkpoint seen; `stale` seconds are an alarm without any answer, since
        enough witnesses cosigned (`clock` is POSIX seconds), or while acknowledged events are not under the checkpoint.
        """
        self._source = source
        self._policy = policy
        self._state = state
        self._stale = stale
        self._clock = clock
        self._answered = time.monotonic()
        self._owed: _Owed | None = None

    async def look(self) -> Grown | Alarm | None:
        """One look: what became of the log; None when it has not changed, or could not be read just now."""
        before = self._state.read_bytes() if self._state.exists() else b""
        try:
            now = await self._source.checkpoint()
            self._answered = time.monotonic()
            try:
                trusted = trust(now, self._policy)
            except NoteWrong as error:
                return Alarm(f"the checkpoint cannot be believed: {error}", before, now)
            seen = await self._compare(before, now, trusted) if before != now else None
            acknowledged = await self._source.acknowledged()
        except SourceFailed as error:
            if time.monotonic() - self._answered > self._stale:
                return Alarm(f"the log has not answered for {self._stale:g} seconds: {error}", before)
            return None
        if isinstance(seen, Alarm):
            return seen
        problem = self._aged(trusted) or self._behind(trusted.checkpoint, acknowledged)
        return Alarm(problem, before, now) if problem else seen

    async def follow(self, every: float) -> AsyncIterator[Grown | Alarm]:
        """Looks for ever."""
        while True:
            seen = await self.look()
            if seen is not None:
                yield seen
            await asyncio.sleep(every)

    def _aged(self, trusted: Trusted) -> str:
        """Why what is shown may be an old state; empty if witnesses saw it just now, or the policy knows none."""
        if trusted.seen_at is None or abs(self._clock() - trusted.seen_at) <= self._stale:
            return ""
        at = datetime.fromtimestamp(min(trusted.seen_at, _LAST_SECOND), UTC)
        return (
            f"the log shows a checkpoint that enough witnesses saw last on {at:%Y-%m-%d %H:%M:%S} UTC, more than "
            f"{self._stale:g} seconds from now: it stands still, or what is newer is withheld (or a clock is wrong)"
        )

    def _behind(self, checkpoint: Checkpoint, acknowledged: int) -> str:
        """Why the checkpoint is too small; empty if it is not, or has some time left."""
        now, owed = time.monotonic(), self._owed
        if owed is None or checkpoint.size >= owed.size:
            self._owed = _Owed(acknowledged, now) if acknowledged > checkpoint.size else None
            return ""
        if now - owed.since <= self._stale:
            return ""
        missing = owed.size - checkpoint.size
        return f"{missing} events were acknowledged {self._stale:g} seconds ago and are not under the checkpoint"

    async def _compare(self, before: bytes, now: bytes, trusted: Trusted) -> Grown | Alarm | None:
        checkpoint = trusted.checkpoint
        old = parse(before)[0] if before else None
        if old is not None:
            problem = await self._contradiction(old, checkpoint)
            if problem:
                return Alarm(problem, before, now)
        low = old.size if old is not None else 0
        problem = await self._check_entries(low, checkpoint)
        if problem:
            return Alarm(problem, before, now)
        fresh = self._state.with_suffix(".partial")
        fresh.write_bytes(now)
        fresh.replace(self._state)
        return Grown(trusted, low) if old is None or checkpoint.size > old.size else None

    async def _contradiction(self, old: Checkpoint, now: Checkpoint) -> str:
        """Why the newer checkpoint does not continue the older; empty if it does."""
        if now.origin != old.origin:
            return f"the log was {old.origin} and is now {now.origin}"
        if now.size < old.size:
            return f"a rewrite: the log had {old.size} events and has {now.size}"
        if now.size == old.size:
            return "" if now.root == old.root else f"a fork: two trees of {now.size} events"
        if old.size == 0:
            return ""
        ranges = consistency_ranges(old.size, now.size)
        try:
            node = node_reader(await self._tiles(ranges, now.size))
            verify_consistency(old.size, old.root, now.size, now.root, prove(ranges, node))
        except ProofWrong:
            return f"a rewrite: the tree of {now.size} events does not begin with that of {old.size}"
        return ""

    async def _tiles(self, ranges: list[Range], size: int) -> dict[tuple[int, int], bytes]:
        found = {}
        for tile in tiles_for(ranges, size):
            content = await self._source.tile(tile)
            if content is None or len(content) != tile.width * HASH_BYTES:
                raise SourceFailed(f"tile {tile.level}/{tile.number} of width {tile.width} is missing")
            found[tile.level, tile.number] = content
        return found

    async def _check_entries(self, low: int, checkpoint: Checkpoint) -> str:
        """Whether the entries from `low` on are those of the tree; what is wrong, or nothing."""
        size = checkpoint.size
        for number in range(low // 256, (size + 255) // 256):
            bundle = Bundle(number, width_at(size, 0, number))
            content = await self._source.bundle(bundle)
            tile = await self._source.tile(Tile(0, number, bundle.width))
            if content is None or tile is None:
                raise SourceFailed(f"entry bundle or tile {number} is missing")
            try:
                hashes = b"".join(leaf_hash(entry) for entry in decode_bundle(content))
            except ValueError:
                hashes = b""
            if hashes != tile:
                return f"the entries of bundle {number} are not those of its tile"
        if size and low != size:
            whole = Range(0, size)
            if range_hash(whole, node_reader(await self._tiles([whole], size))) != checkpoint.root:
                return "the tiles do not make the root of the checkpoint"
        return ""
