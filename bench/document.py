"""`python -m bench.document`: submissions of a 100 kB CDA against plain inserts of the same sealed bytes, content reads
against the bare echo, and first openings of a dossier with 700 documents.

The document service runs as it is deployed: two processes on `grpcio`, one for each processor here (one event loop uses
one). The echo is one process.

Two kinds of CDA: structured, whose text compresses ten times, and a letter, whose body is a PDF and compresses to the
three quarters that base64 leaves. The plain inserts of each are of its own sealed bytes.

The plain inserts are eight asyncpg connections, one row a transaction, `synchronous_commit = on`, into a table with the
same key, in the database of the document service: what the disk and PostgreSQL allow, measured before and after each
round of submissions. Beside them the floor is measured (`bench.floor`): a server in as many processes that does to a
submission only what no promise lets it leave out. Exit status 1 when submissions are below their share of the inserts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg
import grpc.aio
import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import load, page, workloads
from bench.echo import PATH as ECHO_PATH
from bench.figures import Measurement, percentile, pooled
from bench.ground import echo_server, floor_servers, fresh_state
from bench.load import Unary
from bench.machine import load_before, machine
from bench.population import Extent, Population, another, letter, populate, submission
from bench.workloads import Submissions, bearer
from dmp.document.v1 import document_pb2
from ops.endpoints import publish
from ops.local.databases import database_name
from ops.local.registrations import INTERNAL
from ops.local.stack import Stack
from ops.migrations import migrate
from ops.session import Session, client_credentials
from services.runtime.identifiers import dossier_name
from services.runtime.sealing import OVERHEAD, compress

LEAST: Final = 0.5
"""Submissions a second, as a part of the plain inserts in the same run."""
CONNECTIONS: Final = 8
REPLICAS: Final = 2
"""Of the document service, as k8s/base has them."""
IN_FLIGHT: Final = 64
OPENED: Final = 700
"""Documents of the dossier that is opened: what a person may have (domain.md §5)."""

_WARM_UP: Final = 0.5
_REPEATED: Final = 256
_BOUND: Final = (
    "what bounds submissions is the processor, not the disk. A half of the plain inserts of a structured CDA would "
    "leave 0.7 ms of both processors for each; its well-formedness (0.22), its two hashes (0.11), zstd (0.08), its way "
    "through TLS and gRPC on both sides (0.4) and PostgreSQL (0.2) are more than that before its header is read, and "
    "all of it takes 4 to 5 (docs/decisions/0025-submissions-commit-in-groups.md). The floor is a server on the same "
    "transport that does nothing else: what it does not reach, no service does"
)
_OPENING: Final = "/dmp.document.v1.DocumentService/GetFirstOpening"
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS plain_insert (health_id bigint, id uuid, sealed bytea, PRIMARY KEY (health_id, id))
"""
_STORED: Final = "SELECT sealed FROM content ORDER BY abs(stored_size - $1) LIMIT 1"
_INSERT: Final = "INSERT INTO plain_insert (health_id, id, sealed) VALUES ($1, $2, $3)"


@dataclass(frozen=True, slots=True)
class Plan:
    """Rounds, and seconds of each measurement."""

    rounds: int = 3
    seconds: float = 8.0
    extent: Extent = field(default_factory=lambda: Extent(dossiers=256, documents_each=2, large=256))
    opened: int = OPENED


QUICK: Final = Plan(1, 2.0, Extent(dossiers=24, documents_each=1, large=24), 128)


@dataclass(frozen=True, slots=True)
class Line:
    """What was measured."""

    name: str
    measured: Measurement

    def cells(self) -> list[str]:
        ordered = sorted(self.measured.latencies)
        times = [f"{percentile(ordered, part) * 1000:.1f}" for part in (0.5, 0.95, 0.99)] if ordered else ["-"] * 3
        return [self.name, f"{self.measured.rate:,.0f}", *times]


@dataclass(frozen=True, slots=True)
class Share:
    """Of the plain inserts of the same bytes: what submissions reach, and what the floor does."""

    submitted: float
    floor: float


