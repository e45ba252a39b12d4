"""ITI-104 merges two records of one person on the running platform: documents and traces follow, and a block holds."""

from __future__ import annotations

import uuid
from typing import Any, Final

import pytest

from dmp.consent.v1 import consent_pb2
from ops.session import Statement
from tests.conformance.fhir_http import Http, of, simplified
from tests.conformance.fhir_platform import issues, parsed, reason_of
from tests.conformance.fhir_samples import Json
from tests.conformance.test_fhir_imports import traits
from tests.platform_calls import bearer, invoke
from tests.platform_fixture import Patient, Platform, eventually, method

pytestmark = pytest.mark.asyncio(loop_scope="session")

PDQM: Final = "https://profiles.ihe.net/ITI/PDQm/StructureDefinition/IHE.PDQm.Patient"
BLOCK: Final = method("BlockProfessional")


async def person_of(http: Http, patient: Patient) -> Json:
    """The Patient of ITI-78."""
    answer = await http.send("GET", "Patient", identifier=patient.identifier, _profile=PDQM)
    parsed(answer.json())
    (entry,) = answer.json()["entry"]
    found: Json = entry["resource"]
    return found


async def documents(http: Http, **whose: str) -> dict[str, Json]:
    """What a search finds, by uniqueId."""
    answer = await http.send("GET", "DocumentReference", **whose)
    assert answer.status_code == 200, answer.text
    found = [each["resource"] for each in answer.json().get("entry", ())]
    return {each["masterIdentifier"]["value"]: each for each in found}


def numbered(patient: Patient) -> dict[str, str]:
    """A search by the INS."""
    return {"patient.identifier": patient.identifier}


async def merge(http: Http, merged: Patient, survivor: Patient, **more: Any) -> Json:
    """ITI-104: the one is inactive and replaced by the other; `more` is what the message says besides."""
    into = (await person_of(http, survivor))["id"]
    fed = {
        "resourceType": "Patient",
        "active": False,
        **traits(merged.person),
        **more,
        "link": [{"other": {"reference": f"Patient/{into}"}, "type": "replaced-by"}],
    }
    answer = await http.send(
        "PUT", "Patient", fed, {"Idempotency-Key": str(uuid.uuid4())}, identifier=merged.identifier
    )
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def test_after_a_merge_the_documents_of_both_are_one_dossier_and_the_old_number_still_leads_there(
    platform: Platform,
) -> None:
    survivor, merged = await platform.patient(), await platform.patient()
    http, theirs = of(platform, survivor), of(platform, merged)
    sent = [
        (await sender.send("POST", "DocumentReference", simplified(patient, seed))).json()
        for sender, patient, seed in ((http, survivor, 1), (theirs, merged, 2))
    ]
    written = await merge(http, merged, survivor, address=[{"city": "Saint-Malo"}])
    parsed(written)
    assert written["address"][0]["city"] == "Saint-Malo"  # an update of who is merged, as PIXm has it
    assert (written["active"], written["link"][0]["type"]) == (False, "replaced-by")
    contents = {
        each["masterIdentifier"]["value"]: patient.cda(seed=seed)
        for each, patient, seed in zip(sent, (survivor, merged), (1, 2), strict=True)
    }
    seen = [
        (http, await documents(http, **numbered(survivor))),
        (http, await documents(http, **numbered(merged))),
        (theirs, await documents(theirs, patient=f"Patient/{written['id']}")),
    ]
    for sender, found in seen:
        assert set(found) == set(contents)
        for name, content in contents.items():
            assert (await sender.send("GET", found[name]["content"][0]["attachment"]["url"])).content == content
    elsewhere = await theirs.send("GET", "DocumentReference", **numbered(merged))
    assert reason_of(issues(elsewhere, 403)[0]) == "AUTHORIZATION_MISSING"  # it was given for the other dossier


async def test_the_traces_of_both_are_read_as_one_trail_the_merge_among_them(platform: Platform) -> None:
    survivor, merged = await platform.patient(), await platform.patient()
    http = of(platform, survivor)
    await merged.acts.submit(merged.health_id, merged.cda(), "consultation.xml")
    await merge(http, merged, survivor)
    patient = Http(platform, Statement.patient(survivor.health_id))

    async def trail() -> list[Json]:
        query = {"patient.identifier": survivor.identifier, "date": "ge2020-01-01", "_count": "200"}
        answer = await patient.send("GET", "AuditEvent", **query)
        assert answer.status_code == 200, answer.text
        return [each["resource"] for each in answer.json().get("entry", ())]

    def codes(found: list[Json]) -> set[str]:
        return {code["code"] for each in found for code in each["subtype"]}

    wanted = {"person.link", "document.submit", "dossier.open"}
    found = await eventually(trail, lambda events: wanted <= codes(events), seconds=15)
    assert wanted <= codes(found)
    for each in found:
        parsed(each)


async def test_who_is_blocked_in_one_of_them_is_blocked_in_both(platform: Platform) -> None:
    survivor, merged = await platform.patient(), await platform.patient()
    http = of(platform, survivor)
    idnps = survivor.caregiver.professional.idnps
    grantee = consent_pb2.Grantee(kind=consent_pb2.GRANTEE_KIND_PROFESSIONAL, id=idnps)
    request = consent_pb2.BlockProfessionalRequest(
        parent=merged.dossier, grantee=grantee, request_id=platform.request_id()
    )
    token = await platform.session.token(Statement.patient(merged.health_id))
    await invoke(platform.channel("relay", BLOCK), BLOCK.path, request, bearer(token))
    assert await documents(http, **numbered(survivor)) == {}
    await merge(of(platform, merged), merged, survivor)
    refused = await http.send("GET", "DocumentReference", **numbered(survivor))
    assert reason_of(issues(refused, 403)[0]) == "BLOCKED"
