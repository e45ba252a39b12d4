"""A network that delays, slices, swallows and cuts loses nothing, doubles nothing and leaks nothing."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from ops.local.databases import database_name
from ops.local.state import POSTGRES, SERVICES, ServiceName, write_private
from tests.faults.campaign import CAMPAIGN, Budget, publish
from tests.faults.clients import Clients
from tests.faults.fleet import REPLICAS, Fleet
from tests.faults.proxy import FAIR, Proxy, Weather
from tests.faults.trial import Trial

pytestmark = pytest.mark.asyncio(loop_scope="session")

_SECONDS = 120.0 if CAMPAIGN else 6.0
_CALLED: Sequence[ServiceName] = ("audit", "consent", "identity", "document")
_STORMS = (
    Weather(there=0.05, back=0.05),
    Weather(back=0.3),
    Weather(slice_bytes=1),
    Weather(slice_bytes=7, there=0.02),
    Weather(swallow=True),
)


@asynccontextmanager
async def through_proxies(fleet: Fleet) -> AsyncIterator[list[Proxy]]:
    """Everything that services say to each other and to PostgreSQL goes through proxies; whole again afterwards."""
    stack = fleet.stack
    database = stack.ports.address(POSTGRES)
    async with AsyncExitStack() as opened:
        proxies: list[Proxy] = []
        addresses: dict[str, str] = {}
        for service in _CALLED:
            replicas = [
                await opened.enter_async_context(Proxy(stack.address(service, number))) for number in range(REPLICAS)
            ]
            addresses[f"DMP_{service.upper()}_ADDRESS"] = "ipv4:" + ",".join(proxy.address for proxy in replicas)
            proxies += replicas
        try:
            for service in SERVICES:
                between = await opened.enter_async_context(Proxy(database))
                proxies.append(between)
                dsn = fleet.state.secret(f"{database_name(service)}.through.dsn")
                write_private(dsn, stack.dsn(service).replace(database, between.address))
                for number in range(REPLICAS):
                    await fleet.kill(service, number)
                    await fleet.fork(service, number, {**addresses, "DMP_DSN_FILE": str(dsn)})
            for service in SERVICES:
                for number in range(REPLICAS):
                    await fleet.ready(fleet.replica(service, number))
            yield proxies
        finally:
            await fleet.stop_all()
            await fleet.start_all()


async def test_storms_between_all_parts_lose_nothing_and_double_nothing(fleet: Fleet, clients: Clients) -> None:
    chance = random.Random(random.SystemRandom().random())
    budget, storms, cuts = Budget(), 0, 0
    async with through_proxies(fleet) as proxies:
        trial = await Trial.open(clients, 4)
        async with trial.loaded(chance):
            deadline = time.monotonic() + min(_SECONDS, budget.left)
            while time.monotonic() < deadline:
                for proxy in chance.sample(proxies, 3):
                    if chance.random() < 0.5:
                        proxy.cut(reset=chance.random() < 0.5)
                        cuts += 1
                    else:
                        proxy.change(chance.choice(_STORMS))
                        storms += 1
                await asyncio.sleep(chance.uniform(0.05, 0.4))
                for proxy in proxies:
                    if chance.random() < 0.7:
                        proxy.change(FAIR)
            for proxy in proxies:
                proxy.change(FAIR)
        wrong = await trial.judge()
    publish(
        "network",
        {"storms": storms, "cuts": cuts, "requests": dict(trial.history.counts()), "violations": wrong},
    )
    assert wrong == []
