"""What the measurements of the audit log share, and those of a log loaded by COPY: integration, proofs, pages."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from bench.ground import fresh_state
from dmp.audit.v1 import audit_pb2, log_pb2
from dmp.common.v1 import context_pb2
from ops.local.keys import ensure_keyring, ensure_log_keys
from ops.local.stack import Stack
from ops.migrations import migrate
from services.audit import store
from services.audit.entry import EntryDigests, prepare
from services.audit.leaf import SALT_BYTES, ClearPart, EventPlace, leaf, seal_clear
from services.audit.listing import Reader, TrailReader
from services.audit.logs import read_signers
from services.audit.rules import TrailFilter
from services.audit.tiles import DatabaseTiles
from services.audit.tree import LogTree
from services.runtime import postgres
from services.runtime.channels import Peer
from services.runtime.dossier_keys import DossierKeys
from services.runtime.identifiers import uuid7
from services.runtime.keyring import Keyring
from services.runtime.paging import PageTokens
from services.runtime.settings import ServiceSettings
from services.runtime.tlog.checkpoint import parse
from services.runtime.tlog.policy import Policy

CHECKPOINT: Final = "/dmp.audit.v1.AuditService/GetCheckpoint"
DOSSIERS: Final = 5000
READ_DOSSIERS: Final = 100
EVENTS_OF_ONE: Final = 400
FIRST_DOSSIER: Final = 4_611_686_018_427_387_904


@dataclass(slots=True)
class Row:
    """One measurement: events a second, latencies in milliseconds."""

    name: str
    rate: float
    p50: float
    p99: float


def event(health_id: int) -> audit_pb2.AuditEvent:
    """A read of a document, as the document service records it."""
    made = audit_pb2.AuditEvent(
        event_id=uuid7().bytes,
        health_id=health_id,
        action="document.read",
        transaction="TD3.2",
        actor=context_pb2.ActingContext(
            actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
            subject="899700245667",
            subject_name="Claire Martin",
            profession="10",
            specialty="SM26",
            structure="1750000001",
            structure_name="Hôpital Bellevue",
            authentication_mode=context_pb2.AUTHENTICATION_MODE_DIRECT,
            access_mode=context_pb2.ACCESS_MODE_NORMAL,
            software=context_pb2.Software(id="software", name="software", version="1.0", approval_number="A-1"),
            client_id="software",
        ),
        objects=[f"dossiers/{health_id:021d}/documents/{uuid.UUID(int=health_id)}"],
        outcome=audit_pb2.OUTCOME_SUCCESS,
        epoch=7,
        request_id=os.urandom(8).hex(),
    )
    made.event_time.GetCurrentTime()
    return made


def row(health_id: int) -> store.EventRow:
    """A row as the sequencer inserts it, but sealed with what looks like ciphertext."""
    made = event(health_id)
    clear = made.SerializeToString()
    return store.EventRow(
        health_id,
        uuid.UUID(bytes=made.event_id),
        "document",
        datetime.now(UTC),
        False,
        os.urandom(32),
        os.urandom(32),
        b"\x01" + made.event_id + hashlib.sha256(clear).digest(),
        os.urandom(len(clear) + SALT_BYTES + 29),
    )


@contextlib.asynccontextmanager
async def watched(audit: Peer) -> AsyncIterator[list[tuple[int, float]]]:
    """The published sizes, and when each was first seen."""
    call = audit.unary(CHECKPOINT, log_pb2.GetCheckpointRequest, log_pb2.GetCheckpointResponse)
    seen: list[tuple[int, float]] = []

    async def watch() -> None:
        while True:
            size = parse((await call(log_pb2.GetCheckpointRequest(), timeout=10)).checkpoint)[0].size
            if not seen or size > seen[-1][0]:
                seen.append((size, time.perf_counter()))
            await asyncio.sleep(0.02)

    task = asyncio.ensure_future(watch())
    try:
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def covered(seen: list[tuple[int, float]], size: int, within: float = 120) -> None:
    """Return once a checkpoint of that size was seen; TimeoutError if that takes longer than `within` seconds."""
    deadline = time.monotonic() + within
    while not seen or seen[-1][0] < size:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no checkpoint of {size} events within {within:g} seconds")
        await asyncio.sleep(0.02)


async def load(dsn: str, keyring: Keyring, count: int) -> None:
    """Fills an empty log by COPY: `READ_DOSSIERS` dossiers whose trails can be opened, the rest as it would look."""
    pool = await postgres.connect(dsn, min_size=1, max_size=2, statement_timeout_ms=600_000, name="bench")
    keys, digests = DossierKeys(keyring, "audit"), EntryDigests(keyring)
    read = [FIRST_DOSSIER + number for number in range(READ_DOSSIERS)]
    try:
        async with postgres.transaction(pool) as conn:
            opened = await keys.for_write(conn, read)
        readable = min(count // 2, READ_DOSSIERS * EVENTS_OF_ONE)
        every = count / readable
        filler = row(FIRST_DOSSIER + DOSSIERS)
        columns = ("log_id", "leaf_index", *store.EventRow._fields)
        done = written = 0
        while written < count:
            records = []
            for place in range(written, min(count, written + 20_000)):
                if place >= done * every and done < readable:
                    entry = prepare(event(read[done % READ_DOSSIERS]), "document", digests)
                    part = ClearPart(os.urandom(SALT_BYTES), entry.clear)
                    where = EventPlace(entry.health_id, entry.event_id, 0)
                    each = store.EventRow(
                        entry.health_id,
                        uuid.UUID(bytes=entry.event_id),
                        "document",
                        entry.event_time,
                        False,
                        entry.actor_digest,
                        entry.content_digest,
                        leaf(entry.event_id, part),
                        seal_clear(opened[entry.health_id], part, where),
                    )
                    done += 1
                else:
                    identity = uuid.uuid4()
                    each = filler._replace(
                        health_id=FIRST_DOSSIER + READ_DOSSIERS + random.randrange(1 << 40),
                        event_id=identity,
                        leaf=b"\x01" + identity.bytes + os.urandom(32),
                    )
                records.append((0, place, *each))
            async with pool.acquire() as conn:
                await conn.copy_records_to_table("event", records=records, columns=columns)
            written += len(records)
        await pool.execute("INSERT INTO log_head (log_id, size) VALUES (0, $1)", count)
        await pool.execute("INSERT INTO derived (log_id, next_leaf) VALUES (0, $1)", count)
        await pool.execute("ANALYZE event")
    finally:
        await pool.close()


async def reads(stack: Stack, count: int, rounds: int) -> list[Row]:
    """Proofs and patients' pages, in this process, against the loaded log."""
    keyring = Keyring.from_directory(stack.state.keyring("audit"))
    pool = await postgres.connect(stack.dsn("audit"), min_size=1, max_size=2, name="bench")
    signers = read_signers(ensure_log_keys(stack.state, "dmp.local/log"), 1)
    tree = LogTree(0, signers[0], Policy.unwitnessed(), pool, DatabaseTiles())
    reader = TrailReader(pool, DossierKeys(keyring, "audit"), EntryDigests(keyring), PageTokens(keyring), 1)
    everything = TrailFilter(own_only=False, with_secret=True)

    async def page() -> None:
        dossier = FIRST_DOSSIER + random.randrange(READ_DOSSIERS)
        found = await reader.page(Reader(dossier, "patient", everything), store.END_OF_LOG, 50)
        assert found.events

    async def proof() -> None:
        assert await tree.proof(random.randrange(count), b"") is not None

    try:
        return [
            await _timed(f"proof in a log of {count:,}", proof, rounds),
            await _timed(f"patient's page of 50 in a log of {count:,}", page, rounds),
        ]
    finally:
        await pool.close()


