"""The decision: may this actor do this in this dossier, and how much may it then see. Pure; no I/O, no clock.

The rules stand in one list, in their order (domain §3); `decide` applies them until one refuses. What explains a
decision is the same run of the same list, so the two cannot drift apart. What is not stated is no.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.acting import BREAK_GLASS, NORMAL, REGULATION, Actor, in_normal_mode
from services.consent.action_cells import GIVEN_BY, NEEDS_TOO
from services.consent.basis import let_in_by
from services.consent.functional_rights import Function, FunctionalRights, Right
from services.consent.seeing import Filter, hidden, sight
from services.consent.values import (
    ARCHIVE_READERS,
    GONE,
    READ_TOGETHER,
    UNOPENED,
    Document,
    DossierState,
    Facts,
    GranteeKind,
    RepresentationKind,
)

_WITHOUT_DOSSIER: Final = frozenset({pb.ACTION_FIND_PATIENT, pb.ACTION_LIST_ACCESSIBLE})
# Feeding, the look-up that feeders need, and taking back what one fed can't be opposed and need no authorisation
# (domain §2 and §3); asking how one stands tells that one has none.
_FEEDING: Final = frozenset({pb.ACTION_SUBMIT, pb.ACTION_SEARCH_REFERENCE, pb.ACTION_DELETE})
_NEEDS_NO_AUTHORISATION: Final = _FEEDING | _WITHOUT_DOSSIER | {pb.ACTION_CHECK_DOSSIER}
# A list of one's own dossiers shows what one is authorised to see anyway: no emergency opens it (decision 0036).
_OPENED_BY_NO_EMERGENCY: Final = _NEEDS_NO_AUTHORISATION | {pb.ACTION_SEARCH_HELD}
_IN_THE_OPEN_ONE: Final = frozenset({pb.ACTION_SUBMIT, pb.ACTION_SEARCH_HELD})
"""What is done in the dossier that a merged one went to, and not in the merged one."""
_OF_THE_ARCHIVE: Final = frozenset({pb.ACTION_SEARCH, pb.ACTION_READ, pb.ACTION_CHECK_DOSSIER})
# What is handed over of a dossier, a closed one too: whole, for its archive goes on elsewhere (domain §6).
_HANDED_OVER: Final = _OF_THE_ARCHIVE | {pb.ACTION_LIST_AUTHORIZATIONS, pb.ACTION_READ_ADMINISTRATIVE}
# What is taken in of one, whatever its state was at the other host.
_TAKEN_IN: Final = frozenset({pb.ACTION_SUBMIT, pb.ACTION_SEARCH_REFERENCE, pb.ACTION_ARCHIVE})


class Rule(StrEnum):
    """The rules in their order; the last three bound what is seen."""

    CONTEXT = "context"
    PURPOSE = "purpose"
    BINDING = "binding"
    HOST = "host"
    DOSSIER = "dossier"
    BLOCKED = "blocked"
    REPRESENTATION = "representation"
    STATE = "state"
    RIGHT = "right"
    REASON = "reason"
    OPPOSITION = "opposition"
    AUTHORIZATION = "authorization"
    DOCUMENT = "document"
    MASKED = "masked"
    TYPES = "types"
    VISIBILITY = "visibility"


class Applied(NamedTuple):
    """One rule and what it did: `outcome` is a dmp.consent.v1.RuleOutcome."""

    rule: Rule
    outcome: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Yes with a filter, or no with a reason (an ErrorReason). `epoch` is the dossier's, 0 without dossier.

    `linked` are the dossiers that are read with it, `merged_into` the one that a merged dossier went to.
    `basis` is what let in (a dmp.audit.v1.AccessBasis), for the trail.
    """

    reason: int | None
    epoch: int
    filter: Filter | None
    rights_version: int = 0
    linked: tuple[int, ...] = ()
    merged_into: int = 0
    basis: int = audit_pb2.ACCESS_BASIS_UNSPECIFIED

    @property
    def permitted(self) -> bool:
        """Whether the answer is yes."""
        return self.reason is None


