"""A FHIR client that we did not write (fhirpy), against a real HTTP server with the FHIR front in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
from fhirpy import AsyncFHIRClient
from fhirpy.base.exceptions import OperationOutcome, ResourceNotFound
from granian.constants import Interfaces
from granian.server.embed import Server

from tests.conformance.fhir_platform import FakePlatform, application
from tests.conformance.fhir_samples import CDA, INS, INS_OID, TOKEN, bundle, simplified
from tests.ports import free_port

PATIENT = f"urn:oid:{INS_OID}|{INS}"


@pytest.fixture
async def client(fake: FakePlatform) -> AsyncIterator[AsyncFHIRClient]:
    port = free_port()
    base_url = f"http://127.0.0.1:{port}/fhir"
    server = Server(
        application(fake, base_url), address="127.0.0.1", port=port, interface=Interfaces.ASGI, log_enabled=False
    )
    serving = asyncio.create_task(server.serve())
    await _until_listening(port)
    yield AsyncFHIRClient(base_url, authorization="Bearer good")
    server.stop()  # type: ignore[no-untyped-call]  # the library types nothing here
    await serving


async def _until_listening(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return
    raise TimeoutError("the server does not listen")


async def test_a_document_goes_in_is_found_page_by_page_and_comes_out(client: AsyncFHIRClient) -> None:
    for _ in range(3):
        await client.resource("DocumentReference", **simplified()).save()
    search = (
        client.resources("DocumentReference").search(**{"patient.identifier": PATIENT, "status": "current"}).limit(2)
    )
    found = [reference async for reference in search]
    assert len({reference.id for reference in found}) == 3
    again = await client.reference("DocumentReference", found[0].id).to_resource()
    assert again["masterIdentifier"] == found[0]["masterIdentifier"]
    async with httpx.AsyncClient(headers=TOKEN) as http:  # fhirpy reads JSON only
        assert (await http.get(found[0]["content"][0]["attachment"]["url"])).content == CDA


async def test_content_that_breaks_off_never_looks_whole(client: AsyncFHIRClient, fake: FakePlatform) -> None:
    published = client.resource("DocumentReference", **simplified())
    await published.save()
    fake.breaks_after_chunks = 1
    async with httpx.AsyncClient(headers=TOKEN) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(published["content"][0]["attachment"]["url"])


async def test_a_body_beyond_the_limit_does_not_stop_the_server(client: AsyncFHIRClient) -> None:
    async def huge() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 1024 * 1024

    async with httpx.AsyncClient(headers={**TOKEN, "Content-Type": "application/fhir+json"}) as http:
        with contextlib.suppress(httpx.HTTPError):  # the server may answer, or hang up, while we still write
            assert (await http.post(client.url + "/DocumentReference", content=huge())).status_code == 413
        assert (await http.get(client.url + "/metadata")).status_code == 200


async def test_a_transaction_answers_every_entry(client: AsyncFHIRClient, fake: FakePlatform) -> None:
    answer = await client.execute("", method="post", data=bundle(2))
    assert len(answer["entry"]) == 5
    assert [item.content for item in fake.submissions[0].documents] == [CDA, CDA]


async def test_refusals_are_operation_outcomes(client: AsyncFHIRClient) -> None:
    with pytest.raises(OperationOutcome) as refusal:
        await client.resources("DocumentReference").search(status="current").fetch()
    assert refusal.value.resource["issue"][0]["expression"] == ["patient.identifier"]
    with pytest.raises(ResourceNotFound):
        await client.reference("DocumentReference", "a" * 64).to_resource()
