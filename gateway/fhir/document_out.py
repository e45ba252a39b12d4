"""A Document of the record as a DocumentReference (PDSm comprehensive). Pure.

The patient is a link: the opaque Patient id of the dossier, and the identifier that the caller asked with. The civil
identity is never looked up; the source patient info is what the producer sent, in a contained Patient.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from dmp.common.v1.coding_pb2 import Author
from dmp.document.v1 import document_pb2
from dmp.document.v1.document_pb2 import Document
from gateway.fhir.codesystems import domain_uri
from gateway.fhir.concepts import write_coding, write_concept
from gateway.fhir.identifiers import RFC_3986, typed_identifier, write_identifier, write_unique_id
from gateway.fhir.node import JsonObject
from gateway.fhir.people import write_author, write_custodian, write_source_patient
from gateway.fhir.shape import SUBSETTED
from gateway.fhir.times import write
from services.runtime.identifiers import child_of, document_name, dossier_name, submission_set_name

PROFILE: Final = "https://interop.esante.gouv.fr/ig/fhir/pdsm/StructureDefinition/pdsm-comprehensive-document-reference"

_PDSM: Final = "https://interop.esante.gouv.fr/ig/fhir/pdsm/StructureDefinition"
IS_ARCHIVED: Final = f"{_PDSM}/pdsm-ext-is-archived"
IS_DELETED: Final = f"{_PDSM}/pdsm-ext-is-deleted"

STATUS_OUT: Final = {
    document_pb2.DOCUMENT_STATUS_APPROVED: "current",
    document_pb2.DOCUMENT_STATUS_DEPRECATED: "superseded",
    document_pb2.DOCUMENT_STATUS_ARCHIVED: "current",
    document_pb2.DOCUMENT_STATUS_DELETED: "entered-in-error",
}
"""FHIR has no word for an archived document: it stays current, and an extension says that it is archived."""

_NO_ENTITY: Final = uuid.UUID(int=0)
_ABSENT: Final = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"


_RELATIONS: Final = {
    document_pb2.RELATIONSHIP_TYPE_REPLACES: "replaces",
    document_pb2.RELATIONSHIP_TYPE_APPENDS: "appends",
    document_pb2.RELATIONSHIP_TYPE_TRANSFORMS: "transforms",
}


class WritesIds(Protocol):
    """Makes external ids and reads them."""

    def write(self, kind: str, health_id: int, entity: uuid.UUID) -> str:
        """The external id of an entity of a dossier."""
        ...

    def read(self, kind: str, text: str) -> tuple[int, uuid.UUID]:
        """(health id, uuid) of an external id; DOCUMENT_NOT_FOUND when it is not ours."""
        ...


@dataclass(frozen=True, slots=True)
class Links:
    """How resources point to one another: the base of URLs (no final slash) and the writer of ids."""

    base_url: str
    ids: WritesIds

    def document_of(self, id_: str) -> str:
        """The resource name of the document behind the id of a DocumentReference; DOCUMENT_NOT_FOUND if not ours."""
        return document_name(*self.ids.read("DocumentReference", id_))

    def set_of(self, id_: str) -> str:
        """The resource name of the submission set behind the id of a List; DOCUMENT_NOT_FOUND if not ours."""
        return submission_set_name(*self.ids.read("List", id_))

    def folder_of(self, id_: str) -> str:
        """The resource name of the folder behind the id of a List; DOCUMENT_NOT_FOUND if not ours."""
        health_id, entity = self.ids.read("Folder", id_)
        return f"{dossier_name(health_id)}/folders/{entity}"

    def patient_id(self, health_id: int) -> str:
        """The id of the Patient that stands for a dossier."""
        return self.ids.write("Patient", health_id, _NO_ENTITY)

    def document_id(self, name: str) -> str:
        """The id of the DocumentReference of a document by its resource name."""
        return self.ids.write("DocumentReference", *child_of(name, "documents", "name"))

    def binary_id(self, name: str) -> str:
        """The id of the Binary that holds a document's content."""
        return self.ids.write("Binary", *child_of(name, "documents", "name"))

    def list_id(self, name: str) -> str:
        """The id of the List of a submission set by its resource name."""
        return self.ids.write("List", *child_of(name, "submissionSets", "name"))

    def folder_id(self, name: str) -> str:
        """The id of the List of a folder by its resource name."""
        return self.ids.write("Folder", *child_of(name, "folders", "name"))

    def url(self, kind: str, id_: str) -> str:
        """The absolute URL of a resource."""
        return f"{self.base_url}/{kind}/{id_}"


