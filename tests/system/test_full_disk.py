"""A full disk refuses and forgets nothing: what cannot be recorded is not served, and all goes on once there is room.

The tables that grow are moved to a small file system of their own (tmpfs), which a file fills. Mounting needs root.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from ops.local.postgres_install import place
from ops.local.state import ServiceName
from tests.faults.campaign import publish
from tests.faults.clients import Clients
from tests.faults.fleet import Fleet
from tests.faults.history import End, Records
from tests.faults.trial import Trial

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a small file system needs root to be mounted"),
]

_GROWING: Final[Mapping[ServiceName, Sequence[str]]] = {
    "audit": ("event",),
    "consent": ("consent_event", "idempotency", "outbox"),
    "document": ("document", "content", "change", "idempotency", "outbox"),
}
_MEBIBYTES: Final = 24
_FULL_SECONDS: Final = 2.5


class SmallDisk:
    """The mounted file system. Full, it has no byte left."""

    def __init__(self, directory: Path) -> None:
        self._filler = directory / "filler"

    def fill(self) -> None:
        """Take all the room there is."""
        with self._filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(bytes(4096))

    def empty(self) -> None:
        """Give it back."""
        self._filler.unlink()


@asynccontextmanager
async def small_disk(fleet: Fleet) -> AsyncIterator[SmallDisk]:
    """What grows lies on a small disk, and back where it was afterwards."""
    placement = place(fleet.state)
    mounted = placement.home / "small"
    mounted.mkdir()
    owner = f",uid={placement.account.uid},gid={placement.account.gid}" if placement.account else ""
    options = f"size={_MEBIBYTES}m,mode=0700{owner}"
    if not await _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mounted)):
        mounted.rmdir()
        pytest.skip("this machine lets nobody mount a file system")
    try:
        location = mounted / "tables"
        location.mkdir(mode=0o700)
        placement.give(location)
        await _execute(fleet, "postgres", f"CREATE TABLESPACE small LOCATION '{location}'")
        await _move(fleet, "small")
        yield SmallDisk(mounted)
    finally:
        (mounted / "filler").unlink(missing_ok=True)
        await _move(fleet, "pg_default")
        await _execute(fleet, "postgres", "CHECKPOINT")
        await _execute(fleet, "postgres", "DROP TABLESPACE IF EXISTS small")
        await _run("umount", "--lazy", str(mounted))
        mounted.rmdir()


async def _run(*argv: str) -> bool:
    process = await asyncio.create_subprocess_exec(*argv)
    return await process.wait() == 0


async def _move(fleet: Fleet, space: str) -> None:
    for service, tables in _GROWING.items():
        for table in tables:
            await _execute(fleet, f"dmp_{service}", f"ALTER TABLE {table} SET TABLESPACE {space}")


async def _execute(fleet: Fleet, database: str, statement: str) -> None:
    connection = await asyncpg.connect(fleet.stack.superuser_dsn(database))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_full_disk_refuses_and_loses_nothing(fleet: Fleet, clients: Clients) -> None:
    trial = await Trial.open(clients, 4)
    records = Records(fleet.stack)
    async with small_disk(fleet) as disk, trial.loaded(random.Random(20_261_122)):
        await asyncio.sleep(0.5)
        disk.fill()
        await asyncio.sleep(_FULL_SECONDS)
        before = await records.log_size()
        unknown = sum(asked.end is End.UNKNOWN for asked in trial.history.requests.values())
        disk.empty()
        await asyncio.sleep(1.0)
    wrong = await trial.judge()
    publish("full disk", {"requests": dict(trial.history.counts()), "violations": wrong})
    assert unknown > 0, "the disk was not full"
    assert await records.log_size() > before
    assert wrong == []
