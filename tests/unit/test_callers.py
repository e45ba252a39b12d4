"""Who calls: what is asked of whom before a call of a client that floods is refused."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.callers import Caller, Callers
from gateway.clients import Clients
from gateway.quotas import Quotas
from gateway.registration import QuotaRegistration
from gateway.store import Store
from gateway.waves import Waves
from services.runtime.context import traffic
from services.runtime.errors import DmpError
from services.runtime.limits import BATCH, CARE, EMERGENCY, NAMES, TRAFFIC_HEADER
from services.runtime.redis import Redis
from services.runtime.tokens import TokenVerifier
from services.runtime.trail import Trail
from tests.unit.test_quotas import Clock
from tests.unit.test_relay_together import Standings, Verifier


class Recorded:
    """The trail as a list."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    async def record(self, event: Any, timeout: float) -> None:
        self.events.append(event)


TWENTY = QuotaRegistration(requests_per_second=10, burst=20)


class Gate:
    """Callers whose clients have a quota of ten a second, at a time that goes when told."""

    def __init__(self, quota: QuotaRegistration = TWENTY, waves: Waves | None = None) -> None:
        self.clock, self.table, self.trail = Clock(), Standings(), Recorded()
        self.callers = Callers(
            cast("TokenVerifier", Verifier()),
            Clients(cast("Store", self.table)),
            cast("Trail", self.trail),
            Quotas(Redis(None), quota, monotonic=self.clock),
            waves,
        )

    @property
    def looked_up(self) -> int:
        return sum(map(len, self.table.asked))

    async def ask(self, count: int, client: str = "a") -> list[int]:
        """The reasons why each of many at once is refused; 0 of those who may call."""
        return await asyncio.gather(*(self._one(client) for _ in range(count)))

    async def one(self, client: str = "a") -> tuple[Caller, int]:
        """A caller, and the class in which the task goes on."""
        return await self.callers.verify({"authorization": f"Bearer {client}"}, "", 5.0), traffic()

    async def _one(self, client: str) -> int:
        try:
            await self.callers.verify({"authorization": f"Bearer {client}"}, "", 5.0)
        except DmpError as error:
            return error.reason
        return 0


async def test_of_a_flood_no_more_are_looked_up_than_are_served() -> None:
    gate = Gate()
    await gate.ask(1)
    await gate.ask(100)
    for _ in range(20):
        gate.clock.now += 0.02
        await gate.ask(100)
    before = gate.looked_up
    served = 0
    for _ in range(50):
        gate.clock.now += 0.02
        served += (await gate.ask(100)).count(0)
    assert 9 <= served <= 11
    assert gate.looked_up - before == served


async def test_what_is_served_of_a_client_that_presses_is_batch_work_all_the_way() -> None:
    gate = Gate()
    assert await gate.ask(1) == [0]
    await gate.ask(30)
    gate.clock.now += 0.06
    await gate.ask(1)
    gate.clock.now += 0.05
    caller, lane = await asyncio.create_task(gate.one())
    assert (caller.traffic, lane) == (BATCH, BATCH)
    assert (TRAFFIC_HEADER, NAMES[BATCH]) in caller.metadata()
    urgent, lane = await asyncio.create_task(gate.one("a/regulation"))
    assert (urgent.traffic, lane) == (EMERGENCY, CARE), "emergencies never wait: who serves them says when they hurry"
    assert not [key for key, _ in urgent.metadata() if key == TRAFFIC_HEADER]
    other, lane = await asyncio.create_task(gate.one("b"))
    assert (other.traffic, lane) == (CARE, CARE)


async def test_the_calls_of_a_client_that_presses_begin_together() -> None:
    gate = Gate(QuotaRegistration(requests_per_second=100, burst=20), Waves(0.3))
    await gate.ask(1)
    assert (await gate.ask(30)).count(0) < 30
    gate.clock.now += 0.09
    before, calls = len(gate.table.asked), list[asyncio.Task[tuple[Caller, int]]]()
    for _ in range(5):
        calls.append(asyncio.create_task(gate.one()))
        await asyncio.sleep(0.02)
    await asyncio.gather(*calls)
    sizes = [len(pairs) for pairs in gate.table.asked[before:]]
    assert sum(sizes) == 5
    assert len(sizes) <= 3, "the first alone; of the others, who are let go on one by one, most at once"


@pytest.mark.parametrize(
    ("client", "reason"),
    [("suspended", reasons.ERROR_REASON_CLIENT_SUSPENDED), ("revoked", reasons.ERROR_REASON_TOKEN_REVOKED)],
)
async def test_who_was_stopped_meanwhile_is_refused_at_its_next_call_and_that_is_recorded(
    client: str, reason: int
) -> None:
    gate = Gate()
    assert await gate.ask(1, client) == [reason]
    assert await gate.ask(3, client) == [reason] * 3
    assert gate.looked_up == 4
    assert len(gate.trail.events) == 4
