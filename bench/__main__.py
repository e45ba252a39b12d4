"""`python -m bench`: one run, its table, and what is written of it.

Exit status 1 when a ratio is below what is asked for, a call failed, or the trail does not have each call exactly once.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import asdict
from datetime import UTC, datetime

import uvloop
from rich.console import Console

from bench import page
from bench.figures import too_low
from bench.load import CallsFailed
from bench.observer import NotSettled
from bench.population import Extent
from bench.report import performance_md, table
from bench.run import Plan, Result, run
from ops.local.state import StateError
from ops.local.supervisor import ChildFailed
from services.runtime.errors import DmpError


def main() -> int:
    """Run, print, write; the exit status."""
    arguments = _arguments()
    out = Console(highlight=False)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(run(_plan(arguments), lambda text: out.print(text, style="dim")))
    except (CallsFailed, NotSettled, DmpError, ChildFailed, StateError) as error:
        out.print(f"cannot measure: {error}", style="red", markup=False)
        return 1
    out.print(table(result))
    if result.machine.disturbed:
        out.print(f"others were using this machine ({result.machine.busy:.1f} of its processors)", style="yellow")
    if not arguments.quick:
        at = datetime.now(UTC)
        figures = {
            "measured": at.isoformat(timespec="seconds"),
            "load_before": result.machine.busy,
            "rows": [asdict(each) for each in result.rows],
        }
        page.write("platform", performance_md(result, at), figures)
    return _verdict(result, out)


def _verdict(result: Result, out: Console) -> int:
    trail = result.trail
    calls, events = (sum(count for _, count in counted) for counted in (trail.answered, trail.recorded))
    out.print(f"{calls:,} calls, {events:,} events", style=None if trail.exact else "red")
    low = too_low(result.ratios)
    for each in low:
        out.print(f"{each.name} at {each.in_flight}: {each.value:.2f} of the echo, {each.least} asked", style="red")
    return 1 if low or not trail.exact else 0


def _plan(arguments: argparse.Namespace) -> Plan:
    if arguments.quick:
        small = Extent(dossiers=60, large=30)
        return Plan(seconds=arguments.seconds or 1.0, rounds=1, echo_seconds=0.5, extent=small)
    return Plan(seconds=arguments.seconds or 3.0, rounds=arguments.rounds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the platform beside a bare echo.")
    parser.add_argument("--quick", action="store_true", help="a short look on a small population; writes nothing")
    parser.add_argument("--seconds", type=float, help="for each workload at each level, over all rounds (3)")
    parser.add_argument("--rounds", type=int, default=2, help="how many parts these are divided into (2)")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
