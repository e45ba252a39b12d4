"""The light generator gets what grpcio's client would: each call's own answer, or how the call ended."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from bench.light import CallEnded, LightChannel
from bench.load import Unary, WrongAnswer, measure

ECHO, REFUSE = "/dmp.bench.v1.Echo/Echo", "/dmp.bench.v1.Echo/Refuse"
SEEN = "x-seen"


async def _echo(data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    await asyncio.sleep(0)
    seen = dict(context.invocation_metadata() or ())
    return data + str(seen.get(SEEN, "")).encode()


async def _refuse(data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "no", (("grpc-retry-pushback-ms", "250"),))
    raise AssertionError


async def served() -> tuple[grpc.aio.Server, LightChannel]:
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Echo": grpc.unary_unary_rpc_method_handler(_echo),
        "Refuse": grpc.unary_unary_rpc_method_handler(_refuse),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("dmp.bench.v1.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = LightChannel(f"127.0.0.1:{port}", None)
    await channel.channel_ready()
    return server, channel


async def test_each_call_gets_its_own_answer_beyond_the_first_window() -> None:
    server, channel = await served()
    call = channel.unary_unary(ECHO)
    sent = [
        bytes([number % 256]) * 5000 for number in range(100)
    ]  # half a megabyte, of 64 kB that may be sent at first
    answers = await asyncio.gather(
        *(call(data, metadata=((SEEN, "y" * (number * 3)),), timeout=30.0) for number, data in enumerate(sent))
    )
    assert answers == [data + b"y" * (number * 3) for number, data in enumerate(sent)]
    await channel.close()
    await server.stop(None)


async def test_a_call_that_fails_is_no_answer() -> None:
    server, channel = await served()
    with pytest.raises(CallEnded) as ended:
        await Unary([channel], REFUSE, lambda: (b"x", ()), at_least=1).send(0)
    assert ended.value.status == grpc.StatusCode.UNAVAILABLE.value[0]
    assert ended.value.trailers.items() >= {("grpc-message", "no"), ("grpc-retry-pushback-ms", "250")}
    echo = Unary([channel] * 4, ECHO, lambda: (b"x" * 600, ()), at_least=600)
    measured = await measure(echo, 8, warm_up=0, seconds=0.2)
    assert measured.answered > 0
    await server.stop(None)
    with pytest.raises(WrongAnswer):
        await channel.unary_unary(ECHO)(b"x", metadata=(), timeout=30.0)
    await channel.close()
