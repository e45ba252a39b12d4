"""`python -m bench.hot_path`: where the CPU time of a metadata read goes, in each service, by what it is spent on.

Runs the platform on the native transport with every service under a sampler (`bench.sampled`), 256 reads in flight, and
prints microseconds a call by subject; `--write` draws docs/explanation/hot-path.svg, the flame graph of the document
service. Sampling itself costs some per cent, so the sums are above those of `bench.native`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import flame, load, workloads
from bench.ground import fresh_state
from bench.machine import cpu_seconds
from bench.native import Stated
from bench.population import Extent, populate
from ops.endpoints import publish
from ops.local.registrations import INTERNAL
from ops.local.stack import ROOT, Stack, python_module
from ops.local.state import ServiceName, write_whole
from ops.migrations import migrate
from ops.session import Session

IN_FLIGHT: Final = 256
WATCHED: Final[tuple[ServiceName, ...]] = ("document", "consent", "audit")
PICTURE: Final = ROOT / "docs" / "explanation" / "hot-path.svg"
SUBJECTS: Final[Mapping[str, tuple[str, ...]]] = {
    "token and caller": (
        "runtime/authentication",
        "runtime/tokens",
        "runtime/tls",
        "runtime/access",
        "runtime/context",
    ),
    "place": ("runtime/limits",),
    "telemetry": ("runtime/observation", "runtime/tracing", "runtime/metrics", "structlog", "opentelemetry"),
    "contract's rules": ("runtime/validation", "protovalidate"),
    "batches": ("runtime/coalescer", "runtime/together"),
    "check and decision": (
        "runtime/checks",
        "services/consent/checking",
        "services/consent/decision",
        "consent/acting",
    ),
    "event": ("runtime/trail", "services/audit/append", "services/audit/entry", "services/audit/sequencer"),
    "keys and seals": ("runtime/dossier_keys", "runtime/sealing", "runtime/keyring", "document/envelope", "audit/leaf"),
    "SQL": ("asyncpg", "/store", "runtime/postgres"),
    "calls to others": ("runtime/channels", "grpc/aio", "runtime/server"),
    "transport": (
        "runtime/native",
        "runtime/terminator",
        "runtime/boundary",
        "runtime/dispatcher",
        "runtime/transport",
    ),
    "answer": ("services/document", "services/consent", "services/audit", "runtime/identifiers"),
}
"""What modules are about; a sample belongs to the innermost module that is about something."""
_LOOP: Final = "event loop"
_THREADS: Final = "other threads"
_COLOURS: Final = (
    *("#f4a582", "#fddbc7", "#d9d9d9", "#e6f598", "#92c5de", "#abdda4", "#66c2a5"),
    *("#fdae61", "#9ebcda", "#fee08b", "#c7eae5", "#f6e8c3"),
)


def subject_of(stack: Sequence[str]) -> str:
    """What the innermost frame that is about something is about."""
    return next((subject for frame in reversed(stack) if (subject := about(frame))), _LOOP)


def about(frame: str) -> str:
    """What a frame's module is about, empty for nothing."""
    path = frame.partition(" ")[0]
    for subject, modules in SUBJECTS.items():
        if any(module in path for module in modules):
            return subject
    return ""


def colour(frame: str) -> str:
    """The colour of a frame's subject."""
    subject = about(frame)
    return _COLOURS[list(SUBJECTS).index(subject)] if subject else "#f0f0f0"


def read_stacks(file: Path) -> Counter[tuple[str, ...]]:
    """What `bench.sampled` has written, without what lies below the event loop."""
    stacks: Counter[tuple[str, ...]] = Counter()
    for line in file.read_text("utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        runs = [number for number, frame in enumerate(frames) if frame.endswith("Runner.run")]
        stacks[tuple(frames[runs[-1] + 1 :] if runs else frames)] += int(count)
    return stacks


async def measure(seconds: float, directory: Path, out: Console) -> dict[str, dict[str, float]]:
    """Microseconds of a call by service and subject; the stacks are left in `directory`."""

    def command(service: ServiceName) -> Sequence[str]:
        if service not in WATCHED:
            return python_module(service)
        return (sys.executable, "-m", "bench.sampled", f"services.{service}", str(directory / service))

    async with contextlib.AsyncExitStack() as resources:
        state = await resources.enter_async_context(fresh_state())
        stack = await resources.enter_async_context(Stack(state, migrate=migrate, transport="native", command=command))
        session = await resources.enter_async_context(Session(state, publish(stack)))
        out.print("feeding", style="dim")
        population = await populate(session, Extent(dossiers=150, large=0))
        channels = load.connect(f"unix:{stack.socket('document')}", None)
        for channel in channels:
            resources.push_async_callback(channel.close)
        work = workloads.read_metadata(session, channels, population, Stated(INTERNAL))
        await work.prepare(seconds)
        await load.measure(work.load, IN_FLIGHT, warm_up=0.5, seconds=1)
        out.print(f"{seconds:.0f} s, {IN_FLIGHT} in flight", style="dim")
        pids = {service: stack.pid(service) for service in WATCHED}
        for pid in pids.values():
            os.kill(pid, signal.SIGUSR1)
        before = {service: (cpu_seconds(pid), _main_thread(pid)) for service, pid in pids.items()}
        measured = await load.measure(work.load, IN_FLIGHT, warm_up=0, seconds=seconds)
        used = {
            service: (cpu_seconds(pid) - before[service][0], _main_thread(pid) - before[service][1])
            for service, pid in pids.items()
        }
    spent: dict[str, dict[str, float]] = {}
    for service, (all_threads, main_thread) in used.items():
        stacks = read_stacks(directory / service)
        total = stacks.total()
        subjects: Counter[str] = Counter()
        for frames, count in stacks.items():
            subjects[subject_of(frames)] += count
        call = main_thread / measured.answered * 1e6
        spent[service] = {subject: count / total * call for subject, count in subjects.items()}
        spent[service][_THREADS] = (all_threads - main_thread) / measured.answered * 1e6
    return spent


def _main_thread(pid: int) -> float:
    """CPU seconds of a process's first thread, which runs its event loop."""
    fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def table(spent: Mapping[str, Mapping[str, float]]) -> Table:
    """For a terminal."""
    shown = Table("CPU µs a call", *spent, box=SIMPLE_HEAD)
    for subject in (*SUBJECTS, _LOOP, _THREADS):
        shown.add_row(subject, *(f"{costs.get(subject, 0):.0f}" for costs in spent.values()))
    shown.add_row("all", *(f"{sum(costs.values()):.0f}" for costs in spent.values()))
    return shown


def main() -> int:
    """Run, print, draw."""
    parser = argparse.ArgumentParser(prog="python -m bench.hot_path", description="Profile a metadata read.")
    parser.add_argument("--seconds", type=float, default=20, help="how long (20)")
    parser.add_argument("--quick", action="store_true", help="five seconds")
    parser.add_argument("--write", action="store_true", help=f"draw {PICTURE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    out = Console(highlight=False, width=100)
    with tempfile.TemporaryDirectory(prefix="dmp-hot-path-") as made:
        directory = Path(made)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            spent = runner.run(measure(5 if arguments.quick else arguments.seconds, directory, out))
        out.print(table(spent))
        if arguments.write:
            write_whole(PICTURE, flame.svg(read_stacks(directory / "document"), colour), mode=0o644)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
