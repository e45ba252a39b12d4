"""Requests made from the OpenAPI description, and FHIR that is valid, nearly valid or hostile, in JSON and in XML.

Never a 5xx, never a stack trace, every error an OperationOutcome, time bounded; totals, pages and errors show nothing
of what the services refuse.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
import statistics
import time
from typing import Any

import httpx
import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.fhir.interactions import INTERACTIONS
from gateway.fhir.xml_write import to_xml
from services.runtime.errors import DmpError
from services.runtime.identifiers import document_name, uuid7
from tests.conformance.fhir_platform import (
    FakePlatform,
    application,
    client_of,
    external_ids,
    issues,
    parsed,
)
from tests.conformance.fhir_samples import (
    BASE,
    FHIR,
    HEALTH_ID,
    INS,
    INS_OID,
    PATIENT,
    SUBJECT,
    TOKEN,
    Json,
    bundle,
    simplified,
)

FULL = "DMP_CAMPAIGN" in os.environ
EVERYTHING = frozenset(scope for each in INTERACTIONS if each.rpc is not None for scope in each.scopes)
TRACE = re.compile(r"Traceback|File \"/|\.py\b|asyncpg|grpc\.aio")


def everything_allowed() -> FakePlatform:
    platform = FakePlatform()
    platform.scopes = EVERYTHING
    return platform


@schemathesis.serializer("application/fhir+ndjson")
def lines_of(_: Any, value: Any) -> bytes:
    """A body of `$import`, whose schema is text."""
    return str(value).encode("utf-8", "replace")


schema = schemathesis.openapi.from_asgi("/fhir/openapi.json", application(everything_allowed()))


@schema.parametrize()
@settings(
    max_examples=100 if FULL else 1,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not FULL,
    database=None,
)
def test_what_the_description_allows_never_breaks_the_server(case: schemathesis.Case[Any]) -> None:
    response = case.call(headers=TOKEN)
    case.validate_response(response, checks=[not_a_server_error])
    if response.status_code >= 400:
        assert not TRACE.search(response.text), response.text[:500]


# --- FHIR that is nearly right ---------------------------------------------------------------------------------------

CONSENT: Json = {
    "resourceType": "Consent",
    "status": "active",
    "scope": {"coding": [{"code": "patient-privacy"}]},
    "category": [{"coding": [{"code": "x"}]}],
    "patient": dict(SUBJECT),
    "provision": {
        "type": "permit",
        "actor": [{"reference": {"identifier": {"system": "urn:oid:1.2.250.1.71.4.2.1", "value": "899700000002"}}}],
    },
}
PERSON: Json = {
    "resourceType": "Patient",
    "active": True,
    "identifier": [{"system": "urn:oid:1.2.250.1.999.50", "value": "1"}],
    "name": [{"family": "MOREAU", "given": ["Paul"]}],
    "gender": "male",
    "birthDate": "1970-02-03",
    "link": [{"other": {"reference": f"Patient?identifier=urn:oid:{INS_OID}|{INS}"}, "type": "seealso"}],
}
EVENT: Json = {
    "resourceType": "AuditEvent",
    "type": {"system": "x", "code": "110106"},
    "recorded": "2026-06-12T10:00:00+02:00",
    "outcome": "0",
    "agent": [{"who": {"display": "LPS"}, "requestor": True}],
    "source": {"observer": {"display": "poste 3"}},
    "entity": [{"what": dict(SUBJECT), "role": {"code": "1"}}],
}
PATCH: Json = {
    "resourceType": "Parameters",
    "parameter": [
        {
            "name": "operation",
            "part": [
                {"name": "type", "valueCode": "replace"},
                {"name": "path", "valueString": "DocumentReference.status"},
                {"name": "value", "valueCode": "entered-in-error"},
            ],
        }
    ],
}
SAID: Json = {
    "resourceType": "Parameters",
    "parameter": [
        {"name": "patient", "valueIdentifier": {"system": f"urn:oid:{INS_OID}", "value": INS}},
        {"name": "resource", "resource": PERSON},
        {"name": "reason", "valueCode": "DEATH"},
    ],
}
MATCH: Json = {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": PERSON}]}
SENT: list[tuple[str, str, Json]] = [
    ("POST", "", bundle(2)),
    ("POST", "/DocumentReference", simplified()),
    ("PATCH", "/DocumentReference?identifier=urn:ietf:rfc:3986|urn:oid:1.2.250.1.999.1", PATCH),
    ("PUT", "/Patient?identifier=urn:oid:1.2.250.1.999.50|1", PERSON),
    ("POST", "/Patient/$match", MATCH),
    ("POST", "/Patient/$dossier-close", SAID),
    ("POST", "/Patient/$dossier-authorise", SAID),
    ("POST", "/Consent", CONSENT),
    ("POST", "/AuditEvent", EVENT),
]


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a resource."""
    found = [way] if way else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*way, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += places(item, (*way, index))
    return found


