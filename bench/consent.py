"""`python -m bench.consent`: access decisions a second, one by one and in batches of a hundred different dossiers.

Measured beside a bare `grpc.aio` echo of the same run and, where `make test-system` has installed its library, beside
an embedded engine of this field (SpiceDB) asked about the same facts in its own process, fully consistent. Every
decision is read from PostgreSQL after it was asked for. Exit status 1 when a ratio or a latency is not what is asked.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import asyncpg
import grpc.aio
import uvloop
from authzed.api.v1 import (
    CheckBulkPermissionsRequest,
    CheckBulkPermissionsRequestItem,
    CheckPermissionRequest,
    Consistency,
    ObjectReference,
    Relationship,
    RelationshipUpdate,
    SubjectReference,
    WriteRelationshipsRequest,
)
from rich.console import Console
from rich.table import Table

from bench import load, page
from bench.echo import PATH as ECHO_PATH
from bench.embedded_engine import LIBRARY, EmbeddedEngine, reference, subject
from bench.ground import echo_server, fresh_state
from bench.load import Metadata, Unary
from bench.machine import load_before
from dmp.common.v1 import context_pb2
from dmp.consent.v1 import consent_pb2 as pb
from ops.local.stack import Stack
from ops.migrations import migrate
from ops.session import client_credentials

LEAST_RATIO: Final = 5.0
"""Checks a second in batches of 100, of the echo's calls a second."""
MOST_MS: Final = 10.0
"""p95 of a single check at half of the load that singles reach: the median of the rounds' own."""
BATCH: Final = 100
_SATURATING: Final = 64
_HALF_LOADS: Final = 5
_CHECK: Final = "/dmp.consent.v1.ConsentService/BatchCheckAccess"
_PHYSICIANS: Final = tuple(f"8997000010{number:02}" for number in range(16))
_STRUCTURE: Final = "17500000{:02}"
_POPULATE: Final = (
    """
    INSERT INTO dossier (health_id, state, epoch, opened_at, break_glass_opposed, regulation_opposed,
        masked_in_emergency, home_host, consent_collected_at, consent_method, consent_given_by)
    SELECT id, 'open', 4, now(), false, false, false, 'national', now(), 'oral', 'patient'
    FROM unnest($1::bigint[]) AS id
    """,
    """
    INSERT INTO access_grant (health_id, grantee_kind, grantee_id, granted_at, expires_at, attending_physician)
    SELECT id, 'professional', grantee, now(), now() + interval '1 year', place = 1
    FROM unnest($1::bigint[]) AS id, unnest($2::text[]) WITH ORDINALITY AS known (grantee, place)
    WHERE (id + place) % 4 = 0
    """,
    """
    INSERT INTO access_block (health_id, grantee_kind, grantee_id, blocked_at)
    SELECT id, 'professional', '899709999999', now() FROM unnest($1::bigint[]) AS id
    """,
)


class Row(NamedTuple):
    """One line of the table. Rates in calls and in checks a second, latencies in milliseconds of a call."""

    what: str
    in_flight: int
    calls: float
    checks: float
    p50: float
    p95: float
    of_echo: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How much and how long."""

    dossiers: int
    seconds: float
    rounds: int


def main() -> int:
    """Run, print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.consent", description="Measure access decisions.")
    parser.add_argument("--quick", action="store_true", help="a short look on a small population")
    quick = parser.parse_args().quick
    plan = Plan(2_000, 1.0, 1) if quick else Plan(50_000, 5.0, 3)
    busy = load_before()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows, fresh = runner.run(measure(plan))
    out, shown = Console(highlight=False), table(rows)
    out.print(shown)
    best = max((row.of_echo or 0.0) for row in rows if row.what.startswith("batches"))
    notes = (
        f"{best:.1f} times the echo's rate in checks ({LEAST_RATIO:.0f} asked)",
        f"a fresh check at half load: p95 {fresh:.1f} ms ({MOST_MS:.0f} asked)",
    )
    out.print(*notes, sep="\n")
    if not quick:
        page.publish("consent", "Access decisions", shown, *notes, busy=busy)
    return 0 if best >= LEAST_RATIO and fresh < MOST_MS else 1


async def measure(plan: Plan) -> tuple[list[Row], float]:
    """All rows, and the p95 of a single check at half load."""
    async with fresh_state() as state, Stack(state, ("audit", "consent"), migrate=migrate) as stack:
        dossiers = await populate(stack, plan.dossiers)
        identity = stack.authority.service("document")
        channels = load.connect(stack.address("consent"), client_credentials(identity))
        async with echo_server(stack, secure=True) as echo_address:
            echo_channels = load.connect(echo_address, client_credentials(identity))
            try:
                return await _all(plan, dossiers, channels, echo_channels)
            finally:
                for channel in (*channels, *echo_channels):
                    await channel.close()


