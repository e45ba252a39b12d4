"""The way in: from the bytes of one document and its metadata to its reading. Pure, and never raises.

    CDA R2 (also inside a stylesheet), FHIR document Bundles (JSON, XML), DICOM key-object selections

Other formats, and what does not read, are said to be so: a document of a kind that is listed stands in that list
unread (`LISTED`), and every document is an event of the pathway. The bytes are those that the submission accepted, so
XML has passed `xml_safety` once; its bounds are looked at again here, for what was stored before they were drawn.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import structlog
from lxml import etree

from dmp.document.v1 import clinical_pb2, document_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from services.document.codes import CDA_MIME_TYPES
from services.document.reading import events, imaging, kos, medications, results, vaccinations
from services.document.reading.cda_body import DOCUMENT, NOT_SUMMARIES, BodyReader, tree_of
from services.document.reading.fhir_bundle import FhirRefused, is_fhir, read_bundle
from services.document.reading.model import Findings, Kind, Projection, Reading
from services.document.xml_safety import XmlRefused, to_utf8, walk

_log = structlog.get_logger("document")

MAX_BYTES: Final = 32 * 1024 * 1024
"""Largest document that is read, in bytes."""

Unread: TypeAlias = clinical_pb2.UnreadReason.ValueType
_READ: Final = clinical_pb2.UNREAD_REASON_UNSPECIFIED
_UNSTRUCTURED: Final = clinical_pb2.UNREAD_REASON_UNSTRUCTURED
_NOTHING: Final = clinical_pb2.UNREAD_REASON_NOTHING_FOUND
_MALFORMED: Final = clinical_pb2.UNREAD_REASON_MALFORMED
_TOO_LARGE: Final = clinical_pb2.UNREAD_REASON_TOO_LARGE
_SIZE_RULES: Final = frozenset({"size", "markup", "depth", "names"})
_MORE_MEDICINES: Final = frozenset({"DISP_AUT", "DOCPAT02", "80565-5"})
_MORE_RESULTS: Final = frozenset({"DOCPAT05"})
"""Types that are looked for in these lists, and come as files only."""
_SUMMARY_CLASSES: Final = frozenset({"10", "11"})


def read(content: bytes, metadata: document_pb2.Document) -> Reading:
    """What the document says. Takes a few milliseconds for 100 kB and holds the interpreter: read megabytes in a
    thread."""
    findings = Findings()
    stay: values.Period | None = None
    try:
        unread, stay = _read(content, metadata, findings)
    except Exception as error:  # noqa: BLE001 (a boundary: what strangers write must never stop a submission's reading)
        _log.warning("document_not_read", error_type=type(error).__name__)
        unread = _MALFORMED
    return _whole(metadata, findings, unread, stay)


def listed(metadata: document_pb2.Document) -> tuple[Kind, ...]:
    """The lists in which a document of this type is looked for, whether or not it can be read."""
    code, group = metadata.type_code.code, metadata.class_code.code
    if code in medications.PRESCRIPTION_TYPES | medications.DISPENSATION_TYPES | _MORE_MEDICINES:
        return (Kind.MEDICATION,)
    if code in results.RESULT_TYPES | _MORE_RESULTS:
        return (Kind.RESULT,)
    if code in vaccinations.VACCINATION_TYPES:
        return (Kind.VACCINATION,)
    if code in imaging.REFERENCE_TYPES:
        return (Kind.IMAGING_REFERENCE,)
    if code in imaging.IMAGING_TYPES or group == imaging.IMAGING_CLASS:
        return (Kind.IMAGING_REPORT,)
    summed_up = code in events.MEDICAL_SUMMARY_TYPES | events.HOSPITAL_TYPES | events.LETTER_TYPES
    return (Kind.SUMMARY,) if summed_up or group in _SUMMARY_CLASSES else ()


def damaged(metadata: document_pb2.Document) -> Reading:
    """What stands for a document whose content cannot be opened."""
    return _whole(metadata, Findings(), clinical_pb2.UNREAD_REASON_DAMAGED, None)


def _read(content: bytes, metadata: document_pb2.Document, findings: Findings) -> tuple[Unread, values.Period | None]:
    if len(content) > MAX_BYTES:
        return _TOO_LARGE, None
    if kos.is_dicom(content, metadata.mime_type):
        return _read_references(content, metadata, findings), None
    if is_fhir(content, metadata.mime_type):
        try:
            return _READ, read_bundle(content, metadata, findings)
        except FhirRefused as refused:
            return (_TOO_LARGE if refused.too_large else _MALFORMED), None
    if metadata.mime_type in CDA_MIME_TYPES:
        return _read_cda(content, metadata, findings)
    return _UNSTRUCTURED, None


def _read_cda(
    content: bytes, metadata: document_pb2.Document, findings: Findings
) -> tuple[Unread, values.Period | None]:
    try:
        text = to_utf8(content, max_bytes=MAX_BYTES)
        if walk(text, DOCUMENT).occurrences != 1:
            return _MALFORMED, None
        document = tree_of(text)
    except XmlRefused as refused:
        return (_TOO_LARGE if refused.rule in _SIZE_RULES else _MALFORMED), None
    except etree.LxmlError:
        return _MALFORMED, None
    if document is None:
        return _MALFORMED, None
    stay = BodyReader(document, metadata, findings).read()
    structured = document.find("{*}component/{*}structuredBody") is not None
    return (_READ if structured or findings.projections else _UNSTRUCTURED), stay


def _read_references(content: bytes, metadata: document_pb2.Document, findings: Findings) -> Unread:
    try:
        reference = kos.read(content, metadata.mime_type)
    except kos.DicomRefused as refused:
        return _TOO_LARGE if refused.too_large else _MALFORMED
    if reference is None:
        return _UNSTRUCTURED  # DICOM, and no key-object selection
    findings.add(kos.projection(reference, metadata.reference_ids))
    return _READ


def _whole(metadata: document_pb2.Document, findings: Findings, unread: Unread, stay: values.Period | None) -> Reading:
    """The reading with what every document has: its place in the lists of its type, and its event."""
    found = list(findings.projections)
    kinds = {projection.kind for projection in found}
    for kind in listed(metadata):
        if kind not in kinds:
            subkind = events.summary_kind(metadata) if kind == Kind.SUMMARY else 0
            found.append(Projection(kind, None, subkind=subkind, unread=unread or _NOTHING))
    told = list(events.told_of(metadata, found))
    event = events.event_of(metadata, found, unread, stay)
    return Reading((*found, event, *told), unread, findings.left_out)


__all__ = ["NOT_SUMMARIES", "damaged", "listed", "read"]
