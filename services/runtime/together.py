"""Calls of one method that come at the same time are served at the same time: one task, one batch, for many of them.

A call of its own costs a task, a future at each step of its way and a wake-up after each of them: more CPU than what
it is for (docs/decisions/0035-served-together.md). Here calls are admitted one by one as any other is, with their own
token, place under the limit and routing fields; those that pass leave together for a handler that serves many.

Only the plain case is served here. Whatever else there is about a call, a refusal above all, is not decided here: it
is served alone, by the one handler that knows every case, as if it had come alone; or that handler goes on with it from
what has been read for it. So no rule is written twice.

A batch is closed when it is handed to the handler: what comes later is in the next one (promise 2).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol

import structlog

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime import faults
from services.runtime.boundary import Context
from services.runtime.coalescer import Coalescer
from services.runtime.errors import DmpError, unavailable
from services.runtime.limits import Limit
from services.runtime.observation import Calls, Watch
from services.runtime.pace import PACE

_MOST: Final = 128
"""Calls of a batch at most: with 256 in flight, two batches that take turns."""
_UNDER_WAY: Final = 1
"""And one more where many wait: two small batches at once cost more than they save in waiting."""

_log = structlog.get_logger("rpc")


class Arrival(Protocol):
    """A call that has come, on whatever transport. Exactly one of the three answers is given, once."""

    data: bytes
    context: Context

    @property
    def gone(self) -> bool:
        """Whether nobody waits for its answer any more."""
        ...

    def answer(self, data: bytes) -> None:
        """End the call with this message."""
        ...

    def refuse(self, error: DmpError) -> None:
        """End the call with this error."""
        ...

    def alone(self) -> None:
        """Serve it by the method's ordinary handler, as if it had not been here."""
        ...


class Asked(NamedTuple):
    """An admitted call and its request, as those who admit give them to those who serve: a `context.Call` and the
    decoded message in a service."""

    call: Any
    request: Any


Rest = Callable[[], Awaitable[bytes]]
"""What is left to do for a call, which gives the answer or raises its error: a task of its own, in the call's place."""
Outcome = bytes | DmpError | Rest | None
"""The answer's bytes, the error that is the answer, the rest of the way to it, or None: to be served alone."""
ServeMany = Callable[[Sequence[Asked]], Awaitable[Sequence[Outcome]]]
"""Serves many calls; an outcome for each, in their order. What it raises is the outcome of all."""


class Admitted:
    """A call that may be served, its class, and the seconds that it has; `since` is when it got its place. `turn`, if
    any, is what it waits for before it asks for a place."""

    __slots__ = ("arrival", "asked", "remaining", "since", "traffic", "turn", "watch")

    def __init__(self, asked: Asked, arrival: Arrival, watch: Watch, traffic: int, remaining: float | None) -> None:
        self.asked = asked
        self.arrival = arrival
        self.watch = watch
        self.traffic = traffic
        self.remaining = remaining
        self.since = 0.0
        self.turn: Callable[[], Awaitable[None]] | None = None


class Admit(Protocol):
    """Who calls, and may they. None for whatever is not a plain yes."""

    def __call__(self, arrival: Arrival) -> Admitted | None: ...


