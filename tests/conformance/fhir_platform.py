"""A platform of our own behind the FHIR front: people, dossiers and documents in memory.

It keeps the promises that the front relies on (atomic submission, hash and size checked, refusals by reason) and
remembers what it was asked, so that tests see both sides.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fhir.resources.R4B import get_fhir_model_class
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from gateway.callers import Caller
from gateway.external_ids import ExternalIds
from gateway.fhir.routes import exception_handlers, routes
from gateway.fhir.rpcs import Request, Response, Rpc
from services.runtime.errors import DmpError, FieldViolation, unavailable
from services.runtime.identifiers import document_name, dossier_name, dossier_of, submission_set_name, uuid7
from services.runtime.validation import validate
from tests.conformance.fhir_imports import MemoryJobs, MemoryLedger
from tests.conformance.fhir_register import FakeConsents, FakeRegister, FakeTrail
from tests.conformance.fhir_samples import (
    ALL_SCOPES,
    BASE,
    FHIR,
    HEALTH_ID,
    INS,
    INS_OID,
    NO_DOSSIER_ID,
    NO_DOSSIER_INS,
    OTHER_HEALTH_ID,
    OTHER_INS,
    TOKEN,
    Json,
    simplified,
)

VISIBILITY_OID = "1.2.250.1.213.1.1.4.13"


class FakeKeys:
    """Just enough of a keyring for ExternalIds."""

    def digest(self, label: str, value: bytes) -> bytes:
        return hashlib.sha256(label.encode() + value).digest()


class FakePlatform(FakeRegister, FakeConsents, FakeTrail):
    """A Backend over dictionaries."""

    def __init__(self) -> None:
        FakeRegister.__init__(self)
        FakeConsents.__init__(self)
        FakeTrail.__init__(self)
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
        self.most_submissions: int | None = None
        self.submissions: list[document_pb2.SubmitDocumentsRequest] = []
        self.sets: list[document_pb2.SubmissionSet] = []
        self.folders: list[document_pb2.Folder] = []
        self.changes: list[document_pb2.ChangeDocumentRequest] = []
        self.unique = False
        self.listings: list[document_pb2.ListSubmissionSetsRequest] = []
        self.searches: list[document_pb2.SearchDocumentsRequest] = []
        self.refusals: list[tuple[str, str]] = []
        self.scopes = ALL_SCOPES
        self.actor = ActingContext(client_id="lps-1", subject="899700218896")
        self.fails: BaseException | None = None
        self.breaks_after_chunks: int | None = None
        self.seen: list[Caller] = []

    async def caller(self, request: HttpRequest) -> Caller:
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
        found = self.people.get(identifier)
        await asyncio.sleep(0)  # so that many at once all see what was before
        return found

    async def call(self, caller: Caller, rpc: Rpc[Request, Response], request: Request) -> Response:
        answer: Response = await getattr(self, method_of(rpc))(caller, request)
        return answer

    def stream(self, caller: Caller, rpc: Rpc[Request, Response], request: Request) -> AsyncIterator[Response]:
        answer: AsyncIterator[Response] = getattr(self, method_of(rpc))(caller, request)
        return answer

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

    async def submit_documents(
        self, caller: Caller, request: document_pb2.SubmitDocumentsRequest
    ) -> document_pb2.SubmitDocumentsResponse:
        validate(request)
        self._dossier(request.parent)
        if self.most_submissions is not None and len(self.submissions) >= self.most_submissions:
            raise unavailable("document")
        self.submissions.append(request)
        health_id = dossier_of(request.parent, "parent")
        response = document_pb2.SubmitDocumentsResponse(submission_set=request.submission_set)
        response.submission_set.name = submission_set_name(health_id, uuid7())
        response.submission_set.submit_time.FromSeconds(1_750_000_000)
        for folder in request.folders:
            made = response.folders.add()
            made.CopyFrom(folder)
            made.name = f"{dossier_name(health_id)}/folders/{uuid7()}"
            made.update_time.CopyFrom(response.submission_set.submit_time)
        for index, item in enumerate(request.documents):
            self._check(index, item)
            document = copy.deepcopy(item.document)
            document.name = document_name(health_id, uuid7())
            document.status, document.version = document_pb2.DOCUMENT_STATUS_APPROVED, 1
            document.hash, document.size = hashlib.sha1(item.content, usedforsecurity=False).digest(), len(item.content)
            document.unique_id = document.unique_id or "1.2.3.4"
            document.submit_time.CopyFrom(response.submission_set.submit_time)
            document.submission_set = response.submission_set.name
            document.relationships.extend(item.relationships)
            document.folders.extend(self._folder_names(item, response))
            if any(each.unique_id == document.unique_id for each, _ in self.documents.values() if self.unique):
                raise DmpError(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID)
            response.documents.append(document)
        for document, item in zip(response.documents, request.documents, strict=True):
            self.documents[document.name] = (document, item.content)
        self.sets.append(response.submission_set)
        self.folders += response.folders
        return response

    @staticmethod
    def _folder_names(
        item: document_pb2.SubmittedDocument, response: document_pb2.SubmitDocumentsResponse
    ) -> list[str]:
        return [folder.name for folder in response.folders if folder.unique_id in item.folders]

    async def search_documents(
        self, caller: Caller, request: document_pb2.SearchDocumentsRequest
    ) -> document_pb2.SearchDocumentsResponse:
        validate(request)
        self._dossier(request.parent)
        self.searches.append(request)
        if request.page_token and not request.page_token.isdigit():
            raise DmpError(
                reasons.ERROR_REASON_INVALID_PAGE_TOKEN, fields=[FieldViolation("page_token", "foreign", "not ours")]
            )
        found = [
            document
            for name, (document, _) in self.documents.items()
            if name.startswith(request.parent + "/")
            and request.submission_set in ("", document.submission_set)
            and (not request.folder or request.folder in document.folders)
        ]
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

    async def read_document(
        self, caller: Caller, request: document_pb2.ReadDocumentRequest
    ) -> AsyncIterator[document_pb2.ReadDocumentResponse]:
        document, content = self._document(request.name)
        yield document_pb2.ReadDocumentResponse(document=document)
        for index, start in enumerate(range(0, len(content), 16)):
            if index == self.breaks_after_chunks:
                raise DmpError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)
            yield document_pb2.ReadDocumentResponse(chunk=content[start : start + 16])

    async def change_document(
        self, caller: Caller, request: document_pb2.ChangeDocumentRequest
    ) -> document_pb2.ChangeDocumentResponse:
        validate(request)
        document = self._document(request.name)[0]
        if request.expected_version not in (0, document.version):
            raise DmpError(reasons.ERROR_REASON_CONCURRENT_CHANGE)
        if document.status == document_pb2.DOCUMENT_STATUS_DELETED:
            raise DmpError(reasons.ERROR_REASON_CHANGE_NOT_APPLICABLE)
        self.changes.append(request)
        document.version += 1
        if request.change == document_pb2.DOCUMENT_CHANGE_MASK:
            document.confidentiality.add(system=VISIBILITY_OID, code="MASQUE_PS")
        if request.change == document_pb2.DOCUMENT_CHANGE_UNMASK:
            kept = [each for each in document.confidentiality if each.code != "MASQUE_PS"]
            del document.confidentiality[:]
            document.confidentiality.extend(kept)
        if request.change == document_pb2.DOCUMENT_CHANGE_ARCHIVE:
            document.status = document_pb2.DOCUMENT_STATUS_ARCHIVED
        if request.change == document_pb2.DOCUMENT_CHANGE_UNARCHIVE:
            document.status = document_pb2.DOCUMENT_STATUS_APPROVED
        if request.change == document_pb2.DOCUMENT_CHANGE_DELETE:
            document.status = document_pb2.DOCUMENT_STATUS_DELETED
        return document_pb2.ChangeDocumentResponse(document=document)

    async def resolve_unique_id(
        self, caller: Caller, request: document_pb2.ResolveUniqueIdRequest
    ) -> document_pb2.ResolveUniqueIdResponse:
        validate(request)
        found = [
            document_pb2.DocumentReference(name=name, version=document.version, status=document.status)
            for name, (document, _) in self.documents.items()
            if document.unique_id == request.unique_id and name.startswith(request.parent)
        ]
        return document_pb2.ResolveUniqueIdResponse(documents=found)

    async def list_submission_sets(
        self, caller: Caller, request: document_pb2.ListSubmissionSetsRequest
    ) -> document_pb2.ListSubmissionSetsResponse:
        validate(request)
        self._dossier(request.parent)
        self.listings.append(request)
        start, size = int(request.page_token or 0), request.page_size or 20
        found = [each for each in self.sets if each.name.startswith(request.parent)]
        more = start + size < len(found)
        return document_pb2.ListSubmissionSetsResponse(
            submission_sets=found[start : start + size],
            total_size=len(found),
            next_page_token=str(start + size) if more else "",
        )

    async def get_submission_set(
        self, caller: Caller, request: document_pb2.GetSubmissionSetRequest
    ) -> document_pb2.GetSubmissionSetResponse:
        for found in self.sets:
            if found.name == request.name:
                inside = [each for each, _ in self.documents.values() if each.submission_set == found.name]
                return document_pb2.GetSubmissionSetResponse(submission_set=found, documents=inside)
        raise DmpError(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND)

    async def list_folders(
        self, caller: Caller, request: document_pb2.ListFoldersRequest
    ) -> document_pb2.ListFoldersResponse:
        validate(request)
        self._dossier(request.parent)
        found = [
            each for each in self.folders if each.name.startswith(request.parent) and request.folder in ("", each.name)
        ]
        return document_pb2.ListFoldersResponse(folders=found, total_size=len(found))

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


def method_of(rpc: Rpc[Any, Any]) -> str:
    """The method of FakePlatform that stands for an RPC."""
    return re.sub(r"(?<=.)(?=[A-Z])", "_", rpc.path.rpartition("/")[2]).lower()


def external_ids() -> ExternalIds:
    return ExternalIds(FakeKeys())  # type: ignore[arg-type]


def application(platform: FakePlatform, base_url: str = BASE, **options: Any) -> Starlette:
    return Starlette(
        routes=routes(platform, external_ids(), base_url, MemoryLedger(), MemoryJobs(), **options),
        exception_handlers=dict(exception_handlers()),
    )


def client_of(platform: FakePlatform, base_url: str = BASE, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application(platform, base_url, **options))
    return httpx.AsyncClient(transport=transport, base_url=base_url, headers=TOKEN)


async def published(client: httpx.AsyncClient, **changes: Any) -> Json:
    """A document, as its submission (ITI-105) answers."""
    response = await client.post("/DocumentReference", json=simplified(**changes), headers=FHIR)
    assert response.status_code == 201, response.text
    body: Json = response.json()
    return body


def parsed(resource: Json) -> Any:
    """The resource as an independent R4B library reads it: raises when it is not valid FHIR."""
    return get_fhir_model_class(resource["resourceType"]).model_validate(copy.deepcopy(resource))


def parsed_xml(body: bytes) -> Any:
    """A resource in XML as an independent R4B library reads it."""
    name = re.search(rb"<([A-Z]\w+)", body)
    assert name is not None, body
    return get_fhir_model_class(name[1].decode()).model_validate_xml(body)


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
