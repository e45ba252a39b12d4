"""Civil identity as values: traits and identifiers. Parsed at the edge, normalised for comparing, never shown.

Pure. The `repr` of every value here hides what it holds, because a repr ends up in logs; errors name the field and the
rule and never repeat a value.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from dmp.common.v1.coding_pb2 import Identifier as IdentifierMessage
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.nir import INS_OIDS, INSC_OID, NirError, check_insc, nir_key, parse_nir
from services.runtime.errors import DmpError, invalid

_LETTERS: Final = str.maketrans(
    {"Œ": "OE", "Æ": "AE", "ẞ": "SS", "Ø": "O", "Ł": "L", "Đ": "D", "Ð": "D", "Þ": "TH", "Ħ": "H", "Ŧ": "T", "Ŋ": "N"}
)
"""Letters that decompose into no base letter and accent, as they are typed where a keyboard has none of them."""
_ASCII_APART: Final = {number: " " for number in range(128) if not chr(number).isalnum()}
_UNKNOWN_PLACES: Final = frozenset({"", "99999"})
_NIR_WITHOUT_KEY: Final = 13
_OID: Final = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
_MOST: Final = 128
_FULL_DATE: Final = 10
_YEAR: Final = 4
_MONTHS: Final = 12
_FURTHEST_EAST: Final = timedelta(hours=12)


@dataclass(frozen=True, slots=True, repr=False)
class Traits:
    """A person's identity traits as stated; `sex` is a dmp.identity.v1.Sex.

    `birth_date` is YYYY-MM-DD, or as much of it as is known: YYYY-MM, YYYY, or nothing.
    """

    birth_name: str
    birth_given_names: str
    first_birth_given_name: str
    sex: int
    birth_date: str
    birth_place: str
    used_name: str
    used_given_name: str

    def __repr__(self) -> str:
        return "Traits(…)"


@dataclass(frozen=True, slots=True, repr=False)
class Contact:
    """Where a person lives and may be reached."""

    lines: tuple[str, ...] = ()
    postcode: str = ""
    city: str = ""
    phone: str = ""
    email: str = ""

    def __repr__(self) -> str:
        return "Contact(…)"


@dataclass(frozen=True, slots=True, repr=False)
class PatientIdentifier:
    """A normalised value in the domain of an assigning authority."""

    system: str
    value: str

    def __repr__(self) -> str:
        return f"PatientIdentifier({self.system}, …)"

    @property
    def is_ins(self) -> bool:
        """Whether it is national: the number itself (NIR, NIA, test, demo) or the INS-C computed from it."""
        return self.system in INS_OIDS or self.system == INSC_OID


def read_traits(message: pb.Traits, now: datetime, field: str = "person.traits") -> Traits:
    """The traits in a validated message. Raises INVALID_FIELD.

    Names hold a letter and no control character; the birth date is of the calendar and not in the future anywhere in
    France (in Wallis and Futuna a day begins twelve hours before it does in UTC, in which `now` is); the first given
    name is the first of the given names, where those are stated.
    """
    today = (now + _FURTHEST_EAST).date()
    traits = Traits(
        birth_name=_name(message.birth_name, f"{field}.birth_name"),
        birth_given_names=_name(message.birth_given_names, f"{field}.birth_given_names", optional=True),
        first_birth_given_name=_name(message.first_birth_given_name, f"{field}.first_birth_given_name"),
        sex=message.sex,
        birth_date=_birth_date(message.birth_date, today, f"{field}.birth_date"),
        birth_place=message.birth_place,
        used_name=_name(message.used_name, f"{field}.used_name", optional=True),
        used_given_name=_name(message.used_given_name, f"{field}.used_given_name", optional=True),
    )
    all_given, first = normalise_name(traits.birth_given_names), normalise_name(traits.first_birth_given_name)
    if all_given and not f"{all_given} ".startswith(f"{first} "):
        raise invalid(
            f"{field}.first_birth_given_name", "given_name.first", "it is the first of the given names of the birth"
        )
    return traits


def write_traits(traits: Traits) -> pb.Traits:
    """The traits as the contract shows them."""
    return pb.Traits(
        birth_name=traits.birth_name,
        birth_given_names=traits.birth_given_names,
        first_birth_given_name=traits.first_birth_given_name,
        sex=traits.sex,  # type: ignore[arg-type]
        birth_date=traits.birth_date,
        birth_place=traits.birth_place,
        used_name=traits.used_name,
        used_given_name=traits.used_given_name,
    )


def trusted_traits(message: pb.Traits) -> Traits:
    """The traits in a record of ours, which were checked when they came in."""
    return Traits(
        message.birth_name,
        message.birth_given_names,
        message.first_birth_given_name,
        message.sex,
        message.birth_date,
        message.birth_place,
        message.used_name,
        message.used_given_name,
    )


def read_contact(message: pb.Contact, field: str = "person.contact") -> Contact:
    """The contact in a validated message. Raises INVALID_FIELD."""
    for name in ("postcode", "city", "phone", "email"):
        if not getattr(message, name).isprintable():
            raise invalid(f"{field}.{name}", "contact.printable", "a contact has no control characters")
    if not all(line.isprintable() for line in message.lines):
        raise invalid(f"{field}.lines", "contact.printable", "a contact has no control characters")
    return trusted_contact(message)


def trusted_contact(message: pb.Contact) -> Contact:
    """The contact in a record of ours."""
    return Contact(tuple(message.lines), message.postcode, message.city, message.phone, message.email)


def write_contact(contact: Contact) -> pb.Contact:
    """The contact as the contract shows it."""
    return pb.Contact(
        lines=contact.lines, postcode=contact.postcode, city=contact.city, phone=contact.phone, email=contact.email
    )


def read_identifiers(
    messages: Sequence[IdentifierMessage], field: str = "person.identifiers"
) -> tuple[PatientIdentifier, ...]:
    """The identifiers in a validated message, each once. Raises INVALID_FIELD naming the one at fault.

    National numbers come with their key, which must be right; there is one of each national system at most.
    """
    found: dict[PatientIdentifier, None] = {}
    for index, message in enumerate(messages):
        identifier = read_identifier(message, f"{field}[{index}].value")
        if identifier.is_ins and any(other.system == identifier.system and other != identifier for other in found):
            raise invalid(
                f"{field}[{index}].system", "identifier.one_per_system", "a person has one number of a system"
            )
        found[identifier] = None
    return tuple(found)


def sought(system: str, value: str) -> PatientIdentifier | None:
    """An identifier as looked up; None when it can be nobody's. A NIR without its key is completed.

    Raises INVALID_FIELD when it is not an identifier at all.
    """
    if not _OID.fullmatch(system) or len(system) > _MOST:
        raise invalid("system", "identifier.system", "the system is an OID")
    if not 0 < len(value) <= _MOST:
        raise invalid("value", "identifier.value", "a value has 1 to 128 characters")
    value = _compact(system, value)
    try:
        if system in INS_OIDS:
            value = f"{value}{nir_key(value):02d}" if len(value) == _NIR_WITHOUT_KEY else str(parse_nir(value))
        elif system == INSC_OID:
            check_insc(value)
    except NirError:
        return None
    return PatientIdentifier(system, value)


def normalise_name(name: str) -> str:
    """A name for comparing: capitals without accents; hyphens, apostrophes and the like count as one space."""
    if name.isascii():
        return " ".join(name.upper().translate(_ASCII_APART).split())
    decomposed = unicodedata.normalize("NFKD", name).upper().translate(_LETTERS)
    letters = (letter for letter in decomposed if not unicodedata.combining(letter))
    return " ".join("".join(letter if letter.isalnum() else " " for letter in letters).split())


def strict_traits(traits: Traits) -> tuple[str, str, int, str, str]:
    """The five strict traits, normalised: name, first given name, sex, birth date, birth place."""
    place = "" if traits.birth_place in _UNKNOWN_PLACES else traits.birth_place
    first = normalise_name(traits.first_birth_given_name)
    return normalise_name(traits.birth_name), first, traits.sex, traits.birth_date, place


def are_certain(traits: Traits) -> bool:
    """Whether the strict traits are all known, so that two people of the same ones are one."""
    whole = len(traits.birth_date) == _FULL_DATE
    return whole and traits.birth_place not in _UNKNOWN_PLACES and traits.sex in (pb.SEX_FEMALE, pb.SEX_MALE)


def same_traits(one: Traits, other: Traits) -> bool:
    """Whether the strict traits agree; an unknown birth place agrees with any."""
    *ours, our_place = strict_traits(one)
    *theirs, their_place = strict_traits(other)
    return ours == theirs and (our_place == their_place or "" in (our_place, their_place))


def swapped_birth_date(birth_date: str) -> str:
    """The date with day and month in each other's place; empty where that is no other date."""
    year, _, rest = birth_date.partition("-")
    month, _, day = rest.partition("-")
    return f"{year}-{day}-{month}" if day and day != month and int(day) <= _MONTHS else ""


