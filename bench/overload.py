"""`python -m bench.overload`: a flood of batch work, and twice the load that the platform can sustain; emergencies all
the while. Exit status 1 when one of the promises of docs/decisions/0011 is not kept.

    alone      emergencies, nothing else
    peak       as many reads as the platform answers when clients wait for answers (closed loops)
    flood      batch work in more loops than there are places
    overload   twice the peak, sent whether answered or not
    after      emergencies and a little everyday work, from the moment at which the overload ends

By default on the native transport behind Envoy, which is the deployment for load; `--transport grpcio` for the other,
which has no cheap way to refuse. Everyday and emergency calls come from two processes, so that who floods does not
delay whom we time; the crowd is sent by `bench.light`, since grpcio's client cannot send twice the peak beside the
platform. Everything else (databases, services, generators) shares the machine, as in `bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, get_args

import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import page
from bench.figures import percentile
from bench.generator import Call, Outcome, in_a_process
from bench.generator import Plan as Load
from bench.ground import fresh_state
from bench.machine import cpu_seconds, load_before
from bench.population import Extent, Population, populate
from bench.usage import usage_of
from bench.workloads import GET, bearer
from dmp.document.v1 import document_pb2
from ops.endpoints import publish
from ops.local.registrations import INTERNAL
from ops.local.stack import Stack, terminator_name
from ops.migrations import migrate
from ops.session import Session, Statement
from services.runtime.limits import BATCH, EMERGENCY, NAMES, TRAFFIC_HEADER
from services.runtime.settings import Transport

EMERGENCIES_A_SECOND: Final = 20.0
LOOPS: Final = 256
FLOOD_LOOPS: Final = 512
CONNECTIONS: Final = 16
"""Of the crowd: enough streams for all that it sends to reach the limit, and not to wait in the client."""
LEAST_THROUGHPUT: Final = 0.85
"""Of the peak, answered at twice the peak."""
MOST_UNSENT: Final = 0.05
"""Of twice the peak: what is offered is to be answered or pushed back, and not to pile up."""
MOST_DELAY: Final = 2.0
"""Times the p99 that emergencies have alone."""
MOST_GROWTH: Final = 1.10
"""Times the memory that the services have at the end of the first third of the overload."""
MOST_RECOVERY: Final = 5.0
"""Seconds after the overload until calls take no longer than twice what they take alone."""
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_SECTIONS: Final[Mapping[Transport, tuple[str, str]]] = {
    "native": ("overload", ""),
    "grpcio": ("overload_grpcio", ", on grpcio"),
}
_WATCHED: Final = ("document", "consent", "audit")


@dataclass(frozen=True, slots=True)
class Length:
    """Seconds of the phases."""

    alone: float = 15.0
    peak: float = 10.0
    flood: float = 30.0
    overload: float = 60.0
    after: float = 10.0

    @classmethod
    def quick(cls) -> Length:
        """A look."""
        return cls(alone=5, peak=4, flood=5, overload=10, after=6)


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found: rates in calls a second, latencies in seconds, memory in bytes over the overload.

    `served_seconds` of CPU does the platform use for a call at its peak; `refused_seconds` for one that it pushed back
    in the overload, if those that it served then cost the same.
    """

    peak: float
    sustained: float
    refused: float
    unsent: float
    alone: tuple[float, ...]
    flood: tuple[float, ...]
    overload: tuple[float, ...]
    after: tuple[tuple[float, float], ...]
    memory: tuple[int, ...]
    served_seconds: float
    refused_seconds: float
    failed: dict[str, int]

    @property
    def throughput(self) -> float:
        """What was answered at twice the peak, as a part of the peak."""
        return self.sustained / self.peak

    @property
    def growth(self) -> float:
        """The most memory in the last two thirds, by that at the end of the first."""
        first = max(1, len(self.memory) // 3)
        return max(self.memory[first - 1 :]) / self.memory[first - 1]

    @property
    def recovery(self) -> float:
        """Seconds after the overload from which on no call took longer than twice the p99 of emergencies alone."""
        bound = MOST_DELAY * p99(self.alone)
        return max((began + took for began, took in self.after if took > bound), default=0.0)

    def shortcomings(self) -> list[str]:
        """The promises that were not kept."""
        said = []
        if self.throughput < LEAST_THROUGHPUT:
            said.append(f"throughput {self.throughput:.2f} of the peak, {LEAST_THROUGHPUT} asked")
        for name, latencies in (("flood", self.flood), ("overload", self.overload)):
            if p99(latencies) > MOST_DELAY * p99(self.alone):
                said.append(f"{name}: p99 of emergencies {p99(latencies) / p99(self.alone):.1f} times that alone")
        if self.unsent > MOST_UNSENT * 2 * self.peak:
            said.append(f"{self.unsent:,.0f} calls a second found thousands unanswered, and were not sent")
        if self.growth > MOST_GROWTH:
            said.append(f"memory grew to {self.growth:.2f} times")
        if self.recovery > MOST_RECOVERY:
            said.append(f"recovery took {self.recovery:.1f} s")
        if self.failed:
            said.append(f"calls failed otherwise than by push-back: {self.failed}")
        return said


def p99(latencies: Sequence[float]) -> float:
    """In seconds."""
    return percentile(sorted(latencies), 0.99)


class Field:
    """A platform under test, and the loads that are sent to it."""

    def __init__(self, stack: Stack, session: Session, population: Population) -> None:
        self._stack = stack
        self._session = session
        self._population = population
        identity = stack.internal(INTERNAL)
        self._load = Load(
            target=stack.address("document"),
            certificate=str(identity.certificate),
            key=str(identity.key),
            authority=str(identity.authority),
            path=GET,
            calls=(),
            seconds=0.0,
        )

    async def emergencies(self, seconds: float) -> Load:
        """Reads in regulation mode, now and then."""
        return replace(
            self._load,
            calls=await self._calls("regulation", ((TRAFFIC_HEADER, NAMES[EMERGENCY]),)),
            seconds=seconds,
            rate=EMERGENCIES_A_SECOND,
            connections=2,
        )

    async def care(self, seconds: float, *, rate: float = 0.0, loops: int = 0, batch: bool = False) -> Load:
        """Everyday reads, or batch work of the same kind."""
        lowered = ((TRAFFIC_HEADER, NAMES[BATCH]),) if batch else ()
        calls = await self._calls("normal", lowered)
        return replace(
            self._load,
            calls=calls,
            seconds=seconds,
            rate=rate,
            loops=loops,
            connections=CONNECTIONS,
            patient=bool(loops),
            light=bool(loops) or rate > EMERGENCIES_A_SECOND,
        )

    def memory(self) -> int:
        """Resident bytes of the services that a read goes through, and of what terminates TLS before them."""
        return sum(map(_resident, self._pids()))

    def cpu(self) -> float:
        """Seconds of CPU that the platform has used: all services, their terminators, PostgreSQL."""
        return sum(usage_of(self._stack).seconds[1:]) + sum(map(cpu_seconds, self._terminators()))

    def _pids(self) -> list[int]:
        return [*(self._stack.pid(service) for service in _WATCHED), *self._terminators()]

    def _terminators(self) -> list[int]:
        files = [self._stack.state.process_file(terminator_name(service)) for service in _WATCHED]
        return [int(file.read_text("ascii").split()[0]) for file in files if file.exists()]

    async def _calls(self, mode: str, more: tuple[tuple[str, str], ...] = ()) -> tuple[Call, ...]:
        headers = [
            await bearer(self._session, _in_mode(physician.direct, mode)) for physician in self._population.physicians
        ]
        return tuple(
            Call(
                base64.b64encode(document_pb2.GetDocumentRequest(name=stored.name).SerializeToString()).decode(),
                (*headers[self._population.dossiers[stored.dossier].physician], *more),
            )
            for stored in self._population.small
        )


async def measure(length: Length, transport: Transport, out: Console) -> Findings:
    """All phases on a fresh platform."""
    async with contextlib.AsyncExitStack() as resources:
        state = await resources.enter_async_context(fresh_state())
        stack = await resources.enter_async_context(Stack(state, migrate=migrate, transport=transport))
        session = await resources.enter_async_context(Session(state, publish(stack)))
        out.print("feeding", style="dim")
        field = Field(stack, session, await populate(session, Extent(dossiers=150, large=0)))
        await in_a_process([await field.care(2, loops=LOOPS)])  # caches, statements, pools
        out.print("alone", style="dim")
        [alone] = await in_a_process([await field.emergencies(length.alone)])
        out.print("peak", style="dim")
        used = field.cpu()
        [peak] = await in_a_process([await field.care(length.peak, loops=LOOPS)])
        served = (field.cpu() - used) / len(peak.answered)
        out.print("flood of batch work", style="dim")
        flood = await field.care(length.flood, loops=FLOOD_LOOPS, batch=True)
        flooded, flooding = await _beside(flood, await field.emergencies(length.flood))
        peak_rate = len(peak.answered) / length.peak
        out.print(f"twice {peak_rate:,.0f}/s", style="dim")
        watch = asyncio.create_task(_watched(field, length.overload))
        care = await field.care(length.overload, rate=2 * peak_rate)
        emergencies = await field.emergencies(length.overload)
        calm = await field.care(length.after, rate=EMERGENCIES_A_SECOND)
        used = field.cpu()
        overloaded, overloading = await _beside(care, emergencies)
        beyond = field.cpu() - used - served * (len(overloading.answered) + len(overloaded.answered))
        [after] = await in_a_process([calm])
        return Findings(
            peak=peak_rate,
            sustained=len(overloading.answered) / length.overload,
            refused=len(overloading.refused) / length.overload,
            unsent=overloading.unsent / length.overload,
            alone=_took(alone),
            flood=_took(flooded),
            overload=_took(overloaded),
            after=tuple(after.answered),
            memory=tuple(await watch),
            served_seconds=served,
            refused_seconds=max(0.0, beyond / len(overloading.refused)) if overloading.refused else 0.0,
            failed=_failed((alone, peak, flooded, flooding, overloaded, overloading, after)),
        )


async def _beside(crowd: Load, timed: Load) -> tuple[Outcome, Outcome]:
    """Two loads at once, each in a process of its own; the second's outcome first."""
    [[crowded], [measured]] = await asyncio.gather(in_a_process([crowd]), in_a_process([timed]))
    return measured, crowded


async def _watched(field: Field, seconds: float) -> list[int]:
    sizes = []
    for _ in range(max(3, round(seconds))):
        await asyncio.sleep(1)
        sizes.append(field.memory())
    return sizes


def _took(outcome: Outcome) -> tuple[float, ...]:
    return tuple(took for _, took in outcome.answered)


def _failed(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Failures that are no push-back, by what was told."""
    told: dict[str, int] = {}
    for outcome in outcomes:
        for error, count in outcome.failed.items():
            told[error] = told.get(error, 0) + count
    return told


def _in_mode(statement: Statement, mode: str) -> Statement:
    return Statement.of(statement.client_id, **{**dict(statement.fields), "access_mode": mode})


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE


def table(found: Findings) -> Table:
    """For a terminal."""
    shown = Table("what", "emergencies p50 ms", "p99 ms", "times alone", box=SIMPLE_HEAD)
    alone = p99(found.alone)
    for name, latencies in (("alone", found.alone), ("flood", found.flood), ("overload", found.overload)):
        ordered = sorted(latencies)
        p50 = percentile(ordered, 0.5) * 1000
        shown.add_row(name, f"{p50:.1f}", f"{p99(ordered) * 1000:.1f}", f"{p99(ordered) / alone:.2f}")
    shown.caption = _summary(found)
    return shown


def _summary(found: Findings) -> str:
    return (
        f"peak {found.peak:,.0f}/s; twice that offered: {found.sustained:,.0f}/s answered ({found.throughput:.2f}), "
        f"{found.refused:,.0f}/s pushed back, {found.unsent:,.0f}/s not sent; memory {found.growth:.2f} times; "
        f"calm after {found.recovery:.1f} s; CPU of a call {found.served_seconds * 1e6:,.0f} µs at the peak, "
        f"of a refusal {found.refused_seconds * 1e6:,.0f} µs"
    )


def main() -> int:
    """Run, print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description="Measure the platform overloaded.")
    parser.add_argument("--transport", choices=get_args(Transport), default="native", help="what serves gRPC")
    parser.add_argument("--quick", action="store_true", help="a short look")
    arguments = parser.parse_args()
    out, busy = Console(highlight=False, width=100), load_before()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(Length.quick() if arguments.quick else Length(), arguments.transport, out))
    shown = table(found)
    out.print(shown)
    if not arguments.quick:
        summary = _summary(found)
        part, where = _SECTIONS[arguments.transport]
        page.publish(part, f"Twice what it can do{where}", shown, summary[0].upper() + summary[1:], busy=busy)
    for said in found.shortcomings():
        out.print(said, style="red")
    return int(bool(found.shortcomings()))


if __name__ == "__main__":
    raise SystemExit(main())
