"""People signing in, authorization codes, grants with their refresh tokens, and tokens revoked before their end.

Whatever a client could present (state, code, refresh token) is here by its SHA-256 alone.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.runtime.postgres import Connection, Pool

_BEGIN = """
INSERT INTO sign_in (sign_in, browser, realm, nonce, verifier, request, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
# Once, whoever comes with it: a state that was shown is spent.
_TAKE = "DELETE FROM sign_in WHERE sign_in = $1 RETURNING browser, realm, nonce, verifier, request, expires_at"
_PUT_CODE = """
INSERT INTO authorization_code (code, client_id, request, identity, grant_id, expires_at)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_CODE = """
SELECT client_id, request, identity, grant_id, used_at, expires_at FROM authorization_code WHERE code = $1 FOR UPDATE
"""
_USE_CODE = "UPDATE authorization_code SET used_at = now() WHERE code = $1"
_PUT_GRANT = """
INSERT INTO login_grant (grant_id, client_id, identity, scopes, refresh, tokens, expires_at)
VALUES ($1, $2, $3, $4, $5, ARRAY[$6::text], $7)
"""
_GRANT = """
SELECT grant_id, client_id, identity, scopes, refresh, generation, tokens, expires_at, ended_at FROM login_grant
WHERE grant_id = $1
"""
_GRANT_LOCKED = f"{_GRANT} FOR UPDATE"
# A token lives five minutes and rotates at most every few seconds: the last ones are all that can still live.
_ROTATE = """
UPDATE login_grant SET refresh = $3, generation = generation + 1, tokens = (array_append(tokens, $4::text))[greatest(1,
    cardinality(tokens) - 62):]
WHERE grant_id = $1 AND refresh = $2 AND ended_at IS NULL RETURNING generation
"""
_END = """
UPDATE login_grant SET ended_at = coalesce(ended_at, now()), end_reason = CASE WHEN ended_at IS NULL THEN $2
    ELSE end_reason END WHERE grant_id = $1 RETURNING tokens, client_id
"""
_REVOKE = """
INSERT INTO revoked_token (token_id, client_id, expires_at) SELECT token, $2, $3 FROM unnest($1::text[]) AS token
ON CONFLICT (token_id) DO NOTHING
"""
_MOVE_DENIALS = "UPDATE denial_list SET version = version + 1"
_IS_REVOKED = "SELECT EXISTS (SELECT FROM revoked_token WHERE token_id = $1)"
_PURGES = (
    "DELETE FROM sign_in WHERE expires_at < $1",
    "DELETE FROM authorization_code WHERE expires_at < $1",
    "DELETE FROM login_grant WHERE expires_at < $1",
    "DELETE FROM revoked_token WHERE expires_at < $1",
)


@dataclass(frozen=True, slots=True)
class SignInRow:
    """Someone on the way through an OpenID provider. `browser` is the digest of the cookie that came back."""

    browser: bytes
    realm: str
    nonce: str
    verifier: str
    request: dict[str, Any]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class CodeRow:
    """An authorization code: for whom, for which request, who signed in."""

    client_id: str
    request: dict[str, Any]
    identity: dict[str, Any]
    grant_id: uuid.UUID
    used_at: datetime | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class GrantRow:
    """What a sign-in gave; `refresh` is the digest of the refresh token that counts."""

    grant_id: uuid.UUID
    client_id: str
    identity: dict[str, Any]
    scopes: frozenset[str]
    refresh: bytes
    generation: int
    tokens: tuple[str, ...]
    expires_at: datetime
    ended_at: datetime | None


class SignIns:
    """Sign-ins, codes, grants, revocations. Methods with a connection belong to the caller's transaction."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def begin(self, digest: bytes, row: SignInRow) -> None:
        """Someone leaves for the provider, with the state of this digest."""
        await self._pool.execute(
            _BEGIN, digest, row.browser, row.realm, row.nonce, row.verifier, json.dumps(row.request), row.expires_at
        )

    async def take(self, digest: bytes) -> SignInRow | None:
        """Who comes back with this state; nobody a second time."""
        row = await self._pool.fetchrow(_TAKE, digest)
        if row is None:
            return None
        return SignInRow(
            row["browser"], row["realm"], row["nonce"], row["verifier"], json.loads(row["request"]), row["expires_at"]
        )

    async def put_code(self, digest: bytes, row: CodeRow) -> None:
        """A code is given out."""
        await self._pool.execute(
            _PUT_CODE,
            digest,
            row.client_id,
            json.dumps(row.request),
            json.dumps(row.identity),
            row.grant_id,
            row.expires_at,
        )

    async def lock_code(self, connection: Connection, digest: bytes) -> CodeRow | None:
        """A code, locked until the transaction ends: of two that bring it, the second sees that it was used."""
        row = await connection.fetchrow(_CODE, digest)
        if row is None:
            return None
        return CodeRow(
            row["client_id"],
            json.loads(row["request"]),
            json.loads(row["identity"]),
            row["grant_id"],
            row["used_at"],
            row["expires_at"],
        )

    async def use_code(self, connection: Connection, digest: bytes) -> None:
        """The code is used."""
        await connection.execute(_USE_CODE, digest)

    async def put_grant(self, connection: Connection, row: GrantRow) -> None:
        """A grant begins, with its first refresh token and platform token."""
        await connection.execute(
            _PUT_GRANT,
            row.grant_id,
            row.client_id,
            json.dumps(row.identity),
            sorted(row.scopes),
            row.refresh,
            row.tokens[0],
            row.expires_at,
        )

    async def grant(self, grant_id: uuid.UUID, connection: Connection | None = None) -> GrantRow | None:
        """A grant; within a transaction it is locked."""
        if connection is None:
            row = await self._pool.fetchrow(_GRANT, grant_id)
        else:
            row = await connection.fetchrow(_GRANT_LOCKED, grant_id)
        if row is None:
            return None
        return GrantRow(
            row["grant_id"],
            row["client_id"],
            json.loads(row["identity"]),
            frozenset(row["scopes"]),
            row["refresh"],
            row["generation"],
            tuple(row["tokens"]),
            row["expires_at"],
            row["ended_at"],
        )

    async def rotate(
        self, connection: Connection, grant_id: uuid.UUID, old: bytes, new: bytes, token_id: str
    ) -> int | None:
        """Exchange the refresh token; None when `old` is not the one that counts."""
        generation: int | None = await connection.fetchval(_ROTATE, grant_id, old, new, token_id)
        return generation

    async def end(self, connection: Connection, grant_id: uuid.UUID, reason: str, until: datetime) -> int:
        """End a grant and revoke the tokens it gave, which end by `until`; how many these are."""
        row = await connection.fetchrow(_END, grant_id, reason)
        if row is None:
            return 0
        await self.revoke(connection, row["tokens"], row["client_id"], until)
        return len(row["tokens"])

    async def revoke(self, connection: Connection, tokens: Sequence[str], client_id: str, until: datetime) -> None:
        """Revoke platform tokens, which end by `until`."""
        await connection.execute(_REVOKE, list(tokens), client_id, until)
        await connection.execute(_MOVE_DENIALS)

    async def is_revoked(self, token_id: str) -> bool:
        """Whether a platform token was revoked."""
        return bool(await self._pool.fetchval(_IS_REVOKED, token_id))

    async def purge(self, before: datetime) -> None:
        """Forget what ended before."""
        for statement in _PURGES:
            await self._pool.execute(statement, before)