async def _timed(name: str, work: Callable[[], Awaitable[None]], rounds: int) -> Row:
    latencies = []
    for _ in range(rounds):
        begun = time.perf_counter()
        await work()
        latencies.append(time.perf_counter() - begun)
    return Row(name, rounds / sum(latencies), *percentiles(latencies))


def percentiles(latencies: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(latencies)
    return ordered[len(ordered) // 2] * 1000, ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000


async def loaded(count: int, rounds: int) -> list[Row]:
    """The rows of a log of `count` events: its integration, proofs, pages."""
    async with fresh_state() as state:
        keyring = Keyring.from_directory(ensure_keyring(state, "audit"))

        async def fill(service: str, dsn: str) -> None:
            await migrate(service, dsn)  # type: ignore[arg-type]
            await load(dsn, keyring, count)

        begun = time.perf_counter()
        async with Stack(state, ("audit",), migrate=fill) as stack:
            mine = stack.authority.service("document")
            settings = ServiceSettings(
                environment="test", tls_cert=mine.certificate, tls_key=mine.key, tls_ca=mine.authority
            )
            audit = Peer("audit", stack.target("audit"), settings)
            begun = time.perf_counter()
            async with watched(audit) as seen:
                await covered(seen, count, within=3600)
            took = time.perf_counter() - begun
            await audit.close()
            return [Row(f"integration of {count:,}", count / took, 0.0, 0.0), *await reads(stack, count, rounds)]
