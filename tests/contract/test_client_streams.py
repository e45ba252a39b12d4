"""A stream of requests is the same on every transport: routed by its first message, bounded, cut off when it stalls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from ops.local.envoy import STREAMED
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, new_health_id
from tests.platform_calls import refusal_of
from tests.platform_fixture import METHODS as ALL
from tests.transports import CLIENT, METHODS, Served, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

UPLOAD: Final = METHODS["/dmp.document.v1.DocumentService/UploadContent"]
_STALL: Final = 1.0


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=("grpcio", "native", "peers"))
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with served(request.param, stream_stall_seconds=_STALL) as service:
        yield service


def parts(chunks: Iterable[bytes], request_id: str = "stream-1", dossier: int = 0) -> list[bytes]:
    """The messages of a stream."""
    first, *rest = chunks
    parent = dossier_name(dossier or new_health_id())
    begin = document_pb2.UploadContentRequest(parent=parent, size=7, request_id=request_id, chunk=first)
    return [m.SerializeToString() for m in (begin, *(document_pb2.UploadContentRequest(chunk=c) for c in rest))]


async def upload(
    running: Served, messages: Iterable[bytes], *, metadata: Any = None, hold: float = 0, channel: Any = None
) -> document_pb2.Upload:
    """Send a stream, and hold it open for so many seconds after its last message."""

    async def sent() -> AsyncIterator[bytes]:
        for message in messages:
            yield message
        await asyncio.sleep(hold)

    stream: Any = (channel or running.channel()).stream_unary(UPLOAD.path)
    answer = await stream(sent(), metadata=tuple(running.bearer() if metadata is None else metadata), timeout=30)
    return document_pb2.UploadContentResponse.FromString(answer).upload


async def refused(running: Served, messages: Iterable[bytes], **how: Any) -> DmpError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await upload(running, messages, **how)
    return refusal_of(error.value)


async def test_the_first_message_routes_the_call_and_every_chunk_arrives_in_order(running: Served) -> None:
    dossier, chunks = new_health_id(), [bytes([number]) * (1 << 20) for number in range(12)]
    assert (await upload(running, parts(chunks, dossier=dossier))).written == 12 << 20
    collected = running.servicer.collected
    assert collected.chunks == chunks
    assert (collected.call.health_id, collected.call.request_id) == (dossier, "stream-1")
    assert (collected.call.peer, collected.call.client_id) == (CLIENT, CLIENT)


async def test_a_stream_may_be_longer_than_a_message(running: Served) -> None:
    count = 2 + running.settings.max_message_bytes // (1 << 20)
    assert (await upload(running, parts([bytes(1 << 20)] * count))).written == count << 20


async def test_the_terminator_knows_every_stream_of_requests() -> None:
    assert set(STREAMED) == {path for path, method in ALL.items() if method.client_streaming}


async def test_who_may_not_call_is_refused_before_a_handler_sees_anything(running: Served) -> None:
    assert (await refused(running, parts([b"x"]), metadata=())).reason == reasons.ERROR_REASON_TOKEN_MISSING
    other = running.channel(running.authority.internal("another"))
    assert (await refused(running, parts([b"x"]), channel=other)).reason == reasons.ERROR_REASON_CLIENT_CERTIFICATE
    assert running.recorded[-1].outcome == audit_pb2.OUTCOME_DENIED


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([b"\xff\xff"], reasons.ERROR_REASON_MALFORMED_REQUEST),
        ([], reasons.ERROR_REASON_MALFORMED_REQUEST),
        (parts([b"x"], request_id=""), reasons.ERROR_REASON_INVALID_FIELD),
        ([*parts([b"x"]), b"\xff\xff"], reasons.ERROR_REASON_MALFORMED_REQUEST),
    ],
    ids=["no message", "empty", "no request_id", "no message later"],
)
async def test_what_is_no_stream_of_ours_is_refused_and_traced(
    running: Served, messages: list[bytes], reason: int
) -> None:
    before = len(running.recorded)
    assert (await refused(running, messages)).reason == reason
    assert len(running.recorded) == before + 1


async def test_a_refusal_in_the_middle_ends_the_stream_with_all_its_details(running: Served) -> None:
    chunks = parts([b"a", b"b", b"c"])

    async def sent() -> AsyncIterator[bytes]:
        yield chunks[0]
        while not running.servicer.collected.chunks or running.servicer.collected.call.request_id != "stream-mid":
            await asyncio.sleep(0.01)
        running.servicer.collected.refusal = DmpError(reasons.ERROR_REASON_UPLOAD_OUT_OF_STEP, retry_after=1.5)
        for chunk in chunks[1:]:
            yield chunk
        await asyncio.sleep(20)

    chunks[0] = parts([b"a"], request_id="stream-mid")[0]
    running.servicer.collected = type(running.servicer.collected)(running.servicer.collected.call)
    stream: Any = running.channel().stream_unary(UPLOAD.path)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stream(sent(), metadata=tuple(running.bearer()), timeout=30)
    refusal = refusal_of(error.value)
    assert (refusal.reason, refusal.retry_after) == (reasons.ERROR_REASON_UPLOAD_OUT_OF_STEP, 1.5)


async def test_a_sender_that_stalls_is_cut_off(running: Served) -> None:
    loop = asyncio.get_running_loop()
    for messages in ([], parts([b"x"])):
        began = loop.time()
        assert (await refused(running, messages, hold=25)).reason == reasons.ERROR_REASON_DEADLINE_EXCEEDED
        assert loop.time() - began < 20


async def test_a_message_above_the_limit_is_not_taken(running: Served) -> None:
    large = document_pb2.UploadContentRequest(chunk=bytes(running.settings.max_message_bytes + 1))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await upload(running, [*parts([b"x"]), large.SerializeToString()])
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