async def _all(
    plan: Plan, dossiers: Sequence[int], channels: list[grpc.aio.Channel], echo_channels: list[grpc.aio.Channel]
) -> tuple[list[Row], float]:
    chance = random.Random(7)
    singles = [one(chance, dossiers) for _ in range(4_000)]
    batches = [many(chance, dossiers) for _ in range(400)]
    payload = bytes(len(singles[0]))
    work = {
        "echo": Unary(echo_channels, ECHO_PATH, lambda: (payload, ()), at_least=len(payload)),
        "single checks": Unary(channels, _CHECK, _turn(singles), at_least=4),
        f"batches of {BATCH}": Unary(channels, _CHECK, _turn(batches), at_least=4 * BATCH),
    }
    rows: list[Row] = []
    for in_flight in (1, 16, 64):
        echoes = []
        for what, each in work.items():
            checks = {"echo": 0, "single checks": 1}.get(what, BATCH)
            rates, latencies = [], list[float]()
            for _ in range(plan.rounds):
                measured = await load.measure(each, in_flight, warm_up=0.3, seconds=plan.seconds / plan.rounds)
                rates.append(len(measured.latencies) / measured.seconds)
                latencies += measured.latencies
            rate = statistics.mean(rates)
            if what == "echo":
                echoes.append(rate)
            of_echo = None if what == "echo" else rate * checks / statistics.mean(echoes)
            rows.append(Row(what, in_flight, rate, rate * checks, *percentiles(latencies), of_echo))
    fresh = await at_half_load(work["single checks"], plan)
    return [*rows, *embedded(dossiers, plan)], fresh


async def populate(stack: Stack, count: int) -> list[int]:
    """Dossiers, each with four of sixteen physicians authorised and somebody blocked."""
    dossiers = [random.Random(number).getrandbits(62) + 1 for number in range(count)]
    connection = await asyncpg.connect(stack.dsn("consent"))
    try:
        await connection.execute("SET synchronous_commit = off")
        await connection.execute(_POPULATE[0], dossiers)
        await connection.execute(_POPULATE[1], dossiers, list(_PHYSICIANS))
        await connection.execute(_POPULATE[2], dossiers)
        await connection.execute("ANALYZE")
    finally:
        await connection.close()
    return dossiers


def check(dossier: int, physician: int) -> pb.CheckAccessRequest:
    """One check, as the document service sends it."""
    actor = context_pb2.ActingContext(
        actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
        subject=_PHYSICIANS[physician],
        subject_name="Anne Martin",
        profession="10",
        structure=_STRUCTURE.format(physician),
        authentication_mode=context_pb2.AUTHENTICATION_MODE_DIRECT,
        access_mode=context_pb2.ACCESS_MODE_NORMAL,
        purpose_of_use="TREAT",
        client_id="bench",
    )
    context = context_pb2.ItemContext(actor=actor, request_id="0123456789abcdef", timeout_ms=5000)
    return pb.CheckAccessRequest(context=context, health_id=dossier, action=pb.ACTION_READ)


def one(chance: random.Random, dossiers: Sequence[int]) -> bytes:
    """A batch of one."""
    request = check(chance.choice(dossiers), chance.randrange(len(_PHYSICIANS)))
    return pb.BatchCheckAccessRequest(requests=[request]).SerializeToString()


def many(chance: random.Random, dossiers: Sequence[int]) -> bytes:
    """A batch of a hundred different dossiers, each asked for by somebody."""
    chosen = chance.sample(dossiers, BATCH)
    requests = [check(dossier, chance.randrange(len(_PHYSICIANS))) for dossier in chosen]
    return pb.BatchCheckAccessRequest(requests=requests).SerializeToString()


async def at_half_load(work: Unary, plan: Plan) -> float:
    """The p95 of a single check at half load, the median of several rounds.

    Each round finds anew what singles reach: on a machine that others use too, half of what was reached a minute ago
    may be all that there is now.
    """
    tails = []
    for _ in range(_HALF_LOADS):
        reached = await load.measure(work, _SATURATING, warm_up=0.2, seconds=0.6)
        rate = len(reached.latencies) / reached.seconds / 2
        tails.append(percentiles(await paced(work, rate, max(1.0, plan.seconds / 2)))[1])
    return statistics.median(tails)


