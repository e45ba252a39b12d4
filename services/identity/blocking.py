"""Blocking: by which keys two records of one person are likely to meet. Pure; the keys are digested by `digests`.

Every key begins with what most records have right, so that a block stays small however many people there are:

| key | what it holds | what it forgives |
|---|---|---|
| exact | the five strict traits | nothing; those who share it are the same, or a human decides |
| name | birth date, first three letters of a family name (birth, used) | errors further on, other given names |
| place | birth date, birth place, initial of the first given name | another family name, errors in its beginning |
| year | birth name, first given name, year of birth | errors in day and month |
| home | postcode, family name | an unknown birth date; for emergency call centres only |

`sought_blocks` are those of a record and of what it would be with day and month, or the names, swapped.
"""

from __future__ import annotations

from collections.abc import Iterator
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
        found.add(("year", normalise_name(traits.birth_name), first, traits.birth_date[:_YEAR]))
    if contact is not None and contact.postcode:
        found.update(home_block(contact.postcode, name) for name in (traits.birth_name, traits.used_name) if name)
    return frozenset(found)


def sought_blocks(traits: Traits) -> frozenset[Block]:
    """In which those are that may be the person of these traits."""
    found = set(blocks(traits))
    found.update(_swapped(traits))
    return frozenset(found)


def name_block(birth_date: str, family_name: str) -> Block:
    """Those of a birth date whose family name begins like this one."""
    return ("name", birth_date, normalise_name(family_name).replace(" ", "")[:PREFIX])


def home_block(postcode: str, family_name: str) -> Block:
    """Those of a family name who live there."""
    return ("home", postcode.replace(" ", ""), normalise_name(family_name))


def _swapped(traits: Traits) -> Iterator[Block]:
    other_date = swapped_birth_date(traits.birth_date)
    if other_date:
        for prefix in name_prefixes(traits):
            yield name_block(other_date, prefix)
    if traits.birth_date:  # given name and family name in each other's place
        yield name_block(traits.birth_date, traits.first_birth_given_name)
