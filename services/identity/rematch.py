"""After registration: comparing with what others committed meanwhile, and feeding the work list.

Two near matches registered at once do not see each other, as they meet on no row. Each is compared once more after its
commit, when at least one of the two sees the other. That they are due is in the database, with the registration
itself, so that a crash in between delays the comparison and never loses it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from dmp.identity.v1 import identity_pb2 as pb
from services.identity.blocking import sought_blocks
from services.identity.digests import Digests
from services.identity.matching import WEIGHTS, comparable
from services.identity.records import open_person
from services.identity.registration_rules import RegisteredPerson
from services.identity.store import links as link_store
from services.identity.store import people as store
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.identifiers import is_fictitious
from services.runtime.postgres import Connection, Pool, transaction

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 256
_MOST_MEMBERS: Final = 100
_SWEEP_SECONDS: Final = 30.0
_PAUSE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Made:
    """Someone registered: the blocks in which matches are sought, and the members that were compared already."""

    health_id: int
    sought: tuple[int, ...]
    seen: frozenset[int]


class Rematch:
    """Compares once more those who are due."""

    def __init__(self, pool: Pool, keys: DossierKeys, digests: Digests, clock: Callable[[], datetime]) -> None:
        self._pool = pool
        self._keys = keys
        self._digests = digests
        self._clock = clock
        self._fresh: list[Made] = []
        self._kicked = asyncio.Event()

    def later(self, made: Sequence[Made]) -> None:
        """These were committed by this process just now."""
        self._fresh += made
        self._kicked.set()

    def kick(self) -> None:
        """Someone is due whom only the database knows of."""
        self._kicked.set()

    async def run(self) -> None:
        """Runs until cancelled. What fails is still due, and tried again."""
        swept = float("-inf")
        loop = asyncio.get_running_loop()
        while True:
            try:
                kicked = self._kicked.is_set()
                self._kicked.clear()
                await self.fresh()
                if kicked or loop.time() - swept > _SWEEP_SECONDS:
                    swept = loop.time()
                    await self.sweep()
            except Exception:  # noqa: BLE001 (a boundary: those due are still in the database)
                _log.warning("re-match failed", exc_info=True)
                await asyncio.sleep(_PAUSE)
            try:
                async with asyncio.timeout(_PAUSE):
                    await self._kicked.wait()
            except TimeoutError:
                continue

    async def fresh(self) -> None:
        """Those of this process: only what they have not been compared with is opened."""
        while self._fresh:
            made, self._fresh = self._fresh[:_AT_ONCE], self._fresh[_AT_ONCE:]
            members = await store.members(self._pool, {block for one in made for block in one.sought})
            new = {
                one.health_id
                for one in made
                if any(
                    member != one.health_id and member not in one.seen
                    for block in one.sought
                    for member in members.get(block, ())
                )
            }
            async with transaction(self._pool) as conn:
                if new:
                    await self._compare(conn, new)
                await store.rematched(conn, [one.health_id for one in made])

    async def sweep(self) -> int:
        """All that are due in the database; how many."""
        count = 0
        while due := await store.rematch_due(self._pool, _AT_ONCE):
            async with transaction(self._pool) as conn:
                await self._compare(conn, due)
                await store.rematched(conn, due)
            count += len(due)
        return count

    async def _compare(self, conn: Connection, health_ids: Iterable[int]) -> None:
        ours = await self._open(conn, health_ids)
        sought = {one: self._digests.blocks(sought_blocks(person.traits)) for one, person in ours.items()}
        members = await store.members(conn, {block for blocks in sought.values() for block in blocks})
        candidates = {
            one: {
                member
                for block in blocks
                if len(members.get(block, ())) <= _MOST_MEMBERS
                for member in members.get(block, ())
                if member != one
            }
            for one, blocks in sought.items()
        }
        theirs = await self._open(conn, {member for found in candidates.values() for member in found} - ours.keys())
        everyone = {
            one: comparable(person.traits, person.identifiers, person.contact)
            for one, person in (ours | theirs).items()
        }
        roots = await link_store.roots(conn, everyone)
        pairs: dict[tuple[int, int], float] = {}
        for one, found in candidates.items():
            for other in found & everyone.keys():
                if roots.get(one, one) == roots.get(other, other) or is_fictitious(one) != is_fictitious(other):
                    continue
                score = WEIGHTS.score(everyone[one], everyone[other])
                if score.grade != pb.MATCH_GRADE_CERTAINLY_NOT:
                    pairs[min(one, other), max(one, other)] = score.weight
        await link_store.find_pairs(conn, [(low, high, weight) for (low, high), weight in pairs.items()], self._clock())

    async def _open(self, conn: Connection, health_ids: Iterable[int]) -> dict[int, RegisteredPerson]:
        """The people of these health ids whose records open."""
        rows = await store.people(conn, health_ids)
        keys = await self._keys.for_read(conn, list(rows))
        opened: dict[int, RegisteredPerson] = {}
        for health_id, row in rows.items():
            try:
                opened[health_id] = open_person(row, keys)
            except DmpError:
                continue
        return opened
