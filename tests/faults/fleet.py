"""Two replicas of every service, each killed, frozen and restarted at will, on the databases of a local stack.

Lives here: `Zygote` (the process that forks them), `Fleet` (which replica runs, and how it is broken). What is asked of
them is in `clients`, what must hold in `history`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ops.local import postgres_install
from ops.local.readiness import accepts_tcp, serves_grpc_at_socket
from ops.local.stack import ROOT, Stack, process_name
from ops.local.state import SERVICES, Endpoint, ServiceName, State
from ops.local.supervisor import tail
from ops.migrations import migrate
from services.runtime.settings import UNIX

REPLICAS: Final = 2
_READY_SECONDS: Final = 20.0
_ROOM_IN_MEMORY: Final = 4 << 30
_STOP_SECONDS: Final = 20.0


class NotReady(Exception):
    """A replica died, or did not listen in time; the message ends with the last lines of its log."""


@dataclass(slots=True)
class Replica:
    """A process of a service. `ended` is set when it is gone; `code` is then its exit code, negative for a signal."""

    service: ServiceName
    number: int
    pid: int
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    code: int = 0

    def send(self, number: signal.Signals) -> None:
        """A signal, unless it is gone. (Its id is free for others only once its end has been told.)"""
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Zygote:
    """The forking process. Use as an async context manager."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._pids: asyncio.Queue[int] = asyncio.Queue()
        self._replicas: dict[int, Replica] = {}
        self._gone: dict[int, int] = {}

    async def __aenter__(self) -> Zygote:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.faults.zygote",
            cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert json.loads(await self._process.stdout.readline()) == {"ready": True}
        self._listening = asyncio.ensure_future(self._listen(self._process.stdout))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._listening is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._listening

    async def fork(
        self, service: ServiceName, number: int, env: Mapping[str, str], log: Path, prelude: str = ""
    ) -> Replica:
        """A new process of a service; `prelude` names a module whose `apply` it calls before it starts."""
        assert self._process is not None
        assert self._process.stdin is not None
        order = {"service": service, "env": json.dumps(dict(env)), "log": str(log), "prelude": prelude}
        async with self._one_at_a_time:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            replica = Replica(service, number, await self._pids.get())
        self._replicas[replica.pid] = replica
        if replica.pid in self._gone:
            self._end(replica.pid, self._gone.pop(replica.pid))
        return replica

    async def _listen(self, told: asyncio.StreamReader) -> None:
        while line := await told.readline():
            said = json.loads(line)
            if "pid" in said:
                self._pids.put_nowait(said["pid"])
            elif said["ended"] in self._replicas:
                self._end(said["ended"], said["code"])
            else:
                self._gone[said["ended"]] = said["code"]

    def _end(self, pid: int, code: int) -> None:
        replica = self._replicas.pop(pid)
        replica.code = code
        replica.ended.set()


