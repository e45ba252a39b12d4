"""The ground that a run stands on: a state directory for its platform alone, and the echo server beside it."""

from __future__ import annotations

import contextlib
import random
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import grpc.aio

from bench import floor
from ops.local import postgres_install
from ops.local.envoy import Terminator
from ops.local.readiness import accepts_tcp
from ops.local.stack import ROOT, Stack
from ops.local.state import LOOPBACK, PORT_RANGE, State, is_free
from ops.local.supervisor import ProcessSpec, Supervisor


@contextlib.asynccontextmanager
async def fresh_state() -> AsyncIterator[State]:
    """A state directory that is gone afterwards, with the cluster in it."""
    state, directory = _new_state()
    try:
        yield state
    finally:
        postgres_install.remove(state)
        shutil.rmtree(directory)


@contextlib.asynccontextmanager
async def kept_state(directory: Path) -> AsyncIterator[State]:
    """A state directory that stays, for what takes long to load."""
    yield State.open(directory)


@contextlib.asynccontextmanager
async def echo_server(stack: Stack, *, secure: bool) -> AsyncIterator[str]:
    """An echo server as a child process; its address. It shows the certificate of the document service."""
    address = free_address()
    identity = stack.authority.service("document")
    tls = ("--identity", str(identity.certificate.parent), "--ca", str(identity.authority)) if secure else ()
    supervisor = Supervisor(stack.state)
    spec = ProcessSpec(
        name="echo" if secure else "echo-plain",
        argv=(sys.executable, "-m", "bench.echo", address, *tls),
        environ=stack.env("document"),
        cwd=ROOT,
        ready=partial(accepts_tcp, address),
    )
    try:
        await supervisor.start(spec)
        yield address
    finally:
        await supervisor.stop_all()


@contextlib.asynccontextmanager
async def floor_servers(stack: Stack, dsn: str, count: int) -> AsyncIterator[list[str]]:
    """So many servers of `bench.floor` on the database `dsn`, as child processes; their addresses."""
    identity, supervisor = stack.authority.service("document"), Supervisor(stack.state)
    addresses: list[str] = []
    try:
        while len(addresses) < count:
            address = free_address()
            tls = ("--identity", str(identity.certificate.parent), "--ca", str(identity.authority))
            spec = ProcessSpec(
                name=f"floor-{len(addresses)}",
                argv=(sys.executable, "-m", "bench.floor", address, *tls),
                environ={**stack.env("document"), floor.DSN: dsn},
                cwd=ROOT,
                ready=partial(accepts_tcp, address),
            )
            await supervisor.start(spec)
            addresses.append(address)
        yield addresses
    finally:
        await supervisor.stop_all()


@contextlib.asynccontextmanager
async def native_echo_server(stack: Stack) -> AsyncIterator[tuple[str, str]]:
    """An echo server on the native transport, its terminator before it; the addresses of both, in this order."""
    socket, address = stack.socket("document").with_name("echo.sock"), free_address()
    supervisor, identity = Supervisor(stack.state), stack.authority.service("document")
    spec = ProcessSpec(
        name="echo-native",
        argv=(sys.executable, "-m", "bench.echo", f"unix:{socket}"),
        environ=stack.env("document"),
        cwd=ROOT,
        ready=partial(_serves_at, f"unix:{socket}"),
    )
    terminator = Terminator(
        "envoy-echo", address, socket, identity, stack.state.root / "envoy" / "echo", client_certificate=True
    )
    try:
        await supervisor.start(spec)
        await supervisor.start(terminator.spec(order=0, ready=partial(accepts_tcp, address)))
        yield f"unix:{socket}", address
    finally:
        await supervisor.stop_all()


async def _serves_at(path: str) -> None:
    async with grpc.aio.insecure_channel(path) as channel:
        await channel.channel_ready()


def _new_state() -> tuple[State, Path]:
    directory = Path(tempfile.mkdtemp(prefix="dmp-bench-"))
    directory.chmod(0o711)  # PostgreSQL's user passes through
    return State.open(directory / "state"), directory


def free_address() -> str:
    """Where a server could listen now."""
    return f"{LOOPBACK}:{next(port for port in iter(_any_port, None) if is_free(port))}"


def _any_port() -> int:
    return random.choice(PORT_RANGE)
