"""Registering people: searched for first, found or made, once, however many ask at the same time.

Concurrent registrations share a transaction (group commit): a dozen statements settle a batch, whatever its size.
Registrations of one person meet on a row keyed by the digest of its traits, so that the later one sees what the
earlier one did; in one batch the later one sees it in memory. What two transactions that did not meet make of each
other's near matches is found by `rematch` after both have committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import asyncpg

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.civil_identity import read_contact, read_identifiers, read_traits
from services.identity.digests import Digests
from services.identity.nir import INS_OIDS
from services.identity.records import Keys, answer_owner, open_answer
from services.identity.registration_batch import Again, Asked, Batch, require_token_allows
from services.identity.registration_rules import Wish, refuse_real_numbers
from services.identity.rematch import Rematch
from services.identity.status_rules import check_status
from services.runtime.coalescer import Coalescer
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError, to_status
from services.runtime.idempotency import IdempotencyKey
from services.runtime.postgres import Pool, transaction, translate

Clock = Callable[[], datetime]
Registered = pb.CreatePersonResponse | DmpError

_PEOPLE_A_TRANSACTION: Final = 64
_TRANSACTIONS_UNDER_WAY: Final = 2
_ATTEMPTS: Final = 8


class Registration:
    """Registers. `kick` wakes the relay after a commit."""

    def __init__(
        self,
        pool: Pool,
        keys: DossierKeys,
        digests: Digests,
        kick: Callable[[], None],
        clock: Clock,
        rematch: Rematch,
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._digests = digests
        self._kick = kick
        self._clock = clock
        self._rematch = rematch
        self._batches: Coalescer[Asked, Registered] = Coalescer(
            "identity-registrations",
            self._register,
            max_batch=_PEOPLE_A_TRANSACTION,
            in_flight=_TRANSACTIONS_UNDER_WAY,
        )

    async def register(self, call: Call, request: pb.CreatePersonRequest) -> pb.CreatePersonResponse:
        """The person, made or found. Raises INVALID_FIELD, UNKNOWN_DOMAIN, FOREIGN_DOMAIN, RegistrationRefused,
        REQUEST_ID_REUSED, or what kept the database from answering."""
        response = await self._batches.submit(self._asked(call, request, "person"), timeout=call.remaining())
        assert isinstance(response, pb.CreatePersonResponse)  # noqa: S101 (a DmpError is raised)
        return response

    async def register_many(
        self, calls: Sequence[Call], requests: Sequence[pb.CreatePersonRequest]
    ) -> list[Registered]:
        """As `register`, of each call and request in its place; faster, as few transactions serve many."""
        outcomes: list[Registered] = []
        asked: list[Asked] = []
        for call, request in zip(calls, requests, strict=True):
            try:
                asked.append(self._asked(call, request, "person"))
            except DmpError as error:
                outcomes.append(error)
            else:
                outcomes.append(DmpError(reasons.ERROR_REASON_INTERNAL))
        places = [place for place, outcome in enumerate(outcomes) if _is_open(outcome)]
        for start in range(0, len(asked), _PEOPLE_A_TRANSACTION):
            part = asked[start : start + _PEOPLE_A_TRANSACTION]
            for place, outcome in zip(places[start : start + len(part)], await self._register(part), strict=True):
                outcomes[place] = outcome
        return outcomes

    async def close(self) -> None:
        """Refuse new registrations, finish those accepted."""
        await self._batches.close()

    def _asked(self, call: Call, request: pb.CreatePersonRequest, field: str) -> Asked:
        person, now = request.person, self._clock()
        if call.actor.sandbox and not person.fictitious:
            raise DmpError(reasons.ERROR_REASON_SANDBOX_ONLY)
        wish = Wish(
            read_traits(person.traits, now, f"{field}.traits"),
            read_identifiers(person.identifiers, f"{field}.identifiers"),
            person.status or pb.IDENTITY_STATUS_PROVISIONAL,
            person.doubtful,
            person.fictitious,
            person.homonym,
            read_contact(person.contact, f"{field}.contact") if person.HasField("contact") else None,
            request.accept_possible_duplicate,
        )
        refuse_real_numbers(wish.identifiers, f"{field}.identifiers", fictitious=wish.fictitious)
        check_status(
            wish.status,
            doubtful=wish.doubtful,
            fictitious=wish.fictitious,
            has_ins=any(identifier.system in INS_OIDS for identifier in wish.identifiers),
            whole_birth_date=bool(wish.traits.birth_date),
            field=f"{field}.status",
        )
        route = self._digests.route(call.client_id, call.request_id)
        return Asked(
            call,
            wish,
            request.reason,
            IdempotencyKey(route, call.client_id, call.method.path, call.request_id),
            self._digests.request(_body(request)),
        )

    async def _register(self, asked: list[Asked]) -> list[Registered]:
        """One transaction for all; when what it read was overtaken, it begins anew."""
        for attempt in range(_ATTEMPTS):
            try:
                return await self._try(asked)
            except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError, Again):
                if attempt == _ATTEMPTS - 2 and len(asked) > 1:
                    return [(await self._register([one]))[0] for one in asked]
            except Exception as error:  # a boundary: whatever the database's fault is, nobody is registered
                raise translate(error) from error
        raise DmpError(reasons.ERROR_REASON_CONCURRENT_CHANGE)

    async def _try(self, asked: list[Asked]) -> list[Registered]:
        async with transaction(self._pool) as conn:
            batch = Batch(conn, self._keys, self._digests, self._clock())
            outcomes = await batch.settle(asked)
            replayed = {place: outcome for place, outcome in enumerate(outcomes) if isinstance(outcome, bytes)}
            answers: list[Registered] = [
                outcome if not isinstance(outcome, bytes) else DmpError(reasons.ERROR_REASON_INTERNAL)
                for outcome in outcomes
            ]
            if replayed:
                keys = await self._keys.for_read(conn, [answer_owner(kept) for kept in replayed.values()])
                for place, kept in replayed.items():
                    answers[place] = _replay(asked[place].call, kept, keys)
        if batch.made:
            self._rematch.later(batch.made)
        self._kick()
        return answers


def _replay(call: Call, kept: bytes, keys: Keys) -> Registered:
    try:
        require_token_allows(call, answer_owner(kept))
        return pb.CreatePersonResponse.FromString(open_answer(kept, keys))
    except DmpError as error:
        return error


def _is_open(outcome: Registered) -> bool:
    return isinstance(outcome, DmpError) and outcome.reason == reasons.ERROR_REASON_INTERNAL


def _body(request: pb.CreatePersonRequest) -> bytes:
    """What must be the same in a retry; requests of before had the person alone."""
    if not (request.accept_possible_duplicate or request.reason):
        return request.person.SerializeToString(deterministic=True)
    return request.SerializeToString(deterministic=True)


def result_of(outcome: Registered) -> pb.CreatePersonResult:
    """An outcome as a batch's answer has it."""
    if isinstance(outcome, DmpError):
        return pb.CreatePersonResult(status=to_status(outcome))
    return pb.CreatePersonResult(response=outcome)
