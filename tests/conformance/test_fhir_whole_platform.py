"""Each transaction that the day of a practice leaves out, against the running platform: identity feeds, the directory,
consents, closing and reopening, the partner's own events, receipts, exports; and 64 writers of one thing at once.
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from typing import Final

import orjson
import pytest
import zstandard

from ops.session import Statement
from services.runtime.identifiers import format_health_id
from tests.conformance.fhir_day import FLAGS, by_identifier, identifier, patch, said
from tests.conformance.fhir_http import Http, of, simplified, unique_id
from tests.conformance.fhir_platform import issues, parsed
from tests.conformance.fhir_samples import FHIR, Json, reported
from tests.platform_fixture import Platform, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

AT_ONCE: Final = 64


async def test_professionals_structures_and_roles_are_found(platform: Platform) -> None:
    patient = await platform.registered()
    http = of(platform, patient)
    idnps = patient.caregiver.professional.idnps
    for kind, query in (
        ("Practitioner", {"identifier": f"urn:oid:1.2.250.1.71.4.2.1|{idnps}"}),
        ("Organization", {"identifier": f"urn:oid:1.2.250.1.71.4.2.2|{patient.caregiver.structure.idnst}"}),
        ("PractitionerRole", {"practitioner": f"Practitioner/{idnps}"}),
    ):
        found = await http.send("GET", kind, **query)
        assert found.status_code == 200, found.text
        parsed(found.json())
        for entry in found.json().get("entry", []):
            read = await http.send("GET", f"{kind}/{entry['resource']['id']}")
            assert parsed(read.json()).id == entry["resource"]["id"]
        issues(await http.send("GET", f"{kind}/nobody.nowhere"), 404)


async def test_each_head_and_range_is_one_read_in_the_trail_and_documents_are_found_by_who_wrote_them(
    platform: Platform,
) -> None:
    patient = await platform.patient()
    http, content = of(platform, patient), patient.cda(seed=1)
    made = (await http.send("POST", "DocumentReference", simplified(patient))).json()
    url = made["content"][0]["attachment"]["url"]
    head = await http.send("HEAD", url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(content)))
    part = await http.send("GET", url, None, {"Range": "bytes=100-199", "Accept-Encoding": "zstd"})
    assert (part.status_code, part.content) == (206, content[100:200])
    again = await http.send("GET", url, None, {"If-None-Match": head.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    beyond = await http.send("GET", url, None, {"Range": f"bytes={len(content)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
    person = next(each for each in made["contained"] if each["resourceType"] == "Practitioner")["name"][0]
    whose = {"patient.identifier": patient.identifier}
    for names, total in (
        ({"author.family": person["family"][:3]}, 1),
        ({"author.family": person["family"], "author.given": person["given"][0]}, 1),
        ({"author.family": f"{person['family']}x"}, 0),
    ):
        assert (await http.send("GET", "DocumentReference", **whose, **names)).json()["total"] == total
    assert made["custodian"]["display"]
    asked = {**whose, "date": "ge2020-01-01", "subtype": "ITI-68"}
    in_person = Http(platform, Statement.patient(patient.health_id))

    async def reads() -> int:
        return len((await in_person.send("GET", "AuditEvent", **asked)).json().get("entry", ()))

    assert await eventually(reads, lambda found: found >= 4, seconds=15) == 4


async def test_a_dossier_is_closed_and_reopened(platform: Platform) -> None:
    patient = await platform.patient()
    http, patient_http = of(platform, patient), Http(platform, Statement.patient(patient.health_id))
    refused = await http.send("POST", "Patient/$dossier-close", said(patient, reason="patient-request"))
    assert refused.status_code in (400, 403), refused.text
    closed = await patient_http.send("POST", "Patient/$dossier-close", said(patient, reason="patient-request"))
    if closed.status_code == 400:
        closed = await patient_http.send("POST", "Patient/$dossier-close", said(patient))
    assert closed.status_code == 200, closed.text
    assert parsed(closed.json()).active is False
    sought = {"patient.identifier": patient.identifier}
    assert (await http.send("GET", "DocumentReference", **sought)).status_code in (403, 404, 409, 422)
    reopened = await http.send("POST", "Patient/$dossier-reopen", said(patient, consentMethod="oral"))
    assert reopened.status_code == 200, reopened.text
    assert parsed(reopened.json()).active is True


async def test_a_block_shuts_out_and_its_removal_lets_in_again(platform: Platform) -> None:
    patient = await platform.patient()
    http, in_person = of(platform, patient), Http(platform, Statement.patient(patient.health_id))
    sought = {"patient.identifier": patient.identifier}
    assert (await http.send("GET", "DocumentReference", **sought)).status_code == 200
    professional = {"system": "urn:oid:1.2.250.1.71.4.2.1", "value": patient.caregiver.professional.idnps}
    blocking = said(patient)
    blocking["parameter"].append({"name": "grantee", "valueIdentifier": professional})
    blocked = await in_person.send("POST", "Patient/$dossier-block", blocking)
    assert blocked.status_code in (200, 201), blocked.text
    assert (await http.send("GET", "DocumentReference", **sought)).status_code == 403
    freed = await in_person.send("POST", "Patient/$dossier-unblock", blocking)
    assert freed.status_code in (200, 201), freed.text


async def test_consents_are_created_found_read_ended_and_their_versions_kept(platform: Platform) -> None:
    patient, other = await platform.patient(), platform.caregiver()
    in_person = Http(platform, Statement.patient(patient.health_id))
    role = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP"}]}
    grantee = {"system": "urn:oid:1.2.250.1.71.4.2.1", "value": other.professional.idnps}
    stated: Json = {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [{"code": "patient-privacy"}]},
        "category": [{"coding": [{"code": "x"}]}],
        "patient": {"identifier": identifier(patient)},
        "provision": {"type": "permit", "actor": [{"role": role, "reference": {"identifier": grantee}}]},
    }
    created = await in_person.send("POST", "Consent", stated)
    assert created.status_code == 201, created.text
    kept = parsed(created.json())
    sought = {"patient.identifier": patient.identifier}
    found = await in_person.send("GET", "Consent", **sought)
    parsed(found.json())
    assert kept.id in {entry["resource"]["id"] for entry in found.json()["entry"]}
    read = await in_person.send("GET", f"Consent/{kept.id}")
    assert parsed(read.json()).status == "active"
    ended = await in_person.send("PUT", f"Consent/{kept.id}", {**created.json(), "status": "inactive"})
    assert ended.status_code == 200, ended.text
    history = await in_person.send("GET", f"Consent/{kept.id}/_history")
    assert history.status_code == 200, history.text
    assert len(parsed(history.json()).entry) >= 1


async def test_a_partners_own_event_is_in_the_trail_with_a_receipt(platform: Platform) -> None:
    patient = await platform.patient()
    http = of(platform, patient)
    sent = reported({"what": {"identifier": identifier(patient)}, "role": {"code": "1"}})
    created = await http.send("POST", "AuditEvent", sent)
    assert created.status_code == 201, created.text
    parsed(created.json())
    id_ = created.json()["id"]
    receipt = await eventually(
        lambda: http.send("GET", f"AuditEvent/{id_}/$receipt"), lambda answer: answer.status_code == 200, seconds=20
    )
    assert receipt.json()["parameter"][0]["valueString"].startswith("c2sp.org/tlog-proof@v1"), receipt.text
    assert (await http.send("GET", f"AuditEvent/{id_}")).json()["id"] == id_


async def test_a_dossier_is_exported_with_its_very_bytes(platform: Platform) -> None:
    patient = await platform.patient()
    contents = {patient.cda(seed=seed) for seed in (1, 2)}
    for content in contents:
        await patient.acts.submit(patient.health_id, content, "consultation.xml")
    http = of(platform, patient)
    (entry,) = (await http.send("GET", "Patient", identifier=patient.identifier)).json()["entry"]
    begun = await http.send("GET", f"Patient/{entry['resource']['id']}/$export")
    assert begun.status_code == 202
    manifest = (await http.send("GET", begun.headers["content-location"])).json()
    read: dict[str, list[Json]] = {}
    for file in manifest["output"]:
        lines = (await http.send("GET", file["url"])).content.splitlines()
        read[file["type"]] = [orjson.loads(line) for line in lines]
    assert len(read["DocumentReference"]) == 2
    assert {base64.b64decode(each["data"]) for each in read["Binary"]} == contents
    stranger = Http(platform, platform.caregiver().statement())
    issues(await stranger.send("GET", manifest["output"][0]["url"]), 403)


async def test_a_feed_of_identities_is_201_then_200_and_one_of_many_at_once(platform: Platform) -> None:
    person, caregiver = platform.person(), platform.caregiver()
    http = Http(platform, caregiver.statement())
    system, value = f"urn:oid:{person.nir_oid}", person.nir
    fed = {
        "resourceType": "Patient",
        "active": True,
        "identifier": [{"system": system, "value": value}],
        "name": [{"use": "official", "family": person.birth_family, "given": list(person.given)}],
        "gender": {"F": "female", "M": "male"}[person.sex],
        "birthDate": person.birth_date.isoformat(),
    }
    sending = [http.send("PUT", "Patient", fed, identifier=f"{system}|{value}") for _ in range(AT_ONCE)]
    answers = await asyncio.gather(*sending)
    assert {answer.status_code for answer in answers} <= {200, 201}, answers[0].text
    assert len({answer.json()["id"] for answer in answers}) == 1
    found = await http.send("GET", "Patient", identifier=f"{system}|{value}", _profile="x")
    assert found.status_code == 200


async def test_sixty_four_conditional_creates_at_once_are_one(platform: Platform) -> None:
    patient = await platform.patient()
    http = of(platform, patient)
    document = simplified(patient)
    criterion = unique_id(document["content"][0]["attachment"]["data"])
    document["masterIdentifier"] = dict(zip(("system", "value"), criterion.split("|"), strict=True))
    condition = {"If-None-Exist": f"identifier={criterion}"}
    created = await asyncio.gather(
        *(
            http.send("POST", "DocumentReference", document, {**condition, "Idempotency-Key": str(uuid.uuid4())})
            for _ in range(AT_ONCE)
        )
    )
    assert sorted(answer.status_code for answer in created) == [200] * (AT_ONCE - 1) + [201]
    assert len({answer.headers["location"] for answer in created}) == 1
    found = await http.send("GET", "DocumentReference", **{"patient.identifier": patient.identifier})
    assert found.json()["total"] == 1


async def test_sixty_four_conditional_changes_at_once_are_one(platform: Platform) -> None:
    patient = await platform.patient()
    http = of(platform, patient)
    one = (await http.send("POST", "DocumentReference", simplified(patient))).json()
    flag = {"coding": [{"system": FLAGS, "code": "MASQUE_PS"}]}
    parts: list[Json] = [
        {"name": "name", "valueString": "securityLabel"},
        {"name": "value", "valueCodeableConcept": flag},
    ]
    masking, query = patch("add", "", parts), by_identifier(patient, one)
    changed = await asyncio.gather(
        *(
            http.send(
                "PATCH",
                "DocumentReference",
                masking,
                {"If-Match": 'W/"1"', "Idempotency-Key": str(uuid.uuid4())},
                **query,
            )
            for _ in range(AT_ONCE)
        )
    )
    assert sorted(answer.status_code for answer in changed) == [200] + [412] * (AT_ONCE - 1)
    again = await http.send("GET", f"DocumentReference/{one['id']}")
    assert again.headers["etag"] == 'W/"2"'


@pytest.mark.parametrize("who", ["patient", "representative"])
async def test_people_in_person_reach_their_own_dossier_only(platform: Platform, who: str) -> None:
    patient, other = await platform.patient(), await platform.patient()
    await patient.acts.submit(patient.health_id, patient.cda(), "consultation.xml")
    statement = Statement.patient(patient.health_id)
    if who == "representative":  # nobody has registered one: the token says it, consent knows nothing of it
        statement = Statement.of(
            statement.client_id,
            actor="representative",
            subject=format_health_id(other.health_id),
            patient_health_id=patient.health_id,
        )
    http = Http(platform, statement)
    own = await http.send("GET", "DocumentReference", **{"patient.identifier": patient.identifier})
    foreign = await http.send("GET", "DocumentReference", **{"patient.identifier": other.identifier})
    wrong = f"{patient.identifier[:-1]}{(int(patient.identifier[-1]) + 1) % 10}"
    nobody = await http.send("GET", "DocumentReference", **{"patient.identifier": wrong})
    assert own.status_code == (200 if who == "patient" else 403), own.text
    assert foreign.status_code == 403
    assert nobody.status_code in (403, 400)
    if who == "patient":
        assert own.json()["total"] == 1


async def test_a_document_not_yet_for_the_patient_is_absent_for_the_patient(platform: Platform) -> None:
    patient = await platform.patient()
    flag = {"coding": [{"system": FLAGS, "code": "INVISIBLE_PATIENT"}]}
    http, in_person = of(platform, patient), Http(platform, Statement.patient(patient.health_id))
    sent = await http.send("POST", "DocumentReference", simplified(patient, securityLabel=[flag]))
    assert sent.status_code == 201, sent.text
    sought = {"patient.identifier": patient.identifier}
    assert (await http.send("GET", "DocumentReference", **sought)).json()["total"] == 1
    seen = await in_person.send("GET", "DocumentReference", **sought)
    assert (seen.status_code, seen.json()["total"]) == (200, 0)
    hidden = await in_person.send("GET", f"DocumentReference/{sent.json()['id']}")
    absent = await in_person.send("GET", f"DocumentReference/{'a' * 64}")
    assert hidden.status_code == absent.status_code == 404
    assert hidden.headers.keys() == absent.headers.keys()


async def test_a_content_goes_out_as_it_is_stored_to_those_who_take_zstd(platform: Platform) -> None:
    patient = await platform.patient()
    http = of(platform, patient)
    one = (await http.send("POST", "DocumentReference", simplified(patient))).json()
    token = await platform.session.token(patient.caregiver.statement())
    for accepts, encoding in (("zstd", "zstd"), ("gzip, br", None), ("zstd;q=0", None)):
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": accepts}
        url = one["content"][0]["attachment"]["url"]
        async with platform.session.http.stream("GET", url, headers=headers) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers.get("content-encoding") == encoding
        assert answer.headers["vary"] == "Accept-Encoding"
        plain = zstandard.ZstdDecompressor().decompressobj().decompress(raw) if encoding else raw
        assert plain == patient.cda(seed=1)


async def test_software_of_another_kind_feeds_no_identity(platform: Platform) -> None:
    person = platform.person()
    caregiver = platform.caregiver()
    token = await platform.session.token(caregiver.statement(), "ITI-67")
    answer = await platform.session.http.put(
        "Patient",
        params={"identifier": f"urn:oid:{person.nir_oid}|{person.nir}"},
        json={"resourceType": "Patient"},
        headers={**FHIR, "Authorization": f"Bearer {token}"},
    )
    issues(answer, 401)
