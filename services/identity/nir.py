"""The NIR (social-security number), its key, and the INS-C computed from it.

Here live pure functions on those numbers. Nothing here stores, logs or repeats one: errors name the rule alone.

The NIR has 13 characters (sex, year, month, place, order) and a key of two digits; as an INS it is written with its
key, 15 characters. Corsica's departments are written 2A and 2B, and count as 19 and 18 in the key.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Final

NIR_OID: Final = "1.2.250.1.213.1.4.8"
NIA_OID: Final = "1.2.250.1.213.1.4.9"
TEST_NIR_OID: Final = "1.2.250.1.213.1.4.10"
DEMO_NIR_OID: Final = "1.2.250.1.213.1.4.11"
INS_OIDS: Final = frozenset({NIR_OID, NIA_OID, TEST_NIR_OID, DEMO_NIR_OID})
"""The systems whose values are NIRs with their key."""
INSC_OID: Final = "1.2.250.1.213.1.4.2"
NATIONAL_OIDS: Final = INS_OIDS | {INSC_OID}
"""Every system of national numbers: they go out only of a qualified identity."""

_NIR: Final = re.compile(
    r"[1-478]"  # sex; 3, 4, 7 and 8 are provisional registrations
    r"\d\d"  # year
    r"(?:0[1-9]|1[0-2]|[2-9]\d)"  # month; from 20 on, unknown
    r"(?:\d\d|2[AB])\d{3}"  # place
    r"\d{3}",  # order
    re.ASCII,
)
_KEY: Final = re.compile(r"\d\d", re.ASCII)
_YYMMDD: Final = re.compile(r"\d{6}", re.ASCII)
_INSC: Final = re.compile(r"\d{22}", re.ASCII)
_CORSICA: Final = {"2A": "19", "2B": "18"}
_MODULUS: Final = 97
_NIR_LENGTH: Final = 13
_FIRST_NAME_LENGTH: Final = 10
_LIGATURES: Final = str.maketrans({"Œ": "OE", "œ": "OE", "Æ": "AE", "æ": "AE", "ß": "SS", "ẞ": "SS"})


class NirError(ValueError):
    """A number that is not a NIR or an INS-C. `rule` is `format` or `key`; the number is never repeated."""

    def __init__(self, rule: str, description: str) -> None:
        """Keep the rule; the message is the description."""
        super().__init__(description)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Nir:
    """A NIR whose key is right: its 13 characters and the key (1 to 97)."""

    number: str
    key: int

    def __str__(self) -> str:
        """Give the 15 characters of the INS."""
        return f"{self.number}{self.key:02d}"

    def __repr__(self) -> str:
        """Hide the number: a repr ends up in logs."""
        return "Nir(…)"


def nir_key(number: str) -> int:
    """Give the key of a NIR's 13 characters: 97 − (N mod 97), 2A and 2B counted as 19 and 18.

    Raises NirError (rule `format`).
    """
    if not _NIR.fullmatch(number):
        raise NirError("format", "a NIR has 13 characters: sex, year, month, place, order")
    department = number[5:7]
    digits = number[:5] + _CORSICA.get(department, department) + number[7:]
    return _MODULUS - int(digits) % _MODULUS


def parse_nir(text: str) -> Nir:
    """Read a NIR with its key, 15 characters without spaces. Raises NirError (rule `format` or `key`)."""
    number, key = text[:_NIR_LENGTH], text[_NIR_LENGTH:]
    if not _KEY.fullmatch(key):
        raise NirError("format", "a NIR is written with 13 characters and a key of 2 digits")
    expected = nir_key(number)
    if int(key) != expected:
        raise NirError("key", "the key does not fit the NIR")
    return Nir(number, expected)


def insc_key(number: int) -> int:
    """Give the key of an INS-C: 97 − (n mod 97)."""
    return _MODULUS - number % _MODULUS


def insc_first_name(first_name: str) -> str:
    """Give the first name as the INS-C counts it: capitals A to Z alone, cut or padded with spaces to ten."""
    decomposed = unicodedata.normalize("NFD", first_name.translate(_LIGATURES).upper())
    letters = "".join(letter for letter in decomposed if "A" <= letter <= "Z")
    return letters[:_FIRST_NAME_LENGTH].ljust(_FIRST_NAME_LENGTH)


def compute_insc(first_name: str, birth_yymmdd: str, nir_number: str) -> str:
    """Compute the INS-C of 2009: 20 digits and a key of 2.

    The seed is the first name, the birth date YYMMDD (00 where a part is unknown) and the 13 characters of the NIR; the
    number is the first 8 bytes of its SHA-256, big-endian. Raises NirError (rule `format`).
    """
    if not _YYMMDD.fullmatch(birth_yymmdd):
        raise NirError("format", "a birth date is YYMMDD")
    if not _NIR.fullmatch(nir_number):
        raise NirError("format", "a NIR has 13 characters: sex, year, month, place, order")
    seed = insc_first_name(first_name) + birth_yymmdd + nir_number
    number = int.from_bytes(hashlib.sha256(seed.encode("ascii")).digest()[:8])
    return f"{number:020d}{insc_key(number):02d}"


def check_insc(text: str) -> None:
    """Check the form and the key of an INS-C of 22 digits. Raises NirError (rule `format` or `key`)."""
    if not _INSC.fullmatch(text):
        raise NirError("format", "an INS-C has 20 digits and a key of 2")
    if int(text[20:]) != insc_key(int(text[:20])):
        raise NirError("key", "the key does not fit the INS-C")
