"""Lists: who may enter a dossier, who represents its patient; and, by grantee or person, which dossiers.

The lists by grantee and by person only say where to look: whoever reads them checks each dossier's own facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from services.consent.values import Authorization, Grantee, GranteeKind, Representation, RepresentationKind, Term
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
