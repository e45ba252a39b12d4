"""Quotas at the running gateway: shared through Redis by several, kept by each alone while it is gone."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest
import pytest_asyncio

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.gateway.v1 import partner_pb2 as pb
from gateway.quotas import Quotas
from gateway.registration import QuotaRegistration
from services.runtime.limits import BATCH, CARE, EMERGENCY
from services.runtime.redis import Redis
from tests.integration.test_redis_runtime import Server
from tests.oauth_software import Software
from tests.platform_calls import attempt, bearer
from tests.platform_fixture import Platform, method

CHECK: Final = method("GetDossier")
QUOTA: Final = QuotaRegistration(requests_per_second=20, burst=40)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    made.start()
    yield made
    made.stop()


@pytest_asyncio.fixture
async def gateways(server: Server) -> AsyncIterator[list[Quotas]]:
    """Three gateways with one Redis."""
    shared = [Redis(f"redis://127.0.0.1:{server.port}/0", timeout=5, try_again_after=0.1) for _ in range(3)]
    deadline = time.monotonic() + 20
    while not await shared[0].use(lambda client: client.ping(), False):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    yield [Quotas(each, QUOTA, gateways=3) for each in shared]
    for each in shared:
        await each.close()


async def served(of: Quotas, count: int, traffic: int = CARE, client: str = "a") -> int:
    verdicts = await asyncio.gather(*(of.take(client, None, traffic) for _ in range(count)))
    return sum(verdict.retry_after is None for verdict in verdicts)


async def test_three_gateways_give_out_one_quota(gateways: list[Quotas]) -> None:
    began = time.monotonic()
    given = sum(await asyncio.gather(*(served(each, 200) for each in gateways)))
    allowed = QUOTA.burst + QUOTA.requests_per_second * (time.monotonic() - began) + 1
    assert QUOTA.burst <= given <= allowed
    await asyncio.sleep(0.5)
    later = sum(await asyncio.gather(*(served(each, 200) for each in gateways)))
    assert later >= 1
    assert given + later <= QUOTA.burst + QUOTA.requests_per_second * (time.monotonic() - began) + 1


async def test_classes_are_counted_as_alone(gateways: list[Quotas]) -> None:
    one, two, three = gateways
    batch = await served(one, 40, BATCH)
    assert 10 <= batch <= 14
    assert await served(two, 100, EMERGENCY) == 100, "no emergency is refused"
    assert (await three.take("a", None, EMERGENCY)).traffic in (EMERGENCY, CARE)
    care = await served(three, 100, CARE)
    assert 40 - batch <= care <= 50


async def test_the_quota_holds_while_redis_dies_and_comes_back(server: Server, gateways: list[Quotas]) -> None:
    """Neither nothing nor everything: each gateway's part, and one quota again afterwards."""
    one = gateways[0]
    assert await served(one, 5) == 5
    server.stop()
    began = time.monotonic()
    alone = await served(one, 200)
    assert 1 <= alone <= QUOTA.burst / 3 + QUOTA.requests_per_second * (time.monotonic() - began) + 20
    server.start()
    await asyncio.sleep(1.0)
    deadline = time.monotonic() + 20
    while not await served(one, 1):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)


async def test_a_redis_that_hangs_holds_nobody_up_for_long(server: Server, gateways: list[Quotas]) -> None:
    quick = Redis(f"redis://127.0.0.1:{server.port}/0", timeout=0.1, try_again_after=5)
    of = Quotas(quick, QUOTA)
    server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert await served(of, 30) >= 1
        assert time.monotonic() - began < 5
    finally:
        server.signal(signal.SIGCONT)
        await quick.close()


# --- the running gateway ----------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own(breakable: Platform) -> Platform:
    """A platform whose Redis this module may kill."""
    return breakable


