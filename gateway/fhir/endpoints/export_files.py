"""The files of documents of an export: made while they are fetched, with the rights that their caller has then."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import orjson
from starlette.responses import Response, StreamingResponse

from dmp.document.v1 import document_pb2
from dmp.document.v1.document_pb2 import (
    Document,
    GetDocumentRequest,
    ReadDocumentRequest,
    SearchDocumentsRequest,
    SearchDocumentsResponse,
)
from gateway.fhir.backend import Backend, Caller
from gateway.fhir.document_out import Links, write_document
from gateway.fhir.negotiation import NDJSON
from gateway.fhir.node import JsonObject
from gateway.fhir.outcome import outcome
from gateway.fhir.tables.documents import GET, READ, SEARCH
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name

DOCUMENTS_A_FILE: Final = 50
_KEPT: Final[Mapping[str, str]] = {"Cache-Control": "no-store"}
_STATUSES: Final = (
    document_pb2.DOCUMENT_STATUS_APPROVED,
    document_pb2.DOCUMENT_STATUS_DEPRECATED,
    document_pb2.DOCUMENT_STATUS_ARCHIVED,
)


class DocumentFiles:
    """Pages of a dossier's documents as NDJSON; at most one content in memory at a time."""

    def __init__(self, backend: Backend, links: Links) -> None:
        self._backend = backend
        self._links = links

    async def page(self, caller: Caller, health_id: int, token: str, size: int) -> SearchDocumentsResponse:
        """A page of all documents that the caller may know of, in the order in which they were submitted."""
        request = SearchDocumentsRequest(
            parent=dossier_name(health_id),
            statuses=_STATUSES,
            order=document_pb2.DOCUMENT_ORDER_SUBMIT_TIME,
            page_size=size,
            page_token=token,
        )
        return await self._backend.call(caller, SEARCH, request)

    async def pages(self, caller: Caller, health_id: int) -> list[tuple[str, int]]:
        """Each page that has documents: its token, and how many they are."""
        found, token = [], ""
        while True:
            page = await self.page(caller, health_id, token, DOCUMENTS_A_FILE)
            if page.documents:
                found.append((token, len(page.documents)))
            token = page.next_page_token
            if not token:
                return found

    def references(self, caller: Caller, documents: Sequence[Document], *, inline: bool) -> Response:
        """DocumentReferences; `inline`, each with its content, as `$import` takes it."""
        if inline:
            return StreamingResponse(self._inline(caller, documents), media_type=NDJSON, headers=_KEPT)
        return ndjson([write_document(each, self._links) for each in documents])

    def contents(self, caller: Caller, documents: Sequence[Document]) -> Response:
        """Binaries; an OperationOutcome stands for a content that is refused."""
        return StreamingResponse(self._binaries(caller, documents), media_type=NDJSON, headers=_KEPT)

    async def _binaries(self, caller: Caller, documents: Sequence[Document]) -> AsyncIterator[bytes]:
        for document in documents:
            yield orjson.dumps(await self._binary(caller, document)) + b"\n"

    async def _inline(self, caller: Caller, documents: Sequence[Document]) -> AsyncIterator[bytes]:
        async for resource in self.inline(caller, documents):
            yield orjson.dumps(resource) + b"\n"

    async def inline(self, caller: Caller, documents: Sequence[Document]) -> AsyncIterator[JsonObject]:
        """Each whole, and telling by uniqueId what it replaces."""
        for document in documents:
            data = await self.whole(caller, document)
            if isinstance(data, DmpError):
                yield outcome(data)
            else:
                reference = write_document(document, self._links)
                reference["content"][0]["attachment"]["data"] = data
                yield reference

    async def _unique_id(self, caller: Caller, name: str) -> str:
        """The uniqueId of a document; '' of one that the caller may not know of."""
        try:
            found = await self._backend.call(caller, GET, GetDocumentRequest(name=name))
        except DmpError as error:
            if error.spec.http >= 500:
                raise
            return ""
        return found.document.unique_id

    async def whole(self, caller: Caller, document: Document) -> str | DmpError:
        """The base64 of a document's content, or why it is refused; the document then tells by uniqueId what it
        replaces."""
        for relation in document.relationships:
            relation.target_unique_id = await self._unique_id(caller, relation.target)
        try:
            return await self._content(caller, document)
        except DmpError as error:
            if error.spec.http >= 500:
                raise
            return error

    async def _content(self, caller: Caller, document: Document) -> str:
        content = bytearray()
        async for part in self._backend.stream(caller, READ, ReadDocumentRequest(name=document.name)):
            content += part.chunk
        return base64.b64encode(content).decode()

    async def _binary(self, caller: Caller, document: Document) -> dict[str, Any]:
        try:
            content = await self._content(caller, document)
        except DmpError as error:
            if error.spec.http >= 500:
                raise  # the file breaks off and is fetched again
            return outcome(error)
        return {
            "resourceType": "Binary",
            "id": self._links.binary_id(document.name),
            "contentType": document.mime_type,
            "data": content,
        }


def ndjson(resources: Sequence[JsonObject]) -> Response:
    """A file of resources, one a line."""
    lines = b"".join(orjson.dumps(each) + b"\n" for each in resources)
    return Response(lines, media_type=NDJSON, headers=_KEPT)
