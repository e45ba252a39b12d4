"""Clients: their registrations, keys and suspensions; assertions that were used; what services are to refuse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.registration import Registration
from services.runtime.postgres import Connection, Pool

_DECLARE = """
INSERT INTO client (client_id, kind, active, registration, declared) VALUES ($1, $2, $3, $4, true)
ON CONFLICT (client_id) DO UPDATE SET kind = excluded.kind, active = excluded.active,
    registration = excluded.registration, declared = true, updated_at = now()
WHERE client.registration IS DISTINCT FROM excluded.registration OR NOT client.declared
"""
_PUT = """
INSERT INTO client (client_id, kind, active, registration, declared) VALUES ($1, $2, $3, $4, false)
ON CONFLICT (client_id) DO UPDATE SET kind = excluded.kind, active = excluded.active,
    registration = excluded.registration, updated_at = now()
WHERE $5 AND NOT client.declared
RETURNING true
"""
# What a request needs: of each client its registration and whether it may call, and of each token whether it may.
_STANDINGS = """
SELECT client_id AS id, registration, suspended_at IS NOT NULL AS refused FROM client WHERE client_id = ANY($1::text[])
UNION ALL
SELECT token_id, NULL, true FROM revoked_token WHERE token_id = ANY($2::text[])
"""
_ROW = """
SELECT client_id, registration, declared, suspended_at, suspend_reason, updated_at,
    (SELECT coalesce(jsonb_agg(jsonb_build_object('kid', k.kid, 'jwk', k.jwk, 'retired', k.retired_at IS NOT NULL)
        ORDER BY k.added_at, k.kid), '[]') FROM client_key k WHERE k.client_id = client.client_id) AS keys
FROM client
"""
_ONE = f"{_ROW} WHERE client_id = $1"
_PAGE = f"{_ROW} WHERE client_id > $1 ORDER BY client_id LIMIT $2"
_SUSPEND = """
UPDATE client SET suspended_at = coalesce(suspended_at, now()), suspend_reason = $2, updated_at = now()
WHERE client_id = $1 RETURNING true
"""
_RESUME = (
    "UPDATE client SET suspended_at = NULL, suspend_reason = '', updated_at = now() WHERE client_id = $1 RETURNING true"
)
_ADD_KEY = """
INSERT INTO client_key (client_id, kid, jwk) VALUES ($1, $2, $3)
ON CONFLICT (client_id, kid) DO UPDATE SET jwk = excluded.jwk, retired_at = NULL, added_at = now()
"""
_RETIRE_KEY = """
INSERT INTO client_key (client_id, kid, retired_at) VALUES ($1, $2, now())
ON CONFLICT (client_id, kid) DO UPDATE SET retired_at = coalesce(client_key.retired_at, now())
"""
_TOUCH = "UPDATE client SET updated_at = now() WHERE client_id = $1 RETURNING true"
_USE_ASSERTION = """
INSERT INTO used_assertion (client_id, jti, expires_at) VALUES ($1, $2, $3) ON CONFLICT (client_id, jti) DO NOTHING
"""
_PURGE_ASSERTIONS = "DELETE FROM used_assertion WHERE expires_at < $1"

_MOVE_DENIALS = "UPDATE denial_list SET version = version + 1"
_DENIALS = """
SELECT version,
    (SELECT coalesce(jsonb_agg(jsonb_build_object('client', client_id,
        'until', extract(epoch FROM suspended_at + $1::interval))), '[]')
        FROM client WHERE suspended_at > now() - $1::interval) AS clients,
    (SELECT coalesce(jsonb_agg(jsonb_build_object('token', token_id,
        'until', extract(epoch FROM expires_at + $2::interval))), '[]')
        FROM revoked_token WHERE expires_at > now() - $2::interval) AS tokens
