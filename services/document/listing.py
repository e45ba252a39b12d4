"""Lists about a dossier other than its documents: submission sets, folders, versions.

A set or a folder is shown when it holds a document that the caller may know of; the statements see to that. Each page
is authorised and recorded.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document import envelope
from services.document.access import View, view_of
from services.document.authorship import Authorship
from services.document.criteria import CriteriaReader, child, span
from services.document.gate import Gate
from services.document.linked import as_asked, elsewhere
from services.document.pages import Opener, after, position_bytes, scope_of
from services.document.read import Reader
from services.document.store.reading import DocumentStore, translated
from services.document.store.rows import DocumentKey, DocumentRow
from services.document.store.searching import SealedItem, SearchStore
from services.document.times import timestamp
from services.document.unique_ids import UniqueIds, entry_uuid
from services.runtime.checks import dossiers_read
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.paging import PageTokens
from services.runtime.sealing import DossierKey
from services.runtime.validation import validate_for_storage

DEFAULT_PAGE: Final = 20


class Lister:
    """Lists."""

    def __init__(
        self,
        store: SearchStore,
        documents: DocumentStore,
        reader: Reader,
        gate: Gate,
        authorship: Authorship,
        unique_ids: UniqueIds,
        criteria: CriteriaReader,
        opener: Opener,
        tokens: PageTokens,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._documents = documents
        self._reader = reader
        self._gate = gate
        self._authorship = authorship
        self._unique_ids = unique_ids
        self._criteria = criteria
        self._opener = opener
        self._tokens = tokens
        self._clock = clock

    async def sets(
        self, request: document_pb2.ListSubmissionSetsRequest, call: Call
    ) -> document_pb2.ListSubmissionSetsResponse:
        """A page of submission sets."""
        decision = await self._gate.enter(call, consent_pb2.ACTION_SEARCH)
        try:
            response = await self._sets(request, call, decision)
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from None
        names = [found.name for found in response.submission_sets]
        await self._gate.served(call, decision, names, len(names))
        return response

    async def one_set(
        self, request: document_pb2.GetSubmissionSetRequest, call: Call
    ) -> document_pb2.GetSubmissionSetResponse:
        """A submission set and its documents; absent when the caller may know of none of them."""
        validate_for_storage(request)
        decision = await self._gate.enter(call, consent_pb2.ACTION_SEARCH, (request.name,))
        try:
            set_id = uuid.UUID(request.name[-36:])
            with translated():
                dossiers = dossiers_read(call.health_id, decision)
                found, rows = await self._store.one_set(dossiers, self._view(call, decision), set_id)
            if found is None or not rows:
                raise DmpError(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND)
            keys = await self._opener.keys(call, [found.health_id])
            response = document_pb2.GetSubmissionSetResponse(
                submission_set=_opened_set(call, keys, found),
                documents=await self._opener.documents(call, rows),
            )
        except DmpError as error:
            raise await self._gate.denied(call, decision, error, objects=(request.name,)) from None
        names = [request.name, *(document.name for document in response.documents)]
        others = elsewhere(decision, call.health_id, ((row.health_id, row.document_id) for row in rows))
        await self._gate.served(call, decision, names, len(rows), others)
        return response

    async def folders(self, request: document_pb2.ListFoldersRequest, call: Call) -> document_pb2.ListFoldersResponse:
        """A page of folders."""
        decision = await self._gate.enter(call, consent_pb2.ACTION_SEARCH)
        try:
            response = await self._folders(request, call, decision)
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from None
        names = [found.name for found in response.folders]
        await self._gate.served(call, decision, names, len(names))
        return response

    async def versions(
        self, request: document_pb2.ListDocumentVersionsRequest, call: Call
    ) -> document_pb2.ListDocumentVersionsResponse:
        """A page of a document's versions."""
        validate_for_storage(request)
        opened = await self._reader.open(call, request.name, consent_pb2.ACTION_SEARCH)
        try:
            response = await self._versions(request, call, opened.row)
        except DmpError as error:
            raise await self._gate.rejected(call, opened.decision, error) from None
        if not request.page_token:
            first = document_pb2.DocumentVersion(document=opened.document, change=opened.row.change)  # type: ignore[arg-type]
            response.versions.insert(0, first)
        others = elsewhere(opened.decision, call.health_id, [(opened.row.health_id, opened.row.document_id)])
        await self._gate.served(call, opened.decision, (opened.document.name,), len(response.versions), others)
        return response

    async def _sets(
        self, request: document_pb2.ListSubmissionSetsRequest, call: Call, decision: consent_pb2.Decision
    ) -> document_pb2.ListSubmissionSetsResponse:
        validate_for_storage(request)
        scope, size = scope_of(request, call), request.page_size or DEFAULT_PAGE
        dossiers = dossiers_read(call.health_id, decision)
        criteria = (
            *span(request.submit_time, "submit_time"),
            request.source_id or None,
            list(request.content_types) or None,
            self._authorship.wanted(request.authors),
            self._authorship.wanted(request.author_institutions),
            self._unique_ids.of_set(request.unique_id) if request.unique_id else None,
            self._criteria.names(dossiers, "family", request.author_family_names),
            self._criteria.names(dossiers, "given", request.author_given_names),
            child(request.submission_set, "submissionSets", "submission_set") if request.submission_set else None,
            entry_uuid(request.unique_id),
        )
        position = after(self._tokens, request.page_token, scope)
        with translated():
            page = await self._store.sets(dossiers, self._view(call, decision), criteria, position, size + 1)
        shown = page.items[:size]
        response = document_pb2.ListSubmissionSetsResponse(total_size=page.total)
        if shown:
            keys = await self._opener.keys(call, (item.health_id for item in shown))
            response.submission_sets.extend(_opened_set(call, keys, item) for item in shown)
        response.next_page_token = self._next(scope, page.items, size)
        return response

    async def _folders(
        self, request: document_pb2.ListFoldersRequest, call: Call, decision: consent_pb2.Decision
    ) -> document_pb2.ListFoldersResponse:
        validate_for_storage(request)
        scope, size = scope_of(request, call), request.page_size or DEFAULT_PAGE
        criteria = (
            *span(request.update_time, "update_time"),
            self._unique_ids.of_folder(request.unique_id) if request.unique_id else None,
            list(request.codes) or None,
            child(request.folder, "folders", "folder") if request.folder else None,
            entry_uuid(request.unique_id),
        )
        position = after(self._tokens, request.page_token, scope)
        with translated():
            dossiers = dossiers_read(call.health_id, decision)
            page = await self._store.folders(dossiers, self._view(call, decision), criteria, position, size + 1)
        response = document_pb2.ListFoldersResponse(total_size=page.total)
        if page.items:
            keys = await self._opener.keys(call, (item.health_id for item in page.items[:size]))
            for item in page.items[:size]:
                folder = envelope.open_folder(keys[item.health_id], item.id, item.sealed)
                folder.status = item.status  # type: ignore[assignment]
                folder.update_time.CopyFrom(timestamp(item.time))
                response.folders.append(as_asked(folder, item.health_id, call.health_id))
        response.next_page_token = self._next(scope, page.items, size)
        return response

    async def _versions(
        self, request: document_pb2.ListDocumentVersionsRequest, call: Call, document: DocumentRow
    ) -> document_pb2.ListDocumentVersionsResponse:
        scope, size = scope_of(request, call), request.page_size or DEFAULT_PAGE
        before = document.version
        if request.page_token:
            before = int.from_bytes(self._tokens.read(request.page_token, scope), "big")
        limit = size if request.page_token else size - 1
        with translated():
            rows = await self._documents.versions(
                DocumentKey(document.health_id, document.document_id), before, limit + 1
            )
        response = document_pb2.ListDocumentVersionsResponse()
        if rows:
            key = await self._opener.key(call, document.health_id)
            for row in rows[:limit]:
                version = envelope.open_version(key, document.document_id, row.entry_id, row.sealed)
                response.versions.append(as_asked(version, document.health_id, call.health_id))
        if len(rows) > limit:
            last = rows[limit - 1].version if limit else document.version
            response.next_page_token = self._tokens.issue(scope, last.to_bytes(8, "big"))
        return response

    def _view(self, call: Call, decision: consent_pb2.Decision) -> View:
        return view_of(decision.filter, self._authorship.of_caller(call.actor), self._clock())

    def _next(self, scope: bytes, items: list[SealedItem], size: int) -> str:
        if len(items) <= size:
            return ""
        return self._tokens.issue(scope, position_bytes(items[size - 1].time, items[size - 1].id))


def _opened_set(call: Call, keys: Mapping[int, DossierKey], item: SealedItem) -> document_pb2.SubmissionSet:
    opened = envelope.open_submission_set(keys[item.health_id], item.id, item.sealed)
    return as_asked(opened, item.health_id, call.health_id)
