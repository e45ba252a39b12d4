"""A process that has imported every service and forks one on demand: a restart then takes a tenth of a second.

Run as `python -m tests.faults.zygote`; `tests.faults.fleet` talks to it over its standard input and output, a JSON
object a line. It has one thread and no gRPC object before it forks, so a child is what `python -m services.<name>`
would be. Children die with it, and it ends when its input does.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

MAINS: Final = {
    "identity": "services.identity.__main__",
    "consent": "services.consent.__main__",
    "document": "services.document.__main__",
    "audit": "services.audit.__main__",
    "gateway": "gateway.__main__",
}
_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Import, say so, then fork for each line."""
    for name in MAINS.values():
        importlib.import_module(name)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise SystemExit(f"the imports of the services have started {threads - 1} threads: not safe to fork")
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, _reap)
    _say({"ready": True})
    while line := sys.stdin.buffer.readline():
        order = json.loads(line)
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(order, zygote)
        _say({"pid": pid})


def _say(answer: Mapping[str, object]) -> None:
    """One short write, which a pipe takes whole: an end may be told in the middle of anything."""
    os.write(1, json.dumps(answer).encode() + b"\n")


def _reap(_number: int, _frame: FrameType | None) -> None:
    """Tell of each child that has ended; `code` is negative for a signal."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _become(order: Mapping[str, object], zygote: int) -> NoReturn:
    """Be the service that was ordered, and end as its process would."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != zygote:
        raise SystemExit(1)
    os.setsid()
    log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(null)
    os.environ.clear()
    os.environ.update(json.loads(str(order["env"])))
    if order["prelude"]:
        importlib.import_module(str(order["prelude"])).apply()
    service = sys.modules[MAINS[str(order["service"])]]
    service.run(service.main)
    raise SystemExit(0)


if __name__ == "__main__":
    main()
