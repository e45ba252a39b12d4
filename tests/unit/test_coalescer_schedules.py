"""The coalescer under any schedule: each item gets its own answer, once, from a batch that left after the item came.

Schedules drawn by hypothesis run on an event loop whose clock is ours: the same schedule always runs the same way, time
costs nothing, and a schedule on which an item is forgotten ends at once ("nothing is left to happen") instead of
hanging.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime import context
from services.runtime.coalescer import Coalescer
from services.runtime.errors import DmpError
from tests.virtual_loop import on_virtual_loop

# --- schedules -------------------------------------------------------------------------------------------------------


class Fate(Enum):
    """What becomes of a batch."""

    ANSWERED = auto()
    SOME_REFUSED = auto()
    REFUSED = auto()
    BROKEN = auto()
    CANCELLED_INSIDE = auto()
    ONE_ANSWER_SHORT = auto()
    ONE_ANSWER_TOO_MANY = auto()
    NO_ANSWER_AT_ALL = auto()


FAILED = set(Fate) - {Fate.ANSWERED, Fate.SOME_REFUSED}


@dataclass(frozen=True)
class Call:
    caller: int
    at: int
    timeout: int | None
    cancelled_after: int | None


@dataclass(frozen=True)
class Schedule:
    calls: list[Call]
    batches: list[tuple[int, Fate]]
    max_batch: int
    max_pending: int
    in_flight: int
    closed_at: int | None
    pace: float = 0.0
    in_turns: bool = False


schedules = st.builds(
    Schedule,
    calls=st.lists(
        st.builds(
            Call,
            caller=st.integers(0, 3),
            at=st.integers(0, 12),
            timeout=st.none() | st.integers(0, 6),
            cancelled_after=st.none() | st.integers(0, 6),
        ),
        min_size=1,
        max_size=40,
    ),
    batches=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(Fate)), max_size=20),
    max_batch=st.integers(1, 6),
    max_pending=st.integers(1, 12),
    in_flight=st.integers(1, 3),
    closed_at=st.none() | st.integers(0, 20),
    pace=st.sampled_from((0.0, 0.0, 0.5, 3.0)),
    in_turns=st.booleans(),
)


@dataclass(frozen=True)
class Item:
    number: int
    caller: int


@dataclass(frozen=True)
class Answer:
    item: Item
    batch: int


@dataclass
class Batch:
    items: list[Item]
    given: list[Item]
    fate: Fate
    sent_at: float
    order: int
    refused: set[Item] = field(default_factory=set)


@dataclass
class Outcome:
    came: int
    asked_at: float
    value: Answer | DmpError | None = None
    cancelled: bool = False
    cancelled_at: int | None = None
    ended_at: float = 0.0


class History:
    """Runs a schedule on a coalescer, writes down everything, and says what must be true of it."""

    def __init__(self, schedule: Schedule, kind: type[Coalescer[Item, Answer]] = Coalescer) -> None:
        self.schedule = schedule
        self.batches: list[Batch] = []
        self.outcomes: dict[Item, Outcome] = {}
        self.under_way = self.most_under_way = self.most_pending = self._ticks = 0
        self.closed_at: float | None = None
        self.coalescer = kind(
            "peer",
            self.send,
            max_batch=schedule.max_batch,
            max_pending=schedule.max_pending,
            in_flight=schedule.in_flight,
            pace=schedule.pace,
            in_turns=schedule.in_turns,
        )

    def tick(self) -> int:
        self._ticks += 1
        return self._ticks

    async def send(self, items: list[Item]) -> Sequence[Answer | DmpError]:
        number = len(self.batches)
        duration, fate = self.schedule.batches[number] if number < len(self.schedule.batches) else (1, Fate.ANSWERED)
        now = asyncio.get_running_loop().time()
        batch = Batch(list(items), items, fate, now, self.tick())
        self.batches.append(batch)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if duration:
                await asyncio.sleep(duration + 0.5)  # never at the very time of a timeout
        finally:
            self.under_way -= 1
        answers: list[Answer | DmpError] = [Answer(item, number) for item in batch.items]
        if fate is Fate.SOME_REFUSED:
            batch.refused = set(batch.items[::2])
            answers[::2] = [refusal(item) for item in batch.items[::2]]
        return self._fateful(fate, answers)

    @staticmethod
    def _fateful(fate: Fate, answers: list[Answer | DmpError]) -> Sequence[Answer | DmpError]:
        match fate:
            case Fate.REFUSED:
                raise DmpError(reasons.ERROR_REASON_DOSSIER_CLOSED)
            case Fate.BROKEN:
                raise RuntimeError("broken")
            case Fate.CANCELLED_INSIDE:
                raise asyncio.CancelledError
            case Fate.ONE_ANSWER_SHORT:
                return answers[:-1]
            case Fate.ONE_ANSWER_TOO_MANY:
                return [*answers, answers[-1]]
            case Fate.NO_ANSWER_AT_ALL:
                return None  # type: ignore[return-value]
        return answers

    async def call(self, item: Item, call: Call) -> None:
        loop = asyncio.get_running_loop()
        outcome = self.outcomes[item] = Outcome(self.tick(), loop.time())
        try:
            outcome.value = await self.coalescer.submit(item, timeout=call.timeout)
        except DmpError as error:
            outcome.value = error
        except asyncio.CancelledError:
            outcome.cancelled = True
        outcome.ended_at = loop.time()

    def cancel(self, item: Item, task: asyncio.Task[None]) -> None:
        if item in self.outcomes:
            self.outcomes[item].cancelled_at = self.tick()
        task.cancel()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        calls = sorted(enumerate(self.schedule.calls), key=lambda pair: pair[1].at)
        tasks: list[asyncio.Task[None]] = []
        closing = None if self.schedule.closed_at is None else loop.create_task(self._close(self.schedule.closed_at))
        for number, call in calls:
            if call.at > loop.time():
                await asyncio.sleep(call.at - loop.time())
            item = Item(number, call.caller)
            task = loop.create_task(self.call(item, call))
            if call.cancelled_after is not None:
                loop.call_later(call.cancelled_after, self.cancel, item, task)
            tasks.append(task)
            self.most_pending = max(self.most_pending, self.coalescer.pending)
        await asyncio.gather(*tasks, return_exceptions=True)
        await (closing if closing is not None else self._close(0))

    async def _close(self, at: float) -> None:
        await asyncio.sleep(at)
        self.closed_at = asyncio.get_running_loop().time()
        await self.coalescer.close()
        assert self.under_way == 0, "close drains"
        assert self.coalescer.pending == 0, "close drains"

    def check(self) -> None:
        sent = [item for batch in self.batches for item in batch.items]
        assert len(sent) == len(set(sent)), "no item is sent twice"
        for caller in range(4):
            numbers = [self.outcomes[item].came for item in sent if item.caller == caller]
            assert numbers == sorted(numbers), "a caller's items leave in the order they came"
        for batch in self.batches:
            assert batch.items == batch.given, "the list given to send is not touched"
            assert 0 < len(batch.items) <= self.schedule.max_batch
        assert self.most_under_way <= self.schedule.in_flight
        assert self.most_pending <= self.schedule.max_pending
        batch_of = {item: batch for batch in self.batches for item in batch.items}
        for item, outcome in self.outcomes.items():
            self._check_item(item, outcome, batch_of.get(item))

    def _check_item(self, item: Item, outcome: Outcome, batch: Batch | None) -> None:
        value = outcome.value
        assert outcome.cancelled or value is not None, "every call ends"
        if batch is not None:
            assert outcome.came < batch.order, "a batch holds only what came before it left"
            gone = outcome.cancelled and outcome.cancelled_at is not None and outcome.cancelled_at < batch.order
            assert not gone, "what was cancelled in the queue is not sent"
        if isinstance(value, Answer):
            assert value.item == item, "nobody gets another's answer"
            assert batch is not None
            assert outcome.came < self.batches[value.batch].order, "an answer is read after its question"
            assert batch is self.batches[value.batch]
            assert batch.fate in (Fate.ANSWERED, Fate.SOME_REFUSED)
            assert item not in batch.refused
        elif isinstance(value, DmpError):
            self._check_error(item, outcome, batch, value)

    def _check_error(self, item: Item, outcome: Outcome, batch: Batch | None, error: DmpError) -> None:
        match error.reason:
            case reasons.ERROR_REASON_OVERLOADED:
                assert batch is None, "refused before any effect"
            case reasons.ERROR_REASON_DEADLINE_EXCEEDED:
                timeout = self.schedule.calls[item.number].timeout
                assert timeout is not None
                assert outcome.ended_at == outcome.asked_at + timeout, "on time"
                assert batch is None or batch.sent_at <= outcome.ended_at, "what timed out in the queue is not sent"
            case reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE:
                closed = self.closed_at is not None and outcome.asked_at >= self.closed_at
                assert (batch is None and closed) or (batch is not None and batch.fate in FAILED - {Fate.REFUSED})
            case reasons.ERROR_REASON_DOSSIER_CLOSED:
                assert batch is not None
                assert batch.fate is Fate.REFUSED
            case _:
                assert batch is not None
                assert item in batch.refused
                assert error.metadata == {"item": str(item.number)}, "nobody gets another's refusal"


def refusal(item: Item) -> DmpError:
    return DmpError(reasons.ERROR_REASON_BLOCKED, metadata={"item": str(item.number)})


@given(schedules)
@settings(max_examples=300)
def test_no_item_is_lost_doubled_reordered_or_given_anothers_answer(schedule: Schedule) -> None:
    history = History(schedule)
    on_virtual_loop(history.run)
    history.check()


class _JoinsABatchAlreadySent(Coalescer[Item, Answer]):
    """What must never be: the answer of a batch that had left is given to an item that came later."""

    __slots__ = ("_last",)

    async def submit(self, item: Item, *, timeout: float | None = None) -> Answer:
        if self._running and item.number > 0:
            running = next(iter(self._running))
            await asyncio.wait({running})
            return Answer(item, 0)
        return await super().submit(item, timeout=timeout)


def test_the_check_notices_an_item_that_joins_a_batch_already_sent() -> None:
    calls = [Call(0, 0, None, None), Call(1, 2, None, None)]
    history = History(Schedule(calls, [(5, Fate.ANSWERED)], 8, 8, 1, None), _JoinsABatchAlreadySent)
    on_virtual_loop(history.run)
    with pytest.raises(AssertionError):
        history.check()


def test_an_emergency_makes_the_turns_short_in_which_a_batch_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_last_urgent", float("-inf"))
    gone = 0

    async def emergency() -> None:
        context.hurry()

    async def most_in_a_turn(*, beside_an_emergency: bool) -> int:
        async def send(items: list[int]) -> list[int]:
            if beside_an_emergency:
                await asyncio.create_task(emergency())
            return items

        async def caller(number: int) -> None:
            nonlocal gone
            await coalescer.submit(number)
            gone += 1

        coalescer: Coalescer[int, int] = Coalescer("peer", send)
        callers = [asyncio.create_task(caller(number)) for number in range(128)]
        most, before = 0, gone
        while not all(each.done() for each in callers):
            await asyncio.sleep(0)
            most, before = max(most, gone - before), gone
        return most

    assert 16 < asyncio.run(most_in_a_turn(beside_an_emergency=False)) <= 64
    assert asyncio.run(most_in_a_turn(beside_an_emergency=True)) <= 16
