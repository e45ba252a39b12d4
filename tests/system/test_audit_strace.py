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
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.runtime.channels import Peer
from tests.audit_recovery import append_while_it_lasts, recovered
from tests.faults.campaign import CAMPAIGN, Budget, publish
from tests.integration.test_audit_service import Platform, audit_database, platform  # noqa: F401 (fixtures)

CALLS = ("sendto", "recvfrom", "sendmsg", "recvmsg", "connect", "write", "read", "openat", "epoll_wait")
INJECTIONS = 57 if CAMPAIGN else 2
ERRORS = ("ECONNRESET", "ENOMEM")
MOST = 400
PATIENCE = 20.0
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

    process: asyncio.subprocess.Process
    trace: Path

    @property
    def ended(self) -> bool:
        return self.process.returncode is not None

    @property
    def done(self) -> bool:
        """Whether the call went wrong that was to: strace marks it; a process that was killed has ended."""
        return self.ended or b"(INJECTED)" in self.trace.read_bytes()


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


async def calls_made(platform: Platform, call: str, trace: Path) -> int:  # noqa: F811
    """How often the service makes this call from its start until it has taken some events."""
    acknowledged: dict[bytes, int] = {}
    document = platform.connected(platform.authority.service("document"))
    async with injected(platform, call, "delay_enter=1:when=65535", trace) as service, document as peer:
        deadline = time.monotonic() + PATIENCE
        while not acknowledged and time.monotonic() < deadline:
            await append_while_it_lasts(peer, acknowledged, 0.25)
        await append_while_it_lasts(peer, acknowledged, 1)
        assert not service.ended
        return trace.read_bytes().count(f"{call}(".encode())


async def append_past_it(service: Injected, document: Peer, acknowledged: dict[bytes, int]) -> bool:
    """Appends until the call went wrong and for a while after it, if there is somebody left; whether it did."""
    deadline = time.monotonic() + PATIENCE
    while not service.done and time.monotonic() < deadline:
        await append_while_it_lasts(document, acknowledged, 0.25)
    if service.done and not service.ended:
        await append_while_it_lasts(document, acknowledged, 0.5)
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
    log_key, budget, happened = "", Budget(), 0
    made = min(await calls_made(platform, call, tmp_path / "trace"), MOST)
    assert made, "the service makes such calls"
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
