"""The outbox: what happened is written with the change itself, and delivered at least once afterwards.

Lives here: ``put`` (in the transaction of the change), ``Relay`` (reads, delivers, deletes), the statements on
``outbox`` and ``outbox_parked`` (``sql/outbox.sql``). May not live here: what an event says, or where it goes.

How nothing is lost (promises 1 and 4): an event exists exactly when its change does (one commit). The relay keeps no
position; it reads whatever rows there are, and deletes by key only those that the receiver has acknowledged. So an
event committed late, with an older id or time than others already delivered, is found like any other; and a crash
between delivery and deletion delivers again, which the receiver recognises by the event id. No row is locked: one
leader (``Lease``) reads, and two by mistake only deliver twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime import faults
from services.runtime.errors import DmpError
from services.runtime.jobs import Lease
from services.runtime.metrics import Metrics
from services.runtime.postgres import Connection, Pool, transaction

_log = logging.getLogger(__name__)

_PUT = """
INSERT INTO outbox (health_id, event_id, payload)
SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::bytea[])
"""
_READ = """
SELECT health_id, event_id, payload, extract(epoch FROM clock_timestamp() - created_at)::float8 AS age
FROM outbox ORDER BY created_at, event_id LIMIT $1
"""
_OLDEST = """
SELECT extract(epoch FROM clock_timestamp() - created_at)::float8 FROM outbox ORDER BY created_at, event_id LIMIT 1
"""
# Event ids are unique across dossiers (UUIDv7), so the two lists name exactly the rows; as two plain lists they become
# one indexed task per shard.
_DELETE = "DELETE FROM outbox WHERE health_id = ANY($1::bigint[]) AND event_id = ANY($2::uuid[])"
_PARK = """
INSERT INTO outbox_parked (health_id, event_id, reason, payload) VALUES ($1, $2, $3, $4)
ON CONFLICT (health_id, event_id) DO NOTHING
"""

# Reasons by which the receiver refuses a row for good, besides those that map to INVALID_ARGUMENT.
_POISON = frozenset(
    {
        reasons.ERROR_REASON_CONTENT_DESTROYED,
        reasons.ERROR_REASON_EVENT_CONFLICT,
        reasons.ERROR_REASON_REQUEST_TOO_LARGE,
    }
)


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One event. ``event_id`` (UUIDv7) is unique across dossiers; the receiver keeps each once by it."""

    health_id: int
    event_id: uuid.UUID
    payload: bytes


async def put(conn: Connection, rows: Sequence[OutboxRow]) -> None:
    """Writes events in the transaction of the change that they tell of, to be delivered in this order."""
    if rows:
        await conn.execute(
            _PUT, [row.health_id for row in rows], [row.event_id for row in rows], [row.payload for row in rows]
        )


@dataclass(slots=True)
class RelayCounters:
    """What a relay has done since it started; read by the metrics."""

    delivered: int = 0
    batches: int = 0
    failures: int = 0
    parked: int = 0