async def paced(work: Unary, rate: float, seconds: float) -> list[float]:
    """Latencies of calls that begin at a steady rate, whether or not those before them are answered.

    The calls of the first fifth warm up: they meet a coalescer and connections that have just been saturated.
    """
    latencies: list[float] = []
    warm = int(rate * seconds / 5)

    async def call(number: int) -> None:
        begun = time.perf_counter()
        await work.send(number % load.CONNECTIONS)
        if number >= warm:
            latencies.append(time.perf_counter() - begun)

    begins = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            wait = begins + number / rate - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            group.create_task(call(number))
    return latencies


def embedded(dossiers: Sequence[int], plan: Plan) -> Iterator[Row]:
    """The embedded engine on the same facts: its own calls, without any network; nothing where it is not installed."""
    if not LIBRARY.exists():
        return
    chance = random.Random(7)
    known = dossiers[:20_000]

    def item() -> tuple[ObjectReference, str, SubjectReference]:
        resource = reference("dossier", str(chance.choice(known)))
        return resource, "enter", subject(f"professional:{chance.choice(_PHYSICIANS)}")

    with EmbeddedEngine() as engine:
        for part in _parts(known, 100):
            engine.write(
                WriteRelationshipsRequest(updates=[each for dossier in part for each in _relationships(dossier)])
            )
        fresh = Consistency(fully_consistent=True)
        singles = [
            CheckPermissionRequest(consistency=fresh, resource=resource, permission=permission, subject=who)
            for resource, permission, who in (item() for _ in range(1_000))
        ]
        bulk = [
            CheckBulkPermissionsRequest(
                consistency=fresh,
                items=[
                    CheckBulkPermissionsRequestItem(resource=resource, permission=permission, subject=who)
                    for resource, permission, who in (item() for _ in range(BATCH))
                ],
            )
            for _ in range(100)
        ]
        alone = [partial(engine.check, each) for each in singles]
        together = [partial(engine.check_bulk, each) for each in bulk]
        yield _timed("embedded engine, single checks", alone, 1, plan)
        yield _timed(f"embedded engine, batches of {BATCH}", together, BATCH, plan)


def _relationships(dossier: int) -> Iterator[RelationshipUpdate]:
    """What `populate` says of one dossier."""
    people = [person for place, person in enumerate(_PHYSICIANS, 1) if (dossier + place) % 4 == 0]
    related = [("open", "professional:*"), ("blocked", "professional:899709999999")]
    related += [("authorised", f"professional:{person}") for person in people]
    for relation, whom in related:
        resource = reference("dossier", str(dossier))
        yield RelationshipUpdate(
            operation=RelationshipUpdate.OPERATION_TOUCH,
            relationship=Relationship(resource=resource, relation=relation, subject=subject(whom)),
        )


def _timed(what: str, calls: Sequence[Callable[[], object]], checks: int, plan: Plan) -> Row:
    latencies: list[float] = []
    ends = time.perf_counter() + plan.seconds
    for call in itertools.cycle(calls):
        begun = time.perf_counter()
        call()
        ended = time.perf_counter()
        latencies.append(ended - begun)
        if ended > ends:
            break
    rate = len(latencies) / sum(latencies)
    return Row(what, 1, rate, rate * checks, *percentiles(latencies), None)


def percentiles(latencies: Sequence[float]) -> tuple[float, float]:
    """p50 and p95 in milliseconds."""
    ordered = sorted(latencies)
    return ordered[len(ordered) // 2] * 1000, ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))] * 1000


def table(rows: Sequence[Row]) -> Table:
    """As in docs/performance.md."""
    made = Table("what", "in flight", "calls/s", "checks/s", "p50 ms", "p95 ms", "checks of the echo", box=None)
    for row in rows:
        ratio = "" if row.of_echo is None else f"{row.of_echo:.2f}"
        checks = "" if row.checks == 0 else f"{row.checks:,.0f}"
        made.add_row(
            row.what, str(row.in_flight), f"{row.calls:,.0f}", checks, f"{row.p50:.2f}", f"{row.p95:.2f}", ratio
        )
    return made


def _turn(requests: Sequence[bytes]) -> Callable[[], tuple[bytes, Metadata]]:
    turn = itertools.cycle(requests)
    return lambda: (next(turn), ())


def _parts(values: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (values[start : start + size] for start in range(0, len(values), size))


if __name__ == "__main__":
    raise SystemExit(main())
