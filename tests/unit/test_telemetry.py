"""What telemetry promises: it says what happened, never to whom, and costs the request path next to nothing."""

from __future__ import annotations

import io
import logging
import sys
import uuid
from collections.abc import Iterator
from typing import Any, get_args

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import Histogram, Sum
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2, rights_pb2
from dmp.document.v1 import document_pb2
from dmp.identity.v1 import identity_pb2
from services.runtime import names
from services.runtime.errors import DmpError
from services.runtime.metrics import Metrics
from services.runtime.observation import Calls, SecurityLog
from services.runtime.settings import ServiceSettings
from services.runtime.telemetry import Telemetry, setup
from services.runtime.tracing import TraceParent, Tracer, format_traceparent, parse_traceparent

NIR = "255081416802538"
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_SAMPLED = SAMPLED[:-1] + "0"


class Spans(SpanExporter):
    """An exporter that keeps the spans."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def export(self, spans: Any) -> SpanExportResult:
        self.kept.extend(spans)
        return SpanExportResult.SUCCESS


class Process:
    """A process with telemetry set up: its log lines, its spans, its metrics."""

    def __init__(self, **settings: Any) -> None:
        self.stream = io.BytesIO()
        self.spans = Spans()
        self.telemetry: Telemetry = setup(
            "document", ServiceSettings(**settings), stream=self.stream, span_exporter=self.spans
        )

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def fields_dropped(self) -> int:
        return self.telemetry.metrics.counter("dmp_log_fields_dropped_total").value()


@pytest.fixture
def process() -> Iterator[Process]:
    hook, level = sys.excepthook, logging.getLogger().level
    made = Process(trace_ratio=1.0)
    yield made
    made.telemetry.close()
    structlog.reset_defaults()
    sys.excepthook = hook
    root = logging.getLogger()
    root.setLevel(level)
    for handler in [h for h in root.handlers if type(h).__module__ == "services.runtime.logs"]:
        root.removeHandler(handler)


def test_a_log_line_is_one_json_object_with_its_service(process: Process) -> None:
    event_id = uuid.uuid4()
    structlog.get_logger("relay").info("delivered", count=3, duration_ms=1.5, event_id=event_id, job=None)
    (line,) = process.lines
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "delivered", "level": "info", "service": "document", "count": 3, "duration_ms": 1.5,
        "event_id": str(event_id), "job": None,
    }  # fmt: skip


def test_a_field_that_is_not_registered_is_dropped_counted_and_named(process: Process) -> None:
    structlog.get_logger().warning("registered", family_name="DUPONT", birth_date="1955-08-14", count=1)
    (line,) = process.lines
    assert line["dropped"] == ["birth_date", "family_name"]
    assert "DUPONT" not in process.stream.getvalue().decode()
    assert process.fields_dropped == 2


@pytest.mark.parametrize("nir", [NIR, NIR[:13], "2 55 08 14 168 025 38", "1850 12A004 123 45".replace(" ", "")])
def test_what_looks_like_a_nir_is_cut_out_wherever_it_hides(process: Process, nir: str) -> None:
    log = structlog.get_logger()
    text = "resolving " + nir
    log.info(text, path=f"/people/{nir}", items=[nir], error={"nir": nir})
    logging.getLogger("some.library").warning(text)
    logging.getLogger("services.identity").warning("sent %s", nir)
    written = process.stream.getvalue().decode()
    assert nir not in written
    assert process.lines[0]["path"] == "/people/[removed]"
    assert process.fields_dropped == 6


def test_ids_of_traces_events_and_dossiers_are_not_taken_for_a_nir(process: Process) -> None:
    dossier = "dossiers/123456789012345678901"
    structlog.get_logger().info("kept", trace_id=SAMPLED[3:35], event_id=str(uuid.UUID(int=10**15)), path=dossier)
    assert process.lines[0]["path"] == dossier
    assert process.fields_dropped == 0


def test_an_exceptions_text_is_never_logged_but_its_type_causes_and_stack_are(process: Process) -> None:
    log = structlog.get_logger()
    try:
        try:
            raise KeyError(NIR)
        except KeyError as cause:
            raise ValueError("DUPONT Marie already exists") from cause
    except ValueError:
        log.exception("failed")
        logging.getLogger("asyncio").exception("Task exception was never retrieved\nDUPONT")
        sys.excepthook(*sys.exc_info())
    written = process.stream.getvalue().decode()
    assert "DUPONT" not in written
    assert NIR not in written
    assert [line["event"] for line in process.lines] == ["failed", "Task exception was never retrieved", "crashed"]
    for line in process.lines:
        assert (line["error_type"], line["error_causes"]) == ("ValueError", ["KeyError"])
        assert "test_telemetry.py" in line["error_stack"][-1]


def test_a_dmp_error_is_logged_with_its_reason_and_message(process: Process) -> None:
    try:
        raise DmpError(reasons.ERROR_REASON_BLOCKED)
    except DmpError:
        structlog.get_logger().exception("refused")
    assert process.lines[0]["reason"] == "BLOCKED"
    assert process.lines[0]["error"] == "The patient has blocked the caller."


def test_libraries_log_numbers_and_our_code_texts(process: Process) -> None:
    logging.getLogger("asyncpg").warning("row %s of %d", "DUPONT", 3)
    logging.getLogger("services.runtime.jobs").warning("job %s", "purge", extra={"job": "purge", "patient": "DUPONT"})
    assert [line["event"] for line in process.lines] == ["row … of 3", "job purge"]
    assert process.lines[1]["job"] == "purge"
    assert "DUPONT" not in process.stream.getvalue().decode()


def test_a_level_below_the_setting_is_not_written(process: Process) -> None:
    structlog.get_logger().debug("noise")
    logging.getLogger("grpc").debug("noise")
    assert process.lines == []


@given(st.integers(min_value=1, max_value=2**128 - 1), st.integers(min_value=1, max_value=2**64 - 1), st.booleans())
def test_a_trace_parent_survives_its_header(trace_id: int, span_id: int, sampled: bool) -> None:
    parent = TraceParent(trace_id, span_id, sampled)
    assert parse_traceparent(format_traceparent(parent)) == parent


@given(st.text(max_size=80))
def test_no_text_breaks_the_parser(text: str) -> None:
    parent = parse_traceparent(text)
    assert parent is None or (parent.trace_id > 0 and parent.span_id > 0)


@pytest.mark.parametrize(
    "text",
    [
        None, "", "ff" + SAMPLED[2:], "00-" + "0" * 32 + SAMPLED[35:], SAMPLED[:36] + "0" * 16 + "-01",
        SAMPLED.upper(), SAMPLED + "-more", SAMPLED[:-1], SAMPLED + "\n",
    ],
)  # fmt: skip
def test_a_malformed_trace_parent_is_as_if_absent(text: str | None) -> None:
    assert parse_traceparent(text) is None
    span = Tracer(None, 1.0).start("read", text)
    assert parse_traceparent(span.traceparent) is not None


def test_a_later_version_of_trace_parent_is_understood() -> None:
    assert parse_traceparent("01" + SAMPLED[2:] + "-more") == parse_traceparent(SAMPLED)


def test_the_senders_decision_is_kept(process: Process) -> None:
    tracer = process.telemetry.tracer
    assert tracer.start("read", NOT_SAMPLED).traceparent == NOT_SAMPLED
    with tracer.start("read", SAMPLED) as span:
        span.set("code", "OK")
        child = span.traceparent
    assert child[:35] == SAMPLED[:35]
    assert child[36:52] != SAMPLED[36:52]
    process.telemetry.close()
    (exported,) = process.spans.kept
    assert format(exported.parent.span_id, "016x") == SAMPLED[36:52]
    assert dict(exported.attributes) == {"code": "OK"}


def test_a_span_records_the_type_of_an_error_and_not_its_text(process: Process) -> None:
    with pytest.raises(ValueError, match="DUPONT"), process.telemetry.tracer.start("read"):
        raise ValueError("DUPONT")
    process.telemetry.close()
    (exported,) = process.spans.kept
    assert exported.parent is None, "a root has no made-up parent"
    assert "DUPONT" not in exported.to_json()
    assert exported.status.description == "ValueError"


def test_the_ratio_decides_for_calls_that_arrive_without_a_trace() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    sampled = {
        ratio: sum(Tracer(provider, ratio).start("read").sampled for _ in range(2000)) for ratio in (0.0, 0.25, 1)
    }
    assert (sampled[0.0], sampled[1]) == (0, 2000)
    assert 350 < sampled[0.25] < 650


def test_without_an_exporter_nothing_is_sampled_and_the_trace_still_travels_on() -> None:
    telemetry = setup("audit", ServiceSettings(trace_ratio=1.0), stream=io.BytesIO())
    assert not telemetry.tracer.start("read").sampled
    assert telemetry.tracer.start("read", SAMPLED).traceparent == SAMPLED


def test_an_undeclared_label_value_counts_as_other() -> None:
    runs = Metrics().counter("dmp_job_runs_total", {"job": ("purge",)})
    runs.add(1, "purge", "ok")
    runs.add(1, "DUPONT", "ok")
    runs.add(2, "MARTIN", "no such outcome")
    assert runs.cells() == {("purge", "ok"): 1, ("other", "ok"): 1, ("other", "other"): 2}
    with pytest.raises(ValueError, match="labels"):
        runs.add(1, "purge")
    with pytest.raises(KeyError):
        Metrics().counter("dmp_job_runs_total")


@given(st.lists(st.floats(min_value=0, max_value=20)))
def test_a_histogram_counts_every_value_in_the_first_bucket_that_holds_it(values: list[float]) -> None:
    metrics = Metrics()
    seconds = metrics.histogram("dmp_audit_commit_seconds")
    for value in values:
        seconds.record(value)
    lines = dict(line.rsplit(" ", 1) for line in metrics.render().splitlines() if not line.startswith("#"))
    assert seconds.count() == len(values)
    for bound in names.SECONDS if values else ():
        below = sum(value <= bound for value in values)
        assert lines[f'dmp_audit_commit_seconds_bucket{{le="{bound:g}"}}'] == str(below)


def test_each_rpc_is_counted_and_timed_under_its_own_method(process: Process) -> None:
    search = "/dmp.document.v1.DocumentService/SearchDocuments"
    assert search in names.RPC_METHODS
    calls = Calls(process.telemetry)
    for path in (search, "/made/up"):
        calls.begin(path, None).end()
    metrics = process.telemetry.metrics
    assert metrics.counter("dmp_rpc_requests_total").cells() == {(search, "OK"): 1, ("other", "OK"): 1}
    assert metrics.histogram("dmp_rpc_seconds").count(search) == 1


def test_every_call_without_a_valid_token_is_counted_and_few_are_logged(process: Process) -> None:
    security = SecurityLog(process.telemetry)
    for _ in range(100):
        security.refused("/dmp.document.v1.DocumentService/GetDocument", "TOKEN_MISSING", "gateway")
    assert process.telemetry.metrics.counter("dmp_security_refusals_total").value("TOKEN_MISSING") == 100
    assert 10 <= len(process.lines) <= 20, "ten a second"
    assert process.lines[0]["peer"] == "gateway"


def test_metrics_render_as_prometheus_text() -> None:
    metrics = Metrics()
    metrics.counter("dmp_outbox_delivered_total").add(4)
    metrics.gauge("dmp_outbox_lag_seconds", lambda: 1.5)
    metrics.histogram("dmp_client_seconds").record(0.3, "audit")
    text = metrics.render()
    for line in (
        "# HELP dmp_outbox_delivered_total Events delivered to the audit log",
        "# TYPE dmp_outbox_delivered_total counter",
        "dmp_outbox_delivered_total 4",
        "dmp_outbox_lag_seconds 1.5",
        'dmp_client_seconds_bucket{peer="audit",le="0.25"} 0',
        'dmp_client_seconds_bucket{peer="audit",le="0.5"} 1',
        'dmp_client_seconds_bucket{peer="audit",le="+Inf"} 1',
        'dmp_client_seconds_count{peer="audit"} 1',
    ):
        assert line in text.splitlines()


def test_metrics_are_collected_as_opentelemetry_points() -> None:
    metrics = Metrics()
    metrics.counter("dmp_outbox_delivered_total").add(4)
    metrics.histogram("dmp_audit_commit_seconds").record(0.3)
    (scope,) = metrics.collect(Resource.create({})).resource_metrics[0].scope_metrics
    found = {metric.name: metric.data for metric in scope.metrics}
    delivered, seconds = found["dmp_outbox_delivered_total"], found["dmp_audit_commit_seconds"]
    assert isinstance(delivered, Sum)
    assert isinstance(seconds, Histogram)
    assert delivered.data_points[0].value == 4
    assert (seconds.data_points[0].count, seconds.data_points[0].sum) == (1, 0.3)
    assert sum(seconds.data_points[0].bucket_counts) == 1


def test_every_metric_is_described_once_and_every_label_is_known() -> None:
    assert set(names.METRICS) == {name for kind in get_args(names.MetricName) for name in get_args(kind) or (kind,)}
    for name, spec in names.METRICS.items():
        assert set(spec.labels) <= set(get_args(names.Label))
        assert name.endswith("_total") == (name in get_args(names.CounterName))
        assert bool(spec.buckets) == (name in get_args(names.HistogramName))


def test_every_methods_audit_action_is_registered() -> None:
    actions = {
        method.GetOptions().Extensions[access_pb2.access].audit_action
        for file in (audit_pb2, consent_pb2, rights_pb2, document_pb2, identity_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert actions - {""} <= names.AUDIT_ACTIONS
