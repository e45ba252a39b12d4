"""The one registry of names that the platform's telemetry and trail use. Types and tables only, no behaviour.

A metric, a label's value, a key of a log line or an attribute of a span that is not listed here does not leave a
process. So the names are literal types (a misspelt one fails the type check) and the label values are bounded. No
name here may carry personal data: none stands for an identifier, a name, a date of birth or a text of a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import grpc

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2, links_pb2
from dmp.consent.v1 import consent_pb2, rights_pb2
from dmp.document.v1 import clinical_pb2, document_pb2
from dmp.gateway.v1 import denial_pb2, partner_pb2, relay_pb2
from dmp.identity.v1 import identity_pb2

RPC_METHODS: Final = tuple(
    f"/{service.full_name}/{method.name}"
    for file in (
        identity_pb2,
        consent_pb2,
        rights_pb2,
        document_pb2,
        clinical_pb2,
        audit_pb2,
        partner_pb2,
        denial_pb2,
        relay_pb2,
        links_pb2,
    )
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
"""Every RPC of the platform, as in a request's path."""

AuditAction = Literal[
    "audit.append",
    "authorization.block",
    "authorization.expire",
    "authorization.grant",
    "authorization.list",
    "authorization.remove_attending",
    "authorization.revoke",
    "authorization.unblock",
    "clinical.imaging",
    "clinical.medications",
    "clinical.pathway",
    "clinical.reread",
    "clinical.results",
    "clinical.summaries",
    "clinical.vaccinations",
    "consent.check",
    "consent.attending",
    "consent.held",
    "consent.explain",
    "consent.history",
    "contracts.read",
    "denial.apply",
    "relay.calls",
    "content.move",
    "content.rewrap",
    "content.sweep",
    "content.verify",
    "document.archive",
    "document.change",
    "document.changes",
    "document.delete",
    "document.deprecate",
    "document.destroy",
    "document.get",
    "document.get_set",
    "document.list_folders",
    "document.list_sets",
    "document.mask",
    "document.open",
    "document.read",
    "document.resolve",
    "document.search",
    "document.show_patient",
    "document.show_representatives",
    "document.submit",
    "document.unarchive",
    "document.unmask",
    "document.upload",
    "document.versions",
    "document.waiting",
    "dossier.check",
    "dossier.close",
    "dossier.death",
    "dossier.destroy",
    "dossier.list_accessible",
    "dossier.list_recent",
    "dossier.move",
    "dossier.merge",
    "dossier.open",
    "dossier.oppose",
    "dossier.part",
    "dossier.reopen",
    "dossier.request_destruction",
    "dossier.take_in",
    "dossier.update_preferences",
    "dossier.withdraw_destruction",
    "dossier.withdraw_opposition",
    "event.report",
    "gateway.call",
    "host.list_dossiers",
    "log.adopt",
    "log.check",
    "log.read",
    "notice.read",
    "partner.register",
    "partner.resume",
    "partner.rotate",
    "partner.show",
    "partner.suspend",
    "partner.usage",
    "directory.import",
    "directory.read",
    "domain.list",
    "domain.set",
    "duplicate.decide",
    "duplicate.list",
    "keys.rotate",
    "links.apply",
    "person.compare",
    "person.contact",
    "person.create",
    "person.crossreference",
    "person.find",
    "person.history",
    "person.identifier",
    "person.insi",
    "person.link",
    "person.match",
    "person.read",
    "person.resolve",
    "person.search",
    "person.split",
    "person.unlink",
    "person.update",
    "person.verify",
    "representative.end",
    "representative.expire",
    "representative.list",
    "representative.list_represented",
    "representative.register",
    "rights.diff",
    "rights.get",
    "rights.list",
    "rights.replace",
    "session.end",
    "session.open",
    "session.theft",
    "token.introspect",
    "token.issue",
    "token.revoke",
    "trace.count",
    "trace.expire",
    "trace.export",
    "trace.read",
    "trace.receipt",
    "unusual.decide",
    "unusual.read",
]
"""What an audit event says was done; the `audit_action` of a method's access rule is one of these."""
AUDIT_ACTIONS: Final[frozenset[str]] = frozenset(get_args(AuditAction))

