"""`python -m bench.account`: the CPU time of a metadata read, in every process of the platform, and the floor under it.

Counted by the kernel to the nanosecond (`/proc/*/schedstat`), thread by thread, so that it says something on a machine
that others use too: what they take is not in it, though they make every process slower. Each column stands beside what
the bare grpcio echo cost in the same seconds; `full` is the ratio to the echo's rate that the sum allows when the
processors do nothing else: processors ÷ sum, by the one call at a time that an echo server of one event loop can do.

The floor is what is left of a read without the platform: an empty method on the native transport, at its socket and
behind the terminator.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import load, workloads
from bench.ground import echo_server, fresh_state, native_echo_server
from bench.light import LightCallers
from bench.load import Unary
from bench.native import Stated
from bench.population import Extent, populate
from bench.workloads import Reads
from ops.endpoints import publish
from ops.local.postgres import NAME as POSTGRES
from ops.local.registrations import INTERNAL
from ops.local.stack import Stack, terminator_name
from ops.local.state import SERVICES
from ops.migrations import migrate
from ops.session import Session

LEVELS: Final = (16, 256)
_PROC: Final = Path("/proc")
_WARM_UP: Final = 0.5
_LEAST: Final = 0.5
"""Microseconds below which a process is not shown."""


@dataclass(frozen=True, slots=True)
class Column:
    """One workload at one level: microseconds of a call by process, of an echo, and the calls a second."""

    name: str
    spent: Mapping[str, float]
    echo: float
    rate: float

    @property
    def total(self) -> float:
        """Of all processes."""
        return sum(self.spent.values())

    @property
    def full(self) -> float:
        """The ratio to the echo when the processors do nothing else."""
        return len(os.sched_getaffinity(0)) * self.echo / self.total


def seconds_of(pid: int) -> tuple[float, float]:
    """CPU seconds of a process's first thread, which has its event loop, and of all its others."""
    first = others = 0.0
    for task in (_PROC / str(pid) / "task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            used = int((task / "schedstat").read_text("ascii").split()[0]) / 1e9
            if int(task.name) == pid:
                first += used
            else:
                others += used
    return first, others


class Books:
    """The processes of a platform, by name."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def pid(self, name: str) -> int:
        """Of a process that the local supervisor started."""
        return int(self._stack.state.process_file(name).read_text("ascii").split()[0])

    def read(self) -> dict[str, float]:
        """CPU seconds until now."""
        used: dict[str, float] = {}
        for service in SERVICES:
            used[service], used[f"{service}, other threads"] = seconds_of(self._stack.pid(service))
            used[f"terminator of {service}"] = sum(seconds_of(self.pid(terminator_name(service))))
        for pid in _children(self.pid(POSTGRES)):
            with contextlib.suppress(OSError):
                name = f"PostgreSQL: {_database(pid)}"
                used[name] = used.get(name, 0.0) + sum(seconds_of(pid))
        used["generator"] = sum(seconds_of(os.getpid()))
        return used


def _children(parent: int) -> list[int]:
    found = []
    for directory in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((directory / "stat").read_text("ascii", "replace").rpartition(")")[2].split()[1]) == parent:
                found.append(int(directory.name))
    return found


def _database(pid: int) -> str:
    """The database of a connection by its title (`postgres: role database client …`), else `itself`."""
    words = (_PROC / str(pid) / "cmdline").read_text("utf-8", "replace").split()
    return words[2].removeprefix("dmp_") if len(words) > 3 and words[2].startswith("dmp_") else "itself"


async def measure(seconds: float, out: Console) -> list[Column]:
    """Every column, the floor first."""
    async with contextlib.AsyncExitStack() as resources:
        state = await resources.enter_async_context(fresh_state())
        stack = await resources.enter_async_context(Stack(state, migrate=migrate, transport="native"))
        session = await resources.enter_async_context(Session(state, publish(stack)))
        out.print("feeding", style="dim")
        population, secure = await populate(session, Extent(dossiers=150, large=0)), stack.internal(INTERNAL)
        callers = LightCallers(resources)
        connect, echo = callers.connect, callers.echo
        socket, terminated = await resources.enter_async_context(native_echo_server(stack))
        plain = await echo(await resources.enter_async_context(echo_server(stack, secure=False)), None)
        document, gateway = (f"unix:{stack.socket(service)}" for service in ("document", "gateway"))
        reads: dict[str, Reads] = {
            "direct": workloads.read_metadata(session, await connect(document, None), population, Stated(INTERNAL)),
            "gateway": workloads.gateway_read_metadata(session, await connect(gateway, None), population),
            "direct, TLS": workloads.read_metadata(
                session, await connect(stack.address("document"), secure), population
            ),
        }
        floors = {"empty": await echo(socket, None), "empty, TLS": await echo(terminated, secure)}
        books = Books(stack)
        columns = [await _floor(books, name, work, plain, seconds) for name, work in floors.items()]
        for in_flight in LEVELS:
            for name, work in reads.items():
                out.print(f"{name}, {in_flight} in flight", style="dim")
                await work.prepare(seconds)
                columns.append(await _column(books, f"{name}, {in_flight}", work, plain, in_flight, seconds))
        return columns


async def _column(books: Books, name: str, work: Reads, echo: Unary, in_flight: int, seconds: float) -> Column:
    await load.measure(work.load, in_flight, warm_up=0, seconds=_WARM_UP)
    before = books.read()
    measured = await load.measure(work.load, in_flight, warm_up=0, seconds=seconds)
    calls = measured.answered
    spent = {process: (used - before.get(process, 0.0)) / calls * 1e6 for process, used in books.read().items()}
    return Column(name, spent, await _echo_cost(books, echo, in_flight), measured.rate)


async def _floor(books: Books, name: str, work: Unary, echo: Unary, seconds: float) -> Column:
    pids = {"native server": books.pid("echo-native"), "terminator": books.pid("envoy-echo"), "generator": os.getpid()}
    await load.measure(work, LEVELS[-1], warm_up=0, seconds=_WARM_UP)
    before = {process: sum(seconds_of(pid)) for process, pid in pids.items()}
    measured = await load.measure(work, LEVELS[-1], warm_up=0, seconds=seconds / 2)
    spent = {
        process: (sum(seconds_of(pid)) - before[process]) / measured.answered * 1e6 for process, pid in pids.items()
    }
    return Column(name, spent, await _echo_cost(books, echo, LEVELS[-1]), measured.rate)


async def _echo_cost(books: Books, echo: Unary, in_flight: int) -> float:
    """CPU microseconds of the bare grpcio echo server for a call."""
    pid = books.pid("echo-plain")
    await load.measure(echo, in_flight, warm_up=0, seconds=0.3)
    before = sum(seconds_of(pid))
    measured = await load.measure(echo, in_flight, warm_up=0, seconds=1)
    return (sum(seconds_of(pid)) - before) / measured.answered * 1e6


def table(columns: Sequence[Column]) -> Table:
    """For a terminal."""
    shown = Table("CPU µs a call", *(column.name for column in columns), box=SIMPLE_HEAD)
    most = Counter[str]()
    for column in columns:
        most |= Counter({process: round(used * 10) for process, used in column.spent.items()})
    for process, used in most.most_common():
        if used / 10 >= _LEAST:
            spent = (column.spent.get(process) for column in columns)
            shown.add_row(process, *("" if each is None else f"{each:.0f}" for each in spent))
    shown.add_section()
    shown.add_row("all", *(f"{column.total:.0f}" for column in columns))
    shown.add_row("grpcio echo server", *(f"{column.echo:.0f}" for column in columns))
    shown.add_row("full", *(f"{column.full:.2f}" for column in columns))
    shown.add_row("calls/s", *(f"{column.rate:,.0f}" for column in columns))
    return shown


def main() -> int:
    """Run, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.account", description="Where the CPU of a read goes.")
    parser.add_argument("--seconds", type=float, default=4, help="for each column (4)")
    arguments = parser.parse_args()
    out = Console(highlight=False, width=140)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        out.print(table(runner.run(measure(arguments.seconds, out))))
    out.print(f"load average {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
