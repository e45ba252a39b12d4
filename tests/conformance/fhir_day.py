"""The day of a practice as FHIR requests: open, feed, search, page, read, replace, mask, archive, delete, match,
cross-reference, traces. Written once, done by clients of others (`Client`), each in its own way of calling.

Every answer must be valid FHIR R4 for fhir.resources.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import re
import uuid
from typing import Any, Final, Protocol

from gateway.fhir.document_out import IS_ARCHIVED
from ops.demo.cda_document import DocumentKind
from tests.conformance.fhir_platform import parsed
from tests.conformance.fhir_samples import Json
from tests.platform_fixture import Patient, Platform

MHD: Final = "https://profiles.ihe.net/ITI/MHD"
FLAGS: Final = "https://mos.esante.gouv.fr/NOS/TRE_A07-StatutVisibiliteDocument/FHIR/TRE-A07-StatutVisibiliteDocument"
_FIRST_ID: Final = re.compile(rb'<id root="(2\.25\.\d+)"/>')


class Client(Protocol):
    """A FHIR client of others, behind what the day needs of it."""

    async def get(self, path: str, params: dict[str, str] | None = None) -> Json: ...
    async def post(self, path: str, resource: Json) -> Json: ...
    async def patch(self, path: str, params: dict[str, str], parameters: Json) -> Json: ...
    async def search_all(self, resource: str, params: dict[str, str]) -> list[Json]: ...


async def live_a_day(platform: Platform, client: Client, patient: Patient) -> None:
    """All of it, for one registered patient without a dossier."""
    await open_dossier(client, patient)
    first = [await feed(client, patient, seed) for seed in (1, 2, 3)]
    await search_page_and_read(platform, client, patient, first)
    await replace(client, patient, first[0])
    await change(client, patient, first[1], first[2])
    await identify(client, patient)
    await look_at_the_trail(client, patient)


async def open_dossier(client: Client, patient: Patient) -> None:
    """TD0.2, TD1.1, TD0.3, TD0.2 again."""
    query = {"identifier": patient.identifier}
    assert parsed(await client.get("Patient", query)).total == 0
    opened = await client.post("Patient/$dossier-open", said(patient, consentMethod="oral"))
    assert parsed(opened).active is True
    stated = said(patient, attendingPhysician=True, patientConsented=True)
    assert parsed(await client.post("Patient/$dossier-authorise", stated)).status == "active"
    (entry,) = (await client.get("Patient", query))["entry"]
    standing = {each["url"].rpartition("/")[2]: each for each in entry["resource"]["extension"]}
    assert standing["caller-authorization"]["valueCode"] == "VALID"
    assert standing["caller-is-attending-physician"]["valueBoolean"] is True


async def feed(client: Client, patient: Patient, seed: int) -> Json:
    """ITI-105."""
    content = patient.cda(seed=seed)
    attachment = {"contentType": "text/xml", "data": base64.b64encode(content).decode(), **digest(content)}
    sent = {
        "resourceType": "DocumentReference",
        "status": "current",
        "subject": {"identifier": identifier(patient)},
        "content": [{"attachment": attachment}],
    }
    published = await client.post("DocumentReference", sent)
    parsed(published)
    return published


async def search_page_and_read(platform: Platform, client: Client, patient: Patient, fed: list[Json]) -> None:
    """ITI-67 page by page, ITI-66, ITI-68."""
    query = {"patient.identifier": patient.identifier, "status": "current", "_count": "2"}
    found = await client.search_all("DocumentReference", query)
    assert {each["id"] for each in found} == {each["id"] for each in fed}
    for each in found:
        parsed(each)
    page = await client.get("DocumentReference", query)
    assert (parsed(page).total, len(page["entry"])) == (3, 2)
    read = await client.get(f"DocumentReference/{fed[0]['id']}")
    assert parsed(read).masterIdentifier.value == fed[0]["masterIdentifier"]["value"]
    sets = await client.get("List", {"patient.identifier": patient.identifier, "code": "submissionset"})
    assert parsed(sets).total == 3
    served = await platform.get(read["content"][0]["attachment"]["url"], patient.caregiver.statement())
    assert served.content == patient.cda(seed=1)


async def replace(client: Client, patient: Patient, old: Json) -> None:
    """TD2.1 with a replacement: ITI-65, and the PATCH entry that supersedes."""
    content = patient.cda(seed=1, version=2)
    answer = await client.post("", replacement(patient, old, content))
    parsed(answer)
    statuses = [entry["response"]["status"] for entry in answer["entry"]]
    assert statuses == ["201 Created", "201 Created", "201 Created", "200 OK"]
    superseded = await client.get(f"DocumentReference/{old['id']}")
    assert parsed(superseded).status == "superseded"
    new = await client.get(answer["entry"][1]["response"]["location"])
    assert parsed(new).relatesTo[0].code == "replaces"
    assert new["relatesTo"][0]["target"]["reference"] == f"DocumentReference/{old['id']}"


async def change(client: Client, patient: Patient, masked: Json, deleted: Json) -> None:
    """TD3.3: mask and unmask, archive, delete, each by the identifier of the producer."""
    flag = {"coding": [{"system": FLAGS, "code": "MASQUE_PS"}]}
    added: list[Json] = [
        {"name": "name", "valueString": "securityLabel"},
        {"name": "value", "valueCodeableConcept": flag},
    ]
    answer = await client.patch("DocumentReference", by_identifier(patient, masked), patch("add", "", added))
    parsed(answer)
    codes = {coding["code"] for label in answer["securityLabel"] for coding in label["coding"]}
    assert "MASQUE_PS" in codes
    extension = {"url": IS_ARCHIVED, "valueBoolean": True}
    parts = [{"name": "url", "valueUri": IS_ARCHIVED}, {"name": "valueBoolean", "valueBoolean": True}]
    added = [{"name": "name", "valueString": "extension"}, {"name": "value", "part": parts}]
    answer = await client.patch("DocumentReference", by_identifier(patient, masked), patch("add", "", added))
    parsed(answer)
    assert answer["extension"] == [extension]
    query = {"patient.identifier": patient.identifier, "isArchived": "true"}
    assert [each["id"] for each in await client.search_all("DocumentReference", query)] == [masked["id"]]
    word = [{"name": "value", "valueCode": "entered-in-error"}]
    gone = await client.patch("DocumentReference", by_identifier(patient, deleted), patch("replace", ".status", word))
    assert parsed(gone).status == "entered-in-error"
    current = await client.search_all("DocumentReference", {"patient.identifier": patient.identifier})
    assert deleted["id"] not in {each["id"] for each in current}


async def identify(client: Client, patient: Patient) -> None:
    """ITI-119 and ITI-83."""
    person = patient.person
    described = {
        "resourceType": "Patient",
        "name": [{"use": "official", "family": person.birth_family, "given": [person.first_given]}],
        "gender": {"F": "female", "M": "male"}[person.sex],
        "birthDate": person.birth_date.isoformat(),
    }
    asked = {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": described}]}
    matches = await client.post("Patient/$match", asked)
    parsed(matches)
    assert matches["entry"][0]["search"]["extension"][0]["valueCode"] in ("certain", "probable", "possible")
    found = await client.get("Patient/$ihe-pix", {"sourceIdentifier": patient.identifier})
    parsed(found)
    assert any(each["name"] == "targetId" for each in found["parameter"])


async def look_at_the_trail(client: Client, patient: Patient) -> None:
    """ITI-81: what this very day left."""
    query = {"patient.identifier": patient.identifier, "date": "ge2020-01-01", "_count": "100"}
    trail = await client.search_all("AuditEvent", query)
    for each in trail:
        parsed(each)
    done = {coding["code"] for each in trail for coding in each["subtype"]}
    assert {"ITI-65", "ITI-67", "ITI-68", "dossier.open", "authorization.grant"} <= done


def said(patient: Patient, **values: Any) -> Json:
    """The Parameters of an operation on the patient's dossier."""
    kinds = {bool: "valueBoolean", str: "valueCode"}
    parameters: list[Json] = [{"name": "patient", "valueIdentifier": identifier(patient)}]
    parameters += [{"name": name, kinds[type(value)]: value} for name, value in values.items()]
    return {"resourceType": "Parameters", "parameter": parameters}


