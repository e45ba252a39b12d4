"""What this service seals, and how: a document's metadata, its content, an answer kept for a retry.

Here live the frozen layouts and their associated data. Keys come from the runtime; nothing here touches a database.

    metadata  version 0x01 ‖ content id (16) ‖ SHA-256 of the content (32) ‖ Document message
              bound to: health id ‖ document id ‖ "document"
    content   one zstd frame; bound to: health id ‖ content id
    set       SubmissionSet message; bound to: health id ‖ submission set id ‖ "submission-set"
    answer    SubmitDocumentsResponse; bound to: health id ‖ "answer" ‖ SHA-256 of the request

The metadata name the content and its digest under the seal, so neither a content nor a reference can be exchanged for
another. What changes over a document's life (status, version) is in columns and not sealed; see `store`.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, ParamSpec, TypeVar

from google.protobuf.message import DecodeError

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
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


def open_content(key: DossierKey, pointer: ContentPointer, size: int, blob: bytes) -> bytes:
    """The very bytes that were submitted. CONTENT_CORRUPTED unless seal, size and digest all hold."""
    try:
        content = decompress(open_sealed(key, blob, content_aad(key.health_id, pointer.content_id)), size)
    except (SealBroken, DecompressionRefused) as error:
        raise _corrupted() from error
    if len(content) != size or hashlib.sha256(content).digest() != pointer.sha256:
        raise _corrupted()
    return content


def seal_metadata(
    key: DossierKey, document_id: uuid.UUID, pointer: ContentPointer, document: document_pb2.Document
) -> bytes:
    """The blob to store in the document's row."""
    plain = b"".join((_VERSION, pointer.content_id.bytes, pointer.sha256, document.SerializeToString()))
    return seal(key, plain, _metadata_aad(key.health_id, document_id))


def open_metadata(key: DossierKey, document_id: uuid.UUID, blob: bytes) -> OpenedMetadata:
    """What `seal_metadata` sealed. CONTENT_CORRUPTED when it was altered or belongs to another document."""
    try:
        plain = open_sealed(key, blob, _metadata_aad(key.health_id, document_id))
        if plain[:1] != _VERSION or len(plain) < _POINTER_BYTES:
            raise _corrupted()
        pointer = ContentPointer(uuid.UUID(bytes=plain[1:17]), plain[17:_POINTER_BYTES])
        return OpenedMetadata(document_pb2.Document.FromString(plain[_POINTER_BYTES:]), pointer)
    except (SealBroken, DecodeError) as error:
        raise _corrupted() from error


def seal_submission_set(key: DossierKey, submission_set_id: uuid.UUID, message: document_pb2.SubmissionSet) -> bytes:
    """The blob to store in the submission set's row."""
    return seal(key, message.SerializeToString(), content_aad(key.health_id, submission_set_id) + b"submission-set")


def seal_answer(key: DossierKey, body_digest: bytes, answer: document_pb2.SubmitDocumentsResponse) -> bytes:
    """An answer to keep for a retry: it holds titles and what the producer said of the patient."""
    return seal(key, answer.SerializeToString(), _answer_aad(key.health_id, body_digest))


def open_answer(key: DossierKey, body_digest: bytes, blob: bytes) -> document_pb2.SubmitDocumentsResponse:
    """The answer kept for this very request. CONTENT_CORRUPTED when it was altered."""
    try:
        plain = open_sealed(key, blob, _answer_aad(key.health_id, body_digest))
        return document_pb2.SubmitDocumentsResponse.FromString(plain)
    except (SealBroken, DecodeError) as error:
        raise _corrupted() from error


def _metadata_aad(health_id: int, document_id: uuid.UUID) -> bytes:
    return content_aad(health_id, document_id) + b"document"


def _answer_aad(health_id: int, body_digest: bytes) -> bytes:
    return health_id.to_bytes(8, "big") + b"answer" + body_digest


def _corrupted() -> DmpError:
    return DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED)
