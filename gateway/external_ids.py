"""FHIR ids: opaque, authenticated, stable, and each finds its shard (design: external ids).

An id is AES-SIV (RFC 5297) over health id (8 bytes, big-endian) and uuid (16 bytes), its kind as associated data,
in lower-case base32: exactly 64 characters of FHIR's id alphabet. One that we did not make, or of another kind, or
altered, does not open, and is answered like one that does not exist.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DmpError
from services.runtime.keyring import Keyring

_LENGTH = 64
_KEPT = 16_384


class ExternalIds:
    """Writes and reads external ids."""

    def __init__(self, keyring: Keyring) -> None:
        key = keyring.digest("external-id.mac", b"") + keyring.digest("external-id.cipher", b"")
        self._siv = AESSIV(key)
        # An id is always the same: those of a page (its patient in each entry) are made once. 9 µs each.
        self._made = lru_cache(_KEPT)(self._make)

    def write(self, kind: str, health_id: int, entity: uuid.UUID) -> str:
        """The external id of an entity of a dossier; `kind` is the FHIR resource type."""
        return self._made(kind, health_id, entity)

    def _make(self, kind: str, health_id: int, entity: uuid.UUID) -> str:
        sealed = self._siv.encrypt(health_id.to_bytes(8) + entity.bytes, [kind.encode()])
        return base64.b32encode(sealed).decode().lower()

    def read(self, kind: str, text: str) -> tuple[int, uuid.UUID]:
        """(health id, uuid) of an external id; DOCUMENT_NOT_FOUND when it is not one of ours."""
        try:
            if len(text) != _LENGTH:
                raise ValueError
            clear = self._siv.decrypt(base64.b32decode(text.upper()), [kind.encode()])
        except (ValueError, binascii.Error, InvalidTag):
            raise DmpError(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND) from None
        return int.from_bytes(clear[:8]), uuid.UUID(bytes=clear[8:])
