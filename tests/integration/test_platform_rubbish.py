"""Rubbish in: a clear error that names the field, nothing broken, memory bounded. Never UNKNOWN, INTERNAL or a 5xx.

Every method by every way in is sent bytes and messages that hypothesis makes; then what is known to hurt parsers.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from ops.local.readiness import client_credentials
from ops.local.state import SERVICES
from ops.session import Statement
from services.runtime.errors import DmpError
from tests import hostile_xml
from tests.hostile_messages import hostile_bytes, well_formed
from tests.platform_arena import (
    HUGE,
    MEBIBYTE,
    Arena,
    bounded_memory,
    check_refusal,
    check_statuses,
    close_service_channels,
)
from tests.platform_calls import LONGEST, WATCHED, attempt, bearer, invoke, refusal_of
from tests.platform_fixture import METHODS, Patient, Platform, method

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXAMPLES: Final = 250 if "DMP_CAMPAIGN" in os.environ else 4
AT_ONCE: Final = 16


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def arena(platform: Platform) -> AsyncIterator[Arena]:
    yield Arena(platform, {service: platform.stack.pid(service) for service in SERVICES})
    await close_service_channels()


def ways() -> Iterator[tuple[str, str]]:
    for access in METHODS.values():
        name = access.path.rpartition("/")[2]
        yield name, "relay"
        yield name, "service" if access.states_actor else "direct"


@pytest.mark.parametrize(("name", "way"), list(ways()))
@given(data=st.data())
@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
async def test_whatever_bytes_a_method_is_sent_its_answer_is_clear(
    arena: Arena, name: str, way: str, data: st.DataObject
) -> None:
    access = method(name)
    channel, metadata = await arena.way_in(access, way)
    request = well_formed((await arena.patient(name)).health_id)[name]
    payloads = data.draw(st.lists(hostile_bytes(request), min_size=AT_ONCE, max_size=AT_ONCE))
    longest = WATCHED if name == "WatchChanges" else LONGEST
    calls = (
        invoke(channel, access.path, payload, metadata, streaming=access.server_streaming, timeout=longest)
        for payload in payloads
    )
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, grpc.aio.AioRpcError):
            check_refusal(refusal_of(outcome))
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            for part in outcome:
                check_statuses(access.response.FromString(part))


# --- what a submission may not be -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spoilt:
    """One thing wrong with a submission, the reason and the field that the answer must name, first of so many."""

    spoil: Callable[[document_pb2.SubmitDocumentsRequest], object]
    reason: int
    field: str
    fields: int = 1


def wrong_hash(request: document_pb2.SubmitDocumentsRequest) -> None:
    request.documents[0].document.hash = hashlib.sha1(b"other", usedforsecurity=False).digest()


def wrong_size(request: document_pb2.SubmitDocumentsRequest) -> None:
    request.documents[0].document.size += 1


def negative_size(request: document_pb2.SubmitDocumentsRequest) -> None:
    request.documents[0].document.size = -1


def no_content(request: document_pb2.SubmitDocumentsRequest) -> None:
    request.documents[0].content = b""


def too_large(request: document_pb2.SubmitDocumentsRequest) -> None:
    request.documents[0].content = bytes(33 * MEBIBYTE)


def nul_in_title(request: document_pb2.SubmitDocumentsRequest) -> None:
    request.documents[0].document.title = "a\0b"


def two_of_one_id(request: document_pb2.SubmitDocumentsRequest) -> None:
    request.documents.add().CopyFrom(request.documents[0])


def foreign_type(request: document_pb2.SubmitDocumentsRequest) -> None:
    request.documents[0].document.type_code.code = "no-such-type"


SUBMISSIONS: Final = {
    "wrong hash": Spoilt(wrong_hash, reasons.ERROR_REASON_HASH_MISMATCH, "documents[0].document.hash"),
    "wrong size": Spoilt(wrong_size, reasons.ERROR_REASON_SIZE_MISMATCH, "documents[0].document.size"),
    "negative size": Spoilt(negative_size, reasons.ERROR_REASON_INVALID_FIELD, "documents[0].document.size"),
    "no content": Spoilt(no_content, reasons.ERROR_REASON_MISSING_DOCUMENT, "documents[0].content"),
    "33 MiB": Spoilt(too_large, reasons.ERROR_REASON_REQUEST_TOO_LARGE, "documents[0].content"),
    "NUL in a title": Spoilt(nul_in_title, reasons.ERROR_REASON_METADATA_ERROR, "documents[0].document.title"),
    "one uniqueId twice": Spoilt(
        two_of_one_id, reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID, "documents[1].document.unique_id"
    ),
    "another type than the header's, and none that exists": Spoilt(
        foreign_type, reasons.ERROR_REASON_METADATA_ERROR, "documents[0].document.type_code", fields=3
    ),
}


def submission(patient: Patient, content: bytes) -> document_pb2.SubmitDocumentsRequest:
    """A good submission of one CDA."""
    digest = hashlib.sha1(content, usedforsecurity=False).digest()
    request = document_pb2.SubmitDocumentsRequest(parent=patient.dossier, request_id=str(uuid.uuid4()))
    request.submission_set.unique_id = f"2.25.{uuid.uuid4().int}"
    request.submission_set.source_id = "1.2.250.1.213.4.99"
    document = request.documents.add(content=content).document
    document.mime_type, document.hash, document.size = "text/xml", digest, len(content)
    document.format_code.system, document.format_code.code = (
        "1.3.6.1.4.1.19376.1.2.3",
        "urn:ihe:iti:xds:2017:mimeTypeSufficient",
    )
    return request


@pytest.mark.parametrize("way", ["relay", "direct"])
@pytest.mark.parametrize("name", SUBMISSIONS)
async def test_a_wrong_submission_is_refused_naming_the_field_and_leaves_nothing(
    arena: Arena, name: str, way: str
) -> None:
    case, access = SUBMISSIONS[name], method("SubmitDocuments")
    patient = await arena.patient("SubmitDocuments")
    before = (await patient.acts.search(patient.health_id)).total_size
    channel, metadata = await arena.way_in(access, way)
    request = submission(patient, patient.cda(seed=3))
    case.spoil(request)
    refusal = await attempt(channel, access, request, metadata)
    assert refusal is not None
    assert refusal.reason_name == DmpError(case.reason).reason_name
    fields = [violation.field for violation in refusal.fields]
    assert fields[0] == case.field
    assert len(fields) == case.fields
    assert (await patient.acts.search(patient.health_id)).total_size == before


async def test_hostile_xml_is_refused_naming_the_content_and_memory_stays_bounded(arena: Arena) -> None:
    access = method("SubmitDocuments")
    patient = await arena.patient("hostile XML")
    token = await arena.platform.token("direct", patient.caregiver.statement())
    channel = arena.platform.channel("direct", access)
    with bounded_memory(arena.platform, grown=400 * MEBIBYTE):
        for name, content in hostile_xml.hostile_documents().items():
            refusal = await attempt(channel, access, submission(patient, content), bearer(token))
            assert refusal is not None, name
            check_refusal(refusal)
            assert {violation.field for violation in refusal.fields} == {"documents[0].content"}, name
    external = await attempt(channel, access, submission(patient, hostile_xml.xinclude()), bearer(token))
    assert external is not None
    assert (await patient.acts.search(patient.health_id)).total_size == 0


async def test_what_entities_and_includes_point_at_is_never_read(arena: Arena) -> None:
    """A file that only this machine has, asked for by every kind of reference, turns up in no answer."""
    access = method("SubmitDocuments")
    patient = await arena.patient("hostile XML")
    channel, metadata = await arena.way_in(access, "relay")
    secret = arena.platform.state.root / "secrets" / "dmp_document.dsn"
    uri = secret.as_uri()
    for content in (hostile_xml.external_entity(uri), hostile_xml.parameter_entity(uri), hostile_xml.xinclude(uri)):
        refusal = await attempt(channel, access, submission(patient, content), metadata)
        assert refusal is not None
        assert secret.read_text() not in str(refusal) + repr(refusal.fields)


# --- pages ------------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def paged(arena: Arena) -> AsyncIterator[tuple[Patient, str]]:
    """A patient with three documents, and the token of the second page of a search by one."""
    patient = await arena.platform.patient()
    for seed in range(3):
        await patient.acts.submit(patient.health_id, patient.cda(seed=seed), "consultation.xml")
    answer = await search(arena.platform, patient, patient.caregiver.statement(), page_size=1)
    assert (len(answer.documents), answer.total_size) == (1, 3)
    yield patient, answer.next_page_token


async def search(
    platform: Platform, patient: Patient, statement: Statement, **criteria: Any
) -> document_pb2.SearchDocumentsResponse:
    request = document_pb2.SearchDocumentsRequest(parent=patient.dossier, **criteria)
    response = document_pb2.SearchDocumentsResponse
    return await platform.session.call("document", "SearchDocuments", request, response, statement)


async def test_a_page_token_of_another_dossier_caller_or_search_or_altered_is_refused(
    arena: Arena, paged: tuple[Patient, str]
) -> None:
    patient, token = paged
    other = await arena.patient("SearchDocuments")
    colleague = arena.platform.caregiver().statement()
    await arena.platform.acts(colleague).authorise(patient.health_id)
    own = patient.caregiver.statement()
    assert (await search(arena.platform, patient, own, page_size=1, page_token=token)).documents
    flipped = token[:9] + ("A" if token[9] != "A" else "B") + token[10:]
    for who, whom, criteria in (
        (other.caregiver.statement(), other, {"page_token": token}),
        (colleague, patient, {"page_token": token}),
        (own, patient, {"page_token": token, "type_codes": ["11488-4"]}),
        (own, patient, {"page_token": flipped}),
        (own, patient, {"page_token": token + "AAAA"}),
        (own, patient, {"page_token": "\0"}),
        (own, patient, {"page_token": "é"}),
    ):
        with pytest.raises(DmpError) as refused:
            await search(arena.platform, whom, who, page_size=1, **criteria)
        assert refused.value.reason in (reasons.ERROR_REASON_INVALID_PAGE_TOKEN, reasons.ERROR_REASON_INVALID_FIELD)
        assert [violation.field for violation in refused.value.fields] == ["page_token"]


@pytest.mark.parametrize("size", [-1, -(2**31), 201, 2**31 - 1])
async def test_a_page_size_out_of_bounds_is_named(arena: Arena, paged: tuple[Patient, str], size: int) -> None:
    patient, _ = paged
    with pytest.raises(DmpError) as refused:
        await search(arena.platform, patient, patient.caregiver.statement(), page_size=size)
    assert [violation.field for violation in refused.value.fields] == ["page_size"]


# --- 200 MB ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["relay", "direct"])
async def test_a_field_of_200_mb_is_refused_and_never_held_twice(arena: Arena, way: str) -> None:
    """gRPC's core takes in a whole message before it looks at the limit; Python must never see a byte of it."""
    patient = await arena.patient("200 MB")
    access = method("SubmitDocuments")
    head = document_pb2.SubmitDocumentsRequest(parent=patient.dossier, request_id="two-hundred").SerializeToString()
    inner = b"\x12" + varint(HUGE)
    payload = b"".join((head, b"\x1a", varint(len(inner) + HUGE), inner, bytes(HUGE)))
    token = await arena.platform.token(way, patient.caregiver.statement())
    stack = arena.platform.stack
    address = stack.address("gateway" if way == "relay" else "document")
    credentials = client_credentials(stack.internal("demo-registry"))
    unlimited = [("grpc.max_send_message_length", -1)]
    with bounded_memory(arena.platform, grown=HUGE + 32 * MEBIBYTE):
        async with grpc.aio.secure_channel(address, credentials, options=unlimited) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await invoke(channel, access.path, payload, bearer(token))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "path",
    [method("SubmitDocuments").path, method("ReadDocument").path, "/grpc.health.v1.Health/Check"],
    ids=["unary", "streaming", "health"],
)
async def test_a_stranger_makes_the_relay_hold_nothing(arena: Arena, path: str) -> None:
    """The relay asks for no client certificate: of a caller without a token it reads the headers, and no message."""
    stack = arena.platform.stack
    credentials = client_credentials(stack.internal("demo-registry"))
    unlimited = [("grpc.max_send_message_length", -1)]
    with bounded_memory(arena.platform, grown=48 * MEBIBYTE):
        async with grpc.aio.secure_channel(stack.address("gateway"), credentials, options=unlimited) as channel:
            invoke_stranger: Any = channel.unary_unary(path)
            call = invoke_stranger(bytes(HUGE), timeout=20)
            code = await call.code()
    assert code is (grpc.StatusCode.OK if "health" in path else grpc.StatusCode.UNAUTHENTICATED)


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


# --- and after all this -----------------------------------------------------------------------------------------------


async def test_after_all_this_the_same_processes_serve(arena: Arena) -> None:
    assert {service: arena.platform.stack.pid(service) for service in SERVICES} == arena.pids
    assert all(arena.platform.stack.alive(service) for service in SERVICES)
    patient, document = await arena.platform.patient_with_document()
    assert (await patient.acts.read(document.name))[1] == patient.cda()
