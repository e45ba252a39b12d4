"""ITI-66: submission sets and folders."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1.document_pb2 import (
    Document,
    GetSubmissionSetRequest,
    ListFoldersRequest,
    ListFoldersResponse,
    ListSubmissionSetsRequest,
    ListSubmissionSetsResponse,
)
from gateway.fhir import lists, search
from gateway.fhir.endpoints.common import Endpoints
from gateway.fhir.exchange import Answer, Exchange, Handler
from gateway.fhir.field_paths import search_field, translate
from gateway.fhir.lists import ListKind
from gateway.fhir.node import JsonObject
from gateway.fhir.tables import documents as table
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, submission_set_name


class Lists(Endpoints):
    """The endpoints of Lists."""

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the interaction."""
        return {"list-search": self.list_search, "list-read": self.list_read}

    async def list_search(self, exchange: Exchange) -> Answer:
        """A page of submission sets or of folders, each with its members."""
        read = lists.read_search(await exchange.parameters(lists.NAMES), self._links)
        health_id = await self._health_id(exchange, read.patient)
        read.request.parent = dossier_name(health_id)
        try:
            response = await self._or_nobody(self._list(exchange, read.request), read.patient.field)
        except DmpError as error:
            raise translate(error, search_field) from None
        asked = read.patient.identifier
        resources: list[JsonObject] = []
        if not (read.only_total or read.impossible):
            found = response.submission_sets if isinstance(response, ListSubmissionSetsResponse) else response.folders
            members = await asyncio.gather(
                *(self._members(exchange, each.name, read.kind, read.request.parent) for each in found)
            )
            if isinstance(response, ListSubmissionSetsResponse):
                written = zip(response.submission_sets, members, strict=True)
                resources = [lists.write_submission_set(one, inside, self._links, asked) for one, inside in written]
            else:
                folders = zip(response.folders, members, strict=True)
                resources = [lists.write_folder(one, inside, self._links, asked) for one, inside in folders]
        token = "" if read.only_total or read.impossible else response.next_page_token
        total = 0 if read.impossible else response.total_size
        page = search.searchset(
            resources, read.pairs, self._links, kind="List", health_id=health_id, token=token, total=total
        )
        return Answer(page)

    async def list_read(self, exchange: Exchange) -> Answer:
        """One submission set or folder by its id."""
        text = exchange.request.path_params["id"]
        try:
            health_id, _ = self._ids.read("Folder", text)
        except DmpError:
            name = submission_set_name(*await self._read_id(exchange, "List"))
            request = GetSubmissionSetRequest(name=name)
            answer = await self._backend.call(exchange.caller, table.GET_SET, request)
            return Answer(lists.write_submission_set(answer.submission_set, answer.documents, self._links))
        parent = dossier_name(health_id)
        name = self._links.folder_of(text)
        call = self._backend.call(exchange.caller, table.LIST_FOLDERS, ListFoldersRequest(parent=parent, folder=name))
        found = (await self._or_nobody(call, "id")).folders
        if not found:
            raise DmpError(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND)
        documents = await self._members(exchange, name, "folder", parent)
        return Answer(lists.write_folder(found[0], documents, self._links))

    async def _list(
        self, exchange: Exchange, request: ListSubmissionSetsRequest | ListFoldersRequest
    ) -> ListSubmissionSetsResponse | ListFoldersResponse:
        if isinstance(request, ListSubmissionSetsRequest):
            return await self._backend.call(exchange.caller, table.LIST_SETS, request)
        return await self._backend.call(exchange.caller, table.LIST_FOLDERS, request)

    async def _members(self, exchange: Exchange, name: str, kind: ListKind, parent: str) -> Sequence[Document]:
        request = lists.document_search(name, kind, parent)
        return (await self._backend.call(exchange.caller, table.SEARCH, request)).documents
