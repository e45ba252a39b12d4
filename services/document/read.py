"""GetDocument and ReadDocument: one document for one caller, authorised and recorded before a byte leaves.

A document is named by its id; any of its entryUUIDs will do, at the price of one more look. Consent and the row are
asked for at the same time; nothing is opened before consent has said yes, and nothing is sent
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
from services.document.contents import SMALL_CONTENT, Contents
from services.document.entries import shown, shown_bytes
from services.document.envelope import (
    ContentPointer,
    OpenedContent,
    off_loop,
    open_content,
    read_metadata,
    unseal_metadata,
)
from services.document.gate import Gate
from services.document.linked import Elsewhere, as_asked, elsewhere
from services.document.store.reading import DocumentStore, FoundDocument, translated
from services.document.store.rows import DocumentKey, DocumentRow
from services.runtime.checks import dossiers_read
from services.runtime.coalescer import Coalescer
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.identifiers import document_name
from services.runtime.pace import PACE
from services.runtime.sealing import DossierKey

CHUNK_BYTES: Final = 64 * 1024
_ENCODINGS: Final = {
    False: document_pb2.CONTENT_ENCODING_IDENTITY,
    True: document_pb2.CONTENT_ENCODING_ZSTD,
}

_LARGE_CONTENTS: Final = 2
"""Contents of more than a mebibyte that are in memory at once."""


class Opened(NamedTuple):
    """A document that the caller may know of, opened."""

    decision: consent_pb2.Decision
    document: document_pb2.Document
    content: ContentPointer
    row: DocumentRow
    key: DossierKey


class Reader:
    """Reads single documents."""

    def __init__(
        self,
        store: DocumentStore,
        contents: Contents,
        gate: Gate,
        authorship: Authorship,
        clock: Callable[[], datetime],
    ) -> None:
        self._gate = gate
        self._authorship = authorship
        self._clock = clock
        self._store = store
        self._rows: Coalescer[DocumentKey, FoundDocument | None] = Coalescer(
            "documents", store.find, in_flight=2, pace=PACE
        )
        self._contents = contents
        self._large = asyncio.Semaphore(_LARGE_CONTENTS)

    async def get(self, call: Call, name: str) -> bytes:
        """The metadata of a document, a serialized Document, recorded."""
        decision, found = await self._asked(call, name, consent_pb2.ACTION_SEARCH)
        return await self.decided(call, name, decision, found)

    async def decided(
        self, call: Call, name: str, decision: consent_pb2.Decision, found: FoundDocument | None
    ) -> bytes:
        """As `get`, from consent's answer, a no too, and the row that has the name's id; both read for this call."""
        await self._gate.heed(call, decision, (name,))
        found, plain = await self._unsealed(call, name, decision, found)
        asked, row = call.health_id, found.row
        shown_name = document_name(asked, row.document_id)
        try:
            if row.health_id == asked:
                document = shown_bytes(plain, row, shown_name)
            else:
                document = as_asked(shown(read_metadata(plain).document, row), row.health_id, asked).SerializeToString()
        except DmpError as error:
            raise await self._gate.denied(call, decision, error, objects=(name,)) from None
        await self._gate.served(call, decision, (shown_name,), elsewhere=_elsewhere(call, decision, row))
        return document

    async def read(
        self, call: Call, name: str, *, accept_zstd: bool = False
    ) -> AsyncIterator[document_pb2.ReadDocumentResponse]:
        """The metadata, then the content in chunks; recorded before the first of them. CONTENT_DESTROYED for a
        deleted document of which the caller may know."""
        opened = await self.open(call, name, consent_pb2.ACTION_READ)
        objects = (opened.document.name,)
        if not opened.decision.filter.content_readable:
            refused = DmpError(reasons.ERROR_REASON_RIGHT_DENIED)
            raise await self._gate.denied(call, opened.decision, refused, objects=objects)
        try:
            if opened.row.status == document_pb2.DOCUMENT_STATUS_DELETED:
                raise DmpError(reasons.ERROR_REASON_CONTENT_DESTROYED)
            content = await self._content(call, opened)
        except DmpError as error:
            raise await self._gate.denied(call, opened.decision, error, objects=objects) from None
        await self._gate.served(call, opened.decision, objects, elsewhere=_elsewhere(call, opened.decision, opened.row))
        sent = content.frame if accept_zstd else content.content
        yield document_pb2.ReadDocumentResponse(document=opened.document, encoding=_ENCODINGS[accept_zstd])
        for start in range(0, len(sent), CHUNK_BYTES):
            yield document_pb2.ReadDocumentResponse(chunk=sent[start : start + CHUNK_BYTES])

    async def close(self) -> None:
        """Finish the batches under way."""
        await self._rows.close()

    async def open(self, call: Call, name: str, action: consent_pb2.Action.ValueType) -> Opened:
        """A document that the caller may know of: authorised, and not recorded yet. A refusal is recorded."""
        decision, asked = await self._asked(call, name, action)
        found, plain = await self._unsealed(call, name, decision, asked)
        try:
            document, pointer = read_metadata(plain)
        except DmpError as error:
            raise await self._gate.denied(call, decision, error, objects=(name,)) from None
        document = as_asked(shown(document, found.row), found.row.health_id, call.health_id)
        return Opened(decision, document, pointer, found.row, found.key)

    async def _asked(
        self, call: Call, name: str, action: consent_pb2.Action.ValueType
    ) -> tuple[consent_pb2.Decision, FoundDocument | None]:
        """Consent's yes, and the row that has the name's id. A no is recorded and raised."""
        row = self._rows.ask(DocumentKey(call.health_id, uuid.UUID(name[-36:])), timeout=call.remaining())
        try:
            decision = await self._gate.enter(call, action, (name,))
            found = await row
        except BaseException:
            self._rows.give_up(row)
            raise
        if isinstance(found, DmpError):
            raise found
        return decision, found

    async def _unsealed(
        self, call: Call, name: str, decision: consent_pb2.Decision, found: FoundDocument | None
    ) -> tuple[FoundDocument, bytes]:
        """The document that the caller may know of, its metadata unsealed and not parsed. A refusal is recorded."""
        if found is None:
            found = await self._named_otherwise(DocumentKey(call.health_id, uuid.UUID(name[-36:])), decision)
        reason = self._hidden(call, found, decision)
        if found is None or reason != VISIBLE:
            absent = DmpError(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND)
            raise await self._gate.denied(call, decision, absent, reason=reason, objects=(name,))
        try:
            return found, unseal_metadata(found.key, found.row)
        except DmpError as error:  # destroyed or corrupted: said only to those who may know of it
            raise await self._gate.denied(call, decision, error, objects=(name,)) from None

    async def _named_otherwise(self, wanted: DocumentKey, decision: consent_pb2.Decision) -> FoundDocument | None:
        """The document in another dossier of the person, or that has, or had, this entryUUID."""
        places = [DocumentKey(health_id, wanted.id) for health_id in dossiers_read(wanted.health_id, decision)]
        with translated():
            for found in await self._store.find(places[1:]) if decision.linked else ():
                if found is not None:
                    return found
            for place in places:
                named = await self._store.by_entry(place)
                if named is not None:
                    return (await self._store.find([named]))[0]
        return None

    def _hidden(self, call: Call, found: FoundDocument | None, decision: consent_pb2.Decision) -> int:
        if found is None:
            return reasons.ERROR_REASON_DOCUMENT_NOT_FOUND
        view = view_of(decision.filter, self._authorship.of_caller(call.actor), self._clock())
        return hidden_because(found.row, view)

    async def _content(self, call: Call, opened: Opened) -> OpenedContent:
        if max(opened.row.stored_size, opened.document.size) <= SMALL_CONTENT:
            return await self._unsealed_content(call, opened)
        async with self._large:
            return await self._unsealed_content(call, opened)

    async def _unsealed_content(self, call: Call, opened: Opened) -> OpenedContent:
        wanted = DocumentKey(opened.row.health_id, opened.content.content_id)
        blob = await self._contents.get(wanted, opened.row.stored_size, call.remaining())
        size = opened.document.size
        return await off_loop(size, open_content, opened.key, opened.content, size, blob)


def _elsewhere(call: Call, decision: consent_pb2.Decision, row: DocumentRow) -> Elsewhere:
    return elsewhere(decision, call.health_id, [(row.health_id, row.document_id)])
