"""GetDocument and ReadDocument: one document for one caller, authorised and recorded before a byte leaves.

Consent and the row are asked for at the same time; nothing is opened before consent has said yes, and nothing is sent
before the access is durable in the trail. Reads of many calls leave together in batches (`store`).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Final, NamedTuple

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document.access import VISIBLE, hidden_because, view_of
from services.document.authorship import Authorship
from services.document.envelope import ContentPointer, off_loop, open_content, open_metadata
from services.document.gate import Gate
from services.document.store import DocumentKey, DocumentRow, DocumentStore, FoundDocument, translated
from services.document.times import timestamp
from services.runtime.coalescer import PACE, Coalescer
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.identifiers import document_name, submission_set_name
from services.runtime.sealing import DossierKey

CHUNK_BYTES: Final = 64 * 1024

# A batch of contents holds at most 32 of at most a mebibyte each; larger ones go alone, two at a time.
_SMALL_CONTENT: Final = 1 << 20
_SMALL_CONTENTS: Final = 32
_LARGE_CONTENTS: Final = 2


class Opened(NamedTuple):
    """A document that the caller may know of, opened."""

    decision: consent_pb2.Decision
    document: document_pb2.Document
    content: ContentPointer
    stored_size: int
    key: DossierKey


class Reader:
    """Reads single documents."""

    def __init__(self, store: DocumentStore, gate: Gate, authorship: Authorship, clock: Callable[[], datetime]) -> None:
        self._gate = gate
        self._authorship = authorship
        self._clock = clock
        self._store = store
        self._rows: Coalescer[DocumentKey, FoundDocument | None] = Coalescer(
            "documents", store.find, in_flight=2, pace=PACE
        )
        self._contents: Coalescer[DocumentKey, bytes | None] = Coalescer(
            "contents", store.contents, max_batch=_SMALL_CONTENTS, in_flight=2
        )
        self._large = asyncio.Semaphore(_LARGE_CONTENTS)

    async def get(self, call: Call, name: str) -> document_pb2.Document:
        """The metadata of a document, recorded."""
        opened = await self._open(call, name, consent_pb2.ACTION_SEARCH)
        await self._gate.served(call, opened.decision, (name,))
        return opened.document

    async def read(self, call: Call, name: str) -> AsyncIterator[document_pb2.ReadDocumentResponse]:
        """The metadata, then the content in chunks; recorded before the first of them."""
        opened = await self._open(call, name, consent_pb2.ACTION_READ)
        if not opened.decision.filter.content_readable:
            refused = DmpError(reasons.ERROR_REASON_RIGHT_DENIED)
            raise await self._gate.denied(call, opened.decision, refused, objects=(name,))
        try:
            content = await self._content(call, opened)
        except DmpError as error:
            raise await self._gate.denied(call, opened.decision, error, objects=(name,)) from None
        await self._gate.served(call, opened.decision, (name,))
        yield document_pb2.ReadDocumentResponse(document=opened.document)
        for start in range(0, len(content), CHUNK_BYTES):
            yield document_pb2.ReadDocumentResponse(chunk=content[start : start + CHUNK_BYTES])

    async def close(self) -> None:
        """Finish the batches under way."""
        await self._rows.close()
        await self._contents.close()

    async def _open(self, call: Call, name: str, action: consent_pb2.Action.ValueType) -> Opened:
        wanted = DocumentKey(call.health_id, uuid.UUID(name[-36:]))
        row = self._rows.ask(wanted, timeout=call.remaining())
        try:
            decision = await self._gate.enter(call, action, (name,))
            found = await row
        except BaseException:
            self._rows.give_up(row)
            raise
        if isinstance(found, DmpError):
            raise found
        reason = self._hidden(call, found, decision)
        if found is None or reason != VISIBLE:
            absent = DmpError(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND)
            raise await self._gate.denied(call, decision, absent, reason=reason, objects=(name,))
        try:
            key = found.key
            document, pointer = open_metadata(key, found.row.document_id, found.row.sealed)
        except DmpError as error:  # destroyed or corrupted: said only to those who may know of it
            raise await self._gate.denied(call, decision, error, objects=(name,)) from None
        return Opened(decision, with_row(document, found.row), pointer, found.row.stored_size, key)

    def _hidden(self, call: Call, found: FoundDocument | None, decision: consent_pb2.Decision) -> int:
        if found is None:
            return reasons.ERROR_REASON_DOCUMENT_NOT_FOUND
        view = view_of(decision.filter, self._authorship.of_actor(call.actor), self._clock())
        return hidden_because(found.row, view)

    async def _content(self, call: Call, opened: Opened) -> bytes:
        wanted = DocumentKey(call.health_id, opened.content.content_id)
        if opened.stored_size <= _SMALL_CONTENT:
            blob = await self._contents.submit(wanted, timeout=call.remaining())
            return await self._unseal(opened, blob)
        async with self._large:
            with translated():
                [blob] = await self._store.contents([wanted])
            return await self._unseal(opened, blob)

    async def _unseal(self, opened: Opened, blob: bytes | None) -> bytes:
        if blob is None:
            raise DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED)
        size = opened.document.size
        return await off_loop(size, open_content, opened.key, opened.content, size, blob)


def with_row(document: document_pb2.Document, row: DocumentRow) -> document_pb2.Document:
    """The sealed metadata with what its row knows: names, version, status, submission."""
    document.name = document_name(row.health_id, row.document_id)
    document.logical_id = str(row.logical_id)
    document.version = row.version
    document.status = row.status  # type: ignore[assignment]
    document.submit_time.CopyFrom(timestamp(row.submitted_at))
    document.submission_set = submission_set_name(row.health_id, row.submission_set_id)
    return document