async def run(plan: Plan, out: Console) -> tuple[list[Line], dict[str, Share]]:
    """All of it; the lines, and by kind the share of submissions in plain inserts."""
    busy = load_before()
    async with contextlib.AsyncExitStack() as stack_of:
        state = await stack_of.enter_async_context(fresh_state())
        out.print("starting the platform")
        stack = await stack_of.enter_async_context(Stack(state, migrate=migrate, replicas={"document": REPLICAS}))
        session = await stack_of.enter_async_context(Session(state, publish(stack)))
        population = await populate(session, plan.extent)
        echo = await stack_of.enter_async_context(echo_server(stack, secure=True))
        dsn = stack.superuser_dsn(database_name("document"))
        credentials = client_credentials(stack.internal(INTERNAL))
        replicas = [stack.address("document", replica) for replica in range(REPLICAS)]
        direct = await _channels(stack_of, replicas, credentials)
        floors = await stack_of.enter_async_context(floor_servers(stack, dsn, REPLICAS))
        bare = await _channels(stack_of, floors, credentials)
        lines, shares = await _submissions(plan, out, session, direct, bare, population, dsn)
        lines += await _reads(plan, session, direct, await _channels(stack_of, [echo], credentials), population)
        lines += await _openings(plan, out, session, direct, population)
        conn = await asyncpg.connect(dsn)
        out.print(str(machine(await conn.fetchval("SHOW server_version"), busy)))
        await conn.close()
    return lines, shares


async def _channels(
    stack_of: contextlib.AsyncExitStack, addresses: Sequence[str], credentials: grpc.ChannelCredentials
) -> list[grpc.aio.Channel]:
    """As many connections as to one server, in equal parts to these."""
    of_each = load.CONNECTIONS // len(addresses)
    made = [channel for address in addresses for channel in load.connect(address, credentials, of_each)]
    for channel in made:
        stack_of.push_async_callback(channel.close)
        await channel.channel_ready()
    return made


async def _submissions(
    plan: Plan,
    out: Console,
    session: Session,
    direct: Sequence[grpc.aio.Channel],
    bare: Sequence[grpc.aio.Channel],
    population: Population,
    dsn: str,
) -> tuple[list[Line], dict[str, Share]]:
    """Of both kinds: the lines, and the share of each."""
    lines: list[Line] = []
    shares: dict[str, Share] = {}
    models = dict(zip(population.models, range(len(population.models)), strict=True))
    kinds: dict[str, Callable[[bytes], bytes]] = {
        "structured CDA": lambda model: model,
        "letter, a PDF in a CDA": lambda model: letter(model, models[model]),
    }
    for kind, made in kinds.items():
        work = Submissions(session, direct, population, made)
        await work.prepare(_WARM_UP)
        await load.measure(work.load, 1, warm_up=0, seconds=_WARM_UP)  # so that there is one to insert
        sealed_size = len(compress(made(population.models[0]))) + OVERHEAD
        least = work.again(bare, _REPEATED)
        plain: list[Measurement] = []
        submitted: list[Measurement] = []
        floor: list[Measurement] = []
        for number in range(plan.rounds):
            out.print(f"submissions of a {kind}, round {number + 1} of {plan.rounds}")
            plain.append(await plain_inserts(dsn, sealed_size, plan.seconds / 2))
            await work.prepare(plan.seconds + _WARM_UP)
            submitted.append(await load.measure(work.load, IN_FLIGHT, warm_up=_WARM_UP, seconds=plan.seconds))
            floor.append(await load.measure(least, IN_FLIGHT, warm_up=_WARM_UP, seconds=plan.seconds / 2))
            plain.append(await plain_inserts(dsn, sealed_size, plan.seconds / 2))
        inserts, submissions, indispensable = pooled(plain), pooled(submitted), pooled(floor)
        lines += [
            Line(f"plain inserts of its {sealed_size / 1000:.0f} kB sealed, {CONNECTIONS} connections", inserts),
            Line(f"the floor (bench.floor), {IN_FLIGHT} in flight", indispensable),
            Line(f"submit a {kind} of 100 kB, {IN_FLIGHT} in flight", submissions),
        ]
        shares[kind] = Share(submissions.rate / inserts.rate, indispensable.rate / inserts.rate)
    return lines, shares


