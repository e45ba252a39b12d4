"""The audit service's RPCs by name, on a log of its own, and events worth asking for."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

from google.protobuf.message import Message

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2, context_pb2
from services.audit.derivation import Derivation, SameNames
from services.audit.detectors import load
from services.runtime.access import methods_of
from services.runtime.context import Call
from services.runtime.identifiers import dossier_name, format_health_id
from services.runtime.jobs import Lease
from services.runtime.metrics import Metrics
from tests.audit_log import DOSSIER, PHYSICIAN, event, keyring
from tests.integration.test_audit_listing import ServiceUnderTest

METHODS = methods_of(audit_pb2.DESCRIPTOR.services_by_name.values())
NURSE = "899700333444"
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
PATIENT = context_pb2.ActingContext(
    actor_kind=context_pb2.ACTOR_KIND_PATIENT,
    subject=format_health_id(DOSSIER),
    patient_health_id=DOSSIER,
    client_id="portal",
)
OPERATOR = context_pb2.ActingContext(
    actor_kind=context_pb2.ACTOR_KIND_OPERATOR, subject="operator-1", client_id="console"
)
DOCTOR = context_pb2.ActingContext(
    actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL, subject=PHYSICIAN, profession="10", client_id="software"
)


OTHER = context_pb2.ActingContext(actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL, subject=NURSE)


class Asked(ServiceUnderTest):
    """The service's RPCs, by name."""

    async def ask(
        self, method: str, request: Message, actor: context_pb2.ActingContext = PATIENT, health_id: int = DOSSIER
    ) -> Any:
        return await getattr(self.service, method)(request, self.call(method, request, actor, health_id))

    def call(self, method: str, request: Message, actor: context_pb2.ActingContext, health_id: int) -> Call:
        access = METHODS[f"/dmp.audit.v1.AuditService/{method}"]
        return Call(
            actor=actor,
            caller=access_pb2.CALLER_KIND_PATIENT,
            client_id=actor.client_id,
            peer="gateway",
            request_id=getattr(request, "request_id", "request-9"),
            deadline=time.monotonic() + 20,
            traceparent="",
            method=access,
            health_id=health_id if access.dossier_field else 0,
        )

    async def derive(self, same_names: SameNames | None = None, log_id: int = 0) -> None:
        derivation = self.derivation(same_names, log_id)
        while await derivation.step():
            pass

    def derivation(self, same_names: SameNames | None = None, log_id: int = 0) -> Derivation:
        """What looks at the log, not started."""
        log, lease = self.log, Lease(self.log.pool, f"derive-{log_id}")
        return Derivation(log.pool, log.keys, keyring(), log_id, load(), Metrics(), lease, same_names=same_names)


_BASES: dict[int, int] = {
    context_pb2.ACCESS_MODE_NORMAL: audit_pb2.ACCESS_BASIS_AUTHORIZATION,
    context_pb2.ACCESS_MODE_BREAK_GLASS: audit_pb2.ACCESS_BASIS_BREAK_GLASS,
    context_pb2.ACCESS_MODE_REGULATION: audit_pb2.ACCESS_BASIS_REGULATION,
}


def happened(
    action: str = "document.read",
    *,
    at: dt.datetime = NOW,
    subject: str = PHYSICIAN,
    name: str = "Claire Martin",
    structure: str = "1750000001",
    structure_name: str = "Hôpital Bellevue",
    mode: int = context_pb2.ACCESS_MODE_NORMAL,
    reason: int = 0,
    said: str = "",
    health_id: int = DOSSIER,
    secret: bool = False,
    objects: tuple[str, ...] = (),
    basis: int | None = None,
) -> audit_pb2.AuditEvent:
    """`basis`: what let in, that of the mode unless given."""
    made = event(health_id, subject=subject, action=action, secret=secret)
    made.event_time.FromDatetime(at)
    made.actor.subject_name, made.actor.structure = name, structure
    made.actor.structure_name, made.actor.access_mode = structure_name, mode  # type: ignore[assignment]
    made.actor.break_glass_reason = said
    made.basis = (0 if reason else _BASES[mode]) if basis is None else basis  # type: ignore[assignment]
    made.objects.extend(objects)
    if reason:
        made.outcome, made.reason = audit_pb2.OUTCOME_DENIED, reason  # type: ignore[assignment]
    return made


def listing(**asked: Any) -> audit_pb2.ListEventsRequest:
    return audit_pb2.ListEventsRequest(parent=dossier_name(DOSSIER), filter=audit_pb2.EventFilter(**asked))
