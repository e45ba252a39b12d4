"""The audit service under strace: each file and socket call fails once, or is the process's last. Nothing is lost."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.runtime.channels import Peer
from tests.audit_recovery import append_while_it_lasts, recovered
from tests.faults.campaign import CAMPAIGN, Budget, publish
from tests.faults.forked import Process
from tests.integration.test_audit_service import Platform, audit_database, platform  # noqa: F401 (fixtures)

CALLS = (
    *("socket", "connect", "bind", "listen", "setsockopt", "sendmsg", "recvmsg", "recvfrom", "shutdown"),
    *("write", "read", "openat", "close", "newfstatat", "fcntl", "epoll_ctl", "epoll_wait"),
)
"""Those of files and sockets that the service makes: uvloop and gRPC have no use for the others."""
INJECTIONS = 57 if CAMPAIGN else 2
ERRORS = ("ECONNRESET", "ENOMEM")
MOST = 400
PATIENCE = 4.0
"""Seconds that the call may be waited for: a service that idles makes few of some kinds."""


def traceable() -> str:
    """Why a process cannot be traced here; empty if it can."""
    if shutil.which("strace") is None:
        return "needs strace (Debian: strace)"
    outcome = subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return "" if outcome.returncode == 0 else f"strace may not trace here: {outcome.stderr.strip()[-200:]}"


pytestmark = pytest.mark.skipif(bool(reason := traceable()), reason=reason)


@dataclass(frozen=True, slots=True)
class Injected:
    """The service under strace, and what strace writes of the calls that it looks at."""

    process: Process
    trace: Path

    @property
    def ended(self) -> bool:
        return self.process.returncode is not None

    @property
    def done(self) -> bool:
        """Whether the call went wrong that was to: strace marks an error, and ends as what it traced was killed."""
        return self.process.returncode == -signal.SIGKILL or b"(INJECTED)" in self.trace.read_bytes()


@asynccontextmanager
async def injected(platform: Platform, call: str, how: str, trace: Path) -> AsyncIterator[Injected]:  # noqa: F811
    """The service, with one of its calls going wrong."""
    trace.write_bytes(b"")
    options = ("-f", "-qq", "--seccomp-bpf", "-o", str(trace), "-e", f"trace={call}", "-e", f"inject={call}:{how}")
    platform.under = ("strace", *options)
    process = await platform.spawn()
    platform.under = ()
    try:
        yield Injected(process, trace)
    finally:
        with_group(process.pid)
        await process.communicate()


async def calls_made(platform: Platform, summary: Path) -> dict[str, int]:  # noqa: F811
    """How often the service makes each call from its start until it has taken some events and stopped."""
    if not _made:
        platform.under = ("strace", "-f", "-c", "-o", str(summary))
        process = await platform.spawn()
        platform.under = ()
        acknowledged: dict[bytes, int] = {}
        deadline = time.monotonic() + 60
        async with platform.connected(platform.authority.service("document")) as peer:
            while len(acknowledged) < 40 and time.monotonic() < deadline:
                await append_while_it_lasts(peer, acknowledged, 0.5)
        os.killpg(process.pid, signal.SIGTERM)
        await process.communicate()
        rows = [line.split() for line in summary.read_text("ascii").splitlines()]
        _made.update({row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdecimal()})
    return _made


_made: dict[str, int] = {}


async def append_past_it(service: Injected, document: Peer, acknowledged: dict[bytes, int]) -> bool:
    """Appends until the call went wrong and for a while after it, if there is somebody left; whether it did.

    Some calls are made only when the service stops: it is asked to when the others were waited for long enough.
    """
    deadline = time.monotonic() + PATIENCE
    while not (service.done or service.ended) and time.monotonic() < deadline:
        await append_while_it_lasts(document, acknowledged, 0.25)
    if service.ended:
        return service.done
    if service.done:
        await append_while_it_lasts(document, acknowledged, 0.5)
        return True
    os.killpg(service.process.pid, signal.SIGTERM)
    with suppress(TimeoutError):
        await asyncio.wait_for(service.process.wait(), PATIENCE)
    return service.done


def with_group(pid: int) -> None:
    """Kill strace and what it traces: they are a session of their own."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.mark.parametrize("call", CALLS)
async def test_whatever_call_fails_or_kills_every_acknowledged_event_is_in_the_tree_once(
    platform: Platform,  # noqa: F811
    call: str,
    tmp_path: Path,
) -> None:
    acknowledged: dict[bytes, int] = {}
    seen: dict[int, bytes] = {}
    log_key, happened = "", 0
    made = min((await calls_made(platform, tmp_path / "summary")).get(call, 0), MOST)
    assert made, "the service makes such calls"
    budget = Budget()
    # In no order, so that a campaign that is cut short has looked everywhere.
    instants = random.Random(5).sample(range(1, made + 1), min(INJECTIONS, made))
    for number, instant in enumerate(instants):
        if budget.left <= 0:
            break
        how = "signal=KILL" if number % 2 else f"error={ERRORS[number // 2 % 2]}"
        document = platform.connected(platform.authority.service("document"))
        async with injected(platform, call, f"{how}:when={instant}", tmp_path / "trace") as service, document as peer:
            happened += await append_past_it(service, peer, acknowledged)
        log_key = await recovered(platform, acknowledged, seen)
        publish(
            f"strace {call}", {"injections": happened, "acknowledged": len(acknowledged), "lost or contradicted": 0}
        )
    assert acknowledged, "something was appended between the faults"
    assert happened, "something went wrong"
    assert log_key
