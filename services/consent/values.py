"""What consent is about, as values: dossiers, grantees, authorisations, the facts that a decision rests on.

Frozen and small; no I/O, no rule. The words stored in the database are the values of the enumerations here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from services.runtime.checks import merged_to
from services.runtime.errors import DmpError


class DossierState(StrEnum):
    """Where a dossier is in its life. `NONE` and `OPPOSED`: there is none (any more: an opposition was withdrawn)."""

    NONE = "none"
    OPPOSED = "opposed"
    OPEN = "open"
    CLOSED = "closed"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"
    MERGED = "merged"


READ_TOGETHER = frozenset({DossierState.OPEN, DossierState.MERGED})
"""States of dossiers that are read: a merged one as long as the one that it was merged into is open."""
UNOPENED = frozenset({DossierState.NONE, DossierState.OPPOSED})
"""States of a person who never had a dossier."""
GONE = frozenset({DossierState.DESTROYING, DossierState.DESTROYED})
"""States from which nothing comes back."""


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


class Term(StrEnum):
    """For how long an authorisation is given: a year, or the visit at which the patient consented."""

    YEAR = "year"
    VISIT = "visit"


class RepresentationKind(StrEnum):
    """By what title a person acts for the patient."""

    PARENT = "parent"
    GUARDIAN = "guardian"
    HEIR = "heir"
    COURT = "court"


ARCHIVE_READERS = frozenset({RepresentationKind.HEIR, RepresentationKind.COURT})
"""Who reads the archived dossier, and never the open one (domain §3)."""


@dataclass(frozen=True, slots=True)
class Grantee:
    """Who is authorised or blocked: `id` is an IDNPS or an IDNST."""

    kind: GranteeKind
    id: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.id}"


@dataclass(frozen=True, slots=True)
class Authorization:
    """One grantee's authorisation, valid until `expires_at` (exclusive); `secret`: given in a secret connection."""

    grantee: Grantee
    granted_at: datetime
    expires_at: datetime
    attending_physician: bool
    term: Term = Term.YEAR
    care_team: bool = False
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Representation:
    """`person` (a health id) acts for the patient from `starts_at` until `ends_at` (exclusive), None until ended."""

    person: int
    kind: RepresentationKind
    starts_at: datetime
    ends_at: datetime | None

    def in_force(self, now: datetime) -> bool:
        """Whether it holds at an instant."""
        return self.starts_at <= now and (self.ends_at is None or now < self.ends_at)


@dataclass(frozen=True, slots=True)
class ConsentRecord:
    """The proof of consent kept with an opening: when, how, given by whom, collected by whom.

    `collector` is an IDNPS or IDNST, empty for the patient himself; `representative` the health id of who gave it in
    the patient's place, 0 for nobody.
    """

    collected_at: datetime
    method: ConsentMethod
    given_by: ConsentGiver
    collector: str = ""
    representative: int = 0


@dataclass(frozen=True, slots=True)
class Dossier:
    """A dossier as consent knows it. `masked_in_emergency`: masked documents may be seen in emergency modes.

    `destroy_at` is when the archive's time is over, or was destroyed; `opened_at` and `consent` are None for a person
    who never had a dossier; `merged_into` is the dossier that a merged one went to, else 0.
    """

    health_id: int
    state: DossierState
    epoch: int
    opened_at: datetime | None
    closed_at: datetime | None
    close_reason: CloseReason | None
    break_glass_opposed: bool
    regulation_opposed: bool
    masked_in_emergency: bool
    home_host: str
    consent: ConsentRecord | None
    region: str = ""
    closed_by: str = ""
    died_at: datetime | None = None
    destroy_at: datetime | None = None
    destruction_requested: bool = False
    merged_into: int = 0


@dataclass(frozen=True, slots=True)
class LockedDossier:
    """A dossier held for a change, with the authorisations, blocks and representations that the change concerns.

    `blocked_elsewhere` are whom other dossiers of the person shut out, of this one too.
    """

    dossier: Dossier
    authorizations: Mapping[Grantee, Authorization]
    blocked: frozenset[Grantee]
    representations: Mapping[int, Representation] = field(default_factory=dict)
    blocked_elsewhere: frozenset[Grantee] = frozenset()

    def shuts_out(self, grantee: Grantee) -> bool:
        """Whether the patient has blocked somebody, on this dossier or another of the same person."""
        return grantee in self.blocked or grantee in self.blocked_elsewhere


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a decision about one acting party and one dossier rests on, read in one snapshot.

    `professional_until` and `structure_until` are when the authorisations of the professional and of the structure
    expire, None where there is none; `attending_physician` belongs to the professional's own. `representation` is that
    of the person who acts for the patient, None where there is none; `died` goes with a closed dossier. `merged_into`
    goes with a merged one; `linked` are the other dossiers of the person that are read with this one; `home_host` is
    the host that holds the dossier.
    """

    state: DossierState
    epoch: int
    break_glass_opposed: bool
    regulation_opposed: bool
    masked_in_emergency: bool
    blocked: bool
    professional_until: datetime | None
    attending_physician: bool
    structure_until: datetime | None
    representation: Representation | None = None
    died: bool = False
    merged_into: int = 0
    linked: tuple[int, ...] = ()
    home_host: str = ""

    @property
    def is_open(self) -> bool:
        """Whether the dossier can be fed and read."""
        return self.state is DossierState.OPEN


@dataclass(frozen=True, slots=True)
class Document:
    """What a decision about one document depends on (dmp.consent.v1.DocumentAttributes, field by field)."""

    type_code: str = ""
    masked: bool = False
    invisible_to_patient: bool = False
    hidden_from_representatives: bool = False
    authored_by_caller: bool = False
    authored_by_structure: bool = False
    archived: bool = False
    deprecated: bool = False
    deleted: bool = False


class Refused(DmpError):
    """A refusal by a rule of consent, with the dossier's epoch at that moment (0 without dossier)."""

    def __init__(self, reason: int, epoch: int = 0, merged_into: int = 0) -> None:
        super().__init__(reason, metadata=merged_to(merged_into) if merged_into else None)
        self.epoch = epoch
