"""What may be asked and done about a token that was issued: introspection (RFC 7662, ITI-102), revocation (RFC 7009).

A partner asks about its own tokens; an internal system or an operator about any. A token that is somebody else's is
answered as one that does not exist. A revocation holds at the gateway from its answer on, and at the services from
their acknowledgement (docs/decisions/0028-suspension.md).
"""

from __future__ import annotations

import re
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.clients import Clients
from gateway.events import event, outbox_row
from gateway.oauth import iua
from gateway.oauth.client_authentication import Client, ClientAuthentication
from gateway.oauth.errors import OAuthError
from gateway.oauth.sign_in import digest
from gateway.oauth.tokens import REVOKED_FOR
from gateway.registration import itself
from gateway.store import GrantRow, SignIns
from services.runtime.errors import DmpError
from services.runtime.outbox import put
from services.runtime.postgres import Pool, transaction
from services.runtime.tokens import SKEW, TokenVerifier, VerifiedToken

_REFRESH: Final = re.compile(r"[0-9a-f]{32}\.[A-Za-z0-9_-]{43}")
_INACTIVE: Final[Mapping[str, Any]] = {"active": False}
_REFUSALS: Final = frozenset(
    {
        reasons.ERROR_REASON_TOKEN_MISSING,
        reasons.ERROR_REASON_TOKEN_INVALID,
        reasons.ERROR_REASON_TOKEN_EXPIRED,
        reasons.ERROR_REASON_TOKEN_AUDIENCE,
    }
)


class StandingTokens:
    """Introspects and revokes."""

    def __init__(
        self,
        clients: ClientAuthentication,
        registered: Clients,
        verifier: TokenVerifier,
        pool: Pool,
        sign_ins: SignIns,
        changed: Callable[[], Awaitable[object]],
        *,
        issuer: str,
        audience: str,
    ) -> None:
        self._clients = clients
        self._registered = registered
        self._verifier = verifier
        self._pool = pool
        self._sign_ins = sign_ins
        self._changed = changed
        self._names = {"iss": issuer, "aud": audience}

    async def introspect(self, form: Mapping[str, str], certificate_uris: tuple[str, ...] = ()) -> Mapping[str, Any]:
        """The introspection response: whether the token would be believed now, and what it says."""
        client = await self._clients.authenticate(form, certificate_uris)
        token = _token(form)
        if _REFRESH.fullmatch(token):
            grant = await self._grant(client, token)
            return _INACTIVE if grant is None else self._of_grant(grant)
        verified = self._verified(client, token)
        if verified is None:
            return _INACTIVE
        try:
            found = await self._registered.find(verified.client_id, verified.jti)
        except DmpError as error:
            if error.reason == reasons.ERROR_REASON_CLIENT_INVALID:
                return _INACTIVE
            raise
        if found.refusal is not None:
            return _INACTIVE
        return {
            "active": True,
            "token_type": "Bearer",
            "scope": " ".join(sorted(verified.scopes)),
            "exp": int(verified.expires_at),
            "jti": verified.jti,
            **self._names,
            **iua.claims(verified.claims),
        }

    async def revoke(self, form: Mapping[str, str], certificate_uris: tuple[str, ...] = ()) -> None:
        """Revoke a token of the client; a token that is not its own, or not known, is no error (RFC 7009 §2.2)."""
        client = await self._clients.authenticate(form, certificate_uris)
        token = _token(form)
        if _REFRESH.fullmatch(token):
            grant = await self._grant(client, token)
            if grant is None:
                return
            async with transaction(self._pool) as connection:
                await self._sign_ins.end(connection, grant.grant_id, "revoked", datetime.now(UTC) + REVOKED_FOR)
                await put(connection, [outbox_row(event(itself(client.registration), "session.end"))])
        else:
            verified = self._verified(client, token)
            if verified is None:
                return
            until = datetime.fromtimestamp(verified.expires_at, UTC) + timedelta(seconds=2 * SKEW)
            async with transaction(self._pool) as connection:
                await self._sign_ins.revoke(connection, [verified.jti], verified.client_id, until)
                await put(connection, [outbox_row(event(verified.claims, "token.revoke"))])
        await self._changed()

    def _verified(self, client: Client, token: str) -> VerifiedToken | None:
        try:
            verified = self._verifier.verify(token, time.time())
        except DmpError as error:
            if error.reason in _REFUSALS:
                return None
            raise
        return verified if _may_ask(client, verified.client_id) else None

    async def _grant(self, client: Client, token: str) -> GrantRow | None:
        grant = await self._sign_ins.grant(uuid.UUID(token[:32]))
        if grant is None or not _may_ask(client, grant.client_id) or grant.ended_at is not None:
            return None
        if grant.expires_at <= datetime.now(UTC) or not secrets.compare_digest(grant.refresh, digest(token)):
            return None
        return grant

    def _of_grant(self, grant: GrantRow) -> Mapping[str, Any]:
        return {
            "active": True,
            "client_id": grant.client_id,
            "scope": " ".join(sorted(grant.scopes)),
            "exp": int(grant.expires_at.timestamp()),
            "sub": str(grant.identity.get("subject", "")),
            "iss": self._names["iss"],
        }


def _may_ask(client: Client, owner: str) -> bool:
    return client.registration.kind != "partner" or client.registration.client_id == owner


def _token(form: Mapping[str, str]) -> str:
    token = form.get("token", "")
    if not token:
        raise OAuthError("invalid_request", "token is required")
    return token
