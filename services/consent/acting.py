"""Who acts, in the terms of the rights table: an ActingContext becomes an `Actor`. Pure; nothing is decided here.

The rows (design §8, rights): `INDIRECT` authentication is the structure's certificate; `INDIRECT_STRONG` is the
professional's own row, with feeding denied; a physician who is the attending physician (MT) of the dossier has a row
of his own in normal and break-glass mode. Systems and operators have no row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dmp.common.v1 import context_pb2
from dmp.common.v1.context_pb2 import ActingContext
from services.consent.values import Grantee, GranteeKind

PHYSICIAN: Final = "10"
PROFESSIONS: Final = frozenset(
    {"10", "21", "26", "28", "40", "50", "60", "70", "80", "86", "91", "92", "94", "95", "96", "98"}
)
"""The profession codes of the field (domain §1). Another code has no row."""

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
_IN_PERSON: Final = {
    context_pb2.ACTOR_KIND_PATIENT: "patient",
    context_pb2.ACTOR_KIND_REPRESENTATIVE: "representative",
}


@dataclass(frozen=True, slots=True)
class Actor:
    """An acting party. Empty strings and 0 stand for what it does not have.

    `context` is its row of the rights table, `attending_context` the one that it has where it is the MT. `complete`
    is false when the acting context lacks what its kind needs: nothing can be decided then. `patient` is the only
    dossier that the token allows.
    """

    context: str
    attending_context: str
    mode: str
    professional: str
    structure: str
    profession: str
    patient: int
    may_feed: bool
    in_person: bool
    is_representative: bool
    states_reason: bool
    complete: bool

    def as_professional(self) -> Grantee:
        """The professional as a grantee."""
        return Grantee(GranteeKind.PROFESSIONAL, self.professional)

    def as_structure(self) -> Grantee:
        """The structure as a grantee."""
        return Grantee(GranteeKind.STRUCTURE, self.structure)

    def parties(self) -> tuple[Grantee, ...]:
        """The grantees whose authorisations and blocks concern this actor."""
        own = (self.as_professional(),) if self.professional else ()
        return (*own, self.as_structure()) if self.structure else own


_NOBODY: Final = Actor("", "", NORMAL, "", "", "", 0, False, False, False, False, False)


def read_actor(context: ActingContext) -> Actor:
    """The actor of an acting context; a few µs."""
    mode = _MODES.get(context.access_mode)
    subject = context.subject
    structure = context.structure
    if mode is None or not subject or "\0" in subject or "\0" in structure:
        return _NOBODY
    kind = context.actor_kind
    if kind == context_pb2.ACTOR_KIND_PROFESSIONAL:
        return _professional(context, mode, subject, structure)
    patient = context.patient_health_id
    reason = bool(context.break_glass_reason.strip())
    if kind in _IN_PERSON:
        representative = kind == context_pb2.ACTOR_KIND_REPRESENTATIVE
        row = f"{_IN_PERSON[kind]}/{mode}"
        return Actor(row, "", mode, "", "", "", patient, True, True, representative, reason, patient != 0)
    if kind == context_pb2.ACTOR_KIND_STRUCTURE_STAFF:
        row = f"structure_staff/{mode}"
        return Actor(row, "", mode, "", structure, "", patient, True, False, False, reason, structure != "")
    if kind == context_pb2.ACTOR_KIND_STRUCTURE:
        row = f"structure_certificate/{mode}"
        return Actor(row, "", mode, "", structure or subject, "", patient, True, False, False, reason, True)
    return Actor("", "", mode, "", "", "", patient, False, False, False, reason, True)


def _professional(context: ActingContext, mode: str, subject: str, structure: str) -> Actor:
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
    return Actor(
        context=row,
        attending_context=attending,
        mode=mode,
        professional=subject,
        structure=structure,
        profession=profession,
        patient=context.patient_health_id,
        may_feed=authentication != context_pb2.AUTHENTICATION_MODE_INDIRECT_STRONG,
        in_person=False,
        is_representative=False,
        states_reason=bool(context.break_glass_reason.strip()),
        complete=complete,
    )
