"""SearchDocuments: the documents that match and that the caller may know of, page by page, newest submission first.

Rights are applied inside the one statement (`store`), so the total is exact and says nothing of what is hidden. Each
page is authorised and recorded like any request. Here live the criteria, the page token and the record of what left.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document.access import view_of
from services.document.authorship import Authorship
from services.document.envelope import open_metadata
from services.document.gate import Gate
from services.document.read import with_row
from services.document.store import Criteria, DocumentRow, DocumentStore, Position, Span, translated
from services.document.text import control_characters
from services.document.times import EPOCH, instant, is_valid
from services.document.unique_ids import UniqueIds
from services.runtime.coalescer import Coalescer
from services.runtime.context import Call
from services.runtime.errors import DmpError, invalid
from services.runtime.paging import PageTokens, page_scope
from services.runtime.sealing import DossierKey
from services.runtime.validation import validate

DEFAULT_PAGE: Final = 20

_MICROSECOND: Final = timedelta(microseconds=1)


class Searcher:
    """Searches dossiers."""

    def __init__(
        self,
        store: DocumentStore,
        gate: Gate,
        authorship: Authorship,
        unique_ids: UniqueIds,
        tokens: PageTokens,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._gate = gate
        self._authorship = authorship
        self._unique_ids = unique_ids
        self._tokens = tokens
        self._clock = clock
        self._keys: Coalescer[int, DossierKey] = Coalescer("dossier-keys", store.keys, in_flight=2)

    async def search(
        self, request: document_pb2.SearchDocumentsRequest, call: Call
    ) -> document_pb2.SearchDocumentsResponse:
        """One page, recorded with the names that it holds."""
        decision = await self._gate.enter(call, consent_pb2.ACTION_SEARCH)
        try:
            response = await self._page(request, call, decision)
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from None
        names = [document.name for document in response.documents]
        await self._gate.served(call, decision, names, len(names))
        return response

    async def close(self) -> None:
        """Finish the batches under way."""
        await self._keys.close()

    async def _page(
        self, request: document_pb2.SearchDocumentsRequest, call: Call, decision: consent_pb2.Decision
    ) -> document_pb2.SearchDocumentsResponse:
        validate(request)
        for path in control_characters(request):
            raise invalid(path, "no_control_characters", "control characters are not accepted")
        criteria = self._criteria(request)
        scope = _scope(request, call)
        after = _position(self._tokens.read(request.page_token, scope)) if request.page_token else None
        size = request.page_size or DEFAULT_PAGE
        view = view_of(decision.filter, self._authorship.of_actor(call.actor), self._clock())
        with translated():
            page = await self._store.search(call.health_id, criteria, view, after, size + 1)
        shown = page.rows[:size]
        response = document_pb2.SearchDocumentsResponse(total_size=page.total)
        response.documents.extend(await self._opened(call, shown))
        if len(page.rows) > size:
            response.next_page_token = self._tokens.issue(scope, _position_bytes(shown[-1]))
        return response

    async def _opened(self, call: Call, rows: list[DocumentRow]) -> list[document_pb2.Document]:
        if not rows:
            return []
        key = await self._keys.submit(call.health_id, timeout=call.remaining())
        return [with_row(open_metadata(key, row.document_id, row.sealed).document, row) for row in rows]

    def _criteria(self, request: document_pb2.SearchDocumentsRequest) -> Criteria:
        wanted = list(request.statuses) or [document_pb2.DOCUMENT_STATUS_APPROVED]
        return Criteria(
            statuses=[status for status in wanted if status != document_pb2.DOCUMENT_STATUS_DELETED],
            type_codes=list(request.type_codes) or None,
            class_codes=list(request.class_codes) or None,
            format_codes=list(request.format_codes) or None,
            created=_span(request.create_time, "create_time"),
            service=_span(request.service_time, "service_time"),
            submitted=_span(request.submit_time, "submit_time"),
            unique_id_digest=self._unique_ids.digest(request.unique_id) if request.unique_id else None,
        )


def _span(given: document_pb2.TimeRange, field: str) -> Span:
    start = _bound(given.start_time, f"{field}.start_time") if given.HasField("start_time") else None
    end = _bound(given.end_time, f"{field}.end_time") if given.HasField("end_time") else None
    if start is not None and end is not None and end < start:
        raise invalid(f"{field}.end_time", "order", "the end is not before the start")
    return Span(start, end)


def _bound(given: Timestamp, field: str) -> datetime:
    if not is_valid(given):
        raise invalid(field, "timestamp", "a time between the years 1 and 9999")
    return instant(given)


def _scope(request: document_pb2.SearchDocumentsRequest, call: Call) -> bytes:
    """Dossier, criteria, caller and mode: a token continues this very search. The page size may change."""
    criteria = document_pb2.SearchDocumentsRequest()
    criteria.CopyFrom(request)
    criteria.ClearField("page_token")
    criteria.ClearField("page_size")
    actor = call.actor
    caller = f"{call.client_id}|{actor.actor_kind}|{actor.subject}|{actor.structure}|{actor.access_mode}"
    return page_scope(call.method.path.encode(), criteria.SerializeToString(deterministic=True), caller.encode())


def _position_bytes(row: DocumentRow) -> bytes:
    since = (row.submitted_at - EPOCH) // _MICROSECOND
    return since.to_bytes(8, "big", signed=True) + row.document_id.bytes


def _position(token: bytes) -> Position:
    if len(token) != 24:
        raise DmpError(reasons.ERROR_REASON_INVALID_PAGE_TOKEN)
    since = int.from_bytes(token[:8], "big", signed=True)
    return Position(EPOCH + since * _MICROSECOND, uuid.UUID(bytes=token[8:]))
