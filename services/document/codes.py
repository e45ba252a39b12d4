"""The code tables of document metadata, and the rules that hold between codes.

Here live the tables of `codes/*.csv`, loaded once into frozen values, and pure functions over them. Nothing here reads
a document or a request: codes come as (code, OID) pairs. The tables are those that the ANS publishes (NOS: JDV_J01 to
J10, TRE_A03, and ASS_A11 for `cda_templates.csv`).
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

LOINC: Final = "2.16.840.1.113883.6.1"
DOCUMENT_CLASSES: Final = "1.2.250.1.213.1.1.4.1"
"""TRE_A03: the system of class codes."""
CONFIDENTIALITY: Final = "2.16.840.1.113883.5.25"
VISIBILITY: Final = "1.2.250.1.213.1.1.4.13"
"""TRE_A07: the system of the flags that hide a document."""

INVISIBLE_TO_PATIENT: Final = "INVISIBLE_PATIENT"
INVISIBLE_TO_REPRESENTATIVES: Final = "INVISIBLE_REPRESENTANTS_LEGAUX"
MASKED_FROM_PROFESSIONALS: Final = "MASQUE_PS"

CDA_MIME_TYPES: Final = frozenset({"text/xml", "application/xml"})
_ANY_MIME_TYPE: Final = "*"
_SUFFICIENT: Final = "urn:ihe:iti:xds:2017:mimeTypeSufficient"
_MOST_CONFIDENTIALITY_CODES: Final = 4
_LONGEST_FORMAT_CODE: Final = 128

_TABLES: Final = Path(__file__).parent / "codes"


class Coded(NamedTuple):
    """A code and the OID of its system."""

    code: str
    system: str


class Violation(NamedTuple):
    """A field that breaks a rule. `description` says what was expected, never what was sent."""

    field: str
    rule: str
    description: str


@dataclass(frozen=True, slots=True)
class CodeEntry:
    """One row of a table: the code, the OID of its system, its French label."""

    code: str
    system: str
    label: str


@dataclass(frozen=True, slots=True)
class DocumentType:
    """A type of document. Seven recent types have no class yet: `class_code` is then None and any class goes.

    `in_dmp` says that it belongs to the DMP's own value set.
    """

    code: str
    system: str
    label: str
    class_code: str | None
    class_label: str | None
    in_dmp: bool


@dataclass(frozen=True, slots=True)
class DocumentFormat:
    """A format code and the MIME types that may carry it; no MIME types means any that is accepted."""

    code: str
    system: str
    mime_types: frozenset[str]


@dataclass(frozen=True, slots=True)
class Coding:
    """The codes of one document entry, as submitted. `mime_type` carries no parameters."""

    type_code: Coded
    class_code: Coded | None
    format_code: Coded
    mime_type: str
    facility_type: Coded
    practice_setting: Coded
    confidentiality: Sequence[Coded]


def _rows(name: str) -> Iterator[Mapping[str, str]]:
    with (_TABLES / name).open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _entries(name: str) -> Mapping[Coded, CodeEntry]:
    return MappingProxyType(
        {
            Coded(row["code"], row["code_system_oid"]): CodeEntry(row["code"], row["code_system_oid"], row["label_fr"])
            for row in _rows(name)
        }
    )


def _types() -> Mapping[Coded, DocumentType]:
    return MappingProxyType(
        {
            Coded(row["type_code"], row["code_system_oid"]): DocumentType(
                row["type_code"],
                row["code_system_oid"],
                row["label_fr"],
                row["class_code"] or None,
                row["class_label_fr"] or None,
                row["in_dmp_value_set"] == "1",
            )
            for row in _rows("document_types.csv")
        }
    )


def _formats() -> Mapping[str, DocumentFormat]:
    return MappingProxyType(
        {
            row["format_code"]: DocumentFormat(
                row["format_code"],
                row["code_system_oid"],
                frozenset(() if row["mime_types"] == _ANY_MIME_TYPE else row["mime_types"].split("|")),
            )
            for row in _rows("formats.csv")
        }
    )


DOCUMENT_TYPES: Final = _types()
SPECIALTIES: Final = _entries("author_specialties.csv")
FACILITY_TYPES: Final = _entries("facility_types.csv")
PRACTICE_SETTINGS: Final = _entries("practice_settings.csv")
CONFIDENTIALITY_CODES: Final = _entries("confidentiality.csv")
FORMATS: Final = _formats()
"""Formats by code: the codes are URNs and UIDs, unique whatever the system."""
CDA_TEMPLATES: Final[Mapping[str, str]] = MappingProxyType(
    {row["template_oid"]: row["format_code"] for row in _rows("cda_templates.csv")}
)
"""The format of a structured CDA, by the template that it declares."""
CLASSES: Final[Mapping[str, str]] = MappingProxyType(
    {found.class_code: found.class_label or "" for found in DOCUMENT_TYPES.values() if found.class_code}
)
"""Labels of the classes, by code of system `DOCUMENT_CLASSES`."""

WRAPPED_FORMATS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "application/pdf": "urn:ihe:iti:xds-sd:pdf:2008",
        "text/plain": "urn:ihe:iti:xds-sd:text:2008",
        "text/rtf": "urn:ihe:iti-fr:xds-sd:rtf:2010",
        "application/rtf": "urn:ihe:iti-fr:xds-sd:rtf:2010",
        "image/jpeg": "urn:ihe:iti-fr:xds-sd:jpeg:2010",
        "image/tiff": "urn:ihe:iti-fr:xds-sd:tiff:2010",
        "application/fhir+json": _SUFFICIENT,
        "application/fhir+xml": _SUFFICIENT,
        "application/dicom+json": _SUFFICIENT,
    }
)
"""The format of a file, alone or wrapped in a CDA, by its MIME type."""
UNPROFILED_FORMAT: Final = "urn:asipSante:modelesHorsProfils:2011"
"""A structured CDA that follows none of the published templates."""

MIME_TYPES: Final = frozenset(WRAPPED_FORMATS).union(*(found.mime_types for found in FORMATS.values()))
"""Every MIME type that is accepted."""


def is_known_type(type_code: Coded) -> bool:
    """Say whether the type is in the table, under its own system."""
    return type_code in DOCUMENT_TYPES


def class_of(type_code: Coded) -> Coded | None:
    """Give the class that follows from a type; None where the type has none yet, or is unknown."""
    found = DOCUMENT_TYPES.get(type_code)
    return Coded(found.class_code, DOCUMENT_CLASSES) if found is not None and found.class_code else None


def is_known_specialty(code: Coded) -> bool:
    """Say whether an author's profession or speciality is in the table."""
    return code in SPECIALTIES


