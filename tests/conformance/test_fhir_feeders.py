"""What a feeder without authorisation finds over FHIR (TD3.1, ITI-67 by uniqueId): its own documents' technical ids."""

from __future__ import annotations

import json
from typing import Final

import httpx
import pytest

from dmp.audit.v1 import audit_pb2
from dmp.consent.v1 import consent_pb2 as pb
from gateway.fhir.document_out import IS_ARCHIVED
from ops.session import Statement
from tests.conformance.fhir_day import replacement
from tests.conformance.fhir_http import Http, simplified, unique_id
from tests.conformance.fhir_platform import issues, parsed, reason_of
from tests.conformance.fhir_samples import Json
from tests.consent_callers import acting
from tests.consent_oracle import Who
from tests.consent_service import certificate, grantee_of, staff
from tests.platform_fixture import Patient, Platform, eventually
from tests.platform_statements import statement

pytestmark = pytest.mark.asyncio(loop_scope="session")

FEEDER: Final = Who("physician", "899700000041", "1750000041")
STRANGER: Final = Who("physician", "899700000042", "1750000042")
SUCCESS: Final = audit_pb2.OUTCOME_SUCCESS
KNOWN: Final = {"resourceType", "id", "meta", "masterIdentifier", "identifier", "status", "subject", "content"}


def http(platform: Platform, who: Who) -> Http:
    return Http(platform, statement(acting(who, 0)))


def named(patient: Patient, seed: int) -> dict[str, str]:
    """By patient and uniqueId."""
    content = simplified(patient, seed)["content"][0]["attachment"]["data"]
    return {"patient.identifier": patient.identifier, "identifier": unique_id(content)}


async def found(client: Http, query: dict[str, str]) -> list[Json]:
    response = await client.send("GET", "DocumentReference", **query)
    assert response.status_code == 200, response.text
    page = response.json()
    parsed(page)
    assert page["total"] == len(page.get("entry", []))
    return [entry["resource"] for entry in page.get("entry", [])]


async def refusal(client: Http, path: str, query: dict[str, str]) -> str:
    (issue,) = issues(await client.send("GET", path, **query), 403)
    return reason_of(issue)


async def test_a_feeder_finds_the_technical_id_of_its_own_document_and_replaces_it(platform: Platform) -> None:
    patient = await platform.registered()
    await patient.acts.open(patient.health_id)
    feeder, stranger = http(platform, FEEDER), http(platform, STRANGER)
    published = {}
    for seed, client in ((1, feeder), (2, stranger)):
        response = await client.send("POST", "DocumentReference", simplified(patient, seed))
        assert response.status_code == 201, response.text
        published[seed] = response.json()
    (mine,) = await found(feeder, named(patient, 1))
    assert mine["id"] == published[1]["id"]
    assert mine.keys() == KNOWN, "the technical id, and nothing of what the document says"
    assert mine["meta"]["tag"][0]["code"] == "SUBSETTED"
    assert await found(feeder, named(patient, 2)) == [], "another's is absent, like one that is not there"
    assert await found(feeder, named(patient, 3)) == []
    colleagues = [Http(platform, statement(actor)) for actor in (staff("1750000041"), certificate("1750000041"))]
    for colleague in colleagues:
        assert [each["id"] for each in await found(colleague, named(patient, 1))] == [mine["id"]]
        assert await found(colleague, named(patient, 2)) == []
    whole = {"patient.identifier": patient.identifier}
    for query in (whole, {**named(patient, 1), "type": "11488-4"}, {**named(patient, 1), "title": "x"}):
        assert await refusal(feeder, "DocumentReference", query) == "AUTHORIZATION_MISSING"
    assert await refusal(feeder, f"DocumentReference/{mine['id']}", {}) == "AUTHORIZATION_MISSING"
    old = {**published[1], "id": mine["id"]}
    answer = await feeder.send("POST", "", replacement(patient, old, patient.cda(seed=1, version=2)))
    assert answer.status_code == 200, answer.text
    assert await found(feeder, named(patient, 1)) == [], "it is superseded now"
    (superseded,) = await found(feeder, {**named(patient, 1), "status": "superseded"})
    assert superseded["id"] == mine["id"]


