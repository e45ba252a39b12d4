"""What lets an actor into a dossier, as the trail says it (dmp.audit.v1.AccessBasis). Pure."""

from __future__ import annotations

from dmp.audit.v1 import audit_pb2
from services.consent.acting import NORMAL, REGULATION, Actor


def let_in_by(actor: Actor, *, attending: bool, held: bool) -> int:
    """What lets an actor in: himself, the emergency, his role of MT, or an authorisation that he, or his structure,
    holds. Unspecified where it is none of these, as for asking how one stands."""
    if actor.in_person:
        return audit_pb2.ACCESS_BASIS_REPRESENTATIVE if actor.is_representative else audit_pb2.ACCESS_BASIS_PATIENT
    if actor.mode != NORMAL:
        return audit_pb2.ACCESS_BASIS_REGULATION if actor.mode == REGULATION else audit_pb2.ACCESS_BASIS_BREAK_GLASS
    if attending:
        return audit_pb2.ACCESS_BASIS_ATTENDING_PHYSICIAN
    return audit_pb2.ACCESS_BASIS_AUTHORIZATION if held else audit_pb2.ACCESS_BASIS_UNSPECIFIED
