"""`$import`, against the running platform and its database: what another platform exported, line by line, once."""

from __future__ import annotations

import base64
import copy
import uuid
from typing import Any, Final

import httpx
import orjson
import pytest

from gateway.fhir.document_out import IS_ARCHIVED
from ops.demo.people import DemoPerson
from ops.session import Statement
from tests.conformance.fhir_day import FLAGS
from tests.conformance.fhir_http import Http, of
from tests.conformance.fhir_platform import FakePlatform, client_of, issues, parsed, reason_of
from tests.conformance.fhir_samples import Json, document_reference
from tests.conformance.fhir_samples import simplified as simplified_sample
from tests.platform_fixture import Patient, Platform
from tests.platform_people import Caregiver

pytestmark = pytest.mark.asyncio(loop_scope="session")

NDJSON: Final = {"Content-Type": "application/fhir+ndjson"}


def address(person: DemoPerson) -> Json:
    """The INS of a person."""
    return {"system": f"urn:oid:{person.nir_oid}", "value": person.nir}


def traits(person: DemoPerson) -> Json:
    """A person as a Patient says it."""
    return {
        "identifier": [address(person)],
        "name": [{"use": "official", "family": person.birth_family, "given": list(person.given)}],
        "gender": {"F": "female", "M": "male"}[person.sex],
        "birthDate": person.birth_date.isoformat(),
    }


def opening(person: DemoPerson) -> Json:
    """The Parameters line that opens a dossier."""
    named = [
        {"name": "patient", "valueIdentifier": address(person)},
        {"name": "consentMethod", "valueCode": "written"},
    ]
    return {"resourceType": "Parameters", "parameter": named}


def note(person: DemoPerson, author: Caregiver, number: int, **more: Any) -> Json:
    """A plain text by `author` with all its metadata, as ITI-105 takes it."""
    reference = copy.deepcopy(document_reference(number))
    text = f"Note {number}".encode()
    attachment = reference["content"][0]["attachment"]
    for name in ("url", "hash", "size"):
        attachment.pop(name, None)
    attachment |= {"contentType": "text/plain", "data": base64.b64encode(text).decode()}
    reference["content"][0]["format"]["code"] = "urn:ihe:iti:xds-sd:text:2008"
    reference["masterIdentifier"] = {"system": "urn:ietf:rfc:3986", "value": f"urn:oid:2.25.{uuid.uuid4().int}"}
    reference["subject"] = {"identifier": address(person)}
    for contained in reference["contained"]:
        if contained["resourceType"] == "Patient":
            contained.update(traits(person))
        else:
            contained["identifier"][0]["value"] = author.professional.idnps
    del reference["meta"], reference["context"]["period"]["end"]
    return {**reference, **more}


async def export_inline(http: Http, patient: Patient) -> list[Json]:
    """The lines of an export that `$import` takes."""
    (entry,) = (await http.send("GET", "Patient", identifier=patient.identifier)).json()["entry"]
    begun = await http.send("GET", f"Patient/{entry['resource']['id']}/$export", _contents="inline")
    manifest = (await http.send("GET", begun.headers["content-location"])).json()
    lines = []
    for file in manifest["output"]:
        assert file["type"] == "DocumentReference"
        lines += [orjson.loads(line) for line in (await http.send("GET", file["url"])).content.splitlines()]
    return lines


async def put(http: Http, status_url: str, file: str, lines: list[Json | bytes]) -> httpx.Response:
    """Send a file of an import."""
    body = b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
    return await http.send_bytes("PUT", status_url.replace("-status", "-file"), body, NDJSON, file=file)


async def begin(http: Http) -> str:
    """The status URL of a new import."""
    begun = await http.send("POST", "$import")
    assert begun.status_code == 202, begun.text
    return begun.headers["content-location"]


async def three_documents(http: Http, patient: Patient) -> list[Json]:
    """The export of a dossier with a document that was replaced, the one that replaced it, and a masked one."""
    old = await http.send("POST", "DocumentReference", note(patient.person, patient.caregiver, 1))
    assert old.status_code == 201, old.text
    reference = {"code": "replaces", "target": {"reference": f"DocumentReference/{old.json()['id']}"}}
    masked = note(patient.person, patient.caregiver, 3)
    masked["securityLabel"] = [*masked["securityLabel"], {"coding": [{"system": FLAGS, "code": "MASQUE_PS"}]}]
    for each in (note(patient.person, patient.caregiver, 2, relatesTo=[reference]), masked):
        assert (await http.send("POST", "DocumentReference", each)).status_code == 201
    exported = await export_inline(http, patient)
    assert sorted(line["status"] for line in exported) == ["current", "current", "superseded"]
    return exported


def moved(exported: list[Json], newcomer: DemoPerson) -> list[Json]:
    """The lines, about another person."""
    lines = copy.deepcopy(exported)
    for line in lines:
        for contained in line["contained"]:
            if contained["resourceType"] == "Patient":
                contained.update(traits(newcomer))
    return lines


