"""The place of an HTTP request under the adaptive limit: taken once its caller is known, given back with the answer.

What a place is, who waits and who is refused is in `services.runtime.limits`. Requests without a caller (metadata,
keys, tokens: an emergency begins by asking for a token) take none.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.runtime.context import hurry
from services.runtime.limits import EMERGENCY, Limit

_KEY = "dmp.place"


class _RequestPlace:
    """At most one place, held by one request."""

    __slots__ = ("_limit", "_traffic")

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._traffic: int | None = None

    async def take(self, traffic: int, remaining: float) -> None:
        if self._traffic is None:
            if not self._limit.enter(traffic):
                await self._limit.wait(traffic, remaining)
            self._traffic = traffic

    def give_back(self) -> None:
        if self._traffic is not None:
            traffic, self._traffic = self._traffic, None
            self._limit.leave(traffic)


class Admission:
    """ASGI middleware. A place is given back when the answer begins: readers may be slow."""

    def __init__(self, app: ASGIApp, limit: Limit) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a place that it may take."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        place = _RequestPlace(self._limit)
        scope[_KEY] = place

        async def answer(message: Message) -> None:
            place.give_back()
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            place.give_back()


async def admitted(request: Request, traffic: int, remaining: float) -> None:
    """Return when `request` has its place; OVERLOADED, before any effect, when it gets none."""
    if traffic == EMERGENCY:
        hurry()
    place: _RequestPlace = request.scope[_KEY]
    await place.take(traffic, remaining)
