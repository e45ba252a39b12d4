"""The facts that decisions rest on: one statement for a batch, whatever its size; and dossiers with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

import asyncpg

from services.consent.linked import unite
from services.consent.store.rights import rights_in_force
from services.consent.values import (
    CloseReason,
    ConsentGiver,
    ConsentMethod,
    ConsentRecord,
    Dossier,
    DossierState,
    Facts,
    Representation,
    RepresentationKind,
)
from services.runtime.postgres import Reader

T = TypeVar("T")

# The row of rights_in_force goes with every row of the answer, so that facts and rights are of one snapshot.
_ASKED: Final = """
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[])
    WITH ORDINALITY AS asked (health_id, professional, structure, person, place)
JOIN dossier AS d ON d.health_id = asked.health_id
CROSS JOIN rights_in_force AS rights
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
LEFT JOIN representation AS acts
    ON acts.health_id = d.health_id AND acts.person = asked.person
LEFT JOIN linked_set AS linked ON linked.health_id = d.health_id
WHERE d.health_id = ANY($1::bigint[])
"""
_FACTS_COLUMNS: Final = """
asked.place, rights.version, d.state, d.epoch, d.break_glass_opposed, d.regulation_opposed, d.masked_in_emergency,
own_block.health_id IS NOT NULL OR their_block.health_id IS NOT NULL,
own.expires_at, coalesce(own.attending_physician, false), their.expires_at,
acts.person, acts.kind, acts.starts_at, acts.ends_at, d.died_at IS NOT NULL, d.merged_into, d.home_host,
linked.member_ids
"""
_FACTS_WIDTH: Final = 19
DOSSIER_COLUMNS: Final = """
d.health_id, d.state, d.epoch, d.opened_at, d.closed_at, d.close_reason, d.break_glass_opposed, d.regulation_opposed,
d.masked_in_emergency, d.home_host, d.region, d.closed_by, d.died_at, d.destroy_at, d.destruction_requested,
d.consent_collected_at, d.consent_method, d.consent_given_by, d.consent_collector, d.consent_representative,
d.merged_into
"""

FACTS: Final = f"SELECT {_FACTS_COLUMNS} {_ASKED}"
STANDINGS: Final = f"SELECT {_FACTS_COLUMNS}, {DOSSIER_COLUMNS} {_ASKED}"
_STATES: Final = {state.value: state for state in DossierState}


class Asked(NamedTuple):
    """One question for facts: a dossier and the acting party's identifiers, empty or 0 where it has none."""

    health_id: int
    professional: str
    structure: str
    person: int = 0


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """Answers in the order of the questions, None where there is no dossier, and the rights in force with them."""

    rights_version: int
    answers: list[T | None]


async def read_facts(reader: Reader, asked: Sequence[Asked]) -> Known[Facts]:
    """The facts of each question: one statement whatever their number (one more when no dossier is found)."""
    facts: list[Facts | None] = [None] * len(asked)
    version: int | None = None
    rows = await _ask(reader, FACTS, asked)
    for row in rows:
        place, version, *_ = row
        facts[place - 1] = _facts(row)
    for place, united in (await _united(reader, asked, rows)).items():
        facts[place - 1] = united
    return Known(await rights_in_force(reader) if version is None else version, facts)


async def read_standings(reader: Reader, asked: Sequence[Asked]) -> Known[tuple[Dossier, Facts]]:
    """As `read_facts`, with the dossier itself."""
    found: list[tuple[Dossier, Facts] | None] = [None] * len(asked)
    version: int | None = None
    rows = await _ask(reader, STANDINGS, asked)
    for row in rows:
        place, version, *_ = row
        found[place - 1] = (dossier_of_row(row[_FACTS_WIDTH:]), _facts(row))
    for place, united in (await _united(reader, asked, rows)).items():
        known = found[place - 1]
        found[place - 1] = None if known is None else (known[0], united)
    return Known(await rights_in_force(reader) if version is None else version, found)


async def _united(reader: Reader, asked: Sequence[Asked], rows: Sequence[asyncpg.Record]) -> dict[int, Facts]:
    """The facts, by place, of those questions whose person has several dossiers: what shuts out of one shuts out of
    all, while authorisations hold on the dossier that they were given for (design §8, merges). No statement more
    where nobody is linked."""
    own = {row[0]: _facts(row) for row in rows if len(row[_FACTS_WIDTH - 1] or ()) > 1}
    if not own:
        return {}
    others = [
        (row[0], asked[row[0] - 1]._replace(health_id=member))
        for row in rows
        if row[0] in own
        for member in row[_FACTS_WIDTH - 1]
        if member != asked[row[0] - 1].health_id
    ]
    answers = await _ask(reader, FACTS, [question for _, question in others])
    for row in sorted(answers, key=lambda row: int(row[0])):  # in the order of the set, that a yes is always the same
        (place, question), other = others[row[0] - 1], _facts(row)
        own[place] = unite(own[place], asked[place - 1].health_id, other, question.health_id)
    return own


def dossier_of_row(row: Sequence[Any]) -> Dossier:
    """A row of DOSSIER_COLUMNS."""
    health_id, state, epoch, opened_at, closed_at, close_reason, *rest = row
    break_glass_opposed, regulation_opposed, masked_in_emergency, home_host, region, *rest = rest
    closed_by, died_at, destroy_at, destruction_requested, *consent, merged_into = rest
    return Dossier(
        health_id=health_id,
        state=_STATES[state],
        epoch=epoch,
        opened_at=opened_at,
        closed_at=closed_at,
        close_reason=None if close_reason is None else CloseReason(close_reason),
        break_glass_opposed=break_glass_opposed,
        regulation_opposed=regulation_opposed,
        masked_in_emergency=masked_in_emergency,
        home_host=home_host,
        consent=_consent(*consent),
        region=region,
        closed_by=closed_by,
        died_at=died_at,
        destroy_at=destroy_at,
        destruction_requested=destruction_requested,
        merged_into=merged_into,
    )


def _consent(
    collected_at: Any, method: Any, given_by: Any, collector: str, representative: int
) -> ConsentRecord | None:
    if collected_at is None:
        return None
    return ConsentRecord(collected_at, ConsentMethod(method), ConsentGiver(given_by), collector, representative)


def _facts(row: Iterable[Any]) -> Facts:
    _, _, state, epoch, break_glass, regulation, masked, blocked, own, attending, structure, *rest = row
    person, kind, starts_at, ends_at, died, merged_into, home_host, *_ = rest
    return Facts(
        _STATES[state],
        epoch,
        break_glass,
        regulation,
        masked,
        blocked,
        own,
        attending,
        structure,
        None if person is None else Representation(person, RepresentationKind(kind), starts_at, ends_at),
        died,
        merged_into,
        home_host=home_host,
    )


async def _ask(reader: Reader, statement: str, asked: Sequence[Asked]) -> list[asyncpg.Record]:
    return await reader.fetch(
        statement,
        [question.health_id for question in asked],
        [question.professional for question in asked],
        [question.structure for question in asked],
        [question.person for question in asked],
    )
