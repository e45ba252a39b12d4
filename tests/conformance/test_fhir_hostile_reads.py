"""Reads and searches that are asked for strangely: any parameter with any value, any header, HEAD, GET and POST."""

from __future__ import annotations

import time
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.fhir.interactions import INTERACTIONS
from tests.conformance.fhir_platform import client_of, parsed_xml
from tests.conformance.fhir_samples import FHIR, PATIENT, simplified
from tests.conformance.test_fhir_hostile import FULL, check, everything_allowed

PARAMETERS = sorted(
    {parameter.name for each in INTERACTIONS for parameter in each.parameters}
    | {"_elements", "_summary", "_count", "_page", "_sort", "_format", "_total", "_include", "_pretty", "_profile"}
)
VALUES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        (
            "",
            "true",
            "0",
            "-1",
            "999999999999",
            "count",
            "text",
            "data",
            "json",
            "xml",
            "submissionset",
            "folder",
            "*",
            "status,type",
            "DocumentReference.content",
            "content.attachment.",
            "a" * 3_000,
            "ge2024",
            "ne",
            "ap9999",
            "0001-01-01",
            "sa9999-12-31",
            "|",
            "a|",
            "|b",
            "urn:oid:",
            "urn:uuid:1",
            "urn:ietf:rfc:3986|urn:oid:1.2.3",
            "Patient/x",
            "Patient?identifier=",
            "x" * 64,
            "\x00",
            "%",
            "😀",
            "2024,2025",
            ",",
            "current,superseded",
        )
    ),
)
HEADERS = st.dictionaries(
    st.sampled_from(
        (
            "Range",
            "If-Range",
            "If-None-Match",
            "If-Modified-Since",
            "If-Match",
            "Accept",
            "Accept-Encoding",
            "Prefer",
            "X-Request-Id",
            "traceparent",
            "Idempotency-Key",
            "Content-Type",
        )
    ),
    st.one_of(
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
        st.sampled_from(
            (
                "bytes=0-0",
                "bytes=-1",
                "bytes=5-",
                "bytes=9-3",
                "bytes=0-1,3-4",
                "bytes=99999999999999999-",
                "*",
                '"x"',
                'W/"1"',
                '"',
                "Thu, 01 Jan 1970 00:00:00 GMT",
                "Thu, 99 Jan 1970",
                "application/fhir+xml;q=0",
                "application/fhir+json; fhirVersion=3.0",
                "handling=strict",
                "return=minimal",
                "zstd;q=0.1",
                ";;,=,",
            )
        ),
    ),
    max_size=4,
)


@pytest.mark.timeout(900 if FULL else 120)
@given(data=st.data())
@settings(max_examples=3_000 if FULL else 80, deadline=None, suppress_health_check=list(HealthCheck))
async def test_reads_and_searches_that_are_asked_for_strangely_are_answered_or_refused_by_name(
    data: st.DataObject,
) -> None:
    platform = everything_allowed()
    async with client_of(platform) as client:
        made = (await client.post("/DocumentReference", json=simplified(), headers=FHIR)).json()
        paths = [made["content"][0]["attachment"]["url"], f"/DocumentReference/{made['id']}", "/metadata"]
        paths += [f"/{kind}" for kind in ("DocumentReference", "List", "Patient", "Consent", "AuditEvent")]
        paths += ["/Practitioner", "/PractitionerRole", "/Organization", "/Patient/$ihe-pix"]
        path = data.draw(st.sampled_from(paths))
        asked = data.draw(st.lists(st.tuples(st.sampled_from(PARAMETERS), VALUES), max_size=5))
        asked += data.draw(st.sampled_from([[], [*PATIENT.items()], [*PATIENT.items(), ("code", "submissionset")]]))
        method = data.draw(st.sampled_from(["GET", "HEAD", "POST"]))
        headers = data.draw(HEADERS)
        began = time.process_time()
        if method == "POST" and path.count("/") == 1:
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = await client.post(f"{path}/_search", content=urlencode(asked), headers={**headers, **kind})
        else:
            url = f"{path}?{urlencode(asked)}" if asked else path
            answer = await client.request("HEAD" if method == "HEAD" else "GET", url, headers=headers)
        assert time.process_time() - began < 5
    if answer.request.method == "HEAD":
        assert (answer.status_code < 500, answer.content) == (True, b"")
    elif answer.headers.get("content-type", "").startswith("application/fhir+xml"):
        assert answer.status_code < 500
        parsed_xml(answer.content)
    elif answer.content:
        check(answer)
