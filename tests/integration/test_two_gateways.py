"""Two gateways behind a balancer: a request may go to either, whichever took the one before.

Nothing that decides who may do what is kept in a process: sign-ins under way, codes, used assertions, revocations and
suspensions are in the database, links and ids open under the keys that all gateways have.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
import pytest

from ops.demo_platform import demo_cast
from ops.local.stack import ROOT
from ops.partners import Partners
from tests.conformance.fhir_http import simplified
from tests.conformance.fhir_samples import FHIR
from tests.oauth_software import REDIRECT, VERIFIER, Software, at_provider
from tests.platform_fixture import Patient, Platform
from tests.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")

_PORTS: Final = ("LISTEN", "HTTP_LISTEN", "MUTUAL_TLS_LISTEN", "OPERATOR_LISTEN", "HEALTH_LISTEN")
_SECONDS: Final = 30.0


@asynccontextmanager
async def second_gateway(platform: Platform, http: httpx.AsyncClient) -> AsyncIterator[str]:
    """Another gateway of the same platform, with the same public URL; where it is."""
    ports = {f"DMP_{name}": f"127.0.0.1:{free_port()}" for name in _PORTS}
    env = platform.stack.env("gateway")
    env |= {name: address for name, address in ports.items() if name in env} | {"DMP_TRANSPORT": "grpcio"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", cwd=ROOT, env=env,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    base = f"https://{env['DMP_HTTP_LISTEN']}"
    try:
        async with asyncio.timeout(_SECONDS):
            while not await _answers(http, f"{base}/metadata"):
                assert process.returncode is None, "the second gateway ended"
                await asyncio.sleep(0.1)
        yield base
    finally:
        process.terminate()
        await process.wait()


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code < 500
    except httpx.TransportError:
        return False


class Client:
    """Software of a physician; each request goes to the gateway that is named."""

    def __init__(self, software: Software) -> None:
        self.software = software
        self.token = ""

    async def form(self, base: str, **fields: str) -> httpx.Response:
        """A form to a gateway's token endpoint."""
        return await self.software.http.post(f"{base}/token", data=fields)

    async def send(self, base: str, method: str, path: str, resource: object = None, key: str = "") -> httpx.Response:
        """A FHIR request to a gateway."""
        headers = FHIR | {"Authorization": f"Bearer {self.token}"} | ({"Idempotency-Key": key} if key else {})
        return await self.software.http.request(method, f"{base}/{path}", json=resource, headers=headers)


async def test_whichever_gateway_a_request_goes_to_it_is_the_same_platform(platform: Platform) -> None:
    client = Client(await Software.registered(platform))
    async with second_gateway(platform, client.software.http) as other:
        await sign_in_at_both(client, other)
        patient = await platform.patient()
        client.software.statement = dict(patient.caregiver.statement().fields)
        client.token = await client.software.token()
        name = await feed_and_page_at_both(client, other, patient)
        await lose_at_the_one_what_the_other_asks_for(client, other, f"DocumentReference/{name}", platform)
    await client.software.close()


async def sign_in_at_both(client: Client, other: str) -> None:
    """A sign-in begun at the one comes back to the other; a code or an assertion is spent wherever it was shown."""
    software, physician = client.software, demo_cast().professionals[0]
    departure = await software.depart()
    callback = await at_provider(software.http, departure.headers["location"], physician.idnps)
    code = (await software.arrived(callback.replace(software.base, other)))["code"]
    assert (await software.exchanged(code)).status_code == 200
    good = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "code_verifier": VERIFIER}
    spent = await client.form(other, **software.form(software.assertion(extensions=None), **good))
    assert (spent.status_code, spent.json()["error"]) == (400, "invalid_grant")
    form = software.form(software.assertion(), grant_type="client_credentials")
    answer = await client.form(software.base, **form)
    assert answer.status_code == 200, answer.text
    replayed = await client.form(other, **form)
    assert (replayed.status_code, replayed.json()["error"]) == (401, "invalid_client")


async def feed_and_page_at_both(client: Client, other: str, patient: Patient) -> str:
    """A retry at the other makes nothing twice; ids and pages of the one open at the other. The id of a document."""
    base = client.software.base
    made = [
        await client.send(at, "POST", "DocumentReference", simplified(patient), "key-of-one") for at in (base, other)
    ]
    assert {each.status_code for each in made} <= {200, 201}, [each.text for each in made]
    assert made[0].json()["id"] == made[1].json()["id"]
    assert (await client.send(base, "POST", "DocumentReference", simplified(patient, 2))).status_code == 201
    query, seen = f"DocumentReference?patient.identifier={patient.identifier}&_count=1", []
    for at in (other, base):
        page = (await client.send(at, "GET", query)).json()
        assert page["total"] == 2
        seen.append(page["entry"][0]["resource"]["id"])
        links = {link["relation"]: link["url"] for link in page["link"]}
        query = links.get("next", "").removeprefix(f"{base}/")
    assert len(set(seen)) == 2
    found: str = seen[0]
    return found


async def lose_at_the_one_what_the_other_asks_for(client: Client, other: str, path: str, platform: Platform) -> None:
    """What is revoked or suspended at the one is refused by the other's next request."""
    software = client.software
    assert (await software.post("/revoke", software.form(token=client.token))).status_code == 200
    assert (await client.send(other, "GET", path)).status_code == 401
    client.token = await software.token()
    assert (await client.send(other, "GET", path)).status_code == 200
    await Partners(platform.session).suspend(software.client_id, "withdrawn")
    assert (await client.send(other, "GET", path)).status_code in (401, 403)
