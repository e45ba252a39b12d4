"""Rotating the keys by which people are found and sealed, without a pause in service.

    keyring: a new generation is added, last in `digest`       from then on both digests are written
    BACKFILLING   digests of the new generation for everyone    slice by slice, each one commit
    BACKFILLED    the operator takes the old one out of `digest`: reading goes to the new one
    REMOVING      digests that no longer live are deleted; keys are wrapped anew by the current generation
    IDLE

Each process reads its keyring anew within a second of a change of the files (`KeyringWatch`), so that replicas need no
restart; the operator (`dmp keys rotate`) waits for all of them before the slices that follow a change. The position is
kept with each slice: a rotation resumes where it was. What is retired stays in the keyring, as a file without use,
until backups that need it have expired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from dmp.identity.v1 import keys_pb2 as pb
from services.identity.blocking import blocks
from services.identity.changes import NOBODY, Changes, told
from services.identity.civil_identity import PatientIdentifier
from services.identity.records import open_person
from services.identity.registration_rules import RegisteredPerson
from services.identity.store import people as store
from services.identity.store import rotation as rotation_store
from services.identity.store.rotation import RotationRow
from services.runtime.context import Call
from services.runtime.keyring import Keyring, KeyringError, wrapped_generation
from services.runtime.outbox import OutboxRow
from services.runtime.postgres import Connection

_SLICE: Final = 1000
_LOOK_EVERY: Final = 1.0
_PHASES: Final = {
    "idle": pb.KEY_ROTATION_PHASE_IDLE,
    "backfilling": pb.KEY_ROTATION_PHASE_BACKFILLING,
    "backfilled": pb.KEY_ROTATION_PHASE_BACKFILLED,
    "removing": pb.KEY_ROTATION_PHASE_REMOVING,
}


class KeyRotation:
    """Does a rotation, a slice at a time."""

    def __init__(self, changes: Changes, keyring: Keyring) -> None:
        self._changes = changes
        self._digests = changes.digests
        self._keyring = keyring

    async def state(self) -> pb.KeyRotation:
        """Where it stands."""
        async with self._changes.pool.acquire() as conn:
            return await self._written(conn, await rotation_store.state(conn))

    async def advance(self, call: Call, request: pb.AdvanceKeyRotationRequest) -> pb.AdvanceKeyRotationResponse:
        """The next slice; what is done already stays as it is."""

        async def work(conn: Connection) -> tuple[int, pb.AdvanceKeyRotationResponse, Sequence[OutboxRow]]:
            before = self._next(await rotation_store.lock(conn))
            after = await self._slice(conn, before, request.max_people or _SLICE)
            after = replace(after, updated_at=self._changes.clock())
            await rotation_store.move(conn, after)
            answer = pb.AdvanceKeyRotationResponse(key_rotation=await self._written(conn, after))
            events = [] if after.phase == before.phase else [told(call, NOBODY, (("key_rotation", after.phase),))]
            return NOBODY, answer, events

        return await self._changes.make(call, request, pb.AdvanceKeyRotationResponse, work)

    def _next(self, row: RotationRow) -> RotationRow:
        """The phase that this keyring calls for."""
        live = self._keyring.digest_generations
        newest = live[-1]
        begun = replace(row, generation=newest, position=0, people_done=0)
        if len(live) > 1 and (row.phase in ("idle", "removing") or row.generation != newest):
            return replace(begun, phase="backfilling")
        if len(live) == 1 and row.phase in ("backfilled", "idle") and self._stale(row):
            return replace(begun, phase="removing", generation=self._keyring.current)
        return row

    def _stale(self, row: RotationRow) -> bool:
        """Whether something of an older generation may be left: a rotation begun, or another wrapping generation."""
        done = row.generation or self._keyring.generations[0]
        return row.phase == "backfilled" or done != self._keyring.current

    async def _slice(self, conn: Connection, row: RotationRow, size: int) -> RotationRow:
        if row.phase not in ("backfilling", "removing"):
            return row
        people = await store.people_after(conn, row.position, size)
        if people:
            keys = await self._changes.keys.for_read(conn, [one.health_id for one in people])
            opened = [open_person(one, keys) for one in people if one.health_id in keys]
            if row.phase == "backfilling":
                await self._backfill(conn, opened)
            else:
                await self._remove(conn, opened)
                await self._changes.keys.rewrap(
                    conn, row.position, len(people), self._keyring.current, wrapped_generation
                )
            return replace(row, position=people[-1].health_id, people_done=row.people_done + len(people))
        return replace(row, phase="backfilled" if row.phase == "backfilling" else "idle")

    async def _backfill(self, conn: Connection, people: Sequence[RegisteredPerson]) -> None:
        led = [(identifier, one.health_id) for one in people for identifier in _identifiers(one)]
        # A split moves a number that the record may still name in its past: whose it is, the oldest digest says.
        owners = await store.owners(conn, [self._digests.identifier(identifier) for identifier, _ in led])
        owned = [
            (digest, health_id)
            for identifier, health_id in led
            if owners.get(self._digests.identifier(identifier)) == health_id
            for digest in self._digests.identifier_all(identifier)
        ]
        in_blocks = [
            (number, one.health_id)
            for one in people
            for number in self._digests.blocks_all(blocks(one.traits, one.contact))
        ]
        await store.add_identifiers(conn, [digest for digest, _ in owned], [owner for _, owner in owned])
        await store.insert_blocks(conn, [number for number, _ in in_blocks], [owner for _, owner in in_blocks])

    async def _remove(self, conn: Connection, people: Sequence[RegisteredPerson]) -> None:
        dead = [each for each in self._keyring.generations if each not in self._keyring.digest_generations]
        for generation in dead:
            for one in people:
                digests = [self._digests.identifier_of(generation, each) for each in _identifiers(one)]
                await store.delete_identifiers(conn, digests, one.health_id)
                numbers = self._digests.blocks_of(generation, blocks(one.traits, one.contact))
                await store.delete_blocks(conn, numbers, one.health_id)

    async def _written(self, conn: Connection, row: RotationRow) -> pb.KeyRotation:
        written = pb.KeyRotation(
            phase=_PHASES[row.phase],
            digest_generations=self._keyring.digest_generations,
            wrapping_generation=self._keyring.current,
            people_done=row.people_done,
            people_total=max(await rotation_store.people_estimate(conn), row.people_done),
        )
        written.update_time.FromDatetime(row.updated_at)
        return written


class KeyringWatch:
    """Reads the keyring anew when its files change. A keyring that is wrong is not taken: the one at hand serves on."""

    def __init__(self, keyring: Keyring, directory: Path) -> None:
        self._keyring = keyring
        self._directory = directory
        self._log = structlog.get_logger("identity")

    async def run(self) -> None:
        """Runs until cancelled."""
        seen = self._look()
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            now = self._look()
            if now == seen:
                continue
            try:
                self._keyring.take(Keyring.from_directory(self._directory))
            except KeyringError:
                self._log.error("keyring_not_taken", exc_info=True)
                continue
            seen = now
            self._log.info("keyring_taken", generation=self._keyring.current)

    def _look(self) -> tuple[tuple[str, int], ...]:
        """The names of the files, and when each was last written (they are replaced whole)."""
        try:
            return tuple(sorted((file.name, file.stat().st_mtime_ns) for file in self._directory.iterdir()))
        except OSError:
            return ()


def _identifiers(person: RegisteredPerson) -> tuple[PatientIdentifier, ...]:
    """All that lead to the person: those in use, and national ones of the past."""
    return tuple(dict.fromkeys((*person.identifiers, *(one.identifier for one in person.held))))
