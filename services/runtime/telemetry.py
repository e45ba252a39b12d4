"""Telemetry of a process: logs, metrics and traces, set up once at its start.

The parts are `logs`, `metrics` and `tracing`, their names are `names`; here they are put together and, where an
endpoint is set, exported (OTLP over gRPC, from threads of their own). Nothing here knows a business rule.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import BinaryIO, Final

import structlog
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from services.runtime import logs
from services.runtime.metrics import Metrics
from services.runtime.settings import ServiceSettings
from services.runtime.tracing import Span, Tracer, format_traceparent, parse_traceparent

__all__ = ["Metrics", "Span", "Telemetry", "Tracer", "format_traceparent", "parse_traceparent", "setup"]

_METRICS_EVERY: Final = 15.0

_log = structlog.get_logger("telemetry")


class Telemetry:
    """What a process measures with. Made by `setup`; `close` flushes what is still to be exported."""

    def __init__(
        self, service: str, metrics: Metrics, tracer: Tracer, closers: tuple[Callable[[], None], ...] = ()
    ) -> None:
        self.service = service
        self.metrics = metrics
        self.tracer = tracer
        self._closers = closers

    def close(self) -> None:
        """Flush and stop the exporters; blocks for a few seconds at most. Call it last."""
        for close in self._closers:
            close()


def setup(
    service: str,
    settings: ServiceSettings,
    *,
    stream: BinaryIO | None = None,
    span_exporter: SpanExporter | None = None,
) -> Telemetry:
    """Configure logging for the process and start what exports.

    `stream` takes the log lines (stderr by default). `span_exporter` takes the spans; without it they go to
    `settings.otlp_endpoint`, and without that no span is ever built.
    """
    metrics = Metrics()
    dropped = metrics.counter("dmp_log_fields_dropped_total")
    logs.configure(service, settings.log_level, stream or sys.stderr.buffer, dropped.add)
    resource = Resource.create({"service.name": service, "deployment.environment.name": settings.environment})
    closers: list[Callable[[], None]] = []
    endpoint = settings.otlp_endpoint
    exporter = span_exporter or (None if endpoint is None else _otlp_spans(endpoint))
    provider: TracerProvider | None = None
    if exporter is not None:  # the decision to sample is Tracer's, so every span that exists is kept
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        closers.append(provider.shutdown)
    if endpoint is not None:
        closers.append(_MetricsExport(endpoint, lambda: metrics.collect(resource)).close)
    return Telemetry(service, metrics, Tracer(provider, settings.trace_ratio), tuple(closers))


def _otlp_spans(endpoint: str) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))


class _MetricsExport:
    """Sends the metrics every fifteen seconds and once at the end, from a thread of its own."""

    def __init__(self, endpoint: str, collect: Callable[[], MetricsData]) -> None:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        self._exporter = OTLPMetricExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
        self._collect = collect
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-export", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(_METRICS_EVERY):
            self._send()

    def _send(self) -> None:
        try:
            self._exporter.export(self._collect(), timeout_millis=5_000)
        except Exception as error:  # noqa: BLE001 - boundary: telemetry must never stop a service
            _log.warning("metrics_not_exported", exc_info=error)

    def close(self) -> None:
        self._stop.set()
        self._send()
        self._exporter.shutdown(timeout_millis=2_000)
        self._thread.join(timeout=6)
