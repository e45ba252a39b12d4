"""Who acts, in the terms of the rights table: an ActingContext becomes an `Actor`. Pure; nothing is decided here.

The rows (design §8, rights): `INDIRECT` authentication is the structure's certificate; `INDIRECT_STRONG` is the
professional's own row, with feeding denied; a physician who is the attending physician (MT) of the dossier has a row
of his own in normal and break-glass mode. Systems and operators have no row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from dmp.common.v1 import context_pb2
from dmp.common.v1.context_pb2 import ActingContext
from services.consent.values import Grantee, GranteeKind
from services.runtime.errors import DmpError
from services.runtime.identifiers import format_health_id, parse_health_id

PHYSICIAN: Final = "10"
PROFESSIONS: Final = frozenset(
    {"10", "21", "26", "28", "40", "50", "60", "70", "80", "86", "91", "92", "94", "95", "96", "98"}
)
"""The profession codes of the field (domain §1). Another code has no row."""
CARE_PURPOSES: Final = frozenset(
    {"", "TREAT", "CAREMGT", "ETREAT", "BTG", "PATRQT", "FAMRQT", "PWATRNY", "SUPNWK", "SYSADMIN"}
)
"""Purposes of use (HL7 v3 PurposeOfUse) that a dossier may be entered for: care, and the patient's own. Payment,
insurance, employment, marketing and research are no such purpose: insurers and employers never have access (domain
§3)."""

NORMAL: Final = "normal"
REGULATION: Final = "regulation"
BREAK_GLASS: Final = "break_glass"
_MODES: Final = {
    context_pb2.ACCESS_MODE_UNSPECIFIED: NORMAL,
    context_pb2.ACCESS_MODE_NORMAL: NORMAL,
    context_pb2.ACCESS_MODE_REGULATION: REGULATION,
    context_pb2.ACCESS_MODE_BREAK_GLASS: BREAK_GLASS,
}
_AUTHENTICATED: Final = frozenset(
    {
        context_pb2.AUTHENTICATION_MODE_DIRECT,
        context_pb2.AUTHENTICATION_MODE_INDIRECT,
        context_pb2.AUTHENTICATION_MODE_INDIRECT_STRONG,
    }
)
_OCCUPATIONAL: Final = "occupational_physician/any"
_HOST: Final = f"host/{NORMAL}"
_PLATFORM: Final = {
    context_pb2.ACTOR_KIND_SYSTEM: "system",
    context_pb2.ACTOR_KIND_OPERATOR: "operator",
}


@dataclass(frozen=True, slots=True)
class Actor:
    """An acting party. Empty strings and 0 stand for what it does not have.

    `context` is its row of the rights table, `attending_context` the one that it has where it is the MT. `complete`
    is false when the acting context lacks what its kind needs: nothing can be decided then. `patient` is the only
    dossier that the token allows; `representative` the health id of who acts for the patient. `platform` is `system`
    or `operator` for those who run the platform. `for_care` is false for a purpose that no dossier may be entered for.
    `takes_over` is the home host whose dossiers are handed over whole: a system with one enters those and no others.
    """

    context: str = ""
    attending_context: str = ""
    mode: str = NORMAL
    professional: str = ""
    structure: str = ""
    profession: str = ""
    patient: int = 0
    may_feed: bool = False
    in_person: bool = False
    representative: int = 0
    states_reason: bool = False
    complete: bool = False
    secret: bool = False
    for_care: bool = True
    platform: str = ""
    takes_over: str = ""

    @property
    def is_representative(self) -> bool:
        """Whether it acts for the patient as another person."""
        return self.in_person and self.context.startswith("representative/")

    @property
    def name(self) -> str:
        """How a dossier's history names it: never by a health id."""
        if self.in_person:
            return "representative" if self.is_representative else "patient"
        return self.professional or self.structure or self.platform or ("system" if self.takes_over else "")

    def as_professional(self) -> Grantee:
        """The professional as a grantee."""
        return Grantee(GranteeKind.PROFESSIONAL, self.professional)

    def as_structure(self) -> Grantee:
        """The structure as a grantee."""
        return Grantee(GranteeKind.STRUCTURE, self.structure)

    def own(self) -> Grantee:
        """The grantee whose authorisations are the actor's own: of a staff card and a certificate, the structure."""
        return self.as_structure() if self.context.startswith("structure") else self.as_professional()

    def parties(self) -> tuple[Grantee, ...]:
        """The grantees whose authorisations and blocks concern this actor."""
        own = (self.as_professional(),) if self.professional else ()
        return (*own, self.as_structure()) if self.structure else own


