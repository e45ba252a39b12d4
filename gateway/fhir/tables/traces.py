"""The trail: BALP on ITI-81, ITI-20, and the receipt of an event."""

from __future__ import annotations

from typing import Final

from dmp.audit.v1 import audit_pb2 as audit
from gateway.fhir import traces
from gateway.fhir.interaction import Interaction, search_by_get_and_post
from gateway.fhir.rpcs import AUDIT, Rpc

LIST: Final = Rpc(f"{AUDIT}/ListEvents", audit.ListEventsRequest, audit.ListEventsResponse)
GET: Final = Rpc(f"{AUDIT}/GetEvent", audit.GetEventRequest, audit.GetEventResponse)
RECORD: Final = Rpc(f"{AUDIT}/RecordEvent", audit.RecordEventRequest, audit.RecordEventResponse)
RECEIPT: Final = Rpc(f"{AUDIT}/GetReceipt", audit.GetReceiptRequest, audit.GetReceiptResponse)

TABLE: Final = (
    *search_by_get_and_post(
        "trace-search", "AuditEvent", "ITI-81", LIST,
        "ITI-81: what happened in a dossier, newest first, as far as the caller may see it; the search is traced too.",
        traces.PARAMETERS,
    ),
    Interaction("trace-read", "GET", "/AuditEvent/{id}", "AuditEvent", "read", "ITI-81", GET, "One event."),
    Interaction(
        "trace-receipt", "GET", "/AuditEvent/{id}/$receipt", "AuditEvent", "operation", "ITI-81", RECEIPT,
        "The proof that an event is in the log (c2sp.org/tlog-proof), with the keys to check it with.",
    ),
    Interaction(
        "trace-record", "POST", "/AuditEvent", "AuditEvent", "create", "ITI-20", RECORD,
        "ITI-20: an event that happened in the partner's own software; one patient each.",
        body="resource", accepts=("AuditEvent",),
    ),
)  # fmt: skip
