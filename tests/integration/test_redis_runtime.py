"""What the platform makes of Redis: used while it answers, done without while it does not."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Awaitable, Iterator

import pytest
import redis.asyncio

from ops.local.redis import server_program
from services.runtime.redis import Redis
from tests.ports import free_port


class Server:
    """A Redis server of this test's own, with nothing on disk."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.process = subprocess.Popen([server_program(), *options], stdout=subprocess.DEVNULL)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    made.start()
    yield made
    made.stop()


def increment(client: redis.asyncio.Redis) -> Awaitable[int]:
    return client.incr("count")


def is_available(quotas: Redis) -> bool:
    return quotas.available


async def answered(quotas: Redis) -> int:
    async with asyncio.timeout(5):
        while (answer := await quotas.use(increment, -1)) < 0:
            await asyncio.sleep(0.02)
    return answer


async def test_a_redis_that_dies_is_done_without_and_found_again(server: Server) -> None:
    fallbacks: list[None] = []
    quotas = Redis(f"redis://127.0.0.1:{server.port}", try_again_after=0.1, fell_back=lambda: fallbacks.append(None))
    assert await answered(quotas) == 1
    assert await quotas.use(increment, -1) == 2
    assert is_available(quotas)
    server.stop()
    fallbacks.clear()
    assert [await quotas.use(increment, -1) for _ in range(3)] == [-1, -1, -1]
    assert not is_available(quotas)
    assert len(fallbacks) == 3
    server.start()
    assert await answered(quotas) == 1, "empty again, and nobody minds"
    assert is_available(quotas)
    await quotas.close()


async def test_a_redis_that_hangs_holds_up_one_use_and_not_the_others(server: Server) -> None:
    first = Redis(f"redis://127.0.0.1:{server.port}", try_again_after=0.1)
    await answered(first)
    await first.close()
    quotas = Redis(f"redis://127.0.0.1:{server.port}", timeout=0.2, try_again_after=5)
    assert await quotas.use(increment, -1) == 2
    server.signal(signal.SIGSTOP)
    started = time.monotonic()
    assert await quotas.use(increment, -1) == -1
    assert time.monotonic() - started < 1
    started = time.monotonic()
    assert [await quotas.use(increment, -1) for _ in range(1000)] == [-1] * 1000
    assert time.monotonic() - started < 0.2
    await quotas.close()


async def test_a_burst_shares_the_connections(server: Server) -> None:
    quotas = Redis(f"redis://127.0.0.1:{server.port}", timeout=2, try_again_after=0.1)
    first = await answered(quotas)
    answers = await asyncio.gather(*(quotas.use(increment, -1) for _ in range(200)))
    assert sorted(answers) == list(range(first + 1, first + 201))
    await quotas.close()


async def test_a_command_that_redis_refuses_falls_back_without_giving_redis_up(server: Server) -> None:
    quotas = Redis(f"redis://127.0.0.1:{server.port}", timeout=2, try_again_after=0.1)
    await answered(quotas)
    await quotas.use(lambda client: client.set("word", "text"), None)
    assert await quotas.use(lambda client: client.incr("word"), -1) == -1
    assert quotas.available
    await quotas.close()


async def test_without_redis_every_use_falls_back() -> None:
    quotas = Redis(None)
    assert await quotas.use(increment, -1) == -1
    assert not quotas.available
    await quotas.close()
