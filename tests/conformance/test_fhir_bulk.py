"""`$export` of a dossier: 202, a status with its files, each fetched again as often as a connection breaks."""

from __future__ import annotations

import base64
import uuid

import httpx
import orjson
import pytest

from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2
from dmp.document.v1.document_pb2 import Document
from gateway.fhir.document_out import Links
from gateway.fhir.endpoints import export_files
from gateway.fhir.handed_over import write_consents, write_opening
from services.runtime.identifiers import dossier_name, new_health_id, person_name
from tests.conformance.fhir_platform import FakePlatform, client_of, external_ids, issues, parsed
from tests.conformance.fhir_samples import BASE, CDA, FHIR, HEALTH_ID, INS, INS_OID, simplified


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
    monkeypatch.setattr(export_files, "DOCUMENTS_A_FILE", 1)
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


async def test_the_manifest_of_a_host_goes_on_page_by_page_until_each_dossier_was_on_one() -> None:
    platform = FakePlatform()
    platform.scopes |= {"host.export"}
    platform.actor = ActingContext(client_id="intake", takes_over_host="north")
    for number in range(120):
        health_id = new_health_id()
        host = "north" if number % 2 else "south"
        platform.dossiers[health_id] = consent_pb2.Dossier(
            name=dossier_name(health_id), home_host=host, state=consent_pb2.DOSSIER_STATE_OPEN
        )
    async with client_of(platform) as client:
        begun = await client.get("/$export", params={"_type": "Parameters"})
        pages, url = [], begun.headers["content-location"]
        while url:
            manifest = (await client.get(url)).json()
            assert manifest["request"].endswith("/$export")
            pages.append([(await client.get(file["url"])).content.splitlines() for file in manifest["output"]])
            url = next((each["url"] for each in manifest.get("link", ())), "")
        assert [[len(file) for file in page] for page in pages] == [[50], [10]]
        ids = [orjson.loads(line)["id"] for page in pages for file in page for line in file]
        assert len(set(ids)) == 60
        issues(await client.get("/$export", params={"_type": "Observation"}), 400)
        platform.actor = ActingContext(client_id="intake")
        issues(await client.get("/$export"), 403)
        issues(await client.get(begun.headers["content-location"]), 404)


def test_what_became_of_a_dossier_and_who_represents_the_patient_is_in_its_opening() -> None:
    links = Links(BASE, external_ids())
    mother, survivor = new_health_id(), new_health_id()
    dossier = consent_pb2.Dossier(
        name=dossier_name(HEALTH_ID),
        state=consent_pb2.DOSSIER_STATE_MERGED,
        home_host="north",
        region="coast",
        merged_into=dossier_name(survivor),
        destruction_requested=True,
        regulation_opposed=True,
    )
    dossier.death_time.FromSeconds(1_700_000_000)
    consent = consent_pb2.ConsentRecord(
        method=consent_pb2.CONSENT_METHOD_WRITTEN,
        given_by=consent_pb2.CONSENT_GIVER_REPRESENTATIVE,
        collector="899700218896",
        representative=person_name(mother),
    )
    held = consent_pb2.Representative(person=person_name(mother), kind=consent_pb2.REPRESENTATION_KIND_PARENT)
    found = consent_pb2.HostDossier(dossier=dossier, consent=consent, representatives=[held])
    written = write_opening(found, None, links)
    parsed(written)
    said = {each["name"]: each for each in written["parameter"]}
    assert said["patient"]["valueReference"] == {"reference": f"Patient/{links.patient_id(HEALTH_ID)}"}
    assert (said["state"]["valueCode"], said["region"]["valueString"]) == ("MERGED", "coast")
    assert said["mergedInto"]["valueReference"] == {"reference": f"Patient/{links.patient_id(survivor)}"}
    assert said["consentRepresentative"]["valueReference"] == {"reference": f"Patient/{links.patient_id(mother)}"}
    assert (said["consentMethod"]["valueCode"], said["consentGivenBy"]["valueCode"]) == ("written", "representative")
    assert said["destructionRequested"]["valueBoolean"]
    assert said["regulationOpposed"]["valueBoolean"]
    assert said["deathDate"]["valueDateTime"].startswith("2023-11-14")
    (parent,) = said["representatives"]["part"]
    assert {part["name"] for part in parent["part"]} == {"person", "kind"}


def test_an_authorisation_in_secret_and_one_for_a_visit_say_so() -> None:
    given = consent_pb2.Authorization(secret=True, term=consent_pb2.AUTHORIZATION_TERM_VISIT)
    standing = consent_pb2.GranteeStanding(
        grantee=consent_pb2.Grantee(kind=consent_pb2.GRANTEE_KIND_PROFESSIONAL, id="899700218896"),
        state=consent_pb2.AUTHORIZATION_STATE_EXPIRED,
        authorization=given,
    )
    dossier = consent_pb2.Dossier(name=dossier_name(HEALTH_ID), state=consent_pb2.DOSSIER_STATE_OPEN)
    found = consent_pb2.HostDossier(dossier=dossier, standings=[standing])
    consent, *_ = write_consents(found, None, Links(BASE, external_ids()))
    parsed(consent)
    assert consent["status"] == "inactive"
    assert {each["url"].rpartition("/")[2] for each in consent["extension"]} == {"secret-connection", "for-a-visit"}
