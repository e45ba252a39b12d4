"""Is this person registered already? The rules of registration, pure (domain §1).

Same INS and same traits: the same person. Same INS, other traits: stop. Same traits, another INS: a possible duplicate
(twins exist), for a human to decide. Same traits, and one of the two has no INS: the same person, if every strict trait
is known; if not, a human decides too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dmp.common.v1 import error_reason_pb2 as reasons
from services.identity.civil_identity import PatientIdentifier, Traits, are_certain, same_traits
from services.runtime.errors import DmpError


@dataclass(frozen=True, slots=True)
class RegisteredPerson:
    """Someone registered. `status` is a dmp.identity.v1.IdentityStatus."""

    health_id: int
    traits: Traits
    identifiers: tuple[PatientIdentifier, ...]
    status: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Wish:
    """Someone to register."""

    traits: Traits
    identifiers: tuple[PatientIdentifier, ...]
    status: int


class RegistrationRefused(DmpError):
    """PERSON_CONFLICT or PERSON_POSSIBLE_DUPLICATE; `health_id` is of the person in the way, for the trail alone."""

    def __init__(self, reason: int, health_id: int) -> None:
        super().__init__(reason)
        self.health_id = health_id


def find_registered(
    wish: Wish,
    owners: Mapping[PatientIdentifier, RegisteredPerson],
    same_strict_traits: Sequence[RegisteredPerson],
) -> RegisteredPerson | None:
    """The person whom the wish is about, None for a new one. Raises RegistrationRefused.

    `owners` are the people that have identifiers of the wish; `same_strict_traits` those with the very same traits.
    """
    people = {person.health_id: person for person in owners.values()}
    if len(people) > 1:
        raise RegistrationRefused(reasons.ERROR_REASON_PERSON_CONFLICT, next(iter(people)))
    if people:
        return _owner(wish, next(iter(people.values())))
    if not same_strict_traits:
        return None
    someone = same_strict_traits[0]
    other_ins = any(_ins(wish.identifiers) and _ins(person.identifiers) for person in same_strict_traits)
    if other_ins or len(same_strict_traits) > 1 or not are_certain(wish.traits):
        raise RegistrationRefused(reasons.ERROR_REASON_PERSON_POSSIBLE_DUPLICATE, someone.health_id)
    return someone


def _owner(wish: Wish, person: RegisteredPerson) -> RegisteredPerson:
    if not same_traits(wish.traits, person.traits):
        raise RegistrationRefused(reasons.ERROR_REASON_PERSON_CONFLICT, person.health_id)
    ours, theirs = _ins(wish.identifiers), _ins(person.identifiers)
    if any(theirs.get(system, value) != value for system, value in ours.items()):
        shared = ours.items() & theirs.items()
        reason = reasons.ERROR_REASON_PERSON_CONFLICT if shared else reasons.ERROR_REASON_PERSON_POSSIBLE_DUPLICATE
        raise RegistrationRefused(reason, person.health_id)
    return person


def _ins(identifiers: Sequence[PatientIdentifier]) -> dict[str, str]:
    """The national numbers by system."""
    return {identifier.system: identifier.value for identifier in identifiers if identifier.is_ins}
