"""The documents that projections are of: which of them a caller may know of, what they are, and their bytes.

The one place where structured reading meets the rest of the service: the visibility of the search statements, the
rows, the seals and the contents are that service's own, and are used here alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document import envelope
from services.document.access import VISIBLE as MAY_KNOW
from services.document.access import View, hidden_because, view_of
from services.document.authorship import Authorship
from services.document.contents import Contents
from services.document.entries import shown
from services.document.store.reading import DocumentStore, translated
from services.document.store.rows import DocumentKey, DocumentRow
from services.document.store.searching import VISIBLE as MAY_BE_KNOWN
from services.document.store.searching import view_values
from services.document.times import Clock
from services.runtime.context import Call
from services.runtime.sealing import DossierKey

__all__ = ["VISIBLE", "DocumentKey", "Documents", "Stored", "View", "translated", "view_values"]

VISIBLE: Final = f"d.status = 1 AND {MAY_BE_KNOWN}"
"""That a document d is approved, and may be known of by the view in $2 to $10 (`view_values`)."""


class Stored(NamedTuple):
    """An approved document: its metadata as they are shown, where its content is, and the dossier's key."""

    row: DocumentRow
    document: document_pb2.Document
    content: envelope.ContentPointer
    key: DossierKey


class Documents:
    """Gives documents and their bytes."""

    def __init__(self, store: DocumentStore, contents: Contents, authorship: Authorship, clock: Clock) -> None:
        self._store = store
        self._contents = contents
        self._authorship = authorship
        self._clock = clock

    def view(self, decision: consent_pb2.Decision, call: Call) -> View:
        """What consent lets the caller know of now."""
        return view_of(decision.filter, self._authorship.of_caller(call.actor), self._clock())

    async def stored(self, documents: Sequence[DocumentKey]) -> list[Stored]:
        """Those of these documents that are there and approved. CONTENT_CORRUPTED or CONTENT_DESTROYED."""
        with translated():
            found = await self._store.find(list(documents))
        opened: list[Stored] = []
        for one in found:
            if one is None or one.row.status != document_pb2.DOCUMENT_STATUS_APPROVED:
                continue
            key = one.key
            document, pointer = envelope.open_metadata(key, one.row)
            opened.append(Stored(one.row, shown(document, one.row), pointer, key))
        return opened

    @staticmethod
    def may_know(stored: Stored, view: View) -> bool:
        """Whether the caller may know of the document."""
        return hidden_because(stored.row, view) == MAY_KNOW

    async def content(self, stored: Stored) -> bytes:
        """The very bytes. CONTENT_CORRUPTED when they are not what was submitted."""
        wanted, size = DocumentKey(stored.row.health_id, stored.content.content_id), stored.document.size
        blob = await self._contents.get(wanted, stored.row.stored_size, None)
        opened = await envelope.off_loop(size, envelope.open_content, stored.key, stored.content, size, blob)
        return opened.content