CounterName = Literal[
    "dmp_rpc_requests_total",
    "dmp_rpc_refusals_total",
    "dmp_client_calls_total",
    "dmp_http_requests_total",
    "dmp_security_refusals_total",
    "dmp_audit_events_total",
    "dmp_audit_integrated_total",
    "dmp_audit_unwitnessed_total",
    "dmp_audit_notices_total",
    "dmp_audit_unusual_total",
    "dmp_consent_decisions_total",
    "dmp_documents_total",
    "dmp_outbox_delivered_total",
    "dmp_outbox_failures_total",
    "dmp_outbox_parked_total",
    "dmp_job_runs_total",
    "dmp_tokens_total",
    "dmp_log_fields_dropped_total",
    "dmp_limit_refused_total",
    "dmp_unique_id_elsewhere_total",
]
HistogramName = Literal[
    "dmp_rpc_seconds",
    "dmp_client_seconds",
    "dmp_http_seconds",
    "dmp_audit_commit_seconds",
    "dmp_content_bytes",
]
GaugeName = Literal[
    "dmp_rpc_in_flight",
    "dmp_coalescer_pending",
    "dmp_outbox_lag_seconds",
    "dmp_database_connections_in_use",
    "dmp_lease_held",
    "dmp_certificate_expires_seconds",
    "dmp_limit_places",
    "dmp_limit_in_flight",
    "dmp_limit_waiting",
    "dmp_audit_checkpoint_lag_seconds",
    "dmp_audit_unintegrated_events",
    "dmp_audit_underived_events",
    "dmp_audit_set_aside_events",
]
MetricName = CounterName | HistogramName | GaugeName

Label = Literal[
    "access_mode",
    "coalescer",
    "code",
    "direction",
    "job",
    "lease",
    "log",
    "method",
    "outcome",
    "peer",
    "reason",
    "route",
    "status",
    "traffic",
]
LABEL_VALUES: Final[Mapping[Label, tuple[str, ...]]] = {
    "access_mode": ("normal", "regulation", "break_glass"),
    "code": tuple(code.name for code in grpc.StatusCode),
    "coalescer": (
        "trail",
        "consent",
        "identity",
        "documents",
        "contents",
        "dossier-keys",
        "submissions",
        "changes",
        "sequencer",
        "relay",
        "together",
        "consent-facts",
        "consent-standings",
        "identity-owners",
        "identity-registrations",
        "identity-verifications",
        "clients",
    ),
    "direction": ("in", "out"),
    "method": RPC_METHODS,
    "outcome": ("ok", "refused", "failed", "remembered"),
    "peer": ("identity", "consent", "document", "audit", "gateway"),
    "reason": tuple(name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()),  # noqa: SIM118
    "status": ("1xx", "2xx", "3xx", "4xx", "5xx"),
    "traffic": ("service", "emergency", "care", "batch"),
}
"""Labels whose values are the same everywhere. The others (`route`, `job`, …) are declared by whoever makes
the instrument. A value that was not declared counts as `other`."""
OTHER: Final = "other"

