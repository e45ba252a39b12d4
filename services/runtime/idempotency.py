"""Idempotency: a mutation repeated with the same ``request_id`` changes nothing and gets the same answer.

Lives here: the statements on the table ``idempotency`` (``sql/idempotency.sql``). May not live here: authorisation,
which comes *before* ``begin`` (a replay is for who may ask), or anything about what the answers are.

``begin`` and ``finish`` run in the transaction of the mutation, so an answer is remembered exactly when its effects
are: what fails (``UNAVAILABLE`` above all) is never remembered, and may be retried.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DmpError
from services.runtime.postgres import Connection, Pool

KEPT = timedelta(days=7)

_CLAIM = """
INSERT INTO idempotency (health_id, client, method, request_id, body_digest) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (health_id, client, method, request_id) DO NOTHING
RETURNING true
"""
_FIND = """
SELECT body_digest, response FROM idempotency
WHERE health_id = $1 AND client = $2 AND method = $3 AND request_id = $4
"""
_ANSWER = """
UPDATE idempotency SET response = $5
WHERE health_id = $1 AND client = $2 AND method = $3 AND request_id = $4 AND response IS NULL
RETURNING true
"""
# In slices, so that no DELETE holds many rows or outlasts the statement timeout.
_SLICE_END = """
SELECT max(created_at) FROM (
    SELECT created_at FROM idempotency WHERE created_at < now() - $1::interval ORDER BY created_at LIMIT $2
) AS slice
"""
_PURGE = """
WITH gone AS (DELETE FROM idempotency WHERE created_at <= $1 RETURNING 1) SELECT count(*) FROM gone
"""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What makes a request the same one: who asks (client), about which dossier, by which method, under which id."""

    health_id: int
    client: str
    method: str
    request_id: str


async def begin(conn: Connection, key: IdempotencyKey, body_digest: bytes) -> bytes | None:
    """Claims ``key`` in the caller's transaction: None if it is new, else the answer to give again.

    While another transaction holds the same key this waits for its end, and then replays its answer or, if it was
    rolled back, takes its place. Raises DmpError REQUEST_ID_REUSED if the key was used with another body.
    Needs the isolation level READ COMMITTED (the pool's).
    """
    identity = (key.health_id, key.client, key.method, key.request_id)
    while True:
        if await conn.fetchval(_CLAIM, *identity, body_digest):
            return None
        row = await conn.fetchrow(_FIND, *identity)
        if row is None:
            continue  # purged between the two statements
        if row["body_digest"] != body_digest:
            raise DmpError(reasons.ERROR_REASON_REQUEST_ID_REUSED)
        response: bytes | None = row["response"]
        if response is None:
            raise LookupError("an idempotency key was committed without an answer: finish() was not called")
        return response


async def finish(conn: Connection, key: IdempotencyKey, response: bytes) -> None:
    """Remembers the answer, in the transaction in which ``begin`` claimed the key. LookupError if it did not."""
    if not await conn.fetchval(_ANSWER, key.health_id, key.client, key.method, key.request_id, response):
        raise LookupError("finish() without begin(), or called twice")


async def purge(pool: Pool, older_than: timedelta = KEPT, *, slice_size: int = 2000) -> int:
    """Forgets the answers older than ``older_than`` (by the database's clock); returns how many."""
    purged = 0
    while (end := await pool.fetchval(_SLICE_END, older_than, slice_size)) is not None:
        purged += await pool.fetchval(_PURGE, end)
    return purged
