"""What the tests of the local stack share: a state, a small health server that plays a service, a table of numbers.

A process of its own imports this module too (`health_server`).
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import asyncpg
import pytest

from ops.local import postgres_install
from ops.local.state import ServiceName, State

LIMIT = 30.0
"""Seconds after which something that takes one or two is taken for stuck."""

HEALTH_SERVER = """
import asyncio, os, signal
from pathlib import Path
import grpc
from grpc_health.v1 import health, health_pb2_grpc

def file(name):
    return Path(os.environ["DMP_" + name]).read_bytes()

async def main():
    pair = (file("TLS_KEY"), file("TLS_CERT"))
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    credentials = grpc.ssl_server_credentials([pair], file("TLS_CA"), require_client_auth=True)
    server.add_secure_port(os.environ["DMP_LISTEN"], credentials)
    await server.start()
    if "DMP_HTTP_LISTEN" in os.environ:
        await asyncio.start_server(lambda reader, writer: writer.close(), *os.environ["DMP_HTTP_LISTEN"].split(":"))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("up as", os.environ["DMP_LISTEN"], flush=True)
    await stop.wait()
    await server.stop(0)

asyncio.run(main())
"""


def health_server(service: ServiceName) -> Sequence[str]:
    return (sys.executable, "-c", HEALTH_SERVER)


def opened(directory: Path) -> State:
    directory.chmod(0o755)  # as a checkout would be: the user of PostgreSQL may pass
    return State.open(directory / "state")


@pytest.fixture(scope="session")
def state() -> Iterator[State]:
    """One state for most tests, so that only the first pays for initdb. None of them runs while another does."""
    directory = Path(tempfile.mkdtemp(prefix="dmp-stack-"))
    made = opened(directory)
    yield made
    postgres_install.remove(made)
    shutil.rmtree(directory)


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def numbers(dsn: str) -> list[int]:
    connection = await asyncpg.connect(dsn)
    try:
        return [row["number"] for row in await connection.fetch("SELECT number FROM kept ORDER BY number")]
    finally:
        await connection.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.01)
