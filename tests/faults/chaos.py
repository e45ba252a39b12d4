"""What breaks the platform: kills at random instants and at named points, freezes, crashes of PostgreSQL and Redis.

Lives here: when and how something is broken, and the count of it. Nothing here looks at what the platform answers.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from asyncio import FIRST_COMPLETED
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ops.local.stack import process_name
from ops.local.state import SERVICES, ServiceName
from ops.local.supervisor import tail
from services.runtime.faults import POINTS
from tests.faults.fleet import REPLICAS, Fleet, Replica

_EVERYWHERE: Final = ("reply.before",)
_IN_OUTBOX_OWNERS: Final = ("relay.before_deliver", "relay.before_delete", "relay.after_delete")
_RECORDERS: Final = ("record.before", "record.after")
POINTS_OF: Final[dict[ServiceName, Sequence[str]]] = {
    "audit": ("sequencer.before_commit", "sequencer.after_commit", *_EVERYWHERE),
    "consent": ("consent.before_commit", "consent.after_commit", *_IN_OUTBOX_OWNERS, *_EVERYWHERE),
    "document": ("submit.before_commit", "submit.after_commit", *_IN_OUTBOX_OWNERS, *_RECORDERS, *_EVERYWHERE),
    "identity": _EVERYWHERE,
    "gateway": _EVERYWHERE,
}
"""The points that each service passes under the mixed load."""
DOCUMENT_POINTS: Final = tuple(
    sorted(
        point
        for point in POINTS.difference(POINTS_OF["document"])
        if point.startswith(("submit.", "change.", "reading.", "move."))
    )
)
"""Further points of the document service, at which it is killed alone (`test_document_kills`)."""
AUDIT_POINTS: Final = tuple(
    sorted(point for point in POINTS if point.startswith(("integrate.", "publish.", "destroy.", "retention.")))
)
"""Those of the audit service (`test_audit_faults`)."""
ALONE: Final = frozenset({*DOCUMENT_POINTS, *AUDIT_POINTS})
assert {point for points in POINTS_OF.values() for point in points} | ALONE == POINTS

_MOST_PASSAGES: Final = 4
_READY_WITHIN: Final = 20.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How hard to break; times in seconds, chances between 0 and 1."""

    lifetime: tuple[float, float] = (0.0, 1.2)
    """From when it listens on."""
    while_starting: float = 0.2
    startup: float = 0.15
    at_a_point: float = 0.5
    point_within: float = 3.0
    freeze: float = 0.08
    postgres_every: tuple[float, float] = (3.0, 8.0)
    redis_every: tuple[float, float] = (2.0, 6.0)


@dataclass(slots=True)
class Chaos:
    """Breaks a fleet until told to stop. `kills` counts by what was killed: a service, a point, postgres, redis."""

    fleet: Fleet
    chance: random.Random
    pace: Pace = field(default_factory=Pace)
    kills: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    freezes: int = 0
    violations: list[str] = field(default_factory=list)
    _crashes: int = 0
    _database: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._database.set()

    @property
    def killed(self) -> int:
        """All kills, those at points included."""
        return self.kills.total()

    async def run(self, kills: int, seconds: float) -> None:
        """Break until `kills` more processes are dead, or the time is over; then bring everything back."""
        goal, deadline = self.killed + kills, time.monotonic() + seconds
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for service in SERVICES:
                for number in range(REPLICAS):
                    group.create_task(self._harass(service, number, enough))
            group.create_task(self._crash_postgres(enough))
            group.create_task(self._crash_redis(enough))
            while self.killed < goal and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            enough.set()
        await self.fleet.start_all()

    async def _harass(self, service: ServiceName, number: int, enough: asyncio.Event) -> None:
        """Kill a replica, start it again, and so on; half of the time it is to kill itself at a point."""
        await self._kill(self.fleet.replica(service, number))
        while not enough.is_set():
            await self._database.wait()  # a process that finds no database does not start
            crashes, armed = self._crashes, self._point(service)
            replica = await self.fleet.fork(service, number, {"DMP_FAULT_POINTS": armed})
            await self._let_live(replica, bool(armed), enough)
            if not replica.ended.is_set():
                await self._kill(replica)
            elif replica.code == -signal.SIGKILL and armed:
                self.kills[service] += 1
                self.points[armed.partition("=")[0]] += 1
            elif crashes == self._crashes:
                self._ended_by_itself(replica)

    async def _let_live(self, replica: Replica, armed: bool, enough: asyncio.Event) -> None:
        """Until its time has come; some die while they start."""
        if not armed and self.chance.random() < self.pace.while_starting:
            await self._while(replica, enough, self.chance.uniform(0.0, self.pace.startup))
            return
        ready = asyncio.ensure_future(self.fleet.listens(replica))
        try:
            await self._while(replica, enough, _READY_WITHIN, ready)
        finally:
            ready.cancel()
        lifetime = self.pace.point_within if armed else self.chance.uniform(*self.pace.lifetime)
        await self._while(replica, enough, lifetime)

    async def _while(
        self, replica: Replica, enough: asyncio.Event, seconds: float, until: asyncio.Future[None] | None = None
    ) -> None:
        """Wait for its end, for enough, for `until`, or for so long."""
        waits = [asyncio.ensure_future(event.wait()) for event in (replica.ended, enough)]
        awaited: list[asyncio.Future[Any]] = [*waits, until] if until else [*waits]
        try:
            await asyncio.wait(awaited, timeout=seconds, return_when=FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _kill(self, replica: Replica) -> None:
        if self.chance.random() < self.pace.freeze:
            replica.send(signal.SIGSTOP)
            self.freezes += 1
            await asyncio.sleep(self.chance.uniform(0.05, 1.0))
            if self.chance.random() < 0.7:  # else it dies frozen
                replica.send(signal.SIGCONT)
                await asyncio.sleep(self.chance.uniform(0.0, 0.3))
        await self.fleet.kill(replica.service, replica.number)
        self.kills[replica.service] += 1

    def _ended_by_itself(self, replica: Replica) -> None:
        name = process_name(replica.service, replica.number)
        [line] = tail(self.fleet.state.log(name), lines=1)
        self.violations.append(f"{name} ended by itself with code {replica.code}: {line[:500]}")

    def _point(self, service: ServiceName) -> str:
        if self.chance.random() >= self.pace.at_a_point:
            return ""
        point = self.chance.choice(POINTS_OF[service])
        return f"{point}=kill:{self.chance.randint(1, _MOST_PASSAGES)}"

    async def _crash_postgres(self, enough: asyncio.Event) -> None:
        while not await _set_within(enough, self.chance.uniform(*self.pace.postgres_every)):
            self._crashes += 1
            self._database.clear()
            await self.fleet.stack.kill_postgres()
            self.kills["postgres"] += 1
            await self.fleet.stack.start_postgres()
            self._database.set()

    async def _crash_redis(self, enough: asyncio.Event) -> None:
        while not await _set_within(enough, self.chance.uniform(*self.pace.redis_every)):
            await self.fleet.stack.kill_redis()
            self.kills["redis"] += 1
            await asyncio.sleep(self.chance.uniform(0.0, 0.5))
            await self.fleet.stack.start_redis()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
