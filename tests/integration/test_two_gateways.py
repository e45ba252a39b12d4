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
from tests.oauth_software import Software, at_provider
from tests.platform_fixture import Platform
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


async def test_whichever_gateway_a_request_goes_to_it_is_the_same_platform(platform: Platform) -> None:
    software = await Software.registered(platform)
    patient, physician = await platform.patient(), demo_cast().professionals[0]
    async with second_gateway(platform, software.http) as other:

        async def token_at(base: str, form: dict[str, str]) -> httpx.Response:
            return await software.http.post(f"{base}/token", data=form)

        # a sign-in that begins at the one comes back to the other; the code is spent wherever it was shown
        departure = await software.depart()
        callback = await at_provider(software.http, departure.headers["location"], physician.idnps)
        back = await software.arrived(callback.replace(software.base, other))
        assert (await software.exchanged(back["code"])).status_code == 200
        again = {
            "grant_type": "authorization_code",
            "code": back["code"],
            "redirect_uri": "https://software.test/callback",
        }
        spent = await token_at(
            other, software.form(software.assertion(extensions=None), **again, code_verifier="v" * 43)
        )
        assert (spent.status_code, spent.json()["error"]) == (400, "invalid_grant")
        # an assertion is used once, at all gateways together
        form = software.form(software.assertion(), grant_type="client_credentials")
        answer = await token_at(software.base, form)
        assert answer.status_code == 200, answer.text
        replayed = await token_at(other, form)
        assert (replayed.status_code, replayed.json()["error"]) == (401, "invalid_client")

        software.statement = dict(patient.caregiver.statement().fields)
        headers = FHIR | {"Authorization": f"Bearer {await software.token()}"}

        async def send(base: str, method: str, path: str, resource: object = None, key: str = "") -> httpx.Response:
            more = {"Idempotency-Key": key} if key else {}
            return await software.http.request(method, f"{base}/{path}", json=resource, headers=headers | more)

        # a retry that goes to the other gateway makes nothing twice; ids and pages of the one open at the other
        made = [
            await send(base, "POST", "DocumentReference", simplified(patient), "key-of-one")
            for base in (software.base, other)
        ]
        assert {each.status_code for each in made} <= {200, 201}, [each.text for each in made]
        assert made[0].json()["id"] == made[1].json()["id"]
        assert (await send(software.base, "POST", "DocumentReference", simplified(patient, 2))).status_code == 201
        query = f"DocumentReference?patient.identifier={patient.identifier}&_count=1"
        seen = []
        for base in (other, software.base):
            page = (await send(base, "GET", query)).json()
            assert page["total"] == 2
            seen.append(page["entry"][0]["resource"]["id"])
            links = {link["relation"]: link["url"] for link in page["link"]}
            query = links.get("next", "").removeprefix(f"{software.base}/")
        assert len(set(seen)) == 2
        # what is revoked or suspended at the one is refused by the other's next request
        token = headers["Authorization"].partition(" ")[2]
        assert (await software.post("/revoke", software.form(token=token))).status_code == 200
        assert (await send(other, "GET", f"DocumentReference/{seen[0]}")).status_code == 401
        headers["Authorization"] = f"Bearer {await software.token()}"
        assert (await send(other, "GET", f"DocumentReference/{seen[0]}")).status_code == 200
        await Partners(platform.session).suspend(software.client_id, "withdrawn")
        assert (await send(other, "GET", f"DocumentReference/{seen[0]}")).status_code in (401, 403)
    await software.close()
