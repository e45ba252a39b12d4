"""How far the rotation of keys has come."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.runtime.postgres import Connection, Reader

_COLUMNS: Final = "phase, generation, position, people_done, updated_at"
STATE: Final = f"SELECT {_COLUMNS} FROM key_rotation WHERE id = 1"  # noqa: S608 (constants)
_LOCK: Final = f"{STATE} FOR UPDATE"
_MOVE: Final = """
UPDATE key_rotation SET phase = $1, generation = $2, position = $3, people_done = $4, updated_at = $5 WHERE id = 1
"""
# The planner's estimate: counting sixty million rows for a progress bar is not worth it.
_PEOPLE: Final = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'person'::regclass"


@dataclass(frozen=True, slots=True)
class RotationRow:
    """The row of `key_rotation`. `generation` is the newest digest generation that the phase is about."""

    phase: str
    generation: int
    position: int
    people_done: int
    updated_at: datetime


async def state(reader: Reader) -> RotationRow:
    """Where it stands."""
    return RotationRow(*(await reader.fetch(STATE))[0])


async def lock(conn: Connection) -> RotationRow:
    """Where it stands, held until the transaction ends."""
    return RotationRow(*(await conn.fetch(_LOCK))[0])


async def move(conn: Connection, row: RotationRow) -> None:
    """Writes where it stands."""
    await conn.execute(_MOVE, row.phase, row.generation, row.position, row.people_done, row.updated_at)


async def people_estimate(reader: Reader) -> int:
    """About how many people there are."""
    rows = await reader.fetch(_PEOPLE)
    return int(rows[0][0])
