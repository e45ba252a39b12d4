"""Finding people: by name of a resource, by identifier, by birth date and name, by likeness, across domains.

Never a listing: what is sought is always an identifier or a block, so that the cost of a search is that of the few
people who share it, at any size of the register. People are opened and compared in memory; nothing here decides who may
ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.coding_pb2 import Identifier
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.blocking import PREFIX, Block, exact_block, home_block, name_block, sought_blocks
from services.identity.changes import Clock
from services.identity.civil_identity import (
    Contact,
    PatientIdentifier,
    normalise_name,
    read_contact,
    read_identifiers,
    read_traits,
    sought,
    strict_traits,
)
from services.identity.digests import Digests
from services.identity.domains import check_source, check_target
from services.identity.emergency_rules import fit, grade
from services.identity.matching import WEIGHTS, comparable
from services.identity.nir import NATIONAL_OIDS
from services.identity.records import open_person, write_person
from services.identity.registration_rules import RegisteredPerson, RegistrationRefused, Wish, find_registered
from services.identity.status_rules import shows_ins
from services.identity.store import links as link_store
from services.identity.store import people as store
from services.runtime.context import Call, bound_patient, is_on_trial
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError, invalid
from services.runtime.identifiers import is_fictitious, person_name
from services.runtime.paging import PageTokens, page_scope
from services.runtime.postgres import Connection, Pool

MOST_FOUND: Final = 10
"""Candidates that a call centre is shown; more are SEARCH_TOO_BROAD."""
_MOST_MEMBERS: Final = 2000
_PAGE: Final = 20
_MATCHES: Final = 10
_SOURCES: Final = NATIONAL_OIDS


@dataclass(frozen=True, slots=True)
class Found:
    """Someone found: the record, and the survivor whom it was merged into (0 for none)."""

    person: RegisteredPerson
    merged_into: int

    def write(self) -> pb.Person:
        """As the contract shows it."""
        return write_person(self.person, merged_into=self.merged_into)


class Finding:
    """Finds people."""

    def __init__(self, pool: Pool, keys: DossierKeys, digests: Digests, tokens: PageTokens, clock: Clock) -> None:
        self._pool = pool
        self._keys = keys
        self._digests = digests
        self._tokens = tokens
        self._clock = clock

    async def get(self, health_id: int) -> pb.GetPersonResponse:
        """The person, and who was merged into it. PERSON_NOT_FOUND."""
        async with self._pool.acquire() as conn:
            found = await self._open(conn, [health_id])
            if not found:
                raise DmpError(reasons.ERROR_REASON_PERSON_NOT_FOUND)
            linked = await link_store.members(conn, health_id)
        return pb.GetPersonResponse(
            person=found[0].write(), linked=[person_name(one.health_id) for one in linked if one.into_id]
        )

    async def search(self, call: Call, request: pb.SearchPeopleRequest) -> pb.SearchPeopleResponse:
        """ITI-78. INVALID_FIELD without an identifier or a birth date and three letters; SEARCH_TOO_BROAD."""
        async with self._pool.acquire() as conn:
            if request.HasField("identifier"):
                found = await self._by_identifier(conn, request.identifier)
            else:
                found = await self._by_blocks(conn, [_searched(request.birth_date, request.family_name)])
        kept = sorted(
            (one for one in found if _fits(one.person, request)),
            key=lambda one: (normalise_name(one.person.traits.birth_name), one.person.health_id),
        )
        scope = page_scope(b"identity.SearchPeople", call.client_id.encode(), _criteria(request))
        start = int.from_bytes(self._tokens.read(request.page_token, scope), "big") if request.page_token else 0
        size = request.page_size or _PAGE
        response = pb.SearchPeopleResponse(people=[one.write() for one in kept[start : start + size]])
        if len(kept) > start + size:
            response.next_page_token = self._tokens.issue(scope, (start + size).to_bytes(4, "big"))
        return response

    async def find(self, call: Call, request: pb.FindPatientRequest) -> pb.FindPatientResponse:
        """TD0.5. REGULATION_ONLY in another mode; SEARCH_TOO_BROAD above ten candidates."""
        if call.actor.access_mode != context_pb2.ACCESS_MODE_REGULATION:
            raise DmpError(reasons.ERROR_REASON_REGULATION_ONLY)
        sought_in: list[Block] = []
        if request.birth_date:
            sought_in.append(_searched(request.birth_date, request.family_name))
        if request.postcode:
            sought_in.append(home_block(request.postcode, request.family_name))
        if not sought_in:
            raise invalid("birth_date", "search.criteria", "a birth date or a postcode goes with the name")
        async with self._pool.acquire() as conn:
            found = await self._by_blocks(conn, sought_in)
        candidates = []
        for one in found:
            score = fit(request, one.person.traits, one.person.contact or Contact())
            if score:
                candidates.append(pb.PersonCandidate(person=one.write(), score=score, grade=grade(score)))
        if len(candidates) > MOST_FOUND:
            raise DmpError(reasons.ERROR_REASON_SEARCH_TOO_BROAD)
        candidates.sort(key=lambda each: (-each.score, each.person.name))
        return pb.FindPatientResponse(candidates=candidates)

    async def match(self, request: pb.MatchPersonRequest) -> pb.MatchPersonResponse:
        """ITI-119. Certain is what registration would find; the others by their score."""
        traits = read_traits(request.traits, self._clock(), "traits")
        identifiers = read_identifiers(request.identifiers, "identifiers")
        contact = read_contact(request.contact, "contact") if request.HasField("contact") else None
        async with self._pool.acquire() as conn:
            owned = await store.owners(conn, [self._digests.identifier(known) for known in identifiers])
            members = await self._members(conn, sought_blocks(traits), exact_block(traits))
            opened = await self._open(conn, {*members, *owned.values()}, survivors=True)
        found = {one.person.health_id: one for one in opened}
        owners = {
            known: owned[digest]
            for known in identifiers
            if (digest := self._digests.identifier(known)) in owned and owned[digest] in found
        }
        certain = _certain(Wish(traits, identifiers, 0), owners, found)
        ours = comparable(traits, identifiers, contact)
        best: dict[str, pb.PersonCandidate] = {}
        for one in found.values():
            score = WEIGHTS.score(ours, comparable(one.person.traits, one.person.identifiers, one.person.contact))
            survivor = found.get(one.merged_into, one)
            graded = pb.MATCH_GRADE_CERTAIN if survivor.person.health_id == certain else score.grade
            if graded == pb.MATCH_GRADE_CERTAINLY_NOT:
                continue
            share = 1.0 if graded == pb.MATCH_GRADE_CERTAIN else min(score.probability, 0.999)
            written = pb.PersonCandidate(person=survivor.write(), score=share, grade=graded)
            if written.person.name not in best or best[written.person.name].score < share:
                best[written.person.name] = written
        candidates = sorted(best.values(), key=lambda each: (-each.score, each.person.name))
        if request.only_certain:
            candidates = [each for each in candidates if each.grade == pb.MATCH_GRADE_CERTAIN]
        return pb.MatchPersonResponse(candidates=candidates[: request.count or _MATCHES])

    async def cross_reference(self, request: pb.CrossReferenceRequest) -> pb.CrossReferenceResponse:
        """ITI-83. UNKNOWN_DOMAIN, UNKNOWN_TARGET_DOMAIN, UNKNOWN_PATIENT."""
        async with self._pool.acquire() as conn:
            domains = await store.domains(conn)
            check_source(request.source.system, domains, _SOURCES, "source.system")
            for index, system in enumerate(request.target_systems):
                check_target(system, domains, _SOURCES, f"target_systems[{index}]")
            found = await self._by_identifier(conn, request.source)
            if not found:
                raise DmpError(reasons.ERROR_REASON_UNKNOWN_PATIENT)
            root = found[0].merged_into or found[0].person.health_id
            members = [one.health_id for one in await link_store.members(conn, root)] or [root]
            people = {one.person.health_id: one.person for one in await self._open(conn, members)}
            if root not in people:  # a token that names the merged one, or a record that does not open
                raise DmpError(reasons.ERROR_REASON_UNKNOWN_PATIENT)
        wanted = frozenset(request.target_systems)
        qualified = shows_ins(people[root].status)
        given: dict[tuple[str, str], None] = {}
        for person in (people[root], *(people[one] for one in sorted(people) if one != root)):
            for known in person.identifiers:
                if wanted and known.system not in wanted:
                    continue
                if known.is_ins and not (qualified and person.health_id == root):
                    continue
                given[known.system, known.value] = None
        given.pop((request.source.system, request.source.value), None)
        return pb.CrossReferenceResponse(
            name=person_name(root), identifiers=[Identifier(system=one, value=value) for one, value in given]
        )

    # --- reading -------------------------------------------------------------------------------------------------

    async def _by_identifier(self, conn: Connection, stated: Identifier) -> list[Found]:
        identifier = sought(stated.system, stated.value)
        if identifier is None:
            return []
        owners = await store.owners(conn, [self._digests.identifier(identifier)])
        return await self._open(conn, owners.values())

    async def _by_blocks(self, conn: Connection, asked: Iterable[Block]) -> list[Found]:
        return await self._open(conn, await self._members(conn, asked))

    async def _members(self, conn: Connection, asked: Iterable[Block], exact: Block | None = None) -> set[int]:
        """SEARCH_TOO_BROAD when a block is larger than a search may open; with `exact` the others are then left out."""
        members = await store.members(conn, self._digests.blocks(asked))
        kept = self._digests.blocks([exact])[0] if exact is not None else None
        found: set[int] = set()
        for block, health_ids in members.items():
            if len(health_ids) > _MOST_MEMBERS and block != kept:
                if exact is None:
                    raise DmpError(reasons.ERROR_REASON_SEARCH_TOO_BROAD)
                continue
            found.update(health_ids)
        return found

    async def _open(self, conn: Connection, health_ids: Iterable[int], *, survivors: bool = False) -> list[Found]:
        """The people of these health ids, and with `survivors` those whom they were merged into. For software on trial
        only the fictitious ones are there, and for a token that names a patient that one. A record that does not open
        is passed over, unless it is the only one."""
        wanted = set(health_ids)
        if is_on_trial():
            wanted = {health_id for health_id in wanted if is_fictitious(health_id)}
        if only := bound_patient():
            wanted &= {only}
        if not wanted:
            return []
        roots = await link_store.roots(conn, wanted)
        rows = await store.people(conn, wanted.union(roots.values()) if survivors else wanted)
        keys = await self._keys.for_read(conn, list(rows))
        found = []
        for row in rows.values():
            try:
                found.append(Found(open_person(row, keys), roots.get(row.health_id, 0)))
            except DmpError:
                if len(rows) == 1:
                    raise
        return found


def _searched(birth_date: str, family_name: str) -> Block:
    if not birth_date:
        raise invalid("birth_date", "search.birth_date", "a search begins with the birth date")
    if len(normalise_name(family_name).replace(" ", "")) < PREFIX:
        raise invalid("family_name", "search.letters", "a search needs three letters of a name")
    return name_block(birth_date, family_name)


def _fits(person: RegisteredPerson, request: pb.SearchPeopleRequest) -> bool:
    traits = person.traits
    contact = person.contact or Contact()
    families = [normalise_name(name) for name in (traits.birth_name, traits.used_name) if name]
    given = [
        normalise_name(name)
        for name in (traits.first_birth_given_name, traits.birth_given_names, traits.used_given_name)
        if name
    ]

    def begins(names: Sequence[str], wanted: str) -> bool:
        text = normalise_name(wanted)
        if request.exact:
            return text in names
        return any(name.startswith(text) or f" {text}" in f" {name}" for name in names)

    return (
        (not request.family_name or begins(families, request.family_name))
        and (not request.given_name or begins(given, request.given_name))
        and (not request.birth_date or traits.birth_date == request.birth_date)
        and request.sex in (pb.SEX_UNSPECIFIED, traits.sex)
        and request.birth_place in ("", traits.birth_place)
        and contact.postcode.startswith(request.postcode)
        and (not request.city or normalise_name(contact.city) == normalise_name(request.city))
    )


def _criteria(request: pb.SearchPeopleRequest) -> bytes:
    same = pb.SearchPeopleRequest()
    same.CopyFrom(request)
    same.page_token = ""
    return same.SerializeToString(deterministic=True)


def _certain(wish: Wish, owners: Mapping[PatientIdentifier, int], found: Mapping[int, Found]) -> int:
    """Whom a registration of the same would find; 0 for nobody, or for who is left to a human."""
    survivors = {one: found.get(each.merged_into, each).person for one, each in found.items()}
    strict = strict_traits(wish.traits)
    alike = {
        survivors[one].health_id: survivors[one]
        for one, each in found.items()
        if not is_fictitious(one) and strict_traits(each.person.traits) == strict
    }
    try:
        person = find_registered(
            wish, {known: survivors[owner] for known, owner in owners.items()}, list(alike.values())
        )
    except RegistrationRefused:
        return 0
    return person.health_id if person is not None else 0
