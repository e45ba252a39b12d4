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
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

from bench import page
from bench.audit_loaded import DOSSIERS, FIRST_DOSSIER, Row, covered, event, loaded, percentiles, row, watched
from bench.ground import fresh_state
from bench.machine import cpu_seconds, cpu_seconds_with_children, load_before
from dmp.audit.v1 import audit_pb2
from ops.local.postgres import NAME as POSTGRES
from ops.local.stack import Stack
from ops.migrations import migrate
from services.audit import store
from services.runtime.channels import Peer
from services.runtime.identifiers import uuid7, uuid7_bytes
from services.runtime.server import APPEND
from services.runtime.settings import ServiceSettings

LEVELS: Final = (1, 16, 64, 256)
BATCH: Final = 256
BATCHES_AT_ONCE: Final = 4
TURNS: Final = 4
"""How often the batches and the plain INSERT are measured, one after the other: both meet the same disk."""
_DIFFERENT: Final = 10_240
"""Events made beforehand, at least: as many as rows for the plain INSERT."""
_REST: Final = 0.5
LEAST_RATIO: Final = 0.5
LEAST_RATE: Final = 2000.0
MOST_LAG: Final = 1.0
_COLUMNS: Final = ("what", "rate/s", "p50 ms", "p99 ms", "service µs", "PostgreSQL µs")
_LOADED: Final = (
    "Loaded by COPY in the service's own formats; the service then makes the tree, from its start on.",
    "A proof: its tiles read, its hashes made (200 of them verified). A page: rows read, keys got, 50 events opened.",
)
_GROWING: Final = (
    "Through the service, over mutual TLS, with a witness; an answer means committed, on the disk.",
    "Each event is of another of 5,000 dossiers, which have their keys.",
    "Plain INSERT: one connection; one statement and one commit a batch of the same rows, sealed beforehand.",
    "Its table has the same columns and indexes.",
    f"It and the batches are measured in turn, {TURNS} times each, each once the service rests; rates are averaged.",
    "µs: CPU time an event, integration and what is derived included; the callers' own is not shown.",
)


@dataclass(slots=True)
class Appended:
    """When each place was acknowledged."""

    times: list[tuple[int, float]] = field(default_factory=list)


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
    return Row(f"plain INSERT, batches of {BATCH}", place / sum(latencies), *percentiles(latencies))


@dataclass(slots=True)
class Platform:
    """The audit service, its database, and events made beforehand: one of each dossier, in no order."""

    stack: Stack
    audit: Peer
    events: list[audit_pb2.AuditEvent] = field(
        default_factory=lambda: [event(FIRST_DOSSIER + n) for n in random.sample(range(DOSSIERS), DOSSIERS)]
    )

    def batch(self, size: int) -> audit_pb2.BatchAppendEventsRequest:
        """New events of as many dossiers."""
        first = random.randrange(DOSSIERS - size)
        events = self.events[first : first + size]
        for each in events:
            each.event_id = uuid7_bytes()
        return audit_pb2.BatchAppendEventsRequest(events=events)

    def ready(self, size: int) -> Callable[[], bytes]:
        """As `batch`, made beforehand but for the event ids, as the rows of the plain INSERT are; serialised."""
        parts = []
        for each in self.batch(size).events:
            alone = audit_pb2.BatchAppendEventsRequest(events=[each]).SerializeToString()
            before, _, after = alone.partition(each.event_id)
            parts.append((before, after))
        return lambda: b"".join([before + uuid7_bytes() + after for before, after in parts])

    def cpu(self) -> tuple[float, float]:
        """CPU seconds of the service, and of PostgreSQL."""
        postmaster = int(self.stack.state.process_file(POSTGRES).read_text("ascii").split()[0])
        return cpu_seconds(self.stack.pid("audit")), cpu_seconds_with_children(postmaster)

    async def rested(self) -> None:
        """Returns once the service has nothing left to do behind what it acknowledged."""
        busy = True
        while busy:
            before, _ = self.cpu()
            await asyncio.sleep(_REST)
            busy = self.cpu()[0] - before > _REST / 10


async def known(platform: Platform) -> None:
    """An event of each dossier, so that all have their keys."""
    call = platform.audit.unary(APPEND, audit_pb2.BatchAppendEventsRequest, audit_pb2.BatchAppendEventsResponse)
    for start in range(0, DOSSIERS, BATCH):
        await call(audit_pb2.BatchAppendEventsRequest(events=platform.events[start : start + BATCH]), timeout=30)


