"""Idempotency: a mutation repeated with the same ``request_id`` changes nothing and gets the same answer.

Lives here: the statements on the table ``idempotency`` (``sql/idempotency.sql``). May not live here: authorisation,
which comes *before* ``begin`` (a replay is for who may ask), or anything about what the answers are.

``begin`` and ``finish`` run in the transaction of the mutation, so an answer is remembered exactly when its effects
are: what fails (``UNAVAILABLE`` above all) is never remembered, and may be retried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
_FIND_MANY = """
SELECT i.health_id, i.client, i.method, i.request_id, i.body_digest, i.response
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS k (health_id, client, method, request_id)
JOIN idempotency i USING (health_id, client, method, request_id)
"""
_PUT_MANY = """
INSERT INTO idempotency (health_id, client, method, request_id, body_digest, response)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[])
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


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer, and the digest of the body that it answers."""

    body_digest: bytes
    response: bytes


def replay(kept: Kept | None, body_digest: bytes) -> bytes | None:
    """The answer to give again, None for a new request; REQUEST_ID_REUSED if the key was used with another body."""
    if kept is None:
        return None
    if kept.body_digest != body_digest:
        raise DmpError(reasons.ERROR_REASON_REQUEST_ID_REUSED)
    return kept.response


async def find_many(conn: Connection | Pool, keys: Sequence[IdempotencyKey]) -> dict[IdempotencyKey, Kept]:
    """The answers kept under some of these keys, for those who work on many requests in one transaction.

    Whoever uses this, and not ``begin``, must hold a lock that everybody takes who may use these keys: nothing here
    waits for a transaction under way.
    """
    columns = ([k.health_id for k in keys], [k.client for k in keys], [k.method for k in keys])
    records = await conn.fetch(_FIND_MANY, *columns, [k.request_id for k in keys])
    return {
        IdempotencyKey(row[0], row[1], row[2], row[3]): Kept(row[4], row[5]) for row in records if row[5] is not None
    }


async def put_many(conn: Connection, answers: Mapping[IdempotencyKey, Kept]) -> None:
    """Remembers answers, in the transaction of their effects and under the lock that ``find_many`` needs."""
    keys, kept = list(answers), list(answers.values())
    await conn.execute(
        _PUT_MANY,
        [k.health_id for k in keys],
        [k.client for k in keys],
        [k.method for k in keys],
        [k.request_id for k in keys],
        [k.body_digest for k in kept],
        [k.response for k in kept],
    )


async def purge(pool: Pool, older_than: timedelta = KEPT, *, slice_size: int = 2000) -> int:
    """Forgets the answers older than ``older_than`` (by the database's clock); returns how many."""
    purged = 0
    while (end := await pool.fetchval(_SLICE_END, older_than, slice_size)) is not None:
        purged += await pool.fetchval(_PURGE, end)
    return purged
