"""Page tokens: where a listing goes on, authenticated and bound to who lists what. No query, no rule of a service.

Format of a token (URL-safe base64 without padding of): version 0x01 ‖ tag (16 bytes) ‖ position. The tag is the
beginning of the keyring's digest, label "dmp/page-token/v1", of the scope's length (4 bytes, big-endian) ‖ scope ‖
position. A position is not secret from who was given the page that ends there; put nothing else in it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.keyring import Keyring

_VERSION: Final = b"\x01"
_TAG_BYTES: Final = 16
_LABEL: Final = "dmp/page-token/v1"
_LONGEST: Final = 512


class PageTokens:
    """Issues and reads the page tokens of one service; every replica with the same keyring reads them."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def issue(self, scope: bytes, position: bytes) -> str:
        """The token that continues after `position`.

        `scope` is everything that must be the same when it comes back: the method, the dossier, the caller, the
        filters (see `page_scope`). ValueError if the position is too long for a token.
        """
        tag = self._keyring.digest(_LABEL, _bound(scope, position))[:_TAG_BYTES]
        token = base64.urlsafe_b64encode(_VERSION + tag + position).rstrip(b"=").decode("ascii")
        if len(token) > _LONGEST:
            raise ValueError("a position is at most 367 bytes")
        return token

    def read(self, token: str, scope: bytes, field: str = "page_token") -> bytes:
        """The position in a token that was issued for this very scope; INVALID_PAGE_TOKEN for any other text."""
        try:
            if len(token) > _LONGEST:
                raise _foreign(field)
            content = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise _foreign(field) from None
        tag, position = content[1 : 1 + _TAG_BYTES], content[1 + _TAG_BYTES :]
        if content[:1] != _VERSION or len(tag) != _TAG_BYTES:
            raise _foreign(field)
        live = self._keyring.digests(_LABEL, _bound(scope, position))
        if not any(hmac.compare_digest(digest[:_TAG_BYTES], tag) for digest in live):
            raise _foreign(field)
        return position


def page_scope(*parts: bytes) -> bytes:
    """One scope from several parts, such that no other parts give the same."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _bound(scope: bytes, position: bytes) -> bytes:
    return len(scope).to_bytes(4, "big") + scope + position


def _foreign(field: str) -> DmpError:
    return DmpError(
        reasons.ERROR_REASON_INVALID_PAGE_TOKEN,
        fields=(FieldViolation(field, "page_token", "must be the next_page_token of the same listing, unchanged"),),
    )
