"""People, what they are found by, and the versions that they had. See the package for what all statements keep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.runtime.postgres import Connection, Reader

_COLUMNS: Final = "health_id, status, sealed, created_at, version, updated_at"

OWNERS: Final = "SELECT digest, health_id FROM identifier WHERE digest = ANY($1::bytea[])"
PEOPLE: Final = f"SELECT {_COLUMNS} FROM person WHERE health_id = ANY($1::bigint[])"  # noqa: S608 (constants)
BLOCKS: Final = "SELECT block, health_id FROM match_block WHERE block = ANY($1::bigint[])"
LOCK_PERSON: Final = f"SELECT {_COLUMNS} FROM person WHERE health_id = $1 FOR UPDATE"  # noqa: S608 (constants)
HISTORY: Final = """
SELECT health_id, status, sealed, began_at, version, began_at FROM person_history
WHERE health_id = $1 AND version < $2 ORDER BY version DESC LIMIT $3
"""
VERSION_AT: Final = """
SELECT health_id, status, sealed, began_at, version, began_at FROM person_history
WHERE health_id = $1 AND began_at <= $2 AND ended_at > $2 ORDER BY version DESC LIMIT 1
"""
AFTER: Final = f"SELECT {_COLUMNS} FROM person WHERE health_id > $1 ORDER BY health_id LIMIT $2"  # noqa: S608

# In the order of the digests, so that no two registrations wait for each other. What is inserted here is deleted
# before the commit: the table stays empty, and whoever waited goes on then, and sees what was committed.
_MEET: Final = """
INSERT INTO registration_lock (digest, taken_at)
SELECT digest, $2 FROM unnest($1::bytea[]) AS asked (digest) ORDER BY digest
ON CONFLICT (digest) DO UPDATE SET taken_at = excluded.taken_at
"""
_PART: Final = "DELETE FROM registration_lock WHERE digest = ANY($1::bytea[])"
_INSERT_PEOPLE: Final = """
INSERT INTO person (health_id, status, sealed, created_at)
SELECT new.health_id, new.status, new.sealed, new.created_at
FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::timestamptz[]) AS new (health_id, status, sealed, created_at)
"""
_KEEP_VERSION: Final = """
INSERT INTO person_history (health_id, version, status, sealed, began_at, ended_at)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_WRITE_VERSION: Final = """
UPDATE person SET status = $2, sealed = $3, version = $4, updated_at = $5 WHERE health_id = $1
"""
_INSERT_IDENTIFIERS: Final = """
INSERT INTO identifier (digest, health_id)
SELECT digest, health_id FROM unnest($1::bytea[], $2::bigint[]) AS new (digest, health_id) ORDER BY digest
"""
_ADD_IDENTIFIERS: Final = f"{_INSERT_IDENTIFIERS} ON CONFLICT (digest) DO NOTHING"
_MOVE_IDENTIFIERS: Final = "UPDATE identifier SET health_id = $2 WHERE digest = ANY($1::bytea[])"
_DELETE_IDENTIFIERS: Final = "DELETE FROM identifier WHERE digest = ANY($1::bytea[]) AND health_id = $2"
_INSERT_BLOCKS: Final = """
INSERT INTO match_block (block, health_id)
SELECT block, health_id FROM unnest($1::bigint[], $2::bigint[]) AS new (block, health_id)
ON CONFLICT (block, health_id) DO NOTHING
"""
_DELETE_BLOCKS: Final = "DELETE FROM match_block WHERE block = ANY($1::bigint[]) AND health_id = $2"
_REMATCH_LATER: Final = """
INSERT INTO rematch_due (health_id) SELECT unnest($1::bigint[]) ON CONFLICT (health_id) DO NOTHING
"""
REMATCH_DUE: Final = "SELECT health_id FROM rematch_due LIMIT $1"
_REMATCHED: Final = "DELETE FROM rematch_due WHERE health_id = ANY($1::bigint[])"
_SET_DOMAIN: Final = """
INSERT INTO identifier_domain (system, display_name, client_id) VALUES ($1, $2, $3)
ON CONFLICT (system) DO UPDATE SET display_name = excluded.display_name, client_id = excluded.client_id
"""
DOMAINS: Final = "SELECT system, display_name, client_id FROM identifier_domain ORDER BY system"


@dataclass(frozen=True, slots=True)
class SealedPerson:
    """A row of `person`, or one of `person_history` in its form."""

    health_id: int
    status: str
    sealed: bytes
    created_at: datetime
    version: int = 1
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Domain:
    """An assigning authority of local identifiers, and the client that feeds it."""

    system: str
    display_name: str
    client_id: str


async def owners(reader: Reader, digests: Sequence[bytes]) -> dict[bytes, int]:
    """Whose each identifier is; those of nobody are absent."""
    return {row["digest"]: row["health_id"] for row in await reader.fetch(OWNERS, digests)}


async def people(reader: Reader, health_ids: Iterable[int]) -> dict[int, SealedPerson]:
    """The people of these health ids; unknown ones are absent."""
    rows = await reader.fetch(PEOPLE, sorted(set(health_ids)))
    return {row["health_id"]: SealedPerson(*row) for row in rows}


