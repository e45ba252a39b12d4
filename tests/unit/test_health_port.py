"""The port on which a kubelet asks for health: without a certificate, and for nothing else."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from services.runtime.boundary import Rpcs
from services.runtime.health import Health, health_port
from services.runtime.settings import ServiceSettings, SettingsError
from services.runtime.transport import listen
from tests.ports import free_port

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def ask(address: str, path: str = "/grpc.health.v1.Health/Check") -> int:
    """What a probe is answered."""
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary(
            path,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        answer = await check(health_pb2.HealthCheckRequest(), timeout=5)
        return int(answer.status)


async def test_it_answers_as_the_service_itself_does_to_the_end_of_draining() -> None:
    health, address = Health(), free_address()
    async with health_port(address, health):
        await health.set("", NOT_SERVING)
        assert await ask(address) == NOT_SERVING
        await health.set("", SERVING)
        assert await ask(address) == SERVING
        await health.enter_graceful_shutdown()
        assert await ask(address) == NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(address)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_no_other_method_is_reached_through_it() -> None:
    address = free_address()
    async with health_port(address, Health()):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(address, "/dmp.consent.v1.ConsentService/BatchCheckAccess")
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("known", [True, False])
async def test_health_is_watched_where_peers_show_a_certificate_and_nowhere_else(
    tmp_path: Path, *, known: bool
) -> None:
    address = f"unix:{tmp_path}/s"
    settings = ServiceSettings(environment="test", transport="native", listen=address)
    server, _ = await listen(settings, Rpcs({}), [], client_certificate=known)
    async with grpc.aio.insecure_channel(address) as channel:
        watch: Any = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        watching = watch(health_pb2.HealthCheckRequest(), timeout=20)
        if known:
            assert (await watching.read()).status == SERVING
        else:
            assert await watching.code() == grpc.StatusCode.UNIMPLEMENTED
        assert await ask(address) == SERVING, "as anybody may"
        await server.stop(0)


async def test_without_an_address_there_is_no_such_port() -> None:
    async with health_port(None, Health()):
        pass


async def test_a_port_that_is_taken_refuses_the_start_by_the_name_of_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SettingsError, match="DMP_HEALTH_LISTEN"):
            async with health_port(f"127.0.0.1:{taken.getsockname()[1]}", Health()):
                pass


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"