async def ask(platform: Platform, software: Software, token: str, dossier: str, count: int) -> dict[str, int]:
    """How `count` calls at once through the relay ended, by reason."""
    request = consent_pb2.GetDossierRequest(name=dossier)
    channel = platform.channel("relay", CHECK)
    errors = await asyncio.gather(*(attempt(channel, CHECK, request, bearer(token)) for _ in range(count)))
    found: dict[str, int] = {}
    for error in errors:
        name = "OK" if error is None else error.reason_name
        found[name] = found.get(name, 0) + 1
        if error is not None and error.reason == reasons.ERROR_REASON_QUOTA_EXCEEDED:
            assert error.retry_after is not None
            assert error.retry_after > 0
    return found


@pytest.mark.asyncio(loop_scope="session")
async def test_a_partner_beyond_its_quota_is_told_when_to_come_back_and_others_are_served(own: Platform) -> None:
    patient = await own.patient()
    flood = await Software.registered(own, quota=pb.Quota(requests_per_second=2, burst=10))
    polite = await Software.registered(own, quota=pb.Quota(requests_per_second=2, burst=10))
    token, other = await flood.token(), await polite.token()
    place = await own.log_size()
    ended = await ask(own, flood, token, patient.dossier, 60)
    assert set(ended) == {"OK", "QUOTA_EXCEEDED"}
    assert 1 <= ended["OK"] <= 25
    assert await ask(own, polite, other, patient.dossier, 5) == {"OK": 5}
    headers = {"authorization": f"Bearer {token}"}
    answer = await flood.http.get(f"{flood.base}/Patient", params={"identifier": patient.identifier}, headers=headers)
    while answer.status_code == 200:
        answer = await flood.http.get(
            f"{flood.base}/Patient", params={"identifier": patient.identifier}, headers=headers
        )
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["issue"][0]["code"] == "throttled"
    refusals = [
        event
        for event in await own.log_since(place)
        if event.reason == reasons.ERROR_REASON_QUOTA_EXCEEDED and event.actor.client_id == flood.client_id
    ]
    assert len(refusals) == 1, "of a flood the trail has one event, the usage all"
    assert refusals[0].outcome == audit_pb2.OUTCOME_DENIED
    for each in (flood, polite):
        await each.close()


@pytest.mark.asyncio(loop_scope="session")
async def test_an_emergency_is_served_though_its_partner_has_used_its_quota(own: Platform) -> None:
    patient = await own.patient()
    software = await Software.registered(own, quota=pb.Quota(requests_per_second=1, burst=3))
    care = await software.token()
    assert "QUOTA_EXCEEDED" in await ask(own, software, care, patient.dossier, 30)
    await asyncio.sleep(1.5)  # asking for a token counts too
    software.statement |= {
        "access_mode": "break_glass",
        "break_glass_reason": "Arrêt cardiaque",
        "purpose_of_use": "BTG",
    }
    emergency = await software.token()
    assert "QUOTA_EXCEEDED" in await ask(own, software, care, patient.dossier, 30)
    assert await ask(own, software, emergency, patient.dossier, 20) == {"OK": 20}
    await software.close()


@pytest.mark.asyncio(loop_scope="session")
async def test_the_gateway_serves_and_bounds_with_redis_killed_midway(own: Platform) -> None:
    patient = await own.patient()
    software = await Software.registered(own, quota=pb.Quota(requests_per_second=5, burst=20))
    token = await software.token()
    asking = asyncio.create_task(ask(own, software, token, patient.dossier, 15))
    await own.stack.kill_redis()
    first = await asking
    assert set(first) <= {"OK", "QUOTA_EXCEEDED"}
    flood = await ask(own, software, token, patient.dossier, 100)
    assert set(flood) <= {"OK", "QUOTA_EXCEEDED"}
    assert flood.get("QUOTA_EXCEEDED", 0) >= 20
    await own.stack.start_redis()
    await asyncio.sleep(3)
    assert (await ask(own, software, token, patient.dossier, 1)).get("OK", 0) == 1
    await software.close()
