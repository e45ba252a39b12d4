"""SearchDocuments and GetFirstOpening: the documents that match and that the caller may know of, page by page.

Rights are applied inside the one statement (`store.searching`), so the total is exact and says nothing of what is
hidden. Each page is authorised and recorded like any request. Pages go on after the last document of the one before, by
its place in the order and its id: documents that arrive meanwhile move nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document.access import view_of
from services.document.authorship import Authorship
from services.document.criteria import ORDERS, CriteriaReader
from services.document.gate import Gate
from services.document.linked import Elsewhere, elsewhere
from services.document.pages import Cursors, Opener, after, position_bytes, scope_of
from services.document.references import References
from services.document.store.reading import translated
from services.document.store.rows import DocumentRow
from services.document.store.searching import Criteria, Order, Page, Position, SearchStore, Span
from services.runtime.checks import dossiers_read
from services.runtime.context import Call
from services.runtime.errors import DmpError, invalid
from services.runtime.paging import PageTokens
from services.runtime.text import control_characters
from services.runtime.validation import validate_for_storage

DEFAULT_PAGE: Final = 20
DEFAULT_OPENING: Final = 1000
_REFERENCE: Final = consent_pb2.ACTION_SEARCH_REFERENCE
_NO_CRITERIA: Final = frozenset({"parent", "unique_id", "statuses", "page_size", "order", "reference_if_refused"})
OPENING_YEARS: Final = 2
"""What a first opening shows (domain.md §2)."""


class Searcher:
    """Searches dossiers."""

    def __init__(
        self,
        store: SearchStore,
        gate: Gate,
        authorship: Authorship,
        criteria: CriteriaReader,
        opener: Opener,
        tokens: PageTokens,
        cursors: Cursors,
        references: References,
        clock: Callable[[], datetime],
    ) -> None:
        self._references = references
        self._store = store
        self._gate = gate
        self._authorship = authorship
        self._criteria = criteria
        self._opener = opener
        self._tokens = tokens
        self._cursors = cursors
        self._clock = clock

    async def search(
        self, request: document_pb2.SearchDocumentsRequest, call: Call
    ) -> document_pb2.SearchDocumentsResponse:
        """One page, recorded with the names that it holds."""
        if request.reference_if_refused and _by_unique_id_alone(request):
            decision, no_more = await self._gate.enter_or(call, consent_pb2.ACTION_SEARCH, _REFERENCE)
            if no_more:
                return await self._references_alone(request, call, decision)
        else:
            decision = await self._gate.enter(call, consent_pb2.ACTION_SEARCH)
        try:
            response, rows = await self._page(request, call, decision)
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from None
        names = [document.name for document in response.documents]
        await self._gate.served(call, decision, names, len(names), _elsewhere(call, decision, rows))
        return response

    async def first_opening(
        self, request: document_pb2.GetFirstOpeningRequest, call: Call
    ) -> document_pb2.GetFirstOpeningResponse:
        """What a first opening shows, recorded. The cursor is read before the documents: what comes between is told
        once more, and never missed."""
        decision = await self._gate.enter(call, consent_pb2.ACTION_SEARCH)
        try:
            response, rows = await self._opening(request, call, decision)
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from None
        names = [document.name for document in response.documents]
        await self._gate.served(call, decision, names, len(names), _elsewhere(call, decision, rows))
        return response

    async def _references_alone(
        self, request: document_pb2.SearchDocumentsRequest, call: Call, decision: consent_pb2.Decision
    ) -> document_pb2.SearchDocumentsResponse:
        """The technical ids of what a feeder fed, recorded."""
        try:
            _check(request)
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from None
        statuses = list(request.statuses) or [document_pb2.DOCUMENT_STATUS_APPROVED]
        found = await self._references.fed(call, decision, request.unique_id, statuses)
        await self._gate.served(call, decision, [one.name for one in found], len(found))
        return document_pb2.SearchDocumentsResponse(references=found, total_size=len(found))

    async def _page(
        self, request: document_pb2.SearchDocumentsRequest, call: Call, decision: consent_pb2.Decision
    ) -> tuple[document_pb2.SearchDocumentsResponse, Sequence[DocumentRow]]:
        _check(request)
        criteria = self._criteria.of(dossiers_read(call.health_id, decision), request)
        scope, size = scope_of(request, call), request.page_size or DEFAULT_PAGE
        position = after(self._tokens, request.page_token, scope)
        page = await self._found(call, decision, criteria, ORDERS[request.order], position, size)
        response = document_pb2.SearchDocumentsResponse(total_size=page.total)
        rows = page.rows[:size]
        response.documents.extend(await self._opener.documents(call, rows))
        response.next_page_token = self._next(scope, page, size)
        return response, rows

    async def _opening(
        self, request: document_pb2.GetFirstOpeningRequest, call: Call, decision: consent_pb2.Decision
    ) -> tuple[document_pb2.GetFirstOpeningResponse, Sequence[DocumentRow]]:
        validate_for_storage(request)
        scope, size = scope_of(request, call), request.page_size or DEFAULT_OPENING
        with translated():
            dossiers = dossiers_read(call.health_id, decision)
            latest = dict(zip(dossiers, await self._store.latest(dossiers), strict=True))
        position, cursor = self._cursors.opening(request.page_token, scope, call.health_id, latest)
        now = self._clock()
        years_ago = now.replace(year=now.year - OPENING_YEARS, day=min(now.day, 28))
        criteria = Criteria([document_pb2.DOCUMENT_STATUS_APPROVED], submitted=Span(years_ago))
        page = await self._found(call, decision, criteria, Order(), position, size)
        response = document_pb2.GetFirstOpeningResponse(
            total_size=page.total, cursor=self._cursors.issue(call.health_id, cursor)
        )
        rows = page.rows[:size]
        response.documents.extend(await self._opener.documents(call, rows))
        if len(page.rows) > size:
            last = position_bytes(page.places[size - 1], page.rows[size - 1].document_id)
            response.next_page_token = self._cursors.next_opening(scope, last, call.health_id, cursor)
        return response, rows

    async def _found(
        self,
        call: Call,
        decision: consent_pb2.Decision,
        criteria: Criteria,
        order: Order,
        position: Position | None,
        size: int,
    ) -> Page:
        view = view_of(decision.filter, self._authorship.of_caller(call.actor), self._clock())
        with translated():
            dossiers = dossiers_read(call.health_id, decision)
            return await self._store.documents(dossiers, view, criteria, order, position, size + 1)

    def _next(self, scope: bytes, page: Page, size: int) -> str:
        if len(page.rows) <= size:
            return ""
        return self._tokens.issue(scope, position_bytes(page.places[size - 1], page.rows[size - 1].document_id))


def _check(request: document_pb2.SearchDocumentsRequest) -> None:
    validate_for_storage(request)
    for path in control_characters(request):
        raise invalid(path, "no_control_characters", "control characters are not accepted")


def _by_unique_id_alone(request: document_pb2.SearchDocumentsRequest) -> bool:
    """Whether nothing but one uniqueId narrows the search."""
    return bool(request.unique_id) and all(field.name in _NO_CRITERIA for field, _ in request.ListFields())


def _elsewhere(call: Call, decision: consent_pb2.Decision, rows: Sequence[DocumentRow]) -> Elsewhere:
    return elsewhere(decision, call.health_id, ((row.health_id, row.document_id) for row in rows))