MUTATIONS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=40),
    st.sampled_from(["", " ", "a" * 5_000, "\x00", "urn:oid:1.2", "Patient/x", "#nobody", "2026-13-45", "{{", "<x/>"]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=2),
    st.just({"extension": [{"url": "x", "valueString": "y"}]}),
    st.just([[]]),
)


@pytest.mark.timeout(900 if FULL else 120)
@given(data=st.data())
@settings(max_examples=3_000 if FULL else 80, deadline=None, suppress_health_check=list(HealthCheck))
async def test_fhir_that_is_nearly_right_is_taken_or_refused_by_name(data: st.DataObject) -> None:
    method, path, resource = data.draw(st.sampled_from(SENT))
    sent = copy.deepcopy(resource)
    for _ in range(data.draw(st.integers(0, 3))):
        *way, last = data.draw(st.sampled_from(places(sent)))
        holder: Any = sent
        for step in way:
            holder = holder[step]
        holder[last] = copy.deepcopy(data.draw(MUTATIONS))  # the next change may go into it
    body, kind = written(sent, xml=data.draw(st.booleans()))
    check(await answer_to(method, path, body, kind))


BROKEN = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"<", b"</", b"&x;", b"<!DOCTYPE a []>", b"<![CDATA[", b"<?x?>", b"]]>", b"{", b"\x00", b"\xff\xfe"]
    ),
    st.sampled_from([b'"', b"\\u0000", b"\\ud800", b"[" * 300, b"<a>" * 300, b'xmlns="x"', b"1e999", b" " * 5_000]),
)


@pytest.mark.timeout(900 if FULL else 120)
@given(data=st.data())
@settings(max_examples=3_000 if FULL else 60, deadline=None, suppress_health_check=list(HealthCheck))
async def test_bodies_broken_at_any_byte_are_refused_by_name(data: st.DataObject) -> None:
    """What a body is made of is cut, repeated and overwritten, below the level of resources."""
    method, path, resource = data.draw(st.sampled_from(SENT))
    body, kind = written(resource, xml=data.draw(st.booleans()))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(len(body), start + 64)))
        body = body[:start] + data.draw(BROKEN) + body[data.draw(st.sampled_from([start, end, len(body)])) :]
    check(await answer_to(method, path, body, kind))


async def answer_to(method: str, path: str, body: bytes, kind: str) -> httpx.Response:
    """What is answered within five seconds of CPU."""
    async with client_of(everything_allowed()) as client:
        client.headers["Content-Type"] = kind
        began = time.process_time()
        response = await client.request(method, f"{BASE}{path}", content=body)
        assert time.process_time() - began < 5
    return response


def written(sent: Json, *, xml: bool) -> tuple[bytes, str]:
    """The bytes of a resource; as XML where it is well-formed enough to be written so."""
    if xml:
        try:
            return to_xml(sent), "application/fhir+xml"
        except (TypeError, KeyError, AttributeError, ValueError, IndexError):
            pass
    return json.dumps(sent).encode(), "application/fhir+json"


def check(response: httpx.Response) -> None:
    """An answer that is no 5xx; if it refuses, an OperationOutcome that quotes nothing of the platform's inside."""
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        body = response.json()
        assert body["resourceType"] == "OperationOutcome"
        assert not TRACE.search(response.text), response.text[:500]
    if response.headers.get("content-type") == "application/fhir+json":
        parsed(response.json())


# --- one effect ------------------------------------------------------------------------------------------------------


