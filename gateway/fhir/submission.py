"""ITI-65 (Provide Document Bundle) and ITI-105 (Simplified Publish) to one SubmitDocuments request. Pure.

A Bundle has closed slices: one SubmissionSet List, DocumentReferences, and their Binaries. What is not linked, linked
twice, or of another kind is refused, so that nothing is accepted that would not be stored.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from dmp.common.v1.error_reason_pb2 import ERROR_REASON_MISSING_DOCUMENT
from dmp.document.v1.document_pb2 import (
    SubmissionSet,
    SubmitDocumentsRequest,
    SubmitDocumentsResponse,
    SubmittedDocument,
)
from gateway.fhir.codesystems import is_oid
from gateway.fhir.concepts import read_concept
from gateway.fhir.document_in import COMPREHENSIVE, SIMPLIFIED, attachment_of, mime_type, read_document
from gateway.fhir.document_out import Links
from gateway.fhir.identifiers import PatientLink, is_kind, mismatch, read_patient, read_unique_id, uuid_oid
from gateway.fhir.node import LONGEST_URI, JsonObject, Node
from gateway.fhir.people import read_author
from gateway.fhir.refusals import metadata, unsupported
from gateway.fhir.times import timestamp, write
from services.runtime.errors import DmpError, FieldViolation

MOST_ENTRIES: Final = 129
"""A SubmissionSet and 64 documents, each with its Binary."""

_MHD: Final = "https://profiles.ihe.net/ITI/MHD/StructureDefinition"
_PDSM: Final = "https://interop.esante.gouv.fr/ig/fhir/pdsm/StructureDefinition"
BUNDLE_PROFILES: Final = (
    f"{_PDSM}/pdsm-comprehensive-provide-document-bundle",
    f"{_MHD}/IHE.MHD.Comprehensive.ProvideBundle",
)
LIST_PROFILES: Final = (f"{_PDSM}/pdsm-submissionset-comprehensive", f"{_MHD}/IHE.MHD.Comprehensive.SubmissionSet")
DOCUMENT_PROFILES: Final = (
    f"{_PDSM}/pdsm-comprehensive-document-reference",
    f"{_MHD}/IHE.MHD.Comprehensive.DocumentReference",
)
SIMPLIFIED_PROFILES: Final = (f"{_PDSM}/pdsm-simplified-publish", f"{_MHD}/IHE.MHD.SimplifiedPublish.DocumentReference")

_SOURCE_ID: Final = f"{_MHD}/ihe-sourceId"
_DESIGNATION: Final = f"{_MHD}/ihe-designationType"
_AUTHOR_ORG: Final = f"{_MHD}/ihe-authorOrg"
_LIST_TYPES: Final = "https://profiles.ihe.net/ITI/MHD/CodeSystem/MHDlistTypes"

EntryKind = Literal["List", "DocumentReference", "Binary"]
_SLICES: Final[Mapping[str, EntryKind]] = {"List": "List", "DocumentReference": "DocumentReference", "Binary": "Binary"}


@dataclass(frozen=True, slots=True)
class SubmissionKey:
    """What ids that the sender left out are derived from: the same for a retry, so that it is the same request."""

    client_id: str
    request_id: str

    @property
    def source_id(self) -> str:
        """An OID for the sending software."""
        return uuid_oid(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:dmp:client:{self.client_id}"))

    @property
    def unique_id(self) -> str:
        """An OID for the submission set."""
        name = f"urn:dmp:submission:{self.client_id}:{self.request_id}"
        return uuid_oid(uuid.uuid5(uuid.NAMESPACE_URL, name))


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the answer: which resource it made, and which document it belongs to (-1 for the set)."""

    kind: EntryKind
    document: int


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission as read: the request without its dossier, the patient it names, and how to speak of its fields.

    `document_paths` and `content_paths` are the FHIR paths of each document and of its content; `set_path` that of the
    submission set.
    """

    request: SubmitDocumentsRequest
    patient: PatientLink
    entries: Sequence[Entry]
    set_path: str
    document_paths: Sequence[str]
    content_paths: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Slot:
    """An entry of a Bundle that comes in."""

    kind: EntryKind
    full_url: str
    entry: Node
    resource: Node


def read_simplified(resource: Node, base_url: str, key: SubmissionKey) -> Submission:
    """The submission of ITI-105: one DocumentReference with its content in `attachment.data`."""
    _check_profile(resource, SIMPLIFIED_PROFILES, required=False)
    patient = read_patient(resource.child("subject"), base_url)
    document = read_document(resource, SIMPLIFIED)
    attachment = attachment_of(resource)
    if attachment.child("url").present:
        raise unsupported(f"{attachment.path}.url", "the content is in attachment.data")
    request = SubmitDocumentsRequest(
        submission_set=SubmissionSet(unique_id=key.unique_id, source_id=key.source_id),
        documents=[SubmittedDocument(document=document, content=_bytes(attachment))],
        request_id=key.request_id,
    )
    if document.authors:
        request.submission_set.author.CopyFrom(document.authors[0])
    data = f"{attachment.path}.data"
    return Submission(request, patient, [Entry("DocumentReference", 0)], resource.path, [resource.path], [data])


def read_bundle(bundle: Node, base_url: str, key: SubmissionKey) -> Submission:
    """The submission of ITI-65."""
    bundle.refuse_modifiers()
    if bundle.child("type").required().token() != "transaction":
        raise bundle.child("type").error("code", "the Bundle is a transaction")
    _check_profile(bundle, BUNDLE_PROFILES, required=True)
    slots = [_slot(entry) for entry in bundle.child("entry").required().array(MOST_ENTRIES)]
    by_url = _by_full_url(slots)
    set_slot = _submission_set_slot(bundle, slots)
    documents = [slot for slot in slots if slot.kind == "DocumentReference"]
    if not documents:
        raise metadata(f"{bundle.path}.entry", "required", "at least one DocumentReference")
    _check_set_members(set_slot, documents)
    patient = _one_patient(set_slot, documents, base_url)
    request = SubmitDocumentsRequest(submission_set=_read_set(set_slot.resource, key), request_id=key.request_id)
    owners: dict[str, int] = {}
    content_paths = []
    for index, slot in enumerate(documents):
        binary = _binary_of(slot, by_url, owners)
        owners[binary.full_url] = index
        content_paths.append(f"{binary.resource.path}.data")
        request.documents.append(_submitted(slot, binary))
    return Submission(
        request,
        patient,
        [_answer_entry(slot, documents, owners) for slot in slots],
        set_slot.resource.path,
        [slot.resource.path for slot in documents],
        content_paths,
    )


def write_response(submission: Submission, response: SubmitDocumentsResponse, links: Links) -> JsonObject:
    """The transaction-response: an entry for each entry of the request, in its order."""
    entries = []
    for entry in submission.entries:
        if entry.kind == "List":
            location = f"List/{links.list_id(response.submission_set.name)}"
            moment = response.submission_set.submit_time
        else:
            document = response.documents[entry.document]
            id_ = links.document_id if entry.kind == "DocumentReference" else links.binary_id
            location = f"{entry.kind}/{id_(document.name)}"
            moment = document.submit_time
        outcome = {"status": "201 Created", "location": location, "etag": 'W/"1"', "lastModified": write(moment)}
        entries.append({"response": outcome})
    return {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}


def _slot(entry: Node) -> _Slot:
    resource = entry.child("resource")
    request = entry.child("request")
    method = request.child("method").required().token()
    if method != "POST":
        raise unsupported(f"{request.path}.method", "every entry is a POST: replacing and patching are not offered")
    for condition in ("ifNoneExist", "ifMatch", "ifNoneMatch", "ifModifiedSince"):
        if request.child(condition).present:
            raise unsupported(f"{request.path}.{condition}", "conditional entries are not offered")
    kind = _SLICES.get(resource.required().child("resourceType").required().token())
    if kind is None:
        raise unsupported(entry.path, "a submission has one SubmissionSet List, DocumentReferences and their Binaries")
    if request.child("url").required().token(LONGEST_URI) != kind:
        raise request.child("url").error("url", f"the url of this entry is {kind}")
    full_url = entry.child("fullUrl").required().token(LONGEST_URI)
    return _Slot(kind, full_url, entry, resource)


def _by_full_url(slots: Sequence[_Slot]) -> dict[str, _Slot]:
    found: dict[str, _Slot] = {}
    for slot in slots:
        if slot.full_url in found:
            raise metadata(f"{slot.entry.path}.fullUrl", "unique", "each entry has a fullUrl of its own")
        found[slot.full_url] = slot
    return found


def _submission_set_slot(bundle: Node, slots: Sequence[_Slot]) -> _Slot:
    found: list[_Slot] = []
    for slot in slots:
        if slot.kind != "List":
            continue
        codings = slot.resource.child("code").required().children("coding", 16)
        codes = {c.token(name="code") for c in codings if c.uri("system") == _LIST_TYPES}
        if "submissionset" not in codes:
            description = "folders are not offered here" if "folder" in codes else "the List is a submissionset"
            raise unsupported(f"{slot.resource.path}.code", description)
        found.append(slot)
    if not found:
        raise metadata(f"{bundle.path}.entry", "required", "a submission has one SubmissionSet List")
    if len(found) > 1:
        raise metadata(found[1].entry.path, "max_items", "a submission has one SubmissionSet List")
    return found[0]


def _check_set_members(set_slot: _Slot, documents: Sequence[_Slot]) -> None:
    """The List names each DocumentReference of the Bundle, once, and nothing else."""
    missing = {slot.full_url: slot for slot in documents}
    for member in set_slot.resource.children("entry", MOST_ENTRIES):
        reference = member.child("item").required().child("reference")
        if missing.pop(reference.required().token(LONGEST_URI), None) is None:
            raise metadata(reference.path, "member", "each member is a DocumentReference of this Bundle, named once")
    for slot in missing.values():
        raise metadata(slot.entry.path, "member", "the SubmissionSet List does not name this DocumentReference")


def _one_patient(set_slot: _Slot, documents: Sequence[_Slot], base_url: str) -> PatientLink:
    patient = read_patient(set_slot.resource.child("subject"), base_url)
    for slot in documents:
        other = read_patient(slot.resource.child("subject"), base_url)
        if not patient.same_patient(other):
            raise mismatch(other.field, "every resource of a submission names the patient of the SubmissionSet")
    return patient


def _read_set(resource: Node, key: SubmissionKey) -> SubmissionSet:
    resource.refuse_modifiers()
    _check_profile(resource, LIST_PROFILES, required=False)
    for name, expected in (("status", "current"), ("mode", "working")):
        if resource.child(name).required().token() != expected:
            raise metadata(f"{resource.path}.{name}", "code", f"the {name} of a submission set is {expected}")
    timestamp(resource.child("date").required())
    submission_set = SubmissionSet(
        unique_id=_set_unique_id(resource) or key.unique_id,
        source_id=_source_id(resource),
        title=resource.text(512, "title"),
    )
    designation = resource.extension(_DESIGNATION)
    if designation.present:
        submission_set.content_type.CopyFrom(read_concept(designation.child("valueCodeableConcept").required()))
    source = resource.child("source")
    if source.present:
        organization = source.extension(_AUTHOR_ORG)
        author = organization.child("valueReference").required() if organization.present else source
        submission_set.author.CopyFrom(read_author(resource, author))
    return submission_set


def _set_unique_id(resource: Node) -> str:
    """The identifier that says it is the uniqueId, else the only one; '' when there is none."""
    identifiers = resource.children("identifier", 8)
    chosen = [item for item in identifiers if is_kind(item, "uniqueId")] or [
        item for item in identifiers if not is_kind(item, "entryUUID")
    ]
    return read_unique_id(chosen[0]) if chosen else ""


def _source_id(resource: Node) -> str:
    value = resource.extension(_SOURCE_ID).required().child("valueIdentifier").required().child("value").required()
    oid = value.token(LONGEST_URI).removeprefix("urn:oid:")
    if not is_oid(oid):
        raise value.error("oid", "the source id is an OID: urn:oid:…")
    return oid


def _binary_of(slot: _Slot, by_url: Mapping[str, _Slot], owners: Mapping[str, int]) -> _Slot:
    attachment = attachment_of(slot.resource)
    if attachment.child("data").present:
        raise unsupported(f"{attachment.path}.data", "in a Bundle the content is in a Binary entry")
    url = attachment.child("url")
    found = by_url.get(url.required().token(LONGEST_URI))
    if found is None or found.kind != "Binary":
        raise _missing_document(url, "no Binary of this Bundle has this fullUrl")
    if found.full_url in owners:
        raise metadata(url.path, "unique", "each DocumentReference has a Binary of its own")
    return found


def _submitted(slot: _Slot, binary: _Slot) -> SubmittedDocument:
    _check_profile(slot.resource, DOCUMENT_PROFILES, required=False)
    document = read_document(slot.resource, COMPREHENSIVE)
    content_type = binary.resource.child("contentType").required()
    if mime_type(content_type) != document.mime_type:
        raise metadata(content_type.path, "mime_type", "the Binary has the content type of its DocumentReference")
    return SubmittedDocument(document=document, content=_bytes(binary.resource))


def _bytes(holder: Node) -> bytes:
    data = holder.child("data")
    content = holder.base64("data")
    if not content:
        raise _missing_document(data, "the content is the base64 of at least one byte")
    return content


def _missing_document(node: Node, description: str) -> DmpError:
    return DmpError(ERROR_REASON_MISSING_DOCUMENT, fields=[FieldViolation(node.path, "required", description)])


def _answer_entry(slot: _Slot, documents: Sequence[_Slot], owners: Mapping[str, int]) -> Entry:
    if slot.kind == "List":
        return Entry("List", -1)
    if slot.kind == "DocumentReference":
        return Entry("DocumentReference", documents.index(slot))
    if slot.full_url not in owners:
        raise metadata(slot.entry.path, "linked", "no DocumentReference of this Bundle has this content")
    return Entry("Binary", owners[slot.full_url])


def _profiles(resource: Node) -> Iterator[str]:
    for item in resource.child("meta").child("profile").array(16):
        yield item.token(LONGEST_URI).partition("|")[0]


def _check_profile(resource: Node, accepted: Sequence[str], *, required: bool) -> None:
    """Refuse a resource that claims other profiles only; where `required`, one that claims none."""
    claimed = list(_profiles(resource))
    if (required or claimed) and not any(profile in accepted for profile in claimed):
        raise metadata(f"{resource.path}.meta.profile", "profile", f"the profile is {accepted[0]}")
