"""Whose request comes to the limit next: each client has its share of the places when there are too few for all.

The limit (`services.runtime.limits`) serves in the order of arrival, whoever it is, and a quota counts calls, not how
long they take. So a client whose calls are slow could hold all places within its quota, and have a queue of its own
before everybody else. Here a client has at most its share of the places under way or asked for: all of them while it is
alone, an equal part when others ask too. What is beyond waits among its own, so a newcomer finds before it no more than
the places that are next to be given back. Each class of traffic is shared by itself, so a client's batch work
does not keep its own care waiting; emergencies have places of their own in the limit and are not counted here.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from contextlib import suppress
from types import TracebackType
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DmpError
from services.runtime.limits import BATCH, CARE, EMERGENCY, Limit

_PATIENCE: Final = 2.0
_MOST_WAITING: Final = 1024
_PUSHBACK: Final = 0.5


class _Client:
    """What one client has under way and asked for, and what waits for its share."""

    __slots__ = ("held", "waiting")

    def __init__(self) -> None:
        self.held = 0
        self.waiting: deque[asyncio.Future[None]] = deque()


class Fairness:
    """Shares. Belongs to one event loop."""

    def __init__(self, limit: Limit, *, patience: float = _PATIENCE, most_waiting: int = _MOST_WAITING) -> None:
        """Whoever waits longer than `patience` seconds, or finds `most_waiting` before it, is refused: OVERLOADED."""
        self._limit = limit
        self._patience = patience
        self._most_waiting = most_waiting
        self._classes: dict[int, OrderedDict[str, _Client]] = {CARE: OrderedDict(), BATCH: OrderedDict()}

    def share(self, traffic: int) -> int:
        """How many places of a class a client may have now: all, equally among the clients that ask for any."""
        return max(1, self._limit.places(traffic) // max(1, len(self._classes[traffic])))

    def enters(self, client_id: str, traffic: int) -> bool:
        """Whether the client has one more place at once; else nothing is taken."""
        if traffic == EMERGENCY:
            return True
        clients = self._classes[traffic]
        client = clients.get(client_id)
        if client is None:
            client = clients[client_id] = _Client()
        if client.waiting or client.held >= self.share(traffic):
            return False
        client.held += 1
        return True

    async def enter(self, client_id: str, traffic: int, remaining: float | None = None) -> None:
        """Return when the client may ask the limit for one more place; `leave` gives it back. OVERLOADED, before any
        effect, when that takes too long."""
        if self.enters(client_id, traffic):
            return
        client = self._classes[traffic][client_id]
        if len(client.waiting) >= self._most_waiting:
            raise DmpError(reasons.ERROR_REASON_OVERLOADED, retry_after=_PUSHBACK)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client.waiting.append(waiter)
        patience = self._patience if remaining is None else min(self._patience, remaining)
        try:
            async with asyncio.timeout(patience):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self.leave(client_id, traffic)  # the share came together with the end of patience
            else:
                with suppress(ValueError):
                    client.waiting.remove(waiter)
                self._forget(client_id, traffic)
            if isinstance(error, TimeoutError):
                raise DmpError(reasons.ERROR_REASON_OVERLOADED, retry_after=_PUSHBACK) from None
            raise

    def leave(self, client_id: str, traffic: int) -> None:
        """Give back what `enter` or `enters` took."""
        if traffic != EMERGENCY:
            self._classes[traffic][client_id].held -= 1
            self._forget(client_id, traffic)
            self._fill(traffic)

    def place(self, client_id: str, traffic: int, remaining: float | None) -> FairPlace:
        """``async with fairness.place(…):`` holds a place of the limit inside, within the client's share."""
        return FairPlace(self, self._limit, client_id, traffic, remaining)

    def _forget(self, client_id: str, traffic: int) -> None:
        client = self._classes[traffic].get(client_id)
        if client is not None and not client.held and not client.waiting:
            del self._classes[traffic][client_id]

    def _fill(self, traffic: int) -> None:
        """Let in who waits and has less than its share, one of each client in turn, until nobody has less."""
        clients, share = self._classes[traffic], self.share(traffic)
        while short := [each for each, client in clients.items() if client.waiting and client.held < share]:
            for client_id in short:
                client = clients[client_id]
                clients.move_to_end(client_id)
                waiter = client.waiting.popleft()
                if not waiter.done():  # who has given up, and not been woken yet, takes nothing
                    client.held += 1
                    waiter.set_result(None)


class FairPlace:
    """A place of the limit, held by a client within its share."""

    __slots__ = ("_client_id", "_fairness", "_limit", "_remaining", "_traffic")

    def __init__(self, fairness: Fairness, limit: Limit, client_id: str, traffic: int, remaining: float | None) -> None:
        self._fairness = fairness
        self._limit = limit
        self._client_id = client_id
        self._traffic = traffic
        self._remaining = remaining

    async def take(self) -> None:
        """Return with the place; OVERLOADED, before any effect, when it does not come in time."""
        await self._fairness.enter(self._client_id, self._traffic, self._remaining)
        try:
            if not self._limit.enter(self._traffic):
                await self._limit.wait(self._traffic, self._remaining)
        except BaseException:
            self._fairness.leave(self._client_id, self._traffic)
            raise

    def give_back(self) -> None:
        """Once, after `take`."""
        self._limit.leave(self._traffic)
        self._fairness.leave(self._client_id, self._traffic)

    async def __aenter__(self) -> None:
        await self.take()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give_back()