def in_normal_mode(row: str) -> str:
    """The row of the same people when there is no emergency."""
    kind, _, mode = row.partition("/")
    return f"{kind}/{NORMAL}" if mode in (REGULATION, BREAK_GLASS) else row


_NOBODY: Final = Actor()


def read_actor(context: ActingContext) -> Actor:
    """The actor of an acting context; a few µs."""
    mode = _MODES.get(context.access_mode)
    subject = context.subject
    structure = context.structure
    if mode is None or not subject or "\0" in subject or "\0" in structure:
        return _NOBODY
    common = Actor(
        mode=mode,
        patient=context.patient_health_id,
        states_reason=bool(context.break_glass_reason.strip()),
        secret=context.secret_connection,
        for_care=context.purpose_of_use in CARE_PURPOSES,
    )
    kind = context.actor_kind
    if context.takes_over_host:
        return _host(context, common)
    if kind == context_pb2.ACTOR_KIND_PROFESSIONAL:
        return _professional(context, common, subject, structure)
    if kind == context_pb2.ACTOR_KIND_PATIENT:
        own = common.patient != 0 and subject == format_health_id(common.patient)
        complete = own and not common.secret
        return replace(common, context=f"patient/{mode}", may_feed=True, in_person=True, complete=complete)
    if kind == context_pb2.ACTOR_KIND_REPRESENTATIVE:
        return _representative(common, subject)
    if kind == context_pb2.ACTOR_KIND_STRUCTURE_STAFF:
        row = f"structure_staff/{mode}"
        return replace(common, context=row, structure=structure, may_feed=True, complete=structure != "")
    if kind == context_pb2.ACTOR_KIND_STRUCTURE:
        row = f"structure_certificate/{mode}"
        itself = structure in ("", subject)  # a block names the structure: there is one that acts, and no other
        return replace(common, context=row, structure=subject, may_feed=True, complete=itself)
    return replace(common, platform=_PLATFORM.get(kind, ""), complete=kind in _PLATFORM)


def _host(context: ActingContext, common: Actor) -> Actor:
    """A system that takes over a host's dossiers, in no emergency and for no one patient. Nobody else names a host. It
    holds no office of the platform: its row says what it may do."""
    complete = (
        context.actor_kind == context_pb2.ACTOR_KIND_SYSTEM
        and common.mode == NORMAL
        and not common.patient
        and not common.secret
    )
    return replace(
        common,
        context=_HOST,
        may_feed=True,
        complete=complete,
        takes_over=context.takes_over_host,
    )


def _representative(common: Actor, subject: str) -> Actor:
    """Somebody else than the patient; a secret connection is a professional's, and hidden from him above all."""
    try:
        person = int(parse_health_id(subject, "subject"))
    except DmpError:
        person = 0
    complete = person not in (0, common.patient) and common.patient != 0 and not common.secret
    row = f"representative/{common.mode}"
    return replace(common, context=row, may_feed=True, in_person=True, representative=person, complete=complete)


def _professional(context: ActingContext, common: Actor, subject: str, structure: str) -> Actor:
    mode = common.mode
    authentication = context.authentication_mode
    profession = context.profession
    row = attending = ""
    complete = authentication in _AUTHENTICATED
    if authentication == context_pb2.AUTHENTICATION_MODE_INDIRECT:
        row = f"structure_certificate/{mode}"
        complete = structure != ""
    elif context.occupational_physician:
        row = _OCCUPATIONAL if profession == PHYSICIAN else ""
    elif profession == PHYSICIAN:
        row = f"physician/{mode}"
        attending = "" if mode == REGULATION else f"attending_physician/{mode}"
    elif profession in PROFESSIONS:
        row = f"other_professional/{mode}"
    return replace(
        common,
        context=row,
        attending_context=attending,
        professional=subject,
        structure=structure,
        profession=profession,
        may_feed=authentication != context_pb2.AUTHENTICATION_MODE_INDIRECT_STRONG,
        complete=complete,
    )