class Case:
    """One access to decide, and what the rules have found out about it: the row, the function and the word."""

    __slots__ = ("action", "actor", "document", "facts", "function", "health_id", "now", "rights", "row", "word")

    def __init__(
        self,
        actor: Actor,
        action: int,
        health_id: int,
        facts: Facts | None,
        rights: FunctionalRights,
        now: datetime,
        document: Document | None = None,
    ) -> None:
        """`facts` is None where there is no dossier; `now` is when expiries are judged."""
        self.actor = actor
        self.action = action
        self.health_id = health_id
        self.facts = facts
        self.rights = rights
        self.now = now
        self.document = document
        self.row = context_of(actor, facts, now)
        self.function: Function | None = None
        self.word = Right.NO

    @property
    def restriction(self) -> int:
        """The documents that the word is bound to, a dmp.consent.v1.DocumentRestriction."""
        return GIVEN_BY[self.action][1].get(self.word, 0)


def decide(case: Case, applied: list[Applied] | None = None) -> Decision:
    """The decision on one access. With `applied`, the rules that made it are added there, in order."""
    facts = case.facts
    epoch = 0 if facts is None else facts.epoch
    version = case.rights.version
    for rule, refuse in _RULES:
        reason = refuse(case)
        if applied is not None:
            applied.append(Applied(rule, pb.RULE_OUTCOME_PASSED if reason is None else pb.RULE_OUTCOME_REFUSED))
        if reason is not None:
            went = facts.merged_into if facts and reason == reasons.ERROR_REASON_DOSSIER_MERGED else 0
            return Decision(reason, epoch, None, version, merged_into=went)
    bounds = _sight(case)
    if case.document is not None:
        reason = hidden(bounds, case.action, case.document)
        if applied is not None:
            outcome = pb.RULE_OUTCOME_PASSED if reason is None else pb.RULE_OUTCOME_REFUSED
            applied.append(Applied(Rule.DOCUMENT, outcome))
        if reason is not None:
            return Decision(reason, epoch, None, version)
    if applied is not None:
        applied += (Applied(rule, pb.RULE_OUTCOME_NARROWED) for rule in _narrowing(bounds))
    # Who takes over a host's dossiers reads each by itself: nothing twice, and nothing of another host.
    linked = () if facts is None or case.actor.takes_over else facts.linked
    return Decision(None, epoch, bounds, version, linked, basis=basis_of(case))


def refuse_entry(actor: Actor, health_id: int, facts: Facts | None, now: datetime) -> int | None:
    """Why this actor gets nowhere near this dossier, whatever it wants; None if it may ask."""
    case = Case(actor, pb.ACTION_UNSPECIFIED, health_id, facts, _NO_RIGHTS, now)
    for _, refuse in _ENTRY:
        reason = refuse(case)
        if reason is not None:
            return reason
    return None


def basis_of(case: Case) -> int:
    """What lets the actor of a permitted case in, a dmp.audit.v1.AccessBasis: feeding needs nothing but the dossier."""
    actor = case.actor
    if actor.takes_over:
        return audit_pb2.ACCESS_BASIS_TAKEOVER
    if case.action in _FEEDING and not actor.in_person:
        return audit_pb2.ACCESS_BASIS_FEEDING
    if case.action == pb.ACTION_SEARCH_HELD:
        return audit_pb2.ACCESS_BASIS_AUTHORIZATION
    if case.action == pb.ACTION_CHECK_DOSSIER and actor.mode != NORMAL:
        return audit_pb2.ACCESS_BASIS_UNSPECIFIED  # asking opens nothing
    attending = actor.attending_context != "" and case.row == actor.attending_context
    return let_in_by(actor, attending=attending, held=case.facts is not None and authorised(case.facts, case.now))


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


def authorised(facts: Facts, now: datetime) -> bool:
    """Whether the professional or his structure holds a valid authorisation."""
    own, structure = facts.professional_until, facts.structure_until
    return (own is not None and own > now) or (structure is not None and structure > now)


