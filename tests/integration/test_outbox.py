"""The outbox and its relay on a real PostgreSQL: every committed event arrives, whatever crashes; none is made up."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto

import asyncpg
import pytest
from asyncpg.pool import PoolConnectionProxy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime import outbox
from services.runtime.errors import DmpError, invalid, unavailable
from services.runtime.identifiers import uuid7
from services.runtime.jobs import Lease
from services.runtime.outbox import OutboxRow, Relay
from services.runtime.postgres import Pool, transaction


class Fate(Enum):
    ACCEPTED = auto()
    LOST_ON_THE_WAY = auto()
    ACCEPTED_THEN_CRASH = auto()


class Crash(Exception):
    """The relay's process dies here, as far as the database can tell."""


@dataclass
class Receiver:
    """Keeps each event once by its id, as audit does."""

    kept: dict[uuid.UUID, OutboxRow] = field(default_factory=dict)
    batches: list[list[uuid.UUID]] = field(default_factory=list)
    arrived_at: dict[uuid.UUID, float] = field(default_factory=dict)
    poison: set[uuid.UUID] = field(default_factory=set)
    fate: Fate = Fate.ACCEPTED
    down: bool = False

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        self.batches.append([row.event_id for row in rows])
        if self.down:
            raise unavailable("audit")
        if self.fate is Fate.LOST_ON_THE_WAY:
            raise Crash
        if any(row.event_id in self.poison for row in rows):
            raise invalid("events[].action", "enum.defined", "unknown action")
        for row in rows:
            assert self.kept.setdefault(row.event_id, row) == row
            self.arrived_at.setdefault(row.event_id, time.monotonic())
        if self.fate is Fate.ACCEPTED_THEN_CRASH:
            raise Crash


def row(health_id: int = 1, payload: bytes = b"event") -> OutboxRow:
    return OutboxRow(health_id, uuid7(), payload)


async def commit(pool: Pool, *rows: OutboxRow) -> None:
    async with transaction(pool) as conn:
        await outbox.put(conn, rows)


