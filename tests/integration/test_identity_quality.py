"""How well the register tells people apart, on a generated population with the errors that registers have.

Five thousand people in every test run, a hundred thousand in a campaign (`DMP_CAMPAIGN=1`); the figures of the latter
are in docs/reference/matching.md.
"""

from __future__ import annotations

from typing import Final

from dmp.identity.v1 import identity_pb2 as pb
from services.identity.registration_rules import RegistrationRefused
from tests.faults.campaign import amount, publish
from tests.identity_population import Quality, Record, judge, population
from tests.identity_service import People, health_id_of

SEED: Final = 2111
_AT_ONCE: Final = 64


async def test_certain_is_always_right_and_little_is_missed(people: People) -> None:
    quality = await measured(people, population(amount(5_000, 100_000), SEED))
    publish("matching", _figures(quality))
    assert quality.certain_wrong == 0
    assert quality.certain_precision == 1.0
    assert quality.recall > 0.9, quality.missed
    assert quality.listed_precision > 0.9, quality


async def measured(people: People, records: list[Record]) -> Quality:
    """Registers everyone, compares once more those who are due, and judges."""
    taken: dict[int, int] = {}
    stopped: dict[int, int] = {}
    for start in range(0, len(records), _AT_ONCE):
        part = records[start : start + _AT_ONCE]
        calls = [people.call("CreatePerson") for _ in part]
        requests = [
            pb.CreatePersonRequest(
                person=pb.Person(traits=record.traits, identifiers=record.identifiers),
                request_id=call.request_id,
                accept_possible_duplicate=True,
            )
            for record, call in zip(part, calls, strict=True)
        ]
        for place, outcome in enumerate(await people.parts.registration.register_many(calls, requests), start):
            if isinstance(outcome, pb.CreatePersonResponse):
                taken[place] = health_id_of(outcome.person)
            else:
                assert isinstance(outcome, RegistrationRefused), outcome
                stopped[place] = outcome.health_id
    await people.parts.rematch.sweep()
    listed = await people.pool.fetch("SELECT low_id, high_id FROM possible_duplicate")
    return judge(records, taken, [(row["low_id"], row["high_id"]) for row in listed], stopped)


def _figures(quality: Quality) -> dict[str, object]:
    return {
        "people": quality.people,
        "records": quality.records,
        "pairs_of_one_person": quality.true_pairs,
        "certain_right": quality.certain_right,
        "certain_wrong": quality.certain_wrong,
        "listed_right": quality.listed_right,
        "listed_wrong": quality.listed_wrong,
        "precision_of_certain": round(quality.certain_precision, 5),
        "recall": round(quality.recall, 4),
        "precision_of_the_work_list": round(quality.listed_precision, 4),
        "missed": dict(sorted(quality.missed.items(), key=lambda item: -item[1])),
    }
