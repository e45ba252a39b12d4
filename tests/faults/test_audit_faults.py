"""The audit service killed at each named instant: what was acknowledged is in the tree once, and nothing published is
ever contradicted."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from dmp.audit.v1 import audit_pb2
from services.audit.destroying import destroy_dossier
from services.audit.retention import Retention, read_policy
from services.runtime.errors import DmpError
from tests.audit_log import DOSSIER, LogUnderTest, event, places, signer
from tests.audit_questions import Asked
from tests.audit_recovery import append_while_it_lasts, covered, recovered
from tests.faults.campaign import CAMPAIGN, amount, publish
from tests.faults.fleet import Zygote
from tests.faults.forked import forking
from tests.integration.test_audit_service import Platform, alone, append, audit_database, running
from tests.integration.test_audit_tables import verified

__all__ = ["audit_database"]

pytestmark = pytest.mark.asyncio(loop_scope="session")

POINTS = (
    "sequencer.before_commit",
    "sequencer.after_commit",
    "integrate.before_commit",
    "integrate.after_commit",
    "publish.before",
    "publish.after",
)


@pytest_asyncio.fixture(loop_scope="session")
async def platform(audit_database: str, tmp_path: Path, zygote: Zygote) -> AsyncIterator[Platform]:
    async with alone(audit_database, tmp_path) as made:
        made.fork = forking(zygote)
        yield made


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_a_named_instant_the_log_goes_on_whole(platform: Platform, point: str) -> None:
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


# --- what takes something away ---------------------------------------------------------------------------------------

DESTROY = "/dmp.audit.v1.AuditService/DestroyDossier"
TAKING = ("destroy.told", "destroy.key_gone", "destroy.ended") if CAMPAIGN else ("destroy.key_gone",)
POLICY = "kind,actions,months\nall,*,12\n"


@asynccontextmanager
async def looked_at(platform: Platform) -> AsyncIterator[LogUnderTest]:
    """The log of the service, which has the keys of the tests."""
    log = await LogUnderTest.open(platform.dsn)
    try:
        yield log
    finally:
        await log.close()


def with_known_keys(platform: Platform, directory: Path, policy: str = "") -> dict[str, str]:
    """Settings by which the service and the tests have the same keys."""
    for name, file, content in (
        ("keyring", "1.key", bytes(range(32)).hex()),
        ("keyring", "current", "1"),
        ("logs", "0.skey", signer().text()),
        ("policy", "retention.csv", policy),
    ):
        (directory / name).mkdir(exist_ok=True)
        (directory / name / file).write_text(content)
    known = {"DMP_KEYRING_DIR": str(directory / "keyring"), "DMP_AUDIT_LOG_KEYS_DIR": str(directory / "logs")}
    return known | ({"DMP_AUDIT_RETENTION_FILE": str(directory / "policy" / "retention.csv")} if policy else {})


@pytest.mark.parametrize("point", TAKING)
async def test_killed_while_it_destroys_a_dossier_it_goes_on_and_nothing_is_gone_unsaid(
    platform: Platform, point: str, tmp_path: Path
) -> None:
    platform.extra = with_known_keys(platform, tmp_path) | {"DMP_FAULT_POINTS": f"{point}=kill"}
    request = audit_pb2.DestroyDossierRequest(health_id=DOSSIER, request_id="destroy-1")
    async with running(platform) as process, platform.connected(platform.authority.service("document")) as document:
        await append(document, [event() for _ in range(5)])
        await covered(platform, 5)
        async with platform.connected(platform.authority.service("consent")) as peer:
            destroy = peer.unary(DESTROY, audit_pb2.DestroyDossierRequest, audit_pb2.DestroyDossierResponse)
            with pytest.raises(DmpError):
                await destroy(request, timeout=20)
        assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL
    async with looked_at(platform) as log:
        await log.integrate()
        assert (await verified(Asked(log))).findings == [], "it is under way"
        await destroy_dossier(log.pool, log.keys, log.digests, log.log, DOSSIER)
        await log.integrate()
        found = await verified(Asked(log))
    assert (found.findings, found.destroyed) == ([], 5)
    assert found.checkpoint is not None
    assert found.checkpoint.size == 6, "it is told once"
    publish(f"audit at {point}", {"kills": 1, "told or taken otherwise than once": 0})


async def test_killed_while_it_gives_up_what_was_kept_long_enough_it_goes_on(
    platform: Platform, tmp_path: Path
) -> None:
    old = [event() for _ in range(5)]
    for each in old:
        each.event_time.FromDatetime(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    async with looked_at(platform) as log:
        places(await log.append(*old))
        await Asked(log).derive()
        await log.integrate()
        platform.extra = with_known_keys(platform, tmp_path, POLICY) | {"DMP_FAULT_POINTS": "retention.told=kill"}
        async with running(platform) as process:
            assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
        await log.integrate()
        assert (await verified(Asked(log))).findings == []
        job = Retention(log.pool, log.keys, log.digests, log.log, read_policy(POLICY))
        await job.run(dt.datetime.now(dt.UTC))
        found = await verified(Asked(log))
    assert (found.findings, found.destroyed) == ([], 5)
    assert found.checkpoint is not None
    assert found.checkpoint.size == 6, "it is told once"
    publish("audit at retention.told", {"kills": 1, "told or taken otherwise than once": 0})
