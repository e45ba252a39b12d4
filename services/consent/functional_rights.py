"""The functional rights and the denials by document type, parsed from two CSV texts into a typed table.

The service comes with the published tables (`rights/*.csv`), which win over any prose (design §8); `evidence` says
which cells were found and which are assumed. An operator may replace them (`rights_versions`). Nothing is decided
here. A cell that is not listed is no; a word, a function or a row that is not known refuses to load.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

RIGHTS_DIRECTORY: Final = Path(__file__).parent / "rights"
FUNCTIONAL_RIGHTS: Final = "functional_rights"
HOST_RIGHTS: Final = "host_rights"
"""The row of who takes over a home host, which the published table does not have: a table of the same columns."""
TYPE_DENIALS: Final = "document_type_denials"
SHIPPED: Final = 0
"""The version of the tables that the service came with."""
_DENIED: Final = "read_denied"


class Right(StrEnum):
    """What a cell of the table may say."""

    YES = "yes"
    NO = "no"
    OWN_DOCUMENTS_ONLY = "own_documents_only"
    AUTHORED_BY_STRUCTURE_ONLY = "authored_by_structure_only"
    IF_PATIENT_ALLOWED = "if_patient_allowed"
    IF_VISIBLE_TO_CALLER = "if_visible_to_caller"
    PATIENT_DOCUMENT_TYPES_ONLY = "patient_document_types_only"
    REFERENCE_ONLY = "reference_only"
    GRANTS_TO_STRUCTURE = "grants_to_structure"
    IMPUTED_TO_STRUCTURE = "imputed_to_structure"
    ON_PATIENT_REQUEST = "on_patient_request"
    SAME_STRUCTURE_ONLY = "same_structure_only"
    NEW_AUTHORISATIONS_ONLY = "new_authorisations_only"
    OWN_ACTIONS_ONLY = "own_actions_only"
    WITHOUT_SECRET_CONNECTIONS = "without_secret_connections"  # noqa: S105 (no password)


class Function(NamedTuple):
    """A line of the table: a transaction and what is done in it, such as ("TD3.1", "search_metadata")."""

    transaction: str
    action: str


class RightsTableError(Exception):
    """A rights file is malformed; the message names the file, the line and the rule."""


@dataclass(frozen=True, slots=True)
class TablesText:
    """The two tables as text."""

    functional_rights: str
    type_denials: str

    @property
    def digest(self) -> bytes:
        """SHA-256 of both."""
        first = self.functional_rights.encode()
        return hashlib.sha256(len(first).to_bytes(4, "big") + first + self.type_denials.encode()).digest()


@dataclass(frozen=True, slots=True, eq=False)
class FunctionalRights:
    """The whole table of one version. Compared by identity: there is one of each version in a process."""

    version: int
    text: TablesText
    _cells: Mapping[tuple[Function, str], Right]
    _denied_types: Mapping[str, tuple[str, ...]]

    @classmethod
    def nothing(cls) -> FunctionalRights:
        """Tables in which all is no."""
        return cls(SHIPPED, TablesText("", ""), MappingProxyType({}), MappingProxyType({}))

    def right(self, function: Function, context: str) -> Right:
        """The cell of a function for a context such as `physician/break_glass`; NO where the table has none."""
        return self._cells.get((function, context), Right.NO)

    def denied_types(self, profession: str) -> tuple[str, ...]:
        """Document types that a profession may not read; a profession without a list starts from the dentist's."""
        listed = self._denied_types.get(profession)
        return self._denied_types.get(DENTIST, ()) if listed is None else listed

    def cells(self) -> Iterator[tuple[Function, str, Right]]:
        """Every cell listed."""
        return ((function, context, right) for (function, context), right in self._cells.items())

    def denials(self) -> Iterator[tuple[str, str]]:
        """Every (profession, type) listed."""
        return ((profession, code) for profession, codes in self._denied_types.items() for code in codes)


DENTIST: Final = "40"


def load_rights(directory: Path = RIGHTS_DIRECTORY) -> FunctionalRights:
    """The tables of a directory, as version 0. Raises RightsTableError or OSError."""
    rights = (directory / f"{FUNCTIONAL_RIGHTS}.csv").read_text(encoding="utf-8")
    own = directory / f"{HOST_RIGHTS}.csv"
    if own.exists():
        rights += own.read_text(encoding="utf-8").partition("\n")[2]
    denials = (directory / f"{TYPE_DENIALS}.csv").read_text(encoding="utf-8")
    return parse_rights(TablesText(rights, denials), SHIPPED)


def parse_rights(text: TablesText, version: int, known: FunctionalRights | None = None) -> FunctionalRights:
    """The tables in two texts; with `known`, only functions and rows that it has too. Raises RightsTableError."""
    functions = None if known is None else {(function, row) for function, row, _ in known.cells()}
    names = None if functions is None else ({f for f, _ in functions}, {row for _, row in functions})
    cells: dict[tuple[Function, str], Right] = {}
    columns = ("transaction", "action", "context", "right")
    for place, row in _rows(text.functional_rights, FUNCTIONAL_RIGHTS, columns):
        key = (Function(row["transaction"], row["action"]), row["context"])
        if names is not None and (key[0] not in names[0] or key[1] not in names[1]):
            raise RightsTableError(f"{place}: unknown function or row")
        try:
            right = Right(row["right"])
        except ValueError:
            raise RightsTableError(f"{place}: unknown right") from None
        if cells.setdefault(key, right) is not right:
            raise RightsTableError(f"{place}: the cell is listed twice with different rights")
    denied: defaultdict[str, list[str]] = defaultdict(list)
    for place, row in _rows(text.type_denials, TYPE_DENIALS, ("profession", "type_code", "access")):
        if row["access"] != _DENIED:
            raise RightsTableError(f"{place}: unknown access")
        denied[row["profession"]].append(row["type_code"])
    return FunctionalRights(
        version,
        text,
        MappingProxyType(cells),
        MappingProxyType({profession: tuple(types) for profession, types in denied.items()}),
    )


def _rows(text: str, table: str, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row with its place; every column named must have a value."""
    found = False
    for number, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), start=2):
        found = True
        place = f"{table}.csv:{number}"
        if not all(row.get(column) for column in columns):
            raise RightsTableError(f"{place}: needs {', '.join(columns)}")
        yield place, row
    if not found:
        raise RightsTableError(f"{table}.csv: is empty")