async def people_after(reader: Reader, health_id: int, limit: int) -> list[SealedPerson]:
    """The next people by health id; for jobs that go through the register."""
    return [SealedPerson(*row) for row in await reader.fetch(AFTER, health_id, limit)]


async def members(reader: Reader, blocks: Iterable[int]) -> dict[int, list[int]]:
    """Who is in each block; empty ones are absent."""
    found: dict[int, list[int]] = {}
    for block, health_id in await reader.fetch(BLOCKS, list(blocks)):
        found.setdefault(block, []).append(health_id)
    return found


async def lock_person(conn: Connection, health_id: int) -> SealedPerson | None:
    """A person, held until the transaction ends; None for an unknown one."""
    row = await conn.fetchrow(LOCK_PERSON, health_id)
    return None if row is None else SealedPerson(*row)


async def meet(conn: Connection, digests: Iterable[bytes], at: datetime) -> None:
    """Waits for, and then holds off, every other registration that meets on one of these digests; `part` ends it."""
    await conn.execute(_MEET, sorted(set(digests)), at)


async def part(conn: Connection, digests: Iterable[bytes]) -> None:
    """Leaves no trace of `meet`; the last statement before the commit."""
    await conn.execute(_PART, sorted(set(digests)))


async def insert_people(conn: Connection, people: Sequence[SealedPerson]) -> None:
    """Writes new people."""
    await conn.execute(
        _INSERT_PEOPLE,
        [person.health_id for person in people],
        [person.status for person in people],
        [person.sealed for person in people],
        [person.created_at for person in people],
    )


async def write_version(conn: Connection, old: SealedPerson, new: SealedPerson, at: datetime) -> None:
    """Writes what is now known of a locked person, and keeps what was known before."""
    began = old.updated_at or old.created_at
    await conn.execute(_KEEP_VERSION, old.health_id, old.version, old.status, old.sealed, began, at)
    await conn.execute(_WRITE_VERSION, new.health_id, new.status, new.sealed, new.version, at)


async def history(reader: Reader, health_id: int, before: int, limit: int) -> list[SealedPerson]:
    """Former versions below `before`, newest first."""
    return [SealedPerson(*row) for row in await reader.fetch(HISTORY, health_id, before, limit)]


async def version_at(reader: Reader, health_id: int, at: datetime) -> SealedPerson | None:
    """The former version that held at a time; None if it is none of the former ones."""
    rows = await reader.fetch(VERSION_AT, health_id, at)
    return SealedPerson(*rows[0]) if rows else None


async def insert_identifiers(conn: Connection, digests: Sequence[bytes], health_ids: Sequence[int]) -> None:
    """Gives identifiers of nobody to people. UniqueViolationError if one is somebody's after all."""
    await conn.execute(_INSERT_IDENTIFIERS, digests, health_ids)


async def add_identifiers(conn: Connection, digests: Sequence[bytes], health_ids: Sequence[int]) -> None:
    """As `insert_identifiers`; those that are there already stay whose they are."""
    await conn.execute(_ADD_IDENTIFIERS, digests, health_ids)


async def move_identifiers(conn: Connection, digests: Sequence[bytes], health_id: int) -> None:
    """Gives identifiers to another person."""
    await conn.execute(_MOVE_IDENTIFIERS, digests, health_id)


async def delete_identifiers(conn: Connection, digests: Sequence[bytes], health_id: int) -> None:
    """Takes identifiers from a person."""
    await conn.execute(_DELETE_IDENTIFIERS, digests, health_id)


async def insert_blocks(conn: Connection, blocks: Sequence[int], health_ids: Sequence[int]) -> None:
    """Adds what people may be found by; pairs of a block and a person."""
    await conn.execute(_INSERT_BLOCKS, blocks, health_ids)


async def delete_blocks(conn: Connection, blocks: Sequence[int], health_id: int) -> None:
    """Takes away what a person was found by."""
    await conn.execute(_DELETE_BLOCKS, blocks, health_id)


async def rematch_later(conn: Connection, health_ids: Sequence[int]) -> None:
    """Remembers to compare these people once more, when what others do now is committed."""
    await conn.execute(_REMATCH_LATER, health_ids)


async def rematch_due(reader: Reader, limit: int) -> list[int]:
    """Some of those to be compared once more."""
    return [row["health_id"] for row in await reader.fetch(REMATCH_DUE, limit)]


async def rematched(conn: Connection, health_ids: Sequence[int]) -> None:
    """These have been compared."""
    await conn.execute(_REMATCHED, health_ids)


async def set_domain(conn: Connection, domain: Domain) -> None:
    """Keeps a domain."""
    await conn.execute(_SET_DOMAIN, domain.system, domain.display_name, domain.client_id)


async def domains(reader: Reader) -> dict[str, Domain]:
    """Every registered domain by its system; there are as many as there are sources."""
    return {row["system"]: Domain(*row) for row in await reader.fetch(DOMAINS)}
