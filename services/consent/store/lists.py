"""Lists: who may enter a dossier, who represents its patient; and, by grantee or person, which dossiers.

The lists by grantee and by person only say where to look: whoever reads them checks each dossier's own facts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from services.consent.store.facts import DOSSIER_COLUMNS, dossier_of_row
from services.consent.values import (
    Authorization,
    Dossier,
    Grantee,
    GranteeKind,
    Representation,
    RepresentationKind,
    Term,
)
from services.runtime.postgres import Reader

GRANTEES: Final = """
SELECT coalesce(g.grantee_kind, b.grantee_kind) AS kind, coalesce(g.grantee_id, b.grantee_id) AS id,
       g.granted_at, g.expires_at, g.attending_physician, g.term, g.care_team, g.secret, b.blocked_at
FROM (SELECT * FROM access_grant WHERE health_id = $1 AND ($4 OR NOT secret)) AS g
FULL JOIN (SELECT * FROM access_block WHERE health_id = $1) AS b
    ON g.grantee_kind = b.grantee_kind AND g.grantee_id = b.grantee_id
WHERE (coalesce(g.grantee_kind, b.grantee_kind), coalesce(g.grantee_id, b.grantee_id)) > ($2, $3)
ORDER BY 1, 2
LIMIT $5
"""
ACCESSIBLE: Final = """
SELECT health_id, granted_at
FROM grantee_dossier
WHERE grantee_id = $1 AND grantee_kind = $2 AND granted_at >= $3 AND (granted_at, health_id) < ($4, $5)
ORDER BY granted_at DESC, health_id DESC
LIMIT $6
"""
OF_HOST: Final = f"""
SELECT {DOSSIER_COLUMNS} FROM dossier AS d
WHERE d.home_host = $1 AND d.health_id > $2 AND d.state NOT IN ('none', 'destroying', 'destroyed')
ORDER BY d.health_id
LIMIT $3
"""  # noqa: S608 (constants)
GRANTEES_OF_MANY: Final = """
SELECT coalesce(g.health_id, b.health_id) AS health_id,
       coalesce(g.grantee_kind, b.grantee_kind) AS kind, coalesce(g.grantee_id, b.grantee_id) AS id,
       g.granted_at, g.expires_at, g.attending_physician, g.term, g.care_team, g.secret, b.blocked_at
FROM (SELECT * FROM access_grant WHERE health_id = ANY($1::bigint[])) AS g
FULL JOIN (SELECT * FROM access_block WHERE health_id = ANY($1::bigint[])) AS b
    ON g.health_id = b.health_id AND g.grantee_kind = b.grantee_kind AND g.grantee_id = b.grantee_id
ORDER BY 1, 2, 3
"""
REPRESENTATIVES_OF_MANY: Final = """
SELECT health_id, person, kind, starts_at, ends_at FROM representation WHERE health_id = ANY($1::bigint[])
ORDER BY health_id, person
"""
HELD: Final = """
SELECT health_id, granted_at FROM grantee_dossier WHERE grantee_id = $1 AND grantee_kind = $2
ORDER BY granted_at DESC, health_id DESC
LIMIT $3
"""
HIDDEN: Final = """
SELECT grantee_kind, grantee_id FROM access_grant WHERE health_id = $1 AND grantee_id = ANY($2::text[]) AND secret
"""
LINKED: Final = "SELECT health_id, member_ids FROM linked_set WHERE health_id = ANY($1::bigint[])"
REPRESENTATIVES: Final = """
SELECT person, kind, starts_at, ends_at FROM representation WHERE health_id = $1 ORDER BY person
"""
REPRESENTED: Final = "SELECT health_id FROM represented WHERE person = $1 ORDER BY health_id LIMIT 1000"


@dataclass(frozen=True, slots=True)
class GranteeRow:
    """How one grantee stands: authorised (perhaps expired), or blocked, never both."""

    grantee: Grantee
    authorization: Authorization | None
    blocked_at: datetime | None


class AccessiblePosition(NamedTuple):
    """Where a page of a grantee's list ends."""

    granted_at: datetime
    health_id: int


async def grantees(
    reader: Reader, health_id: int, after: tuple[str, str], limit: int, *, with_secret: bool
) -> list[GranteeRow]:
    """At most `limit` grantees after one (kind, id), ordered by both."""
    rows = await reader.fetch(GRANTEES, health_id, *after, with_secret, limit)
    return [_grantee_row(*row) for row in rows]


