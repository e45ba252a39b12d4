"""Recording what happened: events built from the call being served, durable before an answer leaves.

Reads and refusals go straight to the log (`record` returns when they are durable there); writes put
their event into the owner's outbox in the same commit (`event` builds it). There is no third way.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

import grpc
import structlog
from google.protobuf import timestamp_pb2

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from services.runtime import faults, wire
from services.runtime.coalescer import Coalescer
from services.runtime.context import Call
from services.runtime.errors import DmpError, from_status, unavailable
from services.runtime.identifiers import dossier_name, uuid7_bytes
from services.runtime.outbox import OutboxRow
from services.runtime.pace import PACE
from services.runtime.wire import varint

Append = Callable[[list[audit_pb2.AuditEvent]], Awaitable[Sequence[audit_pb2.AppendReceipt | DmpError]]]
AppendWritten = Callable[[list[bytes]], Awaitable[Sequence[audit_pb2.AppendReceipt | DmpError]]]
"""As `Append`, of serialized events."""

UNDECIDED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
    }
)
"""Codes of errors that say nothing about the request: counted and logged, not in the trail."""
_BASES: Final[Mapping[int, int]] = {
    context_pb2.ACTOR_KIND_PATIENT: audit_pb2.ACCESS_BASIS_PATIENT,
    context_pb2.ACTOR_KIND_REPRESENTATIVE: audit_pb2.ACCESS_BASIS_REPRESENTATIVE,
    context_pb2.ACTOR_KIND_SYSTEM: audit_pb2.ACCESS_BASIS_LAW,
    context_pb2.ACTOR_KIND_OPERATOR: audit_pb2.ACCESS_BASIS_LAW,
}
_DENIED = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})

_log = structlog.get_logger("trail")


def build_event(
    call: Call,
    *,
    outcome: audit_pb2.Outcome.ValueType,
    health_id: int = 0,
    reason: int = 0,
    objects: Sequence[str] = (),
    epoch: int = 0,
    result_count: int = 0,
    changes: Sequence[audit_pb2.AttributeChange] = (),
    action: str = "",
    actor: ActingContext | None = None,
    basis: int = audit_pb2.ACCESS_BASIS_UNSPECIFIED,
) -> audit_pb2.AuditEvent:
    """The event of a call; `action` and `actor` default to the method's and the caller's.

    `basis` is that of consent's decision. Without one, it is what kind of actor it is that tells why he may.
    """
    now = time.time_ns()
    who = actor if actor is not None else call.actor
    if not basis and outcome == audit_pb2.OUTCOME_SUCCESS:
        basis = _BASES.get(who.actor_kind, audit_pb2.ACCESS_BASIS_UNSPECIFIED)
    return audit_pb2.AuditEvent(
        event_id=uuid7_bytes(),
        event_time=timestamp_pb2.Timestamp(seconds=now // 1_000_000_000, nanos=now % 1_000_000_000),
        health_id=health_id or call.health_id,
        action=action or call.method.audit_action,
        transaction=call.method.transaction,
        actor=who,
        objects=objects,
        outcome=outcome,
        reason=reason,  # type: ignore[arg-type]
        epoch=epoch,
        request_id=call.request_id,
        trace_id=call.trace_id,
        changes=changes,
        result_count=result_count,
        network_address=call.address,
        basis=basis,  # type: ignore[arg-type]
    )


def served_event(call: Call, objects: Sequence[str], epoch: int, basis: int) -> bytes:
    """`build_event` of a permitted access to the call's own dossier, serialized: a third of the time."""
    now = time.time_ns()
    actor, request_id = call.actor, call.request_id.encode()
    who, method = actor.SerializeToString(), call.method
    if not basis:
        basis = _BASES.get(actor.actor_kind, audit_pb2.ACCESS_BASIS_UNSPECIFIED)
    seconds = b"\x08%b\x10%b" % (varint(now // 1_000_000_000), varint(now % 1_000_000_000))
    address = call.address
    return b"".join(
        (
            b"\x0a\x10%b\x12%c%b\x18%b" % (uuid7_bytes(), len(seconds), seconds, varint(call.health_id)),
            _kind_of_event(method.audit_action, method.transaction),
            b"\x32%b%b" % (varint(len(who)), who),
            *[wire.text(b"\x3a", name) for name in objects],
            b"\x50%b\x5a%b%b" % (varint(epoch), varint(len(request_id)), request_id),
            wire.short_text(b"\x62", call.trace_id),
            wire.text(b"\x82\x01", address) if address else b"",
            b"\x88\x01%b" % varint(basis),
        )
    )


@lru_cache(maxsize=256)
def _kind_of_event(action: str, transaction: str) -> bytes:
    """The fields that all permitted accesses by one method share."""
    return audit_pb2.AuditEvent(
        action=action, transaction=transaction, outcome=audit_pb2.OUTCOME_SUCCESS
    ).SerializeToString()


class Trail:
    """Appends events through a coalescer: many calls, one durable batch."""

    def __init__(
        self,
        append: Append,
        append_written: AppendWritten | None = None,
        *,
        max_batch: int = 256,
        max_pending: int = 8192,
    ) -> None:
        """`append_written` is the way of events that are bytes already; parsed, they go by `append`."""
        self._append_written = append_written or _parsing(append)
        self._coalescer: Coalescer[audit_pb2.AuditEvent, audit_pb2.AppendReceipt] = Coalescer(
            "trail", append, max_batch=max_batch, max_pending=max_pending, pace=PACE
        )

    async def record(self, event: audit_pb2.AuditEvent, timeout: float | None = None) -> audit_pb2.AppendReceipt:
        """Return when the event is durable; AUDIT_UNAVAILABLE when it cannot be made so."""
        faults.point("record.before")
        try:
            receipt = await self._coalescer.submit(event, timeout=timeout)
        except DmpError as error:
            _log.warning("event_not_recorded", action=event.action, reason=error.reason_name)
            raise self._not_recorded(error) from error
        faults.point("record.after")
        return receipt

    async def record_all(self, events: list[bytes]) -> list[DmpError | None]:
        """As `record` for serialized events that came together: one batch, sent now, of these alone. The error of each,
        None of one that is durable."""
        if not events:
            return []
        faults.point("record.before")
        try:
            outcomes: Sequence[audit_pb2.AppendReceipt | DmpError] = await self._append_written(events)
            if len(outcomes) != len(events):
                raise unavailable("trail")
        except DmpError as error:
            outcomes = [error] * len(events)
        faults.point("record.after")
        failed = [outcome for outcome in outcomes if isinstance(outcome, DmpError)]
        if not failed:
            return [None] * len(events)
        _log.warning("events_not_recorded", count=len(failed), reason=failed[0].reason_name)
        return [self._not_recorded(outcome) if isinstance(outcome, DmpError) else None for outcome in outcomes]

    @staticmethod
    def _not_recorded(error: DmpError) -> DmpError:
        """What the caller is told of an event that has no place in the log."""
        if error.reason in (reasons.ERROR_REASON_DEADLINE_EXCEEDED, reasons.ERROR_REASON_OVERLOADED):
            return error
        return DmpError(reasons.ERROR_REASON_AUDIT_UNAVAILABLE)

    async def refuse(
        self,
        call: Call,
        error: DmpError,
        *,
        outcome: audit_pb2.Outcome.ValueType = audit_pb2.OUTCOME_UNSPECIFIED,
        reason: int = 0,
        health_id: int = 0,
        objects: Sequence[str] = (),
        epoch: int = 0,
    ) -> None:
        """Record that `call` is refused by `error`; return when that is durable, so that it may be answered.

        The outcome is DENIED for an error of permission and REJECTED for a wrong request, unless given; `reason` is the
        true one where the caller is told another. Not recorded: what could not be decided (it is no refusal), and the
        calls of services, whose items belong to calls that are recorded where they came in.
        """
        if error.code in UNDECIDED or not call.actor.subject:
            return
        if error.reason == reasons.ERROR_REASON_DOSSIER_DESTROYED:
            # Nothing can be sealed with that dossier any more: among the events about none, with the dossier as object.
            objects = objects or (dossier_name(health_id or call.health_id),)
            call, health_id = call.routed(call.request_id, 0), 0
        if outcome == audit_pb2.OUTCOME_UNSPECIFIED:
            outcome = audit_pb2.OUTCOME_DENIED if error.code in _DENIED else audit_pb2.OUTCOME_REJECTED
        event = build_event(
            call,
            outcome=outcome,
            reason=reason or error.reason,
            health_id=health_id,
            objects=objects,
            epoch=epoch,
        )
        await self.record(event, call.remaining())

    async def close(self) -> None:
        """Refuse new events, finish those accepted."""
        await self._coalescer.close()


def _parsing(append: Append) -> AppendWritten:
    async def written(events: list[bytes]) -> Sequence[audit_pb2.AppendReceipt | DmpError]:
        return await append([audit_pb2.AuditEvent.FromString(event) for event in events])

    return written


def deliver_through(append: AppendWritten) -> Callable[[Sequence[OutboxRow]], Awaitable[None]]:
    """How an outbox's relay delivers: to the audit log, and done when each event has its place in it."""

    async def deliver(rows: Sequence[OutboxRow]) -> None:
        for result in await append([row.payload for row in rows]):
            if isinstance(result, DmpError):
                raise result

    return deliver


def receipts(response: audit_pb2.BatchAppendEventsResponse) -> list[audit_pb2.AppendReceipt | DmpError]:
    """The results of an append as the coalescer wants them."""
    return [
        result.receipt if result.WhichOneof("outcome") == "receipt" else from_status(result.status)
        for result in response.results
    ]
