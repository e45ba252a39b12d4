"""The history of a dossier: one row for each epoch, only ever added to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from services.runtime.postgres import Connection, Reader

_REMEMBER: Final = """
INSERT INTO consent_event (health_id, epoch, kind, payload, actor, request_id, recorded_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
EVENTS_UNTIL: Final = """
SELECT epoch, kind, payload, actor, request_id, recorded_at
FROM consent_event
WHERE health_id = $1 AND epoch <= $2
ORDER BY epoch
"""
EVENTS: Final = """
SELECT epoch, kind, payload, actor, request_id, recorded_at
FROM consent_event
WHERE health_id = $1 AND epoch < $2
ORDER BY epoch DESC
LIMIT $3
"""
LAST_OF_KIND: Final = """
SELECT payload FROM consent_event WHERE health_id = $1 AND kind = $2 ORDER BY epoch DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of a dossier's history; `payload` is JSON text, `actor` a serialized ActingContext."""

    kind: str
    payload: str
    actor: bytes
    request_id: str
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Recorded:
    """A line as it is in the history."""

    epoch: int
    kind: str
    payload: dict[str, Any]
    actor: bytes
    request_id: str
    recorded_at: datetime


async def remember(conn: Connection, health_id: int, epoch: int, entry: HistoryEntry) -> None:
    """Adds to the history of a locked dossier."""
    await conn.execute(
        _REMEMBER, health_id, epoch, entry.kind, entry.payload, entry.actor, entry.request_id, entry.recorded_at
    )


async def events_until(reader: Reader, health_id: int, epoch: int) -> list[Recorded]:
    """The history up to an epoch, oldest first."""
    return [_recorded(row) for row in await reader.fetch(EVENTS_UNTIL, health_id, epoch)]


async def last_of_kind(reader: Reader, health_id: int, kind: str) -> dict[str, Any] | None:
    """The payload of the newest line of a kind; None where there is none. Goes through the dossier's own history."""
    payload = await reader.fetchval(LAST_OF_KIND, health_id, kind)
    return None if payload is None else json.loads(payload)


async def events(reader: Reader, health_id: int, before: int, limit: int) -> list[Recorded]:
    """At most `limit` lines below an epoch, newest first."""
    return [_recorded(row) for row in await reader.fetch(EVENTS, health_id, before, limit)]


def _recorded(row: asyncpg.Record) -> Recorded:
    epoch, kind, payload, actor, request_id, recorded_at = row
    return Recorded(epoch, kind, json.loads(payload), actor, request_id, recorded_at)
