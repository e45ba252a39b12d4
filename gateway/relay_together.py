"""Relayed calls that come together: admitted one by one, then looked up, counted and forwarded as one
(docs/decisions/0035-served-together.md). The plain case of `relay.Relay` and `callers.Callers.verify`, and no other: a
call that is to be refused, or an emergency, goes its own way there, where it is recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from dmp.gateway.v1 import relay_pb2
from gateway.callers import Callers, Stated
from gateway.fairness import Fairness
from gateway.usage import OK, Usage, outcome_of_reason
from services.runtime.access import MethodAccess
from services.runtime.addresses import peer_address
from services.runtime.boundary import text_metadata
from services.runtime.channels import Peer
from services.runtime.errors import DmpError, from_status
from services.runtime.limits import EMERGENCY, Limit
from services.runtime.observation import Calls, Watch
from services.runtime.relayed import PATH
from services.runtime.together import Admitted, Arrival, Asked, Outcome, Together
from services.runtime.wire import embedded, text, varint

_LONGEST_CALL: Final = 60.0


class RelayTogether:
    """One method's calls, relayed together."""

    def __init__(
        self,
        method: MethodAccess,
        peer: Peer,
        callers: Callers,
        calls: Calls,
        places: tuple[Limit, Fairness],
        usage: Usage,
    ) -> None:
        self._method = method
        self._path = text(b"\x0a", method.path)
        self._operation = method.path.rpartition("/")[2]
        self._peer = peer
        self._forward = peer.unary_bytes(method.path)
        self._relay = peer.unary_written(PATH, relay_pb2.RelayCallsResponse)
        self._callers = callers
        self._calls = calls
        self._usage = usage
        limit, self._fairness = places
        self._together = Together(method.path, self._admit, self._serve, limit, calls)
        self.arrive = self._together.arrive

    async def close(self) -> None:
        """Answer what was accepted."""
        await self._together.close()

    def _admit(self, arrival: Arrival) -> Admitted | None:
        context = arrival.context
        headers, remaining = text_metadata(context), context.time_remaining()
        timeout = min(remaining or _LONGEST_CALL, _LONGEST_CALL)
        watch = self._calls.begin(self._method.path, headers.get("traceparent"))
        try:
            stated = self._callers.stated(headers, watch.span.traceparent, timeout, peer_address(context.peer()))
        except DmpError:
            self._calls.forget(watch)
            return None
        stated = self._callers.pressing(stated, self._method.traffic)
        traffic = stated.caller.traffic_of(self._method.traffic)
        if traffic == EMERGENCY or self._callers.surely_refused(stated, self._method.traffic):
            self._calls.forget(watch)
            return None
        client_id = stated.caller.actor.client_id
        counted = _Counted(watch, self._usage, client_id, self._operation)
        admitted = Admitted(Asked(stated, arrival.data), arrival, counted, traffic, timeout)
        leave = partial(self._fairness.leave, client_id, traffic)
        if self._fairness.enters(client_id, traffic):
            counted.leave = leave
        else:  # beyond its share: it waits among its own

            async def turn() -> None:
                await self._fairness.enter(client_id, traffic, timeout)
                counted.leave = leave

            admitted.turn = turn
        return admitted

    async def _serve(self, asked: Sequence[Asked]) -> Sequence[Outcome]:
        """The service's answers; None for each that may not call after all."""
        may = await self._callers.may_call([stated for stated, _ in asked], self._method.traffic)
        going = [place for place, goes in enumerate(may) if goes]
        outcomes: list[Outcome] = [None] * len(asked)
        answers: Sequence[bytes | DmpError]
        try:
            answers = await self._answers([asked[place] for place in going]) if going else ()
        except DmpError as error:  # theirs alone: what one is refused for is not told to those who were not asked for
            answers = [error] * len(going)
        for place, answer in zip(going, answers, strict=True):
            outcomes[place] = answer
        for (stated, _), goes in zip(asked, may, strict=True):
            if not goes:  # counted again where it goes its own way
                self._fairness.leave(stated.caller.actor.client_id, stated.caller.traffic_of(self._method.traffic))
        return outcomes

    async def _answers(self, asked: list[Asked]) -> list[bytes | DmpError]:
        now = time.monotonic()
        if len(asked) == 1:
            stated, request = asked[0]
            caller = stated.caller
            return [await self._forward(request, timeout=stated.ends - now, metadata=caller.metadata())]
        batch = b"".join([self._path, *[_relayed(stated, request, now) for stated, request in asked]])
        answer = await self._relay(batch, timeout=max(stated.ends for stated, _ in asked) - now)
        return [self._outcome(result) for result in answer.results]

    def _outcome(self, result: relay_pb2.RelayedResult) -> bytes | DmpError:
        if result.WhichOneof("outcome") == "response":
            return result.response
        return self._peer.own(from_status(result.status))


class _Counted(Watch):
    """A call that also counts in its client's usage; `leave` gives its share back, once it has one."""

    __slots__ = ("_client_id", "_operation", "_outcome", "_usage", "_watch", "leave")

    def __init__(self, watch: Watch, usage: Usage, client_id: str, operation: str) -> None:
        self._watch = watch
        self._usage = usage
        self.leave: Callable[[], None] | None = None
        self._client_id = client_id
        self._operation = operation
        self._outcome = OK
        self._started = time.perf_counter()

    def failed(self, error: DmpError) -> None:
        """The call is answered with an error."""
        self._outcome = outcome_of_reason(error.reason)
        self._watch.failed(error)

    def cancelled(self) -> None:
        """Nobody waits for an answer."""
        self._outcome = "failed"
        self._watch.cancelled()

    def end(self) -> None:
        """The answer has left."""
        self._watch.end()
        if self.leave is not None:
            self.leave()
        self._usage.add(self._client_id, self._operation, self._outcome, time.perf_counter() - self._started)


def _relayed(stated: Stated, request: bytes, now: float) -> bytes:
    """A RelayedCall, as a field of its request."""
    caller = stated.caller
    parts = [
        embedded(b"\x0a", request),
        text(b"\x12", caller.token),
        text(b"\x1a", caller.request_id),
        b"\x20" + varint(max(1, int((stated.ends - now) * 1000))),
        text(b"\x2a", caller.traceparent),
    ]
    if caller.can_wait:
        parts.append(b"\x30\x01")
    if caller.address:
        parts.append(text(b"\x3a", caller.address))
    return embedded(b"\x12", b"".join(parts))
