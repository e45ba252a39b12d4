"""A partner that asks for more than its quota, on the running platform: what is still served of it is right, and traced
once each, though it goes together and after everybody else (docs/decisions/0048)."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.gateway.v1 import partner_pb2 as pb
from tests.oauth_software import Software
from tests.platform_calls import attempt, bearer
from tests.platform_fixture import Platform, method

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHECK = method("GetDossier")


async def test_what_is_served_of_a_flood_is_right_and_traced_once_each(platform: Platform) -> None:
    patients = [await platform.patient() for _ in range(2)]
    flooding = await Software.registered(platform, quota=pb.Quota(requests_per_second=50, burst=5))
    polite = await Software.registered(platform)
    tokens = {each.client_id: {"authorization": f"Bearer {await each.token()}"} for each in (flooding, polite)}
    place, going, floods = await platform.log_size(), True, list[tuple[str, httpx.Response]]()

    async def flood(number: int) -> None:
        patient = patients[number % len(patients)]
        while going:
            answer = await flooding.http.get(
                f"{flooding.base}/Patient",
                params={"identifier": patient.identifier},
                headers=tokens[flooding.client_id],
            )
            floods.append((patient.identifier, answer))

    crowd = [asyncio.create_task(flood(number)) for number in range(16)]
    for number in range(20):
        asked = {"identifier": patients[number % 2].identifier}
        answer = await polite.http.get(f"{polite.base}/Patient", params=asked, headers=tokens[polite.client_id])
        assert (answer.status_code, answer.json()["total"]) == (200, 1)
        await asyncio.sleep(0.02)
    going = False
    await asyncio.gather(*crowd)

    statuses = Counter(answer.status_code for _, answer in floods)
    assert set(statuses) == {200, 429}
    assert statuses[200] > 5, "beyond its burst it has its quota"
    for identifier, answer in floods:
        if answer.status_code == 200:
            [entry] = answer.json()["entry"]
            known = {f"{each['system']}|{each['value']}" for each in entry["resource"]["identifier"]}
            assert identifier in known, "each is given its own patient"
    served = Counter(
        event.actor.client_id for event in await platform.log_since(place) if event.action == CHECK.audit_action
    )
    assert served == {flooding.client_id: statuses[200], polite.client_id: 20}

    error = await attempt(
        platform.channel("relay", CHECK),
        CHECK,
        consent_pb2.GetDossierRequest(name=patients[0].dossier),
        bearer(tokens[flooding.client_id]["authorization"].removeprefix("Bearer ")),
    )
    assert error is None or error.reason == reasons.ERROR_REASON_QUOTA_EXCEEDED
    await flooding.close()
    await polite.close()
