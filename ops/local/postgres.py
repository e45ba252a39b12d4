"""The PostgreSQL cluster of a local stack: initdb once, start, stop. Which databases are in it is in `databases.py`.

Durable like production (fsync and synchronous commit on), password only (scram-sha-256, on the Unix socket too), on
127.0.0.1. A former server of the same state, left by a stack that was killed, is stopped before ours starts.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from pathlib import Path
from typing import Final

from ops.local.postgres_install import Placement, place, run_as, socket_directory
from ops.local.state import LOOPBACK, State, StateError
from ops.local.supervisor import ChildFailed, ProcessSpec, Supervisor, command_line, end_process, tail

NAME: Final = "postgres"
SUPERUSER: Final = "postgres"

SETTINGS: Final[tuple[tuple[str, str], ...]] = (
    ("listen_addresses", LOOPBACK),
    ("unix_socket_permissions", "0700"),
    ("max_connections", "200"),
    ("password_encryption", "scram-sha-256"),
    # Acknowledged is kept: the local stack keeps that promise like production does.
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    ("shared_buffers", "256MB"),
    ("wal_buffers", "16MB"),
    ("min_wal_size", "256MB"),
    ("max_wal_size", "2GB"),
    ("checkpoint_timeout", "15min"),
    # Short indexed queries only: compiling them and planning workers costs more than running them.
    ("jit", "off"),
    ("max_parallel_workers_per_gather", "0"),
    ("random_page_cost", "1.1"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    # An error names the constraint, never the row: DETAIL and STATEMENT would carry values into the log.
    ("log_error_verbosity", "terse"),
    ("log_min_error_statement", "panic"),
    ("log_parameter_max_length_on_error", "0"),
)

_HBA: Final = f"""# Written at each start.
local all all                scram-sha-256
host  all all {LOOPBACK}/32   scram-sha-256
"""
_STOP_FAST: Final = signal.SIGINT
_LEFTOVER_SECONDS: Final = 10.0


class Postgres:
    """One cluster. `start` and `stop` may be repeated; the data stays."""

    def __init__(self, state: State, supervisor: Supervisor, port: int) -> None:
        self._state = state
        self._supervisor = supervisor
        self._port = port
        self._placement: Placement | None = None

    @property
    def placement(self) -> Placement:
        """Where binaries and data lie; known after the first start."""
        if self._placement is None:
            raise StateError("PostgreSQL has not been started")
        return self._placement

    def dsn(self, database: str, user: str) -> str:
        """A TCP DSN with the password that the state keeps for `user`."""
        return f"postgresql://{user}:{self._state.password(user)}@{LOOPBACK}:{self._port}/{database}"

    async def start(self) -> None:
        """Starts the server and returns when it accepts connections (recovery after a crash included).

        Errors: StateError when the cluster cannot be made; ChildFailed with the end of the log when it does not start.
        """
        self._placement = placement = place(self._state)
        await asyncio.to_thread(self._create, placement)
        await end_former_server(placement)
        (placement.data / "pg_hba.conf").write_text(_HBA, encoding="ascii")
        sockets = socket_directory(self._state, placement)
        deadline = time.monotonic() + _LEFTOVER_SECONDS
        while True:
            try:
                return await self._supervisor.start(self._spec(placement, sockets))
            except ChildFailed as failure:
                # Sessions of a server killed a moment ago hold its shared memory until they notice, milliseconds later.
                if "shared memory block" not in str(failure) or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """Ends sessions, writes a checkpoint, stops."""
        await self._supervisor.stop(NAME)

    async def kill(self) -> None:
        """`kill -9` of the server process, as a crash would."""
        await self._supervisor.kill(NAME)

    def _spec(self, placement: Placement, sockets: Path) -> ProcessSpec:
        settings = (*SETTINGS, ("port", str(self._port)), ("unix_socket_directories", str(sockets)))
        arguments = (argument for name, value in settings for argument in ("-c", f"{name}={value}"))
        return ProcessSpec(
            name=NAME,
            argv=(placement.program("postgres"), "-D", str(placement.data), *arguments),
            environ={"LC_ALL": "C", "TZ": "UTC"},
            cwd=placement.home,
            ready=lambda: _accepts_connections(placement, self._supervisor),
            account=placement.account,
            stop_signal=_STOP_FAST,
            orphan_signal=_STOP_FAST,
            ready_seconds=120.0,
            stop_seconds=30.0,
        )

    def _create(self, placement: Placement) -> None:
        """initdb beside the final place, then one rename: a cluster is there whole or not at all."""
        if placement.data.exists():
            return
        fresh = placement.home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        password = placement.home / "superuser.password"
        password.touch(mode=0o600)
        try:
            password.write_text(self._state.password(SUPERUSER), encoding="ascii")
            placement.give(password)
            options = f"-U {SUPERUSER} -A scram-sha-256 --encoding=UTF8 --locale=C --locale-provider=builtin".split()
            outcome = run_as(
                placement.account,
                (
                    placement.program("initdb"),
                    *options,
                    "--builtin-locale=C.UTF-8",
                    f"--pwfile={password}",
                    "-D",
                    str(fresh),
                ),
                placement.home,
            )
        finally:
            password.unlink()
        if outcome.returncode != 0:
            raise StateError(f"initdb failed in {placement.home}: {outcome.stderr.strip()}")
        fresh.rename(placement.data)


async def end_former_server(placement: Placement) -> bool:
    """Stops the server that a killed stack left on this data. Returns whether there was one.

    The lock file of a server that is gone is left to PostgreSQL, which uses it to see whether sessions still run; it is
    deleted only where PostgreSQL would refuse to start: it is empty, or its process id is now another program's.
    """
    lock = placement.data / "postmaster.pid"
    if not lock.exists():
        return False
    recorded = tail(lock, lines=100)
    pid = int(recorded[0]) if recorded else None
    data = str(placement.data)
    if pid is not None and await end_process(pid, lambda: data in command_line(pid), _STOP_FAST):
        return True
    if pid is None or command_line(pid):
        lock.unlink(missing_ok=True)
    return False


async def _accepts_connections(placement: Placement, supervisor: Supervisor) -> None:
    """Waits for the last line of postmaster.pid, which PostgreSQL sets to `ready` once it takes connections."""
    lock = placement.data / "postmaster.pid"
    while True:
        lines = tail(lock, lines=100)
        if len(lines) >= 8 and lines[7].strip() == "ready" and int(lines[0]) == supervisor.pid(NAME):
            return
        await asyncio.sleep(0.01)
