"""What the figures were measured on: hardware, system, versions. And how much CPU time processes have used.

Reads /proc where there is one (Linux); elsewhere what cannot be known is left out.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_PACKAGES: Final = ("grpcio", "protobuf", "uvloop", "asyncpg", "cryptography", "protovalidate", "lxml", "granian")
# Places in /proc/<pid>/stat after the name of the program: the parent, CPU time (user, system) of the process itself,
# and of its children that have ended.
_PARENT: Final = 1
_OWN: Final = (11, 12)
_ENDED: Final = (13, 14)
# Times in the first line of /proc/stat that are no work.
_IDLE: Final = slice(3, 5)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a run took place. `busy` is how many of the processors were in use just before it."""

    cores: int
    processor: str
    memory_gib: float
    system: str
    python: str
    postgresql: str
    packages: tuple[str, ...]
    busy: float

    @property
    def disturbed(self) -> bool:
        """Whether others used so much of it before the run that rates and latencies say little."""
        return self.busy > self.cores / 8


def machine(postgresql: str, busy: float) -> Machine:
    """This machine, with the version of the server that was measured and what `load_before` said."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return Machine(
        cores=len(affinity),
        processor=_processor(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        postgresql=postgresql,
        packages=tuple(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES),
        busy=busy,
    )


def load_before(seconds: float = 2.0) -> float:
    """How many processors are in use now, watched for so long: to be asked before a benchmark begins.

    The load average would still tell of a benchmark that ended a minute ago.
    """
    before = _used()
    time.sleep(seconds)
    return round((_used() - before) / seconds, 2)


def _used() -> float:
    """Seconds that the processors have worked since the machine started: all but idle and waiting for a disk."""
    try:
        counted = [int(each) for each in (_PROC / "stat").read_text("ascii").partition("\n")[0].split()[1:9]]
    except OSError:
        return os.getloadavg()[0] * time.monotonic()
    return (sum(counted) - sum(counted[_IDLE])) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process alone; 0 where it cannot be known."""
    fields = _stat(_PROC / str(pid))
    return 0.0 if fields is None else _seconds(fields, _OWN)


def cpu_seconds_with_children(pid: int) -> float:
    """As `cpu_seconds`, with the children of the process, those that have ended too."""
    return sum(_seconds(fields, _OWN + _ENDED) for fields in _family(pid))


def _family(pid: int) -> Iterable[list[str]]:
    own = _stat(_PROC / str(pid))
    if own is not None:
        yield own
    for directory in _PROC.glob("[0-9]*"):
        fields = _stat(directory)
        if fields is not None and int(fields[_PARENT]) == pid:
            yield fields


def _stat(directory: Path) -> list[str] | None:
    try:
        return (directory / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return None


def _seconds(fields: list[str], places: tuple[int, ...]) -> float:
    return sum(int(fields[place]) for place in places) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    try:
        lines = (_PROC / "cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or "unknown"
