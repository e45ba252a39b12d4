"""A dossier held for a change, and the changes: what each acts on is locked by `lock_dossier` before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from services.consent.store.facts import DOSSIER_COLUMNS, dossier_of_row
from services.consent.store.rights import rights_in_force
from services.consent.values import (
    Authorization,
    Dossier,
    DossierState,
    Grantee,
    GranteeKind,
    LockedDossier,
    Representation,
    RepresentationKind,
    Term,
)
from services.runtime.postgres import Connection

LOCK: Final = f"SELECT {DOSSIER_COLUMNS} FROM dossier AS d WHERE d.health_id = $1 FOR UPDATE"  # noqa: S608 (constants)
STATE: Final = "SELECT state, epoch FROM dossier WHERE health_id = $1"
AUTHORIZATIONS: Final = """
SELECT grantee_kind, grantee_id, granted_at, expires_at, attending_physician, term, care_team, secret
FROM access_grant
WHERE health_id = $1 AND grantee_id = ANY($2::text[])
"""
MEMBERS: Final = "SELECT member_ids FROM linked_set WHERE health_id = $1"
BLOCKS: Final = """
SELECT health_id, grantee_kind, grantee_id
FROM access_block
WHERE health_id = ANY($1::bigint[]) AND grantee_id = ANY($2::text[])
"""
REPRESENTATIONS: Final = """
SELECT person, kind, starts_at, ends_at
FROM representation
WHERE health_id = $1 AND person = ANY($2::bigint[])
"""
_VALUES: Final = ", ".join(f"${number}" for number in range(1, 22))
_INSERT_DOSSIER: Final = f"""
INSERT INTO dossier (
    health_id, state, epoch, opened_at, closed_at, close_reason, break_glass_opposed, regulation_opposed,
    masked_in_emergency, home_host, region, closed_by, died_at, destroy_at, destruction_requested,
    consent_collected_at, consent_method, consent_given_by, consent_collector, consent_representative, merged_into
) VALUES ({_VALUES})
ON CONFLICT (health_id) DO NOTHING
RETURNING true
"""  # noqa: S608 (numbers)
_SAVE_DOSSIER: Final = """
UPDATE dossier SET
    state = $2, epoch = $3, opened_at = $4, closed_at = $5, close_reason = $6, break_glass_opposed = $7,
    regulation_opposed = $8, masked_in_emergency = $9, home_host = $10, region = $11, closed_by = $12, died_at = $13,
    destroy_at = $14, destruction_requested = $15, consent_collected_at = $16, consent_method = $17,
    consent_given_by = $18, consent_collector = $19, consent_representative = $20, merged_into = $21
WHERE health_id = $1
"""
_NEXT_EPOCH: Final = "UPDATE dossier SET epoch = epoch + 1 WHERE health_id = $1 RETURNING epoch"
_AUTHORISE: Final = """
INSERT INTO access_grant
    (health_id, grantee_kind, grantee_id, granted_at, expires_at, attending_physician, term, care_team, secret)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (health_id, grantee_kind, grantee_id) DO UPDATE
SET granted_at = excluded.granted_at, expires_at = excluded.expires_at,
    attending_physician = excluded.attending_physician, term = excluded.term, care_team = excluded.care_team,
    secret = excluded.secret
