"""The fleet that the fault tests share: it is broken by each and whole again after each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.faults.clients import Clients
from tests.faults.fleet import Fleet, Zygote, running_fleet


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def zygote() -> AsyncIterator[Zygote]:
    """What forks the services."""
    async with Zygote() as process:
        yield process


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def fleet(zygote: Zygote) -> AsyncIterator[Fleet]:
    """Two replicas of every service. Whoever breaks one mends it."""
    async with running_fleet(zygote) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def clients(fleet: Fleet) -> AsyncIterator[Clients]:
    """Clients of that fleet."""
    async with Clients(fleet) as connected:
        yield connected
