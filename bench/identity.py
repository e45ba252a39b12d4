"""`python -m bench.identity`: registrations with matching, and batch resolves, at 50 thousand, 1 and 5 million people.
With `--people 60000000` at 50 thousand and so many, in a section of its own: that takes an hour or two, and 65 GB of
disk at its peak. With `--state DIRECTORY` the loaded registers stay there, and a later run begins with measuring.

The servicer runs in this process on a durable PostgreSQL of its own; the transport is not measured here (`bench`
does). Of the people registered, nine in ten are new, one in twenty was registered before, one in twenty was, with a
typing error. The re-match runs beside, as in the service. Exit status 1 when 5 million are slower than asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count as counted
from itertools import islice
from pathlib import Path
from typing import Final

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

from bench import page
from bench.ground import free_address, fresh_state, kept_state
from bench.identity_loader import CHUNK, keyring, load, people, read_keys
from bench.machine import load_before, machine
from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1.coding_pb2 import Identifier
from dmp.consent.v1 import consent_pb2
from dmp.identity.v1 import identity_pb2 as pb
from ops.local.postgres import SUPERUSER, Postgres
from ops.local.supervisor import Supervisor
from services.identity.parts import IdentityParts, Surroundings
from services.identity.registration_rules import RegistrationRefused
from services.identity.store import links as link_store
from services.identity.store import people as store
from services.runtime import postgres
from services.runtime.access import methods_of
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.trail import Trail

SIZES: Final = (50_000, 1_000_000, 5_000_000)
QUICK: Final = (2_000, 20_000)
LEAST_RATE: Final = 100.0
LEAST_SHARE: Final = 0.8
"""Of the rate at the smallest size."""
SEED: Final = 2111

_CLIENTS: Final = 64
_RESOLVERS: Final = 16
_RESOLVED_AT_ONCE: Final = 100
_KNOWN: Final = 5_000
_ROUNDS: Final = 4
_SEEDS: Final = 90_000
_SERVICE: Final = "/dmp.identity.v1.IdentityService"
_METHODS: Final = methods_of([pb.DESCRIPTOR.services_by_name["IdentityService"]])
_MIGRATIONS: Final = Path(__file__).resolve().parents[1] / "services" / "identity" / "migrations"
_FOR_LOADING: Final = ("wal_level = minimal", "max_wal_senders = 0", "max_parallel_maintenance_workers = 2")
_STATEMENTS: Final = {
    "owners of identifiers": (store.OWNERS, [bytes(32)]),
    "members of blocks": (store.BLOCKS, [0]),
    "links": (link_store.SETS, [0]),
    "people": (store.PEOPLE, [0]),
}


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured at one size; rates a second, milliseconds of CPU of this process, times in seconds."""

    people: int
    registrations: float
    registration_cpu_ms: float
    median_ms: float
    resolves: float
    load_seconds: float
    gigabytes: float
    candidates: float


@dataclass(slots=True)
class Register:
    """A loaded register, and what was measured on it so far; times in seconds."""

    people: int
    dsn: str
    loaded: float
    parts: IdentityParts
    known: list[tuple[pb.Traits, Identifier]]
    times: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: float = 0.0
    resolved: list[float] = field(default_factory=list)

    async def warm(self, seconds: float, number: int) -> None:
        """Makes plans, fills caches and pages."""
        await _registrations(self.parts, self.known, seconds, self.people + number)

    async def measure(self, seconds: float, number: int) -> None:
        """One round."""
        cpu, begun = time.process_time(), time.monotonic()
        times = await _registrations(self.parts, self.known, seconds, self.people + number)
        self.rates.append(len(times) / (time.monotonic() - begun))
        self.cpu += time.process_time() - cpu
        self.times += times
        self.resolved.append(await _resolves(self.parts, [ins for _, ins in self.known], seconds / 2))

    async def row(self) -> Row:
        """All rounds; rates are those of the middle one."""
        gigabytes, in_block = await _shape(self.dsn)
        return Row(
            people=self.people,
            registrations=round(statistics.median(self.rates), 1),
            registration_cpu_ms=round(self.cpu * 1000 / len(self.times), 2),
            median_ms=round(statistics.median(self.times) * 1000, 1),
            resolves=round(statistics.median(self.resolved), 0),
            load_seconds=round(self.loaded, 1),
            gigabytes=gigabytes,
            candidates=in_block,
        )