"""
_LIST_FOR_GRANTEE: Final = """
INSERT INTO grantee_dossier (grantee_id, grantee_kind, health_id, granted_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (grantee_id, grantee_kind, health_id) DO UPDATE SET granted_at = excluded.granted_at
"""
_REVOKE: Final = "DELETE FROM access_grant WHERE health_id = $1 AND grantee_kind = $2 AND grantee_id = $3"
_UNLIST_FOR_GRANTEE: Final = (
    "DELETE FROM grantee_dossier WHERE grantee_id = $1 AND grantee_kind = $2 AND health_id = $3"
)
_BLOCK: Final = """
INSERT INTO access_block (health_id, grantee_kind, grantee_id, blocked_at) VALUES ($1, $2, $3, $4)
"""
_UNBLOCK: Final = "DELETE FROM access_block WHERE health_id = $1 AND grantee_kind = $2 AND grantee_id = $3"
_REPRESENT: Final = """
INSERT INTO representation (health_id, person, kind, starts_at, ends_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (health_id, person) DO UPDATE
SET kind = excluded.kind, starts_at = excluded.starts_at, ends_at = excluded.ends_at
"""
_LIST_FOR_PERSON: Final = """
INSERT INTO represented (person, health_id) VALUES ($1, $2) ON CONFLICT (person, health_id) DO NOTHING
"""
_END: Final = "DELETE FROM representation WHERE health_id = $1 AND person = $2"
_UNLIST_FOR_PERSON: Final = "DELETE FROM represented WHERE person = $1 AND health_id = $2"


class Held(NamedTuple):
    """What a change begins with: the dossier (None where there is none), and the version of the rights in force."""

    locked: LockedDossier | None
    rights_version: int


async def lock_dossier(
    conn: Connection, health_id: int, parties: Sequence[Grantee], persons: Sequence[int] = ()
) -> Held:
    """The dossier, held until the transaction ends, with what concerns `parties` and `persons`. Who is linked, and whom
    the person's other dossiers block, is read once the row is held: what was acknowledged before is seen."""
    row = await conn.fetchrow(LOCK, health_id)
    version = await rights_in_force(conn)
    if row is None:
        return Held(None, version)
    ids = [party.id for party in parties]
    authorizations = [
        Authorization(Grantee(GranteeKind(kind), grantee_id), granted, expires, attending, Term(term), team, secret)
        for kind, grantee_id, granted, expires, attending, term, team, secret in await conn.fetch(
            AUTHORIZATIONS, health_id, ids
        )
    ]
    members = (await conn.fetchval(MEMBERS, health_id) or [health_id]) if ids else [health_id]
    blocks = [
        (member == health_id, Grantee(GranteeKind(kind), grantee_id))
        for member, kind, grantee_id in (await conn.fetch(BLOCKS, members, ids) if ids else ())
    ]
    representations = [
        Representation(person, RepresentationKind(kind), starts_at, ends_at)
        for person, kind, starts_at, ends_at in (
            await conn.fetch(REPRESENTATIONS, health_id, list(persons)) if persons else ()
        )
    ]
    locked = LockedDossier(
        dossier_of_row(tuple(row)),
        {authorization.grantee: authorization for authorization in authorizations},
        frozenset(grantee for here, grantee in blocks if here),
        {representation.person: representation for representation in representations},
        frozenset(grantee for here, grantee in blocks if not here),
    )
    return Held(locked, version)


async def insert_dossier(conn: Connection, dossier: Dossier) -> bool:
    """False if the person has a row already; waits for one that is being made at this moment."""
    return bool(await conn.fetchval(_INSERT_DOSSIER, *_columns(dossier)))


async def save_dossier(conn: Connection, dossier: Dossier) -> None:
    """Writes a locked dossier as it is now."""
    await conn.execute(_SAVE_DOSSIER, *_columns(dossier))


async def dossier_state(conn: Connection, health_id: int) -> tuple[DossierState, int]:
    """State and epoch of an existing dossier, without holding it. LookupError where there is none."""
    row = await conn.fetchrow(STATE, health_id)
    if row is None:
        raise LookupError("the dossier was there a statement ago: dossiers are never deleted")
    return DossierState(row["state"]), row["epoch"]


async def authorise(conn: Connection, health_id: int, authorization: Authorization) -> None:
    """Writes an authorisation over an expired one, if any, and puts the dossier on the grantee's list."""
    grantee = authorization.grantee
    await conn.execute(
        _AUTHORISE,
        health_id,
        grantee.kind,
        grantee.id,
        authorization.granted_at,
        authorization.expires_at,
        authorization.attending_physician,
        authorization.term,
        authorization.care_team,
        authorization.secret,
    )
    await conn.execute(_LIST_FOR_GRANTEE, grantee.id, grantee.kind, health_id, authorization.granted_at)


async def revoke(conn: Connection, health_id: int, grantee: Grantee) -> None:
    """Removes an authorisation."""
    await conn.execute(_REVOKE, health_id, grantee.kind, grantee.id)
    await conn.execute(_UNLIST_FOR_GRANTEE, grantee.id, grantee.kind, health_id)


async def block(conn: Connection, health_id: int, grantee: Grantee, at: datetime) -> None:
    """Writes a block that is not there."""
    await conn.execute(_BLOCK, health_id, grantee.kind, grantee.id, at)


async def unblock(conn: Connection, health_id: int, grantee: Grantee) -> None:
    """Removes a block."""
    await conn.execute(_UNBLOCK, health_id, grantee.kind, grantee.id)


async def represent(conn: Connection, health_id: int, representation: Representation) -> None:
    """Writes a representation over another of the same person, if any."""
    held = representation
    await conn.execute(_REPRESENT, health_id, held.person, held.kind, held.starts_at, held.ends_at)
    await conn.execute(_LIST_FOR_PERSON, held.person, health_id)


async def end_representation(conn: Connection, health_id: int, person: int) -> None:
    """Removes a representation."""
    await conn.execute(_END, health_id, person)
    await conn.execute(_UNLIST_FOR_PERSON, person, health_id)


async def next_epoch(conn: Connection, health_id: int) -> int:
    """Counts a change of a locked dossier; returns the new epoch."""
    epoch: int = await conn.fetchval(_NEXT_EPOCH, health_id)
    return epoch


def _columns(dossier: Dossier) -> tuple[object, ...]:
    consent = dossier.consent
    proof = (
        (None, None, None, "", 0)
        if consent is None
        else (consent.collected_at, consent.method, consent.given_by, consent.collector, consent.representative)
    )
    return (
        dossier.health_id,
        dossier.state,
        dossier.epoch,
        dossier.opened_at,
        dossier.closed_at,
        dossier.close_reason,
        dossier.break_glass_opposed,
        dossier.regulation_opposed,
        dossier.masked_in_emergency,
        dossier.home_host,
        dossier.region,
        dossier.closed_by,
        dossier.died_at,
        dossier.destroy_at,
        dossier.destruction_requested,
        *proof,
        dossier.merged_into,
    )
