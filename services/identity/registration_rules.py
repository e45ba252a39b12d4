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
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.civil_identity import Contact, PatientIdentifier, Traits, are_certain, same_traits
from services.identity.nir import INS_OIDS, NIA_OID, NIR_OID
from services.runtime.errors import DmpError, invalid


@dataclass(frozen=True, slots=True)
class Held:
    """A national number that a person has or had: since when, and until when, None while it is in force."""

    identifier: PatientIdentifier
    since: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class RegisteredPerson:
    """Someone registered. `status` is a dmp.identity.v1.IdentityStatus; `identifiers` are those in use, `held` every
    national one there ever was; `change` is what made this version, None in records of old."""

    health_id: int
    traits: Traits
    identifiers: tuple[PatientIdentifier, ...]
    status: int
    created_at: datetime
    version: int = 1
    doubtful: bool = False
    fictitious: bool = False
    homonym: bool = False
    contact: Contact | None = None
    held: tuple[Held, ...] = ()
    updated_at: datetime | None = None
    change: pb.PersonChange | None = None

    @property
    def has_ins(self) -> bool:
        """Whether an INS (not the INS-C computed from it) is in use."""
        return any(known.system in INS_OIDS for known in self.identifiers)


@dataclass(frozen=True, slots=True)
class Wish:
    """Someone to register."""

    traits: Traits
    identifiers: tuple[PatientIdentifier, ...]
    status: int
    doubtful: bool = False
    fictitious: bool = False
    homonym: bool = False
    contact: Contact | None = None
    accept_possible_duplicate: bool = False


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
    if other_ins or len(same_strict_traits) > 1 or not are_certain(wish.traits) or _in_doubt(wish, someone):
        if wish.accept_possible_duplicate:
            return None
        raise RegistrationRefused(reasons.ERROR_REASON_PERSON_POSSIBLE_DUPLICATE, someone.health_id)
    return someone


def refuse_real_numbers(identifiers: Sequence[PatientIdentifier], field: str, *, fictitious: bool) -> None:
    """INVALID_FIELD for an invented person with a number of the real register: it would be in the way of whose it is,
    and whether it is somebody's would be told to software on trial."""
    if fictitious and any(one.system in (NIR_OID, NIA_OID) for one in identifiers):
        raise invalid(field, "identifier.fictitious", "an invented person has test or demonstration numbers only")


def _in_doubt(wish: Wish, person: RegisteredPerson) -> bool:
    """A doubtful or fictitious identity is nobody for certain."""
    return wish.doubtful or wish.fictitious or person.doubtful or person.fictitious


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
