"""A log that stands still is told from one that rests: by the time in cosignatures, and by what was acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ops.audit.monitor import Alarm, Grown, Monitor
from services.audit.integration import Integrator
from services.runtime.jobs import Lease
from services.runtime.metrics import Metrics
from services.runtime.tlog.checkpoint import parse
from services.runtime.tlog.note import parse_note, verified
from services.runtime.tlog.policy import Policy, trust
from tests.audit_log import LogUnderTest, empty, migrated, signer
from tests.integration import test_audit_tree as tree_tests
from tests.integration.test_audit_tree import LocalWitness, fill, resources
from tests.integration.test_audit_verify import COSIGNED_AT, POLICY, UNWITNESSED, WITNESS, Published, published


@pytest.fixture(scope="module")
def freshness_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def log(freshness_database: str) -> AsyncIterator[LogUnderTest]:
    await empty(freshness_database)
    opened = await LogUnderTest.open(freshness_database)
    yield opened
    await opened.close()


async def test_what_has_not_changed_is_cosigned_again_if_it_is_all_there_is(log: LogUnderTest, tmp_path: Path) -> None:
    """Else nobody outside could tell a log that rests from one that stands still."""
    witness = LocalWitness(tmp_path / "w.sqlite")
    tree = replace(log.logs.trees[0], policy=witness.policy)
    policy = replace(witness.policy, logs=Policy.unwitnessed(signer().verifier).logs)

    class Stuck(Integrator):
        async def _integrate(self) -> bool:
            self._note_lag(3)
            return False

    async def seen_at(mine: Integrator) -> float | None:
        witness.clock += 30
        assert await mine.step() == 10
        return trust(await tree.checkpoint(), policy).seen_at

    def with_lease(kind: type[Integrator], again: float) -> Integrator:
        return kind(tree, witness, Lease(log.pool, "test"), Metrics(), every=0.01, again=again)

    await fill(log, 10)
    mine = with_lease(Integrator, 0.0)
    await mine.open()
    first = witness.clock + 30
    assert [await seen_at(mine), await seen_at(mine)] == [first, first + 30]
    assert await seen_at(with_lease(Stuck, 0.0)) == first + 30, "what waits to be integrated is not denied"
    later = with_lease(Integrator, 3600.0)
    assert [await seen_at(later), await seen_at(later)] == [first + 90, first + 90], "not at each look"
    witness.down = True
    assert await seen_at(mine) == first + 90
    assert len(verified(parse(await tree.checkpoint())[1], [tree_tests.WITNESS.verifier])) == 1, "what it has it keeps"


async def test_a_monitor_alarms_when_the_log_keeps_showing_a_state_that_witnesses_saw_long_ago(
    log: LogUnderTest, tmp_path: Path
) -> None:
    """A log that answers is not yet one that goes on: no fork, no rewrite, and always the same old checkpoint."""
    now = COSIGNED_AT
    shown = Published(await published(log, 300))
    monitor = Monitor(shown, POLICY, tmp_path / "seen", stale=60, clock=lambda: now)
    assert isinstance(await monitor.look(), Grown)
    now += 60
    assert await monitor.look() is None
    now += 1
    stands = await monitor.look()
    assert isinstance(stands, Alarm)
    assert "enough witnesses saw last on 2023-11-14 22:13:20 UTC" in stands.problem
    text = parse_note(shown.files["checkpoint"]).text
    log_alone = shown.files["checkpoint"].rpartition("\n— ".encode())[0] + b"\n"
    shown.files["checkpoint"] = log_alone + WITNESS.sign(text, int(now)).line().encode()
    assert await monitor.look() is None, "cosigned again: the log has nothing newer"
    now -= 62
    assert isinstance(await monitor.look(), Alarm), "a time to come is nobody's"
    now += 62
    alone = Policy(POLICY.logs, POLICY.witnesses, {}, "none")
    now += 100
    assert isinstance(await Monitor(shown, alone, tmp_path / "seen", clock=lambda: now).look(), Alarm)
    assert await Monitor(shown, UNWITNESSED, tmp_path / "seen", clock=lambda: now).look() is None, (
        "nobody states a time"
    )


async def test_a_monitor_alarms_when_acknowledged_events_do_not_come_under_the_checkpoint(
    log: LogUnderTest, tmp_path: Path
) -> None:
    shown = Published(await published(log, 300), promised=300)
    monitor = Monitor(shown, UNWITNESSED, tmp_path / "seen", stale=0.05)
    assert isinstance(await monitor.look(), Grown)
    shown.promised = 302
    assert await monitor.look() is None, "they have a moment"
    await asyncio.sleep(0.06)
    behind = await monitor.look()
    assert isinstance(behind, Alarm)
    assert behind.problem.startswith("2 events were acknowledged")
    shown.promised = 300
    await fill(log, 2)
    await log.integrate()
    shown.files |= await resources(log.logs.trees[0], 302)
    assert isinstance(await monitor.look(), Grown), "what was owed has come"
