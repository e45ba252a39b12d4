"""`$export` of a home host on the running platform: whole, once, to who takes it over and to nobody else."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import orjson
import pytest
import pytest_asyncio

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.consent.v1 import consent_pb2
from dmp.gateway.v1 import partner_pb2
from ops.local.registrations import OPERATOR
from ops.session import Statement
from tests.conformance.fhir_http import of
from tests.conformance.fhir_platform import issues, parsed, reason_of
from tests.conformance.fhir_samples import Json
from tests.conformance.test_fhir_imports import address, three_documents
from tests.oauth_software import CARE_SCOPES, Software
from tests.platform_calls import bearer, invoke
from tests.platform_fixture import Patient, Platform, method

pytestmark = pytest.mark.asyncio(loop_scope="session")

MOVE: Final = method("MoveDossier")
BLOCK: Final = method("BlockProfessional")
CLOSE: Final = method("CloseDossier")
PDQM: Final = "https://profiles.ihe.net/ITI/PDQm/StructureDefinition/IHE.PDQm.Patient"
TYPES: Final = {"Patient", "Parameters", "Consent", "List", "DocumentReference", "Binary"}
SYSTEM: Final = partner_pb2.Bounds(actors=[context_pb2.ACTOR_KIND_SYSTEM])


@dataclass(slots=True)
class Host:
    """A home host, the software that takes it over, and its dossiers."""

    platform: Platform
    name: str
    software: Software

    async def takes(self, patient: Patient) -> Patient:
        """A dossier moves to this host."""
        name = patient.dossier
        request = consent_pb2.MoveDossierRequest(name=name, home_host=self.name, request_id=self.platform.request_id())
        token = await self.platform.session.token(Statement.of(OPERATOR, actor="operator", subject="operator-1"))
        await invoke(self.platform.channel("direct", MOVE, OPERATOR), MOVE.path, request, bearer(token))
        return patient

    async def get(self, path: str, verb: str = "GET", **parameters: Any) -> httpx.Response:
        """A request of the software that takes over."""
        return await asked(self.software, path, verb, **parameters)

    async def manifest(self, **parameters: str) -> tuple[str, list[Json]]:
        """A new export: the URL of its manifest, and the files of all pages."""
        begun = await self.get("$export", **parameters)
        assert begun.status_code == 202, begun.text
        url, files = begun.headers["content-location"], list[Json]()
        following = url
        while following:
            answer = await self.get(following)
            assert answer.status_code == 200, answer.text
            files += answer.json()["output"]
            following = next((each["url"] for each in answer.json().get("link", ())), "")
        return url, files

    async def lines(self, files: list[Json], kind: str) -> list[Json]:
        """The resources of all files of a type."""
        found: list[Json] = []
        for file in files:
            if file["type"] == kind:
                answer = await self.get(file["url"])
                assert answer.status_code == 200, answer.text
                assert answer.headers["content-type"] == "application/fhir+ndjson"
                read = [orjson.loads(line) for line in answer.content.splitlines()]
                assert file.get("count", len(read)) == len(read)
                found += read
        return found


async def asked(software: Software, path: str, verb: str = "GET", **parameters: Any) -> httpx.Response:
    url = path if path.startswith("http") else f"{software.base}/{path}"
    token = await software.token()
    return await software.http.request(
        verb, url, params=parameters or None, headers={"Authorization": f"Bearer {token}"}
    )


async def taking_over(platform: Platform, host: str, *registered: str) -> Software:
    """Software that is entitled to take over hosts and says that it takes over one."""
    software = await Software.registered(
        platform,
        scopes=[scope for scope in CARE_SCOPES if scope != "ITI-104"],
        bounds=SYSTEM,
        takes_over_hosts=registered or (host,),
        grants=[1],
        login=0,
        redirect_uris=[],
    )
    who = {"actor": "system", "subject": software.client_id, "subject_name": "Hébergeur du Nord"}
    software.statement = {**who, "takes_over_host": host}
    return software


@pytest_asyncio.fixture(loop_scope="session")
async def host(platform: Platform) -> AsyncIterator[Host]:
    name = f"north-{secrets.token_hex(4)}"
    software = await taking_over(platform, name)
    yield Host(platform, name, software)
    await software.close()


async def test_a_host_is_exported_whole_masked_archived_and_closed_dossiers_too(platform: Platform, host: Host) -> None:
    first, second = await host.takes(await platform.patient()), await host.takes(await platform.patient())
    elsewhere = await platform.patient()
    await three_documents(of(platform, first), first)
    document = await second.acts.submit(second.health_id, second.cda(), "consultation.xml")
    await close(platform, second)
    url, files = await host.manifest()
    assert {file["type"] for file in files} == TYPES
    people = await host.lines(files, "Patient")
    numbers = {each.person.nir for each in (first, second)}
    assert {each["identifier"][0]["value"] for each in people} == numbers
    assert elsewhere.person.nir not in str(people)
    openings = {said["patient"]["value"]: said for said in map(values, await host.lines(files, "Parameters"))}
    assert set(openings) == numbers
    assert [openings[each.person.nir]["state"] for each in (first, second)] == ["OPEN", "CLOSED"]
    closed = openings[second.person.nir]
    assert (closed["reason"], closed["closedBy"], closed["homeHost"]) == ("PATIENT_REQUEST", "patient", host.name)
    assert closed["openDate"] < closed["closeDate"] < closed["destructionDate"]
    references = await host.lines(files, "DocumentReference")
    assert sorted(each["status"] for each in references) == ["current", "current", "current", "superseded"]
    contents = [base64.b64decode(each["data"]) for each in await host.lines(files, "Binary")]
    assert sorted(contents) == sorted([b"Note 1", b"Note 2", b"Note 3", second.cda()])
    sets = await host.lines(files, "List")
    inside = {entry["item"]["reference"] for each in sets for entry in each["entry"]}
    assert inside == {f"DocumentReference/{each['id']}" for each in references}
    for resource in (*people, *references, *sets, *await host.lines(files, "Parameters")):
        parsed(resource)
    assert document.unique_id in str(references)
    assert (await host.get(url)).headers["expires"]


async def test_authorisations_and_blocks_come_with_their_dates_and_blocks_come_first(
    platform: Platform, host: Host
) -> None:
    patient, blocked = await host.takes(await platform.patient()), platform.caregiver()
    await block(platform, patient, blocked.professional.idnps)
    _, files = await host.manifest(_type="Consent")
    consents = await host.lines(files, "Consent")
    assert [each["category"][0]["coding"][0]["code"] for each in consents] == [
        "block", "authorization", "break-glass", "regulation", "masked-in-emergency"
    ]  # fmt: skip
    shut, allowed, *_ = consents
    assert shut["provision"]["actor"][0]["reference"]["identifier"]["value"] == blocked.professional.idnps
    period = allowed["provision"]["period"]
    assert timedelta(days=364) < moment(period["end"]) - moment(period["start"]) < timedelta(days=367)
    for each in consents:
        parsed(each)
        assert each["patient"]["identifier"] == address(patient.person)


async def test_contents_may_come_with_their_references(platform: Platform, host: Host) -> None:
    patient = await host.takes(await platform.patient())
    await three_documents(of(platform, patient), patient)
    _, files = await host.manifest(_type="DocumentReference", _contents="inline")
    lines = await host.lines(files, "DocumentReference")
    texts = [base64.b64decode(each["content"][0]["attachment"]["data"]) for each in lines]
    assert sorted(texts) == [b"Note 1", b"Note 2", b"Note 3"]
    (replacing,) = [each for each in lines if "relatesTo" in each]
    assert replacing["relatesTo"][0]["target"]["identifier"]["value"].startswith("urn:oid:")


async def test_a_listing_goes_on_page_by_page_and_a_file_is_fetched_again(platform: Platform, host: Host) -> None:
    patients = [await host.takes(await platform.patient()) for _ in range(3)]
    _, files = await host.manifest(_type="Patient,DocumentReference")
    (file,) = [each for each in files if each["type"] == "Patient"]
    twice = [await host.get(file["url"]) for _ in range(2)]
    assert twice[0].content == twice[1].content
    assert len(twice[0].content.splitlines()) == len(patients)
    assert [len(page.dossiers) for page in await pages_of(host, page_size=2)] == [2, 1]


async def test_the_patient_reads_in_the_trail_who_took_the_dossier_over_and_why(platform: Platform, host: Host) -> None:
    patient = await host.takes(await platform.patient())
    await patient.acts.submit(patient.health_id, patient.cda(), "consultation.xml")
    _, files = await host.manifest()
    for kind in TYPES:
        await host.lines(files, kind)
    actions = {"host.list_dossiers", "person.read", "document.search", "document.read"}
    events = await platform.trail(patient.health_id, *actions)
    mine = [event for event in events if event.actor.takes_over_host == host.name]
    assert actions <= {event.action for event in mine}
    assert {event.basis for event in mine if event.action != "person.read"} == {audit_pb2.ACCESS_BASIS_TAKEOVER}
    assert {event.actor.subject_name for event in mine} == {"Hébergeur du Nord"}


async def test_a_dossier_that_leaves_the_host_leaves_the_export(platform: Platform, host: Host) -> None:
    patient = await host.takes(await platform.patient())
    await patient.acts.submit(patient.health_id, patient.cda(), "consultation.xml")
    _, files = await host.manifest()
    assert await host.lines(files, "DocumentReference")
    await replace(host, name="national").takes(patient)
    for file in files:
        answer = await host.get(file["url"])
        if file["type"] in ("Patient", "Parameters", "Consent"):
            assert answer.content == b""
        else:
            assert reason_of(issues(answer, 404)[0]) == "DOSSIER_NOT_FOUND"


async def test_a_cancelled_export_is_gone_and_nobody_else_has_it(platform: Platform, host: Host) -> None:
    await host.takes(await platform.patient())
    url, files = await host.manifest()
    other, south = await taking_over(platform, host.name), await taking_over(platform, "south", "south", host.name)
    for software in (other, south):
        for where in (url, files[0]["url"]):
            issues(await asked(software, where), 404)
        await software.close()
    assert (await host.get(url, "DELETE")).status_code == 202
    for where in (url, files[0]["url"]):
        issues(await host.get(where), 404)
    issues(await host.get(url, "DELETE"), 404)


async def test_an_export_ends_after_a_week(platform: Platform, host: Host) -> None:
    await host.takes(await platform.patient())
    url, files = await host.manifest()
    async with platform.database("gateway") as connection:
        await connection.execute("UPDATE export_job SET expires_at = now() WHERE host = $1", host.name)
    for where in (url, files[0]["url"]):
        issues(await host.get(where), 404)


async def test_software_takes_over_only_what_it_was_registered_for_and_only_as_a_system(
    platform: Platform, host: Host
) -> None:
    for statement in (
        {**host.software.statement, "takes_over_host": "south"},
        {**dict(platform.caregiver().statement().fields), "takes_over_host": host.name},
    ):
        refused = replace(host.software, statement=statement)
        answer = await refused.post("/token", refused.form(grant_type="client_credentials"))
        assert answer.json()["error"] == "unauthorized_client", answer.text
    plain = await Software.registered(platform)
    assert reason_of(issues(await asked(plain, "$export"), 403)[0]) == "RIGHT_DENIED"
    await plain.close()


async def test_of_people_of_other_hosts_nothing_is_told(platform: Platform, host: Host) -> None:
    await host.takes(await platform.patient())
    for patient in (await platform.patient(), await platform.registered()):
        who = {"identifier": patient.identifier, "_profile": PDQM}
        found = (await of(platform, patient).send("GET", "Patient", **who)).json()
        answer = await host.get(f"Patient/{found['entry'][0]['resource']['id']}")
        assert reason_of(issues(answer, 404)[0]) == "DOSSIER_NOT_FOUND"
        assert patient.person.birth_family not in answer.text


async def test_who_takes_over_looks_through_no_register(platform: Platform, host: Host) -> None:
    patient = await host.takes(await platform.patient())
    match = {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": {"resourceType": "Patient"}}]}
    asking: tuple[tuple[str, str, dict[str, str], Json | None], ...] = (
        ("GET", "Patient", {"identifier": patient.identifier, "_profile": PDQM}, None),
        ("GET", "Patient/$ihe-pix", {"sourceIdentifier": patient.identifier}, None),
        ("POST", "Patient/$match", {}, match),
    )
    headers = {"Authorization": f"Bearer {await host.software.token()}", "Content-Type": "application/fhir+json"}
    for verb, path, parameters, body in asking:
        url = f"{host.software.base}/{path}"
        answer = await host.software.http.request(verb, url, params=parameters or None, json=body, headers=headers)
        assert reason_of(issues(answer, 403)[0]) == "RIGHT_DENIED", path


async def pages_of(host: Host, page_size: int) -> list[consent_pb2.ListHostDossiersResponse]:
    """The listing behind, through the relay, page by page."""
    listing, pages, token = method("ListHostDossiers"), list[consent_pb2.ListHostDossiersResponse](), ""
    while True:
        request = consent_pb2.ListHostDossiersRequest(page_size=page_size, page_token=token)
        with_token = bearer(await host.software.token())
        (answer,) = await invoke(host.platform.channel("relay", listing), listing.path, request, with_token)
        pages.append(consent_pb2.ListHostDossiersResponse.FromString(answer))
        token = pages[-1].next_page_token
        if not token:
            return pages


async def block(platform: Platform, patient: Patient, idnps: str) -> None:
    """The patient shuts somebody out."""
    grantee = consent_pb2.Grantee(kind=consent_pb2.GRANTEE_KIND_PROFESSIONAL, id=idnps)
    request = consent_pb2.BlockProfessionalRequest(
        parent=patient.dossier, grantee=grantee, request_id=platform.request_id()
    )
    token = await platform.session.token(Statement.patient(patient.health_id))
    await invoke(platform.channel("relay", BLOCK), BLOCK.path, request, bearer(token))


async def close(platform: Platform, patient: Patient) -> None:
    """The patient closes the dossier."""
    request = consent_pb2.CloseDossierRequest(
        name=patient.dossier, reason=consent_pb2.CLOSE_REASON_PATIENT_REQUEST, request_id=platform.request_id()
    )
    token = await platform.session.token(Statement.patient(patient.health_id))
    await invoke(platform.channel("relay", CLOSE), CLOSE.path, request, bearer(token))


def values(parameters: Json) -> dict[str, Any]:
    """What Parameters say, by name."""
    said = {}
    for each in parameters["parameter"]:
        said[each["name"]] = next((held for key, held in each.items() if key.startswith("value")), None)
    return said


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
