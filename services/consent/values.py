"""What consent is about, as values: dossiers, grantees, authorisations, the facts that a decision rests on.

Frozen and small; no I/O, no rule. The words stored in the database are the values of the enumerations here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.runtime.errors import DmpError


class DossierState(StrEnum):
    """Where a dossier is in its life."""

    OPEN = "open"
    CLOSED = "closed"


class CloseReason(StrEnum):
    """Why a dossier was closed."""

    PATIENT_REQUEST = "patient_request"
    DEATH = "death"
    ERROR = "error"


class ConsentMethod(StrEnum):
    """How consent was collected."""

    ORAL = "oral"
    WRITTEN = "written"
    ELECTRONIC = "electronic"


class ConsentGiver(StrEnum):
    """Who consented."""

    PATIENT = "patient"
    REPRESENTATIVE = "representative"


class GranteeKind(StrEnum):
    """A person or a structure."""

    PROFESSIONAL = "professional"
    STRUCTURE = "structure"


@dataclass(frozen=True, slots=True)
class Grantee:
    """Who is authorised or blocked: `id` is an IDNPS or an IDNST."""

    kind: GranteeKind
    id: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.id}"


@dataclass(frozen=True, slots=True)
class Authorization:
    """One grantee's authorisation, valid until `expires_at` (exclusive)."""

    grantee: Grantee
    granted_at: datetime
    expires_at: datetime
    attending_physician: bool


@dataclass(frozen=True, slots=True)
class ConsentRecord:
    """The proof of consent kept with an opening."""

    collected_at: datetime
    method: ConsentMethod
    given_by: ConsentGiver


@dataclass(frozen=True, slots=True)
class Dossier:
    """A dossier as consent knows it. `masked_in_emergency`: masked documents may be seen in emergency modes."""

    health_id: int
    state: DossierState
    epoch: int
    opened_at: datetime
    closed_at: datetime | None
    close_reason: CloseReason | None
    break_glass_opposed: bool
    regulation_opposed: bool
    masked_in_emergency: bool
    home_host: str
    consent: ConsentRecord


@dataclass(frozen=True, slots=True)
class LockedDossier:
    """A dossier held for a change, with the authorisations and blocks of the parties that the change concerns."""

    dossier: Dossier
    authorizations: Mapping[Grantee, Authorization]
    blocked: frozenset[Grantee]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a decision about one acting party and one dossier rests on, read in one snapshot.

    `professional_until` and `structure_until` are when the authorisations of the professional and of the structure
    expire, None where there is none; `attending_physician` belongs to the professional's own.
    """

    is_open: bool
    epoch: int
    break_glass_opposed: bool
    regulation_opposed: bool
    masked_in_emergency: bool
    blocked: bool
    professional_until: datetime | None
    attending_physician: bool
    structure_until: datetime | None


class Refused(DmpError):
    """A refusal by a rule of consent, with the dossier's epoch at that moment (0 without dossier)."""

    def __init__(self, reason: int, epoch: int = 0) -> None:
        super().__init__(reason)
        self.epoch = epoch
