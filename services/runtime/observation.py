"""How calls are counted, timed, traced and, without a valid token, logged. Names are in `names`; no rule is here."""

from __future__ import annotations

import time

import structlog
from opentelemetry.trace import SpanKind

from services.runtime.errors import DmpError
from services.runtime.telemetry import Telemetry
from services.runtime.tracing import Span

_log = structlog.get_logger("security")
_LINES_A_SECOND = 10


class Calls:
    """Watches the calls of one server."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._tracer = telemetry.tracer
        self._requests = telemetry.metrics.counter("dmp_rpc_requests_total")
        self._refusals = telemetry.metrics.counter("dmp_rpc_refusals_total")
        self._seconds = telemetry.metrics.histogram("dmp_rpc_seconds")
        self._in_flight = 0
        telemetry.metrics.gauge("dmp_rpc_in_flight", lambda: self._in_flight)

    def begin(self, path: str, traceparent: str | None) -> Watch:
        """A call has come in."""
        self._in_flight += 1
        return Watch(self, path, self._tracer.start(path, traceparent, SpanKind.SERVER))

    def forget(self, watch: Watch) -> None:
        """A call is served elsewhere, and counted there."""
        self._in_flight -= 1

    def ended(self, watch: Watch, seconds: float) -> None:
        """A call has been answered."""
        self._in_flight -= 1
        self._requests.add(1, watch.path, watch.code)
        self._seconds.record(seconds, watch.path)
        if watch.reason:
            self._refusals.add(1, watch.path, watch.reason)


class Watch:
    """One call: its start, its span, how it ended."""

    __slots__ = ("_calls", "_started", "code", "path", "reason", "span")

    def __init__(self, calls: Calls, path: str, span: Span) -> None:
        self._calls = calls
        self._started = time.perf_counter()
        self.path = path
        self.span = span
        self.code = "OK"
        self.reason = ""

    def failed(self, error: DmpError) -> None:
        """The call is answered with an error."""
        self.code = error.code.name
        self.reason = error.reason_name

    def cancelled(self) -> None:
        """Nobody waits for an answer."""
        self.code = "CANCELLED"

    def end(self) -> None:
        """The answer has left."""
        self.span.end(self.reason or (None if self.code == "OK" else self.code))
        self._calls.ended(self, time.perf_counter() - self._started)


class SecurityLog:
    """Calls without a valid token: all counted, at most ten lines a second written, none in the trail."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._refused = telemetry.metrics.counter("dmp_security_refusals_total")
        self._second = -1
        self._lines = 0

    def refused(self, method: str, reason: str, peer: str) -> None:
        """Count, and write a line while the second's allowance lasts."""
        self._refused.add(1, reason)
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines <= _LINES_A_SECOND:
            _log.warning("call_refused", method=method, reason=reason, peer=peer)
