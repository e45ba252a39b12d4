"""Appending to a service that may die, and looking at what is left when it is back."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

import asyncpg

from dmp.audit.v1 import audit_pb2
from services.runtime.channels import Peer
from services.runtime.errors import DmpError
from services.runtime.server import APPEND
from services.runtime.tlog.checkpoint import Checkpoint, parse
from services.runtime.trail import receipts
from tests import independent_verifier
from tests.audit_log import DOSSIER, event, places
from tests.faults.forked import Process
from tests.integration.test_audit_service import Platform

_BETWEEN: Final = 0.005
"""Seconds between two calls: all of it is looked at after each restart, so it grows no more than it must."""


async def append_while_it_lasts(document: Peer, acknowledged: dict[bytes, int], seconds: float) -> None:
    call = document.unary(APPEND, audit_pb2.BatchAppendEventsRequest, audit_pb2.BatchAppendEventsResponse)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        events = [event(DOSSIER + number) for number in range(4)]
        try:
            found = places(receipts(await call(audit_pb2.BatchAppendEventsRequest(events=events), timeout=3)))
        except DmpError:
            await asyncio.sleep(0.05)
            continue
        acknowledged.update(zip((each.event_id for each in events), found, strict=True))
        await asyncio.sleep(_BETWEEN)


WITHIN: Final = 5.0
"""Seconds after a restart within which all that was acknowledged is in the published tree."""


def patience(seconds: float) -> float:
    """So many seconds on a machine that has time; more where others keep it busy, so that only this is tested."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


async def serves(platform: Platform, process: Process) -> None:
    """Returns once the process takes connections: it has imported, migrated nothing, and checked its log."""
    host, _, port = platform.address.rpartition(":")
    deadline = time.monotonic() + 60
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            if process.returncode is not None:
                _, errors = await process.communicate()
                raise AssertionError(f"it ended with {process.returncode}: {errors.decode()[-2000:]}") from None
            assert time.monotonic() < deadline, "it starts"
            await asyncio.sleep(0.02)
            continue
        writer.close()
        return


async def recovered(platform: Platform, acknowledged: dict[bytes, int], seen: dict[int, bytes]) -> str:
    """Restart it, and look: within five seconds of serving again all that was acknowledged is in the tree, once; it
    takes events; no published checkpoint is contradicted."""
    process = await platform.spawn()
    try:
        await serves(platform, process)
        began = time.monotonic()
        await covered(platform, max(acknowledged.values(), default=-1) + 1)
        took = time.monotonic() - began
        assert took < patience(WITHIN), f"{took:.1f} s until all that was acknowledged was in the tree"
        async with platform.connected(platform.authority.service("document")) as document:
            before, deadline = len(acknowledged), time.monotonic() + 60
            while len(acknowledged) == before:
                assert time.monotonic() < deadline, "it takes events again"
                await append_while_it_lasts(document, acknowledged, 1)
            checkpoint = await covered(platform, max(acknowledged.values(), default=-1) + 1)
    finally:
        process.kill()
        await process.communicate()
    connection = await asyncpg.connect(platform.dsn)
    rows = await connection.fetch("SELECT leaf_index, event_id, leaf FROM event ORDER BY leaf_index")
    await connection.close()
    assert [row["leaf_index"] for row in rows] == list(range(len(rows)))
    known = {row["event_id"].bytes: row["leaf_index"] for row in rows}
    assert len(known) == len(rows), "each once"
    assert acknowledged.items() <= known.items()
    leaves = [independent_verifier.sha(b"\0" + row["leaf"]) for row in rows]
    seen[checkpoint.size] = checkpoint.root
    assert independent_verifier.mths(leaves, seen) == [*seen.values()], "a published checkpoint is never contradicted"
    return checkpoint.origin


async def covered(platform: Platform, size: int) -> Checkpoint:
    """The published checkpoint, once it covers so many events."""
    deadline = time.monotonic() + 30
    connection = await asyncpg.connect(platform.dsn)
    try:
        while True:
            published = await connection.fetchval("SELECT published FROM checkpoint WHERE log_id = 0")
            if published is not None:
                checkpoint, _ = parse(published)
                if checkpoint.size >= size:
                    return checkpoint
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    finally:
        await connection.close()