async def accessible(
    reader: Reader, grantee: Grantee, since: datetime, before: AccessiblePosition, limit: int
) -> list[AccessiblePosition]:
    """At most `limit` dossiers of a grantee's list, newest authorisation first, below a position."""
    rows = await reader.fetch(ACCESSIBLE, grantee.id, grantee.kind, since, before.granted_at, before.health_id, limit)
    return [AccessiblePosition(row["granted_at"], row["health_id"]) for row in rows]


async def of_host(reader: Reader, home_host: str, after: int, limit: int) -> list[Dossier]:
    """At most `limit` dossiers of a host above a health id, by health id; none that was destroyed or never opened."""
    return [dossier_of_row(tuple(row)) for row in await reader.fetch(OF_HOST, home_host, after, limit)]


async def grantees_of_many(reader: Reader, health_ids: Sequence[int]) -> Mapping[int, list[GranteeRow]]:
    """All grantees of each of these dossiers, what was given in a secret connection too."""
    found: defaultdict[int, list[GranteeRow]] = defaultdict(list)
    for health_id, *row in await reader.fetch(GRANTEES_OF_MANY, health_ids):
        found[health_id].append(_grantee_row(*row))
    return found


async def representatives_of_many(reader: Reader, health_ids: Sequence[int]) -> Mapping[int, list[Representation]]:
    """All who represent each of these patients, in force or not."""
    found: defaultdict[int, list[Representation]] = defaultdict(list)
    for health_id, person, kind, starts_at, ends_at in await reader.fetch(REPRESENTATIVES_OF_MANY, health_ids):
        found[health_id].append(Representation(person, RepresentationKind(kind), starts_at, ends_at))
    return found


async def held(reader: Reader, grantee: Grantee, limit: int) -> list[AccessiblePosition]:
    """The dossiers of a grantee's list, newest authorisation first, valid or not."""
    rows = await reader.fetch(HELD, grantee.id, grantee.kind, limit)
    return [AccessiblePosition(granted_at, health_id) for health_id, granted_at in rows]


async def given_in_secret(reader: Reader, health_id: int, parties: Sequence[Grantee]) -> set[Grantee]:
    """Those of some grantees who were authorised in a secret connection."""
    rows = await reader.fetch(HIDDEN, health_id, [party.id for party in parties])
    return {Grantee(GranteeKind(kind), grantee_id) for kind, grantee_id in rows}.intersection(parties)


async def blocked_elsewhere(reader: Reader, health_id: int) -> set[Grantee]:
    """Whom the other dossiers of the same person block. No statement more where nobody is linked."""
    others = (await linked(reader, [health_id])).get(health_id)
    found = await grantees_of_many(reader, others) if others else {}
    return {row.grantee for rows in found.values() for row in rows if row.blocked_at is not None}


async def linked(reader: Reader, health_ids: Sequence[int]) -> dict[int, list[int]]:
    """The other dossiers of the same person, of those that have any."""
    rows = await reader.fetch(LINKED, health_ids)
    return {health_id: [other for other in members if other != health_id] for health_id, members in rows}


async def representatives(reader: Reader, health_id: int) -> list[Representation]:
    """Who represents the patient, in force or not, ordered by person."""
    return [
        Representation(person, RepresentationKind(kind), starts_at, ends_at)
        for person, kind, starts_at, ends_at in await reader.fetch(REPRESENTATIVES, health_id)
    ]


async def represented(reader: Reader, person: int) -> list[int]:
    """The dossiers where this person is registered as a representative; at most a thousand."""
    return [row["health_id"] for row in await reader.fetch(REPRESENTED, person)]


def _grantee_row(
    kind: str,
    grantee_id: str,
    granted_at: datetime | None,
    expires_at: datetime | None,
    attending: bool,
    term: str,
    care_team: bool,
    secret: bool,
    blocked_at: datetime | None,
) -> GranteeRow:
    grantee = Grantee(GranteeKind(kind), grantee_id)
    if granted_at is None or expires_at is None:
        return GranteeRow(grantee, None, blocked_at)
    authorization = Authorization(grantee, granted_at, expires_at, attending, Term(term), care_team, secret)
    return GranteeRow(grantee, authorization, blocked_at)
