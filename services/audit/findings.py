"""What checking finds: of a range of the log, and of the tables that are made of it. Places, never contents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from dmp.audit.v1 import log_pb2
from services.runtime.tlog.layout import encode_bundle


class Damage(NamedTuple):
    """One thing that is wrong: the column, its first wrong byte (-1 if that cannot be told), and what."""

    column: str
    offset: int
    problem: str


@dataclass(slots=True)
class Checked:
    """What was found in a range of places."""

    entries: list[bytes] = field(default_factory=list)
    damages: list[tuple[int, Damage]] = field(default_factory=list)
    destroyed: list[int] = field(default_factory=list)
    adopted: list[int] = field(default_factory=list)

    def response(self) -> log_pb2.CheckEntriesResponse:
        """As the contract says it."""
        return log_pb2.CheckEntriesResponse(
            entries=encode_bundle(self.entries),
            damages=[log_pb2.EntryDamage(leaf_index=index, **damage._asdict()) for index, damage in self.damages],
            destroyed=self.destroyed,
            adopted=self.adopted,
        )


class TableDamage(NamedTuple):
    """What is wrong with a row: the table, which row, and what."""

    table: str
    row: str
    problem: str
