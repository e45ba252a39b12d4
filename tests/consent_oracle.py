"""A naive re-computation of who may do what, from a list of what happened. Written from domain §3 and the tables alone.

It shares no code with the service: it reads the CSV files by itself, looks through the whole list for every question,
and says the reason of a refusal by its name. Slow, and easy to read.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

YEAR = timedelta(days=365)
_RIGHTS = Path("services/consent/rights")

# Which cells give an action, and what each word then means for a document: any, own, the structure's, a patient's type.
_CELLS = {
    "SUBMIT": (("TD2.1", "submit"), ("TD2.2", "submit_by_cpe")),
    "SEARCH": (("TD3.1", "search_metadata"),),
    "READ": (("TD3.2", "read_not_masked"),),
    "SEARCH_REFERENCE": (("TD3.1", "search_reference"),),
    "READ_TRACES": (("TRACE", "read_traces"),),
    "MASK": (("TD3.3a", "mask_ps"),),
    "UNMASK": (("TD3.3a", "unmask_ps"),),
    "DELETE": (("TD3.3c", "delete"),),
    "ARCHIVE": (("TD3.3d", "archive"),),
    "LIST_AUTHORIZATIONS": (("TD1.6", "list_authorised_blocked_ps"),),
    "READ_ADMINISTRATIVE": (("TD1.3a", "read_admin_data"),),
    "SEARCH_HELD": (("TD3.1", "search_metadata"),),
}
ACTIONS = tuple(_CELLS)
_WITHOUT_AUTHORISATION = {"SUBMIT", "SEARCH_REFERENCE", "DELETE"}
_ON_DOCUMENTS = {"SEARCH", "SEARCH_HELD", "READ", "MASK", "UNMASK", "ARCHIVE"}
_LISTING = ("TD0.4", "list_authorised_dmp")


class Who(NamedTuple):
    """Somebody: `kind` is physician, nurse, pharmacist, staff, certificate, patient or representative."""

    kind: str
    id: str = ""
    structure: str = ""
    mode: str = "normal"
    person: int = 0


class Paper(NamedTuple):
    """A document, as far as it matters."""

    type_code: str = "11488-4"
    masked: bool = False
    unseen: bool = False
    from_parents: bool = False
    mine: bool = False


@dataclass
class Memory:
    """What happened to one dossier, in order: (when, what, about whom, more)."""

    happened: list[tuple[datetime, str, Any, Any]] = field(default_factory=list)

    def add(self, when: datetime, what: str, whom: Any = None, more: Any = None) -> None:
        self.happened.append((when, what, whom, more))

    @property
    def epoch(self) -> int:
        return len(self.happened)

    def last(self, *kinds: str) -> tuple[datetime, str, Any, Any] | None:
        return next((each for each in reversed(self.happened) if each[1] in kinds), None)

    def state(self) -> str:
        last = self.last("open", "close")
        return "none" if last is None else last[1]

    def preference(self, name: str) -> bool:
        chosen = (more for _, what, whom, more in reversed(self.happened) if (what, whom) == ("prefer", name))
        return bool(next(chosen, False))

    def blocked(self, whom: str) -> bool:
        for _, what, about, _ in reversed(self.happened):
            if about == whom and what in ("block", "unblock"):
                return bool(what == "block")
        return False

    def until(self, whom: str) -> datetime | None:
        for when, what, about, _ in reversed(self.happened):
            if about == whom and what in ("grant", "revoke", "block"):
                return when + YEAR if what == "grant" else None
        return None

    def is_mt(self, whom: str, now: datetime) -> bool:
        until = self.until(whom)
        if until is None or until <= now:
            return False
        for _, what, about, more in reversed(self.happened):
            if about == whom and what == "leave":
                return False
            if about == whom and what == "grant":
                return bool(more)
        return False

    def represents(self, person: int, now: datetime) -> bool:
        for _, what, about, ends in reversed(self.happened):
            if about == person and what in ("represent", "end"):
                return bool(what == "represent" and now < ends)
        return False


class Answer(NamedTuple):
    """Yes with what is seen of masked documents and which types are not; or no with the name of the reason."""

    reason: str
    masked: str = ""
    denied: tuple[str, ...] = ()


@cache
def _table() -> dict[tuple[str, str, str], str]:
    with (_RIGHTS / "functional_rights.csv").open(encoding="utf-8", newline="") as stream:
        return {(row["transaction"], row["action"], row["context"]): row["right"] for row in csv.DictReader(stream)}


@cache
def _denials(profession: str) -> tuple[str, ...]:
    with (_RIGHTS / "document_type_denials.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    known = profession if any(row["profession"] == profession for row in rows) else "40"
    return tuple(row["type_code"] for row in rows if row["profession"] == known)


def row_of(memory: Memory, who: Who, now: datetime) -> str:
    names = {
        "nurse": "other_professional",
        "pharmacist": "other_professional",
        "staff": "structure_staff",
        "certificate": "structure_certificate",
    }
    name = names.get(who.kind, who.kind)
    if who.kind == "physician" and who.mode != "regulation" and memory.is_mt(who.id, now):
        name = "attending_physician"
    return f"{name}/{who.mode}"


def answer(memory: Memory, who: Who, action: str, now: datetime, paper: Paper | None = None) -> Answer:
    """What the rules say."""
    ids = [each for each in (who.id, who.structure) if each]
    if memory.state() == "none":
        return Answer("DOSSIER_NOT_FOUND")
    if any(memory.blocked(each) for each in ids):
        return Answer("BLOCKED")
    if who.kind == "representative" and not memory.represents(who.person, now):
        return Answer("REPRESENTATION_MISSING")
    if memory.state() == "close":
        return Answer("DOSSIER_CLOSED")
    row = row_of(memory, who, now)
    words = [_table().get((*cell, row), "no") for cell in _CELLS[action]]
    word = next((each for each in words if each != "no"), "no")
    if word == "no" or (action == "SEARCH_HELD" and not may_list_by_document(row)):
        return Answer("RIGHT_DENIED")
    if action == "SEARCH_HELD":  # no emergency opens a list of one's own dossiers
        shut, row = _without_own(memory, who, now), f"{row.partition('/')[0]}/normal"
    else:
        shut = "" if action in _WITHOUT_AUTHORISATION else _shut(memory, who, ids, now)
    if shut:
        return Answer(shut)
    masked = _masked(memory, row)
    professions = {"physician": "10", "nurse": "60", "pharmacist": "21", "certificate": "10"}
    denied = _denials(professions[who.kind]) if professions.get(who.kind) else ()
    if paper is not None:
        refused = _hides(row, action, word, masked, denied, paper)
        if refused:
            return Answer(refused)
    return Answer("", masked, denied)


def _shut(memory: Memory, who: Who, ids: list[str], now: datetime) -> str:
    """Why a reader is not let in: opposed in an emergency, not authorised otherwise."""
    if who.mode != "normal":
        return "EMERGENCY_OPPOSED" if memory.preference(who.mode) else ""
    if who.kind in ("patient", "representative"):
        return ""
    untils = [until for each in ids if (until := memory.until(each)) is not None]
    if not untils:
        return "AUTHORIZATION_MISSING"
    return "AUTHORIZATION_EXPIRED" if max(untils) <= now else ""


def may_list_by_document(row: str) -> bool:
    """Whether a row lists its dossiers by their last document: it lists all of them, and searches."""
    words = [_table().get((*cell, row), "no") for cell in (_LISTING, ("TD3.1", "search_metadata"))]
    return words[0] in ("yes", "same_structure_only") and words[1] == "yes"


def _without_own(memory: Memory, who: Who, now: datetime) -> str:
    """Why a dossier is not on somebody's own list, whatever the mode."""
    until = memory.until(who.structure if who.kind in ("staff", "certificate") else who.id)
    if until is None:
        return "AUTHORIZATION_MISSING"
    return "AUTHORIZATION_EXPIRED" if until <= now else ""


