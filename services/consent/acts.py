"""What every change of a dossier asks first: may this actor enter, does the rights table give it, is the dossier open.

Pure rules. Each takes the dossier as locked, and gives a value or raises `Refused` (or INVALID_FIELD where the request
is wrong). The rules of one kind of act stand with its use case; storing a change, and telling the trail, is `changes`.

Systems and operators have no row in the rights table: what they may do is said here and in the access option of the
method (`may_run`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from services.consent.acting import NORMAL, Actor
from services.consent.changes import Moment
from services.consent.decision import authorised, context_of, refuse_entry, refuse_without_reason
from services.consent.functional_rights import Function, Right
from services.consent.values import (
    ARCHIVE_READERS,
    GONE,
    READ_TOGETHER,
    UNOPENED,
    DossierState,
    Facts,
    Grantee,
    GranteeKind,
    LockedDossier,
    Refused,
)

OPERATOR: Final = "operator"
SYSTEM: Final = "system"
CHANGE_ADMINISTRATIVE: Final = Function("TD1.3b", "change_admin_data")


def facts_of(locked: LockedDossier | None, actor: Actor) -> Facts | None:
    """The facts about `actor` in a locked dossier."""
    if locked is None:
        return None
    dossier = locked.dossier
    own = locked.authorizations.get(actor.as_professional())
    structure = locked.authorizations.get(actor.as_structure())
    return Facts(
        state=dossier.state,
        epoch=dossier.epoch,
        break_glass_opposed=dossier.break_glass_opposed,
        regulation_opposed=dossier.regulation_opposed,
        masked_in_emergency=dossier.masked_in_emergency,
        blocked=any(locked.shuts_out(party) for party in actor.parties()),
        professional_until=own.expires_at if own else None,
        attending_physician=own.attending_physician if own else False,
        structure_until=structure.expires_at if structure else None,
        representation=locked.representations.get(actor.representative),
        died=dossier.died_at is not None,
        merged_into=dossier.merged_into,
        home_host=dossier.home_host,
    )


def persons_of(actor: Actor) -> tuple[int, ...]:
    """The person whose representation concerns this actor."""
    return (actor.representative,) if actor.representative else ()


def enter(actor: Actor, health_id: int, locked: LockedDossier | None, now: datetime) -> Facts:
    """The facts, for whoever may come near this dossier. Who may only read the archive changes nothing."""
    facts = facts_of(locked, actor)
    refusal = refuse_entry(actor, health_id, facts, now)
    if refusal is not None or facts is None:
        raise Refused(refusal or reasons.ERROR_REASON_DOSSIER_NOT_FOUND, facts.epoch if facts else 0)
    if actor.representative and facts.representation is not None and facts.representation.kind in ARCHIVE_READERS:
        raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, facts.epoch)
    return facts


def enter_unopened(actor: Actor, health_id: int, locked: LockedDossier | None, now: datetime) -> Facts | None:
    """The same where there may be no dossier yet. A representative is known from a dossier only."""
    facts = facts_of(locked, actor)
    refusal = refuse_entry(actor, health_id, facts, now)
    if refusal == reasons.ERROR_REASON_DOSSIER_NOT_FOUND:
        refusal = reasons.ERROR_REASON_REPRESENTATION_MISSING if actor.representative else None
    if refusal is not None:
        raise Refused(refusal, facts.epoch if facts else 0)
    return facts


def require(actor: Actor, facts: Facts | None, moment: Moment, function: Function, *words: Right) -> Right:
    """The word of the cell, which must be one of `words`."""
    epoch = facts.epoch if facts else 0
    missing_reason = refuse_without_reason(actor)
    if missing_reason is not None:
        raise Refused(missing_reason, epoch)
    right = moment.rights.right(function, context_of(actor, facts, moment.now))
    if right not in words:
        raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, epoch)
    return right


def require_authorised(actor: Actor, facts: Facts, now: datetime) -> None:
    """Changing what the patient decided, in his name, needs the authorisation that reading needs."""
    if not actor.in_person and (actor.mode != NORMAL or not authorised(facts, now)):
        raise Refused(reasons.ERROR_REASON_AUTHORIZATION_MISSING, facts.epoch)


def may_run(actor: Actor, locked: LockedDossier | None, *kinds: str) -> bool:
    """Whether this is one of `kinds` (OPERATOR, SYSTEM), who act on a dossier that exists, by their office.

    False for everyone else: the rights table says. Raises for those of another office, and where there is no dossier.
    """
    if not actor.platform:
        return False
    epoch = locked.dossier.epoch if locked else 0
    if not (actor.complete and actor.for_care and actor.platform in kinds):
        raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, epoch)
    if locked is None or locked.dossier.state in UNOPENED:
        raise Refused(reasons.ERROR_REASON_DOSSIER_NOT_FOUND, epoch)
    if locked.dossier.state in GONE:
        raise Refused(reasons.ERROR_REASON_DOSSIER_DESTROYED, epoch)
    return True


def require_open(locked: LockedDossier) -> None:
    """Authorisations, blocks and preferences are changed in an open dossier."""
    require_unmerged(locked)
    if locked.dossier.state is not DossierState.OPEN:
        raise Refused(reasons.ERROR_REASON_DOSSIER_CLOSED, locked.dossier.epoch)


def require_unmerged(locked: LockedDossier) -> None:
    """What is new goes to the dossier that a merged one went to."""
    merged_into = locked.dossier.merged_into
    if merged_into:
        raise Refused(reasons.ERROR_REASON_DOSSIER_MERGED, locked.dossier.epoch, merged_into)


def require_open_or_merged(locked: LockedDossier) -> None:
    """Shutting out, and taking back, is possible wherever an authorisation or a block is."""
    if locked.dossier.state not in READ_TOGETHER:
        raise Refused(reasons.ERROR_REASON_DOSSIER_CLOSED, locked.dossier.epoch)


def require_closed(locked: LockedDossier) -> None:
    """What concerns the archive needs one."""
    if locked.dossier.state is not DossierState.CLOSED:
        raise Refused(reasons.ERROR_REASON_DOSSIER_NOT_CLOSED, locked.dossier.epoch)


def grantee_kind_fits(grantee: Grantee) -> bool:
    """IDNPS begin with 0, 3, 5, 6 or 8, IDNST with 0 to 4 (domain §1)."""
    return grantee.id[:1] in ("03568" if grantee.kind is GranteeKind.PROFESSIONAL else "01234")
