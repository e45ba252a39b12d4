"""Registering a person: searched for first, found or made, once, however many ask at the same time.

One transaction: registrations of one person meet on rows keyed by the digests of its traits and of its identifiers,
so the second one sees what the first one did. What is remembered for a retry is sealed: it holds civil identity.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import identity_pb2 as pb
from services.identity import store
from services.identity.civil_identity import PatientIdentifier, read_identifiers, read_traits
from services.identity.digests import Digests
from services.identity.records import answer_owner, open_answer, open_person, seal_answer, seal_person, write_person
from services.identity.registration_rules import RegisteredPerson, Wish, find_registered
from services.runtime import idempotency
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.idempotency import IdempotencyKey
from services.runtime.identifiers import new_health_id, person_name
from services.runtime.outbox import OutboxRow, put
from services.runtime.postgres import Connection, Pool, transaction
from services.runtime.trail import build_event

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class _Outcome:
    person: RegisteredPerson
    existed: bool
    added: int


class Registration:
    """Registers. `kick` wakes the relay after a commit."""

    def __init__(self, pool: Pool, keys: DossierKeys, digests: Digests, kick: Callable[[], None], clock: Clock) -> None:
        self._pool = pool
        self._keys = keys
        self._digests = digests
        self._kick = kick
        self._clock = clock

    async def register(self, call: Call, request: pb.CreatePersonRequest) -> pb.CreatePersonResponse:
        """The person, made or found. Raises INVALID_FIELD, RegistrationRefused, or what asyncpg raises."""
        now = self._clock()
        wish = Wish(
            read_traits(request.person.traits, now.date()),
            read_identifiers(request.person.identifiers),
            request.person.status or pb.IDENTITY_STATUS_PROVISIONAL,
        )
        route = self._digests.route(call.client_id, call.request_id)
        key = IdempotencyKey(route, call.client_id, call.method.path, call.request_id)
        async with transaction(self._pool, timeout=call.remaining()) as conn:
            remembered = await idempotency.begin(conn, key, self._body_digest(request))
            if remembered is not None:
                return await self._replay(conn, call, remembered)
            outcome = await self._settle(conn, wish, now)
            _require_token_allows(call, outcome.person.health_id)
            response = pb.CreatePersonResponse(
                person=write_person(outcome.person, frozenset(wish.identifiers)), existed=outcome.existed
            )
            await put(conn, [_told(call, outcome)])
            await idempotency.finish(conn, key, await self._sealed_answer(conn, outcome.person.health_id, response))
        self._kick()
        return response

    async def _settle(self, conn: Connection, wish: Wish, now: datetime) -> _Outcome:
        """Finds the person and adds to it what is new, or makes it. Raises RegistrationRefused."""
        digests = {self._digests.identifier(identifier): identifier for identifier in wish.identifiers}
        exact = self._digests.traits(wish.traits)
        await store.meet(conn, (*digests, exact), now)
        owner_ids = await store.owners(conn, list(digests))
        alike = await store.matches(conn, exact)
        people = await self._read(conn, {*owner_ids.values(), *alike})
        owners = {digests[digest]: people[health_id] for digest, health_id in owner_ids.items()}
        found = find_registered(wish, owners, [people[health_id] for health_id in alike])
        if found is None:
            return _Outcome(await self._make(conn, wish, now), existed=False, added=len(wish.identifiers))
        return await self._add(conn, found.health_id, wish)

    async def _make(self, conn: Connection, wish: Wish, now: datetime) -> RegisteredPerson:
        health_id = new_health_id()
        person = RegisteredPerson(health_id, wish.traits, wish.identifiers, wish.status, now)
        key = (await self._keys.for_write(conn, [health_id]))[health_id]
        await store.insert_person(conn, seal_person(person, key))
        await store.insert_identifiers(conn, health_id, self._all_digests(wish.identifiers))
        await store.insert_match_keys(conn, health_id, self._digests.match_keys_all(wish.traits))
        return person

    async def _add(self, conn: Connection, health_id: int, wish: Wish) -> _Outcome:
        keys = await self._keys.for_write(conn, [health_id])
        person = open_person(await store.lock_person(conn, health_id), keys)
        new = tuple(identifier for identifier in wish.identifiers if identifier not in person.identifiers)
        if new:
            person = replace(person, identifiers=(*person.identifiers, *new))
            await store.reseal_person(conn, health_id, seal_person(person, keys[health_id]).sealed)
            await store.insert_identifiers(conn, health_id, self._all_digests(new))
        return _Outcome(person, existed=True, added=len(new))

    async def _read(self, conn: Connection, health_ids: set[int]) -> dict[int, RegisteredPerson]:
        if not health_ids:
            return {}
        rows = await store.people(conn, health_ids)
        keys = await self._keys.for_read(conn, list(rows))
        return {health_id: open_person(row, keys) for health_id, row in rows.items()}

    async def _replay(self, conn: Connection, call: Call, remembered: bytes) -> pb.CreatePersonResponse:
        health_id = answer_owner(remembered)
        _require_token_allows(call, health_id)
        keys = await self._keys.for_read(conn, [health_id])
        return pb.CreatePersonResponse.FromString(open_answer(remembered, keys))

    async def _sealed_answer(self, conn: Connection, health_id: int, response: pb.CreatePersonResponse) -> bytes:
        keys = await self._keys.for_read(conn, [health_id])
        return seal_answer(health_id, response.SerializeToString(), keys[health_id])

    def _all_digests(self, identifiers: tuple[PatientIdentifier, ...]) -> list[bytes]:
        return [digest for identifier in identifiers for digest in self._digests.identifier_all(identifier)]

    def _body_digest(self, request: pb.CreatePersonRequest) -> bytes:
        return self._digests.request(request.person.SerializeToString(deterministic=True))


def _require_token_allows(call: Call, health_id: int) -> None:
    """A token that names a patient reaches nobody else."""
    if call.actor.patient_health_id not in (0, health_id):
        raise DmpError(reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH)


def _told(call: Call, outcome: _Outcome) -> OutboxRow:
    """The event: whose, and what changed, without any civil identity."""
    health_id = outcome.person.health_id
    changes = []
    if not outcome.existed:
        changes.append(audit_pb2.AttributeChange(attribute="person", after="registered"))
    if outcome.added:
        changes.append(audit_pb2.AttributeChange(attribute="identifiers_added", after=str(outcome.added)))
    event = build_event(
        call,
        outcome=audit_pb2.OUTCOME_SUCCESS,
        health_id=health_id,
        objects=(person_name(health_id),),
        changes=changes,
    )
    return OutboxRow(health_id, uuid.UUID(bytes=event.event_id), event.SerializeToString())
