"""The RPCs of the audit service, put together: of the trail, of its operation, and the appending of events."""

from __future__ import annotations

from dataclasses import dataclass

from google.rpc import status_pb2

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit.append import AuditLog, Placed, Receipt
from services.audit.checking import EntryChecker
from services.audit.entry import EntryDigests
from services.audit.listing import TrailReader
from services.audit.logs import Logs
from services.audit.notice_list import NoticeList
from services.audit.operation_rpcs import OperationRpcs
from services.audit.rules import PRODUCER, SYSTEM_HEALTH_ID
from services.audit.table_checks import TableChecker
from services.audit.trail_rpcs import TrailRpcs
from services.audit.work_list import WorkList
from services.runtime.checks import AccessChecks
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError, to_status
from services.runtime.identifiers import dossier_name
from services.runtime.paging import PageTokens
from services.runtime.postgres import Pool
from services.runtime.trail import Trail

__all__ = ["PRODUCER", "AuditService", "Parts", "own_trail"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service is made of."""

    pool: Pool
    keys: DossierKeys
    digests: EntryDigests
    tokens: PageTokens
    log: AuditLog
    logs: Logs


class AuditService(TrailRpcs, OperationRpcs):
    """dmp.audit.v1.AuditService."""

    def __init__(self, parts: Parts, reader: TrailReader, checks: AccessChecks, trail: Trail) -> None:
        """`trail` is where this service's own events go: the log itself (`own_trail`)."""
        self._log = parts.log
        self._logs = parts.logs
        self._pool = parts.pool
        self._keys = parts.keys
        self._digests = parts.digests
        self._reader = reader
        self._checks = checks
        self._trail = trail
        self._notices = NoticeList(parts.pool, parts.keys, parts.tokens)
        self._work = WorkList(parts.pool, parts.keys, parts.digests.tags, parts.tokens)
        self._checker = EntryChecker(parts.pool, parts.keys, parts.digests)
        self._tables = TableChecker(parts.pool, parts.keys, parts.digests, parts.log.log_count)
        self._tokens = parts.tokens

    async def BatchAppendEvents(
        self, request: audit_pb2.BatchAppendEventsRequest, call: Call
    ) -> audit_pb2.BatchAppendEventsResponse:
        """Append the events of a service, under the name that its certificate states."""
        return _response(await self._log.place(call.peer, request, call.remaining()))


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


def _response(placed: list[Placed]) -> audit_pb2.BatchAppendEventsResponse:
    """The results in order. Events of one failed log share their error, which is then made a status once."""
    response = audit_pb2.BatchAppendEventsResponse()
    add = response.results.add
    statuses: dict[int, status_pb2.Status] = {}
    for outcome in placed:
        if isinstance(outcome, DmpError):
            status = statuses.get(id(outcome))
            if status is None:
                status = statuses[id(outcome)] = to_status(outcome)
            add(status=status)
        else:
            receipt = add().receipt
            receipt.log_id, receipt.leaf_index = outcome
    return response
