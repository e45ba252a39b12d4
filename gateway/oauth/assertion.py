"""Client assertions (RFC 7523, `private_key_jwt`): verified against the client's registered keys, used once.

Algorithms are fixed by the key: EdDSA for OKP, ES256 for P-256; nothing else is accepted, so that no header can
choose a weaker one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.clients import Clients
from gateway.registration import Registration
from gateway.store import Store
from services.runtime.errors import DmpError

_ALGORITHMS = ["EdDSA", "Ed25519", "ES256"]
_LONGEST_LIFE = 300
_SKEW = 5
_LONGEST_ASSERTION = 16_384


@dataclass(frozen=True, slots=True)
class VerifiedAssertion:
    """An authenticated client and the statement claims that came with its assertion."""

    registration: Registration
    extensions: dict[str, Any]


class Assertions:
    """Verifies client assertions."""

    def __init__(self, clients: Clients, store: Store, audiences: frozenset[str]) -> None:
        """`audiences` are the URLs that an assertion may be addressed to: the token endpoint and the issuer."""
        self._clients = clients
        self._store = store
        self._audiences = audiences

    async def verify(self, assertion: str) -> VerifiedAssertion:
        """The client that made `assertion`. CLIENT_INVALID for whatever is wrong with it, replay included."""
        if len(assertion) > _LONGEST_ASSERTION:
            raise _refused("assertion.size")
        registration = await self._clients.get(_unverified_issuer(assertion))
        claims = _signed_claims(assertion, registration)
        now = time.time()
        self._check(claims, registration.client_id, now)
        expires_at = datetime.fromtimestamp(claims["exp"] + _SKEW, UTC)
        if not await self._store.use_assertion(registration.client_id, claims["jti"], expires_at):
            raise _refused("assertion.replayed")
        extensions = claims.get("extensions", {})
        if not isinstance(extensions, dict):
            raise _refused("assertion.extensions")
        return VerifiedAssertion(registration, extensions)

    def _check(self, claims: dict[str, Any], client_id: str, now: float) -> None:
        audience = claims.get("aud")
        audiences = {audience} if isinstance(audience, str) else set(audience or ())
        expires, issued, jti = claims.get("exp"), claims.get("iat"), claims.get("jti")
        if claims.get("iss") != client_id or claims.get("sub") != client_id:
            raise _refused("assertion.subject")
        if not audiences & self._audiences:
            raise _refused("assertion.audience")
        if not isinstance(expires, int) or not isinstance(issued, int):
            raise _refused("assertion.times")
        if not issued - _SKEW <= now <= expires + _SKEW or expires - issued > _LONGEST_LIFE:
            raise _refused("assertion.times")
        if not isinstance(jti, str) or not 8 <= len(jti) <= 128 or "\0" in jti:
            raise _refused("assertion.jti")


def _unverified_issuer(assertion: str) -> str:
    """The client id that an assertion claims, to find its keys; nothing is believed before the signature is checked."""
    import base64
    import json

    try:
        payload = assertion.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        issuer = claims["iss"]
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        raise _refused("assertion.form") from None
    if not isinstance(issuer, str) or "\0" in issuer or len(issuer) > 128:
        raise _refused("assertion.form")
    return issuer


def _signed_claims(assertion: str, registration: Registration) -> dict[str, Any]:
    try:
        keys = KeySet.import_key_set(registration.jwks)  # type: ignore[arg-type]
        return dict(jwt.decode(assertion, keys, algorithms=_ALGORITHMS).claims)
    except (JoseError, ValueError, TypeError):
        raise _refused("assertion.signature") from None


def _refused(rule: str) -> DmpError:
    return DmpError(reasons.ERROR_REASON_CLIENT_INVALID, metadata={"rule": rule})
