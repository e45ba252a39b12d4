"""The processes of the local stack: those of services (played by a small health server, so that these tests do not
depend on any service), and its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ops.local.postgres import NAME as POSTGRES_NAME
from ops.local.readiness import serves_grpc
from ops.local.stack import Stack, StoppedWhileStarting
from ops.local.state import SERVICES, ServiceName, State
from ops.local.supervisor import ChildFailed, birth, command_line
from tests.local_stack import LIMIT, execute, health_server, numbers, until

ROOT = Path(__file__).resolve().parents[2]


# --- processes of services ---


async def test_every_service_is_migrated_started_and_healthy(state: State) -> None:
    migrated: list[ServiceName] = []

    async def migrate(service: ServiceName, dsn: str) -> None:
        await execute(dsn, "CREATE TABLE IF NOT EXISTS migrated ()")
        migrated.append(service)

    stack = Stack(state, replicas={"document": 2}, migrate=migrate, command=health_server)
    async with asyncio.timeout(LIMIT), stack:
        assert sorted(migrated) == sorted(SERVICES)
        for service in SERVICES:
            await serves_grpc(stack.address(service), stack.operator("somebody"))
        await serves_grpc(stack.address("document", 1), stack.internal("bulk"))
        assert stack.target("document") == f"ipv4:{stack.address('document')},{stack.address('document', 1)}"
        pids = [stack.pid(service) for service in SERVICES]
    assert [birth(pid) for pid in pids] == [""] * len(pids)


async def test_a_killed_replica_comes_back_when_restarted(state: State) -> None:
    async with asyncio.timeout(LIMIT), Stack(state, ["consent"], command=health_server) as stack:
        await stack.kill("consent")
        assert not stack.alive("consent")
        await stack.restart("consent")
        await serves_grpc(stack.address("consent"), stack.operator("somebody"))


async def test_a_process_that_dies_by_itself_ends_the_wait(state: State) -> None:
    async with asyncio.timeout(LIMIT), Stack(state, ["consent"], command=health_server) as stack:
        waiting = asyncio.ensure_future(stack.wait())
        os.kill(stack.pid("consent"), signal.SIGKILL)
        with pytest.raises(ChildFailed, match=r"(?s)consent ended with signal SIGKILL.*up as 127\.0\.0\.1"):
            await waiting


async def test_a_service_that_cannot_start_stops_the_whole_stack(state: State) -> None:
    def broken(service: ServiceName) -> Sequence[str]:
        return (sys.executable, "-c", "raise SystemExit('DMP_LISTEN: wrong')")

    with pytest.raises(ChildFailed, match="DMP_LISTEN: wrong"):
        await Stack(state, ["audit", "consent"], command=broken).__aenter__()
    assert [birth(pid) for pid in children(state)] == [""] * len(children(state))
    with state.locked():
        pass


# --- the process of the stack itself ---

RUNS_A_STACK = """
import asyncio, sys
from pathlib import Path
from ops.local.stack import Stack
from ops.local.state import State
from tests.local_stack import health_server

async def main():
    async with Stack(State.open(Path(sys.argv[1])), ["audit"], command=health_server, signals=True) as stack:
        print("ready", stack.dsn("document"), flush=True)
        await stack.wait()

asyncio.run(main())
"""


async def running_stack(state: State) -> tuple[asyncio.subprocess.Process, str]:
    """A stack in a process of its own, and the DSN of the document service."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUNS_A_STACK, str(state.root), cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), LIMIT)).decode()
    word, dsn = line.split()
    assert word == "ready"
    return process, dsn


def children(state: State) -> list[int]:
    return [int(record.read_text().split("\n")[0]) for record in state.process_files()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_stop_signal_stops_everything_cleanly(state: State, number: signal.Signals) -> None:
    process, _ = await running_stack(state)
    started = children(state)
    assert len(started) == 3
    process.send_signal(number)
    assert await asyncio.wait_for(process.wait(), LIMIT) == 0
    assert [command_line(pid) for pid in started] == ["", "", ""]
    assert "database system is shut down" in state.log(POSTGRES_NAME).read_text().splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next start ends them")
async def test_kill_9_of_the_stack_leaves_no_process_and_loses_nothing(state: State) -> None:
    process, dsn = await running_stack(state)
    await execute(dsn, "DROP TABLE IF EXISTS kept; CREATE TABLE kept (number int); INSERT INTO kept VALUES (7)")
    started = children(state)
    process.kill()
    await process.wait()
    await until(lambda: not any(command_line(pid) for pid in started))
    async with Stack(state, services=[]) as stack:
        assert await numbers(stack.dsn("document")) == [7]


async def test_a_stop_signal_while_starting_stops_what_had_been_started(state: State) -> None:
    async def interrupted(service: ServiceName, dsn: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(LIMIT)

    with pytest.raises(StoppedWhileStarting):
        await Stack(state, ["audit"], migrate=interrupted, signals=True).__aenter__()
    assert children(state) == []
