"""Runs pytest and fails when a process outlives it: `python -m tests.supervise [pytest arguments]`.

What lives here: only that. On Linux this process becomes the reaper of its descendants, so that whatever a test started
and forgot, in whatever session or process group, ends up as its child and is named and killed. Elsewhere pytest runs
without this check.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_SECONDS = 5.0
_LEFT_BEHIND = 99


def main(arguments: list[str]) -> int:
    """pytest's exit status, or 99 when its tests passed and left a process behind."""
    reaper = sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    pytest = subprocess.Popen([sys.executable, "-m", "pytest", *arguments])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C reaches pytest too, which ends in order
    signal.signal(signal.SIGTERM, lambda number, _frame: pytest.send_signal(number))
    status = _reap_until(pytest.pid)
    if not reaper:
        return status
    left = _wait_for_the_rest(time.monotonic() + _GRACE_SECONDS)
    for line in left:
        sys.stderr.write(f"left behind by the tests: {line}\n")
    _kill_the_rest()
    return status or (_LEFT_BEHIND if left else 0)


def _reap_until(pid: int) -> int:
    """The exit status of `pid`; orphans that end before it are collected, as an init would do."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _wait_for_the_rest(deadline: float) -> list[str]:
    """The command lines of the children still alive at `deadline` (monotonic seconds); empty as soon as none is."""
    while _reap():
        if time.monotonic() >= deadline:
            return [f"{child}: {_command_line(child)}" for child in _children()]
        time.sleep(0.05)
    return []


def _kill_the_rest() -> None:
    while _reap():
        for child in _children():
            os.kill(child, signal.SIGKILL)
        time.sleep(0.05)


def _reap() -> bool:
    """Collect the children that have ended; whether others are alive."""
    try:
        while True:
            ended, _ = os.waitpid(-1, os.WNOHANG)
            if ended == 0:
                return True
    except ChildProcessError:
        return False


def _children() -> list[int]:
    me = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text(encoding="ascii").split()]


def _command_line(pid: int) -> str:
    raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    return raw.replace(b"\0", b" ").decode(errors="replace").strip() or "(ended)"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
