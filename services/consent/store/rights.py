"""The versions of the rights tables. Small catalogues, on every node where there are several."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from services.consent.functional_rights import TablesText

if TYPE_CHECKING:
    from services.runtime.postgres import Connection, Reader

_IN_FORCE: Final = "SELECT version FROM rights_in_force"
_HOLD: Final = "SELECT version FROM rights_in_force FOR UPDATE"
_READ: Final = """
SELECT version, functional_rights, type_denials, effective_at, replaced_by, comment
FROM rights_version WHERE version = $1
"""
_VERSIONS: Final = """
SELECT version, functional_rights, type_denials, effective_at, replaced_by, comment
FROM rights_version WHERE version < $1 ORDER BY version DESC LIMIT $2
"""
_ADD: Final = """
INSERT INTO rights_version (version, functional_rights, type_denials, effective_at, replaced_by, comment)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_PUT_IN_FORCE: Final = "UPDATE rights_in_force SET version = $1"


@dataclass(frozen=True, slots=True)
class StoredRights:
    """One version of the tables, and how it came about."""

    version: int
    text: TablesText
    effective_at: datetime
    replaced_by: str
    comment: str


async def rights_in_force(reader: Reader) -> int:
    """The version by which decisions are made now."""
    version: int = await reader.fetchval(_IN_FORCE)
    return version


async def read_rights(reader: Reader, version: int) -> StoredRights | None:
    """One version; None where there is none."""
    rows = await reader.fetch(_READ, version)
    return _stored(rows[0]) if rows else None


async def rights_versions(reader: Reader, before: int, limit: int) -> list[StoredRights]:
    """At most `limit` versions below one, newest first."""
    return [_stored(row) for row in await reader.fetch(_VERSIONS, before, limit)]


async def add_rights(conn: Connection, rights: StoredRights) -> int:
    """Puts a version in force if it follows the one in force; gives the one that was in force, held till the end."""
    current: int = await conn.fetchval(_HOLD)
    if rights.version == current + 1:
        await conn.execute(
            _ADD,
            rights.version,
            rights.text.functional_rights,
            rights.text.type_denials,
            rights.effective_at,
            rights.replaced_by,
            rights.comment,
        )
        await conn.execute(_PUT_IN_FORCE, rights.version)
    return current


def _stored(row: Any) -> StoredRights:
    version, functional, denials, effective_at, replaced_by, comment = row
    return StoredRights(version, TablesText(functional, denials), effective_at, replaced_by, comment)