def refuse_without_reason(actor: Actor) -> int | None:
    """Break-glass needs its reason, even to ask whether a dossier exists."""
    if actor.mode == BREAK_GLASS and not actor.states_reason:
        return reasons.ERROR_REASON_ACTING_CONTEXT_INVALID
    return None


# --- the rules, each giving the reason of its refusal -----------------------------------------------------------------


def _context(case: Case) -> int | None:
    return None if case.actor.complete else reasons.ERROR_REASON_ACTING_CONTEXT_INVALID


def _purpose(case: Case) -> int | None:
    return None if case.actor.for_care else reasons.ERROR_REASON_RIGHT_DENIED


def _binding(case: Case) -> int | None:
    if case.actor.patient in (0, case.health_id):
        return None
    return reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH


def _host(case: Case) -> int | None:
    """Who takes over a host's dossiers learns nothing of others: not whether they exist, nor what became of them."""
    host, facts = case.actor.takes_over, case.facts
    if not host or case.action in _WITHOUT_DOSSIER or (facts is not None and facts.home_host == host):
        return None
    return reasons.ERROR_REASON_DOSSIER_NOT_FOUND


def _dossier(case: Case) -> int | None:
    if case.action in _WITHOUT_DOSSIER or (case.action == pb.ACTION_SEARCH_HELD and not case.health_id):
        return None
    facts = case.facts
    opposed = case.actor.takes_over and case.action == pb.ACTION_READ_ADMINISTRATIVE
    if opposed and facts is not None and facts.state is DossierState.OPPOSED:
        return None  # whose opposition it is goes with it
    if facts is None or facts.state in UNOPENED:
        return reasons.ERROR_REASON_DOSSIER_NOT_FOUND
    return reasons.ERROR_REASON_DOSSIER_DESTROYED if facts.state in GONE else None


def _blocked(case: Case) -> int | None:
    facts = case.facts
    if facts is not None and facts.blocked and case.action != pb.ACTION_CHECK_DOSSIER:
        return reasons.ERROR_REASON_BLOCKED
    return None


def _representation(case: Case) -> int | None:
    facts = case.facts
    if not case.actor.representative or facts is None:
        return None
    held = facts.representation
    if held is None or held.person != case.actor.representative or not held.in_force(case.now):
        return reasons.ERROR_REASON_REPRESENTATION_MISSING
    if held.kind not in ARCHIVE_READERS:
        return None
    archived = facts.state is DossierState.CLOSED and (facts.died or held.kind is RepresentationKind.COURT)
    return None if archived else reasons.ERROR_REASON_REPRESENTATION_MISSING


def _state(case: Case) -> int | None:
    facts = case.facts
    if facts is None or case.action == pb.ACTION_CHECK_DOSSIER:
        return None
    held = facts.representation
    if case.actor.takes_over and case.action in _HANDED_OVER | _TAKEN_IN:
        return None
    if case.actor.representative and held is not None and held.kind in ARCHIVE_READERS:
        return None if case.action in _OF_THE_ARCHIVE else reasons.ERROR_REASON_DOSSIER_CLOSED
    if facts.state is DossierState.MERGED and case.action in _IN_THE_OPEN_ONE:
        return reasons.ERROR_REASON_DOSSIER_MERGED
    return None if facts.state in READ_TOGETHER else reasons.ERROR_REASON_DOSSIER_CLOSED


def _right(case: Case) -> int | None:
    given = GIVEN_BY.get(case.action)
    if given is None or not case.row or (case.action == pb.ACTION_SUBMIT and not case.actor.may_feed):
        return reasons.ERROR_REASON_RIGHT_DENIED
    functions, words = given
    for function in functions:
        case.function, case.word = function, case.rights.right(function, case.row)
        if case.word in words:
            return None if _given_too(case) else reasons.ERROR_REASON_RIGHT_DENIED
    return reasons.ERROR_REASON_RIGHT_DENIED


