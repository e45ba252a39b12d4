"""How content is sealed at rest: one dossier's key, one blob, bound to what it belongs to.

Here live the frozen format of a sealed blob and the compression that precedes it. Where keys come from is `keyring`;
nothing here reads a file, a clock or a database.

Format of a sealed blob (version 1, frozen):

    offset  length  content
    0       1       version, 0x01
    1       12      nonce, random for each blob
    13      n       ciphertext of the n bytes of plaintext, AES-256-GCM
    13+n    16      GCM tag

The tag also covers: the version byte, followed by the caller's associated data. Random 96-bit nonces are safe up to
2^32 blobs under one key (NIST SP 800-38D §8.3); a key serves one dossier.

Associated data of a dossier's content (`content_aad`, frozen): health id (8 bytes, big-endian) ‖ content id (16 bytes
of the UUID). A blob moved to another dossier or another document no longer opens.

Compressed content is one zstd frame (RFC 8878) that states its content size.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
OVERHEAD: Final = 1 + NONCE_BYTES + TAG_BYTES
"""Bytes that sealing adds to a plaintext."""

_VERSION: Final = b"\x01"
_COMPRESSION_LEVEL: Final = 3
_of_thread: Final = threading.local()


class SealBroken(Exception):
    """The blob is not what was sealed: altered, truncated, of an unknown version, or for another key or owner."""


class DecompressionRefused(Exception):
    """The frame is not zstd, does not state its size, or is larger than allowed."""


@dataclass(frozen=True, slots=True)
class DossierKey:
    """The key that seals the content of one dossier in one service. Its bytes are never shown, compared or logged."""

    health_id: int
    aead: AESGCM = field(repr=False, compare=False)

    @classmethod
    def from_bytes(cls, health_id: int, key: bytes) -> DossierKey:
        """`key` is 32 bytes; ValueError otherwise."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a dossier key has {KEY_BYTES} bytes")
        return cls(health_id, AESGCM(key))


def content_aad(health_id: int, content_id: uuid.UUID) -> bytes:
    """The 24 bytes that bind a blob to its dossier and its content (design §8, sealing)."""
    return health_id.to_bytes(8, "big") + content_id.bytes


def seal(key: DossierKey, plaintext: bytes, aad: bytes) -> bytes:
    """Encrypt and authenticate; the same plaintext never gives the same blob twice."""
    nonce = os.urandom(NONCE_BYTES)
    return b"".join((_VERSION, nonce, key.aead.encrypt(nonce, plaintext, _VERSION + aad)))


def seal_all(items: Sequence[tuple[DossierKey, bytes, bytes]]) -> list[bytes]:
    """As `seal`, for each key, plaintext and associated data: the nonces of all are drawn in one call of the system."""
    drawn = os.urandom(NONCE_BYTES * len(items))
    nonces = [drawn[at : at + NONCE_BYTES] for at in range(0, len(drawn), NONCE_BYTES)]
    return [
        b"".join((_VERSION, nonce, key.aead.encrypt(nonce, plaintext, _VERSION + aad)))
        for nonce, (key, plaintext, aad) in zip(nonces, items, strict=True)
    ]


def open_sealed(key: DossierKey, blob: bytes, aad: bytes) -> bytes:
    """The plaintext of a blob made by `seal` with the same key and `aad`. Raises SealBroken."""
    if len(blob) < OVERHEAD:
        raise SealBroken("a sealed blob is never this short")
    if blob[:1] != _VERSION:
        raise SealBroken("unknown version of a sealed blob")
    view = memoryview(blob)
    try:
        return key.aead.decrypt(view[1 : 1 + NONCE_BYTES], view[1 + NONCE_BYTES :], _VERSION + aad)
    except InvalidTag:
        raise SealBroken("the blob was altered, or belongs to another key or owner") from None


def compress(content: bytes) -> bytes:
    """One zstd frame that states its content size."""
    compressor: zstandard.ZstdCompressor | None = getattr(_of_thread, "compressor", None)
    if compressor is None:  # a context is for one thread at a time, and costs as much to make as 50 kB to compress
        compressor = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL, write_content_size=True)
        _of_thread.compressor = compressor
    return compressor.compress(content)


def decompress(frame: bytes, max_bytes: int) -> bytes:
    """The content of one zstd frame, at most `max_bytes` long.

    The stated size is checked before any memory is taken, and bounds what the decoder may write. Raises
    DecompressionRefused.
    """
    try:
        stated = zstandard.get_frame_parameters(frame).content_size
        if stated == zstandard.CONTENTSIZE_UNKNOWN:
            raise DecompressionRefused("the frame does not state its size")
        if stated > max_bytes:
            raise DecompressionRefused("the content is larger than allowed")
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError:
        raise DecompressionRefused("not one well-formed zstd frame") from None
