"""Integration: durable events become a tree, its checkpoint is signed, cosigned and given out. In the background.

For each log one process at a time, by a lease; and since a lease is only a hint, each step compares and swaps:

    read the entries behind the checkpoint, hash them, let the tiles grow
    one transaction: swap the checkpoint for the larger one, store the tiles      ← the log has committed itself
    ask the witnesses, publish                                                    ← now others may see it

A checkpoint under which everything is, is cosigned again from time to time: the time in a cosignature tells those who
look from outside that it is not an old one which somebody, or a log that stands still, keeps showing them.

Whoever loses the swap begins again from what is stored. What contradicts the log stops the process (`ForkFound`).
Appends are never waited for, and never wait for this: they share the event loop and one connection of the pool.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from services.audit import tree_store
from services.audit.tiles import ForkFound
from services.audit.tree import ACQUIRE_SECONDS, LogTree
from services.audit.tree_store import TreeState
from services.audit.witnesses import WitnessAhead, Witnesses
from services.runtime import faults
from services.runtime.errors import DmpError
from services.runtime.jobs import Lease
from services.runtime.metrics import Metrics
from services.runtime.names import Label
from services.runtime.postgres import Connection, is_transient, transaction
from services.runtime.tlog.checkpoint import Checkpoint
from services.runtime.tlog.layout import Bundle, Edge, Grown, encode_bundle
from services.runtime.tlog.note import Note, parse_note

_log = structlog.get_logger("integration")

_STEP: Final = 2048
"""Entries of one swap: some milliseconds of hashing, in pieces that let others run."""
_PIECE: Final = 256
_RETRY: Final = 1.0
COSIGNED_AGAIN: Final = 20.0
"""Seconds after which witnesses cosign what has not changed once more; `dmp audit monitor` waits three times that."""
_LOGS: Final[Mapping[Label, tuple[str, ...]]] = {"log": tuple(str(number) for number in range(1024))}


@dataclass(slots=True)
class _Lag:
    """How far the checkpoint is behind, as of the last look."""

    events: int = 0
    caught_up_at: float = 0.0


class Integrator:
    """Integrates one log. Run `run` in the background; several processes may."""

    def __init__(
        self,
        tree: LogTree,
        witnesses: Witnesses,
        lease: Lease,
        metrics: Metrics,
        *,
        every: float = 0.25,
        again: float = COSIGNED_AGAIN,
    ) -> None:
        """`every` is the seconds from one checkpoint to the next, at least; `again` those after which one that has not
        changed is cosigned again."""
        self.tree = tree
        self._witnesses = witnesses
        self._lease = lease
        self._every = every
        self._again = again
        self._edge: Edge | None = None
        self._lag = _Lag(caught_up_at=time.monotonic())
        self._witnessed = True
        self._cosigned_at = float("-inf")
        name = str(tree.log_id)
        self._integrated = metrics.counter("dmp_audit_integrated_total", _LOGS)
        self._unwitnessed = metrics.counter("dmp_audit_unwitnessed_total", _LOGS)
        metrics.gauge("dmp_audit_checkpoint_lag_seconds", self._lag_seconds, name)
        metrics.gauge("dmp_audit_unintegrated_events", lambda: self._lag.events, name)

    async def open(self) -> None:
        """Checks the log against all that was ever given out. ForkFound if it may not go on."""
        await self.tree.begin()
        await self.tree.check()
        seen = await self._witnesses.seen(self.tree.origin, self.tree.signer.verifier)
        if len(seen) < len([each for each in self.tree.policy.witnesses.values() if each.url]):
            _log.error("witness_missing_at_start", log=self.tree.log_id)
        async with self.tree.pool.acquire(timeout=ACQUIRE_SECONDS) as conn:
            state = await self.tree.state(conn)
            for name, checkpoint in seen.items():
                await self.tree.check_against(conn, state, checkpoint, f"the witness {name}")

    async def run(self) -> None:
        """Integrates until cancelled. ForkFound when the log may not go on: the process is to end then."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.keep())
            group.create_task(self._drive())

    async def _drive(self) -> None:
        while True:
            started = time.monotonic()
            try:
                if self._lease.held:
                    await self.step()
                else:
                    self._edge = None
                    self._lag = _Lag(0, time.monotonic())
            except ForkFound as error:
                _log.critical("log_contradicted", log=self.tree.log_id, error=str(error))
                raise
            except Exception as error:
                self._edge = None
                if not isinstance(error, DmpError) and not is_transient(error):
                    raise
                _log.warning("integration_delayed", log=self.tree.log_id, exc_info=error)
                await asyncio.sleep(_RETRY)
            await asyncio.sleep(max(0.01, self._every - (time.monotonic() - started)))

    async def step(self) -> int:
        """Integrates what is durable now and publishes it; the size of the published tree."""
        deadline = time.monotonic() + self._every
        while await self._integrate() and time.monotonic() < deadline:
            pass
        return await self._publish()

    async def close(self) -> None:
        """Close the connections to witnesses."""
        await self._witnesses.close()

    async def _integrate(self) -> bool:
        """One swap; whether more may be there to integrate."""
        tree = self.tree
        async with tree.pool.acquire(timeout=ACQUIRE_SECONDS) as conn:
            state = await tree.state(conn)
            durable = await tree_store.size_of(conn, tree.log_id)
            if durable < state.size:
                raise ForkFound(f"{tree.origin}: the log has lost events that were under its checkpoint")
            self._note_lag(durable - state.size)
            if durable == state.size:
                return False
            edge = self._edge
            if edge is None or edge.size != state.size or edge.root() != state.root:
                edge = await tree.edge(conn, state)
            rows = await tree_store.entries(conn, tree.log_id, state.size, min(durable, state.size + _STEP))
        if [index for index, _ in rows] != list(range(state.size, state.size + len(rows))) or not rows:
            raise ForkFound(f"{tree.origin}: there is a gap among the events after {state.size}")
        self._edge = None
        grown = await _grow(edge, [leaf for _, leaf in rows])
        if not await self._swap(state, edge, grown):
            return True
        self._edge = edge
        self._integrated.add(len(rows), str(tree.log_id))
        return edge.size < durable

    async def _swap(self, state: TreeState, edge: Edge, grown: Sequence[Grown]) -> bool:
        tree = self.tree
        checkpoint = Checkpoint(tree.origin, edge.size, edge.root())
        async with transaction(tree.pool, timeout=ACQUIRE_SECONDS) as conn:
            bundles = await self._bundles(conn, state.size, edge.size, grown)
            won = await tree_store.swap(
                conn, tree.log_id, state, checkpoint.size, checkpoint.root, tree.sign(checkpoint)
            )
            if won:
                await tree.tiles.put(conn, tree.log_id, tree.origin, grown, bundles)
            faults.point("integrate.before_commit")
        faults.point("integrate.after_commit")
        return won

    async def _bundles(
        self, conn: Connection, old: int, size: int, grown: Sequence[Grown]
    ) -> list[tuple[Bundle, bytes]]:
        """The bundles beside the tiles of level 0 that grew, for a store that serves them itself."""
        if not self.tree.tiles.keeps_bundles:
            return []
        low = old // 256 * 256
        leaves = [leaf for _, leaf in await tree_store.entries(conn, self.tree.log_id, low, size)]
        return [
            (
                Bundle(tile.number, tile.width),
                encode_bundle(leaves[tile.number * 256 - low : tile.number * 256 - low + tile.width]),
            )
            for tile, _ in grown
            if tile.level == 0
        ]

    async def _publish(self) -> int:
        tree = self.tree
        async with tree.pool.acquire(timeout=ACQUIRE_SECONDS) as conn:
            state = await tree.state(conn)
        enough, again = state.size == 0 or tree.policy.met(state.cosigners), self._to_cosign_again(state)
        if state.published_size == state.size and enough and not again:
            return state.published_size
        note = parse_note(state.signed)
        checkpoint = Checkpoint(tree.origin, state.size, state.root)
        try:
            cosigned, fresh = await self._witnesses.cosign(
                tree.signer.verifier, checkpoint, note, lambda old: self._prove(old, state.size)
            )
        except WitnessAhead as ahead:
            return await self._catch_up(ahead)
        cosigned, names = _with_earlier(cosigned, fresh, state)
        self._say_witnessed(tree.policy.met(names))
        if state.published_size < state.size or len(names) > len(state.cosigners) or (again and fresh):
            await self._give_out(state, cosigned, names)
            self._cosigned_at = time.monotonic() if fresh else self._cosigned_at
        return state.size

    def _to_cosign_again(self, state: TreeState) -> bool:
        """Whether it is time to show that what was published is still all there is."""
        asked = any(each.url for each in self.tree.policy.witnesses.values())
        due = time.monotonic() - self._cosigned_at >= self._again
        return asked and due and state.size > 0 and self._lag.events == 0

    async def _catch_up(self, ahead: WitnessAhead) -> int:
        """Another process went on while this one asked, with what is stored now; ForkFound unless that is so."""
        async with self.tree.pool.acquire(timeout=ACQUIRE_SECONDS) as conn:
            state = await self.tree.state(conn)
        if state.size < ahead.size:
            raise ahead
        _log.warning("integration_overtaken", log=self.tree.log_id)
        return state.published_size

    async def _give_out(self, state: TreeState, note: Note, names: Sequence[str]) -> None:
        """Publishes in the database and, while the row is held, where others serve from: so that no slower process
        puts an older checkpoint there, and none that dies between the two leaves an older one."""
        faults.point("publish.before")
        content = note.encode()
        async with transaction(self.tree.pool, timeout=ACQUIRE_SECONDS) as conn:
            if await tree_store.publish(conn, self.tree.log_id, state.size, content, names, state.published):
                await self.tree.tiles.publish(self.tree.origin, content)
        faults.point("publish.after")

    async def _prove(self, old: int, size: int) -> list[bytes]:
        async with self.tree.pool.acquire(timeout=ACQUIRE_SECONDS) as conn:
            return await self.tree.consistency(conn, old, size)

    def _say_witnessed(self, witnessed: bool) -> None:
        if not witnessed:
            self._unwitnessed.add(1, str(self.tree.log_id))
        if witnessed != self._witnessed:
            self._witnessed = witnessed
            if witnessed:
                _log.info("checkpoints_witnessed_again", log=self.tree.log_id)
            else:
                _log.error("checkpoint_published_unwitnessed", log=self.tree.log_id)

    def _note_lag(self, events: int) -> None:
        if events == 0 or self._lag.events == 0:
            self._lag.caught_up_at = time.monotonic()
        self._lag.events = events

    def _lag_seconds(self) -> float:
        return time.monotonic() - self._lag.caught_up_at if self._lag.events else 0.0


def _with_earlier(note: Note, names: tuple[str, ...], state: TreeState) -> tuple[Note, tuple[str, ...]]:
    """The note with those cosignatures, too, that it is published with already, of witnesses who gave none now."""
    published = parse_note(state.published)
    if published.text != note.text:
        return note, names
    now = {(each.name, each.key_id) for each in note.signatures}
    earlier = [each for each in published.signatures if (each.name, each.key_id) not in now]
    others = tuple(name for name in state.cosigners if name not in names)
    return Note(note.text, (*note.signatures, *earlier)), (*names, *others)


async def _grow(edge: Edge, entries: Sequence[bytes]) -> list[Grown]:
    """Appends in pieces, letting others run between them; of each tile only what it became at last."""
    last: dict[tuple[int, int], Grown] = {}
    for start in range(0, len(entries), _PIECE):
        for each in edge.append(entries[start : start + _PIECE]):
            last[each.tile.level, each.tile.number] = each
        await asyncio.sleep(0)
    return list(last.values())
