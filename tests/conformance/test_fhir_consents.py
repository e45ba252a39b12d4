"""Consent over FHIR (ITI-108), and a dossier's operations."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from dmp.common.v1.context_pb2 import ActingContext
from gateway.fhir.consents import ATTENDING
from tests.conformance.fhir_platform import FakePlatform, client_of, expressions, issues, parsed, parsed_xml
from tests.conformance.fhir_register import DOCTOR
from tests.conformance.fhir_samples import (
    ALL_SCOPES,
    FHIR,
    HEALTH_ID,
    INS,
    INS_OID,
    NO_DOSSIER_INS,
    PATIENT,
    SUBJECT,
    Json,
)

OTHER = "899700000002"


@pytest.fixture
def fake(fake: FakePlatform) -> FakePlatform:
    fake.scopes = ALL_SCOPES | {"TD0.3", "TD0.4", "TD1.1", "TD1.2", "TD1.3", "TD1.4", "TD1.6", "ITI-81", "ITI-20"}
    return fake


def said(ins: str = INS, **values: Any) -> Json:
    """The Parameters of an operation."""
    identifier = {"system": f"urn:oid:{INS_OID}", "value": ins}
    parameters: list[Json] = [{"name": "patient", "valueIdentifier": identifier}]
    kinds = {bool: "valueBoolean", str: "valueCode", dict: "valueIdentifier"}
    parameters += [{"name": name, kinds[type(value)]: value} for name, value in values.items()]
    return {"resourceType": "Parameters", "parameter": parameters}


def grantee(id_: str = OTHER) -> Json:
    return {"system": "urn:oid:1.2.250.1.71.4.2.1", "value": id_}


async def operate(client: httpx.AsyncClient, name: str, **values: Any) -> httpx.Response:
    return await client.post(f"/Patient/${name}", json=said(**values), headers=FHIR)


def consent(kind: str = "permit", status: str = "active", *, actor: str = OTHER, **more: Any) -> Json:
    role = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP"}]}
    provision: Json = {"type": kind, "actor": [{"role": role, "reference": {"identifier": grantee(actor)}}]}
    return {
        "resourceType": "Consent",
        "status": status,
        "scope": {"coding": [{"code": "patient-privacy"}]},
        "category": [{"coding": [{"code": "x"}]}],
        "patient": dict(SUBJECT),
        "provision": provision,
        **more,
    }


class TestOperations:
    async def test_a_dossier_is_opened_closed_and_reopened(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        opened = await operate(
            client, "dossier-open", ins=NO_DOSSIER_INS, consentMethod="written", breakGlassOpposed=True
        )
        assert opened.status_code == 201, opened.text
        assert parsed(opened.json()).active is True
        assert fake.acts[0].break_glass_opposed
        issues(await operate(client, "dossier-open", ins=NO_DOSSIER_INS), 409)
        closed = await operate(client, "dossier-close", ins=NO_DOSSIER_INS, reason="PATIENT_REQUEST")
        assert parsed(closed.json()).active is False
        issues(await operate(client, "dossier-close", ins=NO_DOSSIER_INS), 422)
        assert (await operate(client, "dossier-reopen", ins=NO_DOSSIER_INS)).json()["active"] is True

    async def test_one_declares_oneself_and_the_patient_names_another(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        mine = await operate(client, "dossier-authorise", attendingPhysician=True, patientConsented=True)
        body = mine.json()
        parsed(body)
        assert body["provision"]["actor"][0]["reference"]["identifier"]["value"] == DOCTOR
        assert {"url": ATTENDING, "valueBoolean": True} in body["extension"]
        await operate(client, "dossier-block", grantee=grantee())
        assert fake.standings[OTHER].state
        assert parsed((await operate(client, "dossier-unblock", grantee=grantee())).json()).parameter
        assert parsed((await operate(client, "dossier-revoke")).json()).parameter
        issues(await operate(client, "dossier-revoke"), 403)
        assert (await operate(client, "dossier-stop-attending")).status_code == 200
        preferences = await operate(client, "dossier-preferences", regulationOpposed=True, patientConsented=True)
        assert preferences.status_code == 200
        assert fake.dossiers[HEALTH_ID].regulation_opposed

    async def test_what_an_operation_lacks_is_named(self, client: httpx.AsyncClient) -> None:
        body = {"resourceType": "Parameters", "parameter": [{"name": "reason", "valueCode": "DEATH"}]}
        response = await client.post("/Patient/$dossier-close", json=body, headers=FHIR)
        assert expressions(issues(response, 400)) == ["Parameters.parameter"]
        issues(await operate(client, "dossier-close", reason="BOREDOM"), 400)
        issues(await operate(client, "dossier-close", ins="1990175123456" + "00"), 400)

    async def test_the_dossiers_that_one_may_enter_are_listed(self, client: httpx.AsyncClient) -> None:
        found = (await client.get("/Patient/$dossier-accessible", params={"since": "2026-01-01"})).json()
        parsed(found)
        assert len(found["entry"]) == 2

    async def test_they_are_listed_by_their_last_document_too(self, client: httpx.AsyncClient) -> None:
        asked = {"order": "document", "since": "2026-01-01", "_count": "2"}
        found = (await client.get("/Patient/$dossier-accessible", params=asked)).json()
        parsed(found)
        assert len(found["entry"]) == 2
        urls = [extension["url"] for extension in found["entry"][0]["resource"]["extension"]]
        assert any(url.endswith("/last-document") for url in urls)
        following = {link["relation"]: link["url"] for link in found["link"]}["next"]
        assert "order=document" in following
        assert "_page=more" in following

    @pytest.mark.parametrize(
        ("name", "value"),
        [("order", "name"), ("_count", "many"), ("_count", "0"), ("_page", "x" * 513), ("since", "x")],
    )
    @pytest.mark.parametrize("order", ["authorization", "document"])
    async def test_a_parameter_of_the_list_that_is_none_is_named(
        self, client: httpx.AsyncClient, order: str, name: str, value: str
    ) -> None:
        asked = {"order": order} | {name: value}
        response = await client.get("/Patient/$dossier-accessible", params=asked)
        assert expressions(issues(response, 400)) == [name]


class TestConsent:
    async def test_an_authorisation_is_created_found_read_and_ended(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        verified = [{"verified": True}]
        created = await client.post("/Consent", json=consent(verification=verified), headers=FHIR)
        assert created.status_code == 201, created.text
        parsed(created.json())
        assert fake.acts[0].patient_consented
        for id_, total in ((created.json()["id"], 1), ("x", 0)):
            assert (await client.get("/Consent", params={**PATIENT, "_id": id_})).json()["total"] == total
        found = (await client.get("/Consent", params={**PATIENT, "category": "authorization"})).json()
        parsed(found)
        (entry,) = found["entry"]
        assert entry["resource"]["id"] == created.json()["id"]
        url = created.headers["location"]
        read = await client.get(url, headers={"Accept": "application/fhir+xml"})
        assert parsed_xml(read.content).status == "active"
        ended = await client.put(url, json=consent(status="inactive"), headers=FHIR)
        assert ended.json()["status"] == "inactive"
        assert fake.standings == {}
        issues(await client.put(url, json=consent(actor="899700000009"), headers=FHIR), 400)

    async def test_its_versions_stay_readable(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        created = await client.post("/Consent", json=consent(), headers=FHIR)
        await client.post("/Consent", json=consent(actor="899700000009"), headers=FHIR)
        url = created.headers["location"]
        history = (await client.get(f"{url}/_history")).json()
        parsed(history)
        assert [entry["resource"]["meta"]["versionId"] for entry in history["entry"]] == ["1"]
        assert parsed((await client.get(f"{url}/_history/1")).json()).status == "active"
        issues(await client.get(f"{url}/_history/2"), 404)

    async def test_a_block_and_an_opposition_are_consents_too(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        blocked = await client.post("/Consent", json=consent("deny"), headers=FHIR)
        assert blocked.json()["category"][0]["coding"][0]["code"] == "block"
        opposition = consent("deny")
        opposition["provision"] = {"type": "deny", "purpose": [{"system": "x", "code": "BTG"}]}
        opposed = await client.post("/Consent", json=opposition, headers=FHIR)
        assert opposed.status_code == 201, opposed.text
        parsed(opposed.json())
        assert fake.dossiers[HEALTH_ID].break_glass_opposed
        found = (await client.post("/Consent/_search", data={**PATIENT, "status": "active"})).json()
        kinds = {entry["resource"]["category"][0]["coding"][0]["code"] for entry in found["entry"]}
        assert kinds == {"block", "break-glass"}
        read = (await client.get(opposed.headers["location"])).json()
        assert read["status"] == "active"

    async def test_what_is_no_such_consent_is_refused(self, client: httpx.AsyncClient) -> None:
        wrong = consent()
        wrong["provision"]["type"] = "maybe"
        issues(await client.post("/Consent", json=wrong, headers=FHIR), 422)
        issues(await client.post("/Consent", json=consent(status="inactive"), headers=FHIR), 400)
        issues(await client.get("/Consent/" + "a" * 64), 404)


async def test_a_patient_who_is_bound_learns_nothing_of_others(fake: FakePlatform) -> None:
    fake.actor = ActingContext(client_id="portal", subject="x", patient_health_id=HEALTH_ID)
    async with client_of(fake) as client:
        stranger = "1990175123456" + f"{97 - 1990175123456 % 97:02d}"
        response = await client.get("/Consent", params={"patient.identifier": f"urn:oid:{INS_OID}|{stranger}"})
        issues(response, 403)
