"""One client's slow calls leave the others their share of the places."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.fairness import Fairness
from services.runtime.errors import DmpError
from services.runtime.limits import BATCH, CARE, EMERGENCY, Bounds, Limit
from tests.refusals import refused

PLACES = 8
pytestmark = pytest.mark.asyncio


class Gateway:
    """The places of a gateway, and who holds them."""

    def __init__(self, **more: float) -> None:
        self.limit = Limit(Bounds(least=PLACES, most=PLACES, patience=5))
        self.fairness = Fairness(self.limit, **more)  # type: ignore[arg-type]
        self.open = asyncio.Event()
        self.served: list[str] = []
        self.inside: dict[str, int] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def call(self, client: str, traffic: int = CARE) -> None:
        """A call that lasts until it may end."""
        async with self.fairness.place(client, traffic, None):
            self.inside[client] = self.inside.get(client, 0) + 1
            try:
                await self.open.wait()
                self.served.append(client)
            finally:
                self.inside[client] -= 1

    async def calls(self, client: str, number: int, traffic: int = CARE) -> list[asyncio.Task[None]]:
        """As many at once; returns when each has its place or waits for it."""
        made = [asyncio.create_task(self.call(client, traffic)) for _ in range(number)]
        self.tasks += made
        for _ in range(5):
            await asyncio.sleep(0)
        return made


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    made = Gateway()
    yield made
    made.open.set()
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


async def test_alone_a_client_has_all_places(gateway: Gateway) -> None:
    await gateway.calls("slow", PLACES)
    assert gateway.inside == {"slow": PLACES}


async def test_a_newcomer_has_the_next_place_whoever_else_waits(gateway: Gateway) -> None:
    """Within its quota, and with calls that take long, one partner holds all places and has a hundred calls waiting."""
    slow = await gateway.calls("slow", PLACES + 100)
    await gateway.calls("polite", 1)
    assert gateway.inside == {"slow": PLACES}
    slow[0].cancel()  # one ends
    for _ in range(5):
        await asyncio.sleep(0)
    assert gateway.inside == {"slow": PLACES - 1, "polite": 1}


async def test_between_clients_that_want_all_the_places_come_to_equal_parts(gateway: Gateway) -> None:
    first = await gateway.calls("a", 3 * PLACES)
    await gateway.calls("b", 3 * PLACES)
    for task in first[: PLACES // 2]:
        task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert gateway.inside == {"a": PLACES // 2, "b": PLACES // 2}
    gateway.open.set()
    await asyncio.gather(*gateway.tasks, return_exceptions=True)
    assert gateway.served.count("b") == 3 * PLACES
    assert gateway.fairness.share(CARE) == PLACES
    assert gateway.limit.taken == 0


async def test_what_others_no_longer_ask_for_goes_to_those_who_wait(gateway: Gateway) -> None:
    others = await gateway.calls("b", 1)
    await gateway.calls("a", 3 * PLACES)
    assert gateway.inside == {"a": PLACES // 2, "b": 1}
    others[0].cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert gateway.inside == {"a": PLACES, "b": 0}


async def test_what_can_wait_keeps_no_care_of_the_same_client_waiting(gateway: Gateway) -> None:
    await gateway.calls("slow", 3 * PLACES, BATCH)
    await gateway.calls("slow", 2)
    assert gateway.inside == {"slow": PLACES // 4 + 2}


async def test_an_emergency_counts_in_nobodys_share(gateway: Gateway) -> None:
    await gateway.calls("slow", 2 * PLACES)
    await gateway.calls("slow", 1, EMERGENCY)
    assert gateway.inside == {"slow": PLACES + 1}


async def test_who_waits_too_long_or_behind_too_many_is_pushed_back_and_leaves_nothing_taken() -> None:
    gateway = Gateway(patience=0.01, most_waiting=2)
    await gateway.calls("slow", PLACES)
    waiting = await gateway.calls("slow", 2)
    with refused(reasons.ERROR_REASON_OVERLOADED):
        await gateway.call("slow")
    for task in waiting:
        with refused(reasons.ERROR_REASON_OVERLOADED):
            await task
    gateway.open.set()
    await asyncio.gather(*gateway.tasks, return_exceptions=True)
    async with AsyncExitStack() as stack:
        for _ in range(PLACES):
            await stack.enter_async_context(gateway.fairness.place("other", CARE, None))
    assert (gateway.limit.taken, gateway.fairness.share(CARE)) == (0, PLACES)


async def test_who_gives_up_at_the_moment_of_his_turn_takes_nobody_elses(gateway: Gateway) -> None:
    held = await gateway.calls("slow", PLACES)
    waiting = await gateway.calls("slow", 3)
    for task in held[:2]:
        task.cancel()
    waiting[0].cancel()  # not woken yet, when the places come that were given back before
    for _ in range(8):
        await asyncio.sleep(0)
    assert gateway.inside == {"slow": PLACES}
    gateway.open.set()
    await asyncio.gather(*gateway.tasks, return_exceptions=True)
    assert (gateway.limit.taken, gateway.fairness.share(CARE)) == (0, PLACES)


async def test_whoever_gives_up_at_any_moment_keeps_no_share(gateway: Gateway) -> None:
    for number in range(60):
        (task,) = await gateway.calls(f"client-{number % 3}", 1)
        if number % 2:
            task.cancel()
    gateway.open.set()
    await asyncio.gather(*gateway.tasks, return_exceptions=True)
    with suppress(DmpError):
        await gateway.call("another")
    assert (gateway.limit.taken, gateway.fairness.share(CARE)) == (0, PLACES)
