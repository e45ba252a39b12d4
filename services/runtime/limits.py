"""The adaptive limit: how many calls a process works on at once, who goes first, who waits and who is refused.

Lives here: places, the queues for them, and the rule by which the number of places follows the event loop's delay.
May not live here: what a call does, who may make it, gRPC and HTTP. Why it is so is in docs/decisions/0011-overload.md.

Three classes. EMERGENCY has places of its own and never waits for others. CARE has the adaptive limit. BATCH has a
share of it, and only what care leaves free. A call without a place waits, in the order of class and arrival, and is
refused (OVERLOADED, with push-back, before any effect) when the queue is full or its turn would come too late. Calls of
the platform's own services carry work that was admitted where it came in: they are counted, never held back, so no two
processes can wait for each other's places.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NamedTuple

from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from services.runtime.errors import DmpError
from services.runtime.metrics import Metrics
from services.runtime.settings import ServiceSettings

SERVICE: Final = access_pb2.TRAFFIC_CLASS_UNSPECIFIED
"""The class of the platform's own services here: no limit."""
EMERGENCY: Final = access_pb2.TRAFFIC_CLASS_EMERGENCY
CARE: Final = access_pb2.TRAFFIC_CLASS_CARE
BATCH: Final = access_pb2.TRAFFIC_CLASS_BATCH

TRAFFIC_HEADER: Final = "x-dmp-traffic"
"""Metadata, or HTTP header, by which a client says `batch`: its call can wait; and a service of ours for which class it
calls."""
NAMES: Final[Mapping[int, str]] = {SERVICE: "service", EMERGENCY: "emergency", CARE: "care", BATCH: "batch"}

_SAID: Final = {NAMES[traffic]: traffic for traffic in (EMERGENCY, BATCH)}
_EMERGENCY_MODES: Final = frozenset({context_pb2.ACCESS_MODE_REGULATION, context_pb2.ACCESS_MODE_BREAK_GLASS})
_PROBE_SECONDS: Final = 0.01
_PROBES_A_WINDOW: Final = 10
_SHRINK: Final = 0.9
_GROW: Final = 1.05
_PACE_MEMORY: Final = 0.7
_SHORTEST_PUSHBACK: Final = 0.25
_LONGEST_PUSHBACK: Final = 10.0
_BATCH_PUSHBACK: Final = 4.0
_PUSHBACK_STEP: Final = 0.0625
"""Push-backs are multiples of it, so that their wire form is found and not made."""

Waiter = asyncio.Future[None]


def traffic_of(own: int, actor: ActingContext, caller: int, *, lowered: bool) -> int:
    """The class of an authenticated call whose method has the class `own`.

    A verified token in an emergency mode raises it whatever the client says; else the client may have `lowered` it to
    BATCH; else it is the method's. A service's call, which has no token, has no class.
    """
    if caller == access_pb2.CALLER_KIND_SERVICE:
        return SERVICE
    if actor.access_mode in _EMERGENCY_MODES:
        return EMERGENCY
    return BATCH if lowered else own


def is_lowered(headers: Mapping[str, str]) -> bool:
    """Whether the client said that its call can wait."""
    return headers.get(TRAFFIC_HEADER) == NAMES[BATCH]


