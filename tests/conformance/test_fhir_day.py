"""Clients that we did not write do the whole day's work on the running platform: fhirpy and fhirclient."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any
from urllib.parse import urlencode, urljoin

import pytest
from fhirclient.client import FHIRClient
from fhirclient.models.auditevent import AuditEvent
from fhirclient.models.documentreference import DocumentReference
from fhirpy import AsyncFHIRClient

from tests.conformance.fhir_day import live_a_day
from tests.conformance.fhir_samples import Json
from tests.platform_fixture import Patient, Platform

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # fhirclient leaves its connection to the collector
]


class Fhirpy:
    """fhirpy 2, asynchronous."""

    def __init__(self, client: AsyncFHIRClient) -> None:
        self._client = client

    async def get(self, path: str, params: dict[str, str] | None = None) -> Json:
        return plain(await self._client.execute(path, method="get", params=params))

    async def post(self, path: str, resource: Json) -> Json:
        return plain(await self._client.execute(path, method="post", data=resource))

    async def patch(self, path: str, params: dict[str, str], parameters: Json) -> Json:
        return plain(await self._client.execute(path, method="patch", data=parameters, params=params))

    async def search_all(self, resource: str, params: dict[str, str]) -> list[Json]:
        found = self._client.resources(resource).search(**params)
        return [plain(each) async for each in found]


class Fhirclient:
    """fhirclient 4 (SMART), synchronous: each call on a thread."""

    def __init__(self, base: str, token: str, trust: str) -> None:
        self._server = FHIRClient(settings={"app_id": "test", "api_base": base}).server
        self._server.session.headers["Authorization"] = f"Bearer {token}"
        self._server.session.verify = trust
        self._server.session.trust_env = False  # the machine's own bundle would come first

    async def get(self, path: str, params: dict[str, str] | None = None) -> Json:
        query = f"?{urlencode(params)}" if params else ""
        return plain(await asyncio.to_thread(self._server.request_json, f"{path}{query}"))

    async def post(self, path: str, resource: Json) -> Json:
        answer = await asyncio.to_thread(self._server.post_json, path or self._server.base_uri, resource)
        return plain(answer.json())

    async def patch(self, path: str, params: dict[str, str], parameters: Json) -> Json:
        def send() -> Any:
            answer = self._server.session.patch(
                urljoin(self._server.base_uri, path),
                params=params,
                data=json.dumps(parameters),
                headers={"Content-Type": "application/fhir+json"},
            )
            self._server.raise_for_status(answer)
            return answer.json()

        return plain(await asyncio.to_thread(send))

    async def search_all(self, resource: str, params: dict[str, str]) -> list[Json]:
        model = {"DocumentReference": DocumentReference, "AuditEvent": AuditEvent}[resource]
        search = model.where(params)
        found = await asyncio.to_thread(lambda: list(search.perform_resources_iter(self._server)))
        return [plain(each.as_json()) for each in found]


def plain(value: Any) -> Json:
    """JSON without the client's own types."""
    found: Json = json.loads(json.dumps(value))
    return found


async def newcomer(platform: Platform) -> tuple[Patient, str]:
    """A registered patient without a dossier, and the token of a physician."""
    patient = await platform.registered()
    return patient, await platform.session.token(patient.caregiver.statement())


async def test_fhirpy_lives_a_day(platform: Platform) -> None:
    patient, token = await newcomer(platform)
    trust = ssl.create_default_context(cafile=str(platform.state.pki / "ca.pem"))
    client = AsyncFHIRClient(
        platform.session.endpoints.http, authorization=f"Bearer {token}", aiohttp_config={"ssl": trust}
    )
    await live_a_day(platform, Fhirpy(client), patient)


async def test_fhirclient_lives_a_day(platform: Platform) -> None:
    patient, token = await newcomer(platform)
    trust = str(platform.state.pki / "ca.pem")
    await live_a_day(platform, Fhirclient(platform.session.endpoints.http, token, trust), patient)
