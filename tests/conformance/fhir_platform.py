"""A platform of our own behind the FHIR front: people, dossiers and documents in memory, and samples to send to it.

It keeps the promises that the front relies on (atomic submission, hash and size checked, refusals by reason) and
remembers what it was asked, so that tests see both sides.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fhir.resources.R4B import get_fhir_model_class
from starlette.applications import Starlette
from starlette.requests import Request

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from gateway.callers import Caller
from gateway.external_ids import ExternalIds
from gateway.fhir.routes import exception_handlers, routes
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.identifiers import document_name, dossier_name, dossier_of, submission_set_name, uuid7
from services.runtime.validation import validate

BASE = "https://dmp.test/fhir"
INS_OID = "1.2.250.1.213.1.4.10"
INS = "180017512345697"[:13] + f"{97 - 1800175123456 % 97:02d}"
OTHER_INS = "2800175123456" + f"{97 - 2800175123456 % 97:02d}"
UNKNOWN_INS = "1990175123456" + f"{97 - 1990175123456 % 97:02d}"
NO_DOSSIER_INS = "2990175123456" + f"{97 - 2990175123456 % 97:02d}"
HEALTH_ID, OTHER_HEALTH_ID, NO_DOSSIER_ID = 4611686018427387905, 4611686018427387906, 4611686018427387907
SUBJECT = {"reference": f"Patient?identifier=urn:oid:{INS_OID}|{INS}"}
"""Copied into each sample."""
TOKEN = {"Authorization": "Bearer good"}
CDA = b"<ClinicalDocument xmlns='urn:hl7-org:v3'>\xc3\xa9</ClinicalDocument>"
ALL_SCOPES = frozenset({"TD0.2", "ITI-65", "ITI-67", "ITI-68", "ITI-105"})

Json = dict[str, Any]


class FakeKeys:
    """Just enough of a keyring for ExternalIds."""

    def digest(self, label: str, value: bytes) -> bytes:
        return hashlib.sha256(label.encode() + value).digest()


class FakePlatform:
    """A Backend over dictionaries."""

    def __init__(self) -> None:
        self.people = {
            (INS_OID, INS): HEALTH_ID,
            (INS_OID, OTHER_INS): OTHER_HEALTH_ID,
            (INS_OID, NO_DOSSIER_INS): NO_DOSSIER_ID,
        }
        self.dossiers = {
            HEALTH_ID: consent_pb2.Dossier(name=dossier_name(HEALTH_ID), state=consent_pb2.DOSSIER_STATE_OPEN),
            OTHER_HEALTH_ID: consent_pb2.Dossier(
                name=dossier_name(OTHER_HEALTH_ID),
                state=consent_pb2.DOSSIER_STATE_CLOSED,
                close_reason=consent_pb2.CLOSE_REASON_PATIENT_REQUEST,
            ),
        }
        self.dossiers[OTHER_HEALTH_ID].close_time.FromSeconds(1_700_000_000)
        self.documents: dict[str, tuple[document_pb2.Document, bytes]] = {}
        self.submissions: list[document_pb2.SubmitDocumentsRequest] = []
        self.searches: list[document_pb2.SearchDocumentsRequest] = []
        self.refusals: list[tuple[str, str]] = []
        self.scopes = ALL_SCOPES
        self.actor = ActingContext(client_id="lps-1", subject="899700218896")
        self.fails: BaseException | None = None
        self.breaks_after_chunks: int | None = None
        self.seen: list[Caller] = []

    async def caller(self, request: Request) -> Caller:
        header = request.headers.get("authorization", "")
        if not header:
            raise DmpError(reasons.ERROR_REASON_TOKEN_MISSING)
        if header != "Bearer good":
            raise DmpError(reasons.ERROR_REASON_TOKEN_INVALID)
        found = Caller(self.actor, self.scopes, "good", request.state.request_id, 5.0, request.state.traceparent)
        self.seen.append(found)
        return found

    async def require_scope(self, caller: Caller, scopes: frozenset[str], audit_action: str, transaction: str) -> None:
        if not scopes & caller.scopes:
            self.refusals.append((audit_action, "SCOPE_MISSING"))
            raise DmpError(reasons.ERROR_REASON_SCOPE_MISSING)

    async def record_refusal(self, caller: Caller, error: DmpError, *, audit_action: str, transaction: str) -> None:
        self.refusals.append((audit_action, error.reason_name))

    async def resolve(self, caller: Caller, identifier: tuple[str, str]) -> int | None:
        return self.people.get(identifier)

    async def get_dossier(
        self, caller: Caller, request: consent_pb2.GetDossierRequest
    ) -> consent_pb2.GetDossierResponse:
        dossier = self._dossier(request.name)
        response = consent_pb2.GetDossierResponse(
            dossier=dossier,
            caller_authorization=consent_pb2.AUTHORIZATION_STATE_VALID,
            caller_is_attending_physician=True,
        )
        response.caller_authorization_expire_time.FromSeconds(1_800_000_000)
        return response

    async def submit(
        self, caller: Caller, request: document_pb2.SubmitDocumentsRequest
    ) -> document_pb2.SubmitDocumentsResponse:
        validate(request)
        self._dossier(request.parent)
        self.submissions.append(request)
        health_id = dossier_of(request.parent, "parent")
        response = document_pb2.SubmitDocumentsResponse(submission_set=request.submission_set)
        response.submission_set.name = submission_set_name(health_id, uuid7())
        response.submission_set.submit_time.FromSeconds(1_750_000_000)
        for index, item in enumerate(request.documents):
            self._check(index, item)
            document = copy.deepcopy(item.document)
            document.name = document_name(health_id, uuid7())
            document.status, document.version = document_pb2.DOCUMENT_STATUS_APPROVED, 1
            document.hash, document.size = hashlib.sha1(item.content, usedforsecurity=False).digest(), len(item.content)
            document.unique_id = document.unique_id or "1.2.3.4"
            document.submit_time.CopyFrom(response.submission_set.submit_time)
            response.documents.append(document)
        for document, item in zip(response.documents, request.documents, strict=True):
            self.documents[document.name] = (document, item.content)
        return response

    async def search(
        self, caller: Caller, request: document_pb2.SearchDocumentsRequest
    ) -> document_pb2.SearchDocumentsResponse:
        validate(request)
        self._dossier(request.parent)
        self.searches.append(request)
        if request.page_token and not request.page_token.isdigit():
            raise DmpError(
                reasons.ERROR_REASON_INVALID_PAGE_TOKEN, fields=[FieldViolation("page_token", "foreign", "not ours")]
            )
        found = [document for name, (document, _) in self.documents.items() if name.startswith(request.parent + "/")]
        start, size = int(request.page_token or 0), request.page_size or 20
        more = start + size < len(found)
        return document_pb2.SearchDocumentsResponse(
            documents=found[start : start + size],
            total_size=len(found),
            next_page_token=str(start + size) if more else "",
        )

    async def get_document(
        self, caller: Caller, request: document_pb2.GetDocumentRequest
    ) -> document_pb2.GetDocumentResponse:
        return document_pb2.GetDocumentResponse(document=self._document(request.name)[0])

    async def read(
        self, caller: Caller, request: document_pb2.ReadDocumentRequest
    ) -> AsyncIterator[document_pb2.ReadDocumentResponse]:
        document, content = self._document(request.name)
        yield document_pb2.ReadDocumentResponse(document=document)
        for index, start in enumerate(range(0, len(content), 16)):
            if index == self.breaks_after_chunks:
                raise DmpError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)
            yield document_pb2.ReadDocumentResponse(chunk=content[start : start + 16])

    def _dossier(self, name: str) -> consent_pb2.Dossier:
        if self.fails is not None:
            raise self.fails
        dossier = self.dossiers.get(dossier_of(name, "name"))
        if dossier is None:
            raise DmpError(reasons.ERROR_REASON_DOSSIER_NOT_FOUND)
        return dossier

    def _document(self, name: str) -> tuple[document_pb2.Document, bytes]:
        if self.fails is not None:
            raise self.fails
        found = self.documents.get(name)
        if found is None:
            raise DmpError(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND)
        return found

    @staticmethod
    def _check(index: int, item: document_pb2.SubmittedDocument) -> None:
        digest = hashlib.sha1(item.content, usedforsecurity=False).digest()
        field = f"documents[{index}].document"
        if item.document.hash and item.document.hash != digest:
            raise DmpError(
                reasons.ERROR_REASON_HASH_MISMATCH, fields=[FieldViolation(f"{field}.hash", "sha1", "another hash")]
            )
        if item.document.size and item.document.size != len(item.content):
            raise DmpError(
                reasons.ERROR_REASON_SIZE_MISMATCH, fields=[FieldViolation(f"{field}.size", "size", "another size")]
            )


def external_ids() -> ExternalIds:
    return ExternalIds(FakeKeys())  # type: ignore[arg-type]


def application(platform: FakePlatform, base_url: str = BASE, **options: Any) -> Starlette:
    return Starlette(
        routes=routes(platform, external_ids(), base_url, **options), exception_handlers=dict(exception_handlers())
    )


def client_of(platform: FakePlatform, base_url: str = BASE, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application(platform, base_url, **options))
    return httpx.AsyncClient(transport=transport, base_url=base_url, headers=TOKEN)


def parsed(resource: Json) -> Any:
    """The resource as an independent R4B library reads it: raises when it is not valid FHIR."""
    return get_fhir_model_class(resource["resourceType"]).model_validate(copy.deepcopy(resource))


def issues(response: httpx.Response, status: int) -> list[Json]:
    """The issues of an error answer, which must be a valid OperationOutcome with this status."""
    assert response.status_code == status, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/fhir+json"
    body = response.json()
    parsed(body)
    assert body["resourceType"] == "OperationOutcome"
    found: list[Json] = body["issue"]
    return found


def reason_of(issue: Json) -> str:
    return str(issue["details"]["coding"][0]["code"])


def expressions(found: list[Json]) -> list[str]:
    return [path for issue in found for path in issue.get("expression", [])]


def simplified(content: bytes = CDA, **changes: Any) -> Json:
    """A DocumentReference of ITI-105, as small as the official example."""
    return {
        "resourceType": "DocumentReference",
        "meta": {
            "profile": ["https://interop.esante.gouv.fr/ig/fhir/pdsm/StructureDefinition/pdsm-simplified-publish"]
        },
        "contained": [practitioner()],
        "masterIdentifier": {"system": "urn:ietf:rfc:3986", "value": "urn:oid:1.2.250.1.999.1"},
        "status": "current",
        "type": {"coding": [{"system": "http://loinc.org", "code": "11488-4", "display": "CR de consultation"}]},
        "subject": dict(SUBJECT),
        "author": [{"reference": "#author"}],
        "content": [
            {
                "attachment": {
                    "contentType": "text/xml",
                    "data": base64.b64encode(content).decode(),
                    "title": "Compte rendu",
                }
            }
        ],
    } | changes


def practitioner() -> Json:
    return {
        "resourceType": "Practitioner",
        "id": "author",
        "identifier": [{"system": "urn:oid:1.2.250.1.71.4.2.1", "value": "899700218896"}],
        "name": [{"family": "MARTIN", "given": ["Anne"]}],
    }


def source_patient() -> Json:
    return {
        "resourceType": "Patient",
        "id": "patient",
        "identifier": [{"system": f"urn:oid:{INS_OID}", "value": INS}],
        "name": [{"family": "DUPONT", "given": ["Jeanne"]}],
        "gender": "female",
        "birthDate": "1980-01-17",
    }


def attachment(index: int, content: bytes) -> Json:
    digest = hashlib.sha1(content, usedforsecurity=False).digest()
    return {
        "contentType": "text/xml",
        "language": "fr-FR",
        "url": binary_url(index),
        "size": len(content),
        "hash": base64.b64encode(digest).decode(),
        "title": "Compte rendu",
        "creation": "2026-06-12T10:00:00+02:00",
    }


def document_reference(index: int, content: bytes = CDA) -> Json:
    """A comprehensive DocumentReference of ITI-65."""
    nos = "https://mos.esante.gouv.fr/NOS"
    return {
        "resourceType": "DocumentReference",
        "meta": {
            "profile": [
                "https://interop.esante.gouv.fr/ig/fhir/pdsm/StructureDefinition/pdsm-comprehensive-document-reference"
            ]
        },
        "contained": [source_patient(), practitioner()],
        "masterIdentifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:oid:1.2.250.1.999.{index}"},
        "status": "current",
        "type": {"coding": [{"system": "http://loinc.org", "code": "11488-4"}]},
        "category": [
            {"coding": [{"system": f"{nos}/TRE_A03-ClasseDocument/FHIR/TRE-A03-ClasseDocument", "code": "10"}]}
        ],
        "subject": dict(SUBJECT),
        "author": [{"reference": "#author"}],
        "authenticator": {"reference": "#author"},
        "securityLabel": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "N"}]}
        ],
        "content": [
            {
                "attachment": attachment(index, content),
                "format": {
                    "system": "http://ihe.net/fhir/ihe.formatcode.fhir/CodeSystem/formatcode",
                    "code": "urn:ihe:iti:xds:2017:mimeTypeSufficient",
                },
            }
        ],
        "context": {
            "period": {"start": "2026-06-12T09:00:00+02:00", "end": "2026-06-12"},
            "sourcePatientInfo": {"reference": "#patient"},
            "facilityType": {
                "coding": [{"system": f"{nos}/TRE_R02-SecteurActivite/FHIR/TRE-R02-SecteurActivite", "code": "SA01"}]
            },
            "practiceSetting": {
                "coding": [{"system": f"{nos}/TRE_A01-CadreExercice/FHIR/TRE-A01-CadreExercice", "code": "AMBULATOIRE"}]
            },
        },
    }


def binary_url(index: int) -> str:
    return f"urn:uuid:{uuid.UUID(int=1000 + index)}"


def document_url(index: int) -> str:
    return f"urn:uuid:{uuid.UUID(int=2000 + index)}"


def submission_set(count: int) -> Json:
    mhd = "https://profiles.ihe.net/ITI/MHD"
    return {
        "resourceType": "List",
        "contained": [practitioner()],
        "extension": [
            {
                "url": f"{mhd}/StructureDefinition/ihe-designationType",
                "valueCodeableConcept": {"coding": [{"system": "urn:oid:1.2.250.1.213.2.2", "code": "04"}]},
            },
            {
                "url": f"{mhd}/StructureDefinition/ihe-sourceId",
                "valueIdentifier": {"system": "urn:ietf:rfc:3986", "value": "urn:oid:1.2.3.4.5.6.7.8"},
            },
        ],
        "identifier": [{"use": "usual", "system": "urn:ietf:rfc:3986", "value": "urn:oid:1.2.250.1.999.1000"}],
        "status": "current",
        "mode": "working",
        "code": {"coding": [{"system": f"{mhd}/CodeSystem/MHDlistTypes", "code": "submissionset"}]},
        "subject": dict(SUBJECT),
        "date": "2026-06-12T10:00:00+02:00",
        "source": {"reference": "#author"},
        "entry": [{"item": {"reference": document_url(index)}} for index in range(count)],
    }


def bundle(count: int = 1, content: bytes = CDA) -> Json:
    """A transaction Bundle of ITI-65 with `count` documents."""

    def entry(url: str, resource: Json) -> Json:
        return {
            "fullUrl": url,
            "resource": resource,
            "request": {"method": "POST", "url": resource["resourceType"]},
        }

    entries = [entry("urn:uuid:00000000-0000-4000-8000-000000000001", submission_set(count))]
    for index in range(count):
        entries.append(entry(document_url(index), document_reference(index, content)))
        binary = {"resourceType": "Binary", "contentType": "text/xml", "data": base64.b64encode(content).decode()}
        entries.append(entry(binary_url(index), binary))
    profile = (
        "https://interop.esante.gouv.fr/ig/fhir/pdsm/StructureDefinition/pdsm-comprehensive-provide-document-bundle"
    )
    return {"resourceType": "Bundle", "meta": {"profile": [profile]}, "type": "transaction", "entry": entries}
