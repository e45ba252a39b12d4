"""The RPCs of DocumentService. Thin: each hands over to the room that does what it says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from dmp.document.v1 import document_pb2
from services.document.read import Reader
from services.document.search import Searcher
from services.document.submit import Submitter
from services.runtime.context import Call
from services.runtime.validation import validate

Served = Callable[[str, int], None]
"""Told of each content that came in or went out: its direction (`in`, `out`) and its size in bytes."""


class DocumentServicer:
    """Serves dmp.document.v1.DocumentService."""

    def __init__(self, submitter: Submitter, searcher: Searcher, reader: Reader, served: Served) -> None:
        self._submitter = submitter
        self._searcher = searcher
        self._reader = reader
        self._served = served

    async def SubmitDocuments(
        self, request: document_pb2.SubmitDocumentsRequest, call: Call
    ) -> document_pb2.SubmitDocumentsResponse:
        """Add a submission set with its documents, all or nothing."""
        response = await self._submitter.submit(request, call)
        for document in response.documents:
            self._served("in", document.size)
        return response

    async def SearchDocuments(
        self, request: document_pb2.SearchDocumentsRequest, call: Call
    ) -> document_pb2.SearchDocumentsResponse:
        """List what matches and may be known of."""
        return await self._searcher.search(request, call)

    async def GetDocument(
        self, request: document_pb2.GetDocumentRequest, call: Call
    ) -> document_pb2.GetDocumentResponse:
        """Give a document's metadata. The name is the routing field: its syntax is checked before consent is asked."""
        validate(request)
        return document_pb2.GetDocumentResponse(document=await self._reader.get(call, request.name))

    async def ReadDocument(
        self, request: document_pb2.ReadDocumentRequest, call: Call
    ) -> AsyncIterator[document_pb2.ReadDocumentResponse]:
        """Stream a document: its metadata, then its very bytes."""
        validate(request)
        async for response in self._reader.read(call, request.name):
            if response.HasField("document"):
                self._served("out", response.document.size)
            yield response