def identifier(patient: Patient) -> Json:
    """The INS as an Identifier."""
    system, value = patient.identifier.split("|")
    return {"system": system, "value": value}


def digest(content: bytes) -> Json:
    """Size and SHA-1 of the decoded bytes."""
    sha1 = hashlib.sha1(content, usedforsecurity=False).digest()
    return {"size": len(content), "hash": base64.b64encode(sha1).decode()}


def by_identifier(patient: Patient, document: Json) -> dict[str, str]:
    """The criteria of a conditional PATCH."""
    master = document["masterIdentifier"]
    return {"patient.identifier": patient.identifier, "identifier": f"{master['system']}|{master['value']}"}


def patch(kind: str, path: str, parts: list[Json]) -> Json:
    """A FHIRPath Patch of one operation on a DocumentReference."""
    head = [{"name": "type", "valueCode": kind}, {"name": "path", "valueString": f"DocumentReference{path}"}]
    return {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": [*head, *parts]}]}


def replacement(patient: Patient, old: Json, content: bytes) -> Json:
    """The Bundle that replaces a document with its next version; its metadata are those of the old one."""
    urls = [f"urn:uuid:{uuid.uuid4()}" for _ in range(3)]
    subject = {"identifier": identifier(patient)}
    kept = ("contained", "type", "category", "author", "authenticator", "securityLabel")
    reference: Json = {"resourceType": "DocumentReference", "status": "current", "subject": subject}
    reference |= {name: copy.deepcopy(old[name]) for name in kept if name in old}
    first = _FIRST_ID.search(content)
    assert first is not None
    reference["masterIdentifier"] = {"system": "urn:ietf:rfc:3986", "value": f"urn:oid:{first[1].decode()}"}
    reference["relatesTo"] = [{"code": "replaces", "target": {"reference": f"DocumentReference/{old['id']}"}}]
    attachment = {"contentType": "text/xml", "language": "fr-FR", "url": urls[2], **digest(content)}
    reference["content"] = [{"attachment": attachment, "format": old["content"][0]["format"]}]
    context = {name: old["context"][name] for name in ("facilityType", "practiceSetting")}
    reference["context"] = context
    reference["contained"] = [each for each in reference.get("contained", ()) if each["resourceType"] != "Patient"]
    activity = {"coding": [{"system": "urn:oid:1.2.250.1.213.2.2", "code": "04"}]}
    source = {"system": "urn:ietf:rfc:3986", "value": "urn:oid:1.2.250.1.999.7"}
    set_: Json = {
        "resourceType": "List",
        "extension": [
            {"url": f"{MHD}/StructureDefinition/ihe-designationType", "valueCodeableConcept": activity},
            {"url": f"{MHD}/StructureDefinition/ihe-sourceId", "valueIdentifier": source},
        ],
        "status": "current",
        "mode": "working",
        "code": {"coding": [{"system": f"{MHD}/CodeSystem/MHDlistTypes", "code": "submissionset"}]},
        "subject": subject,
        "date": "2026-11-25T10:00:00+01:00",
        "entry": [{"item": {"reference": urls[1]}}],
    }
    binary = {"resourceType": "Binary", "contentType": "text/xml", "data": base64.b64encode(content).decode()}
    entries: list[Json] = [
        {"fullUrl": url, "resource": resource, "request": {"method": "POST", "url": resource["resourceType"]}}
        for url, resource in zip(urls, (set_, reference, binary), strict=True)
    ]
    superseded = patch("replace", ".status", [{"name": "value", "valueCode": "superseded"}])
    target = {"method": "PATCH", "url": f"DocumentReference/{old['id']}"}
    entries.append({"fullUrl": f"urn:uuid:{uuid.uuid4()}", "resource": superseded, "request": target})
    profile = f"{MHD}/StructureDefinition/IHE.MHD.Comprehensive.ProvideBundle"
    return {"resourceType": "Bundle", "meta": {"profile": [profile]}, "type": "transaction", "entry": entries}


KIND: Final = DocumentKind.CONSULTATION
"""What the day's documents are."""
