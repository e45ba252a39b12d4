"""The RPCs of the audit service: authorise, call the use case, map. No rule and no SQL here."""

from __future__ import annotations

from google.rpc import status_pb2

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from services.audit.append import AuditLog, Receipt
from services.audit.listing import Reader, TrailReader
from services.audit.rules import SYSTEM_HEALTH_ID, trail_filter
from services.runtime.checks import AccessChecks, refusal
from services.runtime.context import Call
from services.runtime.errors import DmpError, to_status
from services.runtime.identifiers import dossier_name
from services.runtime.trail import Trail, build_event
from services.runtime.validation import validate

PRODUCER = "audit"
"""The producer of this service's own events, which no certificate states."""


class AuditService:
    """dmp.audit.v1.AuditService."""

    def __init__(self, log: AuditLog, reader: TrailReader, checks: AccessChecks, trail: Trail) -> None:
        """`trail` is where this service's own events go: the log itself (`own_trail`)."""
        self._log = log
        self._reader = reader
        self._checks = checks
        self._trail = trail

    async def BatchAppendEvents(
        self, request: audit_pb2.BatchAppendEventsRequest, call: Call
    ) -> audit_pb2.BatchAppendEventsResponse:
        """Append the events of a service, under the name that its certificate states."""
        return _response(await self._log.append(call.peer, request, call.remaining()))

    async def ListEvents(self, request: audit_pb2.ListEventsRequest, call: Call) -> audit_pb2.ListEventsResponse:
        """A page of a dossier's trail, as far as consent lets the caller see; recorded before it is answered."""
        decision = await self._checks.check(call, call.health_id, consent_pb2.ACTION_READ_TRACES)
        visible = trail_filter(decision.filter.traces) if decision.permitted else None
        try:
            if visible is None:
                raise refusal(decision)
            validate(request)
            subject = call.actor.subject
            before = self._reader.position(request.page_token, call.health_id, subject)
            response = await self._reader.page(Reader(call.health_id, subject, visible), before, request.page_size)
        except DmpError as error:
            outcome = audit_pb2.OUTCOME_DENIED if visible is None else audit_pb2.OUTCOME_REJECTED
            await self._trail.refuse(call, error, outcome=outcome, epoch=decision.epoch)
            raise
        event = build_event(
            call, outcome=audit_pb2.OUTCOME_SUCCESS, epoch=decision.epoch, result_count=len(response.events)
        )
        await self._trail.record(event, call.remaining())
        return response


def own_trail(log: AuditLog) -> Trail:
    """The trail of the audit service itself: straight into its log, without a call.

    What happens about a dossier whose key is destroyed can no longer be sealed with the dossier: it goes among the
    events about none, and names the dossier as its object.
    """

    async def append(events: list[audit_pb2.AuditEvent]) -> list[Receipt]:
        receipts = await log.append(PRODUCER, audit_pb2.BatchAppendEventsRequest(events=events))
        homeless = [number for number, receipt in enumerate(receipts) if _destroyed(receipt)]
        if homeless:
            moved = [_about_no_dossier(events[number]) for number in homeless]
            again = await log.append(PRODUCER, audit_pb2.BatchAppendEventsRequest(events=moved))
            for number, receipt in zip(homeless, again, strict=True):
                receipts[number] = receipt
        return receipts

    return Trail(append)


def _destroyed(receipt: Receipt) -> bool:
    return isinstance(receipt, DmpError) and receipt.reason == reasons.ERROR_REASON_CONTENT_DESTROYED


def _about_no_dossier(event: audit_pb2.AuditEvent) -> audit_pb2.AuditEvent:
    moved = audit_pb2.AuditEvent()
    moved.CopyFrom(event)
    moved.objects.insert(0, dossier_name(event.health_id))
    moved.health_id = SYSTEM_HEALTH_ID
    return moved


def _response(receipts: list[Receipt]) -> audit_pb2.BatchAppendEventsResponse:
    """The results in order. Events of one failed log share their error, which is then made a status once."""
    response = audit_pb2.BatchAppendEventsResponse()
    statuses: dict[int, status_pb2.Status] = {}
    for receipt in receipts:
        if isinstance(receipt, DmpError):
            status = statuses.get(id(receipt))
            if status is None:
                status = statuses[id(receipt)] = to_status(receipt)
            response.results.add(status=status)
        else:
            response.results.add(receipt=receipt)
    return response
