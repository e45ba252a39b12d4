"""Leases and jobs on a real PostgreSQL: one leader, who knows when he no longer is one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.runtime.jobs import Job, Jobs, Lease
from services.runtime.postgres import Pool


class HangingPool:
    """The database as a holder sees it when the network swallows everything."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.hangs = False

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            if self.hangs:
                await asyncio.Event().wait()
            return await getattr(self._pool, name)(*arguments)

        return call


async def until(condition: Callable[[], bool], within: float) -> float:
    """Seconds until the condition holds; fails after ``within``."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < within, "in time"
        await asyncio.sleep(0.005)
    return time.monotonic() - start


async def end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_one_holds_a_lease_at_a_time_and_may_take_it_again(runtime_pool: Pool) -> None:
    one, other = Lease(runtime_pool, "relay"), Lease(runtime_pool, "relay")
    assert not one.held
    assert await one.acquire()
    assert not await other.acquire()
    assert await one.acquire()
    assert (one.held, other.held) == (True, False)
    elsewhere = Lease(runtime_pool, "jobs")
    assert await elsewhere.acquire(), "another name is another lease"


async def test_a_released_lease_is_free_at_once_and_only_its_holder_releases_it(runtime_pool: Pool) -> None:
    one, other = Lease(runtime_pool, "relay"), Lease(runtime_pool, "relay")
    await one.acquire()
    await other.release()
    assert not await other.acquire()
    await one.release()
    assert not one.held
    assert await other.acquire()
    assert not await one.acquire()
    assert not one.held


async def test_of_many_that_ask_at_once_one_gets_it(runtime_pool: Pool) -> None:
    leases = [Lease(runtime_pool, "relay") for _ in range(12)]
    for _ in range(3):
        assert sum(await asyncio.gather(*(lease.acquire() for lease in leases))) == 1


async def test_another_takes_over_within_ttl_and_a_renewal_after_the_holder_died(runtime_pool: Pool) -> None:
    dead, heir = Lease(runtime_pool, "relay", 0.6), Lease(runtime_pool, "relay", 0.6)
    await dead.acquire()  # and never renewed
    task = asyncio.create_task(heir.keep())
    waited = await until(lambda: heir.held, 3.0)
    assert waited > 0.4
    assert not dead.held, "the former holder had stopped before"
    assert waited < 0.6 + 0.2 + 0.5, "half a second for a busy machine"
    await end(task)
    assert await dead.acquire(), "keep() releases when it ends"


async def test_a_holder_whose_renewal_hangs_stops_in_time(runtime_pool: Pool) -> None:
    network = HangingPool(runtime_pool)
    holder, heir = Lease(network, "relay", 0.6), Lease(runtime_pool, "relay", 0.6)  # type: ignore[arg-type]
    keeping = asyncio.create_task(holder.keep())
    await until(lambda: holder.held, 1.0)
    network.hangs = True
    inheriting = asyncio.create_task(heir.keep())
    both = 0
    start = time.monotonic()
    while not heir.held:
        assert time.monotonic() - start < 3.0
        await asyncio.sleep(0.002)
        both += holder.held and heir.held
    assert both == 0
    assert not holder.held
    network.hangs = False
    await asyncio.sleep(0.4)
    assert heir.held, "the former holder asks again, and is refused"
    assert not holder.held
    await end(keeping)
    await end(inheriting)


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["acquire", "release", "sleep", "slow"])), min_size=1, max_size=25
    )
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_two_never_hold_it_at_once(runtime_pool: Pool, steps: list[tuple[int, str]]) -> None:
    """However acquisitions, releases and pauses fall: also when the answer comes long after it was given."""

    class Slow:
        delay = 0.0

        async def fetchval(self, *arguments: Any) -> Any:
            answer = await runtime_pool.fetchval(*arguments)
            await asyncio.sleep(self.delay)
            return answer

        async def execute(self, *arguments: Any) -> Any:
            return await runtime_pool.execute(*arguments)

    await runtime_pool.execute("TRUNCATE lease")
    network = Slow()
    leases = [Lease(network, "relay", 0.06) for _ in range(3)]  # type: ignore[arg-type]
    for number, step in steps:
        lease = leases[number]
        if step == "sleep":
            await asyncio.sleep(0.03)
        elif step == "release":
            await lease.release()
        else:
            network.delay = 0.05 if step == "slow" else 0.0
            await lease.acquire()
        assert sum(each.held for each in leases) <= 1


# --- jobs ------------------------------------------------------------------------------------------------------------


def jobs_of(pool: Pool, run: Callable[[datetime], Awaitable[None]], every: float, ttl: float = 0.6) -> Jobs:
    job = Job("sweep", timedelta(seconds=every), run)
    return Jobs(pool, [job], lease=Lease(pool, "jobs", ttl), poll=0.02, retry=0.05, jitter=0.0)


async def test_a_job_runs_once_per_period_whatever_the_number_of_replicas(runtime_pool: Pool) -> None:
    runs: list[datetime] = []

    async def run(now: datetime) -> None:
        runs.append(now)

    replicas = [asyncio.create_task(jobs_of(runtime_pool, run, 0.3).run()) for _ in range(3)]
    await until(lambda: len(runs) == 3, 5.0)
    for task in replicas:
        await end(task)
    gaps = [later - earlier for earlier, later in pairwise(runs)]
    assert all(gap >= timedelta(seconds=0.3) for gap in gaps)


async def test_a_job_that_ran_does_not_run_again_after_a_restart(runtime_pool: Pool) -> None:
    runs: list[datetime] = []

    async def run(now: datetime) -> None:
        runs.append(now)

    for _ in range(3):
        task = asyncio.create_task(jobs_of(runtime_pool, run, 3600).run())
        await asyncio.sleep(0.15)
        await end(task)
    assert len(runs) == 1
    assert await runtime_pool.fetchval("SELECT last_run_at FROM job WHERE name = 'sweep'") == runs[0]


async def test_a_run_that_fails_is_logged_and_repeated(runtime_pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    runs: list[datetime] = []

    async def run(now: datetime) -> None:
        runs.append(now)
        if len(runs) < 3:
            raise ZeroDivisionError

    task = asyncio.create_task(jobs_of(runtime_pool, run, 3600).run())
    await until(lambda: len(runs) == 3, 5.0)
    await asyncio.sleep(0.15)
    await end(task)
    assert len(runs) == 3
    assert caplog.text.count("job failed") == 2


async def test_a_run_cut_short_by_a_crash_is_repeated_by_the_next_leader(runtime_pool: Pool) -> None:
    runs: list[str] = []

    async def run(now: datetime) -> None:
        runs.append("begun")
        await asyncio.sleep(0.2)
        runs.append("ended")

    crashing = asyncio.create_task(jobs_of(runtime_pool, run, 3600).run())
    await until(lambda: runs == ["begun"], 5.0)
    await end(crashing)
    heir = asyncio.create_task(jobs_of(runtime_pool, run, 3600).run())
    await until(lambda: runs == ["begun", "begun", "ended"], 5.0)
    await end(heir)


async def test_a_job_is_stopped_when_the_lease_is_lost(runtime_pool: Pool) -> None:
    stopped = asyncio.Event()
    begun = asyncio.Event()

    async def run(now: datetime) -> None:
        begun.set()
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()

    network = HangingPool(runtime_pool)
    task = asyncio.create_task(jobs_of(network, run, 3600).run())  # type: ignore[arg-type]
    await asyncio.wait_for(begun.wait(), 5.0)
    network.hangs = True
    await asyncio.wait_for(stopped.wait(), 5.0)
    network.hangs = False
    await end(task)


def test_two_jobs_of_one_name_are_refused() -> None:
    async def run(now: datetime) -> None: ...

    job = Job("sweep", timedelta(1), run)
    with pytest.raises(ValueError, match="same name"):
        Jobs(None, [job, job], lease=None)  # type: ignore[arg-type]
