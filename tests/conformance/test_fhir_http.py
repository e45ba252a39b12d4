"""What every route of the FHIR front does alike: access, errors, media types, bounds, correlation."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import REASONS, DmpError, FieldViolation
from tests.conformance.fhir_platform import (
    FakePlatform,
    client_of,
    expressions,
    issues,
    parsed_xml,
    published,
    reason_of,
)
from tests.conformance.fhir_samples import BASE, FHIR, PATIENT, bundle, simplified


class TestAccess:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/Patient"),
            ("POST", "/Patient/_search"),
            ("GET", "/Patient/x"),
            ("POST", "/"),
            ("POST", "/DocumentReference"),
            ("GET", "/DocumentReference"),
            ("POST", "/DocumentReference/_search"),
            ("GET", "/DocumentReference/x"),
            ("GET", "/Binary/x"),
        ],
    )
    async def test_nothing_is_served_without_a_token_or_its_scope(
        self, client: httpx.AsyncClient, fake: FakePlatform, method: str, path: str
    ) -> None:
        response = await client.request(method, path, headers={"Authorization": ""})
        assert reason_of(issues(response, 401)[0]) == "TOKEN_MISSING"
        assert response.headers["www-authenticate"] == 'Bearer realm="dmp"'
        response = await client.request(method, path, headers={"Authorization": "Bearer bad"})
        assert reason_of(issues(response, 401)[0]) == "TOKEN_INVALID"
        assert 'error="invalid_token"' in response.headers["www-authenticate"]
        fake.scopes = frozenset({"TD1.1"})
        response = await client.request(method, path)
        assert reason_of(issues(response, 401)[0]) == "SCOPE_MISSING"
        assert 'error="insufficient_scope"' in response.headers["www-authenticate"]
        assert [reason for _, reason in fake.refusals] == ["SCOPE_MISSING"]

    async def test_one_publishing_scope_does_not_open_the_other(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        fake.scopes = frozenset({"ITI-65"})
        issues(await client.post("/DocumentReference", json=simplified(), headers=FHIR), 401)
        fake.scopes = frozenset({"ITI-105"})
        issues(await client.post(BASE, json=bundle(), headers=FHIR), 401)


class TestErrors:
    @pytest.mark.parametrize("reason", sorted(REASONS))
    async def test_every_reason_becomes_an_outcome(
        self, client: httpx.AsyncClient, fake: FakePlatform, reason: int
    ) -> None:
        fake.fails = DmpError(reason, fields=[FieldViolation("page_size", "lte", "at most 200")])
        response = await client.get("/DocumentReference", params=PATIENT)
        found = issues(response, REASONS[reason].http)
        assert reason_of(found[0]) == fake.fails.reason_name or reason in (
            reasons.ERROR_REASON_UNKNOWN_PATIENT,
            reasons.ERROR_REASON_PERSON_NOT_FOUND,
        )
        assert ("retry-after" in response.headers) == (response.status_code in (429, 503, 504))

    @pytest.mark.parametrize("reason", [reasons.ERROR_REASON_DOSSIER_MERGED, reasons.ERROR_REASON_PERSON_MERGED])
    async def test_of_what_was_merged_it_says_where_it_went(
        self, client: httpx.AsyncClient, fake: FakePlatform, reason: int
    ) -> None:
        fake.fails = DmpError(reason, metadata={"merged_into": "dossiers/1234567890123456789012"})
        response = await client.get("/DocumentReference", params=PATIENT)
        (issue,) = issues(response, REASONS[reason].http)
        assert issue["diagnostics"] == "merged into dossiers/1234567890123456789012"

    async def test_a_defect_says_nothing_of_itself(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        fake.fails = RuntimeError("the secret")
        response = await client.get("/DocumentReference", params=PATIENT)
        assert reason_of(issues(response, 500)[0]) == "INTERNAL"
        assert "secret" not in response.text

    async def test_a_timeout_is_504_with_retry_after(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        fake.fails = TimeoutError()
        response = await client.get("/DocumentReference", params=PATIENT)
        assert reason_of(issues(response, 504)[0]) == "DEADLINE_EXCEEDED"
        assert response.headers["retry-after"] == "2"

    async def test_retry_after_is_what_the_service_said(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        fake.fails = DmpError(reasons.ERROR_REASON_OVERLOADED, retry_after=6.2)
        assert (await client.get("/DocumentReference", params=PATIENT)).headers["retry-after"] == "7"

    @pytest.mark.parametrize(
        ("method", "path"), [("DELETE", "/DocumentReference"), ("PUT", "/Patient/x"), ("GET", "/")]
    )
    async def test_another_method_is_405_with_what_is_allowed(
        self, client: httpx.AsyncClient, method: str, path: str
    ) -> None:
        response = await client.request(method, path)
        issues(response, 405)
        assert response.headers["allow"]

    async def test_another_path_is_an_outcome_too(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/Observation/1", headers={"X-Request-Id": "abc"})
        issues(response, 404)
        assert response.headers["x-request-id"] == "abc"


class TestHttp:
    async def test_correlation_comes_back(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        response = await client.get(
            "/DocumentReference", params=PATIENT, headers={"X-Request-Id": "abc-1", "traceparent": trace}
        )
        assert response.headers["x-request-id"] == "abc-1"
        assert response.headers["traceparent"] == trace
        assert (fake.seen[0].request_id, fake.seen[0].traceparent) == ("abc-1", trace)

    async def test_a_bad_correlation_is_replaced(self, client: httpx.AsyncClient) -> None:
        response = await client.get(
            "/DocumentReference", params=PATIENT, headers={"X-Request-Id": "x" * 500, "traceparent": "nonsense"}
        )
        assert len(response.headers["x-request-id"]) == 36
        assert "traceparent" not in response.headers

    @pytest.mark.parametrize("format_", ["json", "application/fhir+json", "application/json"])
    async def test_json_may_be_asked_for(self, client: httpx.AsyncClient, format_: str) -> None:
        response = await client.get(
            "/metadata", params={"_format": format_}, headers={"Accept": "application/fhir+xml"}
        )
        assert response.status_code == 200

    async def test_what_is_neither_json_nor_xml_is_406(self, client: httpx.AsyncClient) -> None:
        headers = {"Accept": "text/html;q=0.9, image/*"}
        assert expressions(issues(await client.get("/metadata", headers=headers), 406)) == ["Accept"]
        assert expressions(issues(await client.get("/metadata?_format=turtle"), 406)) == ["_format"]
        assert expressions(issues(await client.get("/metadata?_format=json&_format=xml"), 406)) == ["_format"]

    @pytest.mark.parametrize(
        ("accept", "wanted"),
        [
            ("application/fhir+xml", "xml"),
            ("application/xml;q=0.8, application/json;q=0.2", "xml"),
            ("application/fhir+json;q=0.5, application/fhir+xml;q=0.5", "json"),
            ("application/*", "json"),
            ("application/fhir+xml;q=0, */*", "json"),
        ],
    )
    async def test_the_better_liked_format_is_served(self, client: httpx.AsyncClient, accept: str, wanted: str) -> None:
        response = await client.get("/metadata", headers={"Accept": accept})
        assert response.headers["content-type"] == f"application/fhir+{wanted}"

    async def test_an_error_comes_in_the_format_asked_for(self, client: httpx.AsyncClient) -> None:
        for path in ("/DocumentReference?_format=xml", "/Nothing?_format=xml"):
            response = await client.get(path)
            assert response.headers["content-type"] == "application/fhir+xml"
            assert parsed_xml(response.content).get_resource_type() == "OperationOutcome"

    async def test_the_description_and_its_page_need_no_token_and_no_other_server(
        self, client: httpx.AsyncClient
    ) -> None:
        description = (await client.get("/openapi.json", headers={"Authorization": ""})).json()
        assert "/DocumentReference/{id}" in description["paths"]
        page = await client.get("/docs", headers={"Authorization": ""})
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert not re.search(r"(src|href)=.?(https?:)?//", page.text)
        for path in description["paths"]:
            assert f"<code>{path}</code>" in page.text

    @pytest.mark.parametrize(
        "headers",
        [
            [("Content-Type", "application/fhir+turtle")],
            [("Content-Type", "text/plain")],
            [],
            [("Content-Type", "application/fhir+json"), ("Content-Type", "application/fhir+json")],
            [("Content-Type", "application/fhir+json; charset=latin-1")],
            [("Content-Type", "application/fhir+json; fhirVersion=5.0")],
        ],
    )
    async def test_a_body_says_once_that_it_is_fhir_json(
        self, client: httpx.AsyncClient, headers: list[tuple[str, str]]
    ) -> None:
        issues(await client.post("/DocumentReference", content=b"{}", headers=headers), 415)

    async def test_a_form_is_not_json(self, client: httpx.AsyncClient) -> None:
        issues(await client.post("/DocumentReference/_search", content=b"{}", headers=FHIR), 415)

    @pytest.mark.parametrize(
        ("body", "path"),
        [
            (b"", "body"),
            (b"{", "body"),
            (b"[]", "body"),
            (b"null", "body"),
            (b'"x"', "body"),
            (b"{} {}", "body"),
            (b'{"resourceType": "Patient"}', "resourceType"),
            (b'{"resourceType": ["DocumentReference"]}', "resourceType"),
            (b'{"resourceType": {"a": 1}}', "resourceType"),
            (b'\xef\xbb\xbf{"resourceType": "DocumentReference"}', "body"),
            (b'{"resourceType": "DocumentReference", "status": "\xff"}', "body"),
            (b'{"resourceType": "DocumentReference", "status": "\\ud800"}', "body"),
            (b"[" * 100_000, "body"),
            (b'{"a":' * 100_000, "body"),
            (b'{"resourceType":"DocumentReference","x":' + b"[" * 80 + b"]" * 80 + b"}", "body"),
            (b'{"resourceType":"DocumentReference","description":"a\\u0000b"}', "DocumentReference.description"),
            (b'{"resourceType":"DocumentReference","x":[{"y":["a\\u0000"]}]}', "DocumentReference.x[0].y[0]"),
            (b'{"resourceType":"DocumentReference","a\\u0000":1}', "DocumentReference"),
        ],
    )
    async def test_a_body_that_is_no_resource_is_400(self, client: httpx.AsyncClient, body: bytes, path: str) -> None:
        response = await client.post("/DocumentReference", content=body, headers=FHIR)
        assert expressions(issues(response, 400)) == [path]

    async def test_very_many_values_are_413(self, client: httpx.AsyncClient) -> None:
        issues(await client.post("/DocumentReference", content=b"[" + b"{}," * 300_000 + b"{}]", headers=FHIR), 413)

    async def test_a_body_beyond_the_limit_is_refused_before_it_is_read(self, fake: FakePlatform) -> None:
        async def huge() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield b" " * 1024 * 1024

        async with client_of(fake, max_body_bytes=10_000) as client:
            announced = FHIR | {"Content-Length": "200000000"}
            issues(await client.post("/DocumentReference", content=huge(), headers=announced), 413)
            issues(await client.post("/DocumentReference", content=huge(), headers=FHIR), 413)
            issues(await client.post("/DocumentReference", content=b" " * 10_001, headers=FHIR), 413)

    async def test_bodies_together_are_bounded(self, fake: FakePlatform) -> None:
        async with client_of(fake, max_bodies_bytes=100) as client:
            (issue,) = issues(await client.post("/DocumentReference", json=simplified(), headers=FHIR), 503)
            assert reason_of(issue) == "OVERLOADED"

    async def test_what_a_body_took_is_given_back(self, fake: FakePlatform) -> None:
        async with client_of(fake, max_bodies_bytes=8_000) as client:
            for _ in range(20):
                await published(client)

    async def test_the_front_can_sit_at_the_root(self, fake: FakePlatform) -> None:
        async with client_of(fake, "https://dmp.test") as client:
            response = await client.post("https://dmp.test/", json=bundle(), headers=FHIR)
            assert response.status_code == 200