async def documents_of(http: Http, person: DemoPerson) -> dict[str, Json]:
    """The documents of a dossier, authorised now, by their uniqueIds."""
    statement = {"name": "patientConsented", "valueBoolean": True}
    stated = {"resourceType": "Parameters", "parameter": [opening(person)["parameter"][0], statement]}
    assert (await http.send("POST", "Patient/$dossier-authorise", stated)).status_code == 200
    here = address(person)
    query = {"patient.identifier": f"{here['system']}|{here['value']}", "status": "current,superseded"}
    arrived = (await http.send("GET", "DocumentReference", **query)).json()
    return {each["resource"]["masterIdentifier"]["value"]: each["resource"] for each in arrived["entry"]}


async def test_what_one_host_exported_another_imports_whole_and_once(platform: Platform) -> None:
    """The dossier goes from one person to another, who stands for the same person at the second host."""
    patient, newcomer = await platform.patient(), platform.person()
    http = of(platform, patient)
    exported = await three_documents(http, patient)
    lines: list[Json | bytes] = [
        {"resourceType": "Patient", "active": True, **traits(newcomer)},
        opening(newcomer),
        *moved(exported, newcomer),
        {"resourceType": "Observation"},
        b"{",
    ]
    status = await begin(http)
    assert (await http.send("GET", status)).status_code == 202
    sent = [await put(http, status, "part-1", lines) for _ in range(2)]  # sent again, nothing more happens
    told = sent[0].json()
    refusals = await http.send("GET", status.replace("-status", "-errors"))
    assert [answer.json() for answer in sent] == [told, told]
    assert (told["lines"], told["created"], told["existed"], told["refused"]) == (7, 5, 0, 2), refusals.text
    refused = [orjson.loads(line) for line in refusals.content.splitlines()]
    assert [parsed(each).id for each in refused] == ["part-1.6", "part-1.7"]
    manifest = await http.send("GET", status)
    assert (manifest.status_code, manifest.json()["error"][0]["count"]) == (200, 2)
    again = await put(http, status, "part-2", lines[:5])  # the same lines in another file: all are there
    assert (again.json()["created"], again.json()["existed"]) == (0, 5), again.text

    kept = await documents_of(http, newcomer)
    assert len(kept) == 3
    for line in exported:
        mine = kept[line["masterIdentifier"]["value"]]
        assert mine["id"] != line["id"]
        for name in ("status", "type", "category", "securityLabel", "author"):
            assert mine.get(name) == line.get(name), name
        attachment, sent_one = mine["content"][0]["attachment"], line["content"][0]["attachment"]
        for name in ("hash", "size", "contentType", "title", "creation"):
            assert attachment.get(name) == sent_one.get(name), name


async def test_each_line_of_an_import_is_in_the_trail(platform: Platform) -> None:
    patient = await platform.registered()
    http = of(platform, patient)
    lines: list[Json | bytes] = [opening(patient.person), note(patient.person, patient.caregiver, 1)]
    assert (await put(http, await begin(http), "a", lines)).json()["created"] == 2
    await platform.trail(patient.health_id, "dossier.open", "document.submit")


async def test_an_archived_document_arrives_archived_and_one_for_nobody_is_refused(platform: Platform) -> None:
    patient, nobody = await platform.patient(), platform.person()
    http = of(platform, patient)
    archived = note(patient.person, patient.caregiver, 1, extension=[{"url": IS_ARCHIVED, "valueBoolean": True}])
    status = await begin(http)
    sent = await put(http, status, "a", [archived, note(nobody, patient.caregiver, 2)])
    errors = await http.send("GET", status.replace("-status", "-errors"))
    assert (sent.json()["created"], sent.json()["refused"]) == (1, 1), errors.text
    (refusal,) = [orjson.loads(line) for line in errors.content.splitlines()]
    assert reason_of(refusal["issue"][0]) == "DOSSIER_NOT_FOUND"
    query = {"patient.identifier": patient.identifier, "isArchived": "true"}
    assert (await http.send("GET", "DocumentReference", **query)).json()["total"] == 1


async def test_an_import_is_its_clients_own(platform: Platform) -> None:
    patient = await platform.patient()
    status = await begin(of(platform, patient))
    stranger = Http(platform, Statement.patient(patient.health_id))
    answer = await stranger.send("GET", status)
    assert answer.status_code in (401, 404), answer.text
    issues(await of(platform, patient).send("GET", status[:-4] + "ffff"), 404)


async def test_a_file_goes_on_at_its_line_when_the_platform_failed_on_the_way() -> None:
    fake = FakePlatform()
    async with client_of(fake) as client:
        status = (await client.post("/$import")).headers["content-location"]
        url = status.replace("-status", "-file") + "?file=a"
        lines = [orjson.dumps(simplified_sample()) for _ in range(30)]
        fake.most_submissions = 25
        body = b"\n".join(lines)
        broken = await client.put(url, content=body, headers=NDJSON)
        issues(broken, 503)
        (told,) = (await client.get(status)).json()["output"]
        assert (told["lines"], told["finished"]) == (25, False)
        fake.most_submissions = None
        done = await client.put(url, content=body, headers=NDJSON)
        assert (done.status_code, done.json()["lines"], done.json()["finished"]) == (200, 30, True)
        for wrong in ("", "a/b", "x" * 41):
            issues(
                await client.put(
                    status.replace("-status", "-file"), params={"file": wrong}, content=b"{}", headers=NDJSON
                ),
                400,
            )
        issues(await client.put(url, content=b"{}", headers={"Content-Type": "application/json"}), 415)
