"""Documents: ITI-65 and ITI-105 to submit, ITI-67 to find, ITI-68 to read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1.document_pb2 import (
    CONTENT_ENCODING_ZSTD,
    Document,
    GetDocumentRequest,
    ReadDocumentRequest,
    ReadDocumentResponse,
    ResolveUniqueIdRequest,
    SubmitDocumentsResponse,
)
from gateway.fhir import conditional, negotiation, search, submission
from gateway.fhir.document_in import is_mime_type
from gateway.fhir.document_out import changed, write_document
from gateway.fhir.endpoints.common import Endpoints, http_date
from gateway.fhir.exchange import Answer, Exchange, Handler
from gateway.fhir.field_paths import search_field, submission_field, translate
from gateway.fhir.identifiers import unique_id_token
from gateway.fhir.outcome import success
from gateway.fhir.parameters import parse_query
from gateway.fhir.refusals import invalid
from gateway.fhir.submission import Submission, SubmissionKey
from gateway.fhir.tables import documents as table
from gateway.fhir.versions import etag
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
        read = submission.read_bundle(bundle, self._links, key)
        response = await self._submit(exchange, read)
        return Answer(submission.write_response(read, response, self._links))

    async def simplified_publish(self, exchange: Exchange) -> Answer | Response:
        """ITI-105. With If-None-Exist the uniqueId, which a dossier holds once, decides: 201 or 200, never two."""
        key = _submission_key(exchange)
        criterion = _if_none_exist(exchange)
        resource = await exchange.resource("DocumentReference")
        read = submission.read_simplified(resource, self._links, key)
        unique_id = read.request.documents[0].document.unique_id
        if criterion and criterion != unique_id:
            raise invalid("If-None-Exist", "identifier", "the criterion is the masterIdentifier of the resource")
        try:
            document = (await self._submit(exchange, read)).documents[0]
        except DmpError as error:
            if not criterion or error.reason != reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID:
                raise
            return await self._existing(exchange, read.request.parent, unique_id)
        headers = {
            "Location": self._links.url("DocumentReference", self._links.document_id(document.name)),
            **_version_headers(document),
        }
        wanted = negotiation.preference(exchange.request.headers, "return")
        if wanted == "minimal":
            return Response(status_code=201, headers={**headers, "Cache-Control": "no-store"})
        written = write_document(document, self._links, read.patient.identifier)
        return Answer(success() if wanted == "OperationOutcome" else written, 201, headers)

    async def _existing(self, exchange: Exchange, parent: str, unique_id: str) -> Answer:
        """The answer to a conditional create of what is there: where it is; a feeder may know no more."""
        request = ResolveUniqueIdRequest(parent=parent, unique_id=unique_id)
        found = (await self._backend.call(exchange.caller, table.RESOLVE, request)).documents
        if len(found) != 1:
            raise DmpError(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID)
        location = self._links.url("DocumentReference", self._links.document_id(found[0].name))
        return Answer(success(), 200, {"Location": location, "ETag": etag(found[0].version)})

    async def document_search(self, exchange: Exchange) -> Answer:
        """ITI-67."""
        read = search.read_search(await exchange.parameters(search.NAMES), self._links)
        health_id = await self._health_id(exchange, read.patient)
        read.request.parent = dossier_name(health_id)
        try:
            response = await self._or_nobody(
                self._backend.call(exchange.caller, table.SEARCH, read.request), read.patient.field
            )
        except DmpError as error:
            raise translate(error, search_field) from None
        return Answer(search.write_searchset(read, response, self._links, health_id))

    async def document_read(self, exchange: Exchange) -> Answer:
        """The metadata of one document."""
        name = document_name(*await self._read_id(exchange, "DocumentReference"))
        found = await self._backend.call(exchange.caller, table.GET, GetDocumentRequest(name=name))
        return Answer(write_document(found.document, self._links), headers=_version_headers(found.document))

    async def binary_read(self, exchange: Exchange) -> Response:
        """ITI-68: the head of the stream decides the headers; then the very bytes, as they come, or a range of them.

        The read is recorded, and the whole content checked, before the head comes, whatever part of it is sent.
        """
        headers = exchange.request.headers
        wants_whole = exchange.request.method == "GET" and "range" not in headers
        request = ReadDocumentRequest(
            name=document_name(*await self._read_id(exchange, "Binary")),
            accept_zstd=wants_whole and negotiation.accepts_encoding(headers, "zstd"),
        )
        parts = self._backend.stream(exchange.caller, table.READ, request)
        try:
            first = await anext(parts, None)
            if first is None or first.WhichOneof("part") != "document":
                raise unavailable("document")
            written = _content_headers(headers, first)
            for tag in _tags(first.document):  # what the client has may be either representation
                if conditional.is_known(headers, tag):
                    await _close(parts)
                    return Response(status_code=304, headers={name: written[name] for name in _OF_304} | {"ETag": tag})
            part = conditional.read_part(headers, written["ETag"], first.document.size)
        except BaseException:
            await _close(parts)
            raise
        if exchange.request.method == "HEAD":
            await _close(parts)
            return Response(headers=written)
        if part is None:
            return StreamingResponse(_chunks(parts), headers=written)
        written |= {"Content-Length": str(part.end - part.start), "Content-Range": part.header(first.document.size)}
        return StreamingResponse(_chunks(parts, part), 206, headers=written)

    async def _submit(self, exchange: Exchange, read: Submission) -> SubmitDocumentsResponse:
        health_id = await self._health_id(exchange, read.patient)
        read.request.parent = dossier_name(health_id)
        try:
            return await self._or_nobody(
                self._backend.call(exchange.caller, table.SUBMIT, read.request), read.patient.field
            )
        except DmpError as error:
            raise translate(error, submission_field(read)) from None


def _submission_key(exchange: Exchange) -> SubmissionKey:
    return SubmissionKey(exchange.caller.actor.client_id, negotiation.idempotency_key(exchange.request.headers))


def _if_none_exist(exchange: Exchange) -> str:
    """The uniqueId that If-None-Exist names; '' without the header."""
    values = exchange.request.headers.getlist("if-none-exist")
    if not values:
        return ""
    text = values[0].removeprefix("DocumentReference?").removeprefix("?")
    pairs = parse_query(text.encode(), "If-None-Exist")
    if len(values) > 1 or [name for name, _ in pairs] != ["identifier"]:
        raise invalid("If-None-Exist", "criterion", "one criterion: identifier=system|value")
    return unique_id_token(pairs[0][1], "If-None-Exist")


def _version_headers(document: Document) -> dict[str, str]:
    headers = {"ETag": etag(document.version)}
    if document.HasField("change_time") or document.HasField("submit_time"):
        headers["Last-Modified"] = http_date(changed(document))
    return headers


_OF_304: Final = ("ETag", "Cache-Control", "Vary")


def _content_headers(asked: Headers, first: ReadDocumentResponse) -> dict[str, str]:
    """The headers of a content from the head of its stream; 406 for a media type that the request does not accept."""
    document = first.document
    mime_type = document.mime_type if is_mime_type(document.mime_type) else "application/octet-stream"
    negotiation.check_binary_accepted(asked, mime_type)
    headers = {
        "Content-Type": mime_type,
        "Content-Length": str(document.size),
        "Content-Disposition": "attachment",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "ETag": _tags(document)[0],
        "Vary": "Accept-Encoding",
        "Accept-Ranges": "bytes",
    }
    if first.encoding == CONTENT_ENCODING_ZSTD:  # another representation: another tag, and no ranges of it
        del headers["Content-Length"], headers["Accept-Ranges"]
        headers |= {"Content-Encoding": "zstd", "ETag": _tags(document)[1]}
    return headers


def _tags(document: Document) -> tuple[str, str]:
    """The ETags of a content: as it is, and as a zstd frame."""
    return f'"{document.hash.hex()}"', f'"{document.hash.hex()}-zstd"'


async def _chunks(
    parts: AsyncIterator[ReadDocumentResponse], wanted: conditional.Part | None = None
) -> AsyncIterator[bytes]:
    """The content, or a part of it. An error half-way ends the connection: Content-Length then shows that bytes are
    missing."""
    place = 0
    try:
        async for part in parts:
            chunk = part.chunk
            if wanted is not None:
                chunk, place = chunk[max(0, wanted.start - place) : max(0, wanted.end - place)], place + len(chunk)
            if chunk:
                yield chunk
            if wanted is not None and place >= wanted.end:
                return
    finally:
        await _close(parts)


async def _close(parts: AsyncIterator[ReadDocumentResponse]) -> None:
    close = getattr(parts, "aclose", None)
    if close is not None:
        await close()
