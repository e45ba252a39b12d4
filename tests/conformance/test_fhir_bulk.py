"""`$export` of a dossier: 202, a status with its files, each fetched again as often as a connection breaks."""

from __future__ import annotations

import base64
import uuid

import httpx
import orjson
import pytest

from dmp.document.v1.document_pb2 import Document
from gateway.fhir.endpoints import bulk
from tests.conformance.fhir_platform import FakePlatform, client_of, issues, parsed
from tests.conformance.fhir_samples import CDA, HEALTH_ID, INS, INS_OID, simplified

FHIR = {"Content-Type": "application/fhir+json"}


async def patient_id(client: httpx.AsyncClient) -> str:
    found = (await client.get("/Patient", params={"identifier": f"urn:oid:{INS_OID}|{INS}"})).json()
    id_: str = found["entry"][0]["resource"]["id"]
    return id_


async def test_a_dossier_is_exported_whole_file_by_file() -> None:
    platform = FakePlatform()
    async with client_of(platform) as client:
        for _ in range(120):
            assert (await client.post("/DocumentReference", json=simplified(), headers=FHIR)).status_code == 201
        begun = await client.get(f"/Patient/{await patient_id(client)}/$export", headers={"Prefer": "respond-async"})
        assert begun.status_code == 202
        assert INS not in begun.headers["content-location"]
        manifest = (await client.get(begun.headers["content-location"])).json()
        assert manifest["requiresAccessToken"] is True
        assert [each["count"] for each in manifest["output"]] == [50, 50, 50, 50, 20, 20]
        ids, contents = [], []
        for file in manifest["output"]:
            answers = [await client.get(file["url"]) for _ in range(2)]
            assert answers[0].content == answers[1].content  # after a break, the same file
            assert answers[0].headers["content-type"] == "application/fhir+ndjson"
            resources = [orjson.loads(line) for line in answers[0].content.splitlines()]
            for resource in resources:
                parsed(resource)
            ids += [each["id"] for each in resources if each["resourceType"] == "DocumentReference"]
            contents += [base64.b64decode(each["data"]) for each in resources if each["resourceType"] == "Binary"]
    assert len(ids) == len(set(ids)) == 120
    assert contents == [CDA] * 120


async def test_the_status_lists_every_file_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_DOCUMENTS_A_FILE", 1)
    platform = FakePlatform()
    async with client_of(platform) as client:
        assert (await client.post("/DocumentReference", json=simplified(), headers=FHIR)).status_code == 201
        [(first, content)] = platform.documents.values()
        for _ in range(450):
            another = Document()
            another.CopyFrom(first)
            another.name = f"{first.name[:-36]}{uuid.uuid4()}"
            platform.documents[another.name] = (another, content)
        url = f"/Patient/{await patient_id(client)}/$export"
        begun = await client.get(url, params={"_type": "DocumentReference"})
        manifest = (await client.get(begun.headers["content-location"])).json()
    assert len({file["url"] for file in manifest["output"]}) == len(manifest["output"]) == 451


async def test_only_the_files_asked_for_are_listed_and_rights_are_asked_at_each_file() -> None:
    platform = FakePlatform()
    async with client_of(platform) as client:
        await client.post("/DocumentReference", json=simplified(), headers=FHIR)
        url = f"/Patient/{await patient_id(client)}/$export"
        begun = await client.get(url, params={"_type": "DocumentReference"})
        manifest = (await client.get(begun.headers["content-location"])).json()
        (file,) = manifest["output"]
        assert file["type"] == "DocumentReference"
        issues(await client.get(url, params={"_type": "Observation"}), 400)
        issues(await client.get("/Patient/" + "a" * 64 + "/$export"), 404)
        del platform.dossiers[HEALTH_ID]
        issues(await client.get(file["url"]), 404)
