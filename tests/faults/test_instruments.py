"""The instruments of these tests do what they say: the proxy's weather, the fault points, and the checker itself."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from services.document.store.reading import translated
from services.runtime import faults
from services.runtime.errors import DmpError
from tests.faults.proxy import FAIR, Proxy, Weather


@asynccontextmanager
async def echo() -> AsyncIterator[str]:
    """A server that says everything again; its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1024):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server:
        yield f"{host}:{port}"


@asynccontextmanager
async def connected(weather: Weather) -> AsyncIterator[tuple[Proxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to an echo through a proxy."""
    async with echo() as address, Proxy(address, weather) as proxy:
        host, _, port = proxy.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield proxy, reader, writer
        finally:
            writer.close()


async def test_the_proxy_delays_each_way() -> None:
    async with connected(Weather(there=0.05, back=0.1)) as (_, reader, writer):
        begun = time.monotonic()
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert time.monotonic() - begun >= 0.15


async def test_the_proxy_slices_without_changing_a_byte() -> None:
    async with connected(Weather(slice_bytes=1)) as (_, reader, writer):
        writer.write(bytes(range(256)))
        assert await reader.readexactly(256) == bytes(range(256))


async def test_what_the_proxy_swallows_comes_when_the_weather_is_fair_again() -> None:
    async with connected(Weather(swallow=True)) as (proxy, reader, writer):
        writer.write(b"hello")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(5), 0.1)
        proxy.change(FAIR)
        assert await asyncio.wait_for(reader.readexactly(5), 2) == b"hello"


async def test_the_proxy_cuts_by_reset_and_by_end() -> None:
    async with connected(FAIR) as (proxy, reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
    async with connected(FAIR) as (proxy, reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        proxy.cut(reset=False)
        assert await reader.read() == b""


async def test_a_proxy_without_a_target_refuses() -> None:
    async with Proxy("") as proxy:
        host, _, port = proxy.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await reader.read() == b""
        writer.close()


def test_an_armed_point_kills_at_its_nth_passage_and_no_other_point_does() -> None:
    program = (
        "from services.runtime import faults\n"
        "faults.arm(['submit.before_commit=kill:3'])\n"
        "for number in range(9):\n"
        "    faults.point('submit.after_commit')\n"
        "    print(number, flush=True)\n"
        "    faults.point('submit.before_commit')\n"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert outcome.returncode == -9
    assert outcome.stdout.split() == ["0", "1", "2"]


@pytest.mark.parametrize(
    "setting", ["submit.before_commit", "nowhere=kill", "reply.before=explode", "reply.before=kill:x"]
)
def test_a_fault_that_does_not_exist_is_refused(setting: str) -> None:
    with pytest.raises(faults.FaultUnknown):
        faults.arm([setting])
    faults.point("submit.before_commit")


def test_a_point_that_is_not_armed_costs_nothing() -> None:
    begun = time.perf_counter()
    for _ in range(100_000):
        faults.point("reply.before")
    assert (time.perf_counter() - begun) / 100_000 < 2e-6


def test_what_asyncpg_raises_on_a_connection_that_is_dying_is_unavailable_not_a_defect() -> None:
    """Between PostgreSQL's last word and the connection's end asyncpg raises InternalClientError: found by kills."""
    with pytest.raises(DmpError) as refused, translated():
        raise asyncpg.InternalClientError('cannot switch to state 11; protocol is in the "failed" state')
    assert refused.value.reason_name == "DEPENDENCY_UNAVAILABLE"
