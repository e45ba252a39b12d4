"""Audit events of what the gateway itself does or refuses: about clients and sign-ins, not about a dossier's content.

A change puts its event into the outbox, in its own transaction; a refusal goes straight to the trail. Nothing here
knows HTTP or gRPC.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from google.protobuf import timestamp_pb2

from dmp.audit.v1 import audit_pb2
from dmp.common.v1.context_pb2 import ActingContext
from services.runtime.identifiers import uuid7
from services.runtime.names import AuditAction
from services.runtime.outbox import OutboxRow
from services.runtime.trail import Trail

_TRACE_TIMEOUT = 5.0


def event(
    actor: ActingContext, action: AuditAction, reason: int = 0, objects: Sequence[str] = ()
) -> audit_pb2.AuditEvent:
    """What `actor` did or, with a reason, was refused; about no dossier."""
    now = timestamp_pb2.Timestamp()
    now.GetCurrentTime()
    return audit_pb2.AuditEvent(
        event_id=uuid7().bytes,
        event_time=now,
        action=action,
        actor=actor,
        objects=objects,
        outcome=audit_pb2.OUTCOME_DENIED if reason else audit_pb2.OUTCOME_SUCCESS,
        reason=reason,  # type: ignore[arg-type]
    )


def outbox_row(told: audit_pb2.AuditEvent) -> OutboxRow:
    """An event as a row of the outbox."""
    return OutboxRow(told.health_id, uuid.UUID(bytes=told.event_id), told.SerializeToString())


class Refusals:
    """Makes refusals durable in the trail before they are answered."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail

    async def record(self, actor: ActingContext, action: AuditAction, reason: int) -> None:
        """Return when it is durable; AUDIT_UNAVAILABLE when it cannot be made so."""
        await self._trail.record(event(actor, action, reason), _TRACE_TIMEOUT)
