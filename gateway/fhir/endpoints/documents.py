"""Documents: ITI-65 and ITI-105 to submit, ITI-67 to find, ITI-68 to read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from starlette.responses import Response, StreamingResponse

from dmp.document.v1.document_pb2 import (
    Document,
    GetDocumentRequest,
    ReadDocumentRequest,
    ReadDocumentResponse,
    SubmitDocumentsResponse,
)
from gateway.fhir import negotiation, rpcs, search, submission
from gateway.fhir.document_in import is_mime_type
from gateway.fhir.document_out import write_document
from gateway.fhir.endpoints.common import Endpoints, http_date
from gateway.fhir.exchange import Answer, Exchange, Handler
from gateway.fhir.field_paths import search_field, submission_field, translate
from gateway.fhir.outcome import success
from gateway.fhir.refusals import invalid
from gateway.fhir.submission import Submission, SubmissionKey
from services.runtime.errors import DmpError, unavailable
from services.runtime.identifiers import document_name, dossier_name


class Documents(Endpoints):
    """The endpoints of documents."""

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the interaction."""
        return {
            "provide-bundle": self.provide_bundle,
            "simplified-publish": self.simplified_publish,
            "document-search": self.document_search,
            "document-read": self.document_read,
            "binary-read": self.binary_read,
        }

    async def provide_bundle(self, exchange: Exchange) -> Answer:
        """ITI-65."""
        key = _submission_key(exchange)
        bundle = await exchange.resource("Bundle")
        read = submission.read_bundle(bundle, self._links.base_url, key)
        response = await self._submit(exchange, read)
        return Answer(submission.write_response(read, response, self._links))

    async def simplified_publish(self, exchange: Exchange) -> Answer | Response:
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
        return Answer(success() if wanted == "OperationOutcome" else written, 201, headers)

    async def document_search(self, exchange: Exchange) -> Answer:
        """ITI-67."""
        read = search.read_search(await exchange.parameters(search.NAMES), self._links.base_url)
        health_id = await self._health_id(exchange, read.patient)
        read.request.parent = dossier_name(health_id)
        try:
            response = await self._or_nobody(
                self._backend.call(exchange.caller, rpcs.SEARCH_DOCUMENTS, read.request), read.patient.field
            )
        except DmpError as error:
            raise translate(error, search_field) from None
        return Answer(search.write_searchset(read, response, self._links, health_id))

    async def document_read(self, exchange: Exchange) -> Answer:
        """The metadata of one document."""
        name = document_name(*await self._read_id(exchange, "DocumentReference"))
        found = await self._backend.call(exchange.caller, rpcs.GET_DOCUMENT, GetDocumentRequest(name=name))
        return Answer(write_document(found.document, self._links), headers=_version_headers(found.document))

    async def binary_read(self, exchange: Exchange) -> Response:
        """ITI-68: the head of the stream decides the headers; then the very bytes, as they come."""
        request = ReadDocumentRequest(name=document_name(*await self._read_id(exchange, "Binary")))
        parts = self._backend.stream(exchange.caller, rpcs.READ_DOCUMENT, request)
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
            return await self._or_nobody(
                self._backend.call(exchange.caller, rpcs.SUBMIT_DOCUMENTS, read.request), read.patient.field
            )
        except DmpError as error:
            raise translate(error, submission_field(read)) from None


def _submission_key(exchange: Exchange) -> SubmissionKey:
    return SubmissionKey(exchange.caller.actor.client_id, negotiation.idempotency_key(exchange.request.headers))


def _version_headers(document: Document) -> dict[str, str]:
    headers = {"ETag": f'W/"{document.version or 1}"'}
    if document.HasField("submit_time"):
        headers["Last-Modified"] = http_date(document.submit_time)
    return headers


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