async def plain_inserts(dsn: str, size: int, seconds: float) -> Measurement:
    """Eight connections that insert the stored bytes of about that size, each row durable before the next."""
    connections = [await asyncpg.connect(dsn, server_settings={"synchronous_commit": "on"}) for _ in range(CONNECTIONS)]
    await connections[0].execute(_TABLE)
    sealed: bytes = await connections[0].fetchval(_STORED, size)
    latencies: list[float] = []
    until = time.perf_counter() + seconds

    async def insert(conn: asyncpg.Connection[asyncpg.Record], number: int) -> None:
        while (began := time.perf_counter()) < until:
            await conn.execute(_INSERT, number, uuid.uuid4(), sealed)
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(insert(conn, number) for number, conn in enumerate(connections)))
    for conn in connections:
        await conn.close()
    return Measurement(seconds, tuple(latencies), len(latencies))


async def _reads(
    plan: Plan,
    session: Session,
    direct: Sequence[grpc.aio.Channel],
    echo: Sequence[grpc.aio.Channel],
    population: Population,
) -> list[Line]:
    reads = workloads.read_content(session, direct, population)
    await reads.prepare(plan.seconds)
    payload = bytes(1000)
    bare = Unary(echo, ECHO_PATH, lambda: (payload, ()), at_least=1000)
    before = await load.measure(bare, IN_FLIGHT, warm_up=_WARM_UP, seconds=plan.seconds / 2)
    measured = await load.measure(reads.load, IN_FLIGHT, warm_up=_WARM_UP, seconds=plan.seconds)
    after = await load.measure(bare, IN_FLIGHT, warm_up=_WARM_UP, seconds=plan.seconds / 2)
    return [
        Line(f"bare echo of 1 kB, {IN_FLIGHT} in flight", pooled((before, after))),
        Line(f"read a content of 100 kB, {IN_FLIGHT} in flight", measured),
    ]


async def _openings(
    plan: Plan, out: Console, session: Session, direct: Sequence[grpc.aio.Channel], population: Population
) -> list[Line]:
    """First openings of one dossier with so many documents, one at a time and sixteen at a time."""
    stored, model = population.small[0], population.models[0]
    dossier = population.dossiers[stored.dossier]
    statement = population.physicians[dossier.physician].direct
    out.print(f"feeding a dossier with {plan.opened} documents")
    for start in range(0, plan.opened, 50):
        contents = [another(model) for _ in range(min(50, plan.opened - start))]
        request = submission(dossier.health_id, contents)
        await session.call(
            "document", "SubmitDocuments", request, document_pb2.SubmitDocumentsResponse, statement, timeout=120
        )
    asked = document_pb2.GetFirstOpeningRequest(parent=dossier_name(dossier.health_id)).SerializeToString()
    header = await bearer(session, statement)
    opening = Unary(direct, _OPENING, lambda: (asked, header), at_least=plan.opened * 500)
    return [
        Line(
            f"first opening of {plan.opened} documents, {in_flight} in flight",
            await load.measure(opening, in_flight, warm_up=_WARM_UP, seconds=plan.seconds),
        )
        for in_flight in (1, 16)
    ]


def table(lines: Sequence[Line]) -> Table:
    """The lines, for a terminal."""
    shown = Table("", "/s", "p50 ms", "p95 ms", "p99 ms", box=SIMPLE_HEAD)
    for line in lines:
        shown.add_row(*line.cells())
    return shown


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.document", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short look; judges nothing")
    arguments = parser.parse_args()
    out, busy = Console(highlight=False, soft_wrap=True), load_before()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        lines, shares = runner.run(run(QUICK if arguments.quick else Plan(), out))
    shown = table(lines)
    said = "; ".join(f"{kind}: {share.submitted:.2f}, the floor {share.floor:.2f}" for kind, share in shares.items())
    note = f"submissions, as a part of the plain inserts of the same bytes: {said}; at least {LEAST} is asked for"
    out.print(shown, note, _BOUND, sep="\n")
    if not arguments.quick:
        page.publish("document", "Documents", shown, note, _BOUND, busy=busy)
    return 0 if arguments.quick or min(share.submitted for share in shares.values()) >= LEAST else 1


if __name__ == "__main__":
    raise SystemExit(main())
