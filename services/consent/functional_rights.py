"""The functional rights and the denials by document type, read once from `rights/*.csv` into a typed table.

Those files are the published tables and win over any prose (design §8); `evidence` says which cells were found and
which are assumed. Nothing is decided here. A cell that is not listed is no; a word that is not known refuses to load.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

RIGHTS_DIRECTORY: Final = Path(__file__).parent / "rights"
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


@dataclass(frozen=True, slots=True, eq=False)
class FunctionalRights:
    """The whole table. Compared by identity: there is one in a process."""

    _cells: Mapping[tuple[Function, str], Right]
    _denied_types: Mapping[str, tuple[str, ...]]

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


DENTIST: Final = "40"


def load_rights(directory: Path = RIGHTS_DIRECTORY) -> FunctionalRights:
    """Reads `functional_rights.csv` and `document_type_denials.csv`. Raises RightsTableError or OSError."""
    cells: dict[tuple[Function, str], Right] = {}
    for place, row in _rows(directory / "functional_rights.csv", ("transaction", "action", "context", "right")):
        key = (Function(row["transaction"], row["action"]), row["context"])
        try:
            right = Right(row["right"])
        except ValueError:
            raise RightsTableError(f"{place}: unknown right") from None
        if cells.setdefault(key, right) is not right:
            raise RightsTableError(f"{place}: the cell is listed twice with different rights")
    denied: defaultdict[str, list[str]] = defaultdict(list)
    for place, row in _rows(directory / "document_type_denials.csv", ("profession", "type_code", "access")):
        if row["access"] != _DENIED:
            raise RightsTableError(f"{place}: unknown access")
        denied[row["profession"]].append(row["type_code"])
    return FunctionalRights(
        MappingProxyType(cells), MappingProxyType({profession: tuple(types) for profession, types in denied.items()})
    )


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row with its place; every column named must have a value."""
    with file.open(encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            place = f"{file.name}:{number}"
            if not all(row.get(column) for column in columns):
                raise RightsTableError(f"{place}: needs {', '.join(columns)}")
            yield place, row
