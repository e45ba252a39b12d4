"""What a client sees of a service is the same on every transport: answers, refusals, limits, cancellations, the end.

Each test runs on `grpcio` with its own TLS and on `native` behind a real Envoy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from dmp.document.v1 import document_pb2
from ops.local.readiness import client_credentials
from services.runtime.channels import Peer
from services.runtime.context import Call
from services.runtime.identifiers import dossier_name, new_health_id, uuid7
from tests.platform_calls import invoke
from tests.transports import CLIENT, METHODS, Door, Served, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRANSPORTS: Final[tuple[Door, ...]] = ("grpcio", "native", "peers")
FOR_CLIENTS: Final[tuple[Door, ...]] = ("grpcio", "native")
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


# --- health, reflection, the end -------------------------------------------------------------------------------------


async def test_health_is_told_to_whom_the_platform_knows_and_watched(running: Served) -> None:
    channel = running.channel()
    name = "dmp.document.v1.DocumentService"
    for service in ("", name):
        (answer,) = await invoke(
            channel, "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service=service)
        )
        assert health_pb2.HealthCheckResponse.FromString(answer).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await invoke(channel, "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service="other"))
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
    call = watch(health_pb2.HealthCheckRequest(service=name).SerializeToString())
    statuses = []
    async for message in call:
        statuses.append(health_pb2.HealthCheckResponse.FromString(message).status)
        if len(statuses) == 2:
            break
        await running.health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    call.cancel()
    await running.health.set(name, health_pb2.HealthCheckResponse.SERVING)
    assert statuses == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]


@pytest.mark.parametrize("transport", FOR_CLIENTS)
async def test_reflection_lists_the_service_where_it_is_switched_on(transport: Door) -> None:
    async with served(transport, reflection=True) as service:
        info: Any = service.channel().stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        asked = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
        answers = [reflection_pb2.ServerReflectionResponse.FromString(answer) async for answer in info(iter([asked]))]
        names = [each.name for each in answers[0].list_services_response.service]
        assert "dmp.document.v1.DocumentService" in names
        assert (await seen_call(service)).peer == CLIENT


@pytest.mark.parametrize("transport", FOR_CLIENTS)
async def test_a_reflection_client_of_others_learns_the_messages(transport: Door) -> None:
    """grpcio-reflection's own client, which builds descriptors and needs all files that a contract imports."""
    async with served(transport, reflection=True) as service:
        shown = client_credentials(service.authority.internal(CLIENT))

        def learn() -> list[str]:
            with grpc.secure_channel(service.address, shown) as channel:
                database = ProtoReflectionDescriptorDatabase(channel)
                described = DescriptorPool(database).FindServiceByName("dmp.document.v1.DocumentService")
                assert "name" in described.methods_by_name["GetDocument"].input_type.fields_by_name
                return list(database.get_services())

        assert "dmp.document.v1.DocumentService" in await asyncio.to_thread(learn)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_stopping_server_finishes_what_it_has_begun_and_takes_nothing_new(transport: Door) -> None:
    async with served(transport) as service:
        began = asyncio.Semaphore(0)

        async def slow(request: document_pb2.GetDocumentRequest, call: Call) -> document_pb2.GetDocumentResponse:
            began.release()
            await asyncio.sleep(0.5)
            return document_pb2.GetDocumentResponse()

        service.servicer.get = slow
        channel = service.channel()
        under_way = [asyncio.ensure_future(get(service, channel)) for _ in range(50)]
        for _ in under_way:
            await began.acquire()
        stopping = asyncio.ensure_future(service.server.stop(5))
        await asyncio.sleep(0.05)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await get(service, channel, timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        await asyncio.gather(*under_way)
        await stopping


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_peers_leave_a_server_that_stops_before_it_refuses_anybody(transport: Door) -> None:
    """Whom they have not left by then loses calls: those sent before its end is known, and too late for it."""
    async with served(transport) as staying, served(transport, beside=staying) as leaving:
        peer = Peer("document", f"{staying.address},{leaving.address}", staying.settings)
        check, answers, enough = peer.unary_bytes("/grpc.health.v1.Health/Check"), list[int](), False

        async def call_on() -> None:
            while not enough:
                answer = health_pb2.HealthCheckResponse.FromString(await check(b"", timeout=20))
                answers.append(answer.status)

        async def more(count: int) -> list[int]:
            """What the next answers are."""
            before = len(answers)
            async with asyncio.timeout(30):
                while len(answers) < before + count:
                    await asyncio.sleep(0.01)
            return answers[before:]

        async with asyncio.TaskGroup() as callers:  # raises what any of them is told that is no answer
            for _ in range(16):
                callers.create_task(call_on())
            async with asyncio.timeout(30):
                while leaving.health.watched == 0:
                    await more(10)
            await leaving.health.enter_graceful_shutdown()
            async with asyncio.timeout(30):  # it still answers, by saying that it does not serve: nobody asks it
                while health_pb2.HealthCheckResponse.NOT_SERVING in await more(100):
                    pass
            await leaving.server.stop(5)
            await more(200)
            enough = True
        await peer.close()
