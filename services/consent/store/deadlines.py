"""What becomes due by the passing of time, and what is removed when a dossier is destroyed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from services.runtime.postgres import Connection, Reader

_SET: Final = """
INSERT INTO deadline (health_id, what, whose, due_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (health_id, what, whose) DO UPDATE SET due_at = excluded.due_at
"""
_CLEAR: Final = """
DELETE FROM deadline WHERE health_id = $1 AND what = $2 AND whose = $3 RETURNING due_at
"""
DUE: Final = """
SELECT health_id, what, whose, due_at FROM deadline WHERE due_at <= $1 AND (due_at, health_id) > ($2, $3)
ORDER BY due_at, health_id LIMIT $4
"""
_UNDELIVERED: Final = "SELECT EXISTS (SELECT FROM outbox WHERE health_id = $1)"
# The row of the dossier stays, to say that there was one.
_DROP: Final = (
    """
    DELETE FROM grantee_dossier USING access_grant WHERE access_grant.health_id = $1
        AND grantee_dossier.grantee_id = access_grant.grantee_id
        AND grantee_dossier.grantee_kind = access_grant.grantee_kind AND grantee_dossier.health_id = $1
    """,
    """
    DELETE FROM represented USING representation WHERE representation.health_id = $1
        AND represented.person = representation.person AND represented.health_id = $1
    """,
    "DELETE FROM access_grant WHERE health_id = $1",
    "DELETE FROM access_block WHERE health_id = $1",
    "DELETE FROM representation WHERE health_id = $1",
    "DELETE FROM idempotency WHERE health_id = $1",
    "DELETE FROM deadline WHERE health_id = $1",
    "DELETE FROM consent_event WHERE health_id = $1",
)


class What(StrEnum):
    """What a deadline is about."""

    DESTRUCTION = "destruction"
    AUTHORIZATION = "authorization"
    REPRESENTATION = "representation"


@dataclass(frozen=True, slots=True)
class Deadline:
    """`whose`: a grantee as `kind/id`, a person's health id; empty for the dossier itself."""

    health_id: int
    what: What
    whose: str
    due_at: datetime


async def set_deadline(conn: Connection, deadline: Deadline) -> None:
    """Sets or moves a deadline of a locked dossier."""
    await conn.execute(_SET, deadline.health_id, deadline.what, deadline.whose, deadline.due_at)


async def clear_deadline(conn: Connection, health_id: int, what: What, whose: str = "") -> datetime | None:
    """Takes a deadline of a locked dossier away; when it was due, None if there was none."""
    due_at: datetime | None = await conn.fetchval(_CLEAR, health_id, what, whose)
    return due_at


async def due_deadlines(reader: Reader, now: datetime, after: tuple[datetime, int], limit: int) -> list[Deadline]:
    """At most `limit` deadlines that are over, oldest first, after a (due_at, health_id)."""
    rows = await reader.fetch(DUE, now, *after, limit)
    return [Deadline(row["health_id"], What(row["what"]), row["whose"], row["due_at"]) for row in rows]


async def undelivered(reader: Reader, health_id: int) -> bool:
    """Whether events of this dossier have not reached the audit log."""
    return bool(await reader.fetchval(_UNDELIVERED, health_id))


async def drop_dossier(conn: Connection, health_id: int) -> None:
    """Deletes all that is kept of a locked dossier but its own row."""
    for statement in _DROP:
        await conn.execute(statement, health_id)