class Fleet:
    """The replicas of a stack's services. `overrides` are settings for every process, by full name."""

    def __init__(self, stack: Stack, zygote: Zygote, overrides: Mapping[str, str] | None = None) -> None:
        self.stack = stack
        self.overrides = dict(overrides or {})
        self._zygote = zygote
        self._running: dict[tuple[ServiceName, int], Replica] = {}
        self._environments: dict[tuple[ServiceName, int], dict[str, str]] = {}
        self._at_sockets: set[tuple[ServiceName, int]] = set()
        self.starts = 0

    @property
    def state(self) -> State:
        """Where keys and logs are."""
        return self.stack.state

    def replica(self, service: ServiceName, number: int) -> Replica:
        """The process that runs, or ran last, as this replica."""
        return self._running[service, number]

    def alive(self, service: ServiceName, number: int) -> bool:
        """Whether it runs."""
        running = self._running.get((service, number))
        return running is not None and not running.ended.is_set()

    def native(self, service: ServiceName, number: int) -> dict[str, str]:
        """Settings that put a replica on the native transport. No terminator is before it: `Clients` alone reach it."""
        return {"DMP_TRANSPORT": "native", "DMP_LISTEN": f"{UNIX}{self.stack.socket(service, number)}"}

    def socket(self, service: ServiceName, number: int) -> Path | None:
        """Where a replica on the native transport listens, or last did; None for one on grpcio."""
        return self.stack.socket(service, number) if (service, number) in self._at_sockets else None

    async def start_all(self, services: Sequence[ServiceName] = SERVICES) -> None:
        """Start every replica that does not run, as it should be; return when all are ready."""
        async with asyncio.TaskGroup() as group:
            for service in services:
                for number in range(REPLICAS):
                    if not self.alive(service, number):
                        group.create_task(self.start(service, number))

    async def fork(
        self, service: ServiceName, number: int, overrides: Mapping[str, str] | None = None, prelude: str = ""
    ) -> Replica:
        """Start a replica, without waiting for it. An override of "" takes a setting away."""
        key = (service, number)
        assert not self.alive(*key), f"{process_name(*key)} runs already"
        if key not in self._environments:
            self._environments[key] = self.stack.env(service, number)
        log = self.state.log(process_name(service, number))
        log.parent.mkdir(mode=0o700, exist_ok=True)
        env = self._environments[key] | self.overrides | dict(overrides or {})
        if env["DMP_TRANSPORT"] == "native":
            self._at_sockets.add(key)
        else:
            self._at_sockets.discard(key)
        replica = self._running[key] = await self._zygote.fork(service, number, env, log, prelude)
        self.starts += 1
        return replica

    async def start(
        self, service: ServiceName, number: int, overrides: Mapping[str, str] | None = None, prelude: str = ""
    ) -> Replica:
        """Start a replica and return when it listens. Raises NotReady."""
        replica = await self.fork(service, number, overrides, prelude)
        await self.ready(replica)
        return replica

    async def ready(self, replica: Replica) -> None:
        """Return when a replica listens. Raises NotReady."""
        ready = asyncio.ensure_future(self.listens(replica))
        ended = asyncio.ensure_future(replica.ended.wait())
        try:
            await asyncio.wait({ready, ended}, timeout=_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done() or replica.ended.is_set():
                name = process_name(replica.service, replica.number)
                raise NotReady("\n    ".join((f"{name} is not ready", *tail(self.state.log(name)))))
        finally:
            ready.cancel()
            ended.cancel()

    async def kill(self, service: ServiceName, number: int) -> None:
        """`kill -9`; returns when it is gone."""
        await self.end(service, number, signal.SIGKILL)

    async def terminate(self, service: ServiceName, number: int) -> float:
        """SIGTERM, as a rolling restart does; the seconds that it took to end."""
        begun = time.monotonic()
        await self.end(service, number, signal.SIGTERM)
        return time.monotonic() - begun

    async def end(self, service: ServiceName, number: int, how: signal.Signals) -> None:
        """Send a signal that ends a replica; returns when it is gone."""
        replica = self._running[service, number]
        replica.send(how)
        async with asyncio.timeout(_STOP_SECONDS):
            await replica.ended.wait()

    async def stop_all(self) -> None:
        """End every replica at once."""
        for replica in self._running.values():
            replica.send(signal.SIGKILL)
        for replica in self._running.values():
            await replica.ended.wait()

    async def listens(self, replica: Replica) -> None:
        """Return when a replica's ports are open; never, if they never are."""
        socket = self.socket(replica.service, replica.number)
        if socket is None:
            await accepts_tcp(self.stack.address(replica.service, replica.number))
        else:
            await serves_grpc_at_socket(socket)
        if replica.service == "gateway":
            await accepts_tcp(self.stack.ports.address(Endpoint("gateway", replica.number, "http")))


@asynccontextmanager
async def running_fleet(
    zygote: Zygote, overrides: Mapping[str, str] | None = None, *, start: bool = True
) -> AsyncIterator[Fleet]:
    """Databases, Redis, keys, and two replicas of every service; gone with all their data afterwards."""
    root = Path(tempfile.mkdtemp(prefix="dmp-faults-", dir=_quick_directory()))
    root.chmod(0o755)  # the user of PostgreSQL passes through; each part protects its own files
    state = State.open(root / "state")
    try:
        async with Stack(state, (), replicas=dict.fromkeys(SERVICES, REPLICAS)) as stack:
            fleet = Fleet(stack, zygote, overrides)
            for service in SERVICES:
                await migrate(service, stack.dsn(service))
            try:
                if start:
                    await fleet.start_all()
                yield fleet
            finally:
                await fleet.stop_all()
    finally:
        postgres_install.remove(state)
        shutil.rmtree(root)


def _quick_directory() -> Path | None:
    """Memory, where there is enough: for a process that is killed it is as durable as a disk, and syncing is free."""
    memory = Path("/dev/shm")  # noqa: S108 (only a directory of random name is made there)
    if memory.is_dir() and shutil.disk_usage(memory).free > _ROOM_IN_MEMORY:
        return memory
    return None
