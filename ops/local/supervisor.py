"""Child processes: start, wait until ready, watch, stop in order, and never leave one behind. Knows nothing of what
the processes are.

Each child is started through `launch.py`, so that it receives a signal when the supervisor dies in any way. The kernel
ties that signal to the *thread* that forked: start children from the thread of the event loop, which must live as long
as they do. Output goes straight to a file per child; nothing is restarted by itself, deaths are reported.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from ops.local.state import State, write_private

LAUNCHER: Final = str(Path(__file__).with_name("launch.py"))
_HAS_PROC: Final = Path("/proc/self/stat").exists()
TAIL_LINES: Final = 25
LOG_LIMIT: Final = 16 * 1024 * 1024
"""Bytes after which the log of the last run is put aside (one generation) when a process starts."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user that a child runs as. Only root can give one."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """How to start one child, when it counts as ready, and how to end it.

    ready: returns once the child answers; it may wait and retry, and is cancelled when the child dies or time is up.
    stop_signal, then SIGKILL after stop_seconds. orphan_signal: what the kernel sends when the supervisor is gone.
    order: stopping goes from the highest to the lowest, those of one number together.
    """

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    cwd: Path
    ready: Callable[[], Awaitable[None]]
    order: int = 0
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    ready_seconds: float = 30.0
    stop_seconds: float = 15.0


@dataclass(frozen=True, slots=True)
class Death:
    """A child that ended without being told to. `returncode` is negative for a signal."""

    name: str
    returncode: int
    tail: tuple[str, ...] = field(repr=False)

    def __str__(self) -> str:
        how = f"signal {signal.Signals(-self.returncode).name}" if self.returncode < 0 else f"code {self.returncode}"
        return "\n    ".join((f"{self.name} ended with {how}; its last lines:", *self.tail))


class ChildFailed(Exception):
    """A child died, or was not ready in time. The message ends with the last lines of its log."""


class _Child:
    """A running child and whether its end is expected."""

    def __init__(self, spec: ProcessSpec, process: asyncio.subprocess.Process) -> None:
        self.spec = spec
        self.process = process
        self.expected_end = False
        self.ended = asyncio.ensure_future(process.wait())

    @property
    def alive(self) -> bool:
        return not self.ended.done()

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            try:
                self.process.send_signal(number)
            except ProcessLookupError:
                return  # it has just ended, which is what most signals are for


def tail(path: Path, lines: int = TAIL_LINES) -> tuple[str, ...]:
    """The last lines of a log; none when there is no log."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return tuple(line.rstrip() for line in deque(stream, maxlen=lines))
    except FileNotFoundError:  # never there, or a server that is starting has taken its former one away just now
        return ()


def command_line(pid: int) -> str:
    """The arguments of a process, joined by spaces; empty when there is no such process (or it is a zombie)."""
    if _HAS_PROC:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""
    return _ps(pid, "command=")


def birth(pid: int) -> str:
    """When a process started, in the system's own notation; with the id it names one process. Empty if it is gone."""
    if _HAS_PROC:
        try:
            state, *fields = (
                Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            )
        except OSError:
            return ""
        return "" if state == "Z" else fields[18]
    return _ps(pid, "lstart=")


def _is_born(pid: int, born: str) -> bool:
    return born != "" and birth(pid) == born


def _ps(pid: int, column: str) -> str:
    listing = subprocess.run(("ps", "-o", column, "-p", str(pid)), capture_output=True, text=True, check=False)
    return listing.stdout.strip()


