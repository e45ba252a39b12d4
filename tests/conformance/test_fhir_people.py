"""People over FHIR: ITI-78, ITI-119, ITI-83, ITI-104 and the directory (ITI-90), over a platform of our own."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gateway.fhir.person_out import PROFILE
from gateway.fhir.xml_write import to_xml
from tests.conformance.fhir_platform import FakePlatform, expressions, issues, parsed, parsed_xml, reason_of
from tests.conformance.fhir_register import DOCTOR, FOREIGN_OID, HOSPITAL, LOCAL_OID
from tests.conformance.fhir_samples import ALL_SCOPES, FHIR, HEALTH_ID, INS, INS_OID, Json

IDENTITY = ALL_SCOPES | {"ITI-78", "ITI-83", "ITI-90", "ITI-104", "ITI-119", "TD1.1"}
KNOWN = f"urn:oid:{INS_OID}|{INS}"
LOCAL = f"urn:oid:{LOCAL_OID}|IPP-1"


@pytest.fixture
def fake(fake: FakePlatform) -> FakePlatform:
    fake.scopes = IDENTITY
    return fake


def patient(**more: Any) -> Json:
    return {
        "resourceType": "Patient",
        "active": True,
        "identifier": [{"system": f"urn:oid:{LOCAL_OID}", "value": "IPP-1"}],
        "name": [{"use": "official", "family": "MOREAU", "given": ["Paul"]}],
        "gender": "male",
        "birthDate": "1970-02-03",
        **more,
    }


class TestSearch:
    async def test_a_person_is_found_by_birth_date_and_name(self, client: httpx.AsyncClient) -> None:
        found = (await client.get("/Patient", params={"family": "dup", "birthdate": "1980-01-17"})).json()
        parsed(found)
        (person,) = [entry["resource"] for entry in found["entry"]]
        assert (person["name"][0]["family"], person["gender"], person["active"]) == ("DUPONT", "female", True)
        assert person["identifier"][0]["type"]["coding"][0]["code"] == "INS-NIR"
        assert found["total"] == 1
        read = await client.get(f"/Patient/{person['id']}", headers={"Accept": "application/fhir+xml"})
        assert parsed_xml(read.content).birthDate.isoformat() == "1980-01-17"
        assert read.headers["etag"] == 'W/"1"'

    async def test_exact_is_not_the_beginning(self, client: httpx.AsyncClient) -> None:
        found = (await client.get("/Patient", params={"family:exact": "dup", "birthdate": "1980-01-17"})).json()
        assert (found["total"], "entry" in found) == (0, False)

    async def test_an_identifier_alone_asks_for_the_dossier_unless_the_profile_says_who(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        dossier = (await client.get("/Patient", params={"identifier": KNOWN})).json()
        assert "name" not in dossier["entry"][0]["resource"]
        person = (await client.post("/Patient/_search", data={"identifier": KNOWN, "_profile": PROFILE})).json()
        assert person["entry"][0]["resource"]["name"]
        fake.scopes = frozenset({"ITI-78"})
        person = (await client.get("/Patient", params={"identifier": KNOWN})).json()
        assert person["entry"][0]["resource"]["name"]
        fake.scopes = frozenset({"TD0.2"})
        found = issues(await client.get("/Patient", params={"family": "dup", "birthdate": "1980"}), 400)
        assert expressions(found) == ["identifier"]

    async def test_every_parameter_of_pdqm_filters(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        contact = fake.persons[HEALTH_ID].contact
        contact.city, contact.postcode, contact.phone, contact.email = "Lyon", "69001", "0102030405", "j@d.test"
        fake.persons[HEALTH_ID].update_time.FromJsonString("2026-11-02T09:00:00Z")
        who = {"family": "dup", "birthdate": "1980-01-17"}
        for query, total in (
            ({"telecom": "0102030405"}, 1),
            ({"telecom": "phone|0102030405"}, 1),
            ({"telecom": "email|j@d.test"}, 1),
            ({"telecom": "0102030406"}, 0),
            ({"address-postalcode:exact": "69001"}, 1),
            ({"address-postalcode:exact": "690"}, 0),
            ({"address-city:exact": "Lyon"}, 1),
            ({"address:exact": "Lyo"}, 0),
            ({"mothersMaidenName": "x"}, 0),
            ({"mothersMaidenName:exact": "x"}, 0),
            ({"address-state": "x"}, 0),
            ({"address-country": "FR"}, 0),
            ({"_lastUpdated": "2026-11"}, 1),
            ({"_lastUpdated": "ne2026-11"}, 0),
            ({"_lastUpdated": "lt2026-11-02"}, 0),
            ({"_lastUpdated": ["ge2026-11-02", "le2026-11-02"]}, 1),
            ({"_lastUpdated": "gt2026-11-02"}, 0),
        ):
            found = (await client.get("/Patient", params={**who, **query})).json()
            assert found["total"] == total, query

    async def test_only_the_identifiers_of_the_domains_that_are_asked_for(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        fake.persons[HEALTH_ID].identifiers.add(system=LOCAL_OID, value="IPP-7")
        who = {"family": "dup", "birthdate": "1980-01-17"}
        for tokens, held in (
            ([f"urn:oid:{LOCAL_OID}|"], ["IPP-7"]),
            ([f"urn:oid:{LOCAL_OID}|,urn:oid:{INS_OID}|"], [INS, "IPP-7"]),
            ([KNOWN, f"urn:oid:{LOCAL_OID}|"], ["IPP-7"]),
            (["urn:oid:1.2.3|"], []),
        ):
            found = (await client.get("/Patient", params={**who, "identifier": tokens})).json()
            (entry,) = found["entry"]
            assert [each["value"] for each in entry["resource"].get("identifier", ())] == held, tokens
        wrong = await client.get("/Patient", params={**who, "identifier": f"{KNOWN},{LOCAL}"})
        assert expressions(issues(wrong, 400)) == ["identifier"]

    async def test_an_unknown_domain_is_404_and_nobody_is_an_empty_answer(self, client: httpx.AsyncClient) -> None:
        stranger = {"identifier": "urn:oid:1.2.3|x", "_profile": PROFILE}
        response = await client.get("/Patient", params=stranger)
        assert reason_of(issues(response, response.status_code)[0]) == "UNKNOWN_DOMAIN"
        assert response.status_code == 404
        found = (await client.get("/Patient", params={"_id": "a" * 64})).json()
        assert found["total"] == 0


class TestMatch:
    async def test_candidates_have_a_score_and_a_grade(self, client: httpx.AsyncClient) -> None:
        sent = parameters(patient(name=[{"family": "Dupont", "given": ["Jeanne"]}]))
        for body, headers in (
            ({"json": sent}, FHIR),
            ({"content": to_xml(sent)}, {"Content-Type": "application/fhir+xml"}),
        ):
            found = (await client.post("/Patient/$match", headers=headers, **body)).json()
            parsed(found)
            (entry,) = found["entry"]
            assert 0 < entry["search"]["score"] <= 1
            assert entry["search"]["extension"][0]["valueCode"] == "certain"

    async def test_an_ambiguous_match_that_must_be_certain_is_empty(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        twin = type(fake.persons[HEALTH_ID])()
        twin.CopyFrom(fake.persons[HEALTH_ID])
        fake.persons[5] = twin
        sent = parameters(patient(name=[{"family": "Dupont", "given": ["Jeanne"]}]))
        sent["parameter"].append({"name": "onlyCertainMatches", "valueBoolean": True})
        assert (await client.post("/Patient/$match", json=sent, headers=FHIR)).json()["total"] == 0
        sent["parameter"].append({"name": "count", "valueInteger": 0})
        issues(await client.post("/Patient/$match", json=sent, headers=FHIR), 400)

    async def test_what_is_missing_is_named(self, client: httpx.AsyncClient) -> None:
        empty = {"resourceType": "Parameters", "parameter": [{"name": "count", "valueInteger": 3}]}
        found = issues(await client.post("/Patient/$match", json=empty, headers=FHIR), 400)
        assert expressions(found) == ["Parameters.parameter"]


def parameters(resource: Json) -> Json:
    return {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": resource}]}


class TestCrossReference:
    async def test_the_statuses_are_those_of_pixm(self, client: httpx.AsyncClient) -> None:
        found = (await client.get("/Patient/$ihe-pix", params={"sourceIdentifier": KNOWN})).json()
        parsed(found)
        assert {each["name"] for each in found["parameter"]} == {"targetIdentifier", "targetId"}
        for source, target, status in (
            (KNOWN, f"urn:oid:{LOCAL_OID}", 200),
            (f"urn:oid:{LOCAL_OID}|nobody", f"urn:oid:{INS_OID}", 404),
            ("urn:oid:1.2.3|x", f"urn:oid:{INS_OID}", 400),
            (KNOWN, "urn:oid:1.2.3", 403),
        ):
            query = {"sourceIdentifier": source, "targetSystem": target}
            response = await client.get("/Patient/$ihe-pix", params=query)
            assert response.status_code == status, response.text
            parsed(response.json())

    async def test_the_same_by_post(self, client: httpx.AsyncClient) -> None:
        source = {"system": f"urn:oid:{INS_OID}", "value": INS}
        body = {"resourceType": "Parameters", "parameter": [{"name": "sourceIdentifier", "valueIdentifier": source}]}
        assert (await client.post("/Patient/$ihe-pix", json=body, headers=FHIR)).status_code == 200
        by_string = {"name": "sourceIdentifier", "valueString": KNOWN}
        target = {"name": "targetSystem", "valueUri": f"urn:oid:{LOCAL_OID}"}
        body = {"resourceType": "Parameters", "parameter": [by_string, target]}
        assert (await client.post("/Patient/$ihe-pix", json=body, headers=FHIR)).status_code == 200
        format_ = {"name": "_format", "valueString": "application/fhir+xml"}
        body = {"resourceType": "Parameters", "parameter": [by_string, target, format_]}
        parsed_xml((await client.post("/Patient/$ihe-pix", json=body, headers=FHIR)).content)
        format_["valueString"] = "text/html"
        issues(await client.post("/Patient/$ihe-pix", json=body, headers=FHIR), 406)


class TestFeed:
    async def test_unknown_is_201_known_is_200_and_a_wrong_version_412(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        first = await client.put("/Patient", params={"identifier": LOCAL}, json=patient(), headers=FHIR)
        assert first.status_code == 201, first.text
        parsed(first.json())
        moved = patient(address=[{"line": ["2 rue Basse"], "city": "Lyon", "postalCode": "69001"}])
        second = await client.put("/Patient", params={"identifier": LOCAL}, json=moved, headers=FHIR)
        assert (second.status_code, second.headers["etag"]) == (200, 'W/"2"')
        stale = FHIR | {"If-Match": 'W/"1"'}
        issues(await client.put("/Patient", params={"identifier": LOCAL}, json=patient(), headers=stale), 412)

    async def test_sixty_four_at_once_are_one(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        puts = [client.put("/Patient", params={"identifier": LOCAL}, json=patient(), headers=FHIR) for _ in range(64)]
        answers = await asyncio.gather(*puts)
        assert {answer.status_code for answer in answers} <= {200, 201}
        assert fake.created == 1

    @pytest.mark.parametrize(
        "other",
        [
            {"reference": f"Patient?identifier={KNOWN}"},
            {"identifier": {"system": f"urn:oid:{INS_OID}", "value": INS}},
        ],
    )
    async def test_a_merge_ends_the_one_and_points_to_the_other(
        self, client: httpx.AsyncClient, fake: FakePlatform, other: Json
    ) -> None:
        await client.put("/Patient", params={"identifier": LOCAL}, json=patient(), headers=FHIR)
        merged = patient(active=False, link=[{"other": other, "type": "replaced-by"}])
        response = await client.put("/Patient", params={"identifier": LOCAL}, json=merged, headers=FHIR)
        assert response.status_code == 200, response.text
        body = response.json()
        parsed(body)
        assert (body["active"], body["link"][0]["type"]) == (False, "replaced-by")

    async def test_a_merge_keeps_what_it_says_besides_and_is_made_of_the_version_it_states(
        self, client: httpx.AsyncClient
    ) -> None:
        """PIXm's own example of a resolved duplicate is an update of the whole Patient."""
        query = {"identifier": LOCAL}
        await client.put("/Patient", params=query, json=patient(), headers=FHIR)
        link = [{"other": {"reference": f"Patient?identifier={KNOWN}"}, "type": "replaced-by"}]
        more = {"gender": "female", "address": [{"city": "Lyon"}], "birthDate": "1970-02-04"}
        fuller = patient(active=False, link=link, **more)
        fuller["identifier"].append({"system": f"urn:oid:{LOCAL_OID}", "value": "IPP-2"})
        del fuller["name"]  # what it leaves out stays as it is
        for etag, status in (('W/"2"', 412), ('W/"1"', 200), ('W/"1"', 200)):
            headers = FHIR | {"If-Match": etag}
            answer = await client.put("/Patient", params=query, json=fuller, headers=headers)
            assert answer.status_code == status, answer.text
        body = (await client.put("/Patient", params=query, json=fuller, headers=FHIR)).json()
        parsed(body)
        assert (body["active"], body["link"][0]["type"]) == (False, "replaced-by")
        assert (body["gender"], body["birthDate"], body["address"][0]["city"]) == ("female", "1970-02-04", "Lyon")
        assert body["name"][0]["family"] == patient()["name"][0]["family"]
        assert "IPP-2" in {each["value"] for each in body["identifier"]}

    async def test_a_merge_into_somebody_unknown_writes_nothing(self, client: httpx.AsyncClient) -> None:
        query = {"identifier": LOCAL}
        before = (await client.put("/Patient", params=query, json=patient(), headers=FHIR)).json()
        unknown = {"identifier": {"system": f"urn:oid:{LOCAL_OID}", "value": "NOBODY"}}
        link = [{"other": unknown, "type": "replaced-by"}]
        fuller = patient(active=False, link=link, address=[{"city": "Lyon"}])
        refused = await client.put("/Patient", params=query, json=fuller, headers=FHIR)
        assert reason_of(issues(refused, refused.status_code)[0]) == "DOSSIER_NOT_FOUND"
        assert (await client.get(f"/Patient/{before['id']}")).json() == before

    async def test_a_merge_that_states_no_gender_leaves_it_as_it_is(self, client: httpx.AsyncClient) -> None:
        query = {"identifier": LOCAL}
        await client.put("/Patient", params=query, json=patient(gender="female"), headers=FHIR)
        link = [{"other": {"reference": f"Patient?identifier={KNOWN}"}, "type": "replaced-by"}]
        merged = patient(active=False, link=link)
        merged.pop("gender", None)
        answer = await client.put("/Patient", params=query, json=merged, headers=FHIR)
        assert (answer.status_code, answer.json()["gender"]) == (200, "female")

    async def test_a_source_touches_its_own_domain_only(self, client: httpx.AsyncClient) -> None:
        foreign = patient(identifier=[{"system": f"urn:oid:{FOREIGN_OID}", "value": "1"}])
        query = {"identifier": f"urn:oid:{FOREIGN_OID}|1"}
        response = await client.put("/Patient", params=query, json=foreign, headers=FHIR)
        assert reason_of(issues(response, response.status_code)[0]) == "FOREIGN_DOMAIN"


class TestDirectory:
    async def test_professionals_structures_and_roles_are_found_and_read(self, client: httpx.AsyncClient) -> None:
        for kind, query, id_ in (
            ("Practitioner", {"identifier": f"urn:oid:1.2.250.1.71.4.2.1|{DOCTOR}"}, DOCTOR),
            ("Organization", {"name": "centre"}, HOSPITAL),
            ("PractitionerRole", {"practitioner": f"Practitioner/{DOCTOR}"}, f"{DOCTOR}.{HOSPITAL}"),
        ):
            found = (await client.get(f"/{kind}", params=query)).json()
            parsed(found)
            assert [entry["resource"]["id"] for entry in found["entry"]] == [id_]
            read = await client.get(f"/{kind}/{id_}")
            parsed(read.json())
            issues(await client.get(f"/{kind}/nobody.nowhere"), 404)

    async def test_what_a_role_points_to_comes_when_asked_for(self, client: httpx.AsyncClient) -> None:
        query = {"_include": ["PractitionerRole:practitioner", "PractitionerRole:organization"]}
        found = (await client.get("/PractitionerRole", params=query)).json()
        parsed(found)
        assert [entry["search"]["mode"] for entry in found["entry"]] == ["match", "include", "include"]
        assert found["total"] == 1