async def left(pool: Pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM outbox"))


async def until_kept(receiver: Receiver, *rows: OutboxRow, within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not all(event.event_id in receiver.kept for event in rows):
            await asyncio.sleep(0.005)


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def relay(runtime_pool: Pool, receiver: Receiver) -> AsyncIterator[Relay]:
    """A relay at work, which leads."""
    lease = Lease(runtime_pool, "relay", 1.0)
    relay = Relay(runtime_pool, receiver.deliver, lease=lease)
    task = asyncio.create_task(relay.run())
    while not lease.held:
        await asyncio.sleep(0.005)
    yield relay
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_an_event_exists_exactly_when_its_change_does(runtime_pool: Pool) -> None:
    with pytest.raises(KeyError):  # noqa: PT012 (the block is what is tested)
        async with transaction(runtime_pool) as conn:
            await outbox.put(conn, [row()])
            raise KeyError
    assert await left(runtime_pool) == 0
    await commit(runtime_pool, row(), row())
    await commit(runtime_pool)
    assert await left(runtime_pool) == 2


async def test_an_event_is_delivered_within_a_second_and_at_once_when_kicked(
    runtime_pool: Pool, receiver: Receiver, relay: Relay
) -> None:
    event = row()
    await commit(runtime_pool, event)
    await until_kept(receiver, event, within=1.0)
    delays = []
    for _ in range(5):
        event = row()
        await commit(runtime_pool, event)
        relay.kick()
        start = time.monotonic()
        await until_kept(receiver, event)
        delays.append(receiver.arrived_at[event.event_id] - start)
    assert sorted(delays)[2] < 0.1, "the poll is at 0.2 s"
    async with asyncio.timeout(1):
        while await left(runtime_pool):
            await asyncio.sleep(0.01)
    assert relay.counters.delivered == 6


async def test_events_arrive_in_the_order_in_which_they_were_put(runtime_pool: Pool, receiver: Receiver) -> None:
    events = [row(number) for number in range(50)]
    shuffled = events[::2] + events[::-2]
    for start in range(0, 50, 5):
        await commit(runtime_pool, *shuffled[start : start + 5])
    relay = Relay(runtime_pool, receiver.deliver, lease=Lease(runtime_pool, "relay"), batch=7)
    while await relay.relay_batch():
        pass
    assert [event for batch in receiver.batches for event in batch] == [event.event_id for event in shuffled]
    assert max(map(len, receiver.batches)) == 7


async def test_an_event_committed_late_with_a_smaller_id_is_delivered(
    runtime_pool: Pool, receiver: Receiver, relay: Relay
) -> None:
    early, late = sorted((row(), row()), key=lambda event: event.event_id)
    async with transaction(runtime_pool) as conn:
        await outbox.put(conn, [early])
        await commit(runtime_pool, late)
        relay.kick()
        await until_kept(receiver, late)
        assert early.event_id not in receiver.kept
    relay.kick()
    await until_kept(receiver, early)


async def test_while_the_receiver_is_down_events_stay_and_the_lag_shows(
    runtime_pool: Pool, receiver: Receiver, relay: Relay
) -> None:
    await asyncio.sleep(0.3)
    assert relay.lag() < 0.5
    receiver.down = True
    events = [row() for _ in range(3)]
    await commit(runtime_pool, *events)
    relay.kick()
    await asyncio.sleep(1.2)
    assert 1.0 < relay.lag() < 3.0
    assert await left(runtime_pool) == 3
    assert 2 <= relay.counters.failures < 20, "it backs off"
    receiver.down = False
    await until_kept(receiver, *events, within=2.0)
    async with asyncio.timeout(2):
        while relay.lag() > 0.5:
            await asyncio.sleep(0.05)
    assert relay.counters.parked == 0


async def test_a_receiver_that_hangs_is_given_up_and_tried_again(runtime_pool: Pool, receiver: Receiver) -> None:
    calls = 0

    async def hang_once(rows: Sequence[OutboxRow]) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.sleep(60)
        await receiver.deliver(rows)

    event = row()
    await commit(runtime_pool, event)
    relay = Relay(runtime_pool, hang_once, lease=Lease(runtime_pool, "relay"), deliver_timeout=0.1)
    task = asyncio.create_task(relay.run())
    await until_kept(receiver, event)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert calls == 2


async def test_a_malformed_event_is_parked_with_its_reason_and_the_others_go_on(
    runtime_pool: Pool, receiver: Receiver, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    events = [row(payload=bytes([number])) for number in range(20)]
    receiver.poison = {events[3].event_id, events[4].event_id, events[19].event_id}
    await commit(runtime_pool, *events)
    relay.kick()
    await until_kept(receiver, *(event for event in events if event.event_id not in receiver.poison))
    async with asyncio.timeout(2):
        while await left(runtime_pool):
            await asyncio.sleep(0.01)
    parked = await runtime_pool.fetch("SELECT health_id, event_id, reason, payload FROM outbox_parked")
    assert {OutboxRow(found["health_id"], found["event_id"], found["payload"]) for found in parked} == {
        event for event in events if event.event_id in receiver.poison
    }
    assert {found["reason"] for found in parked} == {"INVALID_FIELD events[].action:enum.defined"}
    assert (relay.counters.parked, relay.counters.delivered, relay.counters.failures) == (3, 17, 0)
    assert caplog.text.count("outbox event parked") == 3
    assert len(receiver.batches) < 30, "halving, not one by one"


@pytest.mark.parametrize(
    ("reason", "parked"),
    [
        (reasons.ERROR_REASON_INVALID_FIELD, True),
        (reasons.ERROR_REASON_EVENT_CONFLICT, True),
        (reasons.ERROR_REASON_REQUEST_TOO_LARGE, True),
        (reasons.ERROR_REASON_OVERLOADED, False),
        (reasons.ERROR_REASON_CALLER_NOT_ALLOWED, False),
        (reasons.ERROR_REASON_INTERNAL, False),
    ],
)
async def test_only_what_no_retry_mends_is_parked(runtime_pool: Pool, reason: int, parked: bool) -> None:
    async def refuse(rows: Sequence[OutboxRow]) -> None:
        raise DmpError(reason)

    await commit(runtime_pool, row())
    relay = Relay(runtime_pool, refuse, lease=Lease(runtime_pool, "relay"))
    with suppress(DmpError):
        await relay.relay_batch()
    assert await left(runtime_pool) == (0 if parked else 1)
    assert await runtime_pool.fetchval("SELECT count(*) FROM outbox_parked") == (1 if parked else 0)


async def test_a_delivery_is_bounded_in_bytes_and_a_larger_event_goes_alone(
    runtime_pool: Pool, receiver: Receiver
) -> None:
    events = [row(payload=b"x" * size) for size in (40, 40, 40, 300, 40, 60)]
    await commit(runtime_pool, *events)
    relay = Relay(runtime_pool, receiver.deliver, lease=Lease(runtime_pool, "relay"), max_bytes=100)
    await relay.relay_batch()
    assert [len(batch) for batch in receiver.batches] == [2, 1, 1, 2]
    assert await left(runtime_pool) == 0


async def test_one_replica_relays_and_another_takes_over_at_once(runtime_pool: Pool) -> None:
    receivers = [Receiver(), Receiver()]
    relays = [Relay(runtime_pool, each.deliver, lease=Lease(runtime_pool, "relay", 1.5)) for each in receivers]
    tasks = [asyncio.create_task(relay.run()) for relay in relays]
    events = [row() for _ in range(3)]
    for event in events:
        await commit(runtime_pool, event)
        await asyncio.sleep(0.25)
    leading = 0 if receivers[0].kept else 1
    assert set(receivers[leading].kept) == {event.event_id for event in events}
    assert receivers[1 - leading].batches == []
    assert relays[1 - leading].lag() < 1.0, "the other one measures"
    tasks[leading].cancel()
    with suppress(asyncio.CancelledError):
        await tasks[leading]
    event = row()
    await commit(runtime_pool, event)
    await until_kept(receivers[1 - leading], event, within=1.4)
    tasks[1 - leading].cancel()
    with suppress(asyncio.CancelledError):
        await tasks[1 - leading]


class Step(Enum):
    COMMIT = auto()
    ROLL_BACK = auto()
    BEGIN = auto()
    END_LATE = auto()
    RELAY = auto()
    TWO_RELAYS = auto()


steps = st.lists(
    st.tuples(st.sampled_from(Step), st.integers(1, 5), st.sampled_from(Fate), st.booleans()), min_size=1, max_size=25
)


@dataclass
class Story:
    """Commits, rollbacks, late commits and crashing relays in any order, and what must have come of it."""

    pool: Pool
    receiver: Receiver = field(default_factory=Receiver)
    committed: set[OutboxRow] = field(default_factory=set)
    late: tuple[PoolConnectionProxy[asyncpg.Record], list[OutboxRow]] | None = None

    def relay(self) -> Relay:
        return Relay(self.pool, self.receiver.deliver, lease=Lease(self.pool, "relay"), batch=4)

    async def step(self, step: Step, count: int, fate: Fate, poisoned: bool) -> None:
        events = [row(number, bytes([number])) for number in range(count)]
        self.receiver.fate = fate
        match step:
            case Step.COMMIT:
                if poisoned:
                    self.receiver.poison.add(events[0].event_id)
                await commit(self.pool, *events)
                self.committed.update(events)
            case Step.ROLL_BACK:
                with suppress(KeyError):
                    async with transaction(self.pool) as conn:
                        await outbox.put(conn, events)
                        raise KeyError
            case Step.BEGIN if self.late is None:
                connection = await self.pool.acquire()
                await connection.execute("BEGIN")
                await outbox.put(connection, events)
                self.late = (connection, events)
            case Step.END_LATE:
                await self.end_late()
            case Step.RELAY:
                with suppress(Crash):
                    await self.relay().relay_batch()
            case Step.TWO_RELAYS:
                await asyncio.gather(*(self.relay().relay_batch() for _ in range(2)), return_exceptions=True)

    async def end_late(self) -> None:
        if self.late is not None:
            connection, events = self.late
            self.late = None
            await connection.execute("COMMIT")
            await self.pool.release(connection)
            self.committed.update(events)

    async def end(self) -> None:
        await self.end_late()
        self.receiver.fate = Fate.ACCEPTED
        relay = self.relay()
        while await left(self.pool):
            await relay.relay_batch()


@given(steps)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_committed_event_arrives_and_none_is_made_up(
    runtime_pool: Pool, story: list[tuple[Step, int, Fate, bool]]
) -> None:
    await runtime_pool.execute("TRUNCATE outbox, outbox_parked")
    told = Story(runtime_pool)
    for step in story:
        await told.step(*step)
    await told.end()
    parked = {found["event_id"] for found in await runtime_pool.fetch("SELECT event_id FROM outbox_parked")}
    assert parked == told.receiver.poison
    assert set(told.receiver.kept.values()) == {
        event for event in told.committed if event.event_id not in told.receiver.poison
    }
