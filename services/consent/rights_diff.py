"""What a replacement of the rights tables would change: the cells, and the decisions. Pure; a dry run changes nothing.

Decisions are not derived from the cells that differ: every row, profession, action and standing is decided by both
tables, so what the dry run says is what the rules would do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.acting import BREAK_GLASS, NORMAL, PHYSICIAN, PROFESSIONS, REGULATION, Actor
from services.consent.action_cells import GIVEN_BY
from services.consent.decision import Case, Decision, decide
from services.consent.functional_rights import FUNCTIONAL_RIGHTS, TYPE_DENIALS, FunctionalRights
from services.consent.values import DossierState, Facts, Representation, RepresentationKind

_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_LATER: Final = _NOW + timedelta(days=1)
_DOSSIER: Final = 1
_PERSON: Final = 2
_PROFESSIONAL_ROWS: Final = ("physician", "attending_physician", "other_professional", "occupational_physician")


class CellChange(NamedTuple):
    """A cell of a table before and after; empty where it is not listed."""

    table: str
    cell: str
    before: str
    after: str


class DecisionChange(NamedTuple):
    """A decision that comes out differently."""

    who: str
    action: str
    situation: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class _Situation:
    words: str
    facts: Facts


def cell_changes(before: FunctionalRights, after: FunctionalRights) -> list[CellChange]:
    """The cells that differ, in the order of their names."""
    old = {f"{f.transaction} {f.action} {row}": right.value for f, row, right in before.cells()}
    new = {f"{f.transaction} {f.action} {row}": right.value for f, row, right in after.cells()}
    changes = [
        CellChange(FUNCTIONAL_RIGHTS, cell, old.get(cell, ""), new.get(cell, ""))
        for cell in sorted(old.keys() | new.keys())
        if old.get(cell, "") != new.get(cell, "")
    ]
    denied, to_deny = set(before.denials()), set(after.denials())
    for profession, code in sorted(denied ^ to_deny):
        was = "read_denied" if (profession, code) in denied else ""
        becomes = "read_denied" if (profession, code) in to_deny else ""
        changes.append(CellChange(TYPE_DENIALS, f"{profession} {code}", was, becomes))
    return changes


def decision_changes(before: FunctionalRights, after: FunctionalRights) -> list[DecisionChange]:
    """Every decision that the tables make differently, for everyone who has a row in either."""
    rows = sorted({row for _, row, _ in (*before.cells(), *after.cells())})
    changes = []
    for row in rows:
        for actor in _actors(row):
            for situation in _situations(row):
                for action in GIVEN_BY:
                    old = _in_words(_decided(actor, action, situation.facts, before))
                    new = _in_words(_decided(actor, action, situation.facts, after))
                    if old != new:
                        name = pb.Action.Name(action).removeprefix("ACTION_").lower()  # type: ignore[arg-type]
                        who = f"{row} ({actor.profession})" if actor.profession else row
                        changes.append(DecisionChange(who, name, situation.words, old, new))
    return changes


def _decided(actor: Actor, action: int, facts: Facts, rights: FunctionalRights) -> Decision:
    return decide(Case(actor, action, _DOSSIER, facts, rights, _NOW))


def _actors(row: str) -> Iterator[Actor]:
    """Everyone in a row: each profession where that matters."""
    kind, _, mode = row.partition("/")
    mode = mode if mode in (REGULATION, BREAK_GLASS) else NORMAL
    common = {"mode": mode, "states_reason": True, "may_feed": True, "complete": True}
    if kind in _PROFESSIONAL_ROWS:
        physician = kind != "other_professional"
        for profession in (PHYSICIAN,) if physician else sorted(PROFESSIONS - {PHYSICIAN}):
            attending = row if kind == "attending_physician" else ""
            yield Actor(
                context=row,
                attending_context=attending,
                professional="8",
                profession=profession,
                **common,  # type: ignore[arg-type]
            )
    elif kind in ("patient", "representative"):
        person = _PERSON if kind == "representative" else 0
        yield Actor(context=row, in_person=True, patient=_DOSSIER, representative=person, **common)  # type: ignore[arg-type]
    else:
        yield Actor(context=row, structure="1", **common)  # type: ignore[arg-type]


def _situations(row: str) -> Iterator[_Situation]:
    """How one may stand on an open dossier, as far as a cell can depend on it."""
    attending = row.startswith("attending_physician/")
    held = Representation(_PERSON, RepresentationKind.GUARDIAN, _NOW - timedelta(days=1), None)
    for shown in (False, True):
        facts = Facts(DossierState.OPEN, 1, False, False, shown, False, _LATER, attending, _LATER, held)
        yield _Situation("authorised" + (", masked shown in emergencies" if shown else ""), facts)
    if not attending:
        yield _Situation(
            "not authorised", Facts(DossierState.OPEN, 1, False, False, False, False, None, False, None, held)
        )


def _in_words(decision: Decision) -> str:
    bounds = decision.filter
    if bounds is None:
        name = reasons.ErrorReason.Name(decision.reason or 0)  # type: ignore[arg-type]
        return f"no: {name.removeprefix('ERROR_REASON_')}"
    said = ["yes", f"masked {pb.MaskedView.Name(bounds.masked).removeprefix('MASKED_VIEW_').lower()}"]  # type: ignore[arg-type]
    if bounds.restriction:
        restriction = pb.DocumentRestriction.Name(bounds.restriction)  # type: ignore[arg-type]
        said.append(f"only {restriction.removeprefix('DOCUMENT_RESTRICTION_').lower()}")
    if bounds.traces:
        said.append(f"traces {pb.TraceView.Name(bounds.traces).removeprefix('TRACE_VIEW_').lower()}")  # type: ignore[arg-type]
    flags = {
        "no content": not bounds.content_readable,
        "as the patient sees": bounds.patient_view,
        "as representatives see": bounds.representative_view,
        "no archived": bounds.without_archived,
        "no deprecated": bounds.without_deprecated,
        "deleted known": bounds.deleted_traces,
    }
    said += [words for words, true in flags.items() if true]
    if bounds.denied_type_codes:
        said.append(f"without {' '.join(bounds.denied_type_codes)}")
    return ", ".join(said)
