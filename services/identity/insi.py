"""The national identity service (INSi): the port through which an INS is looked up and verified, and a simulator.

The port has the service's two operations and its outcomes. What an answer does to a person is here too; who may ask is
the contract's business. In production a client of the real service (mutual TLS with the structure's certificate)
implements `NationalIdentityService`; the simulator answers from a file, and a production process refuses to start with
one.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.changes import Changes, change_of, told
from services.identity.civil_identity import PatientIdentifier, Traits, normalise_name
from services.identity.nir import INS_OIDS, NirError, parse_nir
from services.identity.people import HeldPerson, own, refuse_merged, with_identifier
from services.identity.records import open_person, write_person
from services.identity.registration_rules import RegisteredPerson
from services.identity.status_rules import RETRIEVES
from services.identity.store import people as store
from services.runtime.context import Call
from services.runtime.errors import DmpError, unavailable
from services.runtime.outbox import OutboxRow
from services.runtime.postgres import Connection

_SEXES: Final = {"F": pb.SEX_FEMALE, "M": pb.SEX_MALE}
_FULL_DATE: Final = 10
_COLUMNS: Final = ("system", "nir", "birth_name", "given_names", "sex", "birth_date", "birth_place")


@dataclass(frozen=True, slots=True, repr=False)
class NationalIdentity:
    """An identity as the national service knows it."""

    ins: PatientIdentifier
    birth_name: str
    given_names: tuple[str, ...]
    sex: int
    birth_date: str
    birth_place: str

    def __repr__(self) -> str:
        return "NationalIdentity(…)"


@dataclass(frozen=True, slots=True)
class InsiAnswer:
    """What a search found; `identity` with INSI_OUTCOME_FOUND alone."""

    outcome: pb.InsiOutcome.ValueType
    identity: NationalIdentity | None = None


class NationalIdentityService(Protocol):
    """The national service. Both operations raise DmpError DEPENDENCY_UNAVAILABLE when it cannot be reached."""

    async def search(self, traits: Traits) -> InsiAnswer:
        """By birth name, one given name, sex, birth date, and the birth place where it is known."""
        ...

    async def verify(self, ins: PatientIdentifier, traits: Traits) -> bool:
        """Whether the number and the traits are those of one identity."""
        ...


class NoNationalService:
    """Where none is set up: every question is unavailable."""

    async def search(self, traits: Traits) -> InsiAnswer:
        """Never answers."""
        raise unavailable("insi")

    async def verify(self, ins: PatientIdentifier, traits: Traits) -> bool:
        """Never answers."""
        raise unavailable("insi")


class SimulatedInsi:
    """The national service as it answers, over identities of our own."""

    def __init__(self, identities: Iterable[NationalIdentity]) -> None:
        self._by_number: dict[PatientIdentifier, NationalIdentity] = {}
        self._by_birth: dict[tuple[str, str, int], list[NationalIdentity]] = defaultdict(list)
        for identity in identities:
            self._by_number[identity.ins] = identity
            self._by_birth[_birth(identity.birth_name, identity.birth_date, identity.sex)].append(identity)

    @classmethod
    def from_file(cls, path: Path) -> SimulatedInsi:
        """A CSV file with the columns system, nir, birth_name, given_names, sex, birth_date, birth_place.

        ValueError naming the line that is wrong.
        """
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            if tuple(reader.fieldnames or ()) != _COLUMNS:
                raise ValueError(f"{path}: the columns are {', '.join(_COLUMNS)}")
            return cls([_identity(row, f"{path}:{number}") for number, row in enumerate(reader, 2)])

    async def search(self, traits: Traits) -> InsiAnswer:
        """Found, not found, or several, as the service's codes 00, 01, 02."""
        known = self._by_birth[_birth(traits.birth_name, traits.birth_date, traits.sex)]
        found = [identity for identity in known if _fits(identity, traits)]
        if len(found) == 1:
            return InsiAnswer(pb.INSI_OUTCOME_FOUND, found[0])
        return InsiAnswer(pb.INSI_OUTCOME_SEVERAL if found else pb.INSI_OUTCOME_NOT_FOUND)

    async def verify(self, ins: PatientIdentifier, traits: Traits) -> bool:
        """Number and traits of one identity."""
        identity = self._by_number.get(ins)
        return (
            identity is not None
            and _birth(identity.birth_name, identity.birth_date, identity.sex)
            == _birth(traits.birth_name, traits.birth_date, traits.sex)
            and _fits(identity, traits)
        )