async def test_the_trail_has_the_look_up_and_no_refusal_and_a_blocked_feeder_finds_nothing(platform: Platform) -> None:
    patient = await platform.registered()
    await patient.acts.open(patient.health_id)
    feeder = http(platform, FEEDER)
    assert (await feeder.send("POST", "DocumentReference", simplified(patient, 1))).status_code == 201
    place = await platform.log_size()
    assert len(await found(feeder, named(patient, 1))) == 1
    events = [event for event in await platform.log_since(place) if event.health_id == patient.health_id]
    searched = [(event.outcome, event.basis) for event in events if event.action == "document.search"]
    assert searched == [(audit_pb2.OUTCOME_SUCCESS, audit_pb2.ACCESS_BASIS_FEEDING)]
    block = pb.BlockProfessionalRequest(
        parent=patient.dossier, grantee=grantee_of(FEEDER.id), request_id="feeder-block"
    )
    himself = Statement.patient(patient.health_id)
    await platform.session.call("consent", "BlockProfessional", block, pb.BlockProfessionalResponse, himself)
    assert await refusal(feeder, "DocumentReference", named(patient, 1)) == "BLOCKED"


async def test_who_may_search_gets_the_whole_metadata_by_unique_id(platform: Platform) -> None:
    patient = await platform.patient()
    physician = Http(platform, patient.caregiver.statement())
    assert (await physician.send("POST", "DocumentReference", simplified(patient, 1))).status_code == 201
    (whole,) = await found(physician, named(patient, 1))
    assert whole["author"]
    assert "tag" not in whole["meta"]


DELETED: Final = b'[{"op": "replace", "path": "/status", "value": "entered-in-error"}]'
JSON_PATCH: Final = {"Content-Type": "application/json-patch+json"}


async def test_a_feeder_takes_back_its_own_documents_and_no_others_without_reading_any(platform: Platform) -> None:
    """TD3.3c needs no authorisation, by the document's id and by its uniqueId."""
    patient = await platform.registered()
    await patient.acts.open(patient.health_id)
    feeder, stranger = Http(platform, patient.caregiver.statement()), http(platform, STRANGER)
    ids = {}
    for seed in (1, 2):
        response = await feeder.send("POST", "DocumentReference", simplified(patient, seed))
        assert response.status_code == 201, response.text
        ids[seed] = response.json()["id"]
    place = await platform.log_size()

    async def delete(client: Http, path: str, query: dict[str, str], **headers: str) -> httpx.Response:
        return await client.send_bytes("PATCH", path, DELETED, JSON_PATCH | headers, **query)

    for path, query in ((f"DocumentReference/{ids[1]}", {}), ("DocumentReference", named(patient, 2))):
        issues(await delete(stranger, path, query), 404)
        issues(await delete(feeder, path, query, **{"If-Match": 'W/"7"'}), 412)
        for _ in range(2):
            gone = await delete(feeder, path, query)
            assert gone.status_code == 200, gone.text
            parsed(gone.json())
            assert gone.json()["status"] == "entered-in-error"
            assert "author" not in gone.json()
    issues(await delete(stranger, f"DocumentReference/{ids[1]}", {}), 404)

    async def told() -> list[audit_pb2.AuditEvent]:
        return [event for event in await platform.log_since(place) if event.health_id == patient.health_id]

    def made(events: list[audit_pb2.AuditEvent]) -> list[int]:
        return [event.basis for event in events if (event.action, event.outcome) == ("document.delete", SUCCESS)]

    events = await eventually(told, lambda events: len(made(events)) == len(ids))
    assert made(events) == [audit_pb2.ACCESS_BASIS_FEEDING] * 2
    assert {event.action for event in events} == {"document.change", "document.delete", "document.resolve"}, (
        "nothing read"
    )


async def test_a_colleague_takes_back_what_the_structure_fed_and_nobody_masks_by_feeding(platform: Platform) -> None:
    patient = await platform.registered()
    await patient.acts.open(patient.health_id)
    feeder = Http(platform, patient.caregiver.statement())
    response = await feeder.send("POST", "DocumentReference", simplified(patient, 1))
    path = f"DocumentReference/{response.json()['id']}"
    archive = {"url": IS_ARCHIVED, "valueBoolean": True}
    patch = json.dumps([{"op": "add", "path": "/extension", "value": [archive]}]).encode()
    (issue,) = issues(await feeder.send_bytes("PATCH", path, patch, JSON_PATCH), 403)
    assert reason_of(issue) == "AUTHORIZATION_MISSING"
    elsewhere = Http(platform, statement(staff("1750000042")))
    issues(await elsewhere.send_bytes("PATCH", path, DELETED, JSON_PATCH), 404)
    colleague = Http(platform, statement(staff(patient.caregiver.structure.idnst)))
    assert (await colleague.send_bytes("PATCH", path, DELETED, JSON_PATCH)).status_code == 200
