"""A home host goes over to another: exported whole, imported whole, and everybody may there what he might before.

The dossiers go from some people to others, who stand for the same people at the second host.
"""

from __future__ import annotations

import copy
import uuid
from typing import Any, Final

import httpx
import orjson
import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1.coding_pb2 import Identifier
from dmp.consent.v1 import consent_pb2
from gateway.fhir.document_out import IS_ARCHIVED
from ops.demo.people import DemoPerson
from ops.session import Statement
from tests.conformance.fhir_day import FLAGS
from tests.conformance.fhir_http import Http, of
from tests.conformance.fhir_platform import parsed, reason_of
from tests.conformance.fhir_samples import Json
from tests.conformance.test_fhir_host_export import Host, block, close, host, values
from tests.conformance.test_fhir_imports import NDJSON, address, note, three_documents, traits
from tests.conformance.test_fhir_representatives import call, register
from tests.platform_fixture import Patient, Platform
from tests.platform_people import Caregiver

__all__ = ["host"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

MHD: Final = "https://profiles.ihe.net/ITI/MHD"
PROFILE: Final = f"{MHD}/StructureDefinition/IHE.MHD.Comprehensive.ProvideBundle"
KINDS: Final = ("Patient", "Parameters", "Bundle")


def numbered() -> Json:
    """A uniqueId that nothing else has."""
    return {"system": "urn:ietf:rfc:3986", "value": f"urn:oid:2.25.{uuid.uuid4().int}"}


def listed(kind: str, identifier: Json, subject: Json, members: list[str]) -> Json:
    """A submission set or a folder."""
    source = {"url": f"{MHD}/StructureDefinition/ihe-sourceId", "valueIdentifier": {"value": "urn:oid:1.2.250.9"}}
    activity = {"coding": [{"system": "urn:oid:1.2.250.1.213.2.2", "code": "04"}]}
    designation = {"url": f"{MHD}/StructureDefinition/ihe-designationType", "valueCodeableConcept": activity}
    return {
        "resourceType": "List",
        **({"extension": [designation, source]} if kind == "submissionset" else {}),
        "identifier": [identifier],
        "status": "current",
        "mode": "working",
        "title": f"A {kind}",
        "code": {"coding": [{"system": f"{MHD}/CodeSystem/MHDlistTypes", "code": kind}]},
        "subject": subject,
        "date": "2026-01-02T03:04:05Z",
        "entry": [{"item": {"reference": each}} for each in members],
    }


def submission(person: DemoPerson, author: Caregiver, numbers: list[int], folder: Json, *, held: bool = False) -> Json:
    """A set of notes that all lie in one folder, made with it or there before."""
    subject, entries, documents = {"identifier": address(person)}, list[Json](), list[str]()
    for number in numbers:
        reference, binary = (f"urn:uuid:{uuid.uuid4()}" for _ in range(2))
        document = note(person, author, number)
        attachment = document["content"][0]["attachment"]
        content = {"resourceType": "Binary", "contentType": "text/plain", "data": attachment.pop("data")}
        attachment["url"] = binary
        for url, resource in ((reference, document), (binary, content)):
            posted = {"method": "POST", "url": resource["resourceType"]}
            entries.append({"fullUrl": url, "resource": resource, "request": posted})
        documents.append(reference)
    where = f"urn:uuid:{uuid.uuid4()}"
    filed = {"method": "PUT", "url": f"List?identifier={folder['system']}|{folder['value']}"}
    made = {"method": "POST", "url": "List"}
    entries += [
        {
            "fullUrl": where,
            "resource": listed("folder", folder, subject, documents),
            "request": filed if held else made,
        },
        {
            "fullUrl": f"urn:uuid:{uuid.uuid4()}",
            "resource": listed("submissionset", numbered(), subject, [*documents, where]),
            "request": made,
        },
    ]
    return {"resourceType": "Bundle", "meta": {"profile": [PROFILE]}, "type": "transaction", "entry": entries}


async def as_it_was(platform: Platform, mother: Patient, shut: Caregiver, staff: Caregiver) -> Patient:
    """An open dossier: replaced, masked, archived and filed documents; one shut out; another authorised; a mother."""
    patient = await platform.patient()
    http = of(platform, patient)
    await three_documents(http, patient)
    hidden = note(patient.person, patient.caregiver, 4)
    hidden["securityLabel"] = [*hidden["securityLabel"], {"coding": [{"system": FLAGS, "code": "INVISIBLE_PATIENT"}]}]
    assert (await http.send("POST", "DocumentReference", hidden)).status_code == 201
    old = (await http.send("POST", "DocumentReference", note(patient.person, patient.caregiver, 5))).json()
    patch = [{"op": "add", "path": "/extension", "value": [{"url": IS_ARCHIVED, "valueBoolean": True}]}]
    body, by = (
        orjson.dumps(patch),
        {"identifier": "|".join(old["masterIdentifier"][name] for name in ("system", "value"))},
    )
    archiving = await http.send_bytes(
        "PATCH", "DocumentReference", body, {"Content-Type": "application/json-patch+json"},
        **by, **{"patient.identifier": patient.identifier},
    )  # fmt: skip
    assert archiving.status_code == 200, archiving.text
    folder = numbered()
    for numbers, held in (([6, 7], False), ([8], True)):
        answer = await http.send("POST", "", submission(patient.person, patient.caregiver, numbers, folder, held=held))
        assert answer.status_code == 200, answer.text
    await block(platform, patient, shut.professional.idnps)
    await register(platform, patient, mother)
    await platform.acts(staff.statement()).authorise(patient.health_id)
    preferences = consent_pb2.UpdatePreferencesRequest(name=patient.dossier, regulation_opposed=True)
    await call(platform, "UpdatePreferences", preferences, Statement.patient(patient.health_id))
    return patient


def told_of(person: DemoPerson, other: DemoPerson, lines: list[Json]) -> list[Json]:
    """The lines, those about one person about another."""
    found: list[Json] = []
    for line in lines:
        text = orjson.dumps(line)
        found.append(orjson.loads(text.replace(person.nir.encode(), other.nir.encode())))
        described = [each["resource"] for each in found[-1].get("entry", ())]
        contained = [one for each in described for one in each.get("contained", ())]
        for patient in (found[-1], *contained) if person.nir.encode() in text else ():
            if patient["resourceType"] == "Patient":
                patient.update(traits(other))
    return found


async def export(host: Host) -> dict[str, list[Json]]:
    """All lines of a host, by kind."""
    _, files = await host.manifest(_type=",".join(KINDS))
    return {kind: await host.lines(files, kind) for kind in KINDS}


async def put(host: Host, status: str, file: str, lines: list[Json]) -> httpx.Response:
    """Send a file of an import."""
    headers = {**NDJSON, "Authorization": f"Bearer {await host.software.token()}"}
    body = b"\n".join(orjson.dumps(line) for line in lines)
    url = status.replace("-status", "-file")
    return await host.software.http.put(url, params={"file": file}, content=body, headers=headers)


async def begin(host: Host) -> str:
    """The status URL of a new import."""
    begun = await host.get("$import", "POST")
    assert begun.status_code == 202, begun.text
    return begun.headers["content-location"]


async def refusals(host: Host, status: str) -> list[Json]:
    """The lines that were refused, each an OperationOutcome."""
    answer = await host.get(status.replace("-status", "-errors"))
    return [orjson.loads(line) for line in answer.content.splitlines()]


async def seen(http: Http, identifier: str) -> tuple[Any, ...]:
    """What a caller may know and read of a dossier, whatever the ids are."""
    query = {"patient.identifier": identifier, "status": "current,superseded", "_count": "50"}
    answer = await http.send("GET", "DocumentReference", **query)
    if answer.status_code != 200:
        return answer.status_code, reason_of(answer.json()["issue"][0])
    documents = []
    for entry in answer.json().get("entry", ()):
        found = entry["resource"]
        content = await http.send("GET", found["content"][0]["attachment"]["url"])
        documents.append(
            (
                found["masterIdentifier"]["value"],
                found["status"],
                found["date"],
                orjson.dumps([found.get("extension"), found["securityLabel"], found["author"], found["type"]]),
                content.status_code,
                content.content if content.status_code == 200 else b"",
            )
        )
    return answer.json()["total"], tuple(sorted(documents))  # those of a set came at one time


async def lists_of(http: Http, identifier: str) -> list[tuple[Any, ...]]:
    """Sets and folders: their uniqueIds, dates and how many documents each has."""
    found = []
    for code in ("submissionset", "folder"):
        answer = await http.send("GET", "List", **{"patient.identifier": identifier, "code": code, "_count": "50"})
        for entry in answer.json()["entry"]:
            held = entry["resource"]
            date = held["date"] if code == "submissionset" else ""
            found.append((held["identifier"][0]["value"], held.get("title", ""), date, len(held["entry"])))
    return sorted(found)


def everybody(platform: Platform, who: Patient, mother: Patient, *others: Caregiver) -> list[Http]:
    """All who might want to read, in the same order for each dossier."""
    stranger = platform.caregiver()
    emergency = {"access_mode": "break_glass", "break_glass_reason": "inconscient"}
    return [
        of(platform, who),
        *(Http(platform, each.statement()) for each in others),
        *(Http(platform, each.statement(**emergency)) for each in (*others, stranger)),
        Http(platform, stranger.statement()),
        Http(platform, Statement.patient(who.health_id)),
    ]


async def health_id_of(platform: Platform, person: DemoPerson, caregiver: Caregiver) -> int:
    found = await platform.acts(caregiver.statement()).resolve(Identifier(system=person.nir_oid, value=person.nir))
    assert found is not None
    return found


async def test_a_host_goes_over_whole_and_everybody_may_there_what_he_might_before(
    platform: Platform, host: Host
) -> None:
    mother, shut, staff = await platform.patient(), platform.caregiver(), platform.caregiver()
    before = await host.takes(await as_it_was(platform, mother, shut, staff))
    closed = await host.takes(await platform.patient())
    await of(platform, closed).send("POST", "DocumentReference", note(closed.person, closed.caregiver, 9))
    await close(platform, closed)
    lines = await export(host)
    for line in (each for kind in KINDS for each in lines[kind]):
        parsed(line)
    newcomers = {each.person.nir: platform.person() for each in (before, closed)}
    for old in (before, closed):
        lines = {kind: told_of(old.person, newcomers[old.person.nir], lines[kind]) for kind in KINDS}
    status = await begin(host)
    for kind in KINDS:
        sent = [await put(host, status, kind, lines[kind]) for _ in range(2)]  # sent again, nothing more happens
        told = sent[0].json()
        assert [each.json() for each in sent] == [told, told]
        assert (told["created"], told["finished"]) == (len(lines[kind]), True), await refusals(host, status)
    for kind in KINDS:  # in another file: all of it is there
        told = (await put(host, status, f"again-{kind}", lines[kind])).json()
        assert (told["created"], told["existed"], told["refused"]) == (0, len(lines[kind]), 0)

    arrived = Patient(
        await health_id_of(platform, newcomers[before.person.nir], before.caregiver),
        newcomers[before.person.nir],
        before.caregiver,
        before.acts,
    )
    for there, here in zip(
        everybody(platform, before, mother, shut, staff), everybody(platform, arrived, mother, shut, staff), strict=True
    ):
        assert await seen(here, arrived.identifier) == await seen(there, before.identifier)
    http = of(platform, before)
    assert await lists_of(http, arrived.identifier) == await lists_of(http, before.identifier)
    again = await export(host)
    told = {said["patient"]["value"]: said for said in map(values, again["Parameters"])}
    assert told[arrived.person.nir]["openDate"] == told[before.person.nir]["openDate"]
    whole = {each["parameter"][0]["valueIdentifier"]["value"]: each["parameter"][1:] for each in again["Parameters"]}
    for old in (before, closed):
        assert whole[newcomers[old.person.nir].nir] == whole[old.person.nir]
    sets = [orjson.dumps(bundle) for bundle in again["Bundle"]]
    assert len(sets) == 2 * len(lines["Bundle"])

    shown = await platform.trail(arrived.health_id, "dossier.take_in", "document.submit")
    mine = [event for event in shown if event.outcome == audit_pb2.OUTCOME_SUCCESS and event.actor.takes_over_host]
    assert {"dossier.take_in", "document.submit"} <= {event.action for event in mine}
    submitted = {event.basis for event in mine if event.action == "document.submit"}
    assert submitted == {audit_pb2.ACCESS_BASIS_TAKEOVER}


async def test_what_cannot_be_taken_in_is_refused_line_by_line_by_its_place(platform: Platform, host: Host) -> None:
    mother, shut, staff = await platform.patient(), platform.caregiver(), platform.caregiver()
    before = await host.takes(await as_it_was(platform, mother, shut, staff))
    opened, newcomer, other = await platform.patient(), platform.person(), platform.person()
    lines = await export(host)
    (line,) = lines["Parameters"]

    def changed(person: DemoPerson, **said: Any) -> Json:
        (found,) = told_of(before.person, person, [copy.deepcopy(line)])
        for item in found["parameter"]:
            if item["name"] in said:
                item.update(said[item["name"]])
        return found

    stranger = {"reference": "Patient/nobody", "identifier": address(other)}
    unknown = changed(newcomer)
    for item in unknown["parameter"]:
        if item["name"] == "representatives":
            item["part"][0]["part"][0]["valueReference"] = stranger
    consent = {"resourceType": "Consent", "status": "active"}
    wrong = [
        changed(newcomer, homeHost={"valueString": "south"}),
        changed(newcomer, state={"valueCode": "DESTROYED"}),
        changed(newcomer, openDate={"valueDateTime": "2999-01-01"}),
        changed(opened.person),  # who has a dossier at another host
        changed(other),  # whom nobody knows
        consent,
        unknown,
    ]
    status = await begin(host)
    told = (await put(host, status, "people", told_of(before.person, newcomer, lines["Patient"]))).json()
    assert told["created"] == 1, await refusals(host, status)
    told = (await put(host, status, "wrong", wrong)).json()
    found = {int(each["id"].rpartition(".")[2]): each["issue"][0] for each in await refusals(host, status)}
    assert (told["created"], told["existed"], told["refused"]) == (0, 0, len(wrong))
    said = {number: (reason_of(issue), *issue.get("expression", ())) for number, issue in found.items()}
    assert said == {
        1: ("INVALID_FIELD", "Parameters.parameter('homeHost')"),
        2: ("INVALID_FIELD", "Parameters.parameter('state')"),
        3: ("INVALID_FIELD", "Parameters.parameter('openDate')"),
        4: ("DOSSIER_ALREADY_EXISTS",),
        5: ("DOSSIER_NOT_FOUND", "Parameters.parameter[0].valueIdentifier"),
        6: ("METADATA_ERROR", "resourceType"),
        7: ("INVALID_FIELD", "Parameters.parameter('representatives')[0].person"),
    }
    health_id = await health_id_of(platform, newcomer, before.caregiver)
    taken = Http(platform, Statement.patient(health_id))
    assert (await seen(taken, f"urn:oid:{newcomer.nir_oid}|{newcomer.nir}"))[0] == 0  # taken in, without her


async def test_the_date_of_a_set_is_its_own_only_where_it_was_taken_over(platform: Platform) -> None:
    patient = await platform.patient()
    http, folder = of(platform, patient), numbered()
    answer = await http.send("POST", "", submission(patient.person, patient.caregiver, [1], folder))
    assert answer.status_code == 200, answer.text
    (found,) = (
        await http.send("GET", "List", **{"patient.identifier": patient.identifier, "code": "submissionset"})
    ).json()["entry"]
    assert not found["resource"]["date"].startswith("2026-01-02")
    unknown = submission(patient.person, patient.caregiver, [2], numbered(), held=True)
    refused = await http.send("POST", "", unknown)
    assert refused.status_code in (400, 422), refused.text
