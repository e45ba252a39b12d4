"""What may be changed in a dossier, and by whom: opening, closing, authorising, revoking, blocking. Pure rules.

Each rule takes the dossier as locked, and gives the change or raises `Refused` (or INVALID_FIELD where the request is
wrong). Storing a change, and telling the trail of it, is `changes`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from services.consent.acting import PHYSICIAN, Actor
from services.consent.decision import context_of, refuse_entry, refuse_without_reason
from services.consent.functional_rights import Function, FunctionalRights, Right
from services.consent.values import (
    Authorization,
    CloseReason,
    ConsentRecord,
    Dossier,
    DossierState,
    Facts,
    Grantee,
    GranteeKind,
    LockedDossier,
    Refused,
)
from services.runtime.errors import invalid

_OPEN: Final = Function("TD1.1", "open")
_CLOSE: Final = Function("TD1.4", "close")
_DECLARE: Final = Function("TD0.3", "auth_self_declare")
_REMOVE: Final = Function("TD0.3", "auth_self_remove")
_AUTHORISE_OTHER: Final = Function("TD0.3", "authorise_a_professional")
_BLOCK: Final = Function("TD0.3", "block_a_professional")
_CLOCK_SKEW: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Opening:
    """A wish to open a dossier."""

    consent: ConsentRecord
    break_glass_opposed: bool
    regulation_opposed: bool


def facts_of(locked: LockedDossier | None, actor: Actor) -> Facts | None:
    """The facts about `actor` in a locked dossier."""
    if locked is None:
        return None
    dossier = locked.dossier
    own = locked.authorizations.get(actor.as_professional())
    structure = locked.authorizations.get(actor.as_structure())
    return Facts(
        is_open=dossier.state is DossierState.OPEN,
        epoch=dossier.epoch,
        break_glass_opposed=dossier.break_glass_opposed,
        regulation_opposed=dossier.regulation_opposed,
        masked_in_emergency=dossier.masked_in_emergency,
        blocked=any(party in locked.blocked for party in actor.parties()),
        professional_until=own.expires_at if own else None,
        attending_physician=own.attending_physician if own else False,
        structure_until=structure.expires_at if structure else None,
    )


def may_open(
    actor: Actor, health_id: int, locked: LockedDossier | None, rights: FunctionalRights, now: datetime
) -> None:
    """TD1.1. An actor blocked on a dossier that exists is told so."""
    facts = facts_of(locked, actor)
    refusal = refuse_entry(actor, health_id, facts)
    if refusal not in (None, reasons.ERROR_REASON_DOSSIER_NOT_FOUND):
        raise Refused(refusal, facts.epoch if facts else 0)
    _require(actor, facts, rights, now, _OPEN, Right.YES)


def open_dossier(health_id: int, opening: Opening, home_host: str, now: datetime) -> Dossier:
    """The dossier as it is opened: epoch 1, the consent with it. INVALID_FIELD if the consent lies in the future."""
    if opening.consent.collected_at > now + _CLOCK_SKEW:
        raise invalid("consent.collect_time", "consent.collected_before", "consent is collected before the opening")
    return Dossier(
        health_id=health_id,
        state=DossierState.OPEN,
        epoch=1,
        opened_at=now,
        closed_at=None,
        close_reason=None,
        break_glass_opposed=opening.break_glass_opposed,
        regulation_opposed=opening.regulation_opposed,
        masked_in_emergency=False,
        home_host=home_host,
        consent=opening.consent,
    )


def refuse_second_opening(state: DossierState, epoch: int) -> Refused:
    """Why an existing dossier is not opened: it is open already, or closed (reopening is another act)."""
    if state is DossierState.OPEN:
        return Refused(reasons.ERROR_REASON_DOSSIER_ALREADY_EXISTS, epoch)
    return Refused(reasons.ERROR_REASON_DOSSIER_CLOSED, epoch)


def may_close(
    actor: Actor,
    health_id: int,
    locked: LockedDossier | None,
    rights: FunctionalRights,
    now: datetime,
    reason: CloseReason | None,
) -> None:
    """TD1.4: the patient in person; a professional on the patient's request only."""
    facts = _enter(actor, health_id, locked)
    of_another_kind = reason in (CloseReason.DEATH, CloseReason.ERROR)
    words = (Right.YES,) if of_another_kind else (Right.YES, Right.ON_PATIENT_REQUEST)
    _require(actor, facts, rights, now, _CLOSE, *words)


def refuse_second_closing(locked: LockedDossier) -> None:
    """Closing twice is an error."""
    if locked.dossier.state is DossierState.CLOSED:
        raise Refused(reasons.ERROR_REASON_DOSSIER_ALREADY_CLOSED, locked.dossier.epoch)