def _given_too(case: Case) -> bool:
    """Whether the row has the further cell that some actions need; it is then the one that explains a refusal."""
    needed = NEEDS_TOO.get(case.action)
    if needed is None:
        return True
    function, words = needed
    word = case.rights.right(function, case.row)
    if word not in words:
        case.function, case.word = function, word
    return word in words


def _reason(case: Case) -> int | None:
    return refuse_without_reason(case.actor)


def _opposition(case: Case) -> int | None:
    actor, facts = case.actor, case.facts
    if actor.mode == NORMAL or facts is None or case.action in _OPENED_BY_NO_EMERGENCY:
        return None
    opposed = facts.regulation_opposed if actor.mode == REGULATION else facts.break_glass_opposed
    return reasons.ERROR_REASON_EMERGENCY_OPPOSED if opposed else None


def _authorization(case: Case) -> int | None:
    facts, actor = case.facts, case.actor
    if case.action == pb.ACTION_SEARCH_HELD and facts is not None:
        return _own_authorization(case, facts)
    if case.action in _NEEDS_NO_AUTHORISATION or actor.in_person or actor.mode != NORMAL or facts is None:
        return None
    if actor.takes_over:
        return None
    if authorised(facts, case.now):
        return None
    if facts.professional_until is None and facts.structure_until is None:
        return reasons.ERROR_REASON_AUTHORIZATION_MISSING
    return reasons.ERROR_REASON_AUTHORIZATION_EXPIRED


def _own_authorization(case: Case, facts: Facts) -> int | None:
    """The actor's own, in every mode: what is listed is what one is authorised on (TD0.4)."""
    of_structure = case.actor.own().kind is GranteeKind.STRUCTURE
    until = facts.structure_until if of_structure else facts.professional_until
    if until is None:
        return reasons.ERROR_REASON_AUTHORIZATION_MISSING
    return None if until > case.now else reasons.ERROR_REASON_AUTHORIZATION_EXPIRED


_Refuse = Callable[[Case], int | None]
_ENTRY: Final[tuple[tuple[Rule, _Refuse], ...]] = (
    (Rule.CONTEXT, _context),
    (Rule.PURPOSE, _purpose),
    (Rule.BINDING, _binding),
    (Rule.HOST, _host),
    (Rule.DOSSIER, _dossier),
    (Rule.BLOCKED, _blocked),
    (Rule.REPRESENTATION, _representation),
)
_RULES: Final[tuple[tuple[Rule, _Refuse], ...]] = (
    *_ENTRY,
    (Rule.STATE, _state),
    (Rule.RIGHT, _right),
    (Rule.REASON, _reason),
    (Rule.OPPOSITION, _opposition),
    (Rule.AUTHORIZATION, _authorization),
)


def _sight(case: Case) -> Filter:
    actor = case.actor
    # Patients and structures carry no profession: no type is denied to them.
    profession = actor.profession if actor.professional else ""
    row = in_normal_mode(case.row) if case.action == pb.ACTION_SEARCH_HELD else case.row
    shared = sight(
        case.rights,
        row,
        profession,
        case.restriction,
        case.action == pb.ACTION_READ_TRACES,
        case.facts is not None and case.facts.masked_in_emergency,
        actor.secret,
    )
    return shared.imputed_to(actor.structure) if case.word is Right.IMPUTED_TO_STRUCTURE else shared


def _narrowing(bounds: Filter) -> list[Rule]:
    """The rules that leave something out of what may be seen."""
    narrowed = []
    if bounds.masked != pb.MASKED_VIEW_ALL:
        narrowed.append(Rule.MASKED)
    if bounds.denied_type_codes:
        narrowed.append(Rule.TYPES)
    if bounds.patient_view or bounds.representative_view or bounds.restriction or not bounds.content_readable:
        narrowed.append(Rule.VISIBILITY)
    return narrowed


_NO_RIGHTS: Final = FunctionalRights.nothing()