Unit = Literal["1", "s", "By"]

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ITEMS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
BYTES: Final = (1e3, 1e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3.2e7)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What a metric measures, in which unit (UCUM), by which labels; `buckets` are a histogram's upper bounds."""

    description: str
    unit: Unit
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS: Final[Mapping[MetricName, MetricSpec]] = {
    "dmp_rpc_requests_total": MetricSpec("RPCs answered", "1", ("method", "code")),
    "dmp_rpc_refusals_total": MetricSpec("RPCs answered with an error, by its reason", "1", ("method", "reason")),
    "dmp_rpc_seconds": MetricSpec("Time to answer an RPC", "s", ("method",), SECONDS),
    "dmp_rpc_in_flight": MetricSpec("RPCs being answered", "1"),
    "dmp_client_calls_total": MetricSpec("Calls to another service", "1", ("peer", "code")),
    "dmp_client_seconds": MetricSpec("Time that a call to another service took", "s", ("peer",), SECONDS),
    "dmp_http_requests_total": MetricSpec("HTTP requests answered", "1", ("route", "status")),
    "dmp_http_seconds": MetricSpec("Time to answer an HTTP request", "s", ("route",), SECONDS),
    "dmp_security_refusals_total": MetricSpec("Calls without a valid token", "1", ("reason",)),
    "dmp_audit_events_total": MetricSpec("Audit events made durable", "1"),
    "dmp_audit_integrated_total": MetricSpec("Audit events taken into the tree", "1", ("log",)),
    "dmp_audit_unwitnessed_total": MetricSpec("Checkpoints given out without enough witnesses", "1", ("log",)),
    "dmp_audit_checkpoint_lag_seconds": MetricSpec("Time since a checkpoint covered every event", "s", ("log",)),
    "dmp_audit_unintegrated_events": MetricSpec("Events that no checkpoint covers yet", "1", ("log",)),
    "dmp_audit_underived_events": MetricSpec("Events not yet counted nor looked at by detectors", "1", ("log",)),
    "dmp_audit_set_aside_events": MetricSpec("Events that could not be looked at, and are tried again", "1", ("log",)),
    "dmp_audit_notices_total": MetricSpec(
        "Notices to patients and physicians, by what became of them", "1", ("outcome",)
    ),
    "dmp_audit_unusual_total": MetricSpec("Accesses that a detector found unusual", "1"),
    "dmp_audit_commit_seconds": MetricSpec("Time of one commit of the audit sequencer", "s", (), SECONDS),
    "dmp_consent_decisions_total": MetricSpec("Access decisions", "1", ("access_mode", "outcome")),
    "dmp_documents_total": MetricSpec("Documents received and served", "1", ("direction",)),
    "dmp_content_bytes": MetricSpec("Size of documents received and served", "By", ("direction",), BYTES),
    "dmp_unique_id_elsewhere_total": MetricSpec("Documents whose uniqueId another dossier holds too", "1"),
    "dmp_coalescer_pending": MetricSpec("Items waiting for the next batch", "1", ("coalescer",)),
    "dmp_outbox_lag_seconds": MetricSpec("Age of the oldest undelivered event", "s"),
    "dmp_outbox_delivered_total": MetricSpec("Events delivered to the audit log", "1"),
    "dmp_outbox_failures_total": MetricSpec("Deliveries that failed and are tried again", "1"),
    "dmp_outbox_parked_total": MetricSpec("Events that the audit log refused, kept for a person to look at", "1"),
    "dmp_database_connections_in_use": MetricSpec("Connections of the pool in use", "1"),
    "dmp_lease_held": MetricSpec("Whether this process holds the lease", "1", ("lease",)),
    "dmp_job_runs_total": MetricSpec("Runs of periodic jobs", "1", ("job", "outcome")),
    "dmp_tokens_total": MetricSpec("Tokens presented", "1", ("outcome",)),
    "dmp_certificate_expires_seconds": MetricSpec("Time until this workload's certificate expires", "s"),
    "dmp_log_fields_dropped_total": MetricSpec("Fields kept out of the logs", "1"),
    "dmp_limit_places": MetricSpec("Calls that may be worked on at once, by the adaptive limit", "1"),
    "dmp_limit_in_flight": MetricSpec("Calls worked on, by traffic class", "1", ("traffic",)),
    "dmp_limit_waiting": MetricSpec("Calls that wait to be let in, by traffic class", "1", ("traffic",)),
    "dmp_limit_refused_total": MetricSpec("Calls pushed back before any effect, by traffic class", "1", ("traffic",)),
}

LogKey = Literal[
    # what every line has
    "event", "level", "logger", "service", "timestamp", "dropped",
    # which call
    "method", "caller", "client_id", "code", "reason", "rule", "field", "action", "request_id", "event_id", "trace_id",
    "span_id", "route", "status", "transaction", "scope", "transport", "rpc_system",
    # what went wrong
    "error", "error_type", "error_causes", "error_stack", "dependency", "state", "outcome", "signal", "exit_code",
    # how much, how long
    "attempt", "batch", "bytes", "count", "duration_ms", "epoch", "failures", "in_flight", "items", "lag_seconds",
    "limit", "pending", "retry_after", "rows", "seconds", "size", "tree_size", "workers",
    # which part of the platform
    "address", "port", "peer", "coalescer", "environment", "fault", "generation", "job", "kid", "lease", "log",
    "migration", "path", "pid", "setting", "settings", "table", "version",
]  # fmt: skip
"""Every key that a log line or a span may have. `subject`, `name`, `identifier`, `query` and the like are absent on
purpose: add a key only if no value it can ever hold says anything about a patient."""
LOG_KEYS: Final[frozenset[str]] = frozenset(get_args(LogKey))
