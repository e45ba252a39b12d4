"""Leases and periodic jobs: what one process of a service does on behalf of all its replicas.

Lives here: ``Lease`` (who leads), ``Jobs`` (what runs when), the statements on ``lease`` and ``job``
(``sql/lease.sql``). May not live here: what a job does.

A lease is a hint that keeps two leaders from working at once, not a proof: a process may be stopped between looking
at ``held`` and acting. What leaders do is therefore harmless when done twice (at least once, kept once; idempotent).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.runtime.metrics import Metrics
from services.runtime.names import Label
from services.runtime.postgres import Pool, is_transient

_log = logging.getLogger(__name__)

# Both clocks start before or at the database's: the statement is sent before the database reads its own clock, so the
# local deadline, less the margin for clocks that run at slightly different speeds, comes before the one in the row.
_ACQUIRE = """
INSERT INTO lease (name, holder, expires_at) VALUES ($1, $2, clock_timestamp() + $3::interval)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = clock_timestamp() + $3::interval
WHERE lease.holder = excluded.holder OR lease.expires_at < clock_timestamp()
RETURNING true
"""
_RELEASE = "DELETE FROM lease WHERE name = $1 AND holder = $2"

_JOB_STATE = "SELECT clock_timestamp() AS now, (SELECT last_run_at FROM job WHERE name = $1) AS last_run_at"
_JOB_RAN = """
INSERT INTO job (name, last_run_at) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET last_run_at = greatest(job.last_run_at, excluded.last_run_at)
"""


class Lease:
    """A named right that one process holds at a time, lost ``ttl`` seconds after its last renewal.

    Another process takes over within ``ttl`` plus one renewal interval (``ttl`` / 3) after a holder's death, at once
    after ``release``. Expiry is judged by the database's clock alone; the holder stops by its own, a margin earlier.
    """

    def __init__(
        self,
        pool: Pool,
        name: str,
        ttl: float = 3.0,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``ttl`` in seconds; ``monotonic`` a clock in seconds that never goes back."""
        self._pool = pool
        self._name = name
        self._ttl = ttl
        self._margin = ttl / 6
        self._interval = ttl / 3
        self._monotonic = monotonic
        self._holder = uuid.uuid4()
        self._deadline = float("-inf")

    @property
    def name(self) -> str:
        return self._name

    @property
    def held(self) -> bool:
        """Whether this process leads now. Turns false by the local clock, even while a renewal hangs."""
        return self._monotonic() < self._deadline

    async def acquire(self) -> bool:
        """Takes or renews the lease if it is free or ours; returns ``held``. Raises what asyncpg raises."""
        asked = self._monotonic()
        granted = await self._pool.fetchval(_ACQUIRE, self._name, self._holder, timedelta(seconds=self._ttl))
        self._deadline = asked + self._ttl - self._margin if granted else float("-inf")
        return self.held

    async def release(self) -> None:
        """Gives the lease up, for another to take at once. Raises what asyncpg raises; ``held`` is false anyway."""
        self._deadline = float("-inf")
        await self._pool.execute(_RELEASE, self._name, self._holder)

    async def keep(self) -> None:
        """Acquires and renews for ever; on cancellation releases. A failing database only makes ``held`` run out."""
        try:
            while True:
                try:
                    async with asyncio.timeout(self._interval):
                        await self.acquire()
                except Exception as error:
                    if not is_transient(error):
                        raise
                    _log.warning("lease not renewed", extra={"lease": self._name}, exc_info=True)
                await asyncio.sleep(self._interval)
        finally:
            await self._release_at_last()

    async def _release_at_last(self) -> None:
        """Releases without holding up a shutdown: the lease would run out by itself."""
        try:
            async with asyncio.timeout(1.0):
                await self.release()
        except Exception as error:
            if not is_transient(error):
                raise
            _log.warning("lease not released", extra={"lease": self._name}, exc_info=True)


@dataclass(frozen=True, slots=True)
class Job:
    """A periodic job. ``run`` gets the database's time, is idempotent, and may be cancelled at any await."""

    name: str
    every: timedelta
    run: Callable[[datetime], Awaitable[None]]


class Jobs:
    """Runs each job once per period across all replicas, on the one that holds the lease.

    The period counts from start to start, by the database's clock; the last start of a run that *ended well* is kept
    in the table ``job``. A run cut short by a crash, or by the loss of the lease, is repeated by the next leader; one
    that fails is logged and repeated after ``retry``. Each leader adds a random delay of at most ``jitter`` periods
    (and a minute), so that the services of a platform do not all start their jobs at once.
    """

    def __init__(
        self,
        pool: Pool,
        jobs: Sequence[Job],
        *,
        lease: Lease,
        poll: float = 1.0,
        retry: float = 30.0,
        jitter: float = 0.05,
        metrics: Metrics | None = None,
        randomness: random.Random | None = None,
    ) -> None:
        """``poll`` and ``retry`` in seconds, ``jitter`` a fraction of the period. ValueError if a name comes twice."""
        if len({job.name for job in jobs}) != len(jobs):
            raise ValueError("two jobs have the same name")
        self._pool = pool
        self._jobs = jobs
        self._lease = lease
        self._poll = poll
        self._retry = retry
        self._jitter = jitter
        declared: Mapping[Label, tuple[str, ...]] = {"job": tuple(job.name for job in jobs)}
        self._runs = (metrics or Metrics()).counter("dmp_job_runs_total", declared)
        self._random = randomness or random.Random()  # noqa: S311 (spreads load, guards nothing)

    async def run(self) -> None:
        """Runs until cancelled; keeps the lease itself."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.keep())
            for job in self._jobs:
                group.create_task(self._drive(job))

    async def _drive(self, job: Job) -> None:
        delay = self._draw_delay(job)
        while True:
            wait = self._poll
            if self._lease.held:
                try:
                    if await self._run_if_due(job, delay):
                        delay = self._draw_delay(job)
                        self._runs.add(1, job.name, "ok")
                except Exception:  # noqa: BLE001 (a boundary: one run of one job failed, the others go on)
                    _log.exception("job failed", extra={"job": job.name})
                    self._runs.add(1, job.name, "failed")
                    wait = self._retry
            await asyncio.sleep(wait)

    async def _run_if_due(self, job: Job, delay: timedelta) -> bool:
        """Whether the job was due and ran to its end."""
        row = await self._pool.fetchrow(_JOB_STATE, job.name)
        assert row is not None  # noqa: S101 (a SELECT without FROM)
        now, last_run_at = row["now"], row["last_run_at"]
        if last_run_at is not None and now < last_run_at + job.every + delay:
            return False
        if not await self._run_while_leading(job, now):
            return False
        await self._pool.execute(_JOB_RAN, job.name, now)
        return True

    async def _run_while_leading(self, job: Job, now: datetime) -> bool:
        """Runs the job, and cancels it when the lease is lost (then False): the next leader repeats it."""
        task = asyncio.ensure_future(job.run(now))
        try:
            while True:
                await asyncio.wait({task}, timeout=self._poll)
                if task.done():
                    await task
                    return True
                if not self._lease.held:
                    _log.warning("job stopped: the lease was lost", extra={"job": job.name})
                    return False
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def _draw_delay(self, job: Job) -> timedelta:
        return min(job.every * self._jitter * self._random.random(), timedelta(minutes=1))