def one_digit_apart(one: str, other: str) -> bool:
    """Whether two whole dates differ in one digit, or by two neighbours in each other's place."""
    ours, theirs = one.replace("-", ""), other.replace("-", "")
    apart = [place for place in range(len(ours)) if ours[place] != theirs[place]]
    if len(apart) == 1:
        return True
    if len(apart) != 2 or apart[1] != apart[0] + 1:
        return False
    first, second = apart
    return ours[first] == theirs[second] and ours[second] == theirs[first]


def name_prefixes(traits: Traits) -> frozenset[str]:
    """The first three letters of each family name, by which people are searched with the birth date (domain §1)."""
    names = (normalise_name(name).replace(" ", "")[:3] for name in (traits.birth_name, traits.used_name))
    return frozenset(filter(None, names))


def read_identifier(message: IdentifierMessage, field: str) -> PatientIdentifier:
    """One identifier; `field` is where its value is. Raises INVALID_FIELD."""
    system, value = message.system, _compact(message.system, message.value)
    try:
        if system in INS_OIDS:
            return PatientIdentifier(system, str(parse_nir(value)))
        if system == INSC_OID:
            check_insc(value)
    except NirError as error:
        raise invalid(field, f"{'insc' if system == INSC_OID else 'nir'}.{error.rule}", str(error)) from None
    if not value or not value.isprintable():
        raise invalid(field, "identifier.printable", "an identifier has printable characters only")
    return PatientIdentifier(system, value)


def _compact(system: str, value: str) -> str:
    """National numbers are often written in groups, Corsica's letters sometimes small; other values are as they are."""
    if system in INS_OIDS or system == INSC_OID:
        return value.replace(" ", "").upper()
    return value.strip()


def _name(name: str, field: str, *, optional: bool = False) -> str:
    stripped = unicodedata.normalize("NFC", name.strip())
    if not stripped:
        if optional:
            return ""
        raise _bad_name(field)
    if not all(letter.isprintable() for letter in stripped):
        raise invalid(field, "name.printable", "a name has no control characters")
    if not any(letter.isalpha() for letter in stripped) or not normalise_name(stripped):
        raise _bad_name(field)
    return stripped


def _bad_name(field: str) -> DmpError:
    return invalid(field, "name.letters", "a name has at least one letter")


def _birth_date(text: str, today: date, field: str) -> str:
    if not text:
        return ""
    try:
        born = date.fromisoformat(text + "-01-01"[len(text) - _YEAR :])
    except ValueError:
        raise invalid(field, "date.calendar", "not a date of the calendar") from None
    if born > today:
        raise invalid(field, "date.past", "a birth date is not in the future")
    return text
