"""What the measurements of the audit log share, and those of a log loaded by COPY: integration, proofs, pages."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import random
import struct
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import asyncpg

from bench.ground import fresh_state
from dmp.audit.v1 import audit_pb2
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
from services.runtime.dossier_keys import DossierKeyBatch, DossierKeys
from services.runtime.identifiers import uuid7
from services.runtime.keyring import Keyring
from services.runtime.paging import PageTokens
from services.runtime.tlog.policy import Policy
from services.runtime.tlog.receipt import Proof, verify

DOSSIERS: Final = 5000
READ_DOSSIERS: Final = 100
EVENTS_OF_ONE: Final = 400
FIRST_DOSSIER: Final = 4_611_686_018_427_387_904
_PIECE: Final = 4096
_HEAD: Final = struct.Struct(">hiqiqiqi16s")
_LEAF: Final = (49).to_bytes(4, "big") + b"\x01"
_POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_INDEXES: Final = """
SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'event' AND indexname <> 'event_pkey'
"""


@dataclass(slots=True)
class Row:
    """One measurement: events a second, latencies in milliseconds, CPU microseconds an event."""

    name: str
    rate: float
    p50: float
    p99: float
    service: float = 0.0
    database: float = 0.0


class EventRow(NamedTuple):
    """A row of the table `event`, without its place."""

    health_id: int
    event_id: uuid.UUID
    producer: str
    event_time: datetime
    secret: bool
    actor_digest: bytes
    content_digest: bytes
    leaf: bytes
    sealed: bytes


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


def row(health_id: int) -> EventRow:
    """A row as the sequencer inserts it, but sealed with what looks like ciphertext."""
    made = event(health_id)
    clear = made.SerializeToString()
    return EventRow(
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
async def watched(dsn: str) -> AsyncIterator[list[tuple[int, float]]]:
    """The published sizes, and when each was first seen: in the database, so as to wait behind no caller."""
    connection = await asyncpg.connect(dsn)
    seen: list[tuple[int, float]] = []

    async def watch() -> None:
        while True:
            size = await connection.fetchval("SELECT published_size FROM checkpoint WHERE log_id = 0") or 0
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
        await connection.close()


async def covered(seen: list[tuple[int, float]], size: int, within: float = 120) -> None:
    """Return once a checkpoint of that size was seen; TimeoutError if that takes longer than `within` seconds."""
    deadline = time.monotonic() + within
    while not seen or seen[-1][0] < size:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no checkpoint of {size} events within {within:g} seconds")
        await asyncio.sleep(0.02)


async def load(dsn: str, keyring: Keyring, count: int) -> None:
    """Fills an empty log by binary COPY: `READ_DOSSIERS` dossiers with trails that open, the rest as it would look.

    The secondary indexes are made afterwards. The tree is left to the service, which so shows how fast it integrates.
    """
    pool = await postgres.connect(dsn, min_size=1, max_size=2, statement_timeout_ms=0, name="bench")
    keys, digests = DossierKeys(keyring, "audit"), EntryDigests(keyring)
    read = [FIRST_DOSSIER + number for number in range(READ_DOSSIERS)]
    try:
        async with postgres.transaction(pool) as conn:
            opened = await keys.for_write(conn, read)
        async with pool.acquire() as conn:
            indexes = await conn.fetch(_INDEXES)
            for name, _ in indexes:
                await conn.execute(f"DROP INDEX {name}")
            columns = ("log_id", "leaf_index", *EventRow._fields)
            source = _encoded(count, _readable(opened, read, digests))
            await conn.copy_to_table("event", source=source, columns=columns, format="binary")
            await conn.execute("SET maintenance_work_mem = '1GB'")
            for _, definition in indexes:
                await conn.execute(definition)
            await conn.execute("INSERT INTO log_head (log_id, size) VALUES (0, $1)", count)
            await conn.execute("INSERT INTO derived (log_id, next_leaf) VALUES (0, $1)", count)
            await conn.execute("ANALYZE event")
    finally:
        await pool.close()


def _readable(opened: DossierKeyBatch, read: Sequence[int], digests: EntryDigests) -> Iterator[EventRow]:
    """Events of the dossiers that are read, as the sequencer stores them."""
    for number in itertools.count():
        entry = prepare(event(read[number % len(read)]), "document", digests)
        part = ClearPart(os.urandom(SALT_BYTES), entry.clear)
        yield EventRow(
            entry.health_id,
            uuid.UUID(bytes=entry.event_id),
            "document",
            entry.event_time,
            False,
            entry.actor_digest,
            entry.content_digest,
            leaf(entry.event_id, part),
            seal_clear(opened[entry.health_id], part, EventPlace(entry.health_id, entry.event_id, 0)),
        )


async def _encoded(count: int, readable: Iterator[EventRow]) -> AsyncIterator[bytes]:
    """The rows in PostgreSQL's binary COPY format. What is not read differs in place, dossier, event id and leaf."""
    every = count / min(count // 2, READ_DOSSIERS * EVENTS_OF_ONE)
    filler, done, begun = row(FIRST_DOSSIER + DOSSIERS), 0, time.time_ns() // 1_000_000 - count
    between, after = _between(filler), _field(filler.sealed)
    yield b"PGCOPY\n\xff\r\n\0" + bytes(8)
    for start in range(0, count, _PIECE):
        rows, chance = [], os.urandom(48 * _PIECE)
        for place in range(start, min(count, start + _PIECE)):
            if place >= done * every:
                each = next(readable)
                head = _HEAD.pack(11, 8, 0, 8, place, 8, each.health_id, 16, each.event_id.bytes)
                rows.append(head + _between(each) + _field(each.leaf) + _field(each.sealed))
                done += 1
                continue
            at = (place - start) * 48
            identity = (begun + place).to_bytes(6, "big") + b"\x70" + chance[at : at + 9]
            dossier = FIRST_DOSSIER + DOSSIERS + int.from_bytes(chance[at + 10 : at + 15], "big")
            head = _HEAD.pack(11, 8, 0, 8, place, 8, dossier, 16, identity)
            rows.append(b"".join((head, between, _LEAF, identity, chance[at + 16 : at + 48], after)))
        yield b"".join(rows)
    yield b"\xff\xff"


def _between(each: EventRow) -> bytes:
    """The columns from `producer` to `content_digest`."""
    moment = (each.event_time - _POSTGRES_EPOCH) // timedelta(microseconds=1)
    fields = (each.producer.encode(), struct.pack(">q", moment), bytes([each.secret]))
    return b"".join(map(_field, (*fields, each.actor_digest, each.content_digest)))


def _field(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


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
        found = await reader.page(Reader(dossier, "patient", everything), {dossier: store.END_OF_LOG}, 50)
        assert found.events

    proofs: list[Proof] = []

    async def proof() -> None:
        found = await tree.proof(random.randrange(count), b"")
        assert found is not None
        proofs.append(found)

    try:
        rows = [
            await _timed(f"proof in a log of {count:,}", proof, rounds),
            await _timed(f"patient's page of 50 in a log of {count:,}", page, rounds),
        ]
        policy = Policy.unwitnessed(signers[0].verifier)
        for each in proofs[:200]:
            verify(each, await pool.fetchval("SELECT leaf FROM event WHERE leaf_index = $1", each.index), policy)
        return rows
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
    """The rows of a log of `count` events: its integration, from the start of the service on, proofs, pages."""
    async with fresh_state() as state:
        keyring = Keyring.from_directory(ensure_keyring(state, "audit"))

        begun = 0.0

        async def fill(service: str, dsn: str) -> None:
            nonlocal begun
            await migrate(service, dsn)  # type: ignore[arg-type]
            await load(dsn, keyring, count)
            begun = time.perf_counter()

        async with Stack(state, ("audit",), migrate=fill) as stack:
            async with watched(stack.dsn("audit")) as seen:
                await covered(seen, count, within=3600)
            took = time.perf_counter() - begun
            return [Row(f"integration of {count:,}", count / took, 0.0, 0.0), *await reads(stack, count, rounds)]
