"""Who acts, from the terms of a service's tests into those of the running platform. Pure: no I/O."""

from __future__ import annotations

from dmp.common.v1 import context_pb2
from dmp.common.v1.context_pb2 import ActingContext
from ops.local.registrations import INTERNAL, OPERATOR, PARTNER, PORTAL
from ops.session import Statement

_SOFTWARE = {
    context_pb2.ACTOR_KIND_PATIENT: PORTAL,
    context_pb2.ACTOR_KIND_REPRESENTATIVE: PORTAL,
    context_pb2.ACTOR_KIND_SYSTEM: INTERNAL,
    context_pb2.ACTOR_KIND_OPERATOR: OPERATOR,
}
_AUTHENTICATIONS = {
    context_pb2.AUTHENTICATION_MODE_INDIRECT: "indirect",
    context_pb2.AUTHENTICATION_MODE_INDIRECT_STRONG: "indirect_strong",
}
_MODES = {
    context_pb2.ACCESS_MODE_BREAK_GLASS: "break_glass",
    context_pb2.ACCESS_MODE_REGULATION: "regulation",
}


def statement(actor: ActingContext) -> Statement:
    """The same actor, as software states it."""
    kind = context_pb2.ActorKind.Name(actor.actor_kind).removeprefix("ACTOR_KIND_").lower()
    fields: dict[str, object] = {"actor": kind, "subject": actor.subject}
    if actor.actor_kind == context_pb2.ACTOR_KIND_PROFESSIONAL:
        fields |= {"profession": actor.profession, "purpose_of_use": actor.purpose_of_use}
        fields |= {"occupational_physician": actor.occupational_physician}
    if actor.authentication_mode in _AUTHENTICATIONS:
        fields["authentication_mode"] = _AUTHENTICATIONS[actor.authentication_mode]
    if actor.structure:
        fields["structure"] = actor.structure
    if actor.access_mode in _MODES:
        fields["access_mode"] = _MODES[actor.access_mode]
        fields["break_glass_reason"] = actor.break_glass_reason
    if actor.patient_health_id:
        fields["patient_health_id"] = actor.patient_health_id
    if actor.secret_connection:
        fields["secret_connection"] = True
    return Statement.of(_SOFTWARE.get(actor.actor_kind, PARTNER), **fields)
