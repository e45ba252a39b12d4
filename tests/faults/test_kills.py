"""What was acknowledged survives `kill -9` of anything at any instant, exactly once and with its event (promise 4)."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from ops.local.state import ServiceName
from services.runtime.faults import POINTS
from tests.faults.campaign import CAMPAIGN, SECONDS, Budget, amount, publish
from tests.faults.chaos import ALONE, POINTS_OF, Chaos
from tests.faults.clients import Clients
from tests.faults.fleet import Fleet
from tests.faults.trial import Trial

pytestmark = pytest.mark.asyncio(loop_scope="session")

KILLS = amount(30, 10_000)
_POINTS: Mapping[ServiceName, Sequence[str]] = POINTS_OF | {
    # Relays are alike, and a dead leader's lease runs for three seconds: each point once will do here.
    "consent": [point for point in POINTS_OF["consent"] if point != "relay.before_delete"],
    "document": [
        point for point in POINTS_OF["document"] if point not in ("relay.before_deliver", "relay.after_delete")
    ],
}
_KILLS_A_ROUND = 300
_ROUND_SECONDS = 60.0


async def test_a_process_killed_at_each_named_point_loses_nothing_and_doubles_nothing(
    fleet: Fleet, clients: Clients
) -> None:
    chance = random.Random(20_261_122)
    trial = await Trial.open(clients, 4)
    killed: list[str] = []
    async with trial.loaded(chance), asyncio.TaskGroup() as group:

        async def pass_every_point(service: ServiceName, points: Sequence[str]) -> None:
            """Replica 1 of a service dies at each of the points in turn, and comes back."""
            for point in points:
                await fleet.kill(service, 1)
                passages = 1 if point.startswith("relay") else chance.randint(1, 3)
                replica = await fleet.start(service, 1, {"DMP_FAULT_POINTS": f"{point}=kill:{passages}"})
                if point.startswith("relay"):
                    await fleet.terminate(service, 0)  # the lease comes to replica 1
                async with asyncio.timeout(30):
                    await replica.ended.wait()
                assert replica.code == -signal.SIGKILL
                killed.append(point)
                await fleet.start_all([service])

        for service, points in _POINTS.items():
            group.create_task(pass_every_point(service, points))
    assert set(killed) == POINTS - ALONE
    assert await trial.judge() == []


async def test_kills_at_random_instants_lose_nothing_and_double_nothing(fleet: Fleet, clients: Clients) -> None:
    chaos = Chaos(fleet, random.Random(random.SystemRandom().random()))
    budget, requests, rounds = Budget(), Counter[str](), 0
    while chaos.killed < KILLS and budget.left > 0:
        trial = await Trial.open(clients, 4)
        async with trial.loaded(chaos.chance):
            await chaos.run(min(_KILLS_A_ROUND, KILLS - chaos.killed), min(_ROUND_SECONDS, budget.left))
        wrong = await trial.judge() + chaos.violations
        requests += trial.history.counts()
        rounds += 1
        publish(
            "kills",
            {
                "kills": chaos.killed,
                "of": KILLS,
                "by process": dict(chaos.kills),
                "of these at points": dict(chaos.points),
                "freezes": chaos.freezes,
                "requests": dict(requests),
                "rounds, each checked": rounds,
                "violations": wrong,
                "seconds": round(budget.spent),
            },
        )
        assert wrong == []
    assert chaos.killed >= KILLS or (CAMPAIGN and budget.spent >= SECONDS)
