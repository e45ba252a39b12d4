"""Blocking: by which keys two records of one person are likely to meet. Pure; the keys are digested by `digests`.

Every key begins with what most records have right, so that a block stays small however many people there are:

| key | what it holds | what it forgives |
|---|---|---|
| exact | the five strict traits | nothing; those who share it are the same, or a human decides |
| given | birth date, first three letters of a family name, first two of the given name | errors further on |
| family | birth date, family name | another given name, errors in its beginning |
| place | birth date, birth place, initial of the first given name | another family name, errors in its beginning |
| year | birth name, first given name, year of birth | errors in day and month |
| name | birth date, first three letters of a family name | for searches by people (domain §1) alone |
| home | postcode, family name | an unknown birth date; for emergency call centres only |

Family names are birth and used name, given names the first and the used one. Of sixty million people two thousand share
a birth date, and forty a block of date and three letters: to open them all would make each registration slower as the
register grows. Those among them whose given name and whole family name are both others reach no weight that counts
(`matching`).

`sought_blocks` are those of a record, by each of its given names, and of what it would be with day and month, or the
names, swapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from services.identity.civil_identity import (
    Contact,
    Traits,
    name_prefixes,
    normalise_name,
    strict_traits,
    swapped_birth_date,
)

Block = tuple[str, ...]

PREFIX: Final = 3
"""Letters of a family name that a search needs (domain §1)."""
_START: Final = 2
_FULL_DATE: Final = 10
_YEAR: Final = 4
_UNKNOWN_PLACES: Final = frozenset({"", "99999"})


def exact_block(traits: Traits) -> Block:
    """The one that people of the very same strict traits share."""
    return ("exact", *map(str, strict_traits(traits)))


def blocks(traits: Traits, contact: Contact | None = None) -> frozenset[Block]:
    """By which a person of these traits is found."""
    found: set[Block] = {exact_block(traits)}
    found.update(name_block(traits.birth_date, prefix) for prefix in name_prefixes(traits) if traits.birth_date)
    first = normalise_name(traits.first_birth_given_name)
    if len(traits.birth_date) == _FULL_DATE and traits.birth_place not in _UNKNOWN_PLACES:
        found.add(("place", traits.birth_date, traits.birth_place, first[:1]))
    if traits.birth_date:
        found.update(_by_names(traits, traits.birth_date, (traits.first_birth_given_name, traits.used_given_name)))
        found.add(("year", normalise_name(traits.birth_name), first, traits.birth_date[:_YEAR]))
    if contact is not None and contact.postcode:
        found.update(home_block(contact.postcode, name) for name in (traits.birth_name, traits.used_name) if name)
    return frozenset(found)


def sought_blocks(traits: Traits) -> frozenset[Block]:
    """In which those are that may be the person of these traits."""
    given = (*traits.birth_given_names.split(), traits.first_birth_given_name, traits.used_given_name)
    found = {block for block in blocks(traits) if block[0] != "name"}
    for birth_date in filter(None, (traits.birth_date, swapped_birth_date(traits.birth_date))):
        found.update(_by_names(traits, birth_date, given))
    if traits.birth_date:  # given name and family name in each other's place
        found.add(_given_block(traits.birth_date, traits.first_birth_given_name, traits.birth_name))
    return frozenset(found)


def name_block(birth_date: str, family_name: str) -> Block:
    """Those of a birth date whose family name begins like this one."""
    return ("name", birth_date, _beginning(family_name, PREFIX))


def home_block(postcode: str, family_name: str) -> Block:
    """Those of a family name who live there."""
    return ("home", postcode.replace(" ", ""), normalise_name(family_name))


def _by_names(traits: Traits, birth_date: str, given_names: Iterable[str]) -> Iterator[Block]:
    """Those of a birth date, by a family name with a given name, and by a family name alone."""
    given = tuple(filter(None, given_names))
    for family in filter(None, (traits.birth_name, traits.used_name)):
        yield ("family", birth_date, normalise_name(family).replace(" ", ""))
        yield from (_given_block(birth_date, family, name) for name in given)


def _given_block(birth_date: str, family_name: str, given_name: str) -> Block:
    return ("given", birth_date, _beginning(family_name, PREFIX), _beginning(given_name, _START))


def _beginning(name: str, letters: int) -> str:
    return normalise_name(name).replace(" ", "")[:letters]