FROM denial_list
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a request needs to know of its client. `registration` is JSON, None when there is no such client."""

    registration: str | None
    suspended: bool
    token_revoked: bool


@dataclass(frozen=True, slots=True)
class ClientRow:
    """A registration as it stands; `keys` are those added or retired since, oldest first."""

    client_id: str
    registration: Registration
    declared: bool
    suspended_at: datetime | None
    suspend_reason: str
    updated_at: datetime
    keys: tuple[dict[str, object], ...]


class Store:
    """Clients by id; a batch of look-ups is one statement."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def declare_clients(self, registrations: Sequence[Registration]) -> None:
        """Register or change declared clients, all or none. Suspensions and rotated keys stay."""
        rows = [(r.client_id, r.kind, r.active, r.model_dump_json()) for r in registrations]
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.executemany(_DECLARE, rows)

    async def standings(self, pairs: Sequence[tuple[str, str]]) -> list[Standing]:
        """Of each (client id, token id), in order."""
        connection: Connection
        clients, tokens = list({client for client, _ in pairs}), list({token for _, token in pairs if token})
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(_STANDINGS, clients, tokens)
        found = {row["id"]: (row["registration"], row["refused"]) for row in rows if row["registration"] is not None}
        revoked = {row["id"] for row in rows if row["registration"] is None}
        return [
            Standing(*found.get(client_id, (None, False)), token_revoked=token_id in revoked)
            for client_id, token_id in pairs
        ]

    async def client(self, client_id: str, connection: Connection | None = None) -> ClientRow | None:
        """One registration with its keys; None when there is none."""
        row = await (connection or self._pool).fetchrow(_ONE, client_id)
        return None if row is None else _row(row)

    async def page(self, after: str, size: int) -> list[ClientRow]:
        """Registrations in the order of their ids."""
        return [_row(row) for row in await self._pool.fetch(_PAGE, after, size)]

    async def put_client(self, connection: Connection, registration: Registration, *, replace: bool) -> bool:
        """Register; False when there is one that may not be replaced."""
        done = await connection.fetchval(
            _PUT,
            registration.client_id,
            registration.kind,
            registration.active,
            registration.model_dump_json(),
            replace,
        )
        return bool(done)

    async def suspend(self, connection: Connection, client_id: str, reason: str) -> bool:
        """Stop a client; False when there is none."""
        done = await connection.fetchval(_SUSPEND, client_id, reason)
        await connection.execute(_MOVE_DENIALS)
        return bool(done)

    async def resume(self, connection: Connection, client_id: str) -> bool:
        """Let a client call again; False when there is none."""
        done = await connection.fetchval(_RESUME, client_id)
        await connection.execute(_MOVE_DENIALS)
        return bool(done)

    async def rotate_keys(
        self, connection: Connection, client_id: str, added: Sequence[dict[str, str]], retired: Sequence[str]
    ) -> bool:
        """Add keys, each with its `kid`, and retire others; False when there is no such client."""
        if not await connection.fetchval(_TOUCH, client_id):
            return False
        for jwk in added:
            await connection.execute(_ADD_KEY, client_id, jwk["kid"], json.dumps(jwk))
        for kid in retired:
            await connection.execute(_RETIRE_KEY, client_id, kid)
        return True

    async def use_assertion(self, client_id: str, jti: str, expires_at: datetime) -> bool:
        """Mark an assertion as used; False when it was used before."""
        done: str = await self._pool.execute(_USE_ASSERTION, client_id, jti, expires_at)
        return done.endswith(" 1")

    async def purge_assertions(self, before: datetime) -> None:
        """Forget assertions that have expired."""
        await self._pool.execute(_PURGE_ASSERTIONS, before)

    async def denials(self, token_life: timedelta, skew: timedelta) -> tuple[int, dict[str, float], dict[str, float]]:
        """The list for the services, from one snapshot: its version; clients and tokens with their ends (Unix seconds).

        `token_life` is how long after its suspension a client's tokens may still be believed somewhere.
        """
        row = await self._pool.fetchrow(_DENIALS, token_life, skew)
        if row is None:
            raise LookupError("denial_list has its row from the migration on")
        clients = {entry["client"]: float(entry["until"]) for entry in json.loads(row["clients"])}
        tokens = {entry["token"]: float(entry["until"]) for entry in json.loads(row["tokens"])}
        return row["version"], clients, tokens


def _row(row: object) -> ClientRow:
    record: dict[str, object] = dict(row)  # type: ignore[call-overload]
    return ClientRow(
        client_id=str(record["client_id"]),
        registration=Registration.model_validate_json(str(record["registration"])),
        declared=bool(record["declared"]),
        suspended_at=record["suspended_at"],  # type: ignore[arg-type]
        suspend_reason=str(record["suspend_reason"]),
        updated_at=record["updated_at"],  # type: ignore[arg-type]
        keys=tuple(json.loads(str(record["keys"]))),
    )
