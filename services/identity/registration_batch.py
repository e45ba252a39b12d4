"""One transaction's worth of registrations: what is read, settled in memory one by one, and written together.

Statements: meet; answers remembered; owners; members of blocks; links; people; keys; then keys, people, identifiers,
blocks, re-matches, work list, events and answers; part. Each at most once, whatever the number of registrations (but
for people found who get a new identifier, which are locked one by one).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.blocking import blocks, exact_block, sought_blocks
from services.identity.changes import change_of, told
from services.identity.civil_identity import PatientIdentifier, Traits, same_traits, strict_traits
from services.identity.digests import Digests
from services.identity.domains import check_own, local_ones
from services.identity.matching import WEIGHTS, Comparable, comparable
from services.identity.nir import INS_OIDS
from services.identity.records import open_person, seal_answer, seal_person, write_person
from services.identity.registration_rules import Held, RegisteredPerson, Wish, find_registered
from services.identity.rematch import Made
from services.identity.store import links as link_store
from services.identity.store import people as store
from services.runtime import idempotency
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.idempotency import IdempotencyKey, Kept
from services.runtime.identifiers import is_fictitious, new_health_id
from services.runtime.outbox import OutboxRow, put
from services.runtime.postgres import Connection
from services.runtime.sealing import DossierKey

MOST_CANDIDATES: Final = 100
"""Members of a block beyond which it says too little to compare them all; the exact block has no bound."""

Outcome = pb.CreatePersonResponse | DmpError | bytes


class Again(Exception):
    """What was read was overtaken; the transaction is to begin anew."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A registration asked for, parsed."""

    call: Call
    wish: Wish
    reason: str
    key: IdempotencyKey
    body_digest: bytes


@dataclass(slots=True)
class _Plan:
    """One registration that will be written."""

    asked: Asked
    person: RegisteredPerson
    existed: bool
    added: tuple[PatientIdentifier, ...]
    pairs: int = 0


@dataclass(slots=True)
class _Known:
    """What the batch knows: read at its beginning, and made by it since."""

    people: dict[int, RegisteredPerson | DmpError] = field(default_factory=dict)
    owners: dict[PatientIdentifier, int] = field(default_factory=dict)
    members: dict[int, list[int]] = field(default_factory=dict)
    roots: dict[int, int] = field(default_factory=dict)
    comparables: dict[int, Comparable] = field(default_factory=dict)

    def person(self, health_id: int) -> RegisteredPerson:
        """The person, or the survivor of who was merged. DmpError when the record cannot be opened."""
        found = self.people[self.roots.get(health_id, health_id)]
        if isinstance(found, DmpError):
            raise found
        return found

    def owner(self, health_id: int, traits: Traits) -> RegisteredPerson:
        """As `person`; with the traits and identifiers of a merged one where its traits are these."""
        survivor, own = self.person(health_id), self.people[health_id]
        if isinstance(own, RegisteredPerson) and same_traits(own.traits, traits):
            return replace(survivor, traits=own.traits, identifiers=own.identifiers)
        return survivor

    def compared(self, health_id: int) -> Comparable | None:
        """What of a person is compared; None for one whose record cannot be opened."""
        known = self.comparables.get(health_id)
        if known is None:
            person = self.people.get(health_id)
            if person is None or isinstance(person, DmpError):
                return None
            known = self.comparables[health_id] = comparable(person.traits, person.identifiers, person.contact)
        return known