def _masked(memory: Memory, row: str) -> str:
    word = _table().get(("TD3.2", "read_masked_ps", row), "no")
    if word == "yes" or (word == "if_patient_allowed" and memory.preference("masked")):
        return "ALL"
    return "OWN" if word == "own_documents_only" else "NONE"


def _hides(row: str, action: str, word: str, masked: str, denied: tuple[str, ...], paper: Paper) -> str:
    if action in _ON_DOCUMENTS:
        if paper.type_code in denied:
            return "TYPE_DENIED"
        unseen = _table().get(("TD3.2", "read_invisible_patient_or_rep", row), "no") != "yes"
        if paper.masked and not (masked == "ALL" or (masked == "OWN" and paper.mine)):
            return "RIGHT_DENIED"
        if unseen and paper.unseen:
            return "RIGHT_DENIED"
        if unseen and paper.from_parents and not row.startswith("patient/"):
            return "RIGHT_DENIED"
    if word == "own_documents_only" and not paper.mine:
        return "RIGHT_DENIED"
    if word == "patient_document_types_only" and not paper.type_code.startswith(("DOCPAT", "EXPPAT")):
        return "RIGHT_DENIED"
    if word == "authored_by_structure_only":
        return "RIGHT_DENIED"  # no paper of these tests is
    return ""


def sees(memory: Memory, who: Who, now: datetime, paper: Paper) -> bool:
    """Whether a search shows this document."""
    return answer(memory, who, "SEARCH", now, paper).reason == ""


def accessible(memory: Memory, who: Who, now: datetime) -> bool:
    """Whether a professional finds the dossier on his own list."""
    until = memory.until(who.id)
    ids = [each for each in (who.id, who.structure) if each]
    return (
        memory.state() == "open" and until is not None and until > now and not any(memory.blocked(each) for each in ids)
    )
