"""What this service seals, and how: a document's metadata, its content, an answer kept for a retry.

Here live the frozen layouts and their associated data. Keys come from the runtime; nothing here touches a database.

    metadata  version 0x01 ‖ content id (16) ‖ SHA-256 of the content (32) ‖ Document message
              bound to: health id ‖ document id ‖ "document/2|" ‖ columns (store.rows, `binding`)
              before versions existed: health id ‖ document id ‖ "document"
    version   DocumentVersion message; bound to: health id ‖ document id ‖ "version" ‖ entry id
    folder    Folder message; bound to: health id ‖ folder id ‖ "folder"
    chunk     one zstd frame; bound to: health id ‖ upload id ‖ "chunk" ‖ offset (8, big-endian)
    content   one zstd frame; bound to: health id ‖ content id
    set       SubmissionSet message; bound to: health id ‖ submission set id ‖ "submission-set"
    answer    SubmitDocumentsResponse; bound to: health id ‖ "answer" ‖ SHA-256 of the request

The metadata name the content and its digest under the seal, so neither a content nor a reference can be exchanged for
another. What changes over a document's life (status, version, flags) is in columns that the seal covers: each change
seals the metadata anew, and a column changed behind our back breaks the seal.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, ParamSpec, TypeVar

from google.protobuf.message import DecodeError, Message

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from services.document.store.rows import DocumentRow
from services.runtime.errors import DmpError
from services.runtime.sealing import (
    DecompressionRefused,
    DossierKey,
    SealBroken,
    compress,
    content_aad,
    decompress,
    open_sealed,
    seal,
)

OFF_LOOP_BYTES: Final = 256 * 1024
"""From this size on hashing, compressing and sealing leave the event loop: they release the interpreter lock. Below,
the way to a thread and back costs more than the work. Measured with CDAs of 75 kB, 16 in flight, on two busy cores,
interleaved, medians of eight rounds: 349 submissions and 3,521 reads a second here, 248 and 2,035 in threads."""

_VERSION: Final = b"\x01"
_POINTER_BYTES: Final = 1 + 16 + 32

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Packed:
    """A content on its way in: compressed, measured, not yet sealed."""

    frame: bytes
    size: int
    sha1: bytes
    sha256: bytes


class ContentPointer(NamedTuple):
    """Which content belongs to a document, and the SHA-256 that it must have."""

    content_id: uuid.UUID
    sha256: bytes


class OpenedContent(NamedTuple):
    """A content and the zstd frame that holds it."""

    content: bytes
    frame: bytes


class OpenedMetadata(NamedTuple):
    """A document's metadata and the pointer to its content."""

    document: document_pb2.Document
    content: ContentPointer


