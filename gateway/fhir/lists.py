"""ITI-66: submission sets and folders as Lists, and the search for them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from dmp.document.v1 import document_pb2
from dmp.document.v1.document_pb2 import (
    Document,
    Folder,
    ListFoldersRequest,
    ListSubmissionSetsRequest,
    SubmissionSet,
    TimeRange,
)
from gateway.fhir.concepts import write_concept
from gateway.fhir.document_out import Links, subject
from gateway.fhir.identifiers import (
    RFC_3986,
    PatientLink,
    known_identifier,
    typed_identifier,
    unique_id_token,
    write_unique_id,
)
from gateway.fhir.node import JsonObject
from gateway.fhir.parameters import Parameters, SearchParameter
from gateway.fhir.people import write_author
from gateway.fhir.refusals import invalid
from gateway.fhir.search import (
    PATIENT_NAMES,
    check_newest_first,
    dates,
    read_identifiers,
    read_names,
    read_page,
    read_patient_parameter,
)
from gateway.fhir.submission import AUTHOR_ORG, DESIGNATION, FOLDER_PROFILES, LIST_PROFILES, SOURCE_ID
from gateway.fhir.submission_slots import LIST_TYPES
from gateway.fhir.times import narrow, write
from services.runtime.errors import DmpError
from services.runtime.identifiers import child_of

PARAMETERS: Final = (
    SearchParameter("patient.identifier", "token", "system|value of the patient; this or patient is required"),
    SearchParameter("patient", "reference", "Patient/{id} as given in answers, or Patient?identifier=system|value"),
    SearchParameter("code", "token", "submissionset or folder"),
    SearchParameter("status", "token", "current"),
    SearchParameter("date", "date", "when it was submitted, or for a folder when a document was last put into it"),
    SearchParameter("identifier", "token", "uniqueId or entryUUID: urn:ietf:rfc:3986|urn:oid:…"),
    SearchParameter("source.identifier", "token", "system|value of the author of a submission set"),
    SearchParameter("source", "token", "the same as source.identifier"),
    SearchParameter("source.family", "string", "beginning of the family name of a submission set's author"),
    SearchParameter("source.given", "string", "beginning of a given name of a submission set's author"),
    SearchParameter("authorOrg", "token", "system|value of the structure of a submission set's author"),
    SearchParameter("sourceId", "token", "system|urn:oid:… of the system that sent a submission set"),
    SearchParameter("designationType", "token", "code of the act that led to it"),
    SearchParameter("isArchived", "token", "true finds nothing: documents are archived, never a List"),
    SearchParameter("_id", "token", "id as given in answers"),
    SearchParameter("_lastUpdated", "date", "the same as date: a submission set does not change"),
)
NAMES: Final = frozenset({parameter.name for parameter in PARAMETERS} | PATIENT_NAMES | {"_count", "_page", "_sort"})
LARGEST_PAGE: Final = 50
"""Each List is read with its members."""

ListKind = Literal["submissionset", "folder"]


@dataclass(frozen=True, slots=True)
class ListSearch:
    """A search as read: one of the two requests without its dossier, and the patient it names."""

    kind: ListKind
    request: ListSubmissionSetsRequest | ListFoldersRequest
    patient: PatientLink
    pairs: Sequence[tuple[str, str]]
    only_total: bool
    impossible: bool
    """Whether the criteria can match nothing, such as a status that no List has."""


def read_search(parameters: Parameters, links: Links) -> ListSearch:
    """The search that these parameters ask for."""
    patient = read_patient_parameter(parameters, links.base_url)
    check_newest_first(parameters)
    code = parameters.single("code").rpartition("|")[2]
    if code not in ("submissionset", "folder"):
        raise invalid("code", "required", "submissionset or folder")
    page = read_page(parameters, LARGEST_PAGE)
    unique_id = ""
    if parameters.single("identifier"):
        unique_id = unique_id_token(parameters.single("identifier"), "identifier")
    types = [text.rpartition("|")[2] for text in parameters.alternatives("designationType")]
    name = _name(links, parameters.single("_id"), code)
    impossible = name is None or not _may_be_current(parameters) or _archived(parameters)
    request: ListSubmissionSetsRequest | ListFoldersRequest
    if code == "submissionset":
        request = ListSubmissionSetsRequest(
            unique_id=unique_id,
            page_size=page.size or 20,
            page_token=page.token,
            content_types=types,
            authors=read_identifiers(parameters, "source.identifier", "source"),
            author_institutions=read_identifiers(parameters, "authorOrg"),
            source_id=_source_id(parameters),
            author_family_names=read_names(parameters, "source.family"),
            author_given_names=read_names(parameters, "source.given"),
            submission_set=name or "",
        )
        _narrow(parameters, request.submit_time)
        return ListSearch("submissionset", request, patient, parameters.pairs, page.only_total, impossible)
    request = ListFoldersRequest(
        unique_id=unique_id, page_size=page.size or 20, page_token=page.token, codes=types, folder=name or ""
    )
    _narrow(parameters, request.update_time)
    pairs = [pair for pair in parameters.pairs if pair[0] not in _OF_SETS]
    return ListSearch("folder", request, patient, pairs, page.only_total, impossible)


def write_submission_set(
    found: SubmissionSet, documents: Sequence[Document], links: Links, asked: tuple[str, str] | None = None
) -> JsonObject:
    """The List of a submission set with those of its documents that the caller may know of."""
    health_id, entity = child_of(found.name, "submissionSets", "name")
    resource: JsonObject = {
        "resourceType": "List",
        "id": links.list_id(found.name),
        "meta": {"versionId": "1"},
        "extension": [],
        "identifier": [
            typed_identifier("uniqueId", write_unique_id(found.unique_id)),
            typed_identifier("entryUUID", {"system": RFC_3986, "value": f"urn:uuid:{entity}"}),
        ],
        "status": "current",
        "mode": "working",
        "title": found.title,
        "code": _code("submissionset"),
        "subject": subject(links, health_id, asked),
        "date": write(found.submit_time),
        "note": [{"text": found.comments}] if found.comments else [],
        "entry": _entries(documents, links),
    }
    if found.HasField("content_type") and found.source_id and found.HasField("author"):
        resource["meta"]["profile"] = [LIST_PROFILES[0]]  # another host may not have asked for them
    if found.HasField("content_type"):
        resource["extension"].append({"url": DESIGNATION, "valueCodeableConcept": write_concept(found.content_type)})
    if found.source_id:
        identifier = {"system": RFC_3986, "value": f"urn:oid:{found.source_id}"}
        resource["extension"].append({"url": SOURCE_ID, "valueIdentifier": identifier})
    if found.HasField("author"):
        resource["contained"] = write_author(found.author, "source")
        if resource["contained"][0]["resourceType"] == "Organization":
            resource["source"] = {"extension": [{"url": AUTHOR_ORG, "valueReference": {"reference": "#source"}}]}
        else:
            resource["source"] = {"reference": "#source"}
    return {name: value for name, value in resource.items() if value not in ("", [], {})}


def write_folder(
    folder: Folder, documents: Sequence[Document], links: Links, asked: tuple[str, str] | None = None
) -> JsonObject:
    """The List of a folder with those of its documents that the caller may know of."""
    health_id, entity = child_of(folder.name, "folders", "name")
    resource: JsonObject = {
        "resourceType": "List",
        "id": links.folder_id(folder.name),
        "meta": {"versionId": "1", "profile": [FOLDER_PROFILES[0]]},
        "extension": [{"url": DESIGNATION, "valueCodeableConcept": write_concept(code)} for code in folder.codes],
        "identifier": [
            typed_identifier("uniqueId", write_unique_id(folder.unique_id)),
            typed_identifier("entryUUID", {"system": RFC_3986, "value": f"urn:uuid:{entity}"}),
        ],
        "status": "current",
        "mode": "working",
        "title": folder.title,
        "code": _code("folder"),
        "subject": subject(links, health_id, asked),
        "date": write(folder.update_time),
        "note": [{"text": folder.comments}] if folder.comments else [],
        "entry": _entries(documents, links),
    }
    return {name: value for name, value in resource.items() if value not in ("", [], {})}


def document_search(name: str, kind: ListKind, parent: str) -> document_pb2.SearchDocumentsRequest:
    """The documents of a List, whatever their status."""
    request = document_pb2.SearchDocumentsRequest(parent=parent, page_size=200, statuses=_EVERY_STATUS)
    if kind == "folder":
        request.folder = name
    else:
        request.submission_set = name
    return request


_EVERY_STATUS: Final = (
    document_pb2.DOCUMENT_STATUS_APPROVED,
    document_pb2.DOCUMENT_STATUS_DEPRECATED,
    document_pb2.DOCUMENT_STATUS_ARCHIVED,
)


def _entries(documents: Sequence[Document], links: Links) -> list[JsonObject]:
    return [{"item": {"reference": f"DocumentReference/{links.document_id(document.name)}"}} for document in documents]


def _code(code: str) -> JsonObject:
    return {"coding": [{"system": LIST_TYPES, "code": code}]}


_OF_SETS: Final = frozenset({"source", "source.identifier", "source.family", "source.given", "authorOrg", "sourceId"})
"""What a search for folders leaves out, as ITI-66 has it (table 2:3.66.4.1.3.1-2, note 3)."""


def _may_be_current(parameters: Parameters) -> bool:
    """Whether `status` allows the one status that Lists have."""
    statuses = parameters.alternatives("status")
    return not statuses or "current" in [status.rpartition("|")[2] for status in statuses]


def _archived(parameters: Parameters) -> bool:
    """Whether archived Lists alone are asked for: documents are archived, never a List."""
    archived = parameters.single("isArchived")
    if archived not in ("", "true", "false"):
        raise invalid("isArchived", "code", "true or false")
    return archived == "true"


def _narrow(parameters: Parameters, range_: TimeRange) -> None:
    for name in ("date", "_lastUpdated"):
        for value in dates(parameters, name):
            narrow(range_, value, name)


def _name(links: Links, id_: str, kind: str) -> str | None:
    """The name behind the id of a List of a kind, '' without one; None for an id that is not ours, or not of it."""
    if not id_:
        return ""
    try:
        return links.folder_of(id_) if kind == "folder" else links.set_of(id_)
    except DmpError:
        return None


def _source_id(parameters: Parameters) -> str:
    text = parameters.single("sourceId")
    if not text:
        return ""
    value = text.rpartition("|")[2].removeprefix("urn:oid:")
    return known_identifier(f"urn:oid:{value}", "x", "sourceId").system
