"""A second PostgreSQL cluster that follows the stack's synchronously, and takes over.

Lives here: base backup, start, promotion, and which cluster acknowledges nothing alone. The services reach either one
through a proxy, which stands for the fenced address of the primary: only the test decides where it leads.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg

from ops.local.databases import database_name, write_dsn
from ops.local.postgres import SETTINGS, SUPERUSER
from ops.local.postgres_install import Placement, place, run_as
from ops.local.stack import Stack
from ops.local.state import LOOPBACK, POSTGRES, SERVICES
from ops.local.supervisor import ProcessSpec, Supervisor
from tests.faults.proxy import Proxy
from tests.ports import free_port

NAME: Final = "standby"
_PATIENCE: Final = 20.0


class Standby:
    """The follower. `address` is where it listens."""

    def __init__(self, stack: Stack, supervisor: Supervisor, directory: Path, port: int, placement: Placement) -> None:
        self._stack = stack
        self._supervisor = supervisor
        self._directory = directory
        self._port = port
        self._placement = placement

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def superuser_dsn(self) -> str:
        """As the stack's, to this cluster."""
        return self._stack.superuser_dsn().replace(self._stack.ports.address(POSTGRES), self.address)

    async def copy(self, source: str) -> None:
        """A base backup of the server at `source`, set to follow it by that address."""
        primary = self._stack.superuser_dsn().replace(self._stack.ports.address(POSTGRES), source)
        argv = (
            self._placement.program("pg_basebackup"),
            *("--pgdata", str(self._directory), "--wal-method=stream", "--checkpoint=fast", "--write-recovery-conf"),
            *("--no-sync", "--dbname", f"{primary}?application_name={NAME}"),
        )
        outcome = await asyncio.to_thread(run_as, self._placement.account, argv, self._placement.home)
        assert outcome.returncode == 0, outcome.stderr

    async def start(self) -> None:
        """Start it; return when it takes connections."""
        settings = (*SETTINGS, ("port", str(self._port)), ("unix_socket_directories", ""))
        arguments = (argument for name, value in settings for argument in ("-c", f"{name}={value}"))
        await self._supervisor.start(
            ProcessSpec(
                name=NAME,
                argv=(self._placement.program("postgres"), "-D", str(self._directory), *arguments),
                environ={"LC_ALL": "C", "TZ": "UTC"},
                cwd=self._placement.home,
                ready=lambda: answers(self.superuser_dsn),
                account=self._placement.account,
                stop_signal=signal.SIGINT,
                orphan_signal=signal.SIGINT,
            )
        )

    async def promote(self) -> None:
        """Make it the primary; it had been told to follow, and now takes writes. Without a standby of its own."""
        connection = await asyncpg.connect(self.superuser_dsn)
        try:
            assert await connection.fetchval("SELECT pg_promote(true, 30)")
        finally:
            await connection.close()


async def answers(dsn: str) -> None:
    """Return when a server takes connections."""
    while True:
        try:
            connection = await asyncpg.connect(dsn)
        except (OSError, asyncpg.PostgresError):
            await asyncio.sleep(0.05)
        else:
            await connection.close()
            return


async def _let_follow(stack: Stack) -> None:
    """Open the primary to a follower. (The stack writes its pg_hba.conf anew at each start.)"""
    with (place(stack.state).data / "pg_hba.conf").open("a", encoding="ascii") as rules:
        rules.write(f"host replication {SUPERUSER} {LOOPBACK}/32 scram-sha-256\n")
    await _execute(stack, "SELECT pg_reload_conf()")


async def acknowledge_only_together(stack: Stack) -> None:
    """From now on the stack's own cluster acknowledges no commit that its standby does not hold (`ANY 1`)."""
    await _execute(stack, f"ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 ({NAME})'")
    await _execute(stack, "SELECT pg_reload_conf()")
    async with asyncio.timeout(_PATIENCE):
        while not await _execute(stack, "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'quorum'"):
            await asyncio.sleep(0.05)


async def _execute(stack: Stack, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(stack.superuser_dsn())
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def followed(stack: Stack) -> AsyncIterator[tuple[Standby, Proxy, Proxy]]:
    """A standby that follows the stack's cluster, the address that services reach the primary by, and the way on which
    the standby follows. The services' settings lead through that address from now on."""
    placement = place(stack.state)
    primary = stack.ports.address(POSTGRES)
    supervisor = Supervisor(stack.state)
    directory = placement.home / NAME
    async with Proxy(primary) as front, Proxy(primary) as following:
        for service in SERVICES:
            write_dsn(stack.state, service, stack.dsn(service).replace(primary, front.address))
        standby = Standby(stack, supervisor, directory, free_port(), placement)
        await _let_follow(stack)
        await standby.copy(following.address)
        await standby.start()
        try:
            yield standby, front, following
        finally:
            await supervisor.stop_all()
            shutil.rmtree(directory)


async def try_to_write(superuser_dsn: str, seconds: float) -> bool:
    """Whether a server acknowledges a commit to the consent database within the time. It is left alone afterwards:
    a cancelled commit would be acknowledged as committed here, and only here."""
    connection = await asyncpg.connect(superuser_dsn.rpartition("/")[0] + "/" + database_name("consent"))
    commit = asyncio.ensure_future(connection.execute("INSERT INTO job VALUES ('zombie', now())"))
    try:
        done, _ = await asyncio.wait({commit}, timeout=seconds)
        return bool(done) and commit.exception() is None
    finally:
        connection.terminate()
        await asyncio.wait({commit})
        if not commit.cancelled():
            commit.exception()
