"""The transactions of the FHIR front as a partner's software sees them: TD0.2, ITI-105, ITI-65, ITI-67, ITI-68."""

from __future__ import annotations

import hashlib
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from services.runtime.errors import DmpError
from tests.conformance.fhir_platform import FakePlatform, expressions, issues, parsed, published, reason_of
from tests.conformance.fhir_samples import (
    BASE,
    CDA,
    FHIR,
    HEALTH_ID,
    INS,
    INS_OID,
    NO_DOSSIER_INS,
    OTHER_INS,
    PATIENT,
    UNKNOWN_INS,
    bundle,
    simplified,
    source_patient,
)


class TestDossierSearch:
    async def test_an_open_dossier_is_one_active_entry(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/Patient", params={"identifier": f"urn:oid:{INS_OID}|{INS}"})
        body = response.json()
        parsed(body)
        (entry,) = body["entry"]
        assert body["total"] == 1
        assert entry["resource"]["active"] is True
        extensions = {e["url"].rpartition("/")[2]: e for e in entry["resource"]["extension"]}
        assert extensions["caller-authorization"]["valueCode"] == "VALID"
        assert extensions["caller-is-attending-physician"]["valueBoolean"] is True
        assert "name" not in entry["resource"]

    async def test_a_closed_dossier_says_when_and_why(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/Patient", params={"identifier": f"urn:oid:{INS_OID}|{OTHER_INS}"})
        patient = response.json()["entry"][0]["resource"]
        parsed(patient)
        assert patient["active"] is False
        closing = next(e for e in patient["extension"] if e["url"].endswith("dossier-closing"))["extension"]
        assert closing[0] == {"url": "date", "valueDateTime": "2023-11-14T22:13:20Z"}
        assert closing[1]["valueCodeableConcept"]["coding"][0]["code"] == "PATIENT_REQUEST"

    @pytest.mark.parametrize("ins", [UNKNOWN_INS, NO_DOSSIER_INS])
    async def test_nobody_and_no_dossier_both_have_no_entry(self, client: httpx.AsyncClient, ins: str) -> None:
        response = await client.post("/Patient/_search", data={"identifier": f"urn:oid:{INS_OID}|{ins}"})
        assert response.status_code == 200
        body = response.json()
        parsed(body)
        assert body["total"] == 0
        assert "entry" not in body

    async def test_the_entry_can_be_read_by_its_url(self, client: httpx.AsyncClient) -> None:
        found = await client.get("/Patient", params={"identifier": f"urn:oid:{INS_OID}|{INS}"})
        response = await client.get(found.json()["entry"][0]["fullUrl"])
        assert response.status_code == 200
        parsed(response.json())

    async def test_a_wrong_key_is_named(self, client: httpx.AsyncClient) -> None:
        (issue,) = issues(await client.get("/Patient", params={"identifier": f"urn:oid:{INS_OID}|{INS[:13]}00"}), 400)
        assert issue["diagnostics"].startswith("ins.key")
        assert INS[:13] not in str(issue)

    async def test_the_identifier_is_required(self, client: httpx.AsyncClient) -> None:
        (issue,) = issues(await client.get("/Patient?family=Dupont"), 400)
        assert (issue["code"], issue["expression"]) == ("required", ["identifier"])


class TestSimplifiedPublish:
    async def test_answers_201_with_the_resource_and_its_location(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        response = await client.post("/DocumentReference", json=simplified(), headers=FHIR)
        assert response.status_code == 201
        body = response.json()
        reference = parsed(body)
        assert response.headers["location"] == f"{BASE}/DocumentReference/{reference.id}"
        assert response.headers["etag"] == 'W/"1"'
        assert body["subject"]["identifier"] == {"system": f"urn:oid:{INS_OID}", "value": INS}
        assert body["masterIdentifier"]["value"] == "urn:oid:1.2.250.1.999.1"
        (submitted,) = fake.submissions
        assert submitted.documents[0].content == CDA
        assert submitted.documents[0].document.authors[0].name == "Anne MARTIN"

    async def test_honours_return_minimal(self, client: httpx.AsyncClient) -> None:
        response = await client.post(
            "/DocumentReference", json=simplified(), headers=FHIR | {"Prefer": "return=minimal"}
        )
        assert (response.status_code, response.content) == (201, b"")
        assert "location" in response.headers

    async def test_a_retry_with_the_same_key_is_the_same_request(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        for _ in range(2):
            await client.post(
                "/DocumentReference", json=simplified(), headers=FHIR | {"Idempotency-Key": "attempt-0001"}
            )
        first, second = fake.submissions
        assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
        assert first.request_id == "attempt-0001"

    async def test_without_a_key_each_request_is_its_own(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        for _ in range(2):
            await client.post("/DocumentReference", json=simplified(), headers=FHIR | {"X-Request-Id": "same-same"})
        assert len({request.request_id for request in fake.submissions}) == 2

    async def test_a_bad_key_is_refused(self, client: httpx.AsyncClient) -> None:
        response = await client.post(
            "/DocumentReference", json=simplified(), headers=FHIR | {"Idempotency-Key": "short"}
        )
        assert expressions(issues(response, 400)) == ["Idempotency-Key"]

    async def test_truncated_base64_names_the_element(self, client: httpx.AsyncClient) -> None:
        resource = simplified()
        resource["content"][0]["attachment"]["data"] = resource["content"][0]["attachment"]["data"][:-3]
        found = issues(await client.post("/DocumentReference", json=resource, headers=FHIR), 400)
        assert expressions(found) == ["DocumentReference.content[0].attachment.data"]

    async def test_a_wrong_hash_is_named_in_fhir_words(self, client: httpx.AsyncClient) -> None:
        resource = simplified()
        resource["content"][0]["attachment"]["hash"] = "A/hMRrv6Y15BjSM8kMLidrz+mHc="
        (issue,) = issues(await client.post("/DocumentReference", json=resource, headers=FHIR), 422)
        assert issue["expression"] == ["DocumentReference.content[0].attachment.hash"]
        assert [coding["code"] for coding in issue["details"]["coding"]] == ["HASH_MISMATCH", "XDSNonIdenticalHash"]

    @pytest.mark.parametrize("ins", [UNKNOWN_INS, NO_DOSSIER_INS])
    async def test_nobody_and_no_dossier_are_the_same_answer(
        self, client: httpx.AsyncClient, fake: FakePlatform, ins: str
    ) -> None:
        subject = {"reference": f"Patient?identifier=urn:oid:{INS_OID}|{ins}"}
        response = await client.post("/DocumentReference", json=simplified(subject=subject), headers=FHIR)
        (issue,) = issues(response, 404)
        assert [coding["code"] for coding in issue["details"]["coding"]] == ["DOSSIER_NOT_FOUND", "XDSUnknownPatientId"]
        assert issue["expression"] == ["DocumentReference.subject.reference"]
        assert ins not in response.text


class TestProvideBundle:
    @pytest.mark.parametrize("path", ["", "/"])
    async def test_answers_each_entry_in_order(self, client: httpx.AsyncClient, fake: FakePlatform, path: str) -> None:
        response = await client.post(BASE + path, json=bundle(3), headers=FHIR)
        assert response.status_code == 200, response.text
        body = response.json()
        parsed(body)
        assert body["type"] == "transaction-response"
        kinds = [entry["response"]["location"].partition("/")[0] for entry in body["entry"]]
        assert kinds == ["List", *["DocumentReference", "Binary"] * 3]
        assert {entry["response"]["status"] for entry in body["entry"]} == {"201 Created"}
        assert len(fake.submissions[0].documents) == 3

    async def test_what_was_sent_can_be_read(self, client: httpx.AsyncClient) -> None:
        body = (await client.post(BASE, json=bundle(), headers=FHIR)).json()
        reference = await client.get(body["entry"][1]["response"]["location"])
        assert reference.status_code == 200
        parsed(reference.json())
        content = await client.get(body["entry"][2]["response"]["location"])
        assert content.content == CDA

    async def test_a_patient_in_the_bundle_is_found_and_not_made(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        sent, url = bundle(), "urn:uuid:00000000-0000-4000-8000-0000000000e0"
        for entry in sent["entry"][:2]:
            entry["resource"]["subject"] = {"reference": url}
        request = {"method": "POST", "url": "Patient", "ifNoneExist": f"identifier=urn:oid:{INS_OID}|{INS}"}
        sent["entry"].insert(1, {"fullUrl": url, "resource": source_patient(), "request": request})
        response = await client.post(BASE, json=sent, headers=FHIR)
        assert response.status_code == 200, response.text
        parsed(response.json())
        answers = [entry["response"] for entry in response.json()["entry"]]
        assert [answer["status"] for answer in answers] == ["201 Created", "200 OK", "201 Created", "201 Created"]
        assert (await client.get(answers[1]["location"])).status_code == 200
        assert fake.created == 0

    async def test_a_refusal_by_a_service_names_the_entry(self, client: httpx.AsyncClient) -> None:
        sent = bundle(2)
        sent["entry"][3]["resource"]["content"][0]["attachment"]["size"] = 3
        (issue,) = issues(await client.post(BASE, json=sent, headers=FHIR), 400)
        assert issue["expression"] == ["Bundle.entry[3].resource.content[0].attachment.size"]


class TestDocumentSearch:
    async def test_an_empty_dossier_is_an_empty_searchset(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/DocumentReference", params=PATIENT)
        assert response.status_code == 200
        body = response.json()
        parsed(body)
        assert (body["total"], "entry" in body) == (0, False)

    async def test_pages_hold_everything_once_and_links_name_no_ins(self, client: httpx.AsyncClient) -> None:
        for _ in range(5):
            await published(client)
        url: str | None = f"{BASE}/DocumentReference?" + str(httpx.QueryParams({**PATIENT, "_count": "2"}))
        seen: list[str] = []
        while url:
            body = (await client.get(url)).json()
            parsed(body)
            assert body["total"] == 5
            seen += [entry["resource"]["id"] for entry in body["entry"]]
            links = {link["relation"]: link["url"] for link in body["link"]}
            url = links.get("next")
            assert url is None or INS not in url
        assert len(seen) == len(set(seen)) == 5

    async def test_post_search_is_the_same_search(self, client: httpx.AsyncClient) -> None:
        await published(client)
        by_get = (await client.get("/DocumentReference", params=PATIENT)).json()
        by_post = (await client.post("/DocumentReference/_search", data=PATIENT)).json()
        assert by_get == by_post

    async def test_unknown_parameters_are_left_out_of_self(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/DocumentReference", params={**PATIENT, "colour": "x", "type": "11488-4"})
        query = parse_qs(urlsplit(response.json()["link"][0]["url"]).query)
        assert query == {
            "patient.identifier": [PATIENT["patient.identifier"]],
            "type": ["11488-4"],
            "status": ["current"],
        }

    async def test_strict_handling_refuses_them_by_name_and_lenient_tells_of_them(
        self, client: httpx.AsyncClient
    ) -> None:
        await published(client)
        query = {**PATIENT, "colour": "x", "_format": "json", "_total": "accurate"}
        response = await client.get("/DocumentReference", params=query, headers={"Prefer": "handling=strict"})
        assert expressions(issues(response, 400)) == ["colour"]
        found = (await client.get("/DocumentReference", params=query, headers={"Prefer": "handling=lenient"})).json()
        parsed(found)
        match, told = found["entry"]
        assert (found["total"], match["search"], told["search"]) == (1, {"mode": "match"}, {"mode": "outcome"})
        assert told["resource"]["issue"][0]["expression"] == ["colour"]

    async def test_count_zero_gives_the_total_alone(self, client: httpx.AsyncClient) -> None:
        await published(client)
        body = (await client.get("/DocumentReference", params={**PATIENT, "_count": "0"})).json()
        assert (body["total"], "entry" in body, len(body["link"])) == (1, False, 1)

    @pytest.mark.parametrize("ins", [UNKNOWN_INS, NO_DOSSIER_INS])
    async def test_nobody_and_no_dossier_are_the_same_answer(
        self, client: httpx.AsyncClient, fake: FakePlatform, ins: str
    ) -> None:
        response = await client.get(
            "/DocumentReference",
            params={"patient.identifier": f"urn:oid:{INS_OID}|{ins}"},
            headers={"X-Request-Id": "r"},
        )
        (issue,) = issues(response, 404)
        assert issue["diagnostics"] == "dossier: no dossier belongs to this patient"
        assert reason_of(issue) == "DOSSIER_NOT_FOUND"

    async def test_an_unknown_person_is_in_the_trail(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        await client.get("/DocumentReference", params={"patient.identifier": f"urn:oid:{INS_OID}|{UNKNOWN_INS}"})
        assert fake.refusals == [("document.search", "DOSSIER_NOT_FOUND")]

    async def test_a_caller_bound_to_one_patient_learns_nothing_of_others(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        fake.actor = ActingContext(client_id="app", patient_health_id=HEALTH_ID)
        response = await client.get(
            "/DocumentReference", params={"patient.identifier": f"urn:oid:{INS_OID}|{UNKNOWN_INS}"}
        )
        assert reason_of(issues(response, 403)[0]) == "TOKEN_PATIENT_MISMATCH"

    @pytest.mark.parametrize(
        ("parameter", "value"),
        [
            ("status", "final"),
            ("type", "http://example.org/types|x"),
            ("type", "urn:oid:1.2.3|x"),
            ("type", "a,,b"),
            ("type:not", "11488-4"),
            ("status:text", "current"),
            ("date", "yesterday"),
            ("date", "xx2024"),
            ("period", "ne2024"),
            ("_include", "DocumentReference:author"),
            ("_include:iterate", "DocumentReference:author"),
            ("_revinclude", "List:item"),
            ("_has", "x"),
            ("_total", "some"),
            ("author.family", "x" * 201),
            ("author.family:exact", "x"),
            ("date", "2024-02-30"),
            ("date", "2024,2025"),
            ("creation", "ge9999-12-31T23:59:59-14:00"),
            ("period", "2024-13"),
            ("_count", "-1"),
            ("_count", "many"),
            ("identifier", "1.2.3"),
            ("identifier", "urn:ietf:rfc:3986|1.2.3"),
            ("_page", "forged"),
            ("_page", "x" * 600),
            ("type", "a\0b"),
            ("patient", "Patient/other"),
        ],
    )
    async def test_what_is_wrong_is_named(self, client: httpx.AsyncClient, parameter: str, value: str) -> None:
        response = await client.get("/DocumentReference", params={**PATIENT, parameter: value})
        assert expressions(issues(response, 400)) == [parameter.partition(":")[0]]

    async def test_the_patient_is_required(self, client: httpx.AsyncClient) -> None:
        (issue,) = issues(await client.get("/DocumentReference?status=current"), 400)
        assert (issue["code"], issue["expression"]) == ("required", ["patient.identifier"])

    async def test_rubbish_in_the_query_is_refused(self, client: httpx.AsyncClient) -> None:
        issues(await client.get("/DocumentReference?patient.identifier=%ff%fe"), 400)
        issues(await client.get("/DocumentReference?" + "&".join(f"p{i}=1" for i in range(100))), 400)


class TestBinary:
    async def binary_url(self, client: httpx.AsyncClient) -> str:
        made = await published(client)
        url: str = made["content"][0]["attachment"]["url"]
        return url

    async def test_gives_the_very_bytes_and_their_type(self, client: httpx.AsyncClient) -> None:
        response = await client.get(await self.binary_url(client))
        assert response.content == CDA
        assert response.headers["content-type"] == "text/xml"
        assert response.headers["content-length"] == str(len(CDA))
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-disposition"] == "attachment"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["etag"].strip('"') == hashlib.sha1(CDA, usedforsecurity=False).hexdigest()

    @pytest.mark.parametrize(
        "accept", ["text/xml", "text/*", "application/octet-stream", "*/*", "image/png, */*;q=0.1"]
    )
    async def test_accepts_what_covers_its_type(self, client: httpx.AsyncClient, accept: str) -> None:
        response = await client.get(await self.binary_url(client), headers={"Accept": accept})
        assert response.status_code == 200

    @pytest.mark.parametrize("accept", ["application/fhir+json", "image/png", "text/xml;q=0"])
    async def test_refuses_what_does_not(self, client: httpx.AsyncClient, accept: str) -> None:
        issues(await client.get(await self.binary_url(client), headers={"Accept": accept}), 406)

    @pytest.mark.parametrize("id_", ["x", "a" * 64, "../etc", "%00"])
    async def test_an_id_that_is_not_ours_is_not_found(self, client: httpx.AsyncClient, id_: str) -> None:
        assert (await client.get(f"/Binary/{id_}")).status_code == 404

    async def test_a_document_id_is_no_binary_id(self, client: httpx.AsyncClient) -> None:
        made = await published(client)
        assert reason_of(issues(await client.get(f"/Binary/{made['id']}"), 404)[0]) == "DOCUMENT_NOT_FOUND"

    async def test_destroyed_content_is_gone(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        url = await self.binary_url(client)
        fake.fails = DmpError(reasons.ERROR_REASON_CONTENT_DESTROYED)
        issues(await client.get(url), 410)

    async def test_a_failure_half_way_breaks_the_answer_off(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        url = await self.binary_url(client)
        fake.breaks_after_chunks = 1
        with pytest.raises(DmpError):
            await client.get(url)
