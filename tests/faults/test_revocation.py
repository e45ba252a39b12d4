"""No is immediate (promise 2): no read that begins after the acknowledgement of a revocation gets anything."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from ops.local.state import POSTGRES, ServiceName, write_private
from tests.faults.campaign import CAMPAIGN, SECONDS, Budget, amount, publish
from tests.faults.clients import Clients, Way
from tests.faults.fleet import Fleet
from tests.faults.proxy import Proxy, Weather
from tests.faults.revocation import DIRECTLY, RELAYED, Siege

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROUNDS = amount(200, 10_000)
_READERS = 4
_ROUNDS_A_SIEGE = 250
_BROKEN = "tests.faults.broken_coalescer"
_BROKEN_TOGETHER = "tests.faults.broken_together"
_GROUPING: Sequence[ServiceName] = ("document", "gateway")
"""What serves reads together."""
_SECONDS_TO_A_LEAK = 80.0
"""A few rounds are enough on a quiet machine."""


Settings = dict[tuple[ServiceName, int], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Slow:
    """Answers that linger on their way (seconds): one from before a revocation is then still under way after it.

    The database is slow for one replica of consent only, or it would be as slow to acknowledge as to answer.
    """

    of_consent: float = 0.0
    of_its_database: float = 0.0


@asynccontextmanager
async def slow_answers(fleet: Fleet, slow: Slow, broken: Sequence[ServiceName] = ()) -> AsyncIterator[None]:
    """document hears consent late, consent its database; those `broken` join batches already sent. Whole again
    afterwards."""
    stack = fleet.stack
    database = stack.ports.address(POSTGRES)
    late, late_database = Weather(back=slow.of_consent), Weather(back=slow.of_its_database)
    async with (
        Proxy(stack.address("consent", 0), late) as first,
        Proxy(stack.address("consent", 1), late) as second,
        Proxy(database, late_database) as between,
    ):
        dsn = fleet.state.secret("late.dsn")
        write_private(dsn, stack.dsn("consent").replace(database, between.address))
        through = {"DMP_CONSENT_ADDRESS": f"ipv4:{first.address},{second.address}"}
        settings: Settings = {
            ("consent", 0): {},
            ("consent", 1): {"DMP_DSN_FILE": str(dsn)},
            ("document", 0): through,
            ("document", 1): through,
        }
        async with restarted(
            fleet, settings, dict.fromkeys(((service, n) for service in broken for n in (0, 1)), _BROKEN)
        ):
            yield


@asynccontextmanager
async def on_native(fleet: Fleet, of_consent: float, prelude: str = "") -> AsyncIterator[None]:
    """The first replica of what serves reads together is on the native transport, where all of them are; the other one
    on grpcio, where those are that the gateway relays together. The native one of document hears consent late, by so
    many seconds."""
    late = Weather(back=of_consent)
    async with Proxy(fleet.stack.address("consent", 0), late) as between:
        through = {"DMP_CONSENT_ADDRESS": between.address} if of_consent else {}
        settings: Settings = {(service, 0): fleet.native(service, 0) for service in _GROUPING}
        settings[("document", 0)] |= through
        settings[("document", 1)] = through
        async with restarted(fleet, settings, dict.fromkeys(((service, 0) for service in _GROUPING), prelude)):
            yield


@asynccontextmanager
async def restarted(
    fleet: Fleet, settings: Settings, preludes: Mapping[tuple[ServiceName, int], str]
) -> AsyncIterator[None]:
    """Replicas with other settings. As they were afterwards."""
    try:
        for (service, number), overrides in settings.items():
            await fleet.kill(service, number)
            await fleet.start(service, number, overrides, preludes.get((service, number), ""))
        yield
    finally:
        for service, number in settings:
            await fleet.kill(service, number)
        await fleet.start_all()


async def test_no_read_that_begins_after_a_revocation_was_acknowledged_gets_anything(
    fleet: Fleet, clients: Clients
) -> None:
    chance = random.Random(random.SystemRandom().random())
    budget, rounds, sieges, reads = Budget(), 0, 0, Counter[str]()
    while rounds < ROUNDS and budget.left > 0:
        async with on_native(fleet, of_consent=0.004 * (sieges % 2)):
            siege = await Siege.lay(clients, chance, reading=(*DIRECTLY, *RELAYED))
            most = min(_ROUNDS_A_SIEGE, ROUNDS // 2, ROUNDS - rounds)
            await siege.run(most, _READERS, budget.left)
        rounds += siege.rounds
        sieges += 1
        reads += Counter(served=siege.served, refused=siege.refused)
        publish(
            "revocation",
            {
                "rounds": rounds,
                "of": ROUNDS,
                "reads": dict(reads),
                "leaks": siege.leaks,
                "seconds": round(budget.spent),
            },
        )
        assert siege.leaks == []
        assert set(siege.served_by) == {*DIRECTLY, *RELAYED}
    assert rounds >= ROUNDS or (CAMPAIGN and budget.spent >= SECONDS)


@pytest.mark.parametrize(
    ("broken", "slow"),
    [("document", Slow(of_consent=0.008)), ("consent", Slow(of_its_database=0.01))],
    ids=["document", "consent"],
)
async def test_the_same_readers_find_the_leak_of_a_coalescer_that_joins_a_batch_already_sent(
    fleet: Fleet, clients: Clients, broken: ServiceName, slow: Slow
) -> None:
    async with slow_answers(fleet, slow, [broken]):
        siege = await Siege.lay(clients, random.Random(20_261_122), through=Way("consent", 0))
        until = time.monotonic() + _SECONDS_TO_A_LEAK
        while not siege.leaks and (left := until - time.monotonic()) > 0:
            await siege.run(10, _READERS, left)
    assert siege.leaks


async def test_they_find_the_leak_of_calls_that_join_others_already_served_together(
    fleet: Fleet, clients: Clients
) -> None:
    async with on_native(fleet, of_consent=0.008, prelude=_BROKEN_TOGETHER):
        for way in (DIRECTLY[0], RELAYED[0]):
            siege = await Siege.lay(clients, random.Random(20_261_126), through=Way("consent", 0), reading=(way,))
            until = time.monotonic() + _SECONDS_TO_A_LEAK
            while not siege.leaks and (left := until - time.monotonic()) > 0:
                await siege.run(10, _READERS, left)
            assert siege.leaks
