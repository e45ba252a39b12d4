"""What the public suites of MHD document recipients send, in their form: an original, then its addendum, replacement or
transformation, named by the location that was answered, without a patch entry; searched for by the identifier alone.

Their bundles are other countries' and say nothing of an author; the codes and the author here are ours.
"""

from __future__ import annotations

import base64
import uuid
from typing import Final

import pytest

from gateway.fhir.xml_write import to_xml
from tests.conformance.fhir_day import MHD, digest, identifier
from tests.conformance.fhir_http import Http, of
from tests.conformance.fhir_platform import expressions, issues, parsed
from tests.conformance.fhir_samples import Json, bundle
from tests.platform_fixture import Patient, Platform

pytestmark = pytest.mark.asyncio(loop_scope="session")

XML: Final = {"Content-Type": "application/fhir+xml", "Accept": "application/fhir+json"}
PROFILES: Final = {"Bundle": "ProvideBundle", "List": "SubmissionSet", "DocumentReference": "DocumentReference"}


def sent(patient: Patient, content: bytes, code: str = "", target: str = "") -> Json:
    """A text as a recipient is given it, which is something to another document; new identifiers each time."""
    whole = bundle(content=content)
    claimed = [whole, *(entry["resource"] for entry in whole["entry"][:2])]
    for resource in claimed:
        kind = PROFILES[resource["resourceType"]]
        resource["meta"] = {"profile": [f"{MHD}/StructureDefinition/IHE.MHD.Comprehensive.{kind}"]}
    set_, reference, binary = (entry["resource"] for entry in whole["entry"])
    set_["subject"] = reference["subject"] = {"reference": f"Patient?identifier={patient.identifier}"}
    set_["identifier"] = [{"use": "usual", "system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{uuid.uuid4()}"}]
    reference["masterIdentifier"]["value"] = f"urn:oid:2.25.{uuid.uuid4().int}"
    reference["contained"][0] = {"resourceType": "Patient", "id": "patient", "identifier": [identifier(patient)]}
    attachment = reference["content"][0]["attachment"]
    attachment |= {"contentType": "text/plain", **digest(content)}
    binary |= {"contentType": "text/plain", "data": base64.b64encode(content).decode()}
    if code:
        reference["relatesTo"] = [{"code": code, "target": {"reference": target}}]
    return whole


async def provided(http: Http, resource: Json) -> list[Json]:
    """The entries of the answer to a Bundle in XML, which are as the suites ask."""
    response = await http.send_bytes("POST", "", to_xml(resource), XML)
    assert response.status_code == 200, response.text
    body: Json = response.json()
    parsed(body)
    assert body["type"] == "transaction-response"
    answers = [entry["response"] for entry in body["entry"]]
    assert len(answers) == len(resource["entry"])
    for answer in answers:
        assert answer["status"].startswith("201")
        assert {"location", "etag", "lastModified"} <= set(answer)
    return answers


@pytest.mark.parametrize(
    ("code", "status"), [("appends", "current"), ("replaces", "superseded"), ("transforms", "current")]
)
async def test_what_is_something_to_an_earlier_document(platform: Platform, code: str, status: str) -> None:
    patient = await platform.patient()
    http = of(platform, patient)
    original = (await provided(http, sent(patient, b"original")))[1]["location"]
    related = sent(patient, b"related", code, original)
    location = (await provided(http, related))[1]["location"]
    read = (await http.send("GET", location)).json()
    assert parsed(read).status == "current"
    assert read["relatesTo"] == [{"code": code, "target": {"reference": original}}]
    assert parsed((await http.send("GET", original)).json()).status == status
    for kind, resource in ((entry["resource"]["resourceType"], entry["resource"]) for entry in related["entry"][:2]):
        named = resource.get("masterIdentifier") or resource["identifier"][0]
        query = {"patient.identifier": patient.identifier, "status": "current", "identifier": named["value"]}
        query |= {"code": "submissionset"} if kind == "List" else {}
        (found,) = (await http.send("GET", kind, **query)).json()["entry"]
        assert found["fullUrl"].endswith(f"/{kind}/{found['resource']['id']}")
        entry_uuid = next(each for each in found["resource"]["identifier"] if each["use"] == "official")["value"]
        again = (await http.send("GET", kind, **{**query, "identifier": f"urn:ietf:rfc:3986|{entry_uuid}"})).json()
        assert [each["resource"]["id"] for each in again["entry"]] == [found["resource"]["id"]]


async def test_a_refused_bundle_is_400_with_an_outcome_and_leaves_nothing(platform: Platform) -> None:
    patient = await platform.patient()
    http = of(platform, patient)
    wrong = sent(patient, b"nothing of this")
    del wrong["entry"][1]["resource"]["context"]["facilityType"]
    refused = await http.send("POST", "", wrong)
    assert expressions(issues(refused, 400)) == ["Bundle.entry[1].resource.context.facilityType"]
    for kind, query in (("DocumentReference", {}), ("List", {"code": "submissionset"})):
        found = await http.send("GET", kind, **{"patient.identifier": patient.identifier}, **query)
        assert found.json()["total"] == 0, kind


async def test_the_set_of_a_simplified_publication_says_all_that_its_profile_asks(platform: Platform) -> None:
    patient = await platform.patient()
    http = of(platform, patient)
    reference = sent(patient, b"simple")["entry"][1]["resource"]
    attachment = reference["content"][0]["attachment"]
    del reference["meta"], attachment["url"]
    attachment["data"] = base64.b64encode(b"simple").decode()
    made = await http.send("POST", "DocumentReference", reference)
    assert made.status_code == 201, made.text
    query = {"patient.identifier": patient.identifier, "code": "submissionset", "status": "current"}
    (entry,) = (await http.send("GET", "List", **query)).json()["entry"]
    parsed(entry["resource"])
    said = {each["url"].rpartition("/")[2]: each for each in entry["resource"]["extension"]}
    sector = made.json()["context"]["facilityType"]["coding"][0]
    designation = said["ihe-designationType"]["valueCodeableConcept"]["coding"][0]
    assert (designation["system"], designation["code"]) == (sector["system"], sector["code"])
    assert said["ihe-sourceId"]["valueIdentifier"]["value"].startswith("urn:oid:")
    assert entry["resource"]["source"]
    assert {"subject", "date", "code", "status", "mode", "contained"} <= set(entry["resource"])
