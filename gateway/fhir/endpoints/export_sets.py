"""Files of whole submission sets: documents, contents and folders together, as `$import` of a host takes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import orjson

from dmp.document.v1.document_pb2 import (
    Document,
    Folder,
    GetSubmissionSetRequest,
    ListFoldersRequest,
    SearchDocumentsResponse,
    SubmissionSet,
)
from dmp.identity.v1.identity_pb2 import Person
from gateway.fhir import handed_over, lists
from gateway.fhir.backend import Backend, Caller
from gateway.fhir.document_out import Links
from gateway.fhir.endpoints.export_files import DocumentFiles
from gateway.fhir.handed_over_sets import Filed, Whole, write_set
from gateway.fhir.lists import ListKind
from gateway.fhir.node import JsonObject
from gateway.fhir.outcome import outcome
from gateway.fhir.tables.documents import GET_SET, LIST_FOLDERS, SEARCH
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name

_LARGEST: Final = 32 << 20
"""Bytes of contents that one line holds; a larger set comes document by document, which `$import` takes too."""


class SetFiles:
    """Sets, one a line; at most one set in memory at a time."""

    def __init__(self, backend: Backend, links: Links, files: DocumentFiles) -> None:
        self._backend = backend
        self._links = links
        self._files = files

    async def members(self, caller: Caller, name: str, kind: ListKind, parent: str) -> list[Document]:
        """All documents of a set or folder."""
        request, found = lists.document_search(name, kind, parent), list[Document]()
        while True:
            page: SearchDocumentsResponse = await self._backend.call(caller, SEARCH, request)
            found += page.documents
            request.page_token = page.next_page_token
            if not request.page_token:
                return found

    async def lines(
        self, caller: Caller, health_id: int, page: Sequence[Document], person: Person
    ) -> AsyncIterator[bytes]:
        """The sets whose first document is on a page (of those in the order in which they were submitted)."""
        parent = dossier_name(health_id)
        on_page = {document.name for document in page}
        folders = await self._folders(caller, parent) if any(document.folders for document in page) else {}
        firsts: dict[str, str] = {}
        for name in dict.fromkeys(document.submission_set for document in page):
            members = sorted(await self.members(caller, name, "submissionset", parent), key=_order)
            if not members or members[0].name not in on_page:
                continue
            async for resource in self._set(caller, name, members, folders, firsts, person):
                yield orjson.dumps(resource) + b"\n"

    async def _set(
        self,
        caller: Caller,
        name: str,
        members: Sequence[Document],
        folders: dict[str, Folder],
        firsts: dict[str, str],
        person: Person,
    ) -> AsyncIterator[JsonObject]:
        if sum(document.size for document in members) > _LARGEST:
            async for resource in self._files.inline(caller, members):
                yield resource
            return
        request = GetSubmissionSetRequest(name=name)
        found: SubmissionSet = (await self._backend.call(caller, GET_SET, request)).submission_set
        whole = []
        for document in members:
            data = await self._files.whole(caller, document)
            if isinstance(data, DmpError):
                yield outcome(data)
            else:
                whole.append(Whole(document, data))
        filed = []
        for folder in sorted({each for one in whole for each in one.document.folders} & set(folders)):
            inside = [one.document.name for one in whole if folder in one.document.folders]
            first = firsts.get(folder) or await self._first(caller, folder)
            firsts[folder] = first
            filed.append(Filed(folders[folder], inside, held=first != name))
        identifier = handed_over.identifier_of(person)
        if whole and identifier is not None:
            yield write_set(found, whole, filed, identifier, self._links)

    async def _first(self, caller: Caller, folder: str) -> str:
        """The set with the first document of a folder: the one that makes it again elsewhere."""
        parent = folder.partition("/folders/")[0]
        return min(await self.members(caller, folder, "folder", parent), key=_order).submission_set

    async def _folders(self, caller: Caller, parent: str) -> dict[str, Folder]:
        found, token = dict[str, Folder](), ""
        while True:
            request = ListFoldersRequest(parent=parent, page_size=lists.LARGEST_PAGE, page_token=token)
            page = await self._backend.call(caller, LIST_FOLDERS, request)
            found |= {folder.name: folder for folder in page.folders}
            token = page.next_page_token
            if not token:
                return found


def _order(document: Document) -> tuple[int, int, str]:
    """As the pages of an export are ordered."""
    return document.submit_time.seconds, document.submit_time.nanos, document.name
