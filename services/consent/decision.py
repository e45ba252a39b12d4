"""The decision: may this actor do this in this dossier, and how much may it then see. Pure; no I/O, no clock.

Rules, in this order (domain §3): the acting context is whole and its token allows this dossier; the dossier exists;
a block always wins, whatever the mode; the dossier is open; the cell of the rights table; an emergency mode has its
reason and is not opposed; in normal mode, reading needs a valid authorisation (the professional's or the structure's).
What is not stated is no.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.acting import BREAK_GLASS, NORMAL, REGULATION, Actor
from services.consent.functional_rights import Function, FunctionalRights, Right
from services.consent.values import Facts

_READ_CONTENT: Final = Function("TD3.2", "read_not_masked")
_READ_MASKED: Final = Function("TD3.2", "read_masked_ps")
_READ_INVISIBLE: Final = Function("TD3.2", "read_invisible_patient_or_rep")
_READ_TRACES: Final = Function("TRACE", "read_traces")
CHECK_DOSSIER: Final = Function("TD0.2", "test_existence_and_check_auth")

# The cells that give an action, tried in order, and the words that give it. A word whose condition the filter cannot
# carry (such as `patient_document_types_only`) gives nothing.
_GIVEN_BY: Final[dict[int, tuple[tuple[Function, ...], frozenset[Right]]]] = {
    pb.ACTION_SUBMIT: (
        (Function("TD2.1", "submit"), Function("TD2.2", "submit_by_cpe")),
        frozenset({Right.YES, Right.IMPUTED_TO_STRUCTURE}),
    ),
    pb.ACTION_SEARCH: (
        (Function("TD3.1", "search_metadata"),),
        frozenset({Right.YES, Right.IF_VISIBLE_TO_CALLER}),
    ),
    pb.ACTION_READ: ((_READ_CONTENT,), frozenset({Right.YES})),
    pb.ACTION_SEARCH_REFERENCE: (
        (Function("TD3.1", "search_reference"),),
        frozenset({Right.YES, Right.REFERENCE_ONLY}),
    ),
    pb.ACTION_READ_TRACES: (
        (_READ_TRACES,),
        frozenset({Right.YES, Right.OWN_ACTIONS_ONLY, Right.WITHOUT_SECRET_CONNECTIONS}),
    ),
    pb.ACTION_READ_ADMINISTRATIVE: ((Function("TD1.3a", "read_admin_data"),), frozenset({Right.YES})),
}

# Feeding, and the look-up that feeders need, can't be opposed and need no authorisation (domain §2 and §3).
_FEEDING: Final = frozenset({pb.ACTION_SUBMIT, pb.ACTION_SEARCH_REFERENCE})

_TRACES: Final = {
    Right.YES: pb.TRACE_VIEW_ALL,
    Right.WITHOUT_SECRET_CONNECTIONS: pb.TRACE_VIEW_WITHOUT_SECRET,
    Right.OWN_ACTIONS_ONLY: pb.TRACE_VIEW_OWN,
}


@dataclass(frozen=True, slots=True)
class Filter:
    """What a permitted actor may know of (dmp.consent.v1.Filter, field by field)."""

    denied_type_codes: tuple[str, ...]
    masked: int
    content_readable: bool
    patient_view: bool
    representative_view: bool
    traces: int
    imputed_structure: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Yes with a filter, or no with a reason (an ErrorReason). `epoch` is the dossier's, 0 without dossier."""

    reason: int | None
    epoch: int
    filter: Filter | None

    @property
    def permitted(self) -> bool:
        """Whether the answer is yes."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class Standing:
    """The caller's own standing on a dossier (TD0.2); `state` is a dmp.consent.v1.AuthorizationState."""

    state: int
    attending_physician: bool
    expires_at: datetime | None


def decide(
    actor: Actor, action: int, health_id: int, facts: Facts | None, rights: FunctionalRights, now: datetime
) -> Decision:
    """The decision on one access. `facts` is None where there is no dossier."""
    refusal = refuse_entry(actor, health_id, facts)
    if refusal is not None or facts is None:
        return Decision(refusal, 0 if facts is None else facts.epoch, None)
    if not facts.is_open:
        return Decision(reasons.ERROR_REASON_DOSSIER_CLOSED, facts.epoch, None)
    context = context_of(actor, facts, now)
    right = _given(action, actor, context, rights)
    if right is None:
        return Decision(reasons.ERROR_REASON_RIGHT_DENIED, facts.epoch, None)
    refusal = _emergency(actor, action, facts) if actor.mode != NORMAL else _authorisation(actor, action, facts, now)
    if refusal is not None:
        return Decision(refusal, facts.epoch, None)
    structure = actor.structure if right is Right.IMPUTED_TO_STRUCTURE else ""
    return Decision(None, facts.epoch, _filter(rights, actor, action, context, facts.masked_in_emergency, structure))


