"""What the header of a CDA R2 document says, as frozen values.

Here live the types alone: `cda` fills them. Names follow the CDA schema (POCD_MT000040) and the French header (CI-SIS,
"volet structuration minimale"). Values are those of the document, white space normalised, nothing translated.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from services.document.hl7_time import Hl7Time, Precision

Sex = Literal["M", "F", "U"]
Relation = Literal["RPLC", "APND", "XFRM"]


class CdaError(Exception):
    """A document whose header cannot be read or breaks an obligation.

    `field` is the path in the document (`ClinicalDocument/recordTarget`), `rule` a stable name (`required`, `doctype`,
    `timestamp`, …), `description` a sentence. None of them repeats a value of the document.
    """

    def __init__(self, field: str, rule: str, description: str) -> None:
        """Keep the three parts; the message is all of them."""
        super().__init__(f"{field}: {rule}: {description}")
        self.field = field
        self.rule = rule
        self.description = description


@dataclass(frozen=True, slots=True)
class InstanceId:
    """An HL7 instance identifier: `root` is an OID, a UUID or a reserved name, `extension` is unique under it."""

    root: str
    extension: str | None = None

    @property
    def unique_id(self) -> str:
        """The form of XDS metadata: `root^extension`, or the root alone (IHE PCC TF-2 §4.1.1)."""
        return self.root if self.extension is None else f"{self.root}^{self.extension}"


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value: the code, the OID of its system, and the label that the document gave."""

    code: str
    system: str
    display: str | None = None


@dataclass(frozen=True, slots=True)
class CdaOrganization:
    """A structure as the document names it. `practice_setting` is its standardIndustryClassCode."""

    identifier: InstanceId | None
    name: str | None
    practice_setting: Code | None = None


@dataclass(frozen=True, slots=True)
class CdaAuthor:
    """Who wrote or vouches for the document: a person, or a device (then `software`, and no family name).

    `specialty` is the profession or speciality (JDV_J01), `time` when this participation took place (None where that
    cannot be read).
    """

    identifier: InstanceId | None
    family: str | None
    given: str | None
    specialty: Code | None
    organization: CdaOrganization | None
    time: Hl7Time | None
    software: str | None = None


@dataclass(frozen=True, slots=True)
class CdaPatient:
    """The patient as the document identifies them.

    `given` are all given names of the birth certificate (usually one element that lists them), `birth_given` the first.
    `birth_date` is a date, or an ISO year or year-month where that is all that is known. `birth_place_code` is the COG
    code. `used_*` are None unless stated.
    """

    identifiers: tuple[InstanceId, ...]
    birth_family: str | None
    used_family: str | None
    given: tuple[str, ...]
    birth_given: str | None
    used_given: str | None
    sex: Sex
    birth_date: date | str | None
    birth_place_code: str | None
    birth_place_name: str | None


@dataclass(frozen=True, slots=True)
class CdaParent:
    """A document that this one replaces (RPLC), completes (APND) or transforms (XFRM)."""

    relation: Relation
    document_id: InstanceId
    set_id: InstanceId | None
    version_number: int | None


@dataclass(frozen=True, slots=True)
class CdaBody:
    """The kind of body: structured sections, or one wrapped file of `media_type` (nonXMLBody)."""

    structured: bool
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class CdaHeader:
    """The header of one document. Times are aware; their precision says how much of them was stated.

    `service_start` and `service_stop` are those of the principal act: the first documentationOf/serviceEvent that has
    an effectiveTime (CI-SIS). `practice_setting` is its performer's, `facility_type` that of the encounter.
    `event_codes` are the codes of all acts and their translations, each once, in the document's order.
    `wrapped` says that the document came inside an XSL stylesheet (a "self-presentable" document).
    """

    document_id: InstanceId
    set_id: InstanceId | None
    version_number: int | None
    parents: tuple[CdaParent, ...]
    template_ids: tuple[InstanceId, ...]
    type_code: Code
    confidentiality: Code | None
    language: str | None
    title: str | None
    effective_time: datetime
    effective_time_precision: Precision
    patient: CdaPatient
    authors: tuple[CdaAuthor, ...]
    legal_authenticator: CdaAuthor | None
    custodian: CdaOrganization | None
    service_start: datetime | None
    service_start_precision: Precision | None
    service_stop: datetime | None
    service_stop_precision: Precision | None
    event_codes: tuple[Code, ...]
    practice_setting: Code | None
    facility_type: Code | None
    body: CdaBody | None
    wrapped: bool