def said(headers: Mapping[str, str]) -> int:
    """The class that a service says its call is for. Not to be believed of anyone else."""
    return _SAID.get(headers.get(TRAFFIC_HEADER, ""), CARE)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Within what the limit moves.

    `least` and `most` places. The aims: `lag` is the event loop's mean delay by its own work, `seconds` how long half
    of the calls hold their places. `waiting` calls of a class may wait, each at most `patience` seconds; `batch_share`
    of the limit is BATCH's at most.
    """

    least: int = 16
    most: int = 256
    lag: float = 0.01
    seconds: float = 0.1
    waiting: int = 1024
    patience: float = 2.0
    batch_share: float = 0.25

    @classmethod
    def of(cls, settings: ServiceSettings) -> Bounds:
        """As the process was told."""
        return cls(
            settings.concurrency_min,
            settings.concurrency_max,
            settings.concurrency_lag_ms / 1000,
            settings.concurrency_target_ms / 1000,
            settings.waiting_max,
            settings.waiting_seconds,
            settings.batch_share,
        )


class Window(NamedTuple):
    """What a tenth of a second was like.

    `lag` is the mean delay of the event loop by its own work, in seconds. `slow` of the `ended` calls held their places
    for longer than the aim, `refused` got none; `peak` places were taken at once; `wanted`: there were too few.
    """

    lag: float
    ended: int
    slow: int
    refused: int
    peak: int
    wanted: bool


def next_limit(limit: float, window: Window, bounds: Bounds) -> float:
    """How many places there are next: additive increase, multiplicative decrease. Pure.

    There are too many if the loop is late by its own work (a process serves all calls on one loop, so that is its
    queue; what it waits for a processor is not, and fewer places would not help), or if half of the calls take longer
    than they should (the queue is behind: in a batch, a pool, another process). Then a tenth of them goes, if they are
    in use, and unless the process refuses more than it serves: it is late by refusing then. Else, if calls wait for
    places, a twentieth comes.
    """
    if window.lag > bounds.lag or 2 * window.slow > window.ended:
        in_use = window.peak > limit / 2
        return max(bounds.least, limit * _SHRINK) if in_use and window.refused <= window.ended else limit
    return min(bounds.most, max(limit + 1, limit * _GROW)) if window.wanted else limit


class Limit:
    """The places of one process. Belongs to one event loop; not thread-safe."""

    __slots__ = (
        "_bounds",
        "_chance",
        "_due",
        "_ended",
        "_lag",
        "_pace",
        "_peak",
        "_probes",
        "_probing",
        "_refused",
        "_since",
        "_slow",
        "_turned_away",
        "_waiting",
        "_wanted",
        "_worked",
        "in_flight",
        "limit",
        "taken",
    )

    def __init__(
        self,
        bounds: Bounds | None = None,
        *,
        refused: Callable[[int, str], None] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`refused` counts refusals by the class's name; `chance` gives numbers in [0, 1) that spread retries."""
        self._bounds = bounds or Bounds()
        self._refused = refused
        self._chance = chance
        self.in_flight: dict[int, int] = dict.fromkeys(NAMES, 0)
        """Calls with a place, by class."""
        self.limit: float = self._bounds.most
        """Places that care and batch may take now, rounded down."""
        self.taken = 0
        """Places taken: calls in flight but those of services."""
        # Insertion-ordered, so that whoever gives up leaves his queue in constant time. The value is when he came.
        self._waiting: dict[int, dict[Waiter, float]] = {EMERGENCY: {}, CARE: {}, BATCH: {}}
        self._probing: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._worked = 0.0
        self._wanted = False
        self._peak = 0
        self._since = 0.0
        self._lag, self._probes = 0.0, 0
        self._ended = self._slow = self._turned_away = 0
        self._pace = 0.0

    @property
    def probing(self) -> bool:
        """Whether the clock runs."""
        return self._probing is not None

    def places(self, traffic: int) -> int:
        """How many places the calls of a class may have now, if no others come."""
        return int(self.limit) if traffic != BATCH else max(1, int(self.limit * self._bounds.batch_share))

    def waiting(self, traffic: int) -> int:
        """Calls of a class that wait for a place."""
        return len(self._waiting[traffic])

    def place(self, traffic: int, remaining: float | None) -> Place:
        """``async with limit.place(…):`` holds a place inside; `remaining` are the seconds until the deadline.

        Entering raises OVERLOADED, with what was asked for not begun. Cancelled while it waits, it leaves its queue.
        """
        return Place(self, traffic, remaining)

    def enter(self, traffic: int) -> bool:
        """Take a place if one is free and nobody who comes first waits; else False, and `wait` is next."""
        if traffic == SERVICE:
            self.in_flight[SERVICE] += 1
            return True
        if not self._free(traffic):
            return False
        if self._wanted and any(queue for ahead, queue in self._waiting.items() if ahead <= traffic):
            return False
        self._take(traffic)
        return True

    def queue(self, traffic: int, remaining: float | None) -> Waiter:
        """Wait for a place: the future has it when it is done, or the error that it did not come in time.

        Raises OVERLOADED when it cannot come in time. Whoever gives up cancels the future.
        """
        self._wanted = True
        queue = self._waiting[traffic]
        patience = self._bounds.patience if remaining is None else min(self._bounds.patience, remaining)
        expected = self._expected(traffic)
        if len(queue) >= self._bounds.waiting or expected > patience:
            raise self._overloaded(traffic, expected)
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        queue[waiter] = loop.time() + patience
        self._watch()
        return waiter

    async def wait(self, traffic: int, remaining: float | None) -> None:
        """Take a place when its turn comes. OVERLOADED when it cannot come in time, or does not."""
        waiter = self.queue(traffic, remaining)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.leave(traffic)  # the place came together with the cancellation
            raise
        finally:
            self._waiting[traffic].pop(waiter, None)

    def leave(self, traffic: int, seconds: float = 0.0) -> None:
        """Give the place back, held for so many `seconds`; whoever waits first gets it."""
        self.in_flight[traffic] -= 1
        if traffic != SERVICE:
            self.taken -= 1
            self._ended += 1
            if seconds > self._bounds.seconds:
                self._slow += 1
            if self._wanted:
                self._fill()

    def _take(self, traffic: int) -> None:
        self.taken += 1
        self.in_flight[traffic] += 1
        if self.taken > self._peak:
            self._peak = self.taken
        if self._probing is None:
            self._watch()

    def _free(self, traffic: int) -> bool:
        if traffic == EMERGENCY:
            return self.in_flight[EMERGENCY] < self._bounds.most
        if self.taken >= int(self.limit):
            return False
        return traffic == CARE or self.in_flight[BATCH] < self.places(BATCH)

    def _fill(self) -> None:
        """Give the free places to those who wait."""
        for traffic, queue in self._waiting.items():
            while queue and self._free(traffic):
                waiter = next(iter(queue))
                del queue[waiter]
                if not waiter.done():
                    self._take(traffic)
                    waiter.set_result(None)

    def _expected(self, traffic: int) -> float:
        """Seconds until a newcomer's turn, by those before it and the pace of late; 0 while no pace is known."""
        if not self._pace:
            return 0.0
        return sum(len(queue) for ahead, queue in self._waiting.items() if ahead <= traffic) / self._pace

    def _overloaded(self, traffic: int, expected: float) -> DmpError:
        """Spread over twice the time, so that those refused together do not come back together."""
        self._turned_away += 1
        if self._refused is not None:
            self._refused(1, NAMES[traffic])
        delay = max(_SHORTEST_PUSHBACK, expected) * (_BATCH_PUSHBACK if traffic == BATCH else 1.0)
        steps = round(min(_LONGEST_PUSHBACK, delay * (1.0 + self._chance())) / _PUSHBACK_STEP)
        return DmpError(reasons.ERROR_REASON_OVERLOADED, retry_after=steps * _PUSHBACK_STEP)

    # --- the clock: it runs while there are calls ---

    def _watch(self) -> None:
        """Look at the clock in a hundredth of a second, if nobody does yet."""
        if self._probing is None:
            loop = asyncio.get_running_loop()
            self._since = loop.time()
            self._probe_later(loop)

    def _probe_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + _PROBE_SECONDS
        self._worked = time.thread_time()
        self._probing = loop.call_later(_PROBE_SECONDS, self._probe, loop)

    def _probe(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        late = now - self._due
        if late > 0:
            self._lag += late * min(1.0, (time.thread_time() - self._worked) / (late + _PROBE_SECONDS))
        self._probes += 1
        if self._probes == _PROBES_A_WINDOW:
            self._adapt(now)
        if self.taken or self._wanted:
            self._probe_later(loop)
        else:
            self._probing = None

    def _adapt(self, now: float) -> None:
        """Every tenth of a second: the limit, the pace, those who have waited too long, the places that have come."""
        lag = self._lag / self._probes
        window = Window(lag, self._ended, self._slow, self._turned_away, self._peak, self._wanted)
        self.limit = next_limit(self.limit, window, self._bounds)
        if self._wanted:  # only then the pace is what can be done, and not what was asked for
            recent = self._ended / max(now - self._since, _PROBE_SECONDS)
            self._pace = _PACE_MEMORY * self._pace + (1 - _PACE_MEMORY) * recent if self._pace else recent
        else:
            self._pace = 0.0
        self._since, self._peak = now, self.taken
        self._lag, self._probes = 0.0, 0
        self._ended = self._slow = self._turned_away = 0
        self._expel(now)
        self._fill()
        self._wanted = any(self._waiting.values())

    def _expel(self, now: float) -> None:
        """Those whose time is over leave their queues."""
        for traffic, queue in self._waiting.items():
            for waiter in [waiter for waiter, until in queue.items() if until <= now]:
                del queue[waiter]
                if not waiter.done():
                    waiter.set_exception(self._overloaded(traffic, self._expected(traffic)))


class Place:
    """A place while it is held."""

    __slots__ = ("_limit", "_remaining", "_since", "_traffic")

    def __init__(self, limit: Limit, traffic: int, remaining: float | None) -> None:
        self._limit = limit
        self._traffic = traffic
        self._remaining = remaining

    async def __aenter__(self) -> None:
        if not self._limit.enter(self._traffic):
            await self._limit.wait(self._traffic, self._remaining)
        self._since = time.monotonic()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limit.leave(self._traffic, time.monotonic() - self._since)


def measured(bounds: Bounds, metrics: Metrics) -> Limit:
    """The limit of a process, with its metrics."""
    limit = Limit(bounds, refused=metrics.counter("dmp_limit_refused_total").add)
    metrics.gauge("dmp_limit_places", lambda: limit.limit)
    for traffic, name in NAMES.items():
        metrics.gauge("dmp_limit_in_flight", _reading(limit.in_flight, traffic), name)
        if traffic != SERVICE:
            metrics.gauge("dmp_limit_waiting", _waiting(limit, traffic), name)
    return limit


def _reading(numbers: Mapping[int, int], traffic: int) -> Callable[[], float]:
    return lambda: numbers[traffic]


def _waiting(limit: Limit, traffic: int) -> Callable[[], float]:
    return lambda: limit.waiting(traffic)
