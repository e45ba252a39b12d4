"""From the field names of the services' errors to the FHIR paths and parameters that the caller wrote. Pure tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from gateway.fhir.submission import Submission
from services.runtime.errors import DmpError, FieldViolation

_DOCUMENT: Final[Mapping[str, str]] = {
    "unique_id": "masterIdentifier",
    "mime_type": "content[0].attachment.contentType",
    "hash": "content[0].attachment.hash",
    "size": "content[0].attachment.size",
    "language": "content[0].attachment.language",
    "title": "content[0].attachment.title",
    "comments": "description",
    "legal_authenticator": "authenticator",
    "class_code": "category[0]",
    "type_code": "type",
    "format_code": "content[0].format",
    "facility_type": "context.facilityType",
    "practice_setting": "context.practiceSetting",
    "confidentiality": "securityLabel",
    "event_codes": "context.event",
    "create_time": "content[0].attachment.creation",
    "service_start_time": "context.period.start",
    "service_stop_time": "context.period.end",
    "source_patient_id": "context.sourcePatientInfo",
    "source_patient_info": "context.sourcePatientInfo",
    "reference_ids": "context.related",
    "authors": "author",
    "relationships": "relatesTo",
}
_SET: Final[Mapping[str, str]] = {
    "unique_id": "identifier",
    "source_id": "extension('https://profiles.ihe.net/ITI/MHD/StructureDefinition/ihe-sourceId')",
    "content_type": "extension('https://profiles.ihe.net/ITI/MHD/StructureDefinition/ihe-designationType')",
    "author": "source",
    "title": "title",
}
_SEARCH: Final[Mapping[str, str]] = {
    "type_codes": "type",
    "class_codes": "category",
    "format_codes": "format",
    "facility_types": "facility",
    "practice_settings": "setting",
    "confidentiality_codes": "security-label",
    "event_codes": "event",
    "authors": "author",
    "reference_ids": "related",
    "unique_ids": "identifier",
    "documents": "_id",
    "related_to": "relatesto",
    "relationship_types": "relation",
    "service_stop_time": "period-end",
    "order": "_sort",
    "statuses": "status",
    "unique_id": "identifier",
    "submit_time": "date",
    "create_time": "creation",
    "service_time": "period",
    "page_size": "_count",
    "page_token": "_page",
    "parent": "patient.identifier",
}
_OF_DOCUMENT: Final = re.compile(r"documents\[(\d{1,3})\](?:\.document)?(?:\.(\w+)(\[\d{1,3}\])?)?(.*)", re.ASCII)
_HEAD: Final = re.compile(r"(?:submission_set\.)?(\w+)")

FieldMap = Callable[[str], str]


def translate(error: DmpError, path_of: FieldMap) -> DmpError:
    """The same error, its fields named as the caller knows them."""
    fields = [FieldViolation(path_of(field.field), field.rule, field.description) for field in error.fields]
    return DmpError(error.reason, error.message, fields=fields, metadata=error.metadata, retry_after=error.retry_after)


def search_field(field: str) -> str:
    """The parameter that a field of SearchDocuments came from."""
    head = _HEAD.match(field)
    return _SEARCH.get(head[1], field) if head else field


def submission_field(submission: Submission) -> FieldMap:
    """Where in the resources of this submission a field of SubmitDocuments came from."""

    def path_of(field: str) -> str:
        if field == "request_id":
            return "Idempotency-Key"
        if field == "parent":
            return submission.patient.field
        match = _OF_DOCUMENT.fullmatch(field)
        if match is not None and int(match[1]) < len(submission.document_paths):
            return _document_path(match, submission)
        if field == "documents":
            return submission.document_paths[0] if len(submission.document_paths) == 1 else "Bundle.entry"
        if field.startswith("submission_set.") and submission.set_path in submission.document_paths:
            return submission.set_path  # ITI-105 has no submission set of its own
        if field.startswith("submission_set."):
            head = _HEAD.match(field)
            return f"{submission.set_path}.{_SET.get(head[1], head[1])}" if head else submission.set_path
        return field

    return path_of


def _document_path(match: re.Match[str], submission: Submission) -> str:
    index, name = int(match[1]), match[2]
    base = submission.document_paths[index]
    if not name:
        return base
    if name == "content":
        return submission.content_paths[index]
    element = _DOCUMENT.get(name)
    if element is None:
        return base
    return f"{base}.{element}{match[3] or ''}" if name == "authors" else f"{base}.{element}"
