"""The refusal of a client that floods, before anything of its request is looked at: its token is known from refusals of
a moment ago, and its quota says that there is nothing for it yet.

A request costs some 10 µs so, a tenth of what it costs to refuse it where its caller would be verified: what one
partner's flood takes away from the others is the processor. Whoever is not known here, wants XML, or asks for what
needs no caller goes the whole way; so does each client once its next token is due, and a token that has not been
refused there for a second (it may have ended, or its client been suspended). An emergency is never refused here.
"""

from __future__ import annotations

import math
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from dmp.common.v1.error_reason_pb2 import ERROR_REASON_QUOTA_EXCEEDED
from gateway.admission import operation
from gateway.fhir.negotiation import FHIR_JSON, is_request_id, is_traceparent
from gateway.fhir.outcome import outcome
from gateway.http_metrics import ROUTES, route_of
from gateway.quotas import Quotas
from gateway.usage import Usage, outcome_of_status
from services.runtime.errors import DmpError
from services.runtime.limits import TRAFFIC_HEADER
from services.runtime.metrics import Metrics

_BELIEVED: Final = 1.0
"""Seconds after a refusal for which a token is known by it."""
_MOST_TOKENS: Final = 10_000
_TRAFFIC: Final = TRAFFIC_HEADER.encode()
_BODY: Final = orjson.dumps(outcome(DmpError(ERROR_REASON_QUOTA_EXCEEDED)))
_FIXED: Final = [
    (b"content-type", FHIR_JSON.encode()),
    (b"content-length", str(len(_BODY)).encode()),
    (b"cache-control", b"no-store"),
]

RawHeaders = Iterable[tuple[bytes, bytes]]


class _Known(NamedTuple):
    client_id: str
    traffic: int
    until: float


class OverQuota:
    """The tokens that were refused a moment ago because their clients' quotas were used up."""

    def __init__(self, quotas: Quotas, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._quotas = quotas
        self._monotonic = monotonic
        self._known: OrderedDict[tuple[bytes, bytes], _Known] = OrderedDict()

    def note(self, headers: RawHeaders, client_id: str, traffic: int) -> None:
        """A request with these headers was refused so, in this class."""
        authorization = lowered = b""
        for name, value in headers:
            if name == b"authorization":
                authorization = value
            elif name == _TRAFFIC:
                lowered = value
        key = (authorization, lowered)
        self._known[key] = _Known(client_id, traffic, self._monotonic() + _BELIEVED)
        self._known.move_to_end(key)
        if len(self._known) > _MOST_TOKENS:
            self._known.popitem(last=False)

    def refused_for(self, authorization: bytes, lowered: bytes) -> tuple[str, float] | None:
        """The client, and for how many seconds its requests are refused; None when that is to be asked."""
        known = self._known.get((authorization, lowered))
        if known is None or known.until < self._monotonic():
            return None
        wait = self._quotas.refused_for(known.client_id, known.traffic)
        return None if wait is None else (known.client_id, wait)


class EarlyRefusals:
    """ASGI middleware, around everything else."""

    def __init__(self, app: ASGIApp, over_quota: OverQuota, usage: Usage, metrics: Metrics, prefix: str = "") -> None:
        """`prefix` is the path under which the FHIR front is served."""
        self._app = app
        self._over_quota = over_quota
        self._usage = usage
        self._requests = metrics.counter("dmp_http_requests_total", {"route": ROUTES})
        self._place = len(prefix) + 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what is known to be refused; pass on everything else."""
        headers = self._refusal(scope) if scope["type"] == "http" else None
        if headers is None:
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": _BODY, "more_body": False})

    def _refusal(self, scope: Scope) -> list[tuple[bytes, bytes]] | None:
        """The headers of the refusal of a request that is known to be refused."""
        first = scope["path"][self._place : self._place + 1]
        if not (first.isupper() or first == "$") or b"_format" in scope["query_string"]:
            return None  # pages, keys and tokens need no caller; another format is another answer
        authorization = lowered = b""
        correlation, trace, many = "", b"", False
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization, many = value, many or authorization != b""
            elif name == _TRAFFIC:
                lowered = value
            elif name == b"accept" and b"xml" in value:
                return None
            elif name == b"x-request-id":
                correlation = value.decode("latin-1")
            elif name == b"traceparent":
                trace = value
        if not authorization or many:
            return None
        refused = self._over_quota.refused_for(authorization, lowered)
        if refused is None:
            return None
        client_id, wait = refused
        self._usage.add(client_id, operation(scope), outcome_of_status(429), 0.0)
        self._requests.add(1, route_of(scope), "4xx")
        sent_back = correlation if is_request_id(correlation) else str(uuid.uuid4())
        headers = [
            *_FIXED,
            (b"retry-after", b"%d" % max(1, math.ceil(wait))),
            (b"x-request-id", sent_back.encode("latin-1")),
        ]
        if trace and is_traceparent(trace.decode("latin-1")):
            headers.append((b"traceparent", trace))
        return headers