def refuse_entry(actor: Actor, health_id: int, facts: Facts | None) -> int | None:
    """Why this actor gets nowhere near this dossier, whatever it wants; None if it may ask."""
    if not actor.complete:
        return reasons.ERROR_REASON_ACTING_CONTEXT_INVALID
    if actor.patient not in (0, health_id):
        return reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH
    if facts is None:
        return reasons.ERROR_REASON_DOSSIER_NOT_FOUND
    if facts.blocked:
        return reasons.ERROR_REASON_BLOCKED
    return None


def context_of(actor: Actor, facts: Facts | None, now: datetime) -> str:
    """The actor's row of the rights table in this dossier: the MT's where it is one, with a valid authorisation."""
    if (
        actor.attending_context
        and facts is not None
        and facts.attending_physician
        and facts.professional_until is not None
        and facts.professional_until > now
    ):
        return actor.attending_context
    return actor.context


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


def refuse_without_reason(actor: Actor) -> int | None:
    """Break-glass needs its reason, even to ask whether a dossier exists."""
    if actor.mode == BREAK_GLASS and not actor.states_reason:
        return reasons.ERROR_REASON_ACTING_CONTEXT_INVALID
    return None


def _given(action: int, actor: Actor, context: str, rights: FunctionalRights) -> Right | None:
    """The word of the table that gives the action, None when nothing does."""
    rule = _GIVEN_BY.get(action)
    if rule is None or not context or (action == pb.ACTION_SUBMIT and not actor.may_feed):
        return None
    functions, words = rule
    for function in functions:
        right = rights.right(function, context)
        if right in words:
            return right
    return None


def _emergency(actor: Actor, action: int, facts: Facts) -> int | None:
    refusal = refuse_without_reason(actor)
    if refusal is not None:
        return refusal
    opposed = facts.regulation_opposed if actor.mode == REGULATION else facts.break_glass_opposed
    return reasons.ERROR_REASON_EMERGENCY_OPPOSED if opposed and action not in _FEEDING else None


def _authorisation(actor: Actor, action: int, facts: Facts, now: datetime) -> int | None:
    if action in _FEEDING or actor.in_person:
        return None
    own, structure = facts.professional_until, facts.structure_until
    if (own is not None and own > now) or (structure is not None and structure > now):
        return None
    if own is None and structure is None:
        return reasons.ERROR_REASON_AUTHORIZATION_MISSING
    return reasons.ERROR_REASON_AUTHORIZATION_EXPIRED


def _filter(
    rights: FunctionalRights, actor: Actor, action: int, context: str, masked_in_emergency: bool, structure: str
) -> Filter:
    # Patients and structures carry no profession: no type is denied to them.
    profession = actor.profession if actor.professional else ""
    shared = _shared_filter(
        rights, context, profession, action == pb.ACTION_READ_TRACES, masked_in_emergency, actor.is_representative
    )
    if not structure:
        return shared
    return Filter(
        shared.denied_type_codes,
        shared.masked,
        shared.content_readable,
        shared.patient_view,
        shared.representative_view,
        shared.traces,
        structure,
    )


@lru_cache(maxsize=1024)
def _shared_filter(
    rights: FunctionalRights,
    context: str,
    profession: str,
    traces: bool,
    masked_in_emergency: bool,
    is_representative: bool,
) -> Filter:
    """The filter of everyone in the same row and profession; there are few, so each is made once."""
    hides_invisible = rights.right(_READ_INVISIBLE, context) is not Right.YES
    in_person = context.startswith(("patient/", "representative/"))
    return Filter(
        denied_type_codes=rights.denied_types(profession) if profession else (),
        masked=_masked(rights.right(_READ_MASKED, context), masked_in_emergency),
        content_readable=rights.right(_READ_CONTENT, context) is Right.YES,
        patient_view=hides_invisible,
        representative_view=hides_invisible and (is_representative or not in_person),
        traces=_TRACES.get(rights.right(_READ_TRACES, context), pb.TRACE_VIEW_UNSPECIFIED)
        if traces
        else pb.TRACE_VIEW_UNSPECIFIED,
        imputed_structure="",
    )


def _masked(right: Right, allowed_in_emergency: bool) -> int:
    if right is Right.YES or (right is Right.IF_PATIENT_ALLOWED and allowed_in_emergency):
        return pb.MASKED_VIEW_ALL
    return pb.MASKED_VIEW_OWN if right is Right.OWN_DOCUMENTS_ONLY else pb.MASKED_VIEW_NONE
