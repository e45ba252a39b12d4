"""A service under a sampler: `python -m bench.sampled <module> <file>` runs the module as `python -m` would, and writes
the stacks of its main thread to the file when it ends.

The timer counts the CPU time of the process, so that waiting is not seen, and what else the machine does hardly
disturbs. Work of other threads (gRPC's, the native transport's) falls on whatever the main thread does at that moment;
`bench.hot_path` subtracts it by the kernel's accounts.
"""

from __future__ import annotations

import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Final

EVERY: Final = 0.002
"""Seconds of CPU between two samples."""

_stacks: Counter[tuple[str, ...]] = Counter()
_codes: dict[object, str] = {}


def _sample(_signal: int, frame: FrameType | None) -> None:
    stack = []
    while frame is not None:
        stack.append(_named(frame))
        frame = frame.f_back
    _stacks[tuple(reversed(stack))] += 1


def _named(frame: FrameType) -> str:
    """`path/of/module.py Function`, the path from the last `site-packages`, or from this directory."""
    code = frame.f_code
    known = _codes.get(code)
    if known is None:
        path = code.co_filename.rpartition("site-packages/")[2].removeprefix(f"{Path.cwd()}/")
        known = _codes[code] = f"{path} {code.co_qualname}"
    return known


def _write(file: Path) -> None:
    file.write_text("".join(f"{';'.join(stack)} {count}\n" for stack, count in _stacks.items()), "utf-8")


def main() -> None:
    """Sample from the first line of the module to its end; SIGUSR1 forgets what was sampled until then."""
    module, file = sys.argv[1], Path(sys.argv[2])
    sys.argv = [module]
    signal.signal(signal.SIGUSR1, lambda *_: _stacks.clear())
    signal.signal(signal.SIGPROF, _sample)
    signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(file)


if __name__ == "__main__":
    main()