async def off_loop(size: int, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `work` here if it handles few bytes, else in a thread."""
    if size < OFF_LOOP_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def pack(content: bytes) -> Packed:
    """Compress and measure."""
    return Packed(
        compress(content),
        len(content),
        hashlib.sha1(content, usedforsecurity=False).digest(),
        hashlib.sha256(content).digest(),
    )


def seal_content(key: DossierKey, content_id: uuid.UUID, packed: Packed) -> bytes:
    """The blob to store."""
    return seal(key, packed.frame, content_aad(key.health_id, content_id))


def open_content(key: DossierKey, pointer: ContentPointer, size: int, blob: bytes) -> OpenedContent:
    """The very bytes that were submitted, and their frame. CONTENT_CORRUPTED unless seal, size and digest all hold."""
    try:
        frame = open_sealed(key, blob, content_aad(key.health_id, pointer.content_id))
        content = decompress(frame, size)
    except (SealBroken, DecompressionRefused) as error:
        raise _corrupted() from error
    if len(content) != size or hashlib.sha256(content).digest() != pointer.sha256:
        raise _corrupted()
    return OpenedContent(content, frame)


def is_sealed_content(key: DossierKey, content_id: uuid.UUID, blob: bytes) -> bool:
    """Whether a blob is what `seal_content` made of this content, to the last bit."""
    try:
        open_sealed(key, blob, content_aad(key.health_id, content_id))
    except SealBroken:
        return False
    return True


def seal_metadata(key: DossierKey, row: DocumentRow, pointer: ContentPointer, document: document_pb2.Document) -> bytes:
    """The blob to store in the document's row, bound to the row's other columns (`sealed` is not looked at)."""
    plain = b"".join((_VERSION, pointer.content_id.bytes, pointer.sha256, document.SerializeToString()))
    return seal(key, plain, _metadata_aad(row))


def open_metadata(key: DossierKey, row: DocumentRow) -> OpenedMetadata:
    """What `seal_metadata` sealed. CONTENT_CORRUPTED when it, or a column bound to it, was altered or exchanged."""
    return read_metadata(unseal_metadata(key, row))


def unseal_metadata(key: DossierKey, row: DocumentRow) -> bytes:
    """What `seal_metadata` sealed, not parsed yet; errors as `open_metadata`."""
    plain = _opened(key, row.sealed, _metadata_aad(row))
    if plain[:1] != _VERSION or len(plain) < _POINTER_BYTES:
        raise _corrupted()
    return plain


def read_metadata(plain: bytes) -> OpenedMetadata:
    """What was unsealed, parsed."""
    pointer = ContentPointer(uuid.UUID(bytes=plain[1:17]), plain[17:_POINTER_BYTES])
    return OpenedMetadata(_parsed(document_pb2.Document, message_of(plain)), pointer)


def message_of(plain: bytes) -> bytes:
    """The serialized Document in what was unsealed."""
    return plain[_POINTER_BYTES:]


def seal_submission_set(key: DossierKey, submission_set_id: uuid.UUID, message: document_pb2.SubmissionSet) -> bytes:
    """The blob to store in the submission set's row."""
    return seal(key, message.SerializeToString(), content_aad(key.health_id, submission_set_id) + b"submission-set")


def open_submission_set(key: DossierKey, submission_set_id: uuid.UUID, blob: bytes) -> document_pb2.SubmissionSet:
    """What `seal_submission_set` sealed. CONTENT_CORRUPTED when it was altered or exchanged."""
    plain = _opened(key, blob, content_aad(key.health_id, submission_set_id) + b"submission-set")
    return _parsed(document_pb2.SubmissionSet, plain)


def seal_version(key: DossierKey, document_id: uuid.UUID, version: document_pb2.DocumentVersion) -> bytes:
    """The blob of a metadata version that another has followed."""
    aad = content_aad(key.health_id, document_id) + b"version" + version.document.entry_id.encode()
    return seal(key, version.SerializeToString(), aad)


def open_version(
    key: DossierKey, document_id: uuid.UUID, entry_id: uuid.UUID, blob: bytes
) -> document_pb2.DocumentVersion:
    """What `seal_version` sealed. CONTENT_CORRUPTED when it was altered or exchanged."""
    aad = content_aad(key.health_id, document_id) + b"version" + str(entry_id).encode()
    return _parsed(document_pb2.DocumentVersion, _opened(key, blob, aad))


def seal_folder(key: DossierKey, folder_id: uuid.UUID, folder: document_pb2.Folder) -> bytes:
    """The blob to store in the folder's row."""
    return seal(key, folder.SerializeToString(), content_aad(key.health_id, folder_id) + b"folder")


def open_folder(key: DossierKey, folder_id: uuid.UUID, blob: bytes) -> document_pb2.Folder:
    """What `seal_folder` sealed. CONTENT_CORRUPTED when it was altered or exchanged."""
    return _parsed(document_pb2.Folder, _opened(key, blob, content_aad(key.health_id, folder_id) + b"folder"))


def seal_chunk(key: DossierKey, upload_id: uuid.UUID, start: int, chunk: bytes) -> bytes:
    """The blob of a chunk on its way in."""
    return seal(key, compress(chunk), _chunk_aad(key.health_id, upload_id, start))


def open_chunk(key: DossierKey, upload_id: uuid.UUID, start: int, blob: bytes, max_bytes: int) -> bytes:
    """What `seal_chunk` sealed. CONTENT_CORRUPTED when it was altered or exchanged."""
    try:
        return decompress(_opened(key, blob, _chunk_aad(key.health_id, upload_id, start)), max_bytes)
    except DecompressionRefused as error:
        raise _corrupted() from error


def seal_answer(key: DossierKey, body_digest: bytes, answer: Message) -> bytes:
    """An answer to keep for a retry: it holds titles and what the producer said of the patient."""
    return seal(key, answer.SerializeToString(), _answer_aad(key.health_id, body_digest))


def open_answer(key: DossierKey, body_digest: bytes, blob: bytes, kind: type[M]) -> M:
    """The answer kept for this very request. CONTENT_CORRUPTED when it was altered."""
    return _parsed(kind, _opened(key, blob, _answer_aad(key.health_id, body_digest)))


def _metadata_aad(row: DocumentRow) -> bytes:
    binding = row.binding()
    kind = b"document" if binding is None else b"document/2|" + binding
    return content_aad(row.health_id, row.document_id) + kind


def _chunk_aad(health_id: int, upload_id: uuid.UUID, start: int) -> bytes:
    return content_aad(health_id, upload_id) + b"chunk" + start.to_bytes(8, "big")


def _opened(key: DossierKey, blob: bytes, aad: bytes) -> bytes:
    try:
        return open_sealed(key, blob, aad)
    except SealBroken as error:
        raise _corrupted() from error


def _parsed(kind: type[M], plain: bytes) -> M:
    try:
        return kind.FromString(plain)
    except DecodeError as error:
        raise _corrupted() from error


def _answer_aad(health_id: int, body_digest: bytes) -> bytes:
    return health_id.to_bytes(8, "big") + b"answer" + body_digest


def _corrupted() -> DmpError:
    return DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED)