async def measure(loaded: Sequence[tuple[int, str, float]], seconds: float, rounds: int, first: int = 0) -> list[Row]:
    """A row for each register (people, DSN, seconds of loading), measured in turn: all see the same machine. Rounds are
    numbered from `first`, and each number registers people of its own."""
    async with contextlib.AsyncExitStack() as stack:
        registers = []
        for size, dsn, took in loaded:
            known = list(islice(people(0, SEED), min(size, _KNOWN, CHUNK)))
            parts = await stack.enter_async_context(_register(dsn))
            registers.append(Register(size, dsn, took, parts, known))
        for register in registers:
            await register.warm(min(2.0, seconds), first)
        for number in range(first + 1, first + rounds + 1):
            for register in registers if number % 2 else reversed(registers):
                await register.measure(seconds / rounds, number)
        return [await register.row() for register in registers]


class _Nobody:
    """Consent, which no registration asks."""

    async def check(self, call: Call, health_id: int, action: consent_pb2.Action.ValueType) -> consent_pb2.Decision:
        raise NotImplementedError


@contextlib.asynccontextmanager
async def _register(dsn: str) -> AsyncIterator[IdentityParts]:
    pool = await postgres.connect(dsn, max_size=6, name="bench-identity")

    async def append(events: list[audit_pb2.AuditEvent]) -> Sequence[audit_pb2.AppendReceipt | DmpError]:
        return [audit_pb2.AppendReceipt() for _ in events]

    parts = IdentityParts(pool, keyring(), Surroundings(trail=Trail(append), tellers={}, checks=_Nobody()))
    rematch = asyncio.create_task(parts.rematch.run())
    try:
        yield parts
    finally:
        rematch.cancel()
        await asyncio.wait({rematch})
        await parts.close()
        await pool.close()


async def _registrations(
    parts: IdentityParts, known: Sequence[tuple[pb.Traits, Identifier]], seconds: float, seed: int
) -> list[float]:
    """How long each registration took, of those that ended in time."""
    asked, end = _wishes(known, seed), time.monotonic() + seconds
    times: list[float] = []
    numbers = counted()

    async def client() -> None:
        while (begun := time.monotonic()) < end:
            call = _call("CreatePerson", f"bench-{seed}-{next(numbers)}")
            request = pb.CreatePersonRequest(person=next(asked), request_id=call.request_id)
            with contextlib.suppress(RegistrationRefused):
                await parts.servicer.CreatePerson(request, call)
            times.append(time.monotonic() - begun)

    await asyncio.gather(*(client() for _ in range(_CLIENTS)))
    return times


def _wishes(known: Sequence[tuple[pb.Traits, Identifier]], seed: int) -> Iterator[pb.Person]:
    rng = random.Random(seed)
    for traits, _ in people(1_000_000 + seed % 100_000, SEED):
        kind = rng.random()
        if kind < 0.9:
            yield pb.Person(traits=traits)
            continue
        again, ins = known[rng.randrange(len(known))]
        wrong = pb.Traits()
        wrong.CopyFrom(again)
        if kind < 0.95:
            yield pb.Person(traits=wrong, identifiers=[ins])
            continue
        wrong.birth_name = wrong.birth_name[:-1] + rng.choice("abcdefgh")
        yield pb.Person(traits=wrong)


