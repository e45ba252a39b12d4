"""`python -m bench.native`: reads on the native transport, at its socket and over TLS through Envoy, each beside
the grpcio echo of the same run: without TLS for the socket, with it for Envoy.

On the socket the generator is the terminator: it states the client's certificate, as Envoy does. Nothing else is
different: the same tokens, the same decisions, the same events. Echo and reads alike are called by the light generator
(bench.light), so that what is compared are servers. Document and gateway have two replicas, as k8s/base has them; a
client has as many connections as its load needs, one for each 64 calls, and they go to the replicas in turn. The echo
is called on as many. Exit status 1 when a ratio is below what is asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import load, page, workloads
from bench.figures import Measurement, Name, Row, Transport, pooled, row
from bench.ground import echo_server, fresh_state, native_echo_server
from bench.light import LightCallers
from bench.load import Metadata, Unary, Workload
from bench.machine import cpu_seconds, load_before
from bench.observer import Observer
from bench.population import Extent, Population, populate
from bench.usage import usage_of
from bench.workloads import Reads
from ops.endpoints import publish
from ops.local.pki import Identity
from ops.local.registrations import INTERNAL
from ops.local.stack import Stack, terminator_name
from ops.local.state import SERVICES, ServiceName
from ops.migrations import migrate
from ops.session import Session
from services.runtime.terminator import FORWARDED_CERTIFICATE

LEVELS: Final = (16, 256)
LEAST: Final[Mapping[tuple[Name, Transport, int], float]] = {
    ("read_metadata", "native", 256): 1.0,
    ("gateway_read_metadata", "native", 256): 0.8,
    ("read_metadata", "native+tls", 256): 0.8,
    ("read_metadata", "native", 16): 0.25,
}
REPLICAS: Final[Mapping[ServiceName, int]] = {"document": 2, "gateway": 2}
"""As k8s/base."""
CALLS_A_CONNECTION: Final = 64
_REST, _LOOKS = 0.25, 60
_AT_REST: Final = 0.05
"""Seconds of CPU of all services in so many seconds of rest."""
TURNS: Final = 2
"""Times that each workload is measured, between two baselines each time: the speed of a machine wanders."""
_WARM_UP: Final = 0.3
_BASELINE_SECONDS: Final = 0.6
_NOTES: Final = (
    "by: `native` at its socket, beside grpcio's echo without TLS; `native+tls` through Envoy, beside that over TLS",
    "document and gateway have two replicas, as deployed; the echo has one, and so a processor for itself",
    "one connection for each 64 calls, to the replicas in turn, and as many to the echo",
    "each once the platform rests: what it makes of the trail (counts, notices) it makes when calls leave room",
    "p50 and p99 in ms; cpu: of all processes, the generator too, for one call; echo/s: before and after each turn",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One workload at one level: its figures, the grpcio echo beside it, and the CPU time of all processes for a
    call, in microseconds (none for an echo)."""

    row: Row
    echo_per_s: float
    cpu: float | None

    @property
    def value(self) -> float:
        """The rate as a part of the echo's."""
        return self.row.rate_per_s / self.echo_per_s

    @property
    def least(self) -> float | None:
        """What it must reach."""
        return LEAST.get((self.row.name, self.row.transport, self.row.in_flight))


@dataclass(frozen=True, slots=True)
class Side:
    """What is measured on one transport, and the grpcio echo that it is compared with."""

    transport: Transport
    baseline: Unary
    echo: Unary
    reads: Mapping[Name, Reads]
    connections: int


class Stated:
    """Headers as a terminator adds them: who is connected."""

    def __init__(self, name: str) -> None:
        self._header = (FORWARDED_CERTIFICATE, f"Hash={'0' * 64};URI=spiffe://dmp.local/internal/{name}")

    def __call__(self, headers: Metadata) -> Metadata:
        return (*headers, self._header)


async def measure_all(seconds: float, out: Console) -> list[Line]:
    """Every line. AssertionError when calls and events disagree."""
    async with contextlib.AsyncExitStack() as resources:
        state = await resources.enter_async_context(fresh_state())
        stack = await resources.enter_async_context(
            Stack(state, migrate=migrate, transport="native", replicas=REPLICAS)
        )
        session = await resources.enter_async_context(Session(state, publish(stack)))
        out.print("feeding", style="dim")
        population = await populate(session, Extent(dossiers=150, large=0))
        echoes = await Echoes.start(stack, resources)
        observer = await Observer.open(stack)
        resources.push_async_callback(observer.close)
        before, lines, answered = await observer.size(), list[Line](), 0
        for in_flight in LEVELS:
            for side in await _sides(stack, session, population, resources, echoes, connections_for(in_flight)):
                out.print(f"{side.transport}, {in_flight} in flight", style="dim")
                for line, calls in await _level(stack, side, in_flight, seconds):
                    lines.append(line)
                    answered += calls
        recorded = await observer.size() - before
        assert recorded == answered, f"{answered} calls, {recorded} events"
        out.print(f"{answered:,} calls, {recorded:,} events")
        return lines


