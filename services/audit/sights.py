"""When somebody who cares for people saw, for the first time, what the documents of a dossier say or which there are.

`sights.csv` says of each action that such a caller can take whether it shows that, and why; a test fails for one that
is not in it. A first time is the first *sight*: who asks how he stands, declares his authorisation or feeds the dossier
before has seen nothing yet. Actions are sealed, so the earlier acts of the same actor in the dossier are opened: the
last ones first, since nearly always they answer; then some of the first and of the last.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from google.protobuf.message import DecodeError

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from services.audit import derived_store
from services.audit.derived_store import EarlierRow, UnderivedRow
from services.audit.leaf import EventPlace, open_clear
from services.runtime.dossier_keys import DossierKeyBatch
from services.runtime.errors import DmpError
from services.runtime.postgres import Connection
from services.runtime.sealing import SealBroken

_CARERS: Final = frozenset(
    {
        context_pb2.ACTOR_KIND_PROFESSIONAL,
        context_pb2.ACTOR_KIND_STRUCTURE,
        context_pb2.ACTOR_KIND_STRUCTURE_STAFF,
    }
)
_LAST: Final = 2
_FURTHER: Final = 64
"""Of the earliest and of the latest acts: whoever saw nothing in any of these sees for the first time."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An event and where it is."""

    row: UnderivedRow
    event: audit_pb2.AuditEvent


@cache
def classes() -> dict[str, bool]:
    """Whether an action gives sight, for each action that a carer can take."""
    text = (files("services.audit") / "sights.csv").read_text("utf-8")
    return {row["action"]: {"yes": True, "no": False}[row["sight"]] for row in csv.DictReader(text.splitlines())}


def gives_sight(event: audit_pb2.AuditEvent) -> bool:
    """Whether a carer saw something of the documents of a dossier."""
    return (
        classes().get(event.action, False)
        and event.outcome == audit_pb2.OUTCOME_SUCCESS
        and event.actor.actor_kind in _CARERS
    )


class Seen:
    """Who has seen something of which dossier, as far as one process has found out about one log.

    A log only grows, so what it told once about the time before a place holds for every later place, and need not be
    asked again. Of places before that one this knows nothing: an event that was set aside is looked at late.
    """

    __slots__ = ("_before", "_most")

    def __init__(self, most: int = 1 << 16) -> None:
        """Remembers about the `most` last found."""
        self._most = most
        self._before: dict[tuple[int, bytes], int] = {}

    def before(self, row: UnderivedRow) -> bool:
        """Whether it is known that the actor had seen something of the dossier before this place."""
        return self._before.get((row.health_id, row.actor_digest), row.leaf_index + 1) <= row.leaf_index

    def add(self, row: UnderivedRow) -> None:
        """The log says that he had."""
        if len(self._before) >= self._most:
            del self._before[next(iter(self._before))]
        self._before[row.health_id, row.actor_digest] = row.leaf_index


async def first_sights(
    conn: Connection, keys: DossierKeyBatch, log_id: int, opened: Sequence[Opened], seen: Seen
) -> set[int]:
    """The places of those events, in the order of the log, at which their actor saw something of the dossier for the
    first time. `keys` are those of the dossiers; `seen` is of this log."""
    asked: dict[tuple[int, bytes], UnderivedRow] = {}
    for each in opened:
        if gives_sight(each.event) and not seen.before(each.row):
            asked.setdefault((each.row.health_id, each.row.actor_digest), each.row)
    rounds = ((derived_store.LATEST, _LAST), (derived_store.LATEST, _FURTHER), (derived_store.EARLIEST, _FURTHER))
    firsts: set[int] = set()
    for statement, most in rounds:
        if not asked:
            break
        found = await derived_store.earlier(conn, statement, log_id, list(asked.values()), most)
        for actor, row in list(asked.items()):
            acts = found.get(row.leaf_index, [])
            if any(_saw(keys, log_id, row.health_id, act) for act in acts):
                seen.add(row)
                del asked[actor]
            elif len(acts) < most:
                firsts.add(row.leaf_index)
                del asked[actor]
    return firsts | {row.leaf_index for row in asked.values()}


def _saw(keys: DossierKeyBatch, log_id: int, health_id: int, act: EarlierRow) -> bool:
    try:
        part = open_clear(keys[health_id], act.sealed, EventPlace(health_id, act.event_id.bytes, log_id))
        return gives_sight(audit_pb2.AuditEvent.FromString(part.clear))
    except (DmpError, SealBroken, DecodeError):
        return False
