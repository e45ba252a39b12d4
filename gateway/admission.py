"""The place of an HTTP request under the adaptive limit, and in its client's usage: taken once its caller is known,
given back with the answer.

What a place is, who waits and who is refused is in `services.runtime.limits`; how
they are shared among clients, in `fairness`. Requests without a caller (metadata,
keys, tokens: an emergency begins by asking for a token) take none.
"""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.fairness import Fairness, FairPlace
from gateway.usage import Usage, outcome_of_status
from services.runtime.context import go_on_as

_KEY = "dmp.place"
_LONGEST_NAME = 32


class _RequestPlace:
    """At most one place, held by one request; and the client for whom the request counts."""

    __slots__ = ("_fairness", "_place", "client_id")

    def __init__(self, fairness: Fairness) -> None:
        self._fairness = fairness
        self._place: FairPlace | None = None
        self.client_id = ""

    async def take(self, traffic: int, remaining: float) -> None:
        if self._place is None:
            place = self._fairness.place(self.client_id, traffic, remaining)
            await place.take()
            self._place = place

    def give_back(self) -> None:
        if self._place is not None:
            place, self._place = self._place, None
            place.give_back()


class Admission:
    """ASGI middleware. A place is given back when the answer begins: readers may be slow."""

    def __init__(self, app: ASGIApp, fairness: Fairness, usage: Usage) -> None:
        self._app = app
        self._fairness = fairness
        self._usage = usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a place that it may take."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        place = _RequestPlace(self._fairness)
        scope[_KEY] = place
        started, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            place.give_back()
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            place.give_back()
            if place.client_id:
                seconds = time.perf_counter() - started
                self._usage.add(place.client_id, operation(scope), outcome_of_status(status), seconds)


async def admitted(request: Request, traffic: int, remaining: float) -> None:
    """Return when `request` has its place; OVERLOADED, before any effect, when it gets none."""
    go_on_as(traffic)
    place: _RequestPlace = request.scope[_KEY]
    await place.take(traffic, remaining)


def counts_for(request: Request, client_id: str) -> None:
    """The request counts in the usage of this client."""
    place: _RequestPlace = request.scope[_KEY]
    place.client_id = client_id


def operation(scope: Scope) -> str:
    """What a request is in the usage: its method, the resource type or endpoint, and the operation on it. Nothing else
    of a URL is kept, it may name a patient."""
    first, *others = scope["path"].strip("/").split("/")
    named = [
        first if first.isalpha() or first[:1] in "$." else "",
        *(part for part in others if part[:1] in ("$", "_")),
    ]
    return f"{scope['method']} {'/'.join(part[:_LONGEST_NAME] for part in named[:2] if part) or '/'}"
