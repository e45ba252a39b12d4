"""The identifiers of professionals (RPPS, IDNPS) and of structures (FINESS, IDNST).

Here live their forms, the Luhn key that some carry, and the prefixes of the national identifiers. Whether such a
professional exists is the directory's business. Test cards may fail the Luhn key: `luhn_valid` is told, and the caller
decides (refuse in production, warn in test).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

IDNPS_OID: Final = "1.2.250.1.71.4.2.1"
IDNST_OID: Final = "1.2.250.1.71.4.2.2"

_RPPS: Final = re.compile(r"\d{11}", re.ASCII)
_FINESS: Final = re.compile(r"(?:\d\d|2[AB])\d{7}", re.ASCII)
_CORSICA: Final = str.maketrans({"A": "1", "B": "2"})


class ProfessionalIdKind(StrEnum):
    """What an IDNPS is made of; the value is its prefix."""

    ADELI = "0"
    FINESS_INTERNAL = "3"
    SIRET_INTERNAL = "5"
    RPPS_PRACTICE_INTERNAL = "6"
    RPPS = "8"


class StructureIdKind(StrEnum):
    """What an IDNST is made of; the value is its prefix."""

    ADELI_RANK = "0"
    FINESS = "1"
    SIREN = "2"
    SIRET = "3"
    RPPS_RANK = "4"


_PROFESSIONAL_FORMS: Final = {
    ProfessionalIdKind.ADELI: re.compile(r"[0-9A-Z]{9}", re.ASCII),
    ProfessionalIdKind.FINESS_INTERNAL: re.compile(r"(?:\d\d|2[AB])\d{7}/[!-~]{1,64}", re.ASCII),
    ProfessionalIdKind.SIRET_INTERNAL: re.compile(r"\d{14}/[!-~]{1,64}", re.ASCII),
    ProfessionalIdKind.RPPS_PRACTICE_INTERNAL: re.compile(r"\d{11,14}/[!-~]{1,64}", re.ASCII),
    ProfessionalIdKind.RPPS: _RPPS,
}
_STRUCTURE_FORMS: Final = {
    StructureIdKind.ADELI_RANK: re.compile(r"[0-9A-Z]{9,11}", re.ASCII),
    StructureIdKind.FINESS: _FINESS,
    StructureIdKind.SIREN: re.compile(r"\d{9}", re.ASCII),
    StructureIdKind.SIRET: re.compile(r"\d{14}", re.ASCII),
    StructureIdKind.RPPS_RANK: re.compile(r"\d{12,14}", re.ASCII),
}


@dataclass(frozen=True, slots=True)
class ProfessionalId:
    """An IDNPS taken apart. `luhn_valid` is None for the kinds that carry no Luhn key."""

    kind: ProfessionalIdKind
    value: str
    luhn_valid: bool | None


@dataclass(frozen=True, slots=True)
class StructureId:
    """An IDNST taken apart. `luhn_valid` is None for the kinds that carry no Luhn key."""

    kind: StructureIdKind
    value: str
    luhn_valid: bool | None


def luhn_digit(payload: str) -> int:
    """Give the Luhn digit that completes a string of ASCII digits. Raises ValueError for anything else."""
    if not (payload.isascii() and payload.isdigit()):
        raise ValueError("a Luhn key is computed over digits")
    total = 0
    for place, digit in enumerate(reversed(payload)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return -total % 10


def is_luhn(digits: str) -> bool:
    """Say whether the last digit is the Luhn key of those before it."""
    return len(digits) > 1 and digits.isascii() and digits.isdigit() and int(digits[-1]) == luhn_digit(digits[:-1])


def is_rpps(text: str) -> bool:
    """Say whether the text is an RPPS number: 11 digits, the last one its Luhn key."""
    return _RPPS.fullmatch(text) is not None and is_luhn(text)


def is_finess(text: str) -> bool:
    """Say whether the text is a FINESS number: 9 characters, the last one its Luhn key.

    In Corsica's numbers (2A…, 2B…) the letter counts as a digit, A as 1 and B as 2 (assumed: that it counts as a digit
    is the rule, which digit was not found in a published source).
    """
    return _FINESS.fullmatch(text) is not None and is_luhn(text.translate(_CORSICA))


def finess_key(payload: str) -> int:
    """Give the Luhn digit of a FINESS number's first eight characters. Raises ValueError."""
    if not _FINESS.fullmatch(f"{payload}0"):
        raise ValueError("a FINESS number has a department and six digits before its key")
    return luhn_digit(payload.translate(_CORSICA))


def idnps(rpps: str) -> str:
    """Give the national identifier of a professional known by an RPPS number."""
    return f"{ProfessionalIdKind.RPPS}{rpps}"


def idnst(finess: str) -> str:
    """Give the national identifier of a structure known by a FINESS number."""
    return f"{StructureIdKind.FINESS}{finess}"


def parse_idnps(text: str) -> ProfessionalId:
    """Take an IDNPS apart. Raises ValueError, which does not repeat the text."""
    try:
        kind = ProfessionalIdKind(text[:1])
    except ValueError:
        raise ValueError("an IDNPS begins with 0, 3, 5, 6 or 8") from None
    value = text[1:]
    if not _PROFESSIONAL_FORMS[kind].fullmatch(value):
        raise ValueError("an IDNPS has the form that its first digit announces")
    luhn_valid = is_luhn(value) if kind is ProfessionalIdKind.RPPS else None
    return ProfessionalId(kind, value, luhn_valid)


def parse_idnst(text: str) -> StructureId:
    """Take an IDNST apart. Raises ValueError, which does not repeat the text."""
    try:
        kind = StructureIdKind(text[:1])
    except ValueError:
        raise ValueError("an IDNST begins with 0, 1, 2, 3 or 4") from None
    value = text[1:]
    if not _STRUCTURE_FORMS[kind].fullmatch(value):
        raise ValueError("an IDNST has the form that its first digit announces")
    if kind is StructureIdKind.FINESS:
        return StructureId(kind, value, is_finess(value))
    return StructureId(kind, value, is_luhn(value) if kind in {StructureIdKind.SIREN, StructureIdKind.SIRET} else None)