class Together:
    """Serves the calls of one method together."""

    def __init__(self, path: str, admit: Admit, serve: ServeMany, limit: Limit, calls: Calls) -> None:
        self._path = path
        self._admit = admit
        self._serve = serve
        self._limit = limit
        self._calls = calls
        self._batches: Coalescer[Admitted, None] = Coalescer(
            "together", self._send, max_batch=_MOST, in_flight=_UNDER_WAY, pace=PACE, in_turns=True
        )
        self._tasks: set[asyncio.Task[None]] = set()

    def arrive(self, arrival: Arrival) -> None:
        """Serve a call, with others where that is possible."""
        admitted = self._admit(arrival)
        if admitted is None:
            arrival.alone()
        elif admitted.turn is not None:
            self._begin(self._in_turn(admitted, admitted.turn))
        else:
            self._enter(admitted)

    def group(self) -> AbstractContextManager[None]:
        """Around the arrivals of calls that came as one: they are served as one, and wait for no others."""
        return self._batches.lane().group()

    async def close(self) -> None:
        """Refuse new calls, answer those accepted."""
        await self._batches.close()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _in_turn(self, admitted: Admitted, turn: Callable[[], Awaitable[None]]) -> None:
        try:
            await turn()
        except asyncio.CancelledError:
            _told(admitted, unavailable("service"))
            raise
        except Exception as error:  # noqa: BLE001 - the boundary, as below
            _told(admitted, self._error(error))
        else:
            self._enter(admitted)

    def _enter(self, admitted: Admitted) -> None:
        if self._limit.enter(admitted.traffic):
            self._placed(admitted)
        else:
            self._wait(admitted)

    def _wait(self, admitted: Admitted) -> None:
        """It has its place when its turn comes."""
        try:
            waiter = self._limit.queue(admitted.traffic, admitted.remaining)
        except DmpError as error:
            _told(admitted, error)
            return

        def ended(waiter: asyncio.Future[None]) -> None:
            error = unavailable("service") if waiter.cancelled() else waiter.exception()
            if isinstance(error, DmpError):
                _told(admitted, error)
            else:
                self._placed(admitted)

        waiter.add_done_callback(ended)

    def _placed(self, admitted: Admitted) -> None:
        admitted.since = time.monotonic()
        try:
            _ = self._batches.ask(admitted, traffic=admitted.traffic)  # what becomes of it is told to the arrival
        except DmpError as error:
            self._end(admitted, error)

    async def _send(self, admitted: list[Admitted]) -> list[None]:
        outcomes: Sequence[Outcome]
        size = len(admitted)
        if any(each.arrival.gone for each in admitted):
            for each in admitted:
                if each.arrival.gone:
                    self._gone(each)
            admitted = [each for each in admitted if not each.arrival.gone]
        try:
            outcomes = await self._serve([each.asked for each in admitted]) if admitted else ()
            faults.point("reply.before")
        except asyncio.CancelledError:
            for each in admitted:
                self._end(each, unavailable("service"))
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: nothing else may cross an RPC
            outcomes = [self._error(error)] * len(admitted)
        for each, outcome in zip(admitted, outcomes, strict=True):
            self._end(each, outcome)
        return [None] * size

    async def _rest(self, admitted: Admitted, rest: Rest) -> None:
        try:
            outcome: Outcome = await rest()
            faults.point("reply.before")
        except asyncio.CancelledError:
            self._end(admitted, unavailable("service"))
            raise
        except Exception as error:  # noqa: BLE001 - the boundary, as above
            outcome = self._error(error)
        self._end(admitted, outcome)

    def _error(self, error: Exception) -> DmpError:
        if isinstance(error, DmpError):
            return error
        _log.error("defect", method=self._path, exc_info=error)
        return DmpError(reasons.ERROR_REASON_INTERNAL)

    def _gone(self, admitted: Admitted) -> None:
        """Nothing is read, and so nothing recorded, for whom nobody waits any more."""
        self._limit.leave(admitted.traffic, time.monotonic() - admitted.since)
        admitted.watch.cancelled()
        admitted.watch.end()
        admitted.arrival.refuse(unavailable("client"))

    def _end(self, admitted: Admitted, outcome: Outcome) -> None:
        if callable(outcome):
            self._begin(self._rest(admitted, outcome))
            return
        self._limit.leave(admitted.traffic, time.monotonic() - admitted.since)
        if outcome is None:
            self._calls.forget(admitted.watch)
            admitted.arrival.alone()
        elif isinstance(outcome, DmpError):
            _told(admitted, outcome)
        else:
            admitted.watch.end()
            admitted.arrival.answer(outcome)


def _told(admitted: Admitted, error: DmpError) -> None:
    admitted.watch.failed(error)
    admitted.watch.end()
    admitted.arrival.refuse(error)
