"""The rules of a document's metadata on its way in: filled where they can be, checked, never guessed.

Pure. A CDA fills its metadata from its header and must agree with what is given (`cda_metadata`). For other formats
the producer says all but what follows from the rest:

    hash, size          those of the bytes; class: of the type; format: of the MIME type
    title               the label of the type        confidentiality     N, when nothing is said
    language            fr-FR                        service start       when it was authored
    legal authenticator the author, when there is one alone

What still misses is a METADATA_ERROR that names it (domain.md §4: required fields).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from dmp.common.v1 import coding_pb2
from dmp.document.v1 import document_pb2
from services.document import codes
from services.document.access import PATIENT_DEPOSITED
from services.document.cda import CdaHeader
from services.document.cda_metadata import disagreements, document_of
from services.document.codes import Coded, Violation
from services.document.envelope import Packed
from services.document.times import is_valid
from services.document.unique_ids import canonical
from services.runtime.text import control_characters

DEFAULT_LANGUAGE: Final = "fr-FR"
CDA_MIME_TYPE: Final = "text/xml"

# What only the service says; whatever a request holds there is dropped.
_OWN_FIELDS: Final = (
    "name",
    "logical_id",
    "version",
    "status",
    "submit_time",
    "submission_set",
    "entry_id",
    "change_time",
    "relationships",
    "replaced_by",
    "folders",
    "findings",
    "on_demand",
    "set_id",
    "set_version",
)
_REQUIRED: Final = (
    "unique_id",
    "mime_type",
    "language",
    "title",
    "authors",
    "legal_authenticator",
    "type_code",
    "class_code",
    "format_code",
    "facility_type",
    "practice_setting",
    "create_time",
    "service_start_time",
    "source_patient_id",
    "source_patient_info",
)
_FILLED_FROM_HEADER: Final = (
    "unique_id",
    "language",
    "title",
    "authors",
    "legal_authenticator",
    "type_code",
    "format_code",
    "facility_type",
    "practice_setting",
    "custodian",
    "event_codes",
    "create_time",
    "service_start_time",
    "service_stop_time",
    "source_patient_id",
    "source_patient_info",
)
_TIMES: Final = ("create_time", "service_start_time", "service_stop_time")


@dataclass(frozen=True, slots=True)
class Completed:
    """Metadata with all that could be filled in, and the rules that they break."""

    document: document_pb2.Document
    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class MetadataRules:
    """What depends on the caller and the settings."""

    by_patient: bool
    allow_masked_and_invisible: bool = False
    secret: bool = False
    """A secret connection: what is fed in it is hidden from legal representatives from the start."""


def mime_type_of(given: str, content: bytes) -> str:
    """The media type without parameters; for what looks like XML and states none, that of a CDA."""
    bare = given.partition(";")[0].strip().lower()
    return bare or (CDA_MIME_TYPE if looks_like_xml(content) else "")


def looks_like_xml(content: bytes) -> bool:
    """Whether the first character, after a byte order mark, opens a tag."""
    start = content[:64].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    return start.startswith((b"<", b"\x00<", b"\xff\xfe<", b"\xfe\xff\x00<"))


def complete(
    given: document_pb2.Document, mime_type: str, header: CdaHeader | None, packed: Packed, rules: MetadataRules
) -> Completed:
    """The metadata to keep. `header` is that of a CDA, None for other formats. Hash and size are checked elsewhere."""
    violations = [Violation(path, "no_control_characters", "not accepted") for path in control_characters(given)]
    violations += _times(given)
    document = document_pb2.Document()
    document.CopyFrom(given)
    if violations:  # what the header says is not asked then, and must not be called missing
        return Completed(document, tuple(dict.fromkeys(violations)))
    for field in _OWN_FIELDS:
        document.ClearField(field)
    document.mime_type = mime_type
    document.hash, document.size = packed.sha1, packed.size
    document.unique_id = canonical(document.unique_id)
    if header is not None:
        violations += disagreements(given, header)
        _fill_from(document, document_of(header))
        if header.set_id is not None and header.version_number is not None:
            document.set_id, document.set_version = canonical(header.set_id.unique_id), header.version_number
    _fill_systems(document)
    _fill_defaults(document)
    if rules.secret and codes.INVISIBLE_TO_REPRESENTATIVES not in flags_of(document):
        document.confidentiality.add(system=codes.VISIBILITY, code=codes.INVISIBLE_TO_REPRESENTATIVES)
    violations += _missing(document)
    violations += _broken(document, rules)
    return Completed(document, tuple(dict.fromkeys(violations)))


def flags_of(document: document_pb2.Document) -> frozenset[str]:
    """The visibility flags that the document carries."""
    return frozenset(code.code for code in document.confidentiality if code.system == codes.VISIBILITY)


def _times(given: document_pb2.Document) -> Iterator[Violation]:
    for field in _TIMES:
        if not is_valid(getattr(given, field)):
            yield Violation(field, "timestamp", "a time between the years 1 and 9999")


def _fill_from(document: document_pb2.Document, header: document_pb2.Document) -> None:
    for field in _FILLED_FROM_HEADER:
        if not _said(document, field) and _said(header, field):
            value = getattr(header, field)
            if isinstance(value, str):
                setattr(document, field, value)
            else:  # nothing is said there, so that merging gives the header's
                getattr(document, field).MergeFrom(value)
    if "^" in header.unique_id:
        document.unique_id = header.unique_id  # whatever its spelling
    if not any(code.code in ("N", "R", "V") for code in document.confidentiality):
        document.confidentiality.extend(header.confidentiality)
    if document.type_code.code == header.type_code.code and not document.type_code.system:
        document.type_code.system = header.type_code.system


def _fill_systems(document: document_pb2.Document) -> None:
    """Codes given without their system get the one that the tables have them in."""
    for coding, table in (
        (document.type_code, codes.DOCUMENT_TYPES),
        (document.facility_type, codes.FACILITY_TYPES),
        (document.practice_setting, codes.PRACTICE_SETTINGS),
        *((code, codes.CONFIDENTIALITY_CODES) for code in document.confidentiality),
    ):
        if coding.code and not coding.system:
            found = [known.system for known in table if known.code == coding.code]
            if len(found) == 1:
                coding.system = found[0]
    if document.class_code.code and not document.class_code.system:
        document.class_code.system = codes.DOCUMENT_CLASSES
    format_code = codes.FORMATS.get(document.format_code.code)
    if format_code is not None and not document.format_code.system:
        document.format_code.system = format_code.system


def _fill_defaults(document: document_pb2.Document) -> None:
    known = codes.DOCUMENT_TYPES.get(_coded(document.type_code))
    if known is not None and not document.title:
        document.title = known.label
    if known is not None and known.class_code and not document.HasField("class_code"):
        document.class_code.CopyFrom(
            coding_pb2.Coding(system=codes.DOCUMENT_CLASSES, code=known.class_code, display=known.class_label or "")
        )
    if not document.HasField("format_code") and document.mime_type in codes.WRAPPED_FORMATS:
        code = codes.WRAPPED_FORMATS[document.mime_type]
        document.format_code.CopyFrom(coding_pb2.Coding(system=codes.FORMATS[code].system, code=code))
    if not document.confidentiality:
        document.confidentiality.append(coding_pb2.Coding(system=codes.CONFIDENTIALITY, code="N"))
    if not document.language:
        document.language = DEFAULT_LANGUAGE
    if document.HasField("create_time") and not document.HasField("service_start_time"):
        document.service_start_time.CopyFrom(document.create_time)
    if len(document.authors) == 1 and not document.HasField("legal_authenticator"):
        document.legal_authenticator.CopyFrom(document.authors[0])


def _missing(document: document_pb2.Document) -> Iterator[Violation]:
    for field in _REQUIRED:
        if not _said(document, field):
            yield Violation(field, "required", "is required, and follows from nothing else in this submission")
    info = document.source_patient_info
    if _said(document, "source_patient_info") and not (info.identifiers or (info.family_names and info.birth_date)):
        yield Violation("source_patient_info", "required", "an identifier, or a family name and a birth date")


def _broken(document: document_pb2.Document, rules: MetadataRules) -> Iterator[Violation]:
    if all(_said(document, field) for field in ("type_code", "format_code", "facility_type", "practice_setting")):
        yield from codes.check_coding(
            codes.Coding(
                type_code=_coded(document.type_code),
                class_code=_coded(document.class_code) if document.HasField("class_code") else None,
                format_code=_coded(document.format_code),
                mime_type=document.mime_type,
                facility_type=_coded(document.facility_type),
                practice_setting=_coded(document.practice_setting),
                confidentiality=[_coded(code) for code in document.confidentiality],
            ),
            allow_masked_and_invisible=rules.allow_masked_and_invisible,
        )
    else:
        yield from codes.check_confidentiality(
            [_coded(code) for code in document.confidentiality],
            allow_masked_and_invisible=rules.allow_masked_and_invisible,
        )
    if document.type_code.code.startswith(PATIENT_DEPOSITED) and not rules.by_patient:
        yield Violation("type_code", "patient_deposited", "documents of this type are deposited by the patient")
    if rules.by_patient and not document.type_code.code.startswith(PATIENT_DEPOSITED):
        yield Violation("type_code", "patient_deposited", "patients deposit documents of their own types only")
    if document.HasField("service_stop_time"):
        start, stop = document.service_start_time, document.service_stop_time
        if (stop.seconds, stop.nanos) < (start.seconds, start.nanos):
            yield Violation("service_stop_time", "order", "is not before the start")


def _said(document: document_pb2.Document, field: str) -> bool:
    """Whether a field says anything: present and, for a message, not empty."""
    value = getattr(document, field)
    return bool(value.ByteSize() if isinstance(value, Message) else value)


def _coded(coding: coding_pb2.Coding) -> Coded:
    return Coded(coding.code, coding.system)