class InsRetrieval:
    """Asks the national service about people, and applies its answers."""

    def __init__(self, changes: Changes, service: NationalIdentityService, rematch: Callable[[], None]) -> None:
        self._changes = changes
        self._service = service
        self._rematch = rematch

    async def retrieve(self, call: Call, request: pb.RetrieveInsRequest) -> pb.RetrieveInsResponse:
        """Search by traits. PERSON_NOT_FOUND, PERSON_MERGED, PERSON_CONFLICT (the INS is another's), CONCURRENT_CHANGE,
        DEPENDENCY_UNAVAILABLE. A doubtful or fictitious identity is never sent."""
        if remembered := await self._changes.remembered(call, request, pb.RetrieveInsResponse):
            return remembered
        before = await self._known(call.health_id)
        if before.doubtful or before.fictitious:
            raise DmpError(reasons.ERROR_REASON_STATUS_TRANSITION)
        answer = await self._service.search(before.traits)
        now = self._changes.clock()

        async def work(conn: Connection) -> tuple[int, pb.RetrieveInsResponse, Sequence[OutboxRow]]:
            held = await HeldPerson.hold(conn, self._changes.keys, self._changes.digests, call.health_id)
            await refuse_merged(conn, call.health_id)
            old = held.person
            if old.traits != before.traits or old.doubtful or old.fictitious:
                raise DmpError(reasons.ERROR_REASON_CONCURRENT_CHANGE)
            changes: Sequence[tuple[str, str]] = (("insi", pb.InsiOutcome.Name(answer.outcome)),)
            if answer.identity is None:
                return _retrieved(call, answer, old, changes)
            ins, status = answer.identity.ins, RETRIEVES[old.status]
            if ins in old.identifiers and status == old.status:
                return _retrieved(call, answer, old, changes)
            new = with_identifier(old, ins, now) if ins not in old.identifiers else old
            await own(conn, self._changes.digests, [ins], call.health_id)
            change = change_of(call, pb.PERSON_CHANGE_KIND_INSI, "", now)
            new = await held.write(replace(new, status=status), change, now)
            return _retrieved(call, answer, new, (*changes, ("status", _word(new.status))))

        return await self._changes.make(call, request, pb.RetrieveInsResponse, work)

    async def verify(self, call: Call, request: pb.VerifyInsRequest) -> pb.VerifyInsResponse:
        """Number and traits. PERSON_NOT_FOUND, PERSON_MERGED, IDENTIFIER_NOT_HELD (no INS), CONCURRENT_CHANGE,
        DEPENDENCY_UNAVAILABLE."""
        if remembered := await self._changes.remembered(call, request, pb.VerifyInsResponse):
            return remembered
        before = await self._known(call.health_id)
        ins = next((known for known in before.identifiers if known.system in INS_OIDS), None)
        if ins is None:
            raise DmpError(reasons.ERROR_REASON_IDENTIFIER_NOT_HELD)
        verified = await self._service.verify(ins, before.traits)
        now = self._changes.clock()

        async def work(conn: Connection) -> tuple[int, pb.VerifyInsResponse, Sequence[OutboxRow]]:
            held = await HeldPerson.hold(conn, self._changes.keys, self._changes.digests, call.health_id)
            await refuse_merged(conn, call.health_id)
            person = held.person
            if person.traits != before.traits or ins not in person.identifiers:
                raise DmpError(reasons.ERROR_REASON_CONCURRENT_CHANGE)
            changes = [("insi", "verified" if verified else "not verified")]
            if not verified and not (person.doubtful and person.status == pb.IDENTITY_STATUS_PROVISIONAL):
                change = change_of(call, pb.PERSON_CHANGE_KIND_INSI, "", now)
                fallen = replace(person, status=pb.IDENTITY_STATUS_PROVISIONAL, doubtful=True)
                person = await held.write(fallen, change, now)
                changes.append(("status", _word(person.status)))
            answer = pb.VerifyInsResponse(verified=verified, person=write_person(person))
            return call.health_id, answer, [told(call, call.health_id, changes)]

        return await self._changes.make(call, request, pb.VerifyInsResponse, work)

    async def _known(self, health_id: int) -> RegisteredPerson:
        async with self._changes.pool.acquire() as conn:
            row = (await store.people(conn, [health_id])).get(health_id)
            if row is None:
                raise DmpError(reasons.ERROR_REASON_PERSON_NOT_FOUND)
            return open_person(row, await self._changes.keys.for_read(conn, [health_id]))


def _retrieved(
    call: Call, answer: InsiAnswer, person: RegisteredPerson, changes: Sequence[tuple[str, str]]
) -> tuple[int, pb.RetrieveInsResponse, Sequence[OutboxRow]]:
    response = pb.RetrieveInsResponse(outcome=answer.outcome, person=write_person(person))
    return person.health_id, response, [told(call, person.health_id, changes)]


def _word(status: int) -> str:
    return pb.IdentityStatus.Name(status)  # type: ignore[arg-type]


def _birth(name: str, birth_date: str, sex: int) -> tuple[str, str, int]:
    return normalise_name(name), birth_date, sex


def _fits(identity: NationalIdentity, traits: Traits) -> bool:
    given = {normalise_name(name) for name in identity.given_names}
    place = traits.birth_place not in ("", "99999")
    return (
        len(traits.birth_date) == _FULL_DATE
        and normalise_name(traits.first_birth_given_name) in given
        and (not place or identity.birth_place == traits.birth_place)
    )


def _identity(row: dict[str, str], where: str) -> NationalIdentity:
    try:
        number = str(parse_nir(row["nir"]))
        sex = _SEXES[row["sex"]]
    except (NirError, KeyError):
        raise ValueError(f"{where}: not an identity") from None
    if row["system"] not in INS_OIDS:
        raise ValueError(f"{where}: not a system of INS numbers")
    return NationalIdentity(
        PatientIdentifier(row["system"], number),
        row["birth_name"],
        tuple(row["given_names"].split()),
        sex,
        row["birth_date"],
        row["birth_place"],
    )
