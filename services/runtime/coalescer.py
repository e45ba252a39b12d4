"""The coalescer: many callers' single items leave together as one batch.

Lives here: queueing, batching and handing each caller its own answer. May not live here: what an item means,
how a batch is sent, retries, caches of any kind.

Why not a cache: an answer is only ever given to the items of the batch that asked for it, and an item never joins a
batch that has already been sent, so a decision is always read *after* the request came (promise 2: "no is immediate").
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, Final, Generic, TypeAlias, TypeVar
from weakref import WeakSet

from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime import context
from services.runtime.errors import DmpError, own_copy, unavailable
from services.runtime.pace import Pace

# Every live coalescer of the process, for the metrics.
_live: WeakSet[Coalescer[Any, Any]] = WeakSet()

Item = TypeVar("Item")
Result = TypeVar("Result")

_log = logging.getLogger(__name__)

_FULL_RETRY_AFTER = 1.0
_NEVER: Final = float("inf")

_BATCH_PACE: Final = 0.02
"""Seconds between those of batch work, which can wait, and costs less in larger ones."""
_LARGE: Final = 86
"""One more batch in turns may be under way where so many wait: a third of 256."""

_Batch: TypeAlias = "dict[asyncio.Future[Result | DmpError], tuple[Item, float]]"
"""Items by the future of their answers, each with the loop's time at which its caller's patience ends."""


class Coalescer(Generic[Item, Result]):
    """Groups the items of concurrent callers into batches.

    Idle, an item leaves at the next turn of the event loop. While ``in_flight`` batches are under way new items wait,
    and leave together (at most ``max_batch``) as soon as one of them ends. Items leave in the order they came, so the
    items of one caller are never reordered; with ``in_flight`` above 1 two batches may be under way at once, and
    their *effects* are then unordered. With a ``pace`` batches start at least that far apart, farther where they are
    slow and full, so that under load they are large; a caller who is alone, or comes later than that after the last
    batch, still leaves at once.

    Those who are answered together mostly ask again together: batches ``in_turns`` wait a moment for them, or a few
    callers would fall apart into two halves, each of which waits for the other's batch (decisions/0035).

    Each class of traffic (`context.traffic`) has a lane of its own with the same bounds, and waits for no batch of
    another: emergencies without pace, with one batch under way; batch work at a pace of its own, a slower one.

    ``send`` gets a list of its own and returns one answer per item, in the same order; an answer that is a
    ``DmpError`` is raised to that item's caller alone. ``send`` must bound its own time: while it hangs, so does
    the queue behind it (which is bounded, and whose items leave at their own timeouts). It runs in an empty
    ``contextvars`` context, not in that of the caller who happened to be first.

    Belongs to one event loop; not thread-safe.
    """

    __slots__ = (
        "__weakref__",
        "_alarm_at",
        "_closing",
        "_context",
        "_drained",
        "_flush_due",
        "_gathering",
        "_grouped",
        "_groups",
        "_in_flight",
        "_lanes",
        "_loop",
        "_max_batch",
        "_max_pending",
        "_more",
        "_name",
        "_pace",
        "_pending",
        "_running",
        "_send",
        "_timer",
        "_traffic",
        "batches_sent",
        "items_refused",
        "items_sent",
    )

    def __init__(
        self,
        name: str,
        send: Callable[[list[Item]], Awaitable[Sequence[Result | DmpError]]],
        *,
        max_batch: int = 256,
        max_pending: int = 4096,
        in_flight: int = 1,
        pace: float = 0.0,
        in_turns: bool = False,
    ) -> None:
        """``name`` names the dependency in logs and errors; ``pace`` in seconds. ValueError if a bound is below 1.

        ``in_turns`` is for batches that wait for others most of their time: the pace then lets all ``in_flight`` of
        them be under way, spread over the time that one takes, and one more where so many wait that it is large.
        """
        if min(max_batch, max_pending, in_flight) < 1:
            raise ValueError("max_batch, max_pending and in_flight are at least 1")
        self._name, self._send = name, send
        self._max_batch, self._max_pending = max_batch, max_pending
        self._in_flight = in_flight
        self._pace = Pace(pace, in_flight if in_turns else 1, in_turns=in_turns)
        self._more = 1 if in_turns else 0
        self._loop: asyncio.AbstractEventLoop | None = None
        # Insertion-ordered: a queue from which a cancelled item leaves in constant time.
        self._pending: _Batch[Result, Item] = {}
        self._running: dict[asyncio.Task[None], _Batch[Result, Item]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._alarm_at = _NEVER
        self._flush_due = self._closing = False
        self._gathering: asyncio.TimerHandle | None = None
        # Callers who bring several items at once and are not through with it; whether what waits, and what left last,
        # has such items.
        self._groups, self._grouped = 0, (False, False)
        self._drained = asyncio.Event()
        self._context = contextvars.Context()
        self._traffic: int = access_pb2.TRAFFIC_CLASS_CARE
        self._lanes: dict[int, Coalescer[Item, Result]] = {}
        self.batches_sent = self.items_sent = self.items_refused = 0
        _live.add(self)

    @property
    def name(self) -> str:
        """What it was named for."""
        return self._name

    @property
    def pending(self) -> int:
        """Items waiting to be sent."""
        return len(self._pending)

    async def submit(self, item: Item, *, timeout: float | None = None) -> Result:
        """The answer to ``item``; ``timeout`` in seconds bounds waiting and sending together.

        Raises DmpError: OVERLOADED when the queue is full and DEPENDENCY_UNAVAILABLE after ``close`` (both before any
        effect); DEADLINE_EXCEEDED at the timeout; DEPENDENCY_UNAVAILABLE when the batch failed; or the item's own.
        After a timeout or a cancellation an item already sent may still take effect; its answer is dropped.
        """
        future = self.ask(item, timeout=timeout)
        try:
            outcome = await future
        except asyncio.CancelledError:
            self.give_up(future)
            raise
        if isinstance(outcome, DmpError):
            raise outcome
        return outcome

    def ask(self, item: Item, *, timeout: float | None = None, traffic: int = 0) -> asyncio.Future[Result | DmpError]:
        """As ``submit``, for who has more to do before it waits: the answer to come, or the error that takes its place.

        What refuses the item at once is raised. Whoever does not want the answer any more calls ``give_up``. The item
        is of the class of what runs now where ``traffic`` says none.
        """
        if self._closing:
            self.items_refused += 1
            raise self._unavailable()
        if (lane := self.lane(traffic)) is not self:
            return lane.ask(item, timeout=timeout, traffic=lane._traffic)
        if len(self._pending) >= self._max_pending:
            self.items_refused += 1
            raise DmpError(
                reasons.ERROR_REASON_OVERLOADED, metadata={"dependency": self._name}, retry_after=_FULL_RETRY_AFTER
            )
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        if timeout is None:
            ends = _NEVER
        elif timeout > 0:
            ends = loop.time() + timeout
            if ends < self._alarm_at:
                self._alarm(loop, ends)
        else:
            raise self._too_late()
        future: asyncio.Future[Result | DmpError] = loop.create_future()
        self._pending[future] = (item, ends)
        if not self._flush_due and self._may_send():
            self._schedule(loop)
        elif self._gathering is not None and len(self._pending) >= self._pace.expected:
            self._gathering.cancel()
            self._gathering = None
            loop.call_soon(self._flush, context=self._context)
        return future

    @contextmanager
    def group(self) -> Iterator[None]:
        """Around the `ask`s of who brings many items at once, in several turns of the loop: they leave together.

        He has waited for them where they came from: once he is through nobody is waited for, nor after their answers.
        """
        self._groups += 1
        try:
            yield
        finally:
            self._groups -= 1
            if self._pending:
                self._grouped = (True, self._grouped[1])
                self._pace.nobody_comes_back()
                if not self._groups:
                    self._go_on()

    def _go_on(self) -> None:
        """What waited for a group to be whole, or for somebody to come back, does not any more."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering, self._flush_due = None, False
        if not self._flush_due and self._may_send():
            self._schedule(asyncio.get_running_loop())

    def give_up(self, future: asyncio.Future[Result | DmpError]) -> None:
        """Nobody waits for this answer: its item leaves the queue if it is still there."""
        future.cancel()
        self._pending.pop(future, None)
        for lane in self._lanes.values():
            lane.give_up(future)

    async def close(self) -> None:
        """Refuses new items, and returns when every accepted one has been answered."""
        self._closing = True
        for lane in self._lanes.values():
            await lane.close()
        if self._pending and self._groups:
            self._go_on()
        if self._pending or self._running:
            await self._drained.wait()

    def lane(self, traffic: int = 0) -> Coalescer[Item, Result]:
        """Where a class goes (0: that of what runs now), made for the first of it; its batches run as of that class."""
        if (traffic := traffic or context.traffic()) == self._traffic:
            return self
        lane = self._lanes.get(traffic)
        if lane is None:
            made = partial(
                Coalescer[Item, Result],
                self._name,
                self._send,
                max_batch=self._max_batch,
                max_pending=self._max_pending,
            )
            batch = traffic == access_pb2.TRAFFIC_CLASS_BATCH
            lane = made(in_flight=self._in_flight, pace=_BATCH_PACE) if batch else made()
            lane._traffic, self._lanes[traffic] = traffic, lane
        return lane

    def _may_send(self) -> bool:
        """Whether a further batch may be under way."""
        free = self._in_flight - len(self._running)
        return free > 0 or (free + self._more > 0 and len(self._pending) >= _LARGE)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """The next batch leaves at the next turn of the loop, but not before its pace allows."""
        self._flush_due = True
        now = loop.time()
        wait, patience = self._pace.wait(now), self._pace.patience(now, len(self._pending))
        if patience and not self._closing:
            self._gathering = loop.call_later(max(wait, patience), self._flush, context=self._context)
            return
        alone = self._pace.single() and not self._running and len(self._pending) == 1
        if wait <= 0 or alone or self._closing:
            loop.call_soon(self._flush, context=self._context)
        else:
            loop.call_later(wait, self._flush, context=self._context)

    def _flush(self) -> None:
        """Sends what waits, as far as ``in_flight`` allows. A group that is not whole yet sends when it is."""
        self._flush_due, self._gathering = False, None
        while self._pending and self._may_send() and self._is_whole():
            loop = asyncio.get_running_loop()
            taken = self._take()
            task = loop.create_task(self._run(taken), context=contextvars.Context())
            self._pace.began(loop.time(), len(taken))
            self._running[task] = taken
            task.add_done_callback(self._ended, context=self._context)
        if self._closing and not self._running:  # and so nothing waits
            self._drained.set()

    def _is_whole(self) -> bool:
        """Whether nobody is about to add to what waits, or it is a whole batch already."""
        return not self._groups or self._closing or len(self._pending) >= self._max_batch

    def _take(self) -> _Batch[Result, Item]:
        """Takes the next batch off the queue."""
        taken = self._pending
        self._grouped = (False, self._grouped[0])
        if len(taken) <= self._max_batch:
            self._pending = {}
        else:
            taken = dict(islice(taken.items(), self._max_batch))
            for future in taken:
                del self._pending[future]
        return taken

    async def _run(self, taken: _Batch[Result, Item]) -> None:
        """Sends one batch and answers each of its items, whatever happens."""
        # Some callers may have gone between the turn of the loop that took the batch and this one, which sends it.
        batch = {future: item for future, (item, _) in taken.items() if not future.done()}
        if not batch:
            return
        context.go_on_as(self._traffic)
        self.batches_sent += 1
        self.items_sent += len(batch)
        started = asyncio.get_running_loop().time()
        try:
            outcomes = await self._send(list(batch.values()))
            if len(outcomes) != len(batch):
                raise ValueError(f"{len(outcomes)} answers to {len(batch)} items")
            left = context.callers_a_turn()
            for future, outcome in zip(batch, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)
                left -= 1
                if not left:  # what is urgent comes between them and the rest of their batch
                    await asyncio.sleep(0)
                    left = context.callers_a_turn()
        except DmpError as error:
            self._fail(batch, error)
        except asyncio.CancelledError:
            # Also raised by a gRPC call whose channel closes. Only a cancellation of this task itself goes on.
            self._fail(batch, self._unavailable())
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        except Exception:  # noqa: BLE001 (a boundary: a batch's fault answers its callers; undecided is no)
            _log.exception("coalesced batch failed", extra={"dependency": self._name, "items": len(batch)})
            self._fail(batch, self._unavailable())
        finally:
            self._pace.took = asyncio.get_running_loop().time() - started

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A batch has ended: the next one leaves; if it was cancelled, the loop is ending and nothing more does."""
        answered = len(self._running.pop(task))
        if self._more and not self._running and not self._grouped[1]:
            coming = min(answered + len(self._pending), self._max_batch)
            self._pace.comes_back(asyncio.get_running_loop().time(), coming)
        if task.cancelled():
            self._closing = True
            stranded, self._pending = self._pending, {}
            self._fail(stranded, self._unavailable())
        if self._closing or not self._pending:
            self._flush()
        elif not self._flush_due and self._may_send():
            self._schedule(asyncio.get_running_loop())

    def _alarm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        """Look for items whose time is over at the loop's time `at`: one timer for all, at the earliest of them."""
        if self._timer is not None:
            self._timer.cancel()
        self._alarm_at = at
        self._timer = loop.call_at(at, self._expire, loop, at, context=self._context)

    def _expire(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Answer the items whose time is over, those of batches under way too."""
        self._timer, self._alarm_at = None, _NEVER
        waiting = self._pending
        outstanding = [each for batch in (waiting, *self._running.values()) for each in batch.items()]
        for future, (_, ends) in outstanding:
            if ends <= now and not future.done():
                future.set_result(self._too_late())
                waiting.pop(future, None)
        earliest = min((ends for future, (_, ends) in outstanding if not future.done()), default=_NEVER)
        if earliest < _NEVER:
            self._alarm(loop, earliest)

    @staticmethod
    def _fail(batch: Iterable[asyncio.Future[Result | DmpError]], error: DmpError) -> None:
        """Answers every item with its own copy of ``error`` (a shared exception would mix the callers' tracebacks)."""
        for future in batch:
            if not future.done():
                future.set_result(own_copy(error))

    def _unavailable(self) -> DmpError:
        return unavailable(self._name)

    def _too_late(self) -> DmpError:
        return DmpError(reasons.ERROR_REASON_DEADLINE_EXCEEDED, metadata={"dependency": self._name})


def pending_items(name: str) -> int:
    """Items waiting in the coalescers of that name in this process."""
    return sum(coalescer.pending for coalescer in list(_live) if coalescer.name == name)
