"""What a terminator lets in at once: a crowd is pushed back before the service, and keeps no emergency out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from ops.local.envoy import WATCHES
from ops.local.envoy_bounds import CLASSES
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, new_health_id, uuid7
from services.runtime.limits import BATCH, EMERGENCY, NAMES, TRAFFIC_HEADER
from services.runtime.settings import ServiceSettings
from tests.platform_calls import invoke, refusal_of
from tests.transports import METHODS, Collected, Served, served

READ: Final = METHODS["/dmp.document.v1.DocumentService/ReadDocument"]
UPLOAD: Final = METHODS["/dmp.document.v1.DocumentService/UploadContent"]
HEALTH: Final = "/grpc.health.v1.Health/Check"
MOST: Final = {each.cluster: each.most for each in CLASSES}


def calling(service: Served, channel: grpc.aio.Channel, count: int, *more: tuple[str, str]) -> list[asyncio.Task[Any]]:
    request = document_pb2.ReadDocumentRequest(name=f"{dossier_name(new_health_id())}/documents/{uuid7()}")
    metadata = [*service.bearer(), *more]
    return [
        asyncio.create_task(invoke(channel, READ.path, request, metadata, streaming=True, timeout=60))
        for _ in range(count)
    ]


async def until(so: Callable[[], bool]) -> None:
    """Return when it is so."""
    async with asyncio.timeout(30):
        while not so():
            await asyncio.sleep(0.02)


async def refused(calls: Sequence[asyncio.Task[Any]]) -> list[DmpError]:
    """The refusals, once nothing more is refused. What they say beside their reason is the same as everywhere."""
    found = []
    for call in calls:
        if call.done():
            error = call.exception()
            assert isinstance(error, grpc.aio.AioRpcError)
            trailers = {key: value for key, value in (error.trailing_metadata() or ()) if "pushback" in key}
            assert 1000 <= int(str(trailers["grpc-retry-pushback-ms"])) < 2000
            found.append(refusal_of(error))
    return found


async def test_a_crowd_is_pushed_back_before_the_service_and_keeps_nobody_else_out() -> None:
    begun, go = list[Call](), asyncio.Event()

    async def stuck(request: document_pb2.ReadDocumentRequest, call: Call) -> Any:
        begun.append(call)
        await go.wait()
        yield document_pb2.ReadDocumentResponse(chunk=b"x")

    beyond, few = 40, 5
    async with served("native", waiting_seconds=60, concurrency_lag_ms=1000) as service:
        service.servicer.read = stuck
        crowd = [task for _ in range(4) for task in calling(service, service.channel(), (MOST["care"] + beyond) // 4)]
        await until(lambda: sum(call.done() for call in crowd) == beyond)
        for refusal in await refused(crowd):
            assert refusal.reason == reasons.ERROR_REASON_OVERLOADED
            assert refusal.retry_after == 1
        places = service.settings.concurrency_max
        assert len(begun) <= places, "what was pushed back has not been there"
        await until(lambda: service.limit.waiting(READ.traffic) == MOST["care"] - places)
        others = service.channel()
        urgent = calling(service, others, few, (TRAFFIC_HEADER, NAMES[EMERGENCY]))
        await until(lambda: service.limit.waiting(READ.traffic) == MOST["care"] - places + few)
        assert not any(call.done() for call in urgent), "let in, and no emergency by its token: it waits as others do"
        batch = calling(service, others, few, (TRAFFIC_HEADER, NAMES[BATCH]))
        await until(lambda: service.limit.waiting(BATCH) == few)
        (answer,) = await invoke(others, HEALTH, health_pb2.HealthCheckRequest(), timeout=30)
        assert health_pb2.HealthCheckResponse.FromString(answer).status == health_pb2.HealthCheckResponse.SERVING
        go.set()
        answered = await asyncio.gather(*crowd, *urgent, *batch, return_exceptions=True)
        assert sum(isinstance(each, list) for each in answered) == MOST["care"] + 2 * few


async def test_streams_that_last_keep_no_call_out(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = list[Collected](), asyncio.Event()

    async def add(self: Collected, request: document_pb2.UploadContentRequest) -> None:
        begun.append(self)

    async def sent() -> AsyncIterator[bytes]:
        request = document_pb2.UploadContentRequest(parent=dossier_name(new_health_id()), size=1, request_id="lasts")
        yield request.SerializeToString()
        await go.wait()

    monkeypatch.setattr(Collected, "add", add)
    count = MOST["care"] + 8
    async with served("native") as service:
        senders: list[Any] = [service.channel().stream_unary(UPLOAD.path) for _ in range(4)]
        uploads = [
            asyncio.ensure_future(senders[number % 4](sent(), metadata=tuple(service.bearer()), timeout=60))
            for number in range(count)
        ]
        await until(lambda: len(begun) == count or any(upload.done() for upload in uploads))
        assert not any(upload.done() for upload in uploads)
        (read,) = calling(service, service.channel(), 1)
        assert await read
        go.set()
        await asyncio.gather(*uploads)


def test_the_terminator_knows_every_stream_that_lasts() -> None:
    assert set(WATCHES) == {path for path in METHODS if "/Watch" in path}


@pytest.mark.parametrize("name", MOST)
def test_what_is_let_in_fills_the_places_of_its_class_and_leaves_some_to_wait(name: str) -> None:
    settings = ServiceSettings()
    places = settings.concurrency_max * (settings.batch_share if name == "batch" else 1)
    assert places + 64 <= MOST[name]
