"""The history gives, at its end, the very facts that the tables give: after every kind of change, for everyone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import store
from services.consent.acting import read_actor
from services.consent.checking import asked_of
from services.consent.duties import Duties
from services.consent.history import facts_at, replay
from services.runtime.identifiers import dossier_name, new_health_id
from tests.consent_service import (
    NOW,
    NURSE,
    YEAR,
    Consent,
    grantee_of,
    operator,
    patient,
    professional,
    representative,
    staff,
    structure_grantee,
    taking_over,
)
from tests.integration.test_consent_life import die, prefer, reopen
from tests.integration.test_consent_representatives import end, register


async def agree(consent: Consent, dossier: int, people: list[ActingContext]) -> None:
    """Facts by the tables and facts by the history, for each of these."""
    actors = [read_actor(person) for person in people]
    known = await store.read_facts(consent.pool, [asked_of(actor, dossier) for actor in actors])
    lines = await store.events_until(consent.pool, dossier, 1 << 62)
    assert known.answers == [facts_at(replay(lines), actor) for actor in actors]
    assert [line.epoch for line in lines] == list(range(1, len(lines) + 1))


async def test_after_every_kind_of_change_the_history_says_what_the_tables_say(consent: Consent) -> None:
    person, mother = int(new_health_id()), int(new_health_id())
    name = dossier_name(person)
    people = [professional(), professional(NURSE, "60"), staff(), patient(person), representative(mother, person)]
    people.append(taking_over("north"))
    oppose = pb.OpposeOpeningRequest(name=name)
    withdraw = pb.WithdrawOppositionRequest(name=name)
    leave = pb.RemoveAttendingPhysicianRequest(parent=name)
    move = pb.MoveDossierRequest(name=name, home_host="north")
    destruction = pb.RequestDestructionRequest(name=name)
    keep = pb.WithdrawDestructionRequest(name=name)
    changes: list[Callable[[], Awaitable[Any]]] = [
        lambda: consent.do("OpposeOpening", oppose, patient(person), person),
        lambda: consent.do("WithdrawOpposition", withdraw, patient(person), person),
        lambda: consent.open(person, break_glass_opposed=True),
        lambda: consent.grant(person, attending=True),
        lambda: consent.grant(person, staff(), care_team=True),
        lambda: consent.do("RemoveAttendingPhysician", leave, professional(), person),
        lambda: consent.grant(person, professional(NURSE, "60"), term=pb.AUTHORIZATION_TERM_VISIT),
        lambda: consent.revoke(person),
        lambda: consent.block(person, grantee_of(NURSE)),
        lambda: consent.block(person, structure_grantee()),
        lambda: consent.unblock(person, structure_grantee()),
        lambda: prefer(consent, person, patient(person), masked_shown_in_emergency=True, break_glass_opposed=False),
        lambda: register(consent, person, mother, operator()),
        lambda: consent.do("MoveDossier", move, operator(), person),
        lambda: consent.close(person),
        lambda: consent.do("RequestDestruction", destruction, patient(person), person),
        lambda: consent.do("WithdrawDestruction", keep, patient(person), person),
        lambda: reopen(consent, person),
        lambda: die(consent, person),
        lambda: reopen(consent, person, operator()),
        lambda: consent.grant(person),
        lambda: Duties(consent.pool, (), lambda: None).run(NOW + YEAR + timedelta(days=1)),
        lambda: end(consent, person, mother, operator()),
    ]
    for change in changes:
        await change()
        await agree(consent, person, people)
