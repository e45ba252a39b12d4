"""The directory: professionals, structures, who works where, and how far imports have come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from services.runtime.postgres import Connection, Reader

END: Final = "\U0010ffff"
"""Sorts after every key."""

_PRACTITIONER: Final = """
idnps, family_name, given_name, family_key, given_key, profession, specialties, specialty_systems, active, updated_at,
email
"""
_STRUCTURE: Final = "idnst, display_name, name_key, facility_type, postcode, city, active, updated_at"
_ROLE: Final = "idnps, idnst, profession, specialty, specialty_system, active, updated_at"

PRACTITIONERS: Final = f"SELECT {_PRACTITIONER} FROM practitioner WHERE idnps = ANY($1::text[]) ORDER BY idnps"  # noqa: S608
STRUCTURES: Final = f"SELECT {_STRUCTURE} FROM structure WHERE idnst = ANY($1::text[]) ORDER BY idnst"  # noqa: S608
FIND_PRACTITIONERS: Final = f"""
SELECT {_PRACTITIONER} FROM practitioner
WHERE family_key >= $1 AND family_key < $2 AND (family_key, given_key, idnps) > ($3, $4, $5)
AND ($6 = '' OR left(given_key, length($6)) = $6) AND ($7 = '' OR profession = $7)
AND ($8 = '' OR $8 = ANY(specialties)) AND (active OR NOT $9)
ORDER BY family_key, given_key, idnps LIMIT $10
"""  # noqa: S608 (constants)
FIND_STRUCTURES: Final = f"""
SELECT {_STRUCTURE} FROM structure
WHERE name_key >= $1 AND name_key < $2 AND (name_key, idnst) > ($3, $4)
AND ($5 = '' OR left(postcode, length($5)) = $5) AND ($6 = '' OR facility_type = $6) AND (active OR NOT $7)
ORDER BY name_key, idnst LIMIT $8
"""  # noqa: S608
FIND_STRUCTURES_OF_PLACE: Final = f"""
SELECT {_STRUCTURE} FROM structure
WHERE postcode >= $1 AND postcode < $2 AND (name_key, idnst) > ($3, $4)
AND ($5 = '' OR facility_type = $5) AND (active OR NOT $6)
ORDER BY name_key, idnst LIMIT $7
"""  # noqa: S608
ROLES_OF_PRACTITIONER: Final = f"""
SELECT {_ROLE} FROM practitioner_role
WHERE idnps = $1 AND ($2 = '' OR idnst = $2) AND (idnps, idnst) > ($3, $4) AND (active OR NOT $5)
ORDER BY idnps, idnst LIMIT $6
"""  # noqa: S608
ROLES_OF_STRUCTURE: Final = f"""
SELECT {_ROLE} FROM practitioner_role
WHERE idnst = $1 AND idnps > $2 AND (active OR NOT $3) ORDER BY idnps LIMIT $4
"""  # noqa: S608
_WRITE_PRACTITIONER: Final = f"""
INSERT INTO practitioner ({_PRACTITIONER}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (idnps) DO UPDATE SET family_name = excluded.family_name, given_name = excluded.given_name,
    family_key = excluded.family_key, given_key = excluded.given_key, profession = excluded.profession,
    specialties = excluded.specialties, specialty_systems = excluded.specialty_systems, active = excluded.active,
    updated_at = excluded.updated_at, email = excluded.email
WHERE (practitioner.family_name, practitioner.given_name, practitioner.profession, practitioner.specialties,
       practitioner.specialty_systems, practitioner.active, practitioner.email)
    IS DISTINCT FROM (excluded.family_name, excluded.given_name, excluded.profession, excluded.specialties,
       excluded.specialty_systems, excluded.active, excluded.email)
"""  # noqa: S608
_WRITE_STRUCTURE: Final = f"""
INSERT INTO structure ({_STRUCTURE}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (idnst) DO UPDATE SET display_name = excluded.display_name, name_key = excluded.name_key,
    facility_type = excluded.facility_type, postcode = excluded.postcode, city = excluded.city,
    active = excluded.active, updated_at = excluded.updated_at
WHERE (structure.display_name, structure.facility_type, structure.postcode, structure.city, structure.active)
    IS DISTINCT FROM (excluded.display_name, excluded.facility_type, excluded.postcode, excluded.city, excluded.active)
"""  # noqa: S608
_WRITE_ROLE: Final = f"""
INSERT INTO practitioner_role ({_ROLE}) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (idnps, idnst) DO UPDATE SET profession = excluded.profession, specialty = excluded.specialty,
    specialty_system = excluded.specialty_system, active = excluded.active, updated_at = excluded.updated_at
WHERE (practitioner_role.profession, practitioner_role.specialty, practitioner_role.specialty_system,
       practitioner_role.active)
    IS DISTINCT FROM (excluded.profession, excluded.specialty, excluded.specialty_system, excluded.active)
"""  # noqa: S608
_KNOWN: Final = """
SELECT $1 || ':' || idnps AS name FROM practitioner WHERE idnps = ANY($2::text[])
UNION ALL SELECT $3 || ':' || idnst FROM structure WHERE idnst = ANY($4::text[])
"""
_START_IMPORT: Final = """
INSERT INTO directory_import (import_id, last_row, taken, refused, warned, complete, updated_at)
VALUES ($1, 0, 0, 0, 0, false, $2) ON CONFLICT (import_id) DO NOTHING
"""
_IMPORT: Final = (
    "SELECT import_id, last_row, taken, refused, warned, complete FROM directory_import WHERE import_id = $1"
)
_LOCK_IMPORT: Final = f"{_IMPORT} FOR UPDATE"
_MOVE_IMPORT: Final = """
UPDATE directory_import
SET last_row = $2, taken = $3, refused = $4, warned = $5, complete = $6, updated_at = $7 WHERE import_id = $1
"""
_WRITE_FINDINGS: Final = """
INSERT INTO directory_finding (import_id, row_number, field, rule, refused)
SELECT $1, * FROM unnest($2::bigint[], $3::text[], $4::text[], $5::boolean[])
ON CONFLICT (import_id, row_number, field, rule) DO NOTHING
"""
FINDINGS: Final = """
SELECT row_number, field, rule, refused FROM directory_finding
WHERE import_id = $1 AND (row_number, field, rule) > ($2, $3, $4) ORDER BY row_number, field, rule LIMIT $5
"""


class PractitionerRow(NamedTuple):
    """A row of `practitioner`."""

    idnps: str
    family_name: str
    given_name: str
    family_key: str
    given_key: str
    profession: str
    specialties: list[str]
    specialty_systems: list[str]
    active: bool
    updated_at: datetime
    email: str


class StructureRow(NamedTuple):
    """A row of `structure`."""

    idnst: str
    display_name: str
    name_key: str
    facility_type: str
    postcode: str
    city: str
    active: bool
    updated_at: datetime


class RoleRow(NamedTuple):
    """A row of `practitioner_role`."""

    idnps: str
    idnst: str
    profession: str
    specialty: str
    specialty_system: str
    active: bool
    updated_at: datetime


class FindingRow(NamedTuple):
    """A row of `directory_finding`."""

    row_number: int
    field: str
    rule: str
    refused: bool


@dataclass(frozen=True, slots=True)
class ImportRow:
    """A row of `directory_import`."""

    import_id: str
    last_row: int
    taken: int
    refused: int
    warned: int
    complete: bool


async def practitioners(reader: Reader, idnps: Sequence[str]) -> list[PractitionerRow]:
    """Those that exist."""
    return [PractitionerRow(*row) for row in await reader.fetch(PRACTITIONERS, idnps)]


async def structures(reader: Reader, idnst: Sequence[str]) -> list[StructureRow]:
    """Those that exist."""
    return [StructureRow(*row) for row in await reader.fetch(STRUCTURES, idnst)]


async def write(
    conn: Connection,
    practitioners: Sequence[PractitionerRow],
    structures: Sequence[StructureRow],
    roles: Sequence[RoleRow],
) -> None:
    """Writes entries; what is the same already is not touched."""
    if practitioners:
        await conn.executemany(_WRITE_PRACTITIONER, practitioners)
    if structures:
        await conn.executemany(_WRITE_STRUCTURE, structures)
    if roles:
        await conn.executemany(_WRITE_ROLE, roles)


async def known(reader: Reader, idnps: Sequence[str], idnst: Sequence[str]) -> frozenset[str]:
    """Which of these professionals and structures exist, as `ps:…` and `st:…`."""
    rows = await reader.fetch(_KNOWN, "ps", idnps, "st", idnst)
    return frozenset(row["name"] for row in rows)


async def lock_import(conn: Connection, import_id: str, at: datetime) -> ImportRow:
    """The import, made if it is new, held until the transaction ends."""
    await conn.execute(_START_IMPORT, import_id, at)
    row = await conn.fetchrow(_LOCK_IMPORT, import_id)
    assert row is not None  # noqa: S101 (made a statement ago)
    return ImportRow(*row)


async def directory_import(reader: Reader, import_id: str) -> ImportRow | None:
    """An import."""
    rows = await reader.fetch(_IMPORT, import_id)
    return ImportRow(*rows[0]) if rows else None


async def move_import(conn: Connection, row: ImportRow, at: datetime, findings: Sequence[FindingRow]) -> None:
    """Writes how far a held import has come, and what was found."""
    await conn.execute(_MOVE_IMPORT, row.import_id, row.last_row, row.taken, row.refused, row.warned, row.complete, at)
    if findings:
        await conn.execute(_WRITE_FINDINGS, row.import_id, *(list(column) for column in zip(*findings, strict=True)))


async def findings(reader: Reader, import_id: str, after: tuple[int, str, str], limit: int) -> list[FindingRow]:
    """A page of an import's findings."""
    return [FindingRow(*row) for row in await reader.fetch(FINDINGS, import_id, *after, limit)]
