"""The audit service under strace: each file and socket call fails once, or is the process's last. Nothing is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.audit_recovery import append_while_it_lasts, recovered
from tests.faults.campaign import CAMPAIGN, Budget, publish
from tests.integration.test_audit_service import Platform, audit_database, platform  # noqa: F401 (fixtures)

CALLS = ("sendto", "recvfrom", "sendmsg", "recvmsg", "connect", "write", "read", "openat", "epoll_wait")
INSTANTS = (60, 240) if not CAMPAIGN else tuple(range(1, 400, 7))
ERRORS = ("ECONNRESET", "ENOMEM")


def traceable() -> str:
    """Why a process cannot be traced here; empty if it can."""
    if shutil.which("strace") is None:
        return "needs strace (Debian: strace)"
    outcome = subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return "" if outcome.returncode == 0 else f"strace may not trace here: {outcome.stderr.strip()[-200:]}"


pytestmark = pytest.mark.skipif(bool(reason := traceable()), reason=reason)


@asynccontextmanager
async def injected(platform: Platform, call: str, how: str) -> AsyncIterator[asyncio.subprocess.Process]:  # noqa: F811
    """The service, with one of its calls going wrong."""
    options = ("-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{how}")
    platform.under = ("strace", *options)
    process = await platform.spawn()
    platform.under = ()
    try:
        yield process
    finally:
        with_group(process.pid)
        await process.communicate()


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
) -> None:
    acknowledged: dict[bytes, int] = {}
    seen: dict[int, bytes] = {}
    log_key, budget = "", Budget()
    for number, instant in enumerate(INSTANTS):
        if budget.left <= 0:
            break
        how = "signal=KILL" if number % 2 else f"error={ERRORS[number // 2 % 2]}"
        document = platform.connected(platform.authority.service("document"))
        async with injected(platform, call, f"{how}:when={instant}"), document as peer:
            await append_while_it_lasts(peer, acknowledged, 4)
        log_key = await recovered(platform, acknowledged, seen)
        publish(
            f"strace {call}", {"injections": number + 1, "acknowledged": len(acknowledged), "lost or contradicted": 0}
        )
    assert acknowledged, "something was appended between the faults"
    assert log_key