def closed(dossier: Dossier, reason: CloseReason, epoch: int, now: datetime) -> Dossier:
    """The dossier as it is closed."""
    return replace(dossier, state=DossierState.CLOSED, closed_at=now, close_reason=reason, epoch=epoch)


def require_open(locked: LockedDossier) -> None:
    """Authorisations and blocks are changed in an open dossier."""
    if locked.dossier.state is not DossierState.OPEN:
        raise Refused(reasons.ERROR_REASON_DOSSIER_CLOSED, locked.dossier.epoch)


def may_authorise(
    actor: Actor,
    health_id: int,
    locked: LockedDossier | None,
    rights: FunctionalRights,
    now: datetime,
    named: Grantee | None,
    *,
    declaring: bool,
) -> Grantee | None:
    """Who is to be authorised (`declaring`) or to lose it (TD0.3); None where the patient named nobody.

    A professional acts for himself, in normal mode; a staff card declares its structure. Only the patient may name
    someone else.
    """
    facts = _enter(actor, health_id, locked)
    if actor.in_person:
        _require(actor, facts, rights, now, _AUTHORISE_OTHER, Right.YES)
        return named
    words = (Right.YES, Right.GRANTS_TO_STRUCTURE) if declaring else (Right.YES,)
    right = _require(actor, facts, rights, now, _DECLARE if declaring else _REMOVE, *words)
    own = actor.as_structure() if right is Right.GRANTS_TO_STRUCTURE else actor.as_professional()
    if named not in (None, own):
        raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, facts.epoch)
    return own


def authorise(
    actor: Actor,
    locked: LockedDossier,
    grantee: Grantee | None,
    *,
    attending_physician: bool,
    patient_consented: bool,
    now: datetime,
    validity: timedelta,
) -> Authorization:
    """The authorisation granted (TD0.3): only from NONE or EXPIRED, with the patient's consent to this very act."""
    if grantee is None:
        raise invalid("grantee", "required", "the patient names whom to authorise")
    if not actor.in_person and not patient_consented:
        raise invalid("patient_consented", "authorization.consent", "the patient's consent to this act is required")
    if attending_physician and not (actor.profession == PHYSICIAN and grantee == actor.as_professional()):
        raise invalid("attending_physician", "authorization.physician", "only a physician takes on this role, himself")
    if grantee in locked.blocked:
        raise Refused(reasons.ERROR_REASON_BLOCKED, locked.dossier.epoch)
    existing = locked.authorizations.get(grantee)
    if existing is not None and existing.expires_at > now:
        raise Refused(reasons.ERROR_REASON_AUTHORIZATION_EXISTS, locked.dossier.epoch)
    return Authorization(grantee, now, now + validity, attending_physician)


def revoke(locked: LockedDossier, grantee: Grantee | None) -> Authorization:
    """The authorisation that ends, expired ones included."""
    if grantee is None:
        raise invalid("grantee", "required", "the patient names whose authorisation ends")
    existing = locked.authorizations.get(grantee)
    if existing is None:
        raise Refused(reasons.ERROR_REASON_AUTHORIZATION_MISSING, locked.dossier.epoch)
    return existing


def may_block(
    actor: Actor, health_id: int, locked: LockedDossier | None, rights: FunctionalRights, now: datetime
) -> None:
    """Blocking and unblocking are the patient's (or representative's) own act."""
    facts = _enter(actor, health_id, locked)
    _require(actor, facts, rights, now, _BLOCK, Right.YES)


def grantee_kind_fits(grantee: Grantee) -> bool:
    """IDNPS begin with 0, 3, 5, 6 or 8, IDNST with 0 to 4 (domain §1)."""
    return grantee.id[:1] in ("03568" if grantee.kind is GranteeKind.PROFESSIONAL else "01234")


def _enter(actor: Actor, health_id: int, locked: LockedDossier | None) -> Facts:
    facts = facts_of(locked, actor)
    refusal = refuse_entry(actor, health_id, facts)
    if refusal is not None or facts is None:
        raise Refused(refusal or reasons.ERROR_REASON_DOSSIER_NOT_FOUND, facts.epoch if facts else 0)
    return facts


def _require(
    actor: Actor, facts: Facts | None, rights: FunctionalRights, now: datetime, function: Function, *words: Right
) -> Right:
    """The word of the cell, which must be one of `words`."""
    epoch = facts.epoch if facts else 0
    missing_reason = refuse_without_reason(actor)
    if missing_reason is not None:
        raise Refused(missing_reason, epoch)
    right = rights.right(function, context_of(actor, facts, now))
    if right not in words:
        raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, epoch)
    return right
