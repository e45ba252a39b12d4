"""ITI-65 (Provide Document Bundle) and ITI-105 (Simplified Publish) to one SubmitDocuments request. Pure.

Which entries a Bundle may have is in `submission_slots`; replacements and their patches in `relations`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import orjson

from dmp.common.v1.error_reason_pb2 import ERROR_REASON_MISSING_DOCUMENT
from dmp.document.v1.document_pb2 import (
    RELATIONSHIP_TYPE_REPLACES,
    Document,
    Folder,
    SubmissionSet,
    SubmitDocumentsRequest,
    SubmitDocumentsResponse,
    SubmittedDocument,
)
from gateway.fhir.codesystems import is_oid
from gateway.fhir.concepts import read_concept
from gateway.fhir.document_in import (
    COMPREHENSIVE,
    SIMPLIFIED,
    add_source_patient,
    attachment_of,
    mime_type,
    read_document,
)
from gateway.fhir.document_out import Links
from gateway.fhir.identifiers import (
    PatientLink,
    is_kind,
    read_patient,
    read_unique_id,
    unique_id_token,
    uuid_oid,
)
from gateway.fhir.node import LONGEST_URI, JsonObject, Node
from gateway.fhir.people import read_author
from gateway.fhir.refusals import metadata, unsupported
from gateway.fhir.relations import read_relations, read_superseding
from gateway.fhir.submission_patient import one_patient
from gateway.fhir.submission_slots import (
    Slot,
    SlotKind,
    by_full_url,
    check_set_members,
    members_of,
    patient_slot,
    read_slots,
    submission_set_slot,
)
from gateway.fhir.times import timestamp, write
from gateway.fhir.xml_write import to_xml
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.identifiers import child_of

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

SOURCE_ID: Final = f"{_MHD}/ihe-sourceId"
DESIGNATION: Final = f"{_MHD}/ihe-designationType"
AUTHOR_ORG: Final = f"{_MHD}/ihe-authorOrg"
FOLDER_PROFILES: Final = (f"{_PDSM}/pdsm-folder-comprehensive", f"{_MHD}/IHE.MHD.Comprehensive.Folder")

_JSON: Final = frozenset({"application/fhir+json", "application/json"})
_XML: Final = frozenset({"application/fhir+xml", "application/xml", "text/xml"})


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
    """An entry of the answer: which resource it made, and which document or folder it belongs to (-1 for the set and
    the patient)."""

    kind: SlotKind
    index: int


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


def read_simplified(resource: Node, links: Links, key: SubmissionKey) -> Submission:
    """The submission of ITI-105: one DocumentReference with its content in `attachment.data`."""
    _check_profile(resource, SIMPLIFIED_PROFILES, required=False)
    patient = read_patient(resource.child("subject"), links.base_url)
    document = read_document(resource, SIMPLIFIED)
    attachment = attachment_of(resource)
    if attachment.child("url").present:
        raise unsupported(f"{attachment.path}.url", "the content is in attachment.data")
    request = SubmitDocumentsRequest(
        submission_set=SubmissionSet(unique_id=key.unique_id, source_id=key.source_id),
        documents=[
            SubmittedDocument(
                document=document, content=_bytes(attachment), relationships=read_relations(resource, links)
            )
        ],
        request_id=key.request_id,
    )
    if document.authors:
        request.submission_set.author.CopyFrom(document.authors[0])
    data = f"{attachment.path}.data"
    return Submission(request, patient, [Entry("DocumentReference", 0)], resource.path, [resource.path], [data])


def read_bundle(bundle: Node, links: Links, key: SubmissionKey, *, taken_over: bool = False) -> Submission:
    """The submission of ITI-65. One that is `taken_over` from another host may lack what that host did not ask for."""
    bundle.refuse_modifiers()
    if bundle.child("type").required().token() != "transaction":
        raise bundle.child("type").error("code", "the Bundle is a transaction")
    _check_profile(bundle, BUNDLE_PROFILES, required=True)
    slots = read_slots(bundle)
    by_url = by_full_url(slots)
    set_slot = submission_set_slot(bundle, slots)
    documents = [slot for slot in slots if slot.kind == "DocumentReference"]
    folders = [slot for slot in slots if slot.kind == "Folder"]
    if not documents:
        raise metadata(f"{bundle.path}.entry", "required", "at least one DocumentReference")
    check_set_members(set_slot, [*documents, *folders])
    person = patient_slot(slots)
    patient = one_patient(set_slot, [*documents, *folders], person, links.base_url)
    request = SubmitDocumentsRequest(submission_set=_read_set(set_slot.resource, key), request_id=key.request_id)
    if not taken_over:
        set_slot.resource.extension(DESIGNATION).required()
    owners: dict[str, int] = {}
    content_paths = []
    for index, slot in enumerate(documents):
        content = _content_of(slot, by_url, owners)
        owners[content.full_url] = index
        content_paths.append(content.resource.path if content.kind == "Bundle" else f"{content.resource.path}.data")
        request.documents.append(_submitted(slot, content, person, links))
    for slot in folders:
        _read_folder(slot, documents, request)
    entries = [_answer_entry(slot, documents, folders, owners, request, links) for slot in slots]
    paths = [slot.resource.path for slot in documents]
    return Submission(request, patient, entries, set_slot.resource.path, paths, content_paths)


def write_response(submission: Submission, response: SubmitDocumentsResponse, links: Links) -> JsonObject:
    """The transaction-response: an entry for each entry of the request, in its order."""
    entries = []
    for entry in submission.entries:
        status = "201 Created"
        if entry.kind == "List":
            location = f"List/{links.list_id(response.submission_set.name)}"
            moment, version = response.submission_set.submit_time, 1
        elif entry.kind == "Folder" and entry.index < 0:
            entries.append({"response": {"status": "200 OK"}})
            continue
        elif entry.kind == "Patient":
            health_id = child_of(response.submission_set.name, "submissionSets", "name")[0]
            found = f"Patient/{links.patient_id(health_id)}"
            entries.append({"response": {"status": "200 OK", "location": found}})
            continue
        elif entry.kind == "Folder":
            folder = response.folders[entry.index]
            location, moment, version = f"List/{links.folder_id(folder.name)}", folder.update_time, 1
        elif entry.kind == "Patch":
            entries.append({"response": _patched(response.documents[entry.index], links)})
            continue
        else:
            document = response.documents[entry.index]
            kind = "DocumentReference" if entry.kind == "DocumentReference" else "Binary"
            id_ = links.document_id if kind == "DocumentReference" else links.binary_id
            location = f"{kind}/{id_(document.name)}"
            moment, version = document.submit_time, document.version or 1
        outcome = {"status": status, "location": location, "etag": f'W/"{version}"', "lastModified": write(moment)}
        entries.append({"response": outcome})
    return {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}


def _patched(document: Document, links: Links) -> JsonObject:
    """The answer to the PATCH of what this document replaced."""
    replaced = [each.target for each in document.relationships if each.type == RELATIONSHIP_TYPE_REPLACES]
    outcome: JsonObject = {"status": "200 OK", "lastModified": write(document.submit_time)}
    if replaced and replaced[0]:
        outcome["location"] = f"DocumentReference/{links.document_id(replaced[0])}"
    return outcome


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
        comments=_note(resource),
    )
    designation = resource.extension(DESIGNATION)
    if designation.present:
        submission_set.content_type.CopyFrom(read_concept(designation.child("valueCodeableConcept").required()))
    source = resource.child("source")
    if source.present:
        organization = source.extension(AUTHOR_ORG)
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
    value = resource.extension(SOURCE_ID).required().child("valueIdentifier").required().child("value").required()
    oid = value.token(LONGEST_URI).removeprefix("urn:oid:")
    if not is_oid(oid):
        raise value.error("oid", "the source id is an OID: urn:oid:…")
    return oid


def _note(resource: Node) -> str:
    """The text of the first note of a List."""
    notes = resource.children("note", 4)
    return notes[0].text(4096, "text") if notes else ""


def _read_folder(slot: Slot, documents: Sequence[Slot], request: SubmitDocumentsRequest) -> None:
    """A folder of a submission: itself, and its name in each document that it holds."""
    resource = slot.resource
    resource.refuse_modifiers()
    _check_profile(resource, FOLDER_PROFILES, required=False)
    designation = resource.extension(DESIGNATION).child("valueCodeableConcept")
    if slot.held:
        unique_id = _named_folder(slot)
    else:
        unique_id = _set_unique_id(resource) or uuid_oid(uuid.uuid5(uuid.NAMESPACE_URL, slot.full_url))
        folder = Folder(unique_id=unique_id, title=resource.text(512, "title"), comments=_note(resource))
        if designation.present:
            folder.codes.append(read_concept(designation))
        request.folders.append(folder)
    places = {each.full_url: index for index, each in enumerate(documents)}
    for reference in members_of(slot):
        index = places.get(reference.token(LONGEST_URI))
        if index is None:
            raise metadata(reference.path, "member", "a folder of a submission holds DocumentReferences of this Bundle")
        request.documents[index].folders.append(unique_id)


def _named_folder(slot: Slot) -> str:
    """The uniqueId by which an entry names a folder that is there; what the resource says besides stays as it is."""
    url = slot.entry.child("request").child("url")
    text = unquote(url.token(LONGEST_URI).removeprefix("List?identifier="))
    return unique_id_token(text, url.path)


def _content_of(slot: Slot, by_url: Mapping[str, Slot], owners: Mapping[str, int]) -> Slot:
    attachment = attachment_of(slot.resource)
    if attachment.child("data").present:
        raise unsupported(f"{attachment.path}.data", "in a Bundle the content is in a Binary entry")
    url = attachment.child("url")
    found = by_url.get(url.required().token(LONGEST_URI))
    if found is None or found.kind not in ("Binary", "Bundle"):
        raise _missing_document(url, "no Binary or document Bundle of this Bundle has this fullUrl")
    if found.full_url in owners:
        raise metadata(url.path, "unique", "each DocumentReference has a content of its own")
    return found


def _submitted(slot: Slot, content: Slot, person: Slot | None, links: Links) -> SubmittedDocument:
    _check_profile(slot.resource, DOCUMENT_PROFILES, required=False)
    document = read_document(slot.resource, COMPREHENSIVE)
    if person is not None and not document.HasField("source_patient_info"):
        add_source_patient(document, person.resource)
    submitted = SubmittedDocument(document=document, relationships=read_relations(slot.resource, links))
    if content.kind == "Bundle":
        submitted.content = _document_bundle(content.resource, document.mime_type)
        return submitted
    content_type = content.resource.child("contentType").required()
    if mime_type(content_type) != document.mime_type:
        raise metadata(content_type.path, "mime_type", "the Binary has the content type of its DocumentReference")
    submitted.content = _bytes(content.resource)
    return submitted


def _document_bundle(bundle: Node, kind: str) -> bytes:
    """The bytes of a FHIR document: written as its DocumentReference says, whatever the format of the request."""
    if bundle.child("type").required().token() != "document":
        raise bundle.child("type").error("code", "a Bundle that is a content is a document")
    if kind in _JSON:
        return orjson.dumps(bundle.value)
    if kind in _XML:
        try:
            return to_xml(bundle.value)
        except (TypeError, KeyError, AttributeError):
            raise metadata(bundle.path, "structure", "the document has an element that R4 does not have") from None
    raise metadata(bundle.path, "mime_type", "a document Bundle is application/fhir+json or application/fhir+xml")


def _bytes(holder: Node) -> bytes:
    data = holder.child("data")
    content = holder.base64("data")
    if not content:
        raise _missing_document(data, "the content is the base64 of at least one byte")
    return content


def _missing_document(node: Node, description: str) -> DmpError:
    return DmpError(ERROR_REASON_MISSING_DOCUMENT, fields=[FieldViolation(node.path, "required", description)])


def _answer_entry(
    slot: Slot,
    documents: Sequence[Slot],
    folders: Sequence[Slot],
    owners: Mapping[str, int],
    request: SubmitDocumentsRequest,
    links: Links,
) -> Entry:
    if slot.kind in ("List", "Patient"):
        return Entry(slot.kind, -1)
    if slot.kind == "Folder":
        return Entry("Folder", -1 if slot.held else [each for each in folders if not each.held].index(slot))
    if slot.kind == "DocumentReference":
        return Entry("DocumentReference", documents.index(slot))
    if slot.kind == "Patch":
        return Entry("Patch", read_superseding(slot, request, links))
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
