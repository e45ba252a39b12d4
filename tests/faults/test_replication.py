"""Two clusters, synchronous replication: the primary dies, the standby takes over, nothing acknowledged is lost.

A zombie primary that comes back is fenced: no service reaches it, and alone it can acknowledge nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.faults.campaign import publish
from tests.faults.clients import Clients
from tests.faults.fleet import Zygote, running_fleet
from tests.faults.history import End, Records
from tests.faults.proxy import Proxy, Weather
from tests.faults.standby import Standby, acknowledge_only_together, followed, try_to_write
from tests.faults.trial import Trial

pytestmark = pytest.mark.asyncio(loop_scope="session")

_GRANTS = "SELECT count(*) FROM consent_event"


@dataclass(frozen=True, slots=True)
class Pair:
    """A fleet on two clusters."""

    clients: Clients
    standby: Standby
    front: Proxy
    following: Proxy

    async def fail_over(self) -> float:
        """The primary is dead: fence it, promote, lead the services to the new one. The seconds that this took."""
        begun = time.monotonic()
        self.front.target = ""
        self.front.cut()
        await self.standby.promote()
        self.front.target = self.standby.address
        return time.monotonic() - begun


@asynccontextmanager
async def pair(zygote: Zygote) -> AsyncIterator[Pair]:
    """The services started on the primary."""
    async with running_fleet(zygote, start=False) as fleet, followed(fleet.stack) as (standby, front, following):
        try:
            await fleet.start_all()
            async with Clients(fleet) as clients:
                yield Pair(clients, standby, front, following)
        finally:
            await fleet.stop_all()


async def acknowledged_more(trial: Trial) -> None:
    """Return when some more changes have been acknowledged, however slow the machine is."""
    before = sum(asked.end is End.SERVED for asked in trial.history.requests.values())
    async with asyncio.timeout(60):
        while sum(asked.end is End.SERVED for asked in trial.history.requests.values()) < before + 20:
            await asyncio.sleep(0.05)


async def test_a_failover_loses_nothing_acknowledged_and_a_zombie_primary_serves_nobody(zygote: Zygote) -> None:
    chance = random.Random(random.SystemRandom().random())
    async with pair(zygote) as pairing:
        stack = pairing.clients.fleet.stack
        await acknowledge_only_together(stack)
        trial = await Trial.open(pairing.clients, 4)
        async with trial.loaded(chance):
            await asyncio.sleep(chance.uniform(1.0, 2.0))
            await stack.kill_postgres()
            seconds = await pairing.fail_over()
            await asyncio.sleep(1.5)  # changes of consent that the old primary never hears of
            await stack.start_postgres()  # the zombie: it has its data and believes that it is the primary
            before = pairing.front.accepted
            assert not await try_to_write(stack.superuser_dsn(), 1.0), "a zombie acknowledged a write"
            pairing.front.cut()  # every service connects anew, with the zombie there to be found
            await asyncio.sleep(1.5)
            assert pairing.front.accepted > before
        zombie = Records(stack)
        trial.records = Records(stack, pairing.standby.superuser_dsn)
        wrong = await trial.judge()
        [old], [new] = await zombie.fetch("consent", _GRANTS), await trial.records.fetch("consent", _GRANTS)
        assert old[0] < new[0], "the zombie is stale: what it would have served is what nobody got"
        publish(
            "failover",
            {
                "promotion, seconds": round(seconds, 2),
                "requests": dict(trial.history.counts()),
                "changes of consent at the zombie and at the primary": [old[0], new[0]],
                "violations": wrong,
            },
        )
        assert wrong == []


async def test_the_same_check_finds_what_a_failover_without_synchronous_replication_loses(zygote: Zygote) -> None:
    async with pair(zygote) as pairing:
        trial = await Trial.open(pairing.clients, 4)
        async with trial.loaded(random.Random(20_261_122)):
            await asyncio.sleep(0.5)
            pairing.following.change(Weather(swallow=True))  # the standby hears of nothing from here on
            await acknowledged_more(trial)
            await pairing.clients.fleet.stack.kill_postgres()
            pairing.following.cut()
            await pairing.fail_over()
            await asyncio.sleep(1.0)
        trial.records = Records(pairing.clients.fleet.stack, pairing.standby.superuser_dsn)
        wrong = await trial.judge()
    assert any("acknowledged, and not there" in line for line in wrong)