async def _resolves(parts: IdentityParts, identifiers: Sequence[Identifier], seconds: float) -> float:
    """Identifiers resolved a second."""
    rng, end, done = random.Random(SEED), time.monotonic() + seconds, 0
    begun = time.monotonic()

    async def client() -> None:
        nonlocal done
        while time.monotonic() < end:
            asked = pb.BatchResolveIdentifiersRequest(identifiers=rng.choices(identifiers, k=_RESOLVED_AT_ONCE))
            answer = await parts.servicer.BatchResolveIdentifiers(asked, _call("BatchResolveIdentifiers", "bench"))
            assert all(result.health_id for result in answer.results)
            done += len(answer.results)

    await asyncio.gather(*(client() for _ in range(_RESOLVERS)))
    return done / (time.monotonic() - begun)


def _call(method: str, request_id: str) -> Call:
    service = method == "BatchResolveIdentifiers"
    actor = context_pb2.ActingContext(actor_kind=context_pb2.ACTOR_KIND_SYSTEM, subject="bench")
    return Call(
        actor=actor,
        caller=access_pb2.CALLER_KIND_SERVICE if service else access_pb2.CALLER_KIND_INTERNAL,
        client_id="bench",
        peer="bench",
        request_id=request_id,
        deadline=None,
        traceparent="",
        method=_METHODS[f"{_SERVICE}/{method}"],
    )


async def _shape(dsn: str) -> tuple[float, float]:
    """The size of the database in gigabytes, and how many people share a block in the mean."""
    connection = await asyncpg.connect(dsn)
    try:
        size = await connection.fetchval("SELECT pg_database_size(current_database()) / 1e9")
        shared = await connection.fetchval(
            "SELECT avg(people) FROM (SELECT count(*) AS people FROM match_block TABLESAMPLE SYSTEM (0.5) "
            "GROUP BY block) AS sampled"
        )
    finally:
        await connection.close()
    return round(float(size), 2), round(float(shared or 1), 2)


async def plans(dsn: str) -> list[str]:
    """The plan of each query of the request path, as the server makes it at this size."""
    connection = await asyncpg.connect(dsn, server_settings={"plan_cache_mode": "force_generic_plan"})
    try:
        return [
            f"{name}:\n" + "\n".join(f"  {row[0]}" for row in await connection.fetch(f"EXPLAIN {text}", argument))
            for name, (text, argument) in _STATEMENTS.items()
        ]
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def _server(names: Sequence[str], keep: Path | None) -> AsyncIterator[tuple[list[str], str]]:
    """A durable cluster that is gone afterwards unless it is kept, with a quarter of the memory for its pages, as
    PostgreSQL advises, and tuned for loading; its databases, and the server's version."""
    async with kept_state(keep) if keep else fresh_state() as state:
        supervisor = Supervisor(state)
        cluster = Postgres(state, supervisor, int(free_address().rpartition(":")[2]))
        await cluster.start()
        connection = await asyncpg.connect(cluster.dsn("postgres", SUPERUSER))
        version = str(connection.get_server_version().major)
        buffers = f"shared_buffers = '{int(machine(version, 0.0).memory_gib * 256)}MB'"
        for setting in (*_FOR_LOADING, buffers):
            await connection.execute(f"ALTER SYSTEM SET {setting}")
        there = {row[0] for row in await connection.fetch("SELECT datname FROM pg_database")}
        for name in names:
            if name not in there:
                await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        await cluster.stop()
        await cluster.start()
        try:
            found = [cluster.dsn(name, SUPERUSER) for name in names]
            for dsn in found:
                await postgres.migrate(dsn, _MIGRATIONS, service="identity")
            yield found, version
        finally:
            await supervisor.stop_all()


def table(rows: Sequence[Row]) -> Table:
    """The rows, for a terminal."""
    shown = Table("people", "registrations/s", "median", "CPU each", "identifiers resolved/s", "loaded in", "database")
    for row in rows:
        shown.add_row(
            *(f"{row.people:,}", f"{row.registrations:,.0f}", f"{row.median_ms:.0f} ms"),
            *(f"{row.registration_cpu_ms:.1f} ms", f"{row.resolves:,.0f}"),
            *(f"{row.load_seconds:,.0f} s", f"{row.gigabytes:.1f} GB"),
        )
    return shown