async def test_sixty_four_conditional_creates_at_once_have_one_effect() -> None:
    platform = everything_allowed()
    platform.unique = True
    headers = FHIR | {"If-None-Exist": "identifier=urn:ietf:rfc:3986|urn:oid:1.2.250.1.999.1"}
    async with client_of(platform) as client:
        posts = [client.post("/DocumentReference", json=simplified(), headers=headers) for _ in range(64)]
        answers = await asyncio.gather(*posts)
    assert sorted(answer.status_code for answer in answers) == [200] * 63 + [201]
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert len(platform.documents) == 1


# --- nothing leaks ---------------------------------------------------------------------------------------------------


async def test_a_hidden_document_and_an_absent_one_look_the_same() -> None:
    """The front has no rule: whatever the services refuse must be answered in the same words, wherever it is asked."""
    platform = everything_allowed()
    async with client_of(platform) as client:
        published = (await client.post("/DocumentReference", json=simplified(), headers=FHIR)).json()
        hidden_id, (name,) = published["id"], platform.documents
        platform.documents.clear()  # what the consent filter hides is not there for this caller
        absent_id = external_ids().write("DocumentReference", HEALTH_ID, uuid7())
        assert name != document_name(HEALTH_ID, uuid7())
        seen = []
        for id_ in (hidden_id, absent_id, "a" * 64):
            answers = [await client.get(f"/DocumentReference/{id_}")]
            answers.append(await client.get("/DocumentReference", params={**PATIENT, "_id": id_}))
            answers.append(await client.get("/DocumentReference", params={**PATIENT, "relatesto": id_}))
            patch = orjson.dumps([{"op": "replace", "path": "/status", "value": "entered-in-error"}])
            kind = {"Content-Type": "application/json-patch+json"}
            answers.append(await client.patch(f"/DocumentReference/{id_}", content=patch, headers=kind))
            seen.append([shown(answer, id_) for answer in answers])
        assert seen[0] == seen[1] == seen[2]


def shown(answer: httpx.Response, id_: str) -> tuple[int, str, tuple[str, ...]]:
    """What an answer shows, without the id that the caller wrote."""
    headers = tuple(sorted(name for name in answer.headers if name not in ("x-request-id", "content-length")))
    return answer.status_code, answer.text.replace(id_, "ID"), headers


async def test_what_a_search_may_not_show_is_in_no_part_of_its_answer() -> None:
    platform = everything_allowed()
    platform.fails = DmpError(reasons.ERROR_REASON_AUTHORIZATION_MISSING)
    async with client_of(platform) as client:
        for query in (PATIENT, {**PATIENT, "_count": "0"}, {**PATIENT, "_summary": "count"}, {**PATIENT, "_page": "5"}):
            response = await client.get("/DocumentReference", params=query)
            (issue,) = issues(response, 403)
            assert "total" not in response.text
            assert "etag" not in response.headers
            assert issue["details"]["coding"][0]["code"] == "AUTHORIZATION_MISSING"


async def test_refused_and_absent_take_the_same_time() -> None:
    """A reduced form of what bench.gateway measures on the running platform (2,000 pairs, 10 %)."""
    platform = everything_allowed()
    absent = [external_ids().write("DocumentReference", HEALTH_ID, uuid7()) for _ in range(2)]
    taken: list[list[float]] = [[], []]
    async with client_of(platform) as client:
        for turn in range(120):
            for which in ((0, 1), (1, 0))[turn % 2]:
                began = time.perf_counter()
                await client.get(f"/DocumentReference/{absent[which]}")
                taken[which].append(time.perf_counter() - began)
    first, second = (statistics.median(times) for times in taken)
    assert abs(first - second) / max(first, second) < 0.5


async def test_the_pages_of_a_search_hold_each_document_once() -> None:
    platform = everything_allowed()
    async with client_of(platform) as client:
        for _number in range(7):
            await client.post("/DocumentReference", json=simplified(), headers=FHIR)
        for size in (1, 2, 3, 7, 50):
            url: str | None = f"/DocumentReference?{httpx.QueryParams({**PATIENT, '_count': str(size)})}"
            seen: list[str] = []
            while url:
                page = (await client.get(url)).json()
                assert page["total"] == 7
                seen += [entry["resource"]["id"] for entry in page["entry"]]
                url = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)
            assert len(seen) == len(set(seen)) == 7
