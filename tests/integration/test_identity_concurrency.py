"""Many clients register the same people at once, in transactions of their own: exactly the right people come of it."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass
from itertools import islice
from typing import Final

from bench.identity_loader import people as strangers
from dmp.common.v1.coding_pb2 import Identifier
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.parts import IdentityParts, Surroundings
from services.runtime.keyring import Keyring
from services.runtime.trail import Trail
from tests.faults.campaign import amount
from tests.identity_service import FakeConsent, People, health_id_of, local, traits

CLIENTS: Final = 64
PROCESSES: Final = 4
"""Services side by side on one database: what one coalesces, another does not."""
SEED: Final = 2111


@dataclass(frozen=True)
class Wish:
    """One registration, by whoever comes first with it; `who` it really is."""

    who: int
    person: pb.Person
    request_id: str


def wishes(count: int) -> list[Wish]:
    """Everyone four times: with his number, without, with a hospital's number, and one of these again as a retry. One
    in ten is a twin of the one before: the same traits, and a number of his own, which is always said."""
    rng = random.Random(SEED)
    wanted: list[Wish] = []
    known = list(islice(strangers(0, SEED), count))
    for who in range(count):
        twin = who % 10 == 9
        (stated, _), (_, number) = known[who - twin], known[who]
        beside_a_twin = twin or who % 10 == 8
        numbers: list[list[Identifier]] = [[number], [number] if beside_a_twin else [], [number, local(f"IPP-{who}")]]
        three = [
            Wish(who, pb.Person(traits=stated, identifiers=each), f"wish-{who}-{place}")
            for place, each in enumerate(numbers)
        ]
        wanted += [*three, rng.choice(three)]
    rng.shuffle(wanted)
    return wanted


async def test_sixty_four_clients_make_exactly_the_right_people(people: People) -> None:
    count = amount(150, 1_000)
    around = Surroundings(trail=Trail(people.events.append), tellers={}, checks=FakeConsent())
    ring = Keyring({1: bytes(range(32))}, current=1, digests=[1])
    services = [IdentityParts(people.pool, ring, around) for _ in range(PROCESSES)]
    todo, made = wishes(count), defaultdict(set)
    todo.reverse()

    async def client(number: int) -> None:
        while todo:
            wish = todo.pop()
            request = pb.CreatePersonRequest(
                person=wish.person, request_id=wish.request_id, accept_possible_duplicate=True
            )
            call = people.call("CreatePerson", request_id=wish.request_id)
            answer = await services[number % PROCESSES].servicer.CreatePerson(request, call)
            made[wish.who].add(health_id_of(answer.person))

    try:
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    finally:
        for service in services:
            await service.close()
    assert {who: len(ids) for who, ids in made.items() if len(ids) != 1} == {}
    assert len({health_id for ids in made.values() for health_id in ids}) == count
    assert await people.pool.fetchval("SELECT count(*) FROM person") == count


async def test_the_same_traits_without_a_number_in_transactions_of_their_own_meet_and_are_one(people: People) -> None:
    """Nothing but the row keyed by the digest of the traits makes one of these wait for the other."""

    async def alone() -> int:
        call = people.call("CreatePerson")
        request = pb.CreatePersonRequest(person=pb.Person(traits=traits()), request_id=call.request_id)
        [answer] = await people.parts.registration.register_many([call], [request])
        assert isinstance(answer, pb.CreatePersonResponse)
        return health_id_of(answer.person)

    for _ in range(3):
        assert len(set(await asyncio.gather(*(alone() for _ in range(6))))) == 1
    assert await people.pool.fetchval("SELECT count(*) FROM person") == 1
