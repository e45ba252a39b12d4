"""Every statement of the identity service, and nothing else. Identifiers and traits are digests here, people sealed.

Batches are one statement whatever their size; each statement of the request path goes through a primary key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import asyncpg

from services.runtime.postgres import Connection

OWNERS: Final = "SELECT digest, health_id FROM identifier WHERE digest = ANY($1::bytea[])"
PEOPLE: Final = "SELECT health_id, status, sealed, created_at FROM person WHERE health_id = ANY($1::bigint[])"
MATCHES: Final = "SELECT health_id FROM match_key WHERE digest = $1 ORDER BY health_id"
LOCK_PERSON: Final = "SELECT health_id, status, sealed, created_at FROM person WHERE health_id = $1 FOR UPDATE"
# One row a statement, so that each goes to one shard; the update is what takes the row's lock when it exists.
_MEET: Final = """
INSERT INTO registration_lock (digest, taken_at) VALUES ($1, $2)
ON CONFLICT (digest) DO UPDATE SET taken_at = excluded.taken_at
"""
_INSERT_PERSON: Final = """
INSERT INTO person (health_id, status, sealed, created_at) VALUES ($1, $2, $3, $4)
"""
_RESEAL_PERSON: Final = "UPDATE person SET sealed = $2 WHERE health_id = $1"
_INSERT_IDENTIFIERS: Final = """
INSERT INTO identifier (digest, health_id) SELECT digest, $2 FROM unnest($1::bytea[]) AS new (digest)
"""
_INSERT_MATCH_KEYS: Final = """
INSERT INTO match_key (digest, health_id) SELECT digest, $2 FROM unnest($1::bytea[]) AS new (digest)
ON CONFLICT (digest, health_id) DO NOTHING
"""


class Reader(Protocol):
    """A pool or a connection."""

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]: ...


@dataclass(frozen=True, slots=True)
class SealedPerson:
    """A row of `person`."""

    health_id: int
    status: str
    sealed: bytes
    created_at: datetime


async def owners(reader: Reader, digests: Sequence[bytes]) -> dict[bytes, int]:
    """Whose each identifier is; those of nobody are absent."""
    return {row["digest"]: row["health_id"] for row in await reader.fetch(OWNERS, digests)}


async def people(reader: Reader, health_ids: Iterable[int]) -> dict[int, SealedPerson]:
    """The people of these health ids; unknown ones are absent."""
    rows = await reader.fetch(PEOPLE, sorted(set(health_ids)))
    return {row["health_id"]: SealedPerson(*row) for row in rows}


async def matches(conn: Connection, digest: bytes) -> list[int]:
    """The people that have a match key."""
    return [row["health_id"] for row in await conn.fetch(MATCHES, digest)]


async def lock_person(conn: Connection, health_id: int) -> SealedPerson:
    """A person, held until the transaction ends. LookupError for an unknown one."""
    row = await conn.fetchrow(LOCK_PERSON, health_id)
    if row is None:
        raise LookupError("a person who was found a statement ago: people are never deleted")
    return SealedPerson(*row)


async def meet(conn: Connection, digests: Iterable[bytes], at: datetime) -> None:
    """Waits for, and then holds off, every other registration that meets on one of these digests.

    Always in the same order, so that no two registrations wait for each other.
    """
    for digest in sorted(set(digests)):
        await conn.execute(_MEET, digest, at)


async def insert_person(conn: Connection, person: SealedPerson) -> None:
    """Writes a new person."""
    await conn.execute(_INSERT_PERSON, person.health_id, person.status, person.sealed, person.created_at)


async def reseal_person(conn: Connection, health_id: int, sealed: bytes) -> None:
    """Writes what is now known of a locked person."""
    await conn.execute(_RESEAL_PERSON, health_id, sealed)


async def insert_identifiers(conn: Connection, health_id: int, digests: Sequence[bytes]) -> None:
    """Gives identifiers of nobody to a person. UniqueViolationError if one is somebody's after all."""
    await conn.execute(_INSERT_IDENTIFIERS, digests, health_id)


async def insert_match_keys(conn: Connection, health_id: int, digests: Sequence[bytes]) -> None:
    """Adds what a person may be found by."""
    await conn.execute(_INSERT_MATCH_KEYS, digests, health_id)
