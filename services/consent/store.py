"""Every statement of the consent service, and nothing else: rows in, values out.

All of them name the dossier first, so each touches the rows of its dossiers only, through a primary key. Facts are
read in one statement, hence in one snapshot, on the primary; there is no other source of a decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

import asyncpg

from services.consent.values import (
    Authorization,
    CloseReason,
    ConsentGiver,
    ConsentMethod,
    ConsentRecord,
    Dossier,
    DossierState,
    Facts,
    Grantee,
    GranteeKind,
    LockedDossier,
)
from services.runtime.postgres import Connection

_ASKED: Final = """
FROM unnest($1::bigint[], $2::text[], $3::text[]) WITH ORDINALITY AS asked (health_id, professional, structure, place)
JOIN dossier AS d ON d.health_id = asked.health_id
LEFT JOIN access_grant AS own
    ON own.health_id = d.health_id AND own.grantee_kind = 'professional' AND own.grantee_id = asked.professional
LEFT JOIN access_grant AS their
    ON their.health_id = d.health_id AND their.grantee_kind = 'structure' AND their.grantee_id = asked.structure
LEFT JOIN access_block AS own_block
    ON own_block.health_id = d.health_id AND own_block.grantee_kind = 'professional'
    AND own_block.grantee_id = asked.professional
LEFT JOIN access_block AS their_block
    ON their_block.health_id = d.health_id AND their_block.grantee_kind = 'structure'
    AND their_block.grantee_id = asked.structure
