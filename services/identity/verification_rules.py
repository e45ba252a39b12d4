"""Is the patient whom a document names the person of the dossier? Pure rules.

The national identifiers decide first: one that is another person's is a mismatch; one that is this person's is a
match, unless the birth date or the sex stated contradict it; one that nobody has is a mismatch if this person has
another in the same system. Then a local identifier that is known. Then, without any known identifier, the traits:
a family name, a given name and the birth date must all be this person's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dmp.identity.v1 import identity_pb2 as pb
from services.identity.civil_identity import PatientIdentifier, Traits, normalise_name

_DATE: Final = re.compile(r"[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?")
_FULL_DATE: Final = 10


@dataclass(frozen=True, slots=True, repr=False)
class Claim:
    """What a document says of its patient. `invented` are the national systems of numbers that can be nobody's."""

    identifiers: tuple[PatientIdentifier, ...]
    invented: frozenset[str]
    family_names: Sequence[str]
    given_names: Sequence[str]
    sex: int
    birth_date: str

    def __repr__(self) -> str:
        return "Claim(…)"


@dataclass(frozen=True, slots=True, repr=False)
class KnownPerson:
    """The dossier's person, as far as verification goes: `identifiers` are of all who are one person with it."""

    health_id: int
    traits: Traits
    identifiers: Sequence[PatientIdentifier]

    def __repr__(self) -> str:
        return "KnownPerson(…)"


def is_birth_date(text: str) -> bool:
    """Whether a stated birth date has one of the forms of the contract; empty is not stated."""
    return not text or _DATE.fullmatch(text) is not None


def is_about(claim: Claim, person: KnownPerson, owners: Mapping[PatientIdentifier, int]) -> bool:
    """Whether the claim is about the person. `owners` holds whose identifiers the claim's are, as far as known."""
    if _contradicts(claim, person.traits):
        return False
    own_systems = {identifier.system for identifier in person.identifiers}
    if claim.invented & own_systems:
        return False
    known_national: list[int] = []
    known_local: list[int] = []
    for identifier in claim.identifiers:
        owner = owners.get(identifier)
        if owner is not None:
            (known_national if identifier.is_ins else known_local).append(owner)
        elif identifier.is_ins and identifier.system in own_systems:
            return False
    known = known_national or known_local
    if known:
        return all(owner == person.health_id for owner in known)
    return _same_by_traits(claim, person.traits)


def _contradicts(claim: Claim, traits: Traits) -> bool:
    stated_date, known_date = claim.birth_date, traits.birth_date
    if not (known_date.startswith(stated_date) or stated_date.startswith(known_date)):
        return True  # what is known in part, or not at all, contradicts nothing that goes with it
    stated = (pb.SEX_FEMALE, pb.SEX_MALE)
    return claim.sex in stated and traits.sex in stated and claim.sex != traits.sex


def _same_by_traits(claim: Claim, traits: Traits) -> bool:
    if len(claim.birth_date) != _FULL_DATE or claim.birth_date != traits.birth_date:
        return False
    family = {normalise_name(name) for name in (traits.birth_name, traits.used_name)} - {""}
    given = {
        normalise_name(name)
        for name in (traits.first_birth_given_name, traits.used_given_name, traits.birth_given_names)
    } - {""}
    return not family.isdisjoint(map(normalise_name, claim.family_names)) and not given.isdisjoint(
        map(normalise_name, claim.given_names)
    )
