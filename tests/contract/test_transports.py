"""What a client sees of a service is the same on every transport: answers, refusals, limits, cancellations, the end.

Each test runs on `grpcio` with its own TLS, on `native` behind a real Envoy, and at the door for peers beside it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from cryptography import x509

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from ops.local.pki import CertificateAuthority
from ops.local.state import State
from services.runtime.context import Call
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.identifiers import dossier_name, new_health_id, uuid7
from tests.platform_calls import attempt, invoke, refusal_of
from tests.platform_fixture import eventually
from tests.transports import CLIENT, METHODS, Door, Served, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRANSPORTS: Final[tuple[Door, ...]] = ("grpcio", "native", "peers")
_SERVICE: Final = "/dmp.document.v1.DocumentService"
GET, READ, SUBMIT = (METHODS[f"{_SERVICE}/{name}"] for name in ("GetDocument", "ReadDocument", "SubmitDocuments"))
FORGED: Final = f"By=spiffe://dmp.local/service/document;Hash={'a' * 64};URI=spiffe://dmp.local/service/gateway"

Get = Callable[[document_pb2.GetDocumentRequest, Call], Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TRANSPORTS)
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with served(request.param) as service:
        yield service


def a_name() -> str:
    return f"{dossier_name(new_health_id())}/documents/{uuid7()}"


async def get(running: Served, channel: grpc.aio.Channel, *metadata: tuple[str, str], timeout: float = 10) -> Any:
    request = document_pb2.GetDocumentRequest(name=a_name())
    (answer,) = await invoke(channel, GET.path, request, [*running.bearer(), *metadata], timeout=timeout)
    return document_pb2.GetDocumentResponse.FromString(answer)


async def seen_call(running: Served, *metadata: tuple[str, str], channel: grpc.aio.Channel | None = None) -> Call:
    """What the handler learns of a call."""
    calls: list[Call] = []

    async def look(request: document_pb2.GetDocumentRequest, call: Call) -> document_pb2.GetDocumentResponse:
        calls.append(call)
        return document_pb2.GetDocumentResponse()

    running.servicer.get = look
    await get(running, channel or running.channel(), *metadata)
    return calls[0]


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_a_call_is_answered_and_its_handler_knows_who_calls_until_when_and_in_which_request(
    running: Served,
) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    call = await seen_call(running, ("x-request-id", "r-17"), ("traceparent", trace))
    assert (call.peer, call.client_id, call.request_id, call.trace_id) == (CLIENT, CLIENT, "r-17", trace[3:35])
    remaining = call.remaining()
    assert remaining is not None
    assert 0 < remaining <= 10


async def test_a_call_without_a_deadline_has_none(running: Served) -> None:
    calls: list[Call] = []

    async def look(request: document_pb2.GetDocumentRequest, call: Call) -> document_pb2.GetDocumentResponse:
        calls.append(call)
        return document_pb2.GetDocumentResponse()

    running.servicer.get = look
    unary: Any = running.channel().unary_unary(GET.path)
    request = document_pb2.GetDocumentRequest(name=a_name()).SerializeToString()
    await unary(request, metadata=tuple(running.bearer()))
    assert calls[0].deadline is None
    assert calls[0].item().timeout_ms == 0


async def test_a_stream_arrives_whole_and_in_order(running: Served) -> None:
    request = document_pb2.ReadDocumentRequest(name=a_name())
    parts = await invoke(running.channel(), READ.path, request, running.bearer(), streaming=True)
    chunks = [document_pb2.ReadDocumentResponse.FromString(part).chunk for part in parts]
    assert chunks == [bytes([number]) * 100_000 for number in range(5)]


async def test_many_calls_at_once_get_each_their_own_answer(running: Served) -> None:
    running.servicer.get = type(running.servicer)().get
    channel, names = running.channel(), [a_name() for _ in range(300)]

    async def one(name: str) -> str:
        (answer,) = await invoke(channel, GET.path, document_pb2.GetDocumentRequest(name=name), running.bearer())
        return document_pb2.GetDocumentResponse.FromString(answer).document.name

    assert await asyncio.gather(*map(one, names)) == names


# --- refusals --------------------------------------------------------------------------------------------------------


async def test_a_refusal_arrives_with_all_its_details(running: Served) -> None:
    fields = (FieldViolation("name", "exists", "unknown name — é"),)

    async def refuse(request: document_pb2.GetDocumentRequest, call: Call) -> document_pb2.GetDocumentResponse:
        raise DmpError(reasons.ERROR_REASON_INVALID_FIELD, fields=fields, metadata={"limit": "1"}, retry_after=1.5)

    running.servicer.get = refuse
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await get(running, running.channel())
    assert [each for each in refused.value.trailing_metadata() or () if "pushback" in each[0]] == [
        ("grpc-retry-pushback-ms", "1500")
    ]
    refusal = refusal_of(refused.value)
    assert (refusal.reason, refusal.fields) == (reasons.ERROR_REASON_INVALID_FIELD, fields)
    assert (refusal.metadata, refusal.retry_after) == ({"limit": "1"}, 1.5)


async def test_a_refusal_in_the_middle_of_a_stream_ends_it_with_its_details(running: Served) -> None:
    async def some(request: document_pb2.ReadDocumentRequest, call: Call) -> AsyncIterator[Any]:
        yield document_pb2.ReadDocumentResponse(chunk=b"first")
        raise DmpError(reasons.ERROR_REASON_OVERLOADED, retry_after=2)

    running.servicer.read = some
    stream: Any = running.channel().unary_stream(READ.path)
    request = document_pb2.ReadDocumentRequest(name=a_name()).SerializeToString()
    call = stream(request, metadata=tuple(running.bearer()), timeout=10)
    assert document_pb2.ReadDocumentResponse.FromString(await anext(aiter(call))).chunk == b"first"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await anext(aiter(call))
    refusal = refusal_of(refused.value)
    assert (refusal.reason, refusal.retry_after) == (reasons.ERROR_REASON_OVERLOADED, 2)
    assert ("grpc-retry-pushback-ms", "2000") in list(refused.value.trailing_metadata() or ())


async def test_a_defect_is_told_without_its_text(running: Served) -> None:
    async def fail(request: document_pb2.GetDocumentRequest, call: Call) -> document_pb2.GetDocumentResponse:
        raise KeyError("secret-value")

    running.servicer.get = fail
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await get(running, running.channel())
    assert refusal_of(failed.value).reason == reasons.ERROR_REASON_INTERNAL
    assert "secret-value" not in str(failed.value)


async def test_bytes_that_are_no_message_are_refused_and_recorded(running: Served) -> None:
    running.recorded.clear()
    refusal = await attempt(running.channel(), GET, b"\xff\xff\xff", running.bearer("r-malformed"))
    assert refusal is not None
    assert refusal.reason == reasons.ERROR_REASON_MALFORMED_REQUEST
    assert [event.request_id for event in running.recorded] == ["r-malformed"]


async def test_a_method_that_does_not_exist_is_unimplemented(running: Served) -> None:
    for path in (f"{_SERVICE}/DropEverything", "/nowhere/Nothing"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await invoke(running.channel(), path, b"", running.bearer())
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_token_missing_or_given_twice_is_none(running: Served) -> None:
    for metadata in ([], [*running.bearer(), *running.bearer()]):
        refusal = await attempt(running.channel(), GET, document_pb2.GetDocumentRequest(name=a_name()), metadata)
        assert refusal is not None
        assert refusal.reason == reasons.ERROR_REASON_TOKEN_MISSING


# --- who is connected ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [(FORGED,), (FORGED, FORGED), ("",), (f"{FORGED},{FORGED}",)])
async def test_a_forged_certificate_header_changes_nothing(running: Served, headers: tuple[str, ...]) -> None:
    forged = [("x-forwarded-client-cert", header) for header in headers]
    assert (await seen_call(running, *forged)).peer == CLIENT
    stranger = running.channel(running.authority.internal("other"))
    request = document_pb2.GetDocumentRequest(name=a_name())
    refusal = await attempt(stranger, GET, request, [*running.bearer(), *forged])
    assert refusal is not None
    assert refusal.reason == reasons.ERROR_REASON_CLIENT_CERTIFICATE


async def test_without_a_certificate_of_the_platform_there_is_no_connection(running: Served, tmp_path: Any) -> None:
    ca = running.authority.certificate_path.read_bytes()
    elsewhere = CertificateAuthority(State.open(tmp_path / "elsewhere")).internal(CLIENT)
    strange = grpc.ssl_channel_credentials(ca, elsewhere.key.read_bytes(), elsewhere.certificate.read_bytes())
    for credentials in (grpc.ssl_channel_credentials(ca), strange):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await get(running, running.channel(credentials=credentials), ("x-forwarded-client-cert", FORGED), timeout=3)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_rotated_certificate_is_shown_to_the_next_connection(running: Served) -> None:
    running.authority.renew("service", "document")
    renewed = x509.load_pem_x509_certificate((running.state.pki / "service" / "document" / "tls.pem").read_bytes())
    shown = await eventually(lambda: asyncio.to_thread(shown_certificate, running), lambda seen: seen == renewed)
    assert shown == renewed
    assert (await seen_call(running, channel=running.channel())).peer == CLIENT


def shown_certificate(running: Served) -> x509.Certificate:
    """What the server shows a client."""
    client = running.authority.internal(CLIENT)
    context = ssl.create_default_context(cafile=str(client.authority))
    context.load_cert_chain(client.certificate, client.key)
    context.set_alpn_protocols(["h2"])
    host, _, port = running.address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        return x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")


# --- deadlines and cancellations -------------------------------------------------------------------------------------


class Endless:
    """A handler that never answers, and notes what becomes of it."""

    def __init__(self) -> None:
        self.began = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)

    async def get(self, request: document_pb2.GetDocumentRequest, call: Call) -> document_pb2.GetDocumentResponse:
        self.began.release()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.release()
        raise AssertionError

    async def read(self, request: document_pb2.ReadDocumentRequest, call: Call) -> AsyncIterator[Any]:
        yield document_pb2.ReadDocumentResponse(chunk=b"first")
        await self.get(document_pb2.GetDocumentRequest(), call)


async def test_a_deadline_ends_the_call_at_both_ends(running: Served) -> None:
    endless = Endless()
    running.servicer.get = endless.get
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await get(running, running.channel(), timeout=0.3)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(endless.cancelled.acquire(), 5)


async def test_who_cancels_a_call_or_a_stream_ends_its_handler(running: Served) -> None:
    endless, channel = Endless(), running.channel()
    running.servicer.get, running.servicer.read = endless.get, endless.read
    request = document_pb2.GetDocumentRequest(name=a_name()).SerializeToString()
    metadata = tuple(running.bearer())
    unary: Any = channel.unary_unary(GET.path)
    stream: Any = channel.unary_stream(READ.path)
    for begin in (unary, stream):  # one after the other, or one may be cancelled when it is the other that began
        call = begin(request, metadata=metadata)
        reading = asyncio.ensure_future(_drained(call)) if call.__class__.__name__ == "UnaryStreamCall" else None
        await asyncio.wait_for(endless.began.acquire(), 5)
        call.cancel()
        await asyncio.wait_for(endless.cancelled.acquire(), 5)
        if reading is not None:
            await asyncio.gather(reading, return_exceptions=True)


async def _drained(call: Any) -> None:
    async for _ in call:
        pass


async def test_calls_cancelled_as_soon_as_they_are_sent_leave_nothing_behind(running: Served) -> None:
    endless, channel = Endless(), running.channel()
    running.servicer.get = endless.get
    await channel.channel_ready()
    unary: Any = channel.unary_unary(GET.path)
    request, metadata = document_pb2.GetDocumentRequest(name=a_name()).SerializeToString(), tuple(running.bearer())
    before = len(asyncio.all_tasks())
    for wait in range(10):
        calls = [unary(request, metadata=metadata) for _ in range(40)]
        await asyncio.sleep(wait / 1000)
        for call in calls:
            call.cancel()
    deadline = time.monotonic() + 5
    while len(asyncio.all_tasks()) > before and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    assert len(asyncio.all_tasks()) <= before
    assert len(getattr(running.server, "_tasks", ())) == 0


async def test_readers_who_do_not_read_keep_nobody_waiting(running: Served) -> None:
    async def flood(request: document_pb2.ReadDocumentRequest, call: Call) -> AsyncIterator[Any]:
        for _ in range(400):
            yield document_pb2.ReadDocumentResponse(chunk=bytes(256 << 10))

    async def few(request: document_pb2.ReadDocumentRequest, call: Call) -> AsyncIterator[Any]:
        for _ in range(100):
            yield document_pb2.ReadDocumentResponse(chunk=bytes(64 << 10))

    running.servicer.read = flood
    request, metadata = document_pb2.ReadDocumentRequest(name=a_name()), tuple(running.bearer())
    stream: Any = running.channel().unary_stream(READ.path)
    idle = [stream(request.SerializeToString(), metadata=metadata) for _ in range(40)]
    await asyncio.gather(*(call.wait_for_connection() for call in idle))
    await asyncio.sleep(0.3)
    running.servicer.read = few
    parts = await invoke(running.channel(), READ.path, request, metadata, streaming=True, timeout=10)
    assert len(parts) == 100
    for call in idle:
        call.cancel()


# --- limits ----------------------------------------------------------------------------------------------------------


def submission(size: int) -> bytes:
    return document_pb2.SubmitDocumentsRequest(
        parent=dossier_name(new_health_id()),
        request_id=str(uuid7()),
        documents=[document_pb2.SubmittedDocument(content=bytes(size))],
    ).SerializeToString()


async def test_a_document_of_the_largest_size_is_taken(running: Served) -> None:
    size = running.settings.max_document_bytes
    await invoke(running.channel(), SUBMIT.path, submission(size), running.bearer())
    assert running.servicer.sizes[-1] == size


@pytest.mark.parametrize("beyond", [1, 1 << 20])
async def test_a_message_above_the_limit_is_refused_unseen(running: Served, beyond: int) -> None:
    running.servicer.sizes.clear()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await invoke(
            running.channel(), SUBMIT.path, bytes(running.settings.max_message_bytes + beyond), running.bearer()
        )
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert running.servicer.sizes == []


async def test_a_small_message_that_unpacks_to_a_huge_one_is_refused(running: Served) -> None:
    running.servicer.sizes.clear()
    unary: Any = running.channel().unary_unary(SUBMIT.path)
    bomb = bytes(running.settings.max_message_bytes + (16 << 20))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await unary(bomb, metadata=tuple(running.bearer()), compression=grpc.Compression.Gzip, timeout=20)
    assert refused.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
    assert running.servicer.sizes == []


async def test_too_much_metadata_is_refused(running: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await get(running, running.channel(), ("x-filler", "x" * 40_000))
    assert refused.value.code() is not grpc.StatusCode.OK
    assert (await seen_call(running)).peer == CLIENT
