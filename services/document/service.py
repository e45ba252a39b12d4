"""The RPCs of DocumentService. Thin: each hands over to the room that does what it says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from dmp.document.v1 import document_pb2
from services.document.change import Changer
from services.document.changes import Changes
from services.document.listing import Lister
from services.document.operations import Operations
from services.document.read import Reader
from services.document.read_together import ReadTogether
from services.document.recent import RecentDossiers
from services.document.references import References
from services.document.search import Searcher
from services.document.submit import Submitter
from services.document.uploads import Collecting, Uploads
from services.runtime.context import Call, enter
from services.runtime.errors import DmpError
from services.runtime.together import Asked, Outcome, ServeMany
from services.runtime.validation import pattern_of, validate
from services.runtime.wire import embedded

_NAME: Final = pattern_of(document_pb2.GetDocumentRequest, "name")

Served = Callable[[str, int], None]
"""Told of each content that came in or went out: its direction (`in`, `out`) and its size in bytes."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """Who does what."""

    submitter: Submitter
    uploads: Uploads
    searcher: Searcher
    reader: Reader
    read_together: ReadTogether
    lister: Lister
    changer: Changer
    changes: Changes
    operations: Operations
    recent: RecentDossiers
    references: References


class DocumentServicer:
    """Serves dmp.document.v1.DocumentService."""

    def __init__(self, rooms: Rooms, served: Served) -> None:
        self._rooms = rooms
        self._served = served
        self.together: Mapping[str, ServeMany] = {"GetDocument": self._get_documents}

    async def SubmitDocuments(
        self, request: document_pb2.SubmitDocumentsRequest, call: Call
    ) -> document_pb2.SubmitDocumentsResponse:
        """Add a submission set with its documents and folders, all or nothing."""
        response = await self._rooms.submitter.submit(request, call)
        for document in response.documents:
            self._served("in", document.size)
        return response

    async def CreateUpload(
        self, request: document_pb2.CreateUploadRequest, call: Call
    ) -> document_pb2.CreateUploadResponse:
        """Begin an upload."""
        return document_pb2.CreateUploadResponse(upload=await self._rooms.uploads.create(request, call))

    async def WriteUpload(
        self, request: document_pb2.WriteUploadRequest, call: Call
    ) -> document_pb2.WriteUploadResponse:
        """Add a chunk."""
        return document_pb2.WriteUploadResponse(upload=await self._rooms.uploads.write(request, call))

    async def UploadContent(self, request: document_pb2.UploadContentRequest, call: Call) -> Collecting:
        """Take a content in a stream."""
        return await self._rooms.uploads.collect(request, call)

    async def GetUpload(self, request: document_pb2.GetUploadRequest, call: Call) -> document_pb2.GetUploadResponse:
        """Say how far an upload is."""
        return document_pb2.GetUploadResponse(upload=await self._rooms.uploads.get(request, call))

    async def SearchDocuments(
        self, request: document_pb2.SearchDocumentsRequest, call: Call
    ) -> document_pb2.SearchDocumentsResponse:
        """List what matches and may be known of."""
        return await self._rooms.searcher.search(request, call)

    async def GetFirstOpening(
        self, request: document_pb2.GetFirstOpeningRequest, call: Call
    ) -> document_pb2.GetFirstOpeningResponse:
        """Give what a first opening shows."""
        return await self._rooms.searcher.first_opening(request, call)

    async def GetDocument(self, request: document_pb2.GetDocumentRequest, call: Call) -> bytes:
        """Give a document's metadata. The name is the routing field: its syntax is checked before consent is asked."""
        name = request.name
        if _NAME.fullmatch(name) is None:
            validate(request)
        return embedded(b"\x0a", await self._rooms.reader.get(call, name))

    async def _get_documents(self, asked: Sequence[Asked]) -> Sequence[Outcome]:
        """GetDocument, many calls at once."""
        named: list[tuple[Call, str]] = []
        outcomes: list[Outcome] = [None] * len(asked)
        places: list[int] = []
        for place, (call, request) in enumerate(asked):
            name = request.name
            if _NAME.fullmatch(name) is not None:
                named.append((call, name))
                places.append(place)
        shown = await self._rooms.read_together.get(named)
        for place, (call, _), each in zip(places, named, shown, strict=True):
            if isinstance(each, bytes):
                outcomes[place] = embedded(b"\x0a", each)
            else:
                outcomes[place] = each if isinstance(each, DmpError) else partial(_rest, call, each)
        return outcomes

    async def ReadDocument(
        self, request: document_pb2.ReadDocumentRequest, call: Call
    ) -> AsyncIterator[document_pb2.ReadDocumentResponse]:
        """Stream a document: its metadata, then its very bytes or their frame."""
        validate(request)
        async for response in self._rooms.reader.read(call, request.name, accept_zstd=request.accept_zstd):
            if response.HasField("document"):
                self._served("out", response.document.size)
            yield response

    async def ListDocumentVersions(
        self, request: document_pb2.ListDocumentVersionsRequest, call: Call
    ) -> document_pb2.ListDocumentVersionsResponse:
        """List a document's metadata versions."""
        return await self._rooms.lister.versions(request, call)

    async def ChangeDocument(
        self, request: document_pb2.ChangeDocumentRequest, call: Call
    ) -> document_pb2.ChangeDocumentResponse:
        """Change a document's visibility or status."""
        return await self._rooms.changer.change(request, call)

    async def ListSubmissionSets(
        self, request: document_pb2.ListSubmissionSetsRequest, call: Call
    ) -> document_pb2.ListSubmissionSetsResponse:
        """List submission sets."""
        return await self._rooms.lister.sets(request, call)

    async def GetSubmissionSet(
        self, request: document_pb2.GetSubmissionSetRequest, call: Call
    ) -> document_pb2.GetSubmissionSetResponse:
        """Give a submission set and its documents."""
        return await self._rooms.lister.one_set(request, call)

    async def ListFolders(
        self, request: document_pb2.ListFoldersRequest, call: Call
    ) -> document_pb2.ListFoldersResponse:
        """List folders."""
        return await self._rooms.lister.folders(request, call)

    async def ListChanges(
        self, request: document_pb2.ListChangesRequest, call: Call
    ) -> document_pb2.ListChangesResponse:
        """List what happened since the last visit."""
        return await self._rooms.changes.list(request, call)

    async def WatchChanges(
        self, request: document_pb2.WatchChangesRequest, call: Call
    ) -> AsyncIterator[document_pb2.WatchChangesResponse]:
        """Stream what happens."""
        async for response in self._rooms.changes.watch(request, call):
            yield response

    async def ListRecentDossiers(
        self, request: document_pb2.ListRecentDossiersRequest, call: Call
    ) -> document_pb2.ListRecentDossiersResponse:
        """List the caller's dossiers by their last document."""
        return await self._rooms.recent.page(request, call)

    async def ResolveUniqueId(
        self, request: document_pb2.ResolveUniqueIdRequest, call: Call
    ) -> document_pb2.ResolveUniqueIdResponse:
        """Give technical ids by uniqueId."""
        return await self._rooms.references.resolve(request, call)

    async def DestroyDossier(
        self, request: document_pb2.DestroyDossierRequest, call: Call
    ) -> document_pb2.DestroyDossierResponse:
        """Destroy a dossier by law."""
        return await self._rooms.operations.destroy(request, call)

    async def VerifyContents(
        self, request: document_pb2.VerifyContentsRequest, call: Call
    ) -> document_pb2.VerifyContentsResponse:
        """Check a slice of what is stored."""
        return await self._rooms.operations.verify(request, call)

    async def SweepContents(
        self, request: document_pb2.SweepContentsRequest, call: Call
    ) -> document_pb2.SweepContentsResponse:
        """Remove a slice of what belongs to nothing."""
        return await self._rooms.operations.sweep(request, call)

    async def MoveContents(
        self, request: document_pb2.MoveContentsRequest, call: Call
    ) -> document_pb2.MoveContentsResponse:
        """Move a slice of the contents."""
        return await self._rooms.operations.move(request, call)

    async def RewrapKeys(self, request: document_pb2.RewrapKeysRequest, call: Call) -> document_pb2.RewrapKeysResponse:
        """Wrap a slice of the keys anew."""
        return await self._rooms.operations.rewrap(request, call)


async def _rest(call: Call, rest: Callable[[], Awaitable[bytes]]) -> bytes:
    """What is left of a GetDocument, in a task of its own, which serves this call from here on."""
    enter(call)
    return embedded(b"\x0a", await rest())
