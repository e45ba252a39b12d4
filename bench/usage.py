"""Where the CPU time of a call goes: seconds of each process over a measurement, divided by the calls answered."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bench.figures import Name
from bench.machine import cpu_seconds, cpu_seconds_with_children
from ops.local.postgres import NAME as POSTGRES
from ops.local.stack import Stack
from ops.local.state import ServiceName

_SERVICES: Final[tuple[ServiceName, ...]] = ("gateway", "document", "consent", "audit", "identity")
PROCESSES: Final = ("generator", *_SERVICES, "postgres")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of each of PROCESSES, and the calls that they were spent on."""

    seconds: tuple[float, ...] = (0.0,) * len(PROCESSES)
    calls: int = 0

    def __add__(self, other: Usage) -> Usage:
        added = tuple(mine + theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True))
        return Usage(added, self.calls + other.calls)

    def since(self, earlier: Usage, calls: int) -> Usage:
        """What was spent after `earlier`, on so many calls."""
        spent = tuple(now - then for now, then in zip(self.seconds, earlier.seconds, strict=True))
        return Usage(spent, calls)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU microseconds of one call in each of PROCESSES."""

    name: Name
    microseconds: tuple[float, ...]


def usage_of(stack: Stack) -> Usage:
    """What every process has used until now; zeros where the system does not tell."""
    own = cpu_seconds(os.getpid())
    services = (
        sum(cpu_seconds(stack.pid(service, replica)) for replica in range(stack.replicas(service)))
        for service in _SERVICES
    )
    postmaster = int(stack.state.process_file(POSTGRES).read_text("ascii").split()[0])
    return Usage((own, *services, cpu_seconds_with_children(postmaster)))


def costs(usage: Mapping[Name, Usage]) -> tuple[Cost, ...]:
    """The cost of one call of each name that was called."""
    return tuple(
        Cost(name, tuple(seconds / used.calls * 1e6 for seconds in used.seconds))
        for name, used in usage.items()
        if used.calls
    )
