"""Counts and times HTTP requests by their first path segment; nothing else of a URL is kept, it may name a patient."""

from __future__ import annotations

import time
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.fhir.interactions import INTERACTIONS
from services.runtime.metrics import Metrics

ROUTES: Final = tuple(
    dict.fromkeys(
        ["/", "/token", "/jwks", "/.well-known", "/log", *("/" + each.path.split("/")[1] for each in INTERACTIONS)]
    )
)


class HttpMetrics:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._requests = metrics.counter("dmp_http_requests_total", {"route": ROUTES})
        self._seconds = metrics.histogram("dmp_http_seconds", {"route": ROUTES})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and count its answer; one that ends without an answer counts as 5xx."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = "5xx"

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = f"{message['status'] // 100}xx"
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            route = route_of(scope)
            self._requests.add(1, route, status)
            self._seconds.record(time.perf_counter() - started, route)


def route_of(scope: Scope) -> str:
    """The first segment of the path."""
    path: str = scope["path"]
    return "/" + path.removeprefix("/").partition("/")[0]
