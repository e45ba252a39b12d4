"""Calls that the gateway relays together are served as if each had come alone (docs/decisions/0032-relay.md)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio

from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from dmp.gateway.v1 import relay_pb2
from ops.local.pki import Identity
from services.runtime import relayed
from services.runtime.context import Call, current_call
from services.runtime.errors import from_status
from services.runtime.identifiers import dossier_name, new_health_id, uuid7
from tests.platform_calls import attempt, invoke
from tests.transports import CLIENT, METHODS, Served, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

_SERVICE: Final = "/dmp.document.v1.DocumentService"
GET, READ = METHODS[f"{_SERVICE}/GetDocument"], METHODS[f"{_SERVICE}/ReadDocument"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Served]:
    async with served("grpcio") as service:
        yield service


def a_name() -> str:
    return f"{dossier_name(new_health_id())}/documents/{uuid7()}"


RELAY_CALLS: Final = METHODS[relayed.PATH]
PARTNER: Final = access_pb2.CALLER_KIND_PARTNER


async def relay(running: Served, identity: Identity, *calls: relay_pb2.RelayedCall) -> list[relay_pb2.RelayedResult]:
    request = relay_pb2.RelayCallsRequest(path=GET.path, calls=calls)
    (answer,) = await invoke(running.channel(identity), RELAY_CALLS.path, request)
    return list(relay_pb2.RelayCallsResponse.FromString(answer).results)


def relayed_call(token: str, name: str, request_id: str = "", timeout_ms: int = 10_000) -> relay_pb2.RelayedCall:
    request = document_pb2.GetDocumentRequest(name=name).SerializeToString()
    return relay_pb2.RelayedCall(request=request, token=token, request_id=request_id, timeout_ms=timeout_ms)


def told(result: relay_pb2.RelayedResult) -> str | int:
    """The name of the document that is answered, or the reason of the refusal."""
    if result.WhichOneof("outcome") == "response":
        return document_pb2.GetDocumentResponse.FromString(result.response).document.name
    return from_status(result.status).reason


async def test_calls_relayed_together_are_each_served_or_refused_by_their_own_token(running: Served) -> None:
    running.servicer.get = type(running.servicer)().get
    mine, patient = a_name(), new_health_id()
    good, bound = running.token(PARTNER, "clinic"), running.token(PARTNER, "clinic", patient)
    before = len(running.recorded)
    calls = {
        "good": relayed_call(good, mine, "relayed-1"),
        "none": relayed_call("", mine),
        "rubbish": relayed_call("a.b.c", mine),
        "another's": relayed_call(running.token(access_pb2.CALLER_KIND_INTERNAL, CLIENT), mine),
        "of another patient": relayed_call(bound, mine, "relayed-2"),
        "malformed": relay_pb2.RelayedCall(request=b"\xff", token=good, timeout_ms=10_000),
        "late": relayed_call(good, mine, timeout_ms=0),
        "of that patient": relayed_call(bound, f"{dossier_name(patient)}/documents/{uuid7()}"),
    }
    results = await relay(running, running.authority.service("gateway"), *calls.values())
    outcomes = dict(zip(calls, map(told, results), strict=True))
    assert (
        outcomes.pop("of that patient")
        == document_pb2.GetDocumentRequest.FromString(calls["of that patient"].request).name
    )
    assert outcomes == {
        "good": mine,
        "none": reasons.ERROR_REASON_TOKEN_MISSING,
        "rubbish": reasons.ERROR_REASON_TOKEN_INVALID,
        "another's": reasons.ERROR_REASON_CLIENT_CERTIFICATE,
        "of another patient": reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH,
        "malformed": reasons.ERROR_REASON_MALFORMED_REQUEST,
        "late": mine,
    }
    refused = [(event.request_id, event.reason) for event in running.recorded[before:] if event.request_id]
    assert ("relayed-2", reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH) in refused


async def test_what_a_relayed_call_learns_is_what_it_would_learn_alone(running: Served) -> None:
    calls: list[Call] = []

    async def look(request: document_pb2.GetDocumentRequest, call: Call) -> document_pb2.GetDocumentResponse:
        calls.append(call)
        await asyncio.sleep(0)
        assert current_call() is call
        return document_pb2.GetDocumentResponse()

    running.servicer.get = look
    good = running.token(PARTNER, "clinic")
    names = [a_name() for _ in range(150)]
    relayed_calls = [relayed_call(good, name, f"r-{at}", 2_000 + at) for at, name in enumerate(names)]
    results = await relay(running, running.authority.service("gateway"), *relayed_calls)
    assert all(result.WhichOneof("outcome") == "response" for result in results)
    assert [(call.request_id, call.peer, call.client_id) for call in calls] == [
        (f"r-{at}", "gateway", "clinic") for at in range(150)
    ]
    remaining = [call.remaining() or 0.0 for call in calls]
    assert all(0 < left <= 2.15 for left in remaining)


async def test_a_defect_of_one_relayed_call_leaves_the_others_alone(running: Served) -> None:
    bad = a_name()

    async def look(request: document_pb2.GetDocumentRequest, call: Call) -> document_pb2.GetDocumentResponse:
        if request.name == bad:
            raise RuntimeError
        return document_pb2.GetDocumentResponse(document=document_pb2.Document(name=request.name))

    running.servicer.get = look
    good, names = running.token(PARTNER, "clinic"), [a_name(), bad, a_name()]
    results = await relay(running, running.authority.service("gateway"), *(relayed_call(good, name) for name in names))
    assert [told(result) for result in results] == [names[0], reasons.ERROR_REASON_INTERNAL, names[2]]


async def test_only_the_gateway_may_relay_and_only_unary_methods_of_the_service(running: Served) -> None:
    gateway = running.authority.service("gateway")
    good = relayed_call(running.token(PARTNER, "clinic"), a_name())
    request = relay_pb2.RelayCallsRequest(path=GET.path, calls=[good])
    for identity, metadata, reason in (
        (running.authority.service("consent"), [], reasons.ERROR_REASON_CALLER_NOT_ALLOWED),
        (running.authority.internal(CLIENT), [], reasons.ERROR_REASON_TOKEN_MISSING),
        (running.authority.internal(CLIENT), running.bearer(), reasons.ERROR_REASON_CALLER_NOT_ALLOWED),
    ):
        refused = await attempt(running.channel(identity), RELAY_CALLS, request, metadata)
        assert refused is not None
        assert refused.reason == reason
    for path in (READ.path, relayed.PATH, "/dmp.document.v1.DocumentService/Nothing"):
        other = relay_pb2.RelayCallsRequest(path=path, calls=[good])
        refused = await attempt(running.channel(gateway), RELAY_CALLS, other)
        assert refused is not None
        assert refused.reason == reasons.ERROR_REASON_METHOD_NOT_FOUND
