"""A DocumentReference that comes in, as a Document of the record. Pure; the content comes separately.

Only what the resource says is filled. What it leaves out, the document service takes from the CDA or refuses. Hash and
size are passed on: they are checked there, against the decoded bytes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final

from dmp.document.v1.document_pb2 import Document
from gateway.fhir.concepts import read_all, read_coding, read_concept
from gateway.fhir.identifiers import is_kind, read_identifier, read_unique_id
from gateway.fhir.node import Node
from gateway.fhir.people import contained, read_author, read_custodian, read_source_patient
from gateway.fhir.refusals import incomplete, metadata
from gateway.fhir.times import last_second, timestamp
from services.runtime.errors import FieldViolation

COMPREHENSIVE: Final = (
    "masterIdentifier",
    "type",
    "author",
    "securityLabel",
    "content[0].attachment.contentType",
    "content[0].attachment.language",
    "content[0].format",
    "context.facilityType",
    "context.practiceSetting",
)
"""What ITI-65 must say of each document (PDSm comprehensive; domain: documents). The class follows from the type."""
SIMPLIFIED: Final = ("content[0].attachment.contentType", "content[0].attachment.data")
"""What ITI-105 must say of its document."""

_MIME: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,63}/[A-Za-z0-9!#$&^_.+-]{1,63}")
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*")
_SHA1_BYTES: Final = 20
_MOST_BYTES: Final = (1 << 31) - 1


def read_document(resource: Node, required: Sequence[str]) -> Document:
    """The metadata of a DocumentReference; METADATA_ERROR or INVALID_FIELD naming what is wrong."""
    resource.refuse_modifiers()
    status = resource.child("status")
    if status.required().token() != "current":
        raise metadata(status.path, "code", "a new document is current")
    attachment, format_ = _content(resource)
    _require(resource, required)
    document = Document(
        unique_id=_unique_id(resource),
        mime_type=mime_type(attachment.child("contentType")),
        language=_language(attachment),
        title=attachment.text(512, "title"),
        comments=resource.text(4096, "description"),
        size=attachment.integer("size", 1, _MOST_BYTES) or 0,
        hash=_hash(attachment) or b"",
    )
    _read_codes(resource, document)
    if format_.present:
        document.format_code.CopyFrom(read_coding(format_))
    _read_people(resource, document)
    _read_times(resource, attachment, document)
    return document


def mime_type(node: Node) -> str:
    """A media type without parameters; '' when absent."""
    text = node.token()
    if text and not is_mime_type(text):
        raise node.error("mime_type", "a media type without parameters: type/subtype")
    return text


def is_mime_type(text: str) -> bool:
    """Whether this is a media type without parameters."""
    return _MIME.fullmatch(text) is not None


def attachment_of(resource: Node) -> Node:
    """The one attachment of a DocumentReference."""
    return _content(resource)[0]


def _content(resource: Node) -> tuple[Node, Node]:
    contents = resource.child("content").required().array(1)
    if not contents:
        raise resource.child("content").error("empty", "an array is never empty")
    return contents[0].child("attachment").required(), contents[0].child("format")


def _require(resource: Node, paths: Sequence[str]) -> None:
    """Name every required element that is missing, at once."""
    missing = []
    for path in paths:
        node = resource
        for part in path.split("."):
            name, bracket, _ = part.partition("[")
            node = node.child(name)
            if bracket:
                node = node.array(1)[0]
        absent = not node.present or node.value == []
        if absent and not (path == "masterIdentifier" and _unique_id(resource)):
            missing.append(FieldViolation(f"{resource.path}.{path}", "required", "this element is required"))
    if missing:
        raise incomplete(missing)


def _unique_id(resource: Node) -> str:
    """masterIdentifier, else the identifier that says it is the uniqueId (by `use` or by `type`)."""
    master = resource.child("masterIdentifier")
    if master.present:
        return read_unique_id(master)
    for item in resource.children("identifier", 32):
        if is_kind(item, "uniqueId"):
            return read_unique_id(item)
    return ""


def _language(attachment: Node) -> str:
    language = attachment.token(35, "language")
    if language and not _LANGUAGE.fullmatch(language):
        raise attachment.child("language").error("language", "a BCP 47 tag, such as fr-FR")
    return language


def _hash(attachment: Node) -> bytes | None:
    node = attachment.child("hash")
    if not node.present:
        return None
    try:
        digest = base64.b64decode(node.token(256), validate=True)
    except (binascii.Error, ValueError):
        raise node.error("base64", "the hash is the base64 of the 20 bytes of the SHA-1") from None
    if len(digest) == 2 * _SHA1_BYTES:
        raise node.error("sha1", "this is the base64 of hexadecimal text, not of the 20 bytes of the SHA-1")
    if len(digest) != _SHA1_BYTES:
        raise node.error("sha1", "the hash is the base64 of the 20 bytes of the SHA-1 of the decoded content")
    return digest


def _read_codes(resource: Node, document: Document) -> None:
    context = resource.child("context")
    for node, target in (
        (resource.child("type"), document.type_code),
        (context.child("facilityType"), document.facility_type),
        (context.child("practiceSetting"), document.practice_setting),
    ):
        if node.present:
            target.CopyFrom(read_concept(node))
    for category in resource.children("category", 1):
        document.class_code.CopyFrom(read_concept(category))
    document.confidentiality.extend(read_all(resource.children("securityLabel", 8), 8))
    document.event_codes.extend(read_all(context.children("event", 64), 16))


def _read_people(resource: Node, document: Document) -> None:
    for author in resource.children("author", 32):
        document.authors.append(read_author(resource, author))
    authenticator = resource.child("authenticator")
    if authenticator.present:
        document.legal_authenticator.CopyFrom(read_author(resource, authenticator))
    if resource.child("custodian").present:
        document.custodian.CopyFrom(read_custodian(resource))
    source = resource.child("context").child("sourcePatientInfo")
    if source.present:
        patient = contained(resource, source)
        if not patient.present:
            raise source.error("contained", "the source patient info is a contained Patient: #id")
        add_source_patient(document, patient)
    for related in resource.child("context").children("related", 32):
        identifier = read_identifier(related.child("identifier").required())
        if identifier is not None:
            document.reference_ids.append(identifier)


def add_source_patient(document: Document, patient: Node) -> None:
    """What the producer says of the patient, in a Patient."""
    document.source_patient_info.CopyFrom(read_source_patient(patient))
    if document.source_patient_info.identifiers:
        document.source_patient_id.CopyFrom(document.source_patient_info.identifiers[0])


def _read_times(resource: Node, attachment: Node, document: Document) -> None:
    period = resource.child("context").child("period")
    for moment, target in (
        (timestamp(attachment.child("creation")), document.create_time),
        (timestamp(period.child("start")), document.service_start_time),
        (last_second(period.child("end")), document.service_stop_time),
    ):
        if moment is not None:
            target.CopyFrom(moment)
