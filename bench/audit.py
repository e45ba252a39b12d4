"""`python -m bench.audit`: the audit log beside a plain batched INSERT of the same rows, in the same run.

Durable appends per second and their latency (1 to 256 callers, and batches), how long until a checkpoint covers them,
and, in a log loaded by COPY, how fast it is integrated and how long a proof and a patient's page take. Exit status 1
when the batches reach less than half of the plain INSERT, fewer than 2,000 events a second are made durable by 256
callers, or the 99th percentile of the checkpoint's lag is a second or more.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import contextlib
import hashlib
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

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
from services.runtime.server import APPEND
from services.runtime.settings import ServiceSettings
from services.runtime.tlog.checkpoint import parse
from services.runtime.tlog.policy import Policy

CHECKPOINT: Final = "/dmp.audit.v1.AuditService/GetCheckpoint"
LEVELS: Final = (1, 16, 64, 256)
BATCH: Final = 256
BATCHES_AT_ONCE: Final = 4
LEAST_RATIO: Final = 0.5
LEAST_RATE: Final = 2000.0
MOST_LAG: Final = 1.0
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


@dataclass(slots=True)
class Appended:
    """When each place was acknowledged."""

    times: list[tuple[int, float]] = field(default_factory=list)


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


async def plain(dsn: str, seconds: float) -> Row:
    """Batches of the same rows into a table with the same columns and indexes: one statement and one commit each."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE plain (LIKE event INCLUDING ALL)")
        statement = store.INSERT.replace("INTO event", "INTO plain")
        batches = [[row(FIRST_DOSSIER + random.randrange(DOSSIERS)) for _ in range(BATCH)] for _ in range(40)]
        latencies: list[float] = []
        place, started, spent = 0, time.perf_counter(), 0.0
        while spent < seconds:
            fresh = [each._replace(event_id=uuid7()) for each in batches[len(latencies) % len(batches)]]
            columns = [list(column) for column in zip(*fresh, strict=True)]
            begun = time.perf_counter()
            async with connection.transaction():
                await connection.execute(statement, 0, place, *columns)
            latencies.append(time.perf_counter() - begun)
            place += BATCH
            spent = time.perf_counter() - started
        await connection.execute("DROP TABLE plain")
    finally:
        await connection.close()
    return Row(f"plain INSERT, batches of {BATCH}", place / sum(latencies), *_percentiles(latencies))


async def appends(audit: Peer, callers: int, size: int, seconds: float, appended: Appended) -> Row:
    """`callers` callers, each with one call of `size` events at a time."""
    call = audit.unary(APPEND, audit_pb2.BatchAppendEventsRequest, audit_pb2.BatchAppendEventsResponse)
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < end:
            events = [event(FIRST_DOSSIER + random.randrange(DOSSIERS)) for _ in range(size)]
            begun = time.perf_counter()
            answer = await call(audit_pb2.BatchAppendEventsRequest(events=events), timeout=30)
            now = time.perf_counter()
            latencies.append(now - begun)
            appended.times += [(result.receipt.leaf_index, now) for result in answer.results]

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    rate = len(latencies) * size / (time.perf_counter() - started)
    name = f"{callers} callers, one event each" if size == 1 else f"{callers} calls of {size} events"
    return Row(name, rate, *_percentiles(latencies))


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


def lags(appended: Appended, seen: Sequence[tuple[int, float]]) -> list[float]:
    """How long after its acknowledgement each event was under a published checkpoint."""
    sizes = [size for size, _ in seen]
    found = []
    for place, at in appended.times:
        number = bisect.bisect_right(sizes, place)
        if number < len(sizes):
            found.append(max(0.0, seen[number][1] - at))
    return found


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
    return Row(name, rounds / sum(latencies), *_percentiles(latencies))


def _percentiles(latencies: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(latencies)
    return ordered[len(ordered) // 2] * 1000, ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000


async def growing(seconds: float, out: Console) -> tuple[list[Row], float, float]:
    """The rows of a log that grows, the ratio of the batches to the plain INSERT, and the p99 of the lag."""
    async with fresh_state() as state, Stack(state, ("audit",), migrate=migrate, witness=True) as stack:
        mine = stack.authority.service("document")
        settings = ServiceSettings(
            environment="test", tls_cert=mine.certificate, tls_key=mine.key, tls_ca=mine.authority
        )
        audit = Peer("audit", stack.target("audit"), settings)
        rows, appended = [await plain(stack.dsn("audit"), seconds)], Appended()
        async with watched(audit) as seen:
            await appends(audit, 16, 16, 1.0, Appended())
            for callers in LEVELS:
                rows.append(await appends(audit, callers, 1, seconds, appended))
                out.print(f"{rows[-1].name}: {rows[-1].rate:,.0f}/s", style="dim")
            batches = await appends(audit, BATCHES_AT_ONCE, BATCH, seconds, appended)
            again = await plain(stack.dsn("audit"), seconds)
            await covered(seen, max(place for place, _ in appended.times) + 1)
            behind = sorted(lags(appended, seen))
            single = []
            for _ in range(10):
                alone = Appended()
                await appends(audit, 1, 1, 0.001, alone)
                await covered(seen, alone.times[-1][0] + 1)
                single += lags(alone, seen)
        await audit.close()
    rows += [batches, again]
    rows.append(Row("until a checkpoint covers it, under load", 0.0, *_percentiles(behind)))
    rows.append(Row("until a checkpoint covers it, alone", 0.0, *_percentiles(single)))
    plain_rate = (rows[0].rate + again.rate) / 2
    return rows, batches.rate / plain_rate, behind[len(behind) * 99 // 100]


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


def table(rows: Sequence[Row]) -> Table:
    """The rows, for a terminal."""
    shown = Table("what", "rate/s", "p50 ms", "p99 ms")
    for each in rows:
        rate = f"{each.rate:,.0f}" if each.rate else ""
        shown.add_row(each.name, rate, *(f"{value:,.1f}" if value else "" for value in (each.p50, each.p99)))
    return shown


async def measure(arguments: argparse.Namespace, out: Console) -> int:
    """Run, print; the exit status."""
    seconds = 1.5 if arguments.quick else arguments.seconds
    rows, ratio, lag = await growing(seconds, out)
    count = 60_000 if arguments.quick else arguments.events
    rows += await loaded(count, 200 if arguments.quick else 2000)
    out.print(table(rows))
    many = next(each for each in rows if each.name.startswith(f"{LEVELS[-1]} callers"))
    out.print(
        f"batches reach {ratio:.2f} of a plain INSERT; {LEVELS[-1]} callers {many.rate:,.0f}/s; lag p99 {lag:.3f} s"
    )
    enough = ratio >= LEAST_RATIO and many.rate >= LEAST_RATE and lag < MOST_LAG
    if not enough:
        out.print(f"asked: {LEAST_RATIO}, {LEAST_RATE:,.0f}/s, less than {MOST_LAG} s", style="red")
    return 0 if enough else 1


def main() -> int:
    """Parse, run."""
    parser = argparse.ArgumentParser(prog="python -m bench.audit", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a short look")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each level (8)")
    parser.add_argument(
        "--events", type=int, default=1_000_000, help="in the loaded log (1,000,000; asked: 10,000,000)"
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure(parser.parse_args(), Console(highlight=False)))


if __name__ == "__main__":
    raise SystemExit(main())