async def appends(platform: Platform, callers: int, size: int, seconds: float, appended: Appended) -> Row:
    """`callers` callers, each with one call of `size` events at a time."""
    call = platform.audit.unary_bytes(APPEND)
    latencies: list[float] = []
    makers = [platform.ready(size) for _ in range(max(callers, _DIFFERENT // size))]
    before = platform.cpu()
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while not latencies or time.perf_counter() < end:
            request = makers[len(latencies) % len(makers)]()
            begun = time.perf_counter()
            answer = audit_pb2.BatchAppendEventsResponse.FromString(await call(request, timeout=30))
            now = time.perf_counter()
            latencies.append(now - begun)
            appended.times += [(result.receipt.leaf_index, now) for result in answer.results]

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    rate = len(latencies) * size / (time.perf_counter() - started)
    name = f"{callers} callers, one event each" if size == 1 else f"{callers} calls of {size} events"
    count = len(latencies) * size
    return Row(
        name,
        rate,
        *percentiles(latencies),
        *((now - then) / count * 1e6 for now, then in zip(platform.cpu(), before, strict=True)),
    )


def averaged(turns: Sequence[Row]) -> Row:
    """One row for turns of the same length: the mean of each column."""
    columns = zip(*((each.rate, each.p50, each.p99, each.service, each.database) for each in turns), strict=True)
    return Row(turns[0].name, *(statistics.fmean(column) for column in columns))


def lags(appended: Appended, seen: Sequence[tuple[int, float]]) -> list[float]:
    """How long after its acknowledgement each event was under a published checkpoint."""
    sizes = [size for size, _ in seen]
    found = []
    for place, at in appended.times:
        number = bisect.bisect_right(sizes, place)
        if number < len(sizes):
            found.append(max(0.0, seen[number][1] - at))
    return found


async def growing(seconds: float, out: Console) -> tuple[list[Row], float, float]:
    """The rows of a log that grows, the ratio of the batches to the plain INSERT, and the p99 of the lag."""
    async with fresh_state() as state, Stack(state, ("audit",), migrate=migrate, witness=True) as stack:
        mine = stack.authority.service("document")
        settings = ServiceSettings(
            environment="test", tls_cert=mine.certificate, tls_key=mine.key, tls_ca=mine.authority
        )
        audit = Peer("audit", stack.target("audit"), settings)
        platform = Platform(stack, audit)
        rows, appended = list[Row](), Appended()
        await known(platform)
        async with watched(stack.dsn("audit")) as seen:
            await appends(platform, 16, 16, 1.0, Appended())
            for callers in LEVELS:
                rows.append(await appends(platform, callers, 1, seconds, appended))
                out.print(f"{rows[-1].name}: {rows[-1].rate:,.0f}/s", style="dim")
            beside, batches = list[Row](), list[Row]()
            for _ in range(TURNS):
                await platform.rested()
                beside.append(await plain(stack.dsn("audit"), seconds / TURNS))
                batches.append(await appends(platform, BATCHES_AT_ONCE, BATCH, seconds / TURNS, appended))
                out.print(f"plain {beside[-1].rate:,.0f}/s, batches {batches[-1].rate:,.0f}/s", style="dim")
            await covered(seen, max(place for place, _ in appended.times) + 1)
            behind = sorted(lags(appended, seen))
            single = []
            for _ in range(10):
                alone = Appended()
                await appends(platform, 1, 1, 0.001, alone)
                await covered(seen, alone.times[-1][0] + 1)
                single += lags(alone, seen)
        await audit.close()
    plainly, at_once = averaged(beside), averaged(batches)
    rows += [plainly, at_once]
    rows.append(Row("until a checkpoint covers it, under load", 0.0, *percentiles(behind)))
    rows.append(Row("until a checkpoint covers it, alone", 0.0, *percentiles(single)))
    return rows, at_once.rate / plainly.rate, behind[len(behind) * 99 // 100]


def table(rows: Sequence[Row]) -> Table:
    """The rows, for a terminal."""
    shown = Table(*_COLUMNS)
    for each in rows:
        shown.add_row(*_cells(each))
    return shown


def _cells(each: Row) -> tuple[str, ...]:
    latencies = (f"{value:,.2f}" if value else "" for value in (each.p50, each.p99))
    costs = (f"{value:,.0f}" if value else "" for value in (each.service, each.database))
    return each.name, f"{each.rate:,.0f}" if each.rate else "", *latencies, *costs


async def measure(arguments: argparse.Namespace, out: Console) -> int:
    """Run, print, publish; the exit status."""
    busy = load_before()
    count = 60_000 if arguments.quick else arguments.events
    if arguments.only_loaded:
        shown = table(await loaded(count, 2000))
        page.publish("audit_loaded", f"An audit log of {count:,} events", shown, *_LOADED, busy=busy)
        out.print(shown)
        return 0
    rows, ratio, lag = await growing(1.5 if arguments.quick else arguments.seconds, out)
    rows += await loaded(count, 200 if arguments.quick else 2000)
    shown = table(rows)
    out.print(shown)
    many = next(each for each in rows if each.name.startswith(f"{LEVELS[-1]} callers"))
    verdict = (
        f"batches reach {ratio:.2f} of a plain INSERT ({LEAST_RATIO} asked); {LEVELS[-1]} callers {many.rate:,.0f}/s "
        f"({LEAST_RATE:,.0f} asked); lag p99 {lag:.3f} s (under {MOST_LAG} s asked)"
    )
    if not arguments.quick:
        page.publish("audit", "The audit log", shown, verdict, *_GROWING, *_LOADED, busy=busy)
    enough = ratio >= LEAST_RATIO and many.rate >= LEAST_RATE and lag < MOST_LAG
    out.print(verdict, style=None if enough else "red")
    return 0 if enough else 1


def main() -> int:
    """Parse, run."""
    parser = argparse.ArgumentParser(prog="python -m bench.audit", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a short look; publishes nothing")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each level (8)")
    parser.add_argument(
        "--events", type=int, default=1_000_000, help="in the loaded log (1,000,000; 10,000,000 take minutes and 12 GB)"
    )
    parser.add_argument("--only-loaded", action="store_true", help="only the loaded log, published on its own")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure(parser.parse_args(), Console(highlight=False)))


if __name__ == "__main__":
    raise SystemExit(main())
