"""How a caller stands on a dossier (TD0.2): authorised, expired, forbidden or none, and whether as MT. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dmp.consent.v1 import consent_pb2 as pb
from services.consent.acting import Actor
from services.consent.decision import context_of
from services.consent.values import Facts


@dataclass(frozen=True, slots=True)
class Standing:
    """The caller's own standing on a dossier (TD0.2); `state` is a dmp.consent.v1.AuthorizationState."""

    state: int
    attending_physician: bool
    expires_at: datetime | None


def standing(actor: Actor, facts: Facts, now: datetime) -> Standing:
    """What TD0.2 tells the caller about itself. A patient or representative needs no authorisation."""
    if facts.blocked:
        return Standing(pb.AUTHORIZATION_STATE_FORBIDDEN, attending_physician=False, expires_at=None)
    if actor.in_person:
        return Standing(pb.AUTHORIZATION_STATE_VALID, attending_physician=False, expires_at=None)
    known = [until for until in (facts.professional_until, facts.structure_until) if until is not None]
    if not known:
        return Standing(pb.AUTHORIZATION_STATE_NONE, attending_physician=False, expires_at=None)
    until = max(known)
    state = pb.AUTHORIZATION_STATE_VALID if until > now else pb.AUTHORIZATION_STATE_EXPIRED
    attending = actor.attending_context != "" and context_of(actor, facts, now) == actor.attending_context
    return Standing(state, attending, until)
