"""CreateUpload, WriteUpload, UploadContent, GetUpload: contents that come in chunks and survive a broken line.

In single calls on every transport, or in one stream: the chunks, their bounds and their durability are the same.

Each chunk is durable before it is acknowledged, sealed like all content; only its own client sees an upload. Bounds:
each upload is at most one document's size, and of one client in one dossier few are open at once.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document import envelope
from services.document.gate import Gate
from services.document.store import uploads as store
from services.document.store.reading import translated
from services.document.store.uploads import UploadRow
from services.document.times import timestamp
from services.runtime import idempotency
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.idempotency import IdempotencyKey
from services.runtime.identifiers import upload_name, uuid7
from services.runtime.postgres import Pool, transaction
from services.runtime.validation import validate, validate_for_storage

KEPT: Final = timedelta(days=1)
MAX_CHUNK: Final = 1 << 20
_MOST_OPEN: Final = 16
_BEGIN: Final = "/dmp.document.v1.DocumentService/CreateUpload"


class Uploads:
    """Uploads of one service."""

    def __init__(
        self, pool: Pool, keys: DossierKeys, gate: Gate, max_bytes: int, clock: Callable[[], datetime]
    ) -> None:
        """`max_bytes` bounds each upload."""
        self._pool = pool
        self._keys = keys
        self._gate = gate
        self._max_bytes = max_bytes
        self._clock = clock

    async def create(self, request: document_pb2.CreateUploadRequest, call: Call) -> document_pb2.Upload:
        """Begin an upload; the same one for the same request_id. REQUEST_TOO_LARGE above the size of a document."""
        return (await self._created(request, call))[0]

    async def _created(
        self, request: document_pb2.CreateUploadRequest, call: Call
    ) -> tuple[document_pb2.Upload, consent_pb2.Decision]:
        decision = await self._gate.enter(call, consent_pb2.ACTION_SUBMIT)
        try:
            validate_for_storage(request)
            if request.size > self._max_bytes:
                field = FieldViolation("size", "max_bytes", f"a content is at most {self._max_bytes} bytes")
                raise DmpError(reasons.ERROR_REASON_REQUEST_TOO_LARGE, fields=(field,))
            row = await self._begin(request, call)
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from error.__cause__
        await self._gate.served(call, decision, (upload_name(call.health_id, row.upload_id),))
        return _shown(call, row), decision

    async def collect(self, first: document_pb2.UploadContentRequest, call: Call) -> Collecting:
        """Begin, or go on with, an upload whose chunks come in a stream; `first` may hold a chunk. Errors as for
        `create` and `write`."""
        asked = document_pb2.CreateUploadRequest(parent=first.parent, size=first.size, request_id=first.request_id)
        upload, decision = await self._created(asked, call)
        collecting = Collecting(self, upload, call, decision, first.offset)
        await collecting.add(first)
        return collecting

    async def write(self, request: document_pb2.WriteUploadRequest, call: Call) -> document_pb2.Upload:
        """Add a chunk. UPLOAD_OUT_OF_STEP, UPLOAD_NOT_FOUND."""
        validate_for_storage(request)
        decision = await self._gate.enter(call, consent_pb2.ACTION_SUBMIT, (request.name,))
        try:
            with translated():
                return _shown(call, await self._write(request, call))
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from error.__cause__

    async def follow(
        self, request: document_pb2.WriteUploadRequest, call: Call, decision: consent_pb2.Decision
    ) -> document_pb2.Upload:
        """As `write`, for a caller who has been let in by `decision`."""
        try:
            validate(request)
            with translated():
                return _shown(call, await self._write(request, call))
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from error.__cause__

    async def get(self, request: document_pb2.GetUploadRequest, call: Call) -> document_pb2.Upload:
        """How far an upload is. UPLOAD_NOT_FOUND."""
        validate_for_storage(request)
        decision = await self._gate.enter(call, consent_pb2.ACTION_SUBMIT, (request.name,))
        try:
            with translated():
                return _shown(call, await self._find(call, request.name))
        except DmpError as error:
            raise await self._gate.rejected(call, decision, error) from error.__cause__

    async def contents(
        self, call: Call, documents: Sequence[document_pb2.SubmittedDocument], max_bytes: int
    ) -> list[bytes]:
        """The contents of a submission, from its uploads where they are there, at most `max_bytes` in all.

        Raises UPLOAD_NOT_FOUND, UPLOAD_OUT_OF_STEP for one that is not complete, REQUEST_TOO_LARGE.
        """
        with translated():
            rows = [await self._find(call, d.upload) if d.upload else None for d in documents]
        sizes = [len(d.content) if row is None else row.size for d, row in zip(documents, rows, strict=True)]
        if sum(sizes) > max_bytes:
            field = FieldViolation("documents", "max_bytes", f"a submission is at most {max_bytes} bytes")
            raise DmpError(reasons.ERROR_REASON_REQUEST_TOO_LARGE, fields=(field,))
        if any(row is not None and row.written != row.size for row in rows):
            raise DmpError(reasons.ERROR_REASON_UPLOAD_OUT_OF_STEP)
        with translated():
            return [
                d.content if row is None else await self._content(call, row)
                for d, row in zip(documents, rows, strict=True)
            ]

    async def _begin(self, request: document_pb2.CreateUploadRequest, call: Call) -> UploadRow:
        # One path for both ways to begin: a broken stream is found again by CreateUpload.
        key = IdempotencyKey(call.health_id, call.client_id, _BEGIN, request.request_id)
        digest = request.size.to_bytes(8, "big")
        with translated():
            async with transaction(self._pool, timeout=call.remaining()) as conn:
                kept = await idempotency.begin(conn, key, digest)
                if kept is not None:
                    found = await store.find(conn, call.health_id, uuid.UUID(bytes=kept), call.client_id)
                    if found is None:
                        raise DmpError(reasons.ERROR_REASON_UPLOAD_NOT_FOUND)
                    return found
                count, size = await store.under_way(conn, call.health_id, call.client_id)
                if count >= _MOST_OPEN or size + request.size > _MOST_OPEN * self._max_bytes:
                    raise DmpError(reasons.ERROR_REASON_QUOTA_EXCEEDED)
                row = UploadRow(uuid7(), request.size, 0, self._clock())
                await store.begin(conn, call.health_id, call.client_id, row)
                await idempotency.finish(conn, key, row.upload_id.bytes)
        return row

    async def _write(self, request: document_pb2.WriteUploadRequest, call: Call) -> UploadRow:
        health_id, length = call.health_id, len(request.chunk)
        async with transaction(self._pool, timeout=call.remaining()) as conn:
            row = await store.find(conn, health_id, uuid.UUID(request.name[-36:]), call.client_id)
            if row is None:
                raise DmpError(reasons.ERROR_REASON_UPLOAD_NOT_FOUND)
            if request.offset + length <= row.written:
                return row  # written before: its answer was lost
            if request.offset != row.written or row.written + length > row.size:
                raise DmpError(reasons.ERROR_REASON_UPLOAD_OUT_OF_STEP)
            key = (await self._keys.for_write(conn, [health_id]))[health_id]
            sealed = envelope.seal_chunk(key, row.upload_id, row.written, request.chunk)
            if not await store.write(conn, health_id, call.client_id, row, sealed, length):
                raise DmpError(reasons.ERROR_REASON_UPLOAD_OUT_OF_STEP)
        return row._replace(written=row.written + length)

    async def _find(self, call: Call, name: str) -> UploadRow:
        ours = name.startswith(upload_name(call.health_id, uuid.UUID(int=0))[:-36])
        upload_id = uuid.UUID(name[-36:])
        found = await store.find(self._pool, call.health_id, upload_id, call.client_id) if ours else None
        if found is None:
            raise DmpError(reasons.ERROR_REASON_UPLOAD_NOT_FOUND)
        return found

    async def _content(self, call: Call, row: UploadRow) -> bytes:
        async with self._pool.acquire() as conn:
            key = (await self._keys.for_read(conn, [call.health_id]))[call.health_id]
            parts = await store.chunks(conn, call.health_id, row.upload_id)
        return await envelope.off_loop(
            row.size,
            lambda: b"".join(envelope.open_chunk(key, row.upload_id, at, sealed, MAX_CHUNK) for at, sealed in parts),
        )


class Collecting:
    """An upload whose chunks come one after another, each durable before the next is asked for."""

    def __init__(
        self,
        uploads: Uploads,
        upload: document_pb2.Upload,
        call: Call,
        decision: consent_pb2.Decision,
        offset: int,
    ) -> None:
        self._uploads = uploads
        self._upload = upload
        self._call = call
        self._decision = decision
        self._offset = offset

    async def add(self, request: document_pb2.UploadContentRequest) -> None:
        """The next chunk; what is durable of it is passed over. UPLOAD_OUT_OF_STEP, INVALID_FIELD for one too long."""
        offset, length = self._offset, len(request.chunk)
        self._offset += length
        known = min(max(self._upload.written - offset, 0), length)
        if known == length <= MAX_CHUNK:
            return
        write = document_pb2.WriteUploadRequest(
            name=self._upload.name, offset=offset + known, chunk=request.chunk[known:] if known else request.chunk
        )
        self._upload = await self._uploads.follow(write, self._call, self._decision)

    async def end(self) -> document_pb2.UploadContentResponse:
        """How far the upload is: whole, unless its sender ended early."""
        return document_pb2.UploadContentResponse(upload=self._upload)


def _shown(call: Call, row: UploadRow) -> document_pb2.Upload:
    upload = document_pb2.Upload(name=upload_name(call.health_id, row.upload_id), size=row.size, written=row.written)
    upload.expire_time.CopyFrom(timestamp(row.created_at + KEPT))
    return upload