WHERE d.health_id = ANY($1::bigint[])
"""
_FACTS_COLUMNS: Final = """
asked.place, d.state = 'open', d.epoch, d.break_glass_opposed, d.regulation_opposed, d.masked_in_emergency,
own_block.health_id IS NOT NULL OR their_block.health_id IS NOT NULL,
own.expires_at, coalesce(own.attending_physician, false), their.expires_at
"""
_FACTS_WIDTH: Final = 10
_DOSSIER_COLUMNS: Final = """
d.health_id, d.state, d.epoch, d.opened_at, d.closed_at, d.close_reason, d.break_glass_opposed, d.regulation_opposed,
d.masked_in_emergency, d.home_host, d.consent_collected_at, d.consent_method, d.consent_given_by
"""

FACTS: Final = f"SELECT {_FACTS_COLUMNS} {_ASKED}"
STANDINGS: Final = f"SELECT {_FACTS_COLUMNS}, {_DOSSIER_COLUMNS} {_ASKED}"
LOCK: Final = f"SELECT {_DOSSIER_COLUMNS} FROM dossier AS d WHERE d.health_id = $1 FOR UPDATE"  # noqa: S608 (constants)
STATE: Final = "SELECT state, epoch FROM dossier WHERE health_id = $1"
AUTHORIZATIONS: Final = """
SELECT grantee_kind, grantee_id, granted_at, expires_at, attending_physician
FROM access_grant
WHERE health_id = $1 AND grantee_id = ANY($2::text[])
"""
BLOCKS: Final = """
SELECT grantee_kind, grantee_id
FROM access_block
WHERE health_id = $1 AND grantee_id = ANY($2::text[])
"""
_INSERT_DOSSIER: Final = """
INSERT INTO dossier (
    health_id, state, epoch, opened_at, break_glass_opposed, regulation_opposed, masked_in_emergency, home_host,
    consent_collected_at, consent_method, consent_given_by
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (health_id) DO NOTHING
RETURNING true
"""
_CLOSE: Final = """
UPDATE dossier SET state = 'closed', closed_at = $2, close_reason = $3 WHERE health_id = $1
"""
_NEXT_EPOCH: Final = "UPDATE dossier SET epoch = epoch + 1 WHERE health_id = $1 RETURNING epoch"
_AUTHORISE: Final = """
INSERT INTO access_grant (health_id, grantee_kind, grantee_id, granted_at, expires_at, attending_physician)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (health_id, grantee_kind, grantee_id) DO UPDATE
SET granted_at = excluded.granted_at, expires_at = excluded.expires_at,
    attending_physician = excluded.attending_physician
"""
_REVOKE: Final = "DELETE FROM access_grant WHERE health_id = $1 AND grantee_kind = $2 AND grantee_id = $3"
_BLOCK: Final = """
INSERT INTO access_block (health_id, grantee_kind, grantee_id, blocked_at) VALUES ($1, $2, $3, $4)
"""
_UNBLOCK: Final = "DELETE FROM access_block WHERE health_id = $1 AND grantee_kind = $2 AND grantee_id = $3"
_REMEMBER: Final = """
INSERT INTO consent_event (health_id, epoch, kind, payload, actor, request_id, recorded_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""


class Reader(Protocol):
    """A pool or a connection: one statement, one snapshot."""

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """One question for facts: a dossier and the acting party's identifiers, empty where it has none."""

    health_id: int
    professional: str
    structure: str


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of a dossier's history; `payload` is JSON text, `actor` a serialized ActingContext."""

    kind: str
    payload: str
    actor: bytes
    request_id: str
    recorded_at: datetime


async def read_facts(reader: Reader, asked: Sequence[Asked]) -> list[Facts | None]:
    """The facts of each question, in order, None where there is no dossier: one statement whatever their number."""
    facts: list[Facts | None] = [None] * len(asked)
    for row in await _ask(reader, FACTS, asked):
        place, *values = row
        facts[place - 1] = Facts(*values)
    return facts


async def read_standings(reader: Reader, asked: Sequence[Asked]) -> list[tuple[Dossier, Facts] | None]:
    """As `read_facts`, with the dossier itself."""
    found: list[tuple[Dossier, Facts] | None] = [None] * len(asked)
    for row in await _ask(reader, STANDINGS, asked):
        place, *values = row[:_FACTS_WIDTH]
        found[place - 1] = (_dossier(row[_FACTS_WIDTH:]), Facts(*values))
    return found


async def lock_dossier(conn: Connection, health_id: int, parties: Sequence[Grantee]) -> LockedDossier | None:
    """The dossier, held until the transaction ends, with what concerns `parties`; None where there is none."""
    row = await conn.fetchrow(LOCK, health_id)
    if row is None:
        return None
    ids = [party.id for party in parties]
    authorizations = [
        Authorization(Grantee(GranteeKind(kind), grantee_id), granted_at, expires_at, attending)
        for kind, grantee_id, granted_at, expires_at, attending in await conn.fetch(AUTHORIZATIONS, health_id, ids)
    ]
    blocks = await conn.fetch(BLOCKS, health_id, ids)
    return LockedDossier(
        _dossier(tuple(row)),
        {authorization.grantee: authorization for authorization in authorizations},
        frozenset(Grantee(GranteeKind(kind), grantee_id) for kind, grantee_id in blocks),
    )


async def insert_dossier(conn: Connection, dossier: Dossier) -> bool:
    """False if the person has a dossier already; waits for one that is being opened at this moment."""
    inserted = await conn.fetchval(
        _INSERT_DOSSIER,
        dossier.health_id,
        dossier.state,
        dossier.epoch,
        dossier.opened_at,
        dossier.break_glass_opposed,
        dossier.regulation_opposed,
        dossier.masked_in_emergency,
        dossier.home_host,
        dossier.consent.collected_at,
        dossier.consent.method,
        dossier.consent.given_by,
    )
    return bool(inserted)


async def dossier_state(conn: Connection, health_id: int) -> tuple[DossierState, int]:
    """State and epoch of an existing dossier, without holding it. LookupError where there is none."""
    row = await conn.fetchrow(STATE, health_id)
    if row is None:
        raise LookupError("the dossier was there a statement ago: dossiers are never deleted")
    return DossierState(row["state"]), row["epoch"]


async def close_dossier(conn: Connection, health_id: int, reason: CloseReason, at: datetime) -> None:
    """Closes a locked dossier."""
    await conn.execute(_CLOSE, health_id, at, reason)


async def authorise(conn: Connection, health_id: int, authorization: Authorization) -> None:
    """Writes an authorisation over an expired one, if any."""
    grantee = authorization.grantee
    await conn.execute(
        _AUTHORISE,
        health_id,
        grantee.kind,
        grantee.id,
        authorization.granted_at,
        authorization.expires_at,
        authorization.attending_physician,
    )


async def revoke(conn: Connection, health_id: int, grantee: Grantee) -> None:
    """Removes an authorisation."""
    await conn.execute(_REVOKE, health_id, grantee.kind, grantee.id)


async def block(conn: Connection, health_id: int, grantee: Grantee, at: datetime) -> None:
    """Writes a block that is not there."""
    await conn.execute(_BLOCK, health_id, grantee.kind, grantee.id, at)


async def unblock(conn: Connection, health_id: int, grantee: Grantee) -> None:
    """Removes a block."""
    await conn.execute(_UNBLOCK, health_id, grantee.kind, grantee.id)


async def next_epoch(conn: Connection, health_id: int) -> int:
    """Counts a change of a locked dossier; returns the new epoch."""
    epoch: int = await conn.fetchval(_NEXT_EPOCH, health_id)
    return epoch


async def remember(conn: Connection, health_id: int, epoch: int, entry: HistoryEntry) -> None:
    """Adds to the history of a locked dossier."""
    await conn.execute(
        _REMEMBER, health_id, epoch, entry.kind, entry.payload, entry.actor, entry.request_id, entry.recorded_at
    )


async def _ask(reader: Reader, statement: str, asked: Sequence[Asked]) -> list[asyncpg.Record]:
    return await reader.fetch(
        statement,
        [question.health_id for question in asked],
        [question.professional for question in asked],
        [question.structure for question in asked],
    )


def _dossier(row: Sequence[Any]) -> Dossier:
    health_id, state, epoch, opened_at, closed_at, close_reason, *rest = row
    break_glass_opposed, regulation_opposed, masked_in_emergency, home_host, collected_at, method, given_by = rest
    return Dossier(
        health_id=health_id,
        state=DossierState(state),
        epoch=epoch,
        opened_at=opened_at,
        closed_at=closed_at,
        close_reason=None if close_reason is None else CloseReason(close_reason),
        break_glass_opposed=break_glass_opposed,
        regulation_opposed=regulation_opposed,
        masked_in_emergency=masked_in_emergency,
        home_host=home_host,
        consent=ConsentRecord(collected_at, ConsentMethod(method), ConsentGiver(given_by)),
    )
