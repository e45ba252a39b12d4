"""Several calls accepted in a turn, on grpcio's inner interface: everything that its own server does still holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import grpc
import grpc.aio
import pytest

from services.runtime.acceptance import EXTRA, AcceptingServer, Registered

Call: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"
Stream: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[bytes, bytes]"


class Servant(grpc.GenericRpcHandler):
    """Echoes, refuses, or waits until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.at_once = 0
        self.most_at_once = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if handler_call_details.method == "/test/Stream":
            return grpc.unary_stream_rpc_method_handler(self.stream)
        return grpc.unary_unary_rpc_method_handler(self.answer) if handler_call_details.method == "/test/Do" else None

    async def answer(self, data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if data == b"wait":
                await asyncio.Event().wait()
            if data == b"refuse":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "no", (("grpc-retry-pushback-ms", "250"),))
            await asyncio.sleep(0.01 if data == b"slow" else 0)
            return data
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.at_once -= 1

    async def stream(self, data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        for number in range(100):
            yield data + str(number).encode()


@asynccontextmanager
async def serving(servant: Servant) -> AsyncIterator[tuple[AcceptingServer, grpc.aio.Channel]]:
    server, registered = grpc.aio.server(), Registered()
    registered.add_generic_rpc_handlers((servant,))
    port = server.add_insecure_port("127.0.0.1:0")
    accepting = AcceptingServer(server, registered)
    await accepting.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield accepting, channel
    finally:
        await accepting.stop(0)


async def test_each_of_many_calls_gets_its_own_answer() -> None:
    servant = Servant()
    async with serving(servant) as (_, channel):
        call: Call = channel.unary_unary("/test/Do")
        asked = [str(number).encode() for number in range(1000)]
        assert await asyncio.gather(*(call(each) for each in asked)) == asked
        await asyncio.gather(*(call(b"slow") for _ in range(200)))
    assert servant.most_at_once > EXTRA


async def test_streams_errors_and_unknown_methods_are_as_they_were() -> None:
    async with serving(Servant()) as (_, channel):
        for _ in range(2 * EXTRA):
            stream: Stream = channel.unary_stream("/test/Stream")
            assert [part async for part in stream(b"x")][-1] == b"x99"
            call: Call = channel.unary_unary("/test/Do")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"refuse")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert ("grpc-retry-pushback-ms", "250") in tuple(refused.value.trailing_metadata() or ())
            nothing: Call = channel.unary_unary("/test/Unknown")
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await nothing(b"")
            assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_call_ends_with_its_client_and_with_its_deadline() -> None:
    servant = Servant()
    async with serving(servant) as (_, channel):
        call: Call = channel.unary_unary("/test/Do")
        waiting = [asyncio.ensure_future(_answer(call, timeout=None)) for _ in range(2 * EXTRA)]
        late = [asyncio.ensure_future(_answer(call, timeout=0.3)) for _ in range(2 * EXTRA)]
        async with asyncio.timeout(10):
            while servant.at_once < 4 * EXTRA:
                await asyncio.sleep(0.01)
            for each in waiting:
                each.cancel()
            await asyncio.wait(late)
            assert {each.result() for each in late} == {grpc.StatusCode.DEADLINE_EXCEEDED}
            while servant.cancelled < 4 * EXTRA:
                await asyncio.sleep(0.01)


async def test_stopping_lets_calls_under_way_end() -> None:
    servant = Servant()
    async with serving(servant) as (server, channel):
        call: Call = channel.unary_unary("/test/Do")
        calls = [asyncio.ensure_future(_slow(call)) for _ in range(100)]
        async with asyncio.timeout(10):
            while not servant.at_once:
                await asyncio.sleep(0)
        await server.stop(5)
        outcomes = await asyncio.gather(*calls)
    assert outcomes.count("OK") > 0
    assert set(outcomes) <= {"OK", "CANCELLED", "UNAVAILABLE"}  # the transport cancels what it has not handed over


async def _answer(call: Call, timeout: float | None) -> grpc.StatusCode:
    try:
        await call(b"wait", timeout=timeout)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def _slow(call: Call) -> str:
    try:
        await call(b"slow")
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"