def write_document(document: Document, links: Links, asked: tuple[str, str] | None = None) -> JsonObject:
    """The DocumentReference of a document; `asked` is the identifier (OID, value) that the caller asked with."""
    health_id, logical = child_of(document.name, "documents", "name")
    entity = document.entry_id or str(logical)
    people = _People()
    resource: JsonObject = {
        "resourceType": "DocumentReference",
        "id": links.document_id(document.name),
        "meta": _meta(document),
        "masterIdentifier": typed_identifier("uniqueId", write_unique_id(document.unique_id)),
        "identifier": [typed_identifier("entryUUID", {"system": RFC_3986, "value": f"urn:uuid:{entity}"})],
        "status": STATUS_OUT.get(document.status, "current"),
        "subject": subject(links, health_id, asked),
        "author": people.references(document.authors, "author"),
        "securityLabel": [write_concept(coding) for coding in document.confidentiality],
        "custodian": write_custodian(document),
        "description": document.comments,
        "content": [_content(document, links)],
        "context": _context(document, people),
    }
    if document.HasField("type_code"):
        resource["type"] = write_concept(document.type_code)
    if document.HasField("class_code"):
        resource["category"] = [write_concept(document.class_code)]
    if document.HasField("submit_time"):
        resource["date"] = write(document.submit_time)
    if document.status == document_pb2.DOCUMENT_STATUS_ARCHIVED:
        resource["extension"] = [{"url": IS_ARCHIVED, "valueBoolean": True}]
    if document.relationships:
        resource["relatesTo"] = [_relation(each, links) for each in document.relationships]
    if document.HasField("legal_authenticator"):
        resource["authenticator"] = people.references([document.legal_authenticator], "authenticator")[0]
    resource["contained"] = people.resources
    return {name: value for name, value in resource.items() if value not in ("", [], {})}


def write_reference(
    found: document_pb2.DocumentReference, links: Links, asked: tuple[str, str] | None, unique_id: str
) -> JsonObject:
    """The DocumentReference of a document of which the caller, a feeder, may know the technical id alone (TD3.1), or
    that it is deleted; what is not known of it is left out."""
    health_id, _ = child_of(found.name, "documents", "name")
    withheld = {"extension": [{"url": _ABSENT, "valueCode": "not-permitted"}]}
    resource: JsonObject = {
        "resourceType": "DocumentReference",
        "id": links.document_id(found.name),
        "meta": {"tag": [SUBSETTED]},
        "status": STATUS_OUT.get(found.status, "current"),
        "subject": subject(links, health_id, asked),
        "content": [{"attachment": withheld}],
    }
    if found.version:
        resource["meta"]["versionId"] = str(found.version)
    if unique_id:
        resource["masterIdentifier"] = typed_identifier("uniqueId", write_unique_id(unique_id))
    if found.entry_id:
        entry = {"system": RFC_3986, "value": f"urn:uuid:{found.entry_id}"}
        resource["identifier"] = [typed_identifier("entryUUID", entry)]
    return resource


class _People:
    """The contained resources of one DocumentReference, numbered as they are needed."""

    def __init__(self) -> None:
        self.resources: list[JsonObject] = []

    def references(self, authors: Sequence[Author], label: str) -> list[JsonObject]:
        references = []
        for index, author in enumerate(authors):
            local_id = f"{label}-{index + 1}"
            self.resources += write_author(author, local_id)
            references.append({"reference": f"#{local_id}"})
        return references

    def source_patient(self, document: Document) -> JsonObject:
        self.resources.append(write_source_patient(document.source_patient_info, "source-patient"))
        return {"reference": "#source-patient"}


def _meta(document: Document) -> JsonObject:
    meta: JsonObject = {"versionId": str(document.version or 1), "profile": [PROFILE]}
    if document.HasField("change_time") or document.HasField("submit_time"):
        meta["lastUpdated"] = write(changed(document))
    return meta


def changed(document: Document) -> Timestamp:
    """When the current version of a document was made."""
    return document.change_time if document.HasField("change_time") else document.submit_time


def _relation(relationship: document_pb2.Relationship, links: Links) -> JsonObject:
    target: JsonObject = {}
    if relationship.target:
        target["reference"] = f"DocumentReference/{links.document_id(relationship.target)}"
    if relationship.target_unique_id:
        target["identifier"] = write_unique_id(relationship.target_unique_id)
    return {"code": _RELATIONS.get(relationship.type, "appends"), "target": target}


def subject(links: Links, health_id: int, asked: tuple[str, str] | None) -> JsonObject:
    """The Reference to the patient of a dossier."""
    reference: JsonObject = {"reference": f"Patient/{links.patient_id(health_id)}"}
    if asked is not None:
        reference["identifier"] = {"system": domain_uri(asked[0]), "value": asked[1]}
    return reference


def _content(document: Document, links: Links) -> JsonObject:
    attachment: JsonObject = {
        "contentType": document.mime_type,
        "language": document.language,
        "url": links.url("Binary", links.binary_id(document.name)),
        "hash": base64.b64encode(document.hash).decode(),
        "title": document.title,
    }
    attachment = {name: value for name, value in attachment.items() if value}
    attachment["size"] = document.size
    if document.HasField("create_time"):
        attachment["creation"] = write(document.create_time)
    content: JsonObject = {"attachment": attachment}
    if document.HasField("format_code"):
        content["format"] = write_coding(document.format_code)
    return content


def _context(document: Document, people: _People) -> JsonObject:
    context: JsonObject = {}
    if document.event_codes:
        context["event"] = [write_concept(coding) for coding in document.event_codes]
    period = {
        name: write(value)
        for name, value, there in (
            ("start", document.service_start_time, document.HasField("service_start_time")),
            ("end", document.service_stop_time, document.HasField("service_stop_time")),
        )
        if there
    }
    if period:
        context["period"] = period
    if document.HasField("facility_type"):
        context["facilityType"] = write_concept(document.facility_type)
    if document.HasField("practice_setting"):
        context["practiceSetting"] = write_concept(document.practice_setting)
    if document.HasField("source_patient_info"):
        context["sourcePatientInfo"] = people.source_patient(document)
    if document.reference_ids:
        context["related"] = [{"identifier": write_identifier(identifier)} for identifier in document.reference_ids]
    return context
