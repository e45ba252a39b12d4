"""Client assertions (RFC 7523, `private_key_jwt`): verified against the client's registered keys, used once.

Algorithms are fixed by the key: EdDSA for OKP, ES256 for P-256; nothing else is accepted, so that no header can
choose a weaker one, take a public key for a secret, or bring a key of its own.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.clients import Clients, Found
from gateway.store import Store
from services.runtime.errors import DmpError

_ALGORITHMS = ["EdDSA", "Ed25519", "ES256"]
_LONGEST_LIFE = 300
_SKEW = 5
_LONGEST_ASSERTION = 16_384


@dataclass(frozen=True, slots=True)
class VerifiedAssertion:
    """An authenticated client and the statement claims that came with its assertion."""

    client: Found
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
            raise refused("assertion.size")
        client, jwks = await self._clients.with_keys(_unverified_issuer(assertion))
        claims = _signed_claims(assertion, jwks)
        registration = client.registration
        expires_at = self._check(claims, registration.client_id, time.time())
        if not await self._store.use_assertion(registration.client_id, claims["jti"], expires_at):
            raise refused("assertion.replayed")
        extensions = claims.get("extensions", {})
        if not isinstance(extensions, dict):
            raise refused("assertion.extensions")
        return VerifiedAssertion(client, extensions)

    def _check(self, claims: dict[str, Any], client_id: str, now: float) -> datetime:
        """Until when the assertion must be remembered."""
        audience, jti = claims.get("aud"), claims.get("jti")
        audiences = {each for each in (audience if isinstance(audience, list) else [audience]) if isinstance(each, str)}
        if claims.get("iss") != client_id or claims.get("sub") != client_id:
            raise refused("assertion.subject")
        if not audiences & self._audiences:
            raise refused("assertion.audience")
        issued, expires = _time(claims, "iat"), _time(claims, "exp")
        begins = _time(claims, "nbf") if "nbf" in claims else issued
        if not max(issued, begins) - _SKEW <= now <= expires + _SKEW or expires - issued > _LONGEST_LIFE:
            raise refused("assertion.times")
        if not isinstance(jti, str) or not 8 <= len(jti) <= 128 or "\0" in jti:
            raise refused("assertion.jti")
        return datetime.fromtimestamp(expires + _SKEW, UTC)


def refused(rule: str) -> DmpError:
    """A client that cannot be authenticated; `rule` says which check failed, for its developer."""
    return DmpError(reasons.ERROR_REASON_CLIENT_INVALID, metadata={"rule": rule})


def _time(claims: dict[str, Any], name: str) -> int:
    value = claims.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 40:
        raise refused("assertion.times")
    return value


def _unverified_issuer(assertion: str) -> str:
    """The client id that an assertion claims, to find its keys; nothing is believed before the signature is checked."""
    try:
        payload = assertion.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        issuer = claims["iss"]
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        raise refused("assertion.form") from None
    if not isinstance(issuer, str) or "\0" in issuer or not 1 <= len(issuer) <= 128:
        raise refused("assertion.form")
    return issuer


def _signed_claims(assertion: str, jwks: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
    try:
        keys = KeySet.import_key_set(jwks)  # type: ignore[arg-type]
        return dict(jwt.decode(assertion, keys, algorithms=_ALGORITHMS).claims)
    except (JoseError, ValueError, TypeError, KeyError, RecursionError):
        raise refused("assertion.signature") from None
