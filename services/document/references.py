"""Technical ids by uniqueId (TD3.1): ResolveUniqueId, and what a search tells those who may not search.

Whoever feeds may ask whether what it fed is there: a document that the caller, or the caller's structure, wrote or
handed in. Of any other document only who may search learns, and no more than a search would show.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Final

from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document.access import VISIBLE, fed_by, hidden_because, view_of
from services.document.authorship import Authorship
from services.document.gate import Gate
from services.document.store.reading import translated
from services.document.store.rows import DocumentRow
from services.document.store.searching import SearchStore
from services.document.unique_ids import UniqueIds
from services.runtime.checks import dossiers_read
from services.runtime.context import Call
from services.runtime.errors import DmpError, invalid
from services.runtime.identifiers import document_name
from services.runtime.text import control_characters
from services.runtime.trail import UNDECIDED
from services.runtime.validation import validate_for_storage

MOST_DOSSIERS: Final = 20
"""Of those that hold a uniqueId, so many are looked into."""


class References:
    """Looks them up."""

    def __init__(
        self,
        store: SearchStore,
        gate: Gate,
        authorship: Authorship,
        unique_ids: UniqueIds,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._gate = gate
        self._authorship = authorship
        self._unique_ids = unique_ids
        self._clock = clock

    async def resolve(
        self, request: document_pb2.ResolveUniqueIdRequest, call: Call
    ) -> document_pb2.ResolveUniqueIdResponse:
        """Of the dossier named, or of every one about which the caller may ask."""
        validate_for_storage(request)
        for path in control_characters(request):
            raise invalid(path, "no_control_characters", "control characters are not accepted")
        if request.parent:
            decision = await self._gate.enter(call, consent_pb2.ACTION_SEARCH_REFERENCE)
            dossiers = dossiers_read(call.health_id, decision)
            found = await self._known(call, decision, dossiers, request.unique_id)
            await self._gate.served(call, decision, [one.name for one in found], len(found))
            return document_pb2.ResolveUniqueIdResponse(documents=found)
        with translated():
            holders = await self._store.elsewhere(self._unique_ids.digest(request.unique_id), MOST_DOSSIERS)
        response = document_pb2.ResolveUniqueIdResponse()
        for part in await asyncio.gather(*(self._resolved_in(call, holder, request.unique_id) for holder in holders)):
            response.documents.extend(part)
        return response

    async def fed(
        self, call: Call, decision: consent_pb2.Decision, unique_id: str, statuses: Collection[int]
    ) -> list[document_pb2.DocumentReference]:
        """Of what the caller fed, for who may not search."""
        rows = await self._rows(call, decision, dossiers_read(call.health_id, decision), unique_id)
        caller = self._authorship.of_caller(call.actor)
        return [_reference(call, row) for row, by in rows if row.status in statuses and fed_by(row, by, caller)]

    async def _resolved_in(self, call: Call, health_id: int, unique_id: str) -> list[document_pb2.DocumentReference]:
        """What the caller may know of it in one dossier; nothing where consent says no. Recorded either way."""
        within = call.within(health_id)
        try:
            decision = await self._gate.enter(within, consent_pb2.ACTION_SEARCH_REFERENCE)
        except DmpError as error:
            if error.code in UNDECIDED:
                raise
            return []
        found = await self._known(within, decision, [health_id], unique_id)
        await self._gate.served(within, decision, [one.name for one in found], len(found))
        return found

    async def _known(
        self, call: Call, decision: consent_pb2.Decision, health_ids: Sequence[int], unique_id: str
    ) -> list[document_pb2.DocumentReference]:
        """What the caller fed, and what a search would show the caller."""
        rows = await self._rows(call, decision, health_ids, unique_id)
        caller = self._authorship.of_caller(call.actor)
        fed = [fed_by(row, by, caller) for row, by in rows]
        view = None
        if not all(fed):
            searching = await self._gate.asked(call, consent_pb2.ACTION_SEARCH)
            view = view_of(searching.filter, caller, self._clock()) if searching.permitted else None
        return [
            _reference(call, row)
            for (row, _), own in zip(rows, fed, strict=True)
            if own or (view is not None and hidden_because(row, view) == VISIBLE)
        ]

    async def _rows(
        self, call: Call, decision: consent_pb2.Decision, health_ids: Sequence[int], unique_id: str
    ) -> list[tuple[DocumentRow, list[bytes]]]:
        try:
            with translated():
                return await self._store.references(health_ids, self._unique_ids.digest(unique_id))
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from None


def _reference(call: Call, row: DocumentRow) -> document_pb2.DocumentReference:
    return document_pb2.DocumentReference(
        name=document_name(call.health_id, row.document_id),
        entry_id=str(row.entry_id or row.document_id),
        version=row.version,
        status=row.status,  # type: ignore[arg-type]
    )