def format_of_cda(template_oids: Iterable[str], wrapped_mime_type: str | None = None) -> Coded:
    """Give the format of a CDA document: that of the file it wraps, or of the template that it declares (ASS_A11).

    The last declared template that has a format wins: documents go from the general to the particular.
    """
    if wrapped_mime_type is not None and wrapped_mime_type in WRAPPED_FORMATS:
        code = WRAPPED_FORMATS[wrapped_mime_type]
    else:
        known = [CDA_TEMPLATES[oid] for oid in template_oids if oid in CDA_TEMPLATES]
        code = known[-1] if known else UNPROFILED_FORMAT
    return Coded(code, FORMATS[code].system)


def check_coding(coding: Coding, *, allow_masked_and_invisible: bool = False) -> tuple[Violation, ...]:
    """Return every rule that the codes of a document entry break; nothing when all is well.

    `allow_masked_and_invisible` is the server's setting for MASQUE_PS together with INVISIBLE_PATIENT.
    """
    return (
        *_check_type_and_class(coding),
        *_check_format(coding),
        *_check_known("facility_type", coding.facility_type, FACILITY_TYPES, "healthcare facility types (JDV_J02)"),
        *_check_known("practice_setting", coding.practice_setting, PRACTICE_SETTINGS, "practice settings (JDV_J04)"),
        *check_confidentiality(coding.confidentiality, allow_masked_and_invisible=allow_masked_and_invisible),
    )


def check_confidentiality(codes: Sequence[Coded], *, allow_masked_and_invisible: bool = False) -> Iterator[Violation]:
    """Yield the rules that a set of confidentiality codes breaks: one level N, R or V, and up to three flags."""
    field = "confidentiality"
    if not 1 <= len(codes) <= _MOST_CONFIDENTIALITY_CODES:
        yield Violation(field, "count", "one to four codes")
        return
    for code in codes:
        yield from _check_known(field, code, CONFIDENTIALITY_CODES, "confidentiality codes (JDV_J08)")
    if max(Counter(codes).values()) > 1:
        yield Violation(field, "unique", "the same code appears twice")
    if sum(code.system == CONFIDENTIALITY for code in codes) != 1:
        yield Violation(field, "one_level", "exactly one of N, R and V")
    flags = {code.code for code in codes if code.system == VISIBILITY}
    if flags >= {INVISIBLE_TO_PATIENT, MASKED_FROM_PROFESSIONALS} and not allow_masked_and_invisible:
        yield Violation(field, "masked_and_invisible", "INVISIBLE_PATIENT and MASQUE_PS exclude each other")


def _check_type_and_class(coding: Coding) -> Iterator[Violation]:
    yield from _check_known("type_code", coding.type_code, DOCUMENT_TYPES, "document types (JDV_J07)")
    given = coding.class_code
    if given is None:
        if is_known_type(coding.type_code) and class_of(coding.type_code) is None:
            yield Violation("class_code", "required", "this type has no class of its own yet: one must be given")
        return
    if given.system != DOCUMENT_CLASSES or given.code not in CLASSES:
        yield Violation("class_code", "unknown_code", "not one of the document classes (TRE_A03)")
        return
    expected = class_of(coding.type_code)
    if expected is not None and given != expected:
        yield Violation("class_code", "class_of_type", f"the class of this type is {expected.code}")


def _check_format(coding: Coding) -> Iterator[Violation]:
    if coding.mime_type not in MIME_TYPES:
        yield Violation("mime_type", "unsupported", f"one of {', '.join(sorted(MIME_TYPES))}")
        return
    code = coding.format_code.code
    if not code or len(code) > _LONGEST_FORMAT_CODE:
        yield Violation("format_code", "length", f"1 to {_LONGEST_FORMAT_CODE} characters")
        return
    known = FORMATS.get(code)
    if known is None:  # accepted and kept: new formats appear every year
        return
    if known.mime_types and coding.mime_type not in known.mime_types:
        allowed = ", ".join(sorted(known.mime_types))
        yield Violation("format_code", "format_of_mime_type", f"this format goes with {allowed}")


def _check_known(field: str, code: Coded, table: Mapping[Coded, object], name: str) -> Iterator[Violation]:
    if code not in table:
        yield Violation(field, "unknown_code", f"not one of the {name}")