async def _loaded(dsn: str, size: int, workers: int) -> float:
    """Loads a register unless a former run has; the seconds that it took then."""
    connection = await asyncpg.connect(dsn)
    try:
        database = f"identity_{size}"
        told: str | None = await connection.fetchval(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1", database
        )
        if told is not None:
            return float(told)
        begun = time.monotonic()
        await load(dsn, size, SEED, workers)
        took = time.monotonic() - begun
        await connection.execute(f"COMMENT ON DATABASE {database} IS '{took:.1f}'")
        return took
    finally:
        await connection.close()


async def run(
    sizes: Sequence[int], seconds: float, out: Console, keep: Path | None = None
) -> tuple[list[Row], list[str]]:
    """All sizes, each in a database of one server, loaded first and then measured in turn; the plans at the last."""
    busy = load_before()
    async with _server([f"identity_{size}" for size in sizes], keep) as (databases, version):
        at = machine(version, busy)
        out.print(f"{at.cores} cores of {at.processor}, {at.memory_gib} GiB, PostgreSQL {version}", style="dim")
        loaded = []
        for size, dsn in zip(sizes, databases, strict=True):
            loaded.append(await _loaded(dsn, size, at.cores))
            out.print(f"{size:,} people loaded in {loaded[-1]:.0f} s", style="dim")
        for dsn in databases:
            await read_keys(dsn)
        first = int(time.time()) % _SEEDS if keep else 0
        rows = await measure(list(zip(sizes, databases, loaded, strict=True)), seconds, _ROUNDS, first)
        made = await plans(databases[-1])
        for plan in made:
            out.print(plan, style="dim", markup=False)
    return rows, made


def large_notes(row: Row, memory: float) -> tuple[str, ...]:
    """What to know of a register that is larger than the memory."""
    return (
        f"the plans are those at {row.people:,}; the bench starts with the keys in memory as far as they go into it",
        f"{memory} GiB of memory for {row.gigabytes:.0f} GB: a registration waits for single pages of the disk",
    )


def verdict(rows: Sequence[Row], out: Console) -> int:
    """1 when the largest register is slower than asked for; the share is asked of one that fits into memory."""
    first, last = rows[0], rows[-1]
    share = last.registrations / first.registrations
    out.print(f"{last.people:,} people: {last.registrations:.0f} registrations/s, {share:.2f} of {first.people:,}")
    if len(rows) < 2 or last.people > SIZES[-1]:
        return int(last.registrations < LEAST_RATE)
    return int(last.registrations < LEAST_RATE or share < LEAST_SHARE)


def main() -> int:
    """Measure, print, write; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.identity", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short look at small registers; writes nothing")
    parser.add_argument("--people", type=int, help="50 thousand and this many, such as 60000000")
    parser.add_argument("--state", type=Path, help="a directory in which the loaded registers stay for a later run")
    parser.add_argument("--seconds", type=float, help="for each register, over all rounds (16)")
    arguments = parser.parse_args()
    out, busy = Console(highlight=False, soft_wrap=True), load_before()
    sizes = QUICK if arguments.quick else (SIZES[0], arguments.people) if arguments.people else SIZES
    seconds = arguments.seconds or (2.0 if arguments.quick else 16.0)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows, made = runner.run(run(sizes, seconds, out, arguments.state))
    shown = table(rows)
    out.print(shown)
    if not arguments.quick:
        large = arguments.people or 0
        page.publish(
            "identity_large" if large else "identity",
            f"The register at {large:,} people" if large else "The register of people",
            shown,
            *(f"`{' '.join(plan.split())}`" for plan in made),
            *(large_notes(rows[-1], machine("", busy).memory_gib) if large else ()),
            busy=busy,
        )
    return 0 if arguments.quick else verdict(rows, out)


if __name__ == "__main__":
    raise SystemExit(main())
