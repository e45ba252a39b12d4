"""The life of the processes that the local stack starts and watches."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ops.local.state import State, write_whole
from ops.local.supervisor import ChildFailed, ProcessSpec, Supervisor, birth, tail

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.open(tmp_path / "state")


async def at_once() -> None:
    """Readiness of a child that need not be waited for."""


async def never() -> None:
    await asyncio.Event().wait()


def spec(state: State, name: str, script: str, *, said: str | None = None, stop_seconds: float = 5.0) -> ProcessSpec:
    """A small Python child; ready once `said` is in its log, where given."""

    async def has_said() -> None:
        while said not in tail(state.log(name)):
            await asyncio.sleep(0.01)

    return ProcessSpec(
        name=name,
        argv=(sys.executable, "-I", "-S", "-u", "-c", script),
        environ={},
        cwd=state.root,
        ready=at_once if said is None else has_said,
        stop_seconds=stop_seconds,
    )


IDLE = "import time; print('up'); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(60)"


async def test_a_child_is_started_watched_and_stopped(state: State) -> None:
    supervisor = Supervisor(state)
    await supervisor.start(spec(state, "idle", IDLE, said="up"))
    assert supervisor.alive("idle")
    pid = supervisor.pid("idle")
    await supervisor.stop_all()
    assert not supervisor.alive("idle")
    assert birth(pid) == ""
    assert state.process_files() == []


async def test_a_child_that_dies_before_it_is_ready_shows_its_last_words(state: State) -> None:
    dying = spec(state, "dying", "raise SystemExit('no such setting')", said="up")
    with pytest.raises(ChildFailed, match=r"(?s)dying ended with code 1.*no such setting"):
        await Supervisor(state).start(dying)


async def test_a_program_that_does_not_exist_is_named(state: State) -> None:
    absent = ProcessSpec("absent", ("/no/such/program",), {}, state.root, never)
    with pytest.raises(ChildFailed, match="cannot start /no/such/program"):
        await Supervisor(state).start(absent)


async def test_a_child_that_is_not_ready_in_time_is_ended(state: State) -> None:
    supervisor = Supervisor(state)
    slow = ProcessSpec("slow", (sys.executable, "-I", "-S", "-c", IDLE), {}, state.root, never, ready_seconds=0.2)
    with pytest.raises(ChildFailed, match=r"slow was not ready after 0.2 s"):
        await supervisor.start(slow)
    assert not supervisor.alive("slow")


async def test_a_child_that_ignores_the_stop_signal_is_killed(state: State) -> None:
    supervisor = Supervisor(state)
    await supervisor.start(spec(state, "stubborn", STUBBORN, said="up", stop_seconds=0.2))
    await asyncio.wait_for(supervisor.stop_all(), 5)
    assert not supervisor.alive("stubborn")


async def test_in_a_hurry_nothing_is_waited_for(state: State) -> None:
    supervisor = Supervisor(state)
    await supervisor.start(spec(state, "stubborn", STUBBORN, said="up", stop_seconds=60))
    stopping = asyncio.ensure_future(supervisor.stop_all())
    await asyncio.sleep(0.05)
    assert not stopping.done()
    supervisor.hurry()
    await asyncio.wait_for(stopping, 5)


async def test_a_death_is_reported_unless_it_was_asked_for(state: State) -> None:
    supervisor = Supervisor(state)
    await supervisor.start(spec(state, "asked", IDLE, said="up"))
    await supervisor.start(spec(state, "struck", IDLE, said="up"))
    await supervisor.kill("asked")
    os.kill(supervisor.pid("struck"), signal.SIGKILL)
    death = await asyncio.wait_for(supervisor.next_death(), 5)
    assert (death.name, death.returncode, death.tail) == ("struck", -signal.SIGKILL, ("up",))
    await supervisor.restart("asked")
    assert supervisor.alive("asked")
    await supervisor.stop_all()


async def test_a_paused_child_can_still_be_stopped(state: State) -> None:
    supervisor = Supervisor(state)
    await supervisor.start(spec(state, "paused", IDLE, said="up"))
    await supervisor.kill("paused", signal.SIGSTOP)
    assert supervisor.alive("paused")
    await asyncio.wait_for(supervisor.stop("paused"), 4)


async def test_children_stop_from_the_highest_order_to_the_lowest(state: State) -> None:
    trace = state.root / "trace"
    script = (
        "import signal, sys, time\n"
        "def stop(*_):\n    open({trace!r}, 'a').write({name!r} + ' '); sys.exit()\n"
        "signal.signal(signal.SIGTERM, stop); print('up'); time.sleep(60)"
    )
    supervisor = Supervisor(state)
    for order, name in ((0, "database"), (2, "gateway"), (1, "service")):
        child = spec(state, name, script.format(trace=str(trace), name=name), said="up")
        await supervisor.start(dataclasses.replace(child, order=order))
    await supervisor.stop_all()
    assert trace.read_text().split() == ["gateway", "service", "database"]


async def test_what_a_killed_supervisor_left_is_ended_by_the_next(state: State) -> None:
    argv = (sys.executable, "-I", "-S", "-c", IDLE)
    left = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    write_whole(state.process_file("left"), f"{left.pid}\n{birth(left.pid)}", mode=0o600)
    await Supervisor(state).end_former()
    assert left.wait(5) == -signal.SIGKILL
    assert state.process_files() == []


async def test_a_process_that_only_has_the_number_of_a_former_child_is_left_alone(state: State) -> None:
    write_whole(state.process_file("left"), f"{os.getpid()}\nlong ago", mode=0o600)
    await Supervisor(state).end_former()
    assert state.process_files() == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next start ends them")
def test_children_die_with_a_supervisor_that_is_killed(state: State) -> None:
    script = f"""
import asyncio, os, signal, sys
from pathlib import Path
from ops.local.state import State
from ops.local.supervisor import ProcessSpec, Supervisor

async def main():
    state = State.open(Path({str(state.root)!r}))
    supervisor = Supervisor(state)
    argv = (sys.executable, "-I", "-S", "-c", {STUBBORN!r})
    await supervisor.start(ProcessSpec("child", argv, {{}}, state.root, lambda: asyncio.sleep(0.2)))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    outcome = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=30, check=False)
    assert outcome.returncode == -signal.SIGKILL
    pid, born = state.process_file("child").read_text().split("\n")
    deadline = time.monotonic() + 5
    while birth(int(pid)) == born and time.monotonic() < deadline:
        time.sleep(0.01)
    assert birth(int(pid)) != born


def test_a_file_that_comes_and_goes_has_lines_or_none(tmp_path: Path) -> None:
    """A server that starts takes the file of its former one away at whatever moment."""
    file, stopping = tmp_path / "postmaster.pid", threading.Event()

    def come_and_go() -> None:
        while not stopping.is_set():
            file.write_text("1\n", encoding="ascii")
            file.unlink()

    coming = threading.Thread(target=come_and_go)
    coming.start()
    try:
        assert {tail(file) for _ in range(5_000)} <= {(), ("1",)}
    finally:
        stopping.set()
        coming.join()
