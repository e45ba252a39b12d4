"""A new version of every service comes without a failed request: SIGTERM, drain, start, one replica after another."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from ops.local.state import SERVICES
from tests.faults.campaign import CAMPAIGN, SECONDS, Budget, amount, publish
from tests.faults.clients import Clients
from tests.faults.fleet import REPLICAS, Fleet
from tests.faults.load import ONE_RETRY
from tests.faults.trial import Trial

pytestmark = pytest.mark.asyncio(loop_scope="session")

RESTARTS = amount(10, 1_000)
_BETWEEN = 0.8
"""Seconds that a new replica has to be found before the next one goes: a readiness probe's period is longer."""


async def test_no_request_fails_for_a_client_with_one_retry_while_every_service_is_restarted(
    fleet: Fleet, clients: Clients
) -> None:
    chance = random.Random(20_261_122)
    budget, restarts, again, slowest, requests = Budget(), 0, 0, 0.0, Counter[str]()
    while restarts < RESTARTS and budget.left > 0:
        trial = await Trial.open(clients, 6)
        async with trial.loaded(chance, ONE_RETRY):
            await asyncio.sleep(_BETWEEN)
            for service in SERVICES:
                for number in range(REPLICAS):
                    slowest = max(slowest, await fleet.terminate(service, number))
                    assert fleet.replica(service, number).code == 0, "it was asked to end, and ends in order"
                    await fleet.start(service, number)
                    restarts += 1
                    await asyncio.sleep(_BETWEEN)
        wrong = await trial.judge()
        requests += trial.history.counts()
        again += sum(asked.sent > 1 for asked in trial.history.requests.values())
        publish(
            "rolling restart",
            {
                "restarts": restarts,
                "of": RESTARTS,
                "slowest end, seconds": round(slowest, 2),
                "requests": dict(requests),
                "second tries": again,
                "violations": wrong,
                "seconds": round(budget.spent),
            },
        )
        assert wrong == []
    assert restarts >= RESTARTS or (CAMPAIGN and budget.spent >= SECONDS)
