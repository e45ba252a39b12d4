"""How reads and searches are asked for and shown: HEAD, conditions, ranges, parts of resources, dates, names."""

from __future__ import annotations

import httpx
import pytest

from dmp.document.v1 import document_pb2
from gateway.fhir.interactions import INTERACTIONS
from tests.conformance.fhir_platform import FakePlatform, expressions, issues, parsed, parsed_xml, published
from tests.conformance.fhir_samples import CDA, FHIR, INS, INS_OID, PATIENT, Json, bundle, simplified

KEEPER: Json = {
    "resourceType": "Organization",
    "id": "keeper",
    "identifier": [{"system": "urn:oid:1.2.250.1.71.4.2.2", "value": "1750000042"}],
    "name": "CHU",
}


def content_of(reference: Json) -> str:
    url: str = reference["content"][0]["attachment"]["url"]
    return url


class TestHead:
    async def test_every_read_answers_head_as_get_without_the_body(self, client: httpx.AsyncClient) -> None:
        made = await published(client)
        patient = made["subject"]["reference"]
        for path in (f"/DocumentReference/{made['id']}", content_of(made), f"/{patient}", "/metadata", "/openapi.json"):
            got, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.content) == (200, b""), path
            for name in ("content-type", "content-length", "etag"):
                assert head.headers.get(name) == got.headers.get(name), (path, name)
        searched = await client.head("/DocumentReference", params=PATIENT)
        assert (searched.status_code, searched.content) == (200, b"")

    async def test_what_cannot_be_read_cannot_be_asked_for_by_head(self, client: httpx.AsyncClient) -> None:
        assert (await client.head("/")).status_code == 405
        wrong = await client.put("/DocumentReference", json=simplified(), headers=FHIR)
        issues(wrong, 405)
        assert wrong.headers["allow"] == "GET, HEAD, PATCH, POST"
        absent = await client.head(f"/Binary/{'a' * 64}")
        assert (absent.status_code, absent.content) == (404, b"")

    async def test_a_head_is_a_read_that_needs_its_scope(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        url = content_of(await published(client))
        fake.scopes = frozenset({"ITI-67"})
        assert (await client.head(url)).status_code == 401
        assert fake.refusals[-1] == ("document.read", "SCOPE_MISSING")


class TestConditions:
    async def test_what_the_client_has_already_is_304(self, client: httpx.AsyncClient) -> None:
        made = await published(client)
        for path in (f"/DocumentReference/{made['id']}", content_of(made)):
            got = await client.get(path)
            tag = got.headers["etag"]
            for sent, status in (
                (tag, 304), (f'"other", {tag}', 304), ("*", 304), (f"W/{tag.removeprefix('W/')}", 304),
                (tag.removeprefix("W/"), 304), ('"other"', 200), ("rubbish", 200),
            ):  # fmt: skip
                answer = await client.get(path, headers={"If-None-Match": sent})
                assert answer.status_code == status, (path, sent)
                if status == 304:
                    assert (answer.content, answer.headers["etag"]) == (b"", tag)

    async def test_since_a_date_counts_where_no_tag_is_sent(self, client: httpx.AsyncClient) -> None:
        made = await published(client)
        path = f"/DocumentReference/{made['id']}"
        changed = (await client.get(path)).headers["last-modified"]
        before = "Thu, 01 Jan 1970 00:00:00 GMT"
        for headers, status in (
            ({"If-Modified-Since": changed}, 304),
            ({"If-Modified-Since": before}, 200),
            ({"If-Modified-Since": "yesterday"}, 200),
            ({"If-Modified-Since": changed, "If-None-Match": '"other"'}, 200),
        ):
            assert (await client.get(path, headers=headers)).status_code == status, headers


class TestRanges:
    async def test_a_range_is_exactly_those_bytes(self, client: httpx.AsyncClient) -> None:
        url, size = content_of(await published(client)), len(CDA)
        for sent, start, end in (
            ("bytes=0-0", 0, 1),
            ("bytes=5-20", 5, 21),
            ("bytes=17-", 17, size),
            ("bytes=-9", size - 9, size),
            ("bytes=0-99999", 0, size),
            ("bytes=-99999", 0, size),
            ("BYTES=15-33", 15, 34),
        ):
            answer = await client.get(url, headers={"Range": sent, "Accept-Encoding": "zstd"})
            assert (answer.status_code, answer.content) == (206, CDA[start:end]), sent
            assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
            assert answer.headers["content-length"] == str(end - start)

    async def test_other_ranges_get_the_whole_and_one_beyond_it_416(self, client: httpx.AsyncClient) -> None:
        url = content_of(await published(client))
        for sent in ("bytes=0-1,4-5", "lines=1-2", "bytes=9-3", "bytes=-", "bytes=a-b", "bytes=1-2-3"):
            answer = await client.get(url, headers={"Range": sent})
            assert (answer.status_code, answer.content) == (200, CDA), sent
            assert answer.headers["accept-ranges"] == "bytes"
        for sent in (f"bytes={len(CDA)}-", "bytes=-0"):
            answer = await client.get(url, headers={"Range": sent})
            assert expressions(issues(answer, 416)) == ["Range"]
            assert answer.headers["content-range"] == f"bytes */{len(CDA)}"

    async def test_a_range_of_what_has_changed_is_the_whole(self, client: httpx.AsyncClient) -> None:
        url = content_of(await published(client))
        tag = (await client.get(url)).headers["etag"]
        for sent, status in ((tag, 206), (f"W/{tag}", 200), ('"other"', 200), ("Thu, 01 Jan 2026 00:00:00 GMT", 200)):
            answer = await client.get(url, headers={"Range": "bytes=2-4", "If-Range": sent})
            assert answer.status_code == status, sent

    async def test_a_content_that_breaks_off_within_a_range_is_not_taken_for_it(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        url = content_of(await published(client))
        fake.breaks_after_chunks = 1
        assert (await client.get(url, headers={"Range": "bytes=0-9"})).content == CDA[:10]
        with pytest.raises(Exception):  # noqa: B017, PT011 (the connection ends; how depends on the transport)
            await client.get(url, headers={"Range": "bytes=0-40"})


class TestShape:
    async def test_only_the_elements_that_are_asked_for_and_what_must_be_there(self, client: httpx.AsyncClient) -> None:
        made = await published(client)
        query = {**PATIENT, "_elements": "type,DocumentReference.author"}
        for answer in (
            (await client.get("/DocumentReference", params=query)).json(),
            (await client.post("/DocumentReference/_search", data=query)).json(),
        ):
            parsed(answer)
            assert answer["total"] == 1
            assert "_elements=type,DocumentReference.author" in answer["link"][0]["url"]
            found = answer["entry"][0]["resource"]
            assert set(found) == {"resourceType", "id", "meta", "status", "content", "type", "author", "contained"}
            assert found["meta"]["tag"][0]["code"] == "SUBSETTED"
            named = {"#" + item["id"] for item in found["contained"]}
            assert found["author"][0]["reference"] in named
        read = await client.get(f"/DocumentReference/{made['id']}", params={"_elements": "date", "_format": "xml"})
        shown = parsed_xml(read.content)
        assert shown.date is not None
        assert shown.author is None
        assert shown.contained is None

    async def test_summaries(self, client: httpx.AsyncClient) -> None:
        await client.post("/", json=bundle(), headers=FHIR)
        whole = (await client.get("/DocumentReference", params=PATIENT)).json()
        shown: dict[str, Json] = {}
        for mode in ("true", "text", "data", "false"):
            answer = (await client.get("/DocumentReference", params={**PATIENT, "_summary": mode})).json()
            parsed(answer)
            shown[mode] = answer["entry"][0]["resource"]
        assert shown["data"] == shown["false"] == whole["entry"][0]["resource"]
        assert set(shown["text"]) == {"resourceType", "id", "meta", "status", "content"}
        assert {"masterIdentifier", "type", "author", "securityLabel"} <= set(shown["true"])
        assert "authenticator" not in shown["true"]
        assert set(shown["true"].get("context", {})) <= {"period"}
        for mode in ("true", "text"):
            assert shown[mode]["meta"]["tag"][0]["code"] == "SUBSETTED"
        counted = (await client.get("/DocumentReference", params={**PATIENT, "_summary": "count"})).json()
        assert (counted["total"], "entry" in counted) == (1, False)
        lists = (await client.get("/List", params={**PATIENT, "code": "submissionset", "_summary": "true"})).json()
        parsed(lists)
        assert "entry" not in lists["entry"][0]["resource"]

    async def test_what_is_wrong_is_named(self, client: httpx.AsyncClient) -> None:
        made = await published(client)
        for path, query, field in (
            ("/DocumentReference", {**PATIENT, "_summary": "x"}, "_summary"),
            ("/DocumentReference", {**PATIENT, "_elements": "colour"}, "_elements"),
            ("/DocumentReference", {**PATIENT, "_elements": "type,,date"}, "_elements"),
            ("/DocumentReference", {**PATIENT, "_elements": "type", "_summary": "true"}, "_elements"),
            (f"/DocumentReference/{made['id']}", {"_summary": "count"}, "_summary"),
            (f"/DocumentReference/{made['id']}", {"_elements": "x y"}, "_elements"),
        ):
            found = issues(await client.get(path, params=query), 400)
            assert expressions(found) == [field], query

    async def test_a_part_of_the_dossier_is_still_asked_of_the_dossier(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        fake.scopes = fake.scopes | {"ITI-78"}
        query = {"identifier": f"urn:oid:{INS_OID}|{INS}", "_elements": "active"}
        found = (await client.get("/Patient", params=query)).json()
        assert set(found["entry"][0]["resource"]) == {"resourceType", "id", "active", "meta"}


class TestCriteria:
    async def test_names_of_authors_reach_the_service(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        await published(client)
        query = {**PATIENT, "author.family": "Martin,Durand", "author.given": "Anne"}
        found = (await client.get("/DocumentReference", params=query)).json()
        assert "author.family=Martin,Durand" in found["link"][0]["url"]
        assert list(fake.searches[-1].author_family_names) == ["Martin", "Durand"]
        assert list(fake.searches[-1].author_given_names) == ["Anne"]
        lists = {**PATIENT, "code": "submissionset", "source.family": "Martin", "source.given": "Anne"}
        assert (await client.get("/List", params=lists)).status_code == 200
        assert list(fake.listings[-1].author_family_names) == ["Martin"]
        folders = (await client.get("/List", params={**lists, "code": "folder"})).json()
        assert "source" not in folders["link"][0]["url"]  # ITI-66: what sets alone have is left out, and said to be

    async def test_an_identifier_may_stand_alone_and_be_the_one_that_the_record_gave(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        await published(client)
        unique_id, entry = "1.2.250.1.999.1", "0190b1d2-0000-7000-8000-000000000001"
        for text, wanted in (
            (f"urn:oid:{unique_id}", unique_id),
            (f"urn:ietf:rfc:3986|urn:uuid:{entry}", entry),
            (f"urn:uuid:{entry}", entry),
        ):
            await client.get("/DocumentReference", params={**PATIENT, "identifier": text})
            assert fake.searches[-1].unique_id == wanted
            await client.get("/List", params={**PATIENT, "code": "submissionset", "identifier": text})
            assert fake.listings[-1].unique_id == wanted

    async def test_no_list_is_archived(self, client: httpx.AsyncClient) -> None:
        await published(client)
        for word, total in (("true", 0), ("false", 1)):
            found = await client.get("/List", params={**PATIENT, "code": "submissionset", "isArchived": word})
            assert (found.json()["total"], len(found.json().get("entry", ()))) == (total, total)
        wrong = await client.get("/List", params={**PATIENT, "code": "submissionset", "isArchived": "1"})
        assert expressions(issues(wrong, 400)) == ["isArchived"]

    async def test_an_author_keeps_the_parts_of_the_name(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        made = await published(client)
        ((document, _),) = fake.documents.values()
        (author,) = document.authors
        assert (author.name, author.family_name, list(author.given_names)) == ("Anne MARTIN", "MARTIN", ["Anne"])
        role, person = made["contained"]
        assert role["practitioner"]["reference"] == f"#{person['id']}"
        assert person["name"] == [{"text": "Anne MARTIN", "family": "MARTIN", "given": ["Anne"]}]

    @pytest.mark.parametrize(
        ("custodian", "contained", "shown"),
        [
            ({"reference": "#keeper"}, True, {"identifier": KEEPER["identifier"][0], "display": "CHU"}),
            ({"display": "Clinique"}, False, {"display": "Clinique"}),
            ({"reference": "Organization/7", "display": "Clinique"}, False, {"display": "Clinique"}),
            ({"reference": "Organization/7"}, False, {"display": "Dossier médical partagé"}),
            (None, False, {"display": "Dossier médical partagé"}),
        ],
    )
    async def test_a_document_says_who_keeps_it(
        self, client: httpx.AsyncClient, custodian: Json | None, contained: bool, shown: Json
    ) -> None:
        sent = simplified()
        if custodian is not None:
            sent["custodian"] = custodian
        if contained:
            sent["contained"].append(KEEPER)
        response = await client.post("/DocumentReference", json=sent, headers=FHIR)
        assert response.status_code == 201, response.text
        parsed(response.json())
        assert response.json()["custodian"] == shown

    @pytest.mark.parametrize(
        ("value", "service", "stop"),
        [
            ("2024-03", ("2024-02-29T23:00:00Z", ""), ("", "2024-03-31T22:00:00Z")),
            ("ap2024-03", ("", "2024-05-01T21:00:00Z"), ("2024-01-30T00:00:00Z", "")),
            ("ge2024-03", ("", ""), ("2024-02-29T23:00:00Z", "")),
            ("gt2024-03", ("", ""), ("2024-03-31T22:00:00Z", "")),
            ("le2024-03", ("", "2024-03-31T22:00:00Z"), ("", "")),
            ("lt2024-03", ("", "2024-02-29T23:00:00Z"), ("", "")),
            ("sa2024-03", ("2024-03-31T22:00:00Z", ""), ("", "")),
            ("eb2024-03", ("", ""), ("", "2024-02-29T23:00:00Z")),
        ],
    )
    async def test_a_period_is_compared_as_a_span(
        self,
        client: httpx.AsyncClient,
        fake: FakePlatform,
        value: str,
        service: tuple[str, str],
        stop: tuple[str, str],
    ) -> None:
        await client.get("/DocumentReference", params={**PATIENT, "period": value})
        request = fake.searches[-1]
        assert bounds(request.service_time) == service
        assert bounds(request.service_stop_time) == stop

    async def test_not_and_nearly_are_dates_too(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        for name in ("date", "creation", "period-start", "period-end", "_lastUpdated"):
            query = (*PATIENT.items(), (name, "ne2024-05-06"), (name, "ap2024-05-10"))
            assert (await client.get("/DocumentReference", params=query)).status_code == 200
            span = getattr(fake.searches[-1], FIELDS[name])
            assert bounds(span) == ("2024-05-08T22:00:00Z", "2024-05-11T22:00:00Z")
            assert span.excluded_start_time.ToJsonString() == "2024-05-05T22:00:00Z"
            assert span.excluded_end_time.ToJsonString() == "2024-05-06T22:00:00Z"

    async def test_lists_are_found_by_their_id(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        await client.post("/", json=bundle(), headers=FHIR)
        query = {**PATIENT, "code": "submissionset"}
        found = (await client.get("/List", params={**query, "_sort": "-date"})).json()
        id_ = found["entry"][0]["resource"]["id"]
        assert (await client.get("/List", params={**query, "_id": id_})).json()["total"] == 1
        assert fake.listings[-1].submission_set == fake.sets[0].name
        for wrong in ({**query, "_id": "x"}, {**query, "code": "folder", "_id": id_}):
            answer = (await client.get("/List", params=wrong)).json()
            assert (answer["total"], "entry" in answer) == (0, False)
        assert expressions(issues(await client.get("/List", params={**query, "_sort": "title"}), 400)) == ["_sort"]

    async def test_the_plus_of_a_zone_may_have_become_a_space(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        for plus in ("+", "%2B"):
            query = f"patient.identifier={PATIENT['patient.identifier']}&date=ge2024-01-01T10:00:00{plus}01:00"
            assert (await client.get(f"/DocumentReference?{query}")).status_code == 200
            assert bounds(fake.searches[-1].submit_time) == ("2024-01-01T09:00:00Z", "")

    async def test_a_search_by_post_may_have_all_in_its_url(self, client: httpx.AsyncClient) -> None:
        await published(client)
        found = await client.post("/DocumentReference/_search", params=PATIENT)
        assert (found.status_code, found.json()["total"]) == (200, 1)
        both = await client.post("/DocumentReference/_search", params=PATIENT, data={"_count": "0", "_format": "xml"})
        assert parsed_xml(both.content).total == 1
        body = await client.post("/DocumentReference/_search", params=PATIENT, json=PATIENT)
        assert expressions(issues(body, 415)) == ["Content-Type"]

    async def test_another_version_of_fhir_is_not_served(self, client: httpx.AsyncClient) -> None:
        for version, status in (("4.0", 200), ("4.0.1", 200), ("3.0", 406), ("5.0", 406)):
            kind = f"application/fhir+json; fhirVersion={version}"
            by_header = await client.get("/metadata", headers={"Accept": kind})
            by_parameter = await client.get("/metadata", params={"_format": kind})
            assert (by_header.status_code, by_parameter.status_code) == (status, status), version
        either = "application/fhir+json; fhirVersion=5.0, application/fhir+xml; fhirVersion=4.0"
        answer = await client.get("/metadata", headers={"Accept": either})
        assert answer.headers["content-type"].startswith("application/fhir+xml")

    async def test_a_patient_is_named_by_the_modifier_identifier_too(self, client: httpx.AsyncClient) -> None:
        await published(client)
        asked = {"patient:identifier": PATIENT["patient.identifier"]}
        assert (await client.get("/DocumentReference", params=asked)).json()["total"] == 1
        issues(await client.get("/DocumentReference", params={**asked, **PATIENT}), 400)

    async def test_a_malformed_count_is_named_wherever_pages_are(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        fake.scopes = frozenset(scope for each in INTERACTIONS if each.rpc for scope in each.scopes)
        pages: tuple[tuple[str, dict[str, str]], ...] = (
            ("/Patient/$dossier-accessible", {}),
            ("/Patient/$dossier-accessible", {"order": "document"}),
            ("/DocumentReference", PATIENT),
            ("/List", {**PATIENT, "code": "folder"}),
            ("/Consent", PATIENT),
            ("/AuditEvent", {**PATIENT, "date": "ge2024"}),
            ("/Practitioner", {"family": "mar"}),
        )
        for path, query in pages:
            for wrong in ("-1", "many", "1.5", "1e3", "99999999999", "١"):
                found = issues(await client.get(path, params={**query, "_count": wrong}), 400)
                assert expressions(found) == ["_count"], (path, wrong)


FIELDS = {
    "date": "submit_time",
    "creation": "create_time",
    "period-start": "service_time",
    "period-end": "service_stop_time",
    "_lastUpdated": "change_time",
}


def bounds(span: document_pb2.TimeRange) -> tuple[str, str]:
    """The ends of a span as text, '' for none."""
    return (
        span.start_time.ToJsonString() if span.HasField("start_time") else "",
        span.end_time.ToJsonString() if span.HasField("end_time") else "",
    )
