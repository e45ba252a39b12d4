"""The endpoints: each reads the request with a pure module, makes one call, and writes the answer with another.

A person whom identity does not know and a person without a dossier get the same answer, so that a search tells nobody
who is registered: DOSSIER_NOT_FOUND (404, XDSUnknownPatientId) for what needs a dossier, no entry for TD0.2.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from datetime import UTC
from email.utils import format_datetime
from typing import Final, NoReturn, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from starlette.responses import Response, StreamingResponse

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1.consent_pb2 import GetDossierRequest
from dmp.document.v1.document_pb2 import (
    Document,
    GetDocumentRequest,
    ReadDocumentRequest,
    ReadDocumentResponse,
    SubmitDocumentsResponse,
)
from gateway.external_ids import ExternalIds
from gateway.fhir import dossier, negotiation, search, submission
from gateway.fhir.backend import Backend
from gateway.fhir.document_in import is_mime_type
from gateway.fhir.document_out import Links, write_document
from gateway.fhir.exchange import Exchange, json_response
from gateway.fhir.field_paths import search_field, submission_field, translate
from gateway.fhir.identifiers import PatientLink, mismatch
from gateway.fhir.outcome import success
from gateway.fhir.refusals import invalid
from gateway.fhir.submission import Submission, SubmissionKey
from services.runtime.errors import DmpError, FieldViolation, unavailable
from services.runtime.identifiers import document_name, dossier_name

T = TypeVar("T")

_OF_ANOTHER: Final = reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH
_NOBODY: Final = frozenset(
    {
        reasons.ERROR_REASON_UNKNOWN_PATIENT,
        reasons.ERROR_REASON_PERSON_NOT_FOUND,
        reasons.ERROR_REASON_DOSSIER_NOT_FOUND,
    }
)


class Handlers:
    """The endpoints over one backend."""

    def __init__(self, backend: Backend, ids: ExternalIds, base_url: str) -> None:
        self._backend = backend
        self._ids = ids
        self._links = Links(base_url, ids)

    async def patient_search(self, exchange: Exchange) -> Response:
        """TD0.2: no entry, or the dossier."""
        parameters = await exchange.parameters(dossier.NAMES)
        link = dossier.read_patient_search(parameters)
        patients = []
        try:
            health_id = await self._health_id(exchange, link)
            request = GetDossierRequest(name=dossier_name(health_id))
            found = await self._backend.get_dossier(exchange.caller, request)
            patients.append(dossier.write_dossier(found, health_id, self._links, link.identifier))
        except DmpError as error:
            if error.reason not in _NOBODY:
                raise
        return json_response(dossier.write_patient_searchset(patients, parameters.pairs, self._links))

    async def patient_read(self, exchange: Exchange) -> Response:
        """TD0.2 by the opaque id of the dossier."""
        health_id = await self._read_patient_id(exchange, exchange.request.path_params["id"], "id")
        request = GetDossierRequest(name=dossier_name(health_id))
        found = await self._or_nobody(self._backend.get_dossier(exchange.caller, request), "id")
        return json_response(dossier.write_dossier(found, health_id, self._links, None))

    async def provide_bundle(self, exchange: Exchange) -> Response:
        """ITI-65."""
        key = _submission_key(exchange)
        bundle = await exchange.resource("Bundle")
        read = submission.read_bundle(bundle, self._links.base_url, key)
        response = await self._submit(exchange, read)
        return json_response(submission.write_response(read, response, self._links))

    async def simplified_publish(self, exchange: Exchange) -> Response:
        """ITI-105."""
        key = _submission_key(exchange)
        if "if-none-exist" in exchange.request.headers:
            raise invalid("If-None-Exist", "not_supported", "conditional create is not offered; use Idempotency-Key")
        resource = await exchange.resource("DocumentReference")
        read = submission.read_simplified(resource, self._links.base_url, key)
        document = (await self._submit(exchange, read)).documents[0]
        headers = {
            "Location": self._links.url("DocumentReference", self._links.document_id(document.name)),
            **_version_headers(document),
        }
        wanted = negotiation.preference(exchange.request.headers, "return")
        if wanted == "minimal":
            return Response(status_code=201, headers={**headers, "Cache-Control": "no-store"})
        written = write_document(document, self._links, read.patient.identifier)
        return json_response(success() if wanted == "OperationOutcome" else written, 201, headers)

    async def document_search(self, exchange: Exchange) -> Response:
        """ITI-67."""
        read = search.read_search(await exchange.parameters(search.NAMES), self._links.base_url)
        health_id = await self._health_id(exchange, read.patient)
        read.request.parent = dossier_name(health_id)
        try:
            response = await self._or_nobody(self._backend.search(exchange.caller, read.request), read.patient.field)
        except DmpError as error:
            raise translate(error, search_field) from None
        return json_response(search.write_searchset(read, response, self._links, health_id))

    async def document_read(self, exchange: Exchange) -> Response:
        """The metadata of one document."""
        name = await self._document_name("DocumentReference", exchange)
        found = await self._backend.get_document(exchange.caller, GetDocumentRequest(name=name))
        return json_response(write_document(found.document, self._links), headers=_version_headers(found.document))

    async def binary_read(self, exchange: Exchange) -> Response:
        """ITI-68: the head of the stream decides the headers; then the very bytes, as they come."""
        request = ReadDocumentRequest(name=await self._document_name("Binary", exchange))
        parts = self._backend.read(exchange.caller, request)
        try:
            first = await anext(parts, None)
            if first is None or first.WhichOneof("part") != "document":
                raise unavailable("document")
            document = first.document
            mime_type = document.mime_type if is_mime_type(document.mime_type) else "application/octet-stream"
            negotiation.check_binary_accepted(exchange.request.headers, mime_type)
        except BaseException:
            await _close(parts)
            raise
        headers = {
            "Content-Type": mime_type,
            "Content-Length": str(document.size),
            "Content-Disposition": "attachment",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            "ETag": f'"{document.hash.hex()}"',
        }
        return StreamingResponse(_chunks(parts), headers=headers)

    async def _submit(self, exchange: Exchange, read: Submission) -> SubmitDocumentsResponse:
        health_id = await self._health_id(exchange, read.patient)
        read.request.parent = dossier_name(health_id)
        try:
            return await self._or_nobody(self._backend.submit(exchange.caller, read.request), read.patient.field)
        except DmpError as error:
            raise translate(error, submission_field(read)) from None

    async def _health_id(self, exchange: Exchange, link: PatientLink) -> int:
        """The dossier that a link names. A caller bound to one patient learns nothing of others."""
        caller = exchange.caller
        stated = await self._read_patient_id(exchange, link.patient_id, link.field) if link.patient_id else None
        if link.identifier is None:
            return stated if stated is not None else 0
        try:
            health_id = await self._backend.resolve(caller, link.identifier)
        except DmpError as error:
            if error.reason not in _NOBODY:
                raise translate(error, lambda _: link.field) from None
            health_id = None
        if health_id is None:
            bound = bool(caller.actor.patient_health_id)
            await self._refuse(exchange, DmpError(_OF_ANOTHER) if bound else _nobody(link.field))
        elif stated not in (None, health_id):
            await self._refuse(exchange, mismatch(link.field, "reference and identifier name different patients"))
        return health_id or 0

    async def _read_patient_id(self, exchange: Exchange, text: str, field: str) -> int:
        try:
            return self._ids.read("Patient", text)[0]
        except DmpError:
            await self._refuse(exchange, _nobody(field))

    async def _document_name(self, kind: str, exchange: Exchange) -> str:
        try:
            return document_name(*self._ids.read(kind, exchange.request.path_params["id"]))
        except DmpError as error:
            await self._refuse(exchange, error)

    async def _refuse(self, exchange: Exchange, error: DmpError) -> NoReturn:
        """Raise a refusal that no service has seen, once it is in the trail."""
        access = exchange.interaction.access
        await self._backend.record_refusal(
            exchange.caller, error, audit_action=access.audit_action, transaction=access.transaction
        )
        raise error

    @staticmethod
    async def _or_nobody(call: Awaitable[T], field: str) -> T:
        try:
            return await call
        except DmpError as error:
            if error.reason in _NOBODY:
                raise _nobody(field) from None
            raise


def _nobody(field: str) -> DmpError:
    """The one answer for a person whom nobody knows and for one without a dossier."""
    fields = [FieldViolation(field, "dossier", "no dossier belongs to this patient")]
    return DmpError(reasons.ERROR_REASON_DOSSIER_NOT_FOUND, fields=fields)


def _submission_key(exchange: Exchange) -> SubmissionKey:
    return SubmissionKey(exchange.caller.actor.client_id, negotiation.idempotency_key(exchange.request.headers))


def _version_headers(document: Document) -> dict[str, str]:
    headers = {"ETag": f'W/"{document.version or 1}"'}
    if document.HasField("submit_time"):
        headers["Last-Modified"] = _http_date(document.submit_time)
    return headers


def _http_date(moment: Timestamp) -> str:
    return format_datetime(moment.ToDatetime(tzinfo=UTC).replace(microsecond=0), usegmt=True)


async def _chunks(parts: AsyncIterator[ReadDocumentResponse]) -> AsyncIterator[bytes]:
    """The content. An error half-way ends the connection: Content-Length then shows that bytes are missing."""
    try:
        async for part in parts:
            yield part.chunk
    finally:
        await _close(parts)


async def _close(parts: AsyncIterator[ReadDocumentResponse]) -> None:
    close = getattr(parts, "aclose", None)
    if close is not None:
        await close()
