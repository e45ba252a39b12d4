"""An extract of the directory of professionals and structures, as `dmp directory import` reads it: a table of text."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from dmp.common.v1.coding_pb2 import Coding
from dmp.identity.v1 import directory_pb2

_WORDS: Final = {"oui": True, "true": True, "1": True, "non": False, "false": False, "0": False, "": True}
_SPECIALTIES: Final = "1.2.250.1.213.1.1.4.5"


def rows_of(file: Path) -> Iterator[directory_pb2.DirectoryRow]:
    """The rows of an extract; `kind` says what each is, and which of the other columns it fills."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines, delimiter=";"), 2):
            yield _row(number, {name: (value or "").strip() for name, value in row.items() if name})


def _row(number: int, row: Mapping[str, str]) -> directory_pb2.DirectoryRow:
    active = _WORDS.get(row.get("active", "").lower(), False)
    read = directory_pb2.DirectoryRow(row=number)
    specialties = [Coding(system=_SPECIALTIES, code=code) for code in row.get("specialty", "").split()]
    if row.get("kind") == "practitioner":
        read.practitioner.CopyFrom(
            directory_pb2.Practitioner(
                idnps=row.get("idnps", ""),
                family_name=row.get("family_name", ""),
                given_name=row.get("given_name", ""),
                profession=row.get("profession", ""),
                specialties=specialties,
                active=active,
                email=row.get("email", ""),
            )
        )
    elif row.get("kind") == "structure":
        read.structure.CopyFrom(
            directory_pb2.Structure(
                idnst=row.get("idnst", ""),
                display_name=row.get("name", ""),
                facility_type=row.get("facility_type", ""),
                postcode=row.get("postcode", ""),
                city=row.get("city", ""),
                active=active,
            )
        )
    elif row.get("kind") == "role":
        read.role.CopyFrom(
            directory_pb2.PractitionerRole(
                idnps=row.get("idnps", ""),
                idnst=row.get("idnst", ""),
                profession=row.get("profession", ""),
                specialty=specialties[0] if specialties else None,
                active=active,
            )
        )
    return read
