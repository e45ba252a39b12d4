"""Whether a row whose clear part is gone is gone for a reason that the log states, and was ended by this service.

The row's end must be its own (`tags`), and the event that it names must be in the log and tell of just this: that the
row's leaf was given up, and was old enough; that its dossier is destroyed; or that an operator took what there was when
rows had no ends yet. Rows of a dossier that is being destroyed have some minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit import ending_store
from services.audit.ending_store import DestructionRow
from services.audit.findings import Checked, Damage
from services.audit.retention import Kind
from services.audit.tags import Place, RowTags
from services.audit.told import Adopted, Destroyed, Expired, Told, read_told
from services.audit.tree_store import StoredRow
from services.runtime.dossier_keys import DossierKeyBatch, DossierKeys
from services.runtime.errors import DmpError
from services.runtime.postgres import Connection

_UNKNOWN: Final = -1
_WHILE: Final = timedelta(minutes=10)
"""How long destroying a dossier may take from the event that tells of it on; what was interrupted is tried again."""


@dataclass(frozen=True, slots=True)
class Endings:
    """What the log tells of the rows of one range that have ended, or should have."""

    log_id: int
    places: Mapping[int, Place]
    told: Mapping[Place, Told]
    due: Mapping[Place, bool]
    destructions: Mapping[int, DestructionRow]

    def check(self, row: StoredRow, checked: Checked) -> None:
        """A row that has ended."""
        place = self.places.get(row.leaf_index)
        if place is None:
            problem = (
                "is not the end of this row: one of its columns was changed"
                if row.actor_digest
                else "is empty like the clear part, and nothing says why"
            )
            checked.damages.append((row.leaf_index, Damage("actor_digest", _UNKNOWN, problem)))
            return
        told = self.told.get(place)
        problem = self._unfounded(row, told)
        if problem:
            checked.damages.append((row.leaf_index, Damage("actor_digest", _UNKNOWN, problem)))
        elif told is not None and isinstance(told.act, Adopted):
            checked.adopted.append(row.leaf_index)
        else:
            checked.destroyed.append(row.leaf_index)

    def check_destroyed(self, row: StoredRow, checked: Checked) -> None:
        """A row that has not ended, and whose dossier's key is gone."""
        destruction = self.destructions.get(row.health_id)
        told = None if destruction is None else self.told.get(destruction.place)
        if told is None or told.act != Destroyed(row.health_id):
            problem = "its dossier's key is gone, and no event of the log says that it was destroyed"
        elif not under_way(told):
            problem = "its dossier was destroyed, and not this row"
        else:
            checked.destroyed.append(row.leaf_index)
            return
        checked.damages.append((row.leaf_index, Damage("dossier_key.wrapped", _UNKNOWN, problem)))

    def _unfounded(self, row: StoredRow, told: Told | None) -> str:
        """Why what the row's end names does not account for it; empty if it does."""
        if told is None:
            return "names an event that the log does not have"
        match told.act:
            case Destroyed(health_id):
                return "" if health_id == row.health_id else "names the destruction of another dossier"
            case Expired() as act:
                if act.log_id != self.log_id or row.leaf_index not in act.leaves:
                    return "names an event that gives up other clear parts"
                return "" if self.due[told.place] else "was given up before its time"
            case Adopted():
                later = told.place.log_id == self.log_id and told.place.leaf_index <= row.leaf_index
                return "names an event from before it" if later else ""


async def read_endings(
    conn: Connection,
    keys: DossierKeys,
    tags: RowTags,
    log_id: int,
    rows: Sequence[StoredRow],
    known: DossierKeyBatch,
) -> Endings:
    """What the log tells of the rows that have ended, or whose dossier's key is destroyed; `known` are their keys."""
    places: dict[int, Place] = {}
    for row in rows:
        place = tags.ended_by(row.kept(log_id, row.sealed), row.actor_digest) if row.ended else None
        if place is not None:
            places[row.leaf_index] = place
    keyless = {row.health_id for row in rows if not row.ended and is_destroyed(known, row.health_id)}
    destructions = await ending_store.destructions(conn, sorted(keyless)) if keyless else {}
    held = {
        health_id: each for health_id, each in destructions.items() if tags.holds("destruction", each[:-1], each.tag)
    }
    told = await read_told(conn, keys, [*places.values(), *(each.place for each in held.values())])
    due = {
        place: await _was_due(conn, each.act, each.at)
        for place, each in told.items()
        if isinstance(each.act, Expired) and each.act.log_id == log_id
    }
    return Endings(log_id, places, told, due, held)


def is_destroyed(keys: DossierKeyBatch, health_id: int) -> bool:
    """Whether the dossier's key is destroyed: its row is there and says so."""
    try:
        keys[health_id]
    except DmpError as error:
        return error.reason == reasons.ERROR_REASON_CONTENT_DESTROYED
    return False


def under_way(told: Told) -> bool:
    """Whether what is told may not be done yet."""
    return datetime.now(UTC) - told.at < _WHILE


async def _was_due(conn: Connection, act: Expired, at: datetime) -> bool:
    """Whether the events were old enough when it was told, as `retention.due` has it: the last of them, and most."""
    cutoff = Kind(act.kind, (), act.months).cutoff(at)
    if cutoff is None:
        return False
    count, old, last = await ending_store.ages(conn, act.log_id, act.start, act.end, cutoff)
    return last and 2 * old > count