def connections_for(in_flight: int) -> int:
    """How many connections a client has that keeps so many calls under way."""
    return -(-in_flight // CALLS_A_CONNECTION)


@dataclass(frozen=True, slots=True)
class Echoes:
    """Where the echo servers are: grpcio's with and without TLS, the native one's socket and its terminator."""

    plain: str
    tls: str
    socket: str
    terminated: str

    @classmethod
    async def start(cls, stack: Stack, resources: contextlib.AsyncExitStack) -> Echoes:
        """Until `resources` are closed."""
        plain = await resources.enter_async_context(echo_server(stack, secure=False))
        tls = await resources.enter_async_context(echo_server(stack, secure=True))
        return cls(plain, tls, *await resources.enter_async_context(native_echo_server(stack)))


async def _sides(
    stack: Stack,
    session: Session,
    population: Population,
    resources: contextlib.AsyncExitStack,
    echoes: Echoes,
    connections: int,
) -> tuple[Side, Side]:
    """Both transports, each called on so many connections."""
    callers, secure = LightCallers(resources), stack.internal(INTERNAL)

    async def side(
        transport: Transport,
        echo: tuple[str, str],
        at: Callable[[ServiceName, int], str],
        credentials: Identity | None,
        stated: Stated | None,
    ) -> Side:
        document, gateway = [
            await callers.among([at(service, replica) for replica in range(count)], credentials, connections)
            for service, count in REPLICAS.items()
        ]
        reads: dict[Name, Reads] = {
            "read_metadata": workloads.read_metadata(session, document, population, stated),
            "gateway_read_metadata": workloads.gateway_read_metadata(session, gateway, population),
        }
        baseline, own = [await callers.echo(each, credentials, connections) for each in echo]
        return Side(transport, baseline, own, reads, connections)

    def socket(service: ServiceName, replica: int) -> str:
        return f"unix:{stack.socket(service, replica)}"

    return (
        await side("native", (echoes.plain, echoes.socket), socket, None, Stated(INTERNAL)),
        await side("native+tls", (echoes.tls, echoes.terminated), stack.address, secure, None),
    )


async def _level(stack: Stack, side: Side, in_flight: int, seconds: float) -> list[tuple[Line, int]]:
    """Each workload between two baselines; with each line the calls that must have left an event."""

    async def called(work: Workload, seconds: float) -> Measurement:
        return await load.measure(work, in_flight, warm_up=_WARM_UP, seconds=seconds, connections=side.connections)

    async def between(work: Workload) -> tuple[Measurement, Measurement, float]:
        """The workload and the baseline in turn, and the CPU seconds that the workload took."""
        await rested(stack)
        baselines, measured, cpu = [await called(side.baseline, _BASELINE_SECONDS)], list[Measurement](), 0.0
        for _ in range(TURNS):
            used = _cpu(stack)
            measured.append(await called(work, seconds / TURNS))
            cpu += _cpu(stack) - used
            await rested(stack)
            baselines.append(await called(side.baseline, _BASELINE_SECONDS))
        return pooled(measured), pooled(baselines), cpu

    echo, baseline, _ = await between(side.echo)
    lines = [(Line(row("echo", side.transport, in_flight, echo), baseline.rate, None), 0)]
    for name, work in side.reads.items():
        await work.prepare(seconds)
        measured, baseline, cpu = await between(work.load)
        each = Line(row(name, side.transport, in_flight, measured), baseline.rate, round(cpu / measured.answered * 1e6))
        lines.append((each, measured.answered))
    return lines


async def rested(stack: Stack) -> None:
    """Returns when the platform has done what was left to do behind its answers, or after a quarter of a minute: a load
    must not pay for another's."""
    for _ in range(_LOOKS):
        before = _services(stack)
        await asyncio.sleep(_REST)
        if _services(stack) - before < _AT_REST:
            return


def _services(stack: Stack) -> float:
    """CPU seconds that services and PostgreSQL have used."""
    return sum(usage_of(stack).seconds[1:])


def _cpu(stack: Stack) -> float:
    """CPU seconds that the generator, the services, PostgreSQL and the terminators have used."""
    names = (terminator_name(service, replica) for service in SERVICES for replica in range(stack.replicas(service)))
    files = map(stack.state.process_file, names)
    return sum(usage_of(stack).seconds) + sum(cpu_seconds(int(file.read_text("ascii").split()[0])) for file in files)


def table(lines: list[Line]) -> Table:
    """For a terminal."""
    shown = Table("calls", "by", "what", "rate/s", "p50", "p99", "cpu µs", "echo/s", "ratio", "least", box=SIMPLE_HEAD)
    shown.caption = "p50, p99 in ms; echo/s: of grpcio, just before and after; cpu: of all processes, for one call"
    for column in shown.columns:
        column.no_wrap = True
    for line in lines:
        each = line.row
        shown.add_row(
            *(str(each.in_flight), each.transport, each.name, f"{each.rate_per_s:,.0f}"),
            *(f"{each.p50_ms:.2f}", f"{each.p99_ms:.2f}", "" if line.cpu is None else f"{line.cpu:.0f}"),
            *(f"{line.echo_per_s:,.0f}", f"{line.value:.2f}", "" if line.least is None else f"{line.least:.2f}"),
            style="red" if line.least is not None and line.value < line.least else None,
        )
    return shown


def main() -> int:
    """Run, print, merge; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.native", description="Measure reads on the native transport."
    )
    parser.add_argument("--seconds", type=float, default=2.4, help="for each workload at each level (2.4)")
    parser.add_argument("--quick", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    out, busy = Console(highlight=False, width=100), load_before()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        lines = runner.run(measure_all(arguments.seconds, out))
    shown = table(lines)
    out.print(shown)
    if not arguments.quick:
        page.publish("native", "The native transport", shown, *_NOTES, busy=busy)
    return int(any(line.least is not None and line.value < line.least for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
