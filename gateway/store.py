"""Every statement of the gateway's database: clients and used assertions. No rule, no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from gateway.registration import Registration
from services.runtime.postgres import Connection, Pool

_PUT_CLIENT = """
INSERT INTO client (client_id, kind, active, registration) VALUES ($1, $2, $3, $4)
ON CONFLICT (client_id) DO UPDATE SET kind = excluded.kind, active = excluded.active,
    registration = excluded.registration, updated_at = now()
WHERE client.registration IS DISTINCT FROM excluded.registration
"""
_GET_CLIENTS = "SELECT client_id, registration FROM client WHERE client_id = ANY($1::text[])"
_USE_ASSERTION = """
INSERT INTO used_assertion (client_id, jti, expires_at) VALUES ($1, $2, $3) ON CONFLICT (client_id, jti) DO NOTHING
"""
_PURGE_ASSERTIONS = "DELETE FROM used_assertion WHERE expires_at < $1"


class Store:
    """Clients by id; a batch of look-ups is one statement."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def put_clients(self, registrations: Sequence[Registration]) -> None:
        """Register or change clients, all or none."""
        rows = [(r.client_id, r.kind, r.active, r.model_dump_json()) for r in registrations]
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.executemany(_PUT_CLIENT, rows)

    async def clients(self, client_ids: Sequence[str]) -> dict[str, str]:
        """The registrations (JSON) by client id; unknown ones are absent."""
        connection: Connection
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(_GET_CLIENTS, client_ids)
        return {row["client_id"]: row["registration"] for row in rows}

    async def use_assertion(self, client_id: str, jti: str, expires_at: datetime) -> bool:
        """Mark an assertion as used; False when it was used before."""
        done: str = await self._pool.execute(_USE_ASSERTION, client_id, jti, expires_at)
        return done.endswith(" 1")

    async def purge_assertions(self, before: datetime) -> None:
        """Forget assertions that have expired."""
        await self._pool.execute(_PURGE_ASSERTIONS, before)