class Relay:
    """Delivers the outbox of one service: within ``poll`` seconds of a commit, at once after ``kick``.

    ``deliver`` returns when the receiver has made *all* the rows durable. If it raises, or takes longer than
    ``deliver_timeout``, the rows stay and are tried again after a growing delay (at most ``max_delay`` seconds, so
    that the lag is short once the receiver is back). If it refuses a batch as malformed the batch is halved until the
    bad row is found; that one is parked in ``outbox_parked``, logged and counted, and the others go on.
    """

    def __init__(
        self,
        pool: Pool,
        deliver: Callable[[Sequence[OutboxRow]], Awaitable[None]],
        *,
        lease: Lease,
        batch: int = 500,
        max_bytes: int = 2 << 20,
        poll: float = 0.2,
        deliver_timeout: float = 10.0,
        max_delay: float = 1.0,
        metrics: Metrics | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        randomness: random.Random | None = None,
    ) -> None:
        """``batch`` rows and ``max_bytes`` of payload bound a delivery (a larger row goes alone); times in seconds."""
        self._pool = pool
        self._deliver = deliver
        self._lease = lease
        self._batch = batch
        self._max_bytes = max_bytes
        self._poll = poll
        self._deliver_timeout = deliver_timeout
        self._max_delay = max_delay
        self._monotonic = monotonic
        self._random = randomness or random.Random()  # noqa: S311 (spreads load, guards nothing)
        self._kicked = asyncio.Event()
        self._oldest = 0.0
        self._measured_at = monotonic()
        self.counters = RelayCounters()
        measured = metrics or Metrics()
        self._delivered_total = measured.counter("dmp_outbox_delivered_total")
        self._failures_total = measured.counter("dmp_outbox_failures_total")
        self._parked_total = measured.counter("dmp_outbox_parked_total")
        measured.gauge("dmp_outbox_lag_seconds", self.lag)
        measured.gauge("dmp_lease_held", lambda: float(lease.held), lease.name)

    def kick(self) -> None:
        """Says that something was committed: the relay looks at once, unless it is waiting out a failure."""
        self._kicked.set()

    def lag(self) -> float:
        """Seconds: no undelivered event is older. Grows while the relay cannot look, and is then an upper bound."""
        return self._oldest + self._monotonic() - self._measured_at

    async def run(self) -> None:
        """Runs until cancelled; keeps the lease itself. Replicas that do not lead only measure the lag."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.keep())
            group.create_task(self._work())

    async def _work(self) -> None:
        failures = 0
        while True:
            self._kicked.clear()
            try:
                if not self._lease.held:
                    self._measured(await self._pool.fetchval(_OLDEST))
                    more = False
                else:
                    more = await self.relay_batch()
                failures = 0
            except Exception as error:  # noqa: BLE001 (a boundary: the rows are still there, the relay tries again)
                self.counters.failures += 1
                self._failures_total.add(1)
                failures += 1
                _log.warning("outbox relay failed", extra={"failures": failures}, exc_info=error)
                await asyncio.sleep(self._backoff(failures))
                continue
            if not more:
                await self._wait_for_kick()

    async def relay_batch(self) -> bool:
        """Delivers what one read finds, and deletes it; whether there may be more. Raises what delivery raises."""
        records = await self._pool.fetch(_READ, self._batch)
        self._measured(records[0]["age"] if records else None)
        rows = [OutboxRow(record["health_id"], record["event_id"], record["payload"]) for record in records]
        for part in _parts(rows, self._max_bytes):
            await self._deliver_or_park(part)
        return len(records) == self._batch

    async def _deliver_or_park(self, rows: Sequence[OutboxRow]) -> None:
        """Delivers and deletes ``rows``, halving at a refusal until the bad rows are alone and can be parked."""
        todo: list[Sequence[OutboxRow]] = [rows]
        while todo:
            part = todo.pop()
            try:
                faults.point("relay.before_deliver")
                async with asyncio.timeout(self._deliver_timeout):
                    await self._deliver(part)
            except DmpError as error:
                if not _is_refusal(error):
                    raise
                if len(part) == 1:
                    await self._park(part[0], error)
                else:
                    middle = len(part) // 2
                    todo += [part[middle:], part[:middle]]
                continue
            faults.point("relay.before_delete")
            await self._pool.execute(_DELETE, [row.health_id for row in part], [row.event_id for row in part])
            faults.point("relay.after_delete")
            self.counters.delivered += len(part)
            self._delivered_total.add(len(part))
            self.counters.batches += 1

    async def _park(self, row: OutboxRow, error: DmpError) -> None:
        """Moves a row that the receiver refuses for good to ``outbox_parked``. The reason holds none of its values."""
        reason = " ".join([error.reason_name, *(f"{violation.field}:{violation.rule}" for violation in error.fields)])
        async with transaction(self._pool) as conn:
            await conn.execute(_PARK, row.health_id, row.event_id, reason, row.payload)
            await conn.execute(_DELETE, [row.health_id], [row.event_id])
        self.counters.parked += 1
        self._parked_total.add(1)
        _log.error("outbox event parked", extra={"event_id": str(row.event_id), "reason": reason})

    def _measured(self, oldest: float | None) -> None:
        self._oldest = max(oldest or 0.0, 0.0)
        self._measured_at = self._monotonic()

    def _backoff(self, failures: int) -> float:
        return min(self._max_delay, 0.05 * 2.0 ** min(failures, 16)) * self._random.uniform(0.5, 1.0)

    async def _wait_for_kick(self) -> None:
        try:
            async with asyncio.timeout(self._poll):
                await self._kicked.wait()
        except TimeoutError:
            return


def _is_refusal(error: DmpError) -> bool:
    return error.code is grpc.StatusCode.INVALID_ARGUMENT or error.reason in _POISON


def _parts(rows: Sequence[OutboxRow], max_bytes: int) -> list[Sequence[OutboxRow]]:
    """``rows`` in order, cut so that each part has at most ``max_bytes`` of payload or is a single row."""
    parts: list[Sequence[OutboxRow]] = []
    start = size = 0
    for index, row in enumerate(rows):
        if index > start and size + len(row.payload) > max_bytes:
            parts.append(rows[start:index])
            start, size = index, 0
        size += len(row.payload)
    return [*parts, rows[start:]] if rows else []
