"""Rubbish over HTTP: an OperationOutcome that names the element, never a 5xx, memory bounded."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.local.state import SERVICES
from tests.platform_arena import HUGE, MEBIBYTE, Arena, bounded_memory
from tests.platform_fixture import Patient, Platform

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXAMPLES: Final = 500 if "DMP_CAMPAIGN" in os.environ else 16


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def arena(platform: Platform) -> AsyncIterator[Arena]:
    yield Arena(platform, {service: platform.stack.pid(service) for service in SERVICES})


def reference(patient: Patient, content: bytes) -> dict[str, Any]:
    """A DocumentReference of ITI-105 with a CDA in it."""
    attachment = {
        "contentType": "text/xml",
        "data": base64.b64encode(content).decode(),
        "hash": base64.b64encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode(),
        "size": len(content),
    }
    system, value = patient.identifier.split("|")
    return {
        "resourceType": "DocumentReference",
        "status": "current",
        "subject": {"identifier": {"system": system, "value": value}},
        "content": [{"attachment": attachment}],
    }


def replaced(path: str, value: Any) -> Callable[[dict[str, Any]], bytes]:
    """Put a value at a place of the attachment, or of the resource."""

    def spoil(resource: dict[str, Any]) -> bytes:
        place = resource["content"][0]["attachment"] if path.startswith("attachment.") else resource
        place[path.rpartition(".")[2]] = value
        return json.dumps(resource).encode()

    return spoil


def raw(change: Callable[[bytes], bytes]) -> Callable[[dict[str, Any]], bytes]:
    """Change the bytes of the resource."""
    return lambda resource: change(json.dumps(resource).encode())


BODIES: Final[dict[str, tuple[Callable[[dict[str, Any]], bytes], str]]] = {
    "truncated base64": (replaced("attachment.data", "QUJDR"), "content[0].attachment.data"),
    "not base64": (replaced("attachment.data", "QUJ*"), "content[0].attachment.data"),
    "wrong hash": (replaced("attachment.hash", base64.b64encode(bytes(20)).decode()), "content[0].attachment.hash"),
    "hash in hexadecimal": (replaced("attachment.hash", "ab" * 20), "content[0].attachment.hash"),
    "wrong size": (replaced("attachment.size", 1), "content[0].attachment.size"),
    "negative size": (replaced("attachment.size", -1), "content[0].attachment.size"),
    "size of the wrong type": (replaced("attachment.size", "1"), "content[0].attachment.size"),
    "NUL in a description": (replaced("description", "a\0b"), "description"),
    "a list for the subject": (replaced("subject", ["x"]), "subject"),
    "invalid UTF-8": (raw(lambda body: body.replace(b"current", b"curr\xff\xfe")), "body"),
    "cut short": (raw(lambda body: body[:-5]), "body"),
    "deep": (lambda _: b"[" * 100_000, "body"),
    "deep within": (replaced("extension", json.loads("[" * 200 + "]" * 200)), "body"),
    "a million values": (lambda _: b'{"resourceType":"DocumentReference","x":[' + b"{}," * 1_000_000 + b"{}]}", "body"),
    "nothing": (lambda _: b"", "body"),
    "another resource": (lambda _: b'{"resourceType":"Patient"}', "resourceType"),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_wrong_body_is_an_operation_outcome_that_names_the_element(arena: Arena, name: str) -> None:
    spoil, place = BODIES[name]
    patient = await arena.patient("HTTP")
    body = spoil(reference(patient, patient.cda(seed=4)))
    response = await post(arena.platform, patient, body)
    issue = check_outcome(response)
    assert place in issue["expression"][0], issue


@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
async def test_whatever_is_posted_or_asked_over_http_is_answered_without_a_5xx(
    arena: Arena, data: st.DataObject
) -> None:
    patient = await arena.patient("HTTP")
    good = json.dumps(reference(patient, b"<a/>")).encode()
    body = data.draw(
        st.one_of(
            st.binary(max_size=300),
            st.integers(0, len(good)).map(lambda end: good[:end]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=20),
                lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
                max_leaves=12,
            ).map(lambda value: json.dumps({"resourceType": "DocumentReference", "content": value}).encode()),
        )
    )
    check_outcome(await post(arena.platform, patient, body))
    values = st.text(max_size=30)
    names = st.sampled_from(("patient.identifier", "patient", "status", "type", "date", "_count", "_page", "creation"))
    query = data.draw(st.dictionaries(names, values, max_size=4))
    statement = patient.caregiver.statement()
    answer = await arena.platform.get("/DocumentReference", statement, **query)
    if answer.status_code != 200:
        check_outcome(answer)


@pytest.mark.parametrize(
    "path", ["/DocumentReference/x", "/Binary/" + "a" * 64, "/Binary/%00", "/Patient/..%2f..", "/nothing", "/Binary"]
)
async def test_an_id_that_is_not_ours_is_not_found(arena: Arena, path: str) -> None:
    patient = await arena.patient("HTTP")
    response = await arena.platform.get(path, patient.caregiver.statement())
    assert response.status_code == 404
    check_outcome(response)


async def post(platform: Platform, patient: Patient, body: bytes) -> httpx.Response:
    headers = {
        "authorization": f"Bearer {await platform.session.token(patient.caregiver.statement())}",
        "content-type": "application/fhir+json",
    }
    return await platform.session.http.post("/DocumentReference", content=body, headers=headers)


def check_outcome(response: httpx.Response) -> dict[str, Any]:
    """The first issue of an OperationOutcome with a 4xx."""
    assert 400 <= response.status_code < 500, response.text
    body = response.json()
    assert body["resourceType"] == "OperationOutcome"
    issue: dict[str, Any] = body["issue"][0]
    assert issue["details"]["coding"][0]["code"]
    return issue


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_of_200_mb_is_413_before_it_is_held(arena: Arena, announced: bool) -> None:
    patient = await arena.patient("200 MB")
    chunk = b" " * MEBIBYTE
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < HUGE:
            sent += len(chunk)
            yield chunk

    headers = {
        "authorization": f"Bearer {await arena.platform.session.token(patient.caregiver.statement())}",
        "content-type": "application/fhir+json",
    }
    if announced:
        headers["content-length"] = str(-(-HUGE // MEBIBYTE) * MEBIBYTE)
    with bounded_memory(arena.platform, grown=160 * MEBIBYTE):
        try:
            response = await arena.platform.session.http.post("/DocumentReference", content=body(), headers=headers)
        except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            return  # refused while we were still sending
    assert response.status_code == 413
    assert check_outcome(response)["expression"] == ["body"]


async def test_after_all_this_the_same_gateway_serves(arena: Arena) -> None:
    assert arena.platform.stack.pid("gateway") == arena.pids["gateway"]
    patient = await arena.patient("HTTP")
    response = await post(arena.platform, patient, json.dumps(reference(patient, patient.cda(seed=9))).encode())
    assert response.status_code == 201
