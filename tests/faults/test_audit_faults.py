"""The audit service killed at each named instant: what was acknowledged is in the tree once, and nothing published is
ever contradicted."""

from __future__ import annotations

import time

import pytest

from tests.audit_recovery import append_while_it_lasts, recovered
from tests.faults.campaign import amount, publish
from tests.integration.test_audit_service import Platform, audit_database, platform, running  # noqa: F401 (fixtures)

POINTS = (
    "sequencer.before_commit",
    "sequencer.after_commit",
    "integrate.before_commit",
    "integrate.after_commit",
    "publish.before",
    "publish.after",
)


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_a_named_instant_the_log_goes_on_whole(platform: Platform, point: str) -> None:  # noqa: F811
    acknowledged: dict[bytes, int] = {}
    seen: dict[int, bytes] = {}
    for passage in range(2, 2 + amount(1, 12)):
        platform.extra = {"DMP_FAULT_POINTS": f"{point}=kill:{passage}"}
        document = platform.connected(platform.authority.service("document"))
        async with running(platform) as process, document as peer:
            deadline = time.monotonic() + 60
            while process.returncode is None:
                assert time.monotonic() < deadline, "it passes the point"
                await append_while_it_lasts(peer, acknowledged, 0.3)
        platform.extra = {}
        await recovered(platform, acknowledged, seen)
        publish(
            f"audit at {point}",
            {"kills": passage - 1, "acknowledged": len(acknowledged), "lost or contradicted": 0},
        )
    assert acknowledged