class Batch:
    """Settles registrations in the caller's transaction."""

    def __init__(self, conn: Connection, keys: DossierKeys, digests: Digests, now: datetime) -> None:
        self._conn = conn
        self._keys = keys
        self._digests = digests
        self._now = now
        self._known = _Known()
        self._pairs: list[tuple[int, int, float]] = []
        self.made: list[Made] = []

    async def settle(self, asked: Sequence[Asked]) -> list[Outcome]:
        """An outcome for each, in order: the answer, a refusal, or (bytes) the answer remembered, still sealed.

        Raises Again, UniqueViolationError or DeadlockDetectedError when the batch is to begin anew.
        """
        meeting = [digest for one in asked for digest in self._digests.traits_all(one.wish.traits)]
        await store.meet(self._conn, meeting, self._now)
        remembered = await idempotency.find_many(self._conn, [one.key for one in asked])
        domains = {}
        if any(local_ones(one.wish.identifiers) for one in asked):
            domains = await store.domains(self._conn)
        await self._read([one for one in asked if one.key not in remembered])
        plans: dict[IdempotencyKey, _Plan] = {}
        outcomes: list[Outcome | _Plan] = []
        for one in asked:
            try:
                outcomes.append(self._settle_one(one, remembered, plans, domains))
            except DmpError as error:
                outcomes.append(error)
        answers = await self._write(plans)
        await store.part(self._conn, meeting)
        return [answers[one.asked.key] if isinstance(one, _Plan) else one for one in outcomes]

    def _settle_one(
        self,
        one: Asked,
        remembered: dict[IdempotencyKey, Kept],
        plans: dict[IdempotencyKey, _Plan],
        domains: dict[str, store.Domain],
    ) -> Outcome | _Plan:
        before = remembered.get(one.key)
        same_batch = plans.get(one.key)
        digest = before.body_digest if before else same_batch.asked.body_digest if same_batch else one.body_digest
        if digest != one.body_digest:
            raise DmpError(reasons.ERROR_REASON_REQUEST_ID_REUSED)
        if before:
            return before.response
        if same_batch:
            return same_batch
        check_own(one.call, one.wish.identifiers, domains, "person.identifiers")
        plan = self._plan(one)
        require_token_allows(one.call, plan.person.health_id)
        self._learn(plan)
        plans[one.key] = plan
        return plan

    def _plan(self, one: Asked) -> _Plan:
        wish, known = one.wish, self._known
        owners = {
            identifier: known.owner(known.owners[identifier], wish.traits)
            for identifier in wish.identifiers
            if identifier in known.owners
        }
        exact = self._digests.blocks([exact_block(wish.traits)])[0]
        strict = strict_traits(wish.traits)
        alike: dict[int, RegisteredPerson] = {}
        for health_id in sorted(known.members.get(exact, ())):
            person = known.person(health_id)
            own = known.people[health_id] if is_fictitious(health_id) == wish.fictitious else None  # decision 0029
            if isinstance(own, RegisteredPerson) and strict_traits(own.traits) == strict:
                alike[person.health_id] = person
        found = find_registered(wish, owners, list(alike.values()))
        found = None if found is None else known.person(found.health_id)
        change = change_of(one.call, pb.PERSON_CHANGE_KIND_REGISTERED, one.reason, self._now)
        if found is None:
            person = RegisteredPerson(
                health_id=new_health_id(fictitious=wish.fictitious),
                traits=wish.traits,
                identifiers=wish.identifiers,
                status=wish.status,
                created_at=self._now,
                doubtful=wish.doubtful,
                fictitious=wish.fictitious,
                homonym=wish.homonym,
                contact=wish.contact,
                held=held_now(wish.identifiers, self._now),
                change=change,
            )
            return _Plan(one, person, existed=False, added=wish.identifiers)
        added = tuple(
            identifier
            for identifier in wish.identifiers
            if identifier not in found.identifiers and identifier not in known.owners
        )
        if not added:
            return _Plan(one, found, existed=True, added=())
        change.kind = pb.PERSON_CHANGE_KIND_IDENTIFIERS
        person = replace(
            found,
            identifiers=(*found.identifiers, *added),
            held=(*found.held, *held_now(added, self._now)),
            version=found.version + 1,
            updated_at=self._now,
            change=change,
        )
        return _Plan(one, person, existed=True, added=added)

    def _learn(self, plan: _Plan) -> None:
        """What comes later in the batch sees what this registration will have done."""
        person, known = plan.person, self._known
        known.people[person.health_id] = person
        known.comparables.pop(person.health_id, None)
        known.owners.update(dict.fromkeys(plan.added, person.health_id))
        if plan.existed:
            return
        sought = self._digests.blocks(sought_blocks(person.traits))
        exact = self._digests.blocks([exact_block(person.traits)])[0]
        seen = {
            member
            for block in sought
            for member in known.members.get(block, ())
            if block == exact or len(known.members[block]) <= MOST_CANDIDATES
        }
        self._pair(plan, seen)
        for block in self._digests.blocks(blocks(person.traits)):
            known.members.setdefault(block, []).append(person.health_id)
        self.made.append(Made(person.health_id, tuple(sought), frozenset(seen)))

    def _pair(self, plan: _Plan, candidates: Iterable[int]) -> None:
        ours = self._known.compared(plan.person.health_id)
        for health_id in candidates:
            theirs = self._known.compared(health_id)
            if ours is None or theirs is None or is_fictitious(health_id) != plan.asked.wish.fictitious:
                continue
            score = WEIGHTS.score(ours, theirs)
            if score.grade != pb.MATCH_GRADE_CERTAINLY_NOT:
                plan.pairs += 1
                low, high = sorted((plan.person.health_id, health_id))
                self._pairs.append((low, high, score.weight))

    # --- what is read --------------------------------------------------------------------------------------------

    async def _read(self, asked: Sequence[Asked]) -> None:
        known, conn = self._known, self._conn
        identifiers = {
            self._digests.identifier(known_as): known_as for one in asked for known_as in one.wish.identifiers
        }
        if identifiers:
            owners = await store.owners(conn, list(identifiers))
            known.owners = {identifiers[digest]: health_id for digest, health_id in owners.items()}
        exact = set(self._digests.blocks(exact_block(one.wish.traits) for one in asked))
        sought = {block for one in asked for block in self._digests.blocks(sought_blocks(one.wish.traits))}
        known.members = await store.members(conn, sought) if sought else {}
        wanted = set(known.owners.values())
        for block, members in known.members.items():
            if block in exact or len(members) <= MOST_CANDIDATES:
                wanted.update(members)
        if not wanted:
            return
        known.roots = await link_store.roots(conn, wanted)
        rows = await store.people(conn, wanted | set(known.roots.values()))
        keys = await self._keys.for_read(conn, list(rows))
        for health_id, row in rows.items():
            try:
                known.people[health_id] = open_person(row, keys)
            except DmpError as error:
                known.people[health_id] = error

    # --- what is written -----------------------------------------------------------------------------------------

    async def _write(self, plans: dict[IdempotencyKey, _Plan]) -> dict[IdempotencyKey, pb.CreatePersonResponse]:
        new = {plan.person.health_id: plan.person for plan in plans.values() if not plan.existed}
        for plan in plans.values():  # one registered in this batch, and found again by it with a new identifier
            if plan.person.health_id in new:
                current = self._known.people[plan.person.health_id]
                assert isinstance(current, RegisteredPerson)  # noqa: S101 (made by this batch)
                new[plan.person.health_id] = replace(
                    current, version=1, updated_at=None, change=new[plan.person.health_id].change
                )
        keys: dict[int, DossierKey] = {}
        if new:
            keys |= await self._keys.for_new(self._conn, list(new))
            await store.insert_people(self._conn, [seal_person(one, keys[one.health_id]) for one in new.values()])
        keys |= await self._extend(
            [plan for plan in plans.values() if plan.existed and plan.person.health_id not in new]
        )
        await self._write_identifiers(plans.values())
        if new:
            every = [(block, one.health_id) for one in new.values() for block in self._blocks_to_write(one)]
            await store.insert_blocks(self._conn, [block for block, _ in every], [owner for _, owner in every])
            await store.rematch_later(self._conn, list(new))
            await link_store.find_pairs(self._conn, self._pairs, self._now)
        return await self._answer(plans, keys, new)

    def _blocks_to_write(self, person: RegisteredPerson) -> list[int]:
        return self._digests.blocks_all(blocks(person.traits, person.contact))

    async def _write_identifiers(self, plans: Iterable[_Plan]) -> None:
        owned = [
            (digest, plan.person.health_id)
            for plan in plans
            for identifier in plan.added
            for digest in self._digests.identifier_all(identifier)
        ]
        if owned:
            await store.insert_identifiers(self._conn, [one for one, _ in owned], [owner for _, owner in owned])

    async def _extend(self, plans: Sequence[_Plan]) -> dict[int, DossierKey]:
        """Writes what was added to people who existed; Again if one changed since it was read."""
        latest = {plan.person.health_id: plan.person for plan in plans}
        if not latest:
            return {}
        changed = {plan.person.health_id for plan in plans if plan.added}
        keys = await self._keys.for_read(self._conn, list(latest))
        for health_id in sorted(changed):
            row = await store.lock_person(self._conn, health_id)
            first = min(plan.person.version for plan in plans if plan.person.health_id == health_id and plan.added)
            if row is None or row.version != first - 1:
                raise Again
            person = replace(latest[health_id], version=first)
            await store.write_version(self._conn, row, seal_person(person, keys[health_id]), self._now)
        return {health_id: keys[health_id] for health_id in latest}

    async def _answer(
        self, plans: dict[IdempotencyKey, _Plan], keys: dict[int, DossierKey], new: dict[int, RegisteredPerson]
    ) -> dict[IdempotencyKey, pb.CreatePersonResponse]:
        answers: dict[IdempotencyKey, pb.CreatePersonResponse] = {}
        kept: dict[IdempotencyKey, Kept] = {}
        events: list[OutboxRow] = []
        for request, plan in plans.items():
            health_id = plan.person.health_id
            shown = frozenset(plan.asked.wish.identifiers)
            answer = pb.CreatePersonResponse(
                person=write_person(new.get(health_id, plan.person), shown),
                existed=plan.existed,
                possible_duplicates=plan.pairs,
            )
            answers[request] = answer
            sealed = seal_answer(health_id, answer.SerializeToString(), keys[health_id])
            kept[request] = Kept(plan.asked.body_digest, sealed)
            changes = [] if plan.existed else [("person", "registered")]
            if plan.added:
                changes.append(("identifiers_added", str(len(plan.added))))
            events.append(told(plan.asked.call, health_id, changes))
        if kept:
            await put(self._conn, events)
            await idempotency.put_many(self._conn, kept)
        return answers


def held_now(identifiers: Iterable[PatientIdentifier], now: datetime) -> tuple[Held, ...]:
    """The national numbers among these, in force from now on."""
    return tuple(Held(identifier, now) for identifier in identifiers if identifier.system in INS_OIDS)


def require_token_allows(call: Call, health_id: int) -> None:
    """A token that names a patient reaches nobody else, and one of software on trial nobody real."""
    if call.actor.patient_health_id not in (0, health_id):
        raise DmpError(reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH)
    if call.actor.sandbox and not is_fictitious(health_id):
        raise DmpError(reasons.ERROR_REASON_SANDBOX_ONLY)
