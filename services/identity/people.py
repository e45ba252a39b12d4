"""Changing a person: traits, status, attributes, contact, identifiers. Each change is a new version; the old one stays.

Whoever changes traits, or gives an identifier, meets the registrations of the same person on the digest of the traits,
as they meet each other; then the person's row is held. Blocks follow the traits in the same commit.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.coding_pb2 import Identifier
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.blocking import blocks
from services.identity.changes import Changes, change_of, told
from services.identity.civil_identity import (
    PatientIdentifier,
    Traits,
    read_contact,
    read_identifier,
    read_traits,
    strict_traits,
)
from services.identity.digests import Digests
from services.identity.domains import check_own
from services.identity.nir import INS_OIDS
from services.identity.records import open_person, seal_person, write_person
from services.identity.registration_batch import held_now
from services.identity.registration_rules import RegisteredPerson, RegistrationRefused, refuse_real_numbers
from services.identity.status_rules import check_status, check_transition
from services.identity.store import links as link_store
from services.identity.store import people as store
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError, FieldViolation, invalid
from services.runtime.identifiers import is_fictitious, person_name
from services.runtime.outbox import OutboxRow
from services.runtime.postgres import Connection
from services.runtime.sealing import DossierKey

Work = tuple[RegisteredPerson, Sequence[tuple[str, str]]]
Answered = TypeVar("Answered", pb.AddIdentifierResponse, pb.RetireIdentifierResponse)


class HeldPerson:
    """A person held for a change, until the transaction ends."""

    def __init__(self, conn: Connection, digests: Digests, row: store.SealedPerson, key: DossierKey) -> None:
        self._conn = conn
        self._digests = digests
        self._row = row
        self.key = key
        self.person = open_person(row, {row.health_id: key})

    @classmethod
    async def hold(cls, conn: Connection, keys: DossierKeys, digests: Digests, health_id: int) -> HeldPerson:
        """Holds a person. PERSON_NOT_FOUND, or CONTENT_CORRUPTED when the record cannot be opened."""
        row = await store.lock_person(conn, health_id)
        if row is None:
            raise DmpError(reasons.ERROR_REASON_PERSON_NOT_FOUND)
        return cls(conn, digests, row, (await keys.for_write(conn, [health_id]))[health_id])

    async def write(self, new: RegisteredPerson, change: pb.PersonChange, at: datetime) -> RegisteredPerson:
        """Writes the next version, and moves the person to the blocks of its traits."""
        old = self.person
        new = replace(new, version=old.version + 1, updated_at=at, change=change)
        await store.write_version(self._conn, self._row, seal_person(new, self.key), at)
        before, after = blocks(old.traits, old.contact), blocks(new.traits, new.contact)
        if gone := before - after:
            await store.delete_blocks(self._conn, self._digests.blocks_all(gone), old.health_id)
        if fresh := after - before:
            numbers = self._digests.blocks_all(fresh)
            await store.insert_blocks(self._conn, numbers, [old.health_id] * len(numbers))
            await store.rematch_later(self._conn, [old.health_id])
        self.person = new
        return new


class PersonChanges:
    """Changes people. `rematch` is kicked when traits have changed."""

    def __init__(self, changes: Changes, rematch: Callable[[], None]) -> None:
        self._changes = changes
        self._digests = changes.digests
        self._rematch = rematch

    async def update(self, call: Call, request: pb.UpdatePersonRequest) -> pb.UpdatePersonResponse:
        """TD1.3. Raises PERSON_NOT_FOUND, CONCURRENT_CHANGE, INVALID_FIELD, STATUS_TRANSITION; for identifiers what
        `add_identifier` raises, and PERSON_CONFLICT for another INS than the one in force.
        """
        now = self._changes.clock()
        traits = read_traits(request.traits, now, "traits") if request.HasField("traits") else None
        added = _read_all(request.added_identifiers, "added_identifiers")
        refuse_real_numbers(added, "added_identifiers", fictitious=is_fictitious(call.health_id))
        meeting = list(self._digests.traits_all(traits)) if traits is not None else []

        async def work(conn: Connection) -> tuple[int, pb.UpdatePersonResponse, Sequence[OutboxRow]]:
            if added:
                check_own(call, added, await store.domains(conn), "added_identifiers")
            if meeting:
                await store.meet(conn, meeting, now)
            held = await HeldPerson.hold(conn, self._changes.keys, self._digests, call.health_id)
            await refuse_merged(conn, call.health_id)
            if request.expected_version not in (0, held.person.version):
                raise DmpError(reasons.ERROR_REASON_CONCURRENT_CHANGE)
            fresh = [one for one in added if one not in held.person.identifiers]
            _refuse_other_ins(held.person, fresh, "added_identifiers")
            new, changes = _updated(await self._with(conn, held.person, fresh, now), request, traits)
            changes = (*changes, *_told_of(fresh))
            if changes:
                change = change_of(call, pb.PERSON_CHANGE_KIND_UPDATED, request.reason, now)
                new = await held.write(new, change, now)
            if meeting:
                await store.part(conn, meeting)
            response = pb.UpdatePersonResponse(person=write_person(new))
            return call.health_id, response, [told(call, call.health_id, changes)]

        response = await self._changes.make(call, request, pb.UpdatePersonResponse, work)
        self._rematch()
        return response

    async def _with(
        self, conn: Connection, person: RegisteredPerson, fresh: Sequence[PatientIdentifier], now: datetime
    ) -> RegisteredPerson:
        """The person with identifiers that are its own from now on."""
        if fresh:
            await own(conn, self._digests, fresh, person.health_id)
        return functools.reduce(lambda known, one: with_identifier(known, one, now), fresh, person)

    async def add_identifier(self, call: Call, request: pb.AddIdentifierRequest) -> pb.AddIdentifierResponse:
        """ITI-104. Raises PERSON_NOT_FOUND, PERSON_CONFLICT, UNKNOWN_DOMAIN, FOREIGN_DOMAIN, INVALID_FIELD."""
        now = self._changes.clock()
        identifier = read_identifier(request.identifier, "identifier.value")
        further = _read_all(request.further_identifiers, "further_identifiers")
        refuse_real_numbers([identifier, *further], "identifier", fictitious=is_fictitious(call.health_id))

        async def work(conn: Connection) -> tuple[int, pb.AddIdentifierResponse, Sequence[OutboxRow]]:
            domains = await store.domains(conn)
            check_own(call, [identifier], domains, "identifier.system")
            check_own(call, further, domains, "further_identifiers")
            held = await HeldPerson.hold(conn, self._changes.keys, self._digests, call.health_id)
            await refuse_merged(conn, call.health_id)
            old = held.person
            change = change_of(call, pb.PERSON_CHANGE_KIND_IDENTIFIERS, request.reason, now)
            fresh = [one for one in dict.fromkeys((identifier, *further)) if one not in old.identifiers]
            if not fresh:
                return _answer(pb.AddIdentifierResponse, old, call, ())
            if not request.replaces_ins:
                _refuse_other_ins(old, fresh, "identifier")
            new = await held.write(await self._with(conn, old, fresh, now), change, now)
            return _answer(pb.AddIdentifierResponse, new, call, _told_of(fresh))

        return await self._changes.make(call, request, pb.AddIdentifierResponse, work)

    async def retire_identifier(self, call: Call, request: pb.RetireIdentifierRequest) -> pb.RetireIdentifierResponse:
        """ITI-104. Raises IDENTIFIER_NOT_HELD, PERSON_NOT_FOUND, UNKNOWN_DOMAIN, FOREIGN_DOMAIN, INVALID_FIELD.

        Without an INS in force a retrieved identity becomes provisional, a qualified one validated.
        """
        now = self._changes.clock()
        identifier = read_identifier(request.identifier, "identifier.value")

        async def work(conn: Connection) -> tuple[int, pb.RetireIdentifierResponse, Sequence[OutboxRow]]:
            check_own(call, [identifier], await store.domains(conn), "identifier.system")
            held = await HeldPerson.hold(conn, self._changes.keys, self._digests, call.health_id)
            if identifier not in held.person.identifiers:
                raise DmpError(reasons.ERROR_REASON_IDENTIFIER_NOT_HELD)
            if not identifier.is_ins:
                await store.delete_identifiers(conn, self._digests.identifier_all(identifier), call.health_id)
            change = change_of(call, pb.PERSON_CHANGE_KIND_IDENTIFIERS, request.reason, now)
            new = await held.write(without_identifiers(held.person, (identifier,), now), change, now)
            return _answer(pb.RetireIdentifierResponse, new, call, (("identifiers_ended", "1"),))

        return await self._changes.make(call, request, pb.RetireIdentifierResponse, work)


async def own(conn: Connection, digests: Digests, identifiers: Sequence[PatientIdentifier], health_id: int) -> None:
    """Makes identifiers the person's; RegistrationRefused (PERSON_CONFLICT) when one is somebody else's."""
    live = sorted({digest for identifier in identifiers for digest in digests.identifier_all(identifier)})
    await store.add_identifiers(conn, live, [health_id] * len(live))
    owners = await store.owners(conn, live)
    for owner in owners.values():
        if owner != health_id:
            raise RegistrationRefused(reasons.ERROR_REASON_PERSON_CONFLICT, owner)


async def refuse_merged(conn: Connection, health_id: int, field: str = "name") -> None:
    """PERSON_MERGED for who was merged, naming `field`, with where it went: the survivor is the one to change."""
    survivor = (await link_store.roots(conn, [health_id])).get(health_id)
    if survivor is not None:
        merged = FieldViolation(field, "person.merged", "this person was merged into another one")
        metadata = {"merged_into": person_name(survivor)}
        raise DmpError(reasons.ERROR_REASON_PERSON_MERGED, fields=(merged,), metadata=metadata)


def with_identifier(person: RegisteredPerson, identifier: PatientIdentifier, now: datetime) -> RegisteredPerson:
    """The person with one more; a national number takes the place of the former one of its system, which is old."""
    replaced = tuple(known for known in person.identifiers if identifier.is_ins and known.system == identifier.system)
    without = _ended(person, replaced, now)
    held = tuple(one for one in without.held if one.identifier != identifier or one.until is None)
    return replace(without, identifiers=(*without.identifiers, identifier), held=(*held, *held_now([identifier], now)))


def without_identifiers(person: RegisteredPerson, gone: Sequence[PatientIdentifier], now: datetime) -> RegisteredPerson:
    """The person without these; what the status can no longer be without an INS, it is not."""
    ended = _ended(person, gone, now)
    if ended.has_ins or not person.has_ins:
        return ended
    fallen = {
        pb.IDENTITY_STATUS_RETRIEVED: pb.IDENTITY_STATUS_PROVISIONAL,
        pb.IDENTITY_STATUS_QUALIFIED: pb.IDENTITY_STATUS_VALIDATED,
    }
    return replace(ended, status=fallen.get(person.status, person.status))  # type: ignore[call-overload]


def _ended(person: RegisteredPerson, gone: Sequence[PatientIdentifier], now: datetime) -> RegisteredPerson:
    """`held` of an identifier from before there was a history begins with the person."""
    known = {one.identifier for one in person.held}
    held = [
        *person.held,
        *(replace(one, since=person.created_at) for one in held_now(gone, now) if one.identifier not in known),
    ]
    return replace(
        person,
        identifiers=tuple(each for each in person.identifiers if each not in gone),
        held=tuple(replace(one, until=now) if one.identifier in gone and one.until is None else one for one in held),
    )


def _updated(old: RegisteredPerson, request: pb.UpdatePersonRequest, traits: Traits | None) -> Work:
    """The person as asked for, and what the trail is told. Raises INVALID_FIELD or STATUS_TRANSITION."""
    new = replace(
        old,
        traits=traits or old.traits,
        contact=read_contact(request.contact, "contact") if request.HasField("contact") else old.contact,
        status=request.status or old.status,
        doubtful=request.doubtful if request.HasField("doubtful") else old.doubtful,
        fictitious=request.fictitious if request.HasField("fictitious") else old.fictitious,
        homonym=request.homonym if request.HasField("homonym") else old.homonym,
    )
    if is_fictitious(old.health_id) and not new.fictitious:
        raise invalid("fictitious", "health_id", "who was registered as invented stays so under this health id")
    if (new.doubtful or new.fictitious) and not request.status:
        new = replace(new, status=pb.IDENTITY_STATUS_PROVISIONAL)
    retrieved = old.status in (pb.IDENTITY_STATUS_RETRIEVED, pb.IDENTITY_STATUS_QUALIFIED)
    if retrieved and strict_traits(new.traits) != strict_traits(old.traits) and not request.status:
        new = replace(new, status=pb.IDENTITY_STATUS_PROVISIONAL)  # the national service's traits were others
    check_transition(old.status, new.status)
    check_status(
        new.status,
        doubtful=new.doubtful,
        fictitious=new.fictitious,
        has_ins=any(known.system in INS_OIDS for known in new.identifiers),
        whole_birth_date=bool(new.traits.birth_date),
        field="status",
    )
    changes = []
    if new.traits != old.traits:
        changes.append(("traits", "changed"))
    if new.contact != old.contact:
        changes.append(("contact", "changed"))
    if new.status != old.status:
        changes.append(("status", pb.IdentityStatus.Name(new.status)))  # type: ignore[arg-type]
    changes += [
        (attribute, str(getattr(new, attribute)).lower())
        for attribute in ("doubtful", "fictitious", "homonym")
        if getattr(new, attribute) != getattr(old, attribute)
    ]
    return new, changes


def _read_all(given: Sequence[Identifier], field: str) -> list[PatientIdentifier]:
    """Each once, in order. Raises INVALID_FIELD."""
    return [*dict.fromkeys(read_identifier(one, f"{field}[{number}].value") for number, one in enumerate(given))]


def _refuse_other_ins(person: RegisteredPerson, fresh: Sequence[PatientIdentifier], field: str) -> None:
    """PERSON_CONFLICT when an INS would take the place of another one, be it among those that come (domain: that is a
    human's decision)."""
    in_force = Counter(one.system for one in (*person.identifiers, *fresh) if one.is_ins)
    if any(one.is_ins and in_force[one.system] > 1 for one in fresh):
        other = FieldViolation(field, "ins.other", "another INS of this system is in force")
        raise DmpError(reasons.ERROR_REASON_PERSON_CONFLICT, fields=(other,))


def _told_of(fresh: Sequence[PatientIdentifier]) -> list[tuple[str, str]]:
    return [("identifiers_added", str(len(fresh)))] if fresh else []


def _answer(
    answer: type[Answered], person: RegisteredPerson, call: Call, changes: Sequence[tuple[str, str]]
) -> tuple[int, Answered, Sequence[OutboxRow]]:
    return person.health_id, answer(person=write_person(person)), [told(call, person.health_id, changes)]