class Supervisor:
    """Starts, watches and stops the children of one state. Belongs to one event loop."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._children: dict[str, _Child] = {}
        self._deaths: asyncio.Queue[Death] = asyncio.Queue()
        self._hurry = asyncio.Event()

    def alive(self, name: str) -> bool:
        child = self._children.get(name)
        return child is not None and child.alive

    def pid(self, name: str) -> int:
        """Process id of a child that was started. Errors: KeyError."""
        return self._children[name].process.pid

    async def start(self, spec: ProcessSpec) -> None:
        """Starts a child and returns when it is ready.

        Errors: ChildFailed when it dies before, or is not ready in time (it is then killed).
        """
        if self.alive(spec.name):
            raise ChildFailed(f"{spec.name} is already running")
        child = await self._spawn(spec)
        ready = asyncio.ensure_future(spec.ready())
        try:
            await asyncio.wait({ready, child.ended}, timeout=spec.ready_seconds, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and child.alive:
                await ready
                child.ended.add_done_callback(lambda _: self._report(child))
                return
            raise ChildFailed(self._why_not_ready(child))
        except BaseException:
            child.expected_end = True
            child.send(signal.SIGKILL)
            await asyncio.shield(child.ended)
            raise
        finally:
            ready.cancel()

    async def stop(self, name: str, *, number: signal.Signals | None = None) -> None:
        """Ends a child: its stop signal (or `number`), then SIGKILL when its time is up or there is a hurry."""
        child = self._children.get(name)
        if child is None or not child.alive:
            return
        child.expected_end = True
        child.send(signal.SIGCONT)  # a child paused by a fault test must wake to obey
        child.send(number or child.spec.stop_signal)
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait(
                {child.ended, hurry}, timeout=child.spec.stop_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            hurry.cancel()
            child.send(signal.SIGKILL)
        await asyncio.shield(child.ended)
        self._state.process_file(name).unlink(missing_ok=True)

    async def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal as a fault would; waits for the end if it is SIGKILL. The death is expected, not reported."""
        child = self._children[name]
        child.expected_end = number not in (signal.SIGSTOP, signal.SIGCONT, signal.SIGHUP)
        child.send(number)
        if number == signal.SIGKILL:
            await asyncio.shield(child.ended)

    async def restart(self, name: str) -> None:
        """Stops a child if it runs and starts it as before."""
        spec = self._children[name].spec
        await self.stop(name)
        await self.start(spec)

    def hurry(self) -> None:
        """From now on a stop does not wait for a clean end."""
        self._hurry.set()

    async def next_death(self) -> Death:
        """Waits for the next child that ends without being told to."""
        return await self._deaths.get()

    async def stop_all(self) -> None:
        """Stops all children by their order, each group only once the one above it is gone."""
        for order in sorted({child.spec.order for child in self._children.values()}, reverse=True):
            names = [name for name, child in self._children.items() if child.spec.order == order]
            await asyncio.gather(*(self.stop(name) for name in names))

    async def end_former(self) -> None:
        """Ends what a killed stack has left running, where the kernel did not see to it."""
        for record in self._state.process_files():
            pid, born = record.read_text(encoding="ascii").split("\n", 1)
            await end_process(int(pid), partial(_is_born, int(pid), born), signal.SIGKILL)
            record.unlink()

    async def _spawn(self, spec: ProcessSpec) -> _Child:
        account = f"{spec.account.uid}:{spec.account.gid}" if spec.account else "-"
        launch = (sys.executable, "-I", "-S", LAUNCHER, str(os.getpid()), str(int(spec.orphan_signal)), account)
        with self._log(spec.name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *launch,
                *spec.argv,
                env=dict(spec.environ),
                cwd=spec.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops children in order
            )
        child = _Child(spec, process)
        self._children[spec.name] = child
        write_private(self._state.process_file(spec.name), f"{process.pid}\n{birth(process.pid)}")
        return child

    def _log(self, name: str) -> Path:
        path = self._state.log(name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.exists() and path.stat().st_size > LOG_LIMIT:
            path.replace(path.with_suffix(".1.log"))
        return path

    def _why_not_ready(self, child: _Child) -> str:
        lines = tail(self._state.log(child.spec.name))
        if child.alive:
            head = f"{child.spec.name} was not ready after {child.spec.ready_seconds:g} s; its last lines:"
            return "\n    ".join((head, *lines))
        return str(Death(child.spec.name, child.ended.result(), lines))

    def _report(self, child: _Child) -> None:
        if not child.expected_end and not child.ended.cancelled():
            name = child.spec.name
            self._deaths.put_nowait(Death(name, child.ended.result(), tail(self._state.log(name))))


async def end_process(pid: int, still: Callable[[], bool], number: signal.Signals, seconds: float = 15.0) -> bool:
    """Ends a process that is not our child, as long as `still` says that it is the one meant (process ids are reused):
    the given signal, SIGKILL after `seconds`. Returns, once it is gone, whether there was one.
    """
    if not still():
        return False
    os.kill(pid, number)
    deadline = time.monotonic() + seconds
    killed = False
    while still():
        await asyncio.sleep(0.02)
        if not killed and time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            killed = True
    return True
