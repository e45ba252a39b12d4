"""A dossier taken over from another home host: whole, in one commit, once, and only by who takes that host over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import store
from services.consent.acting import read_actor
from services.consent.history import facts_at, replay
from services.consent.mapping import write_time
from services.runtime.identifiers import dossier_name, new_health_id, person_name
from tests.consent_service import (
    NOW,
    NURSE,
    STRUCTURE,
    YEAR,
    Consent,
    certificate,
    grantee_of,
    message_bytes,
    operator,
    patient,
    professional,
    representative,
    staff,
    taking_over,
)
from tests.integration.test_consent_hosts import ids, listed, of_north
from tests.refusals import refused

NORTH = taking_over("north")
SECRET = "810000000017"
EVERYBODY = (
    professional(),
    professional(NURSE, profession="60"),
    professional(SECRET),
    staff(),
    certificate(),
)


async def take_in(
    consent: Consent, health_id: int, taken: pb.HostDossier, actor: ActingContext = NORTH, request_id: str = ""
) -> pb.TakeInDossierResponse:
    request = pb.TakeInDossierRequest(name=dossier_name(health_id), taken=taken, request_id=request_id)
    response: pb.TakeInDossierResponse = await consent.do("TakeInDossier", request, actor, health_id)
    return response


async def handed_over(consent: Consent, mother: int) -> tuple[int, pb.HostDossier]:
    """A dossier with all that one may have, as its host hands it over a while later."""
    dossier = await of_north(consent)
    secret = professional(SECRET)
    secret.secret_connection = True
    await consent.grant(dossier, attending=True)
    await consent.grant(dossier, staff(), care_team=True)
    await consent.grant(dossier, secret, term=pb.AUTHORIZATION_TERM_VISIT)
    await consent.block(dossier, grantee_of(NURSE))
    registration = pb.RegisterRepresentativeRequest(
        parent=dossier_name(dossier), person=person_name(mother), kind=pb.REPRESENTATION_KIND_GUARDIAN,
        documents_seen=True,
    )  # fmt: skip
    await consent.do("RegisterRepresentative", registration, operator(), dossier)
    preferences = pb.UpdatePreferencesRequest(
        name=dossier_name(dossier), regulation_opposed=True, masked_shown_in_emergency=True
    )
    await consent.do("UpdatePreferences", preferences, patient(dossier), dossier)
    consent.now[0] = NOW + timedelta(days=40)
    (found,) = [each for each in await listed(consent) if each.dossier.name == dossier_name(dossier)]
    return dossier, found


async def decisions(consent: Consent, health_id: int, mother: int) -> list[tuple[int, bytes]]:
    """What everybody may do there, with what they may then see; without the epoch, which is each platform's own."""
    found: list[tuple[int, bytes]] = []
    for actor in (*EVERYBODY, patient(health_id), representative(mother, health_id), NORTH):
        for action in pb.Action.values():
            if action in (pb.ACTION_UNSPECIFIED, pb.ACTION_FIND_PATIENT, pb.ACTION_LIST_ACCESSIBLE):
                continue
            decision = await consent.check(health_id, actor, action)
            found.append((decision.reason, decision.filter.SerializeToString(deterministic=True)))
    return found


async def test_a_dossier_is_taken_in_whole_and_everybody_may_there_what_he_might_before(consent: Consent) -> None:
    mother, newcomer = int(new_health_id()), int(new_health_id())
    before, taken = await handed_over(consent, mother)
    answer = await take_in(consent, newcomer, taken)
    assert not answer.existed
    arrived = {each.dossier.name: each for each in await listed(consent)}[dossier_name(newcomer)]
    for found in (taken, arrived):
        found.dossier.name, found.dossier.epoch = "", 0
    assert arrived == taken
    assert await decisions(consent, newcomer, mother) == await decisions(consent, before, mother)
    consent.now[0] = NOW + YEAR + timedelta(days=1)  # authorisations end when they would have ended
    assert (await consent.check(newcomer)).reason == reasons.ERROR_REASON_AUTHORIZATION_EXPIRED
    lines = await store.events_until(consent.pool, newcomer, 1 << 62)
    past = {actor.subject: facts_at(replay(lines), read_actor(actor)) for actor in EVERYBODY}
    assert [subject for subject, facts in past.items() if facts and facts.blocked] == [NURSE]
    secret = past[SECRET]
    assert secret is not None
    assert secret.professional_until is not None
    assert [line.kind for line in lines] == ["dossier.take_in"]


async def test_taken_in_again_nothing_changes_and_what_changed_since_stays(consent: Consent) -> None:
    newcomer = int(new_health_id())
    _, taken = await handed_over(consent, int(new_health_id()))
    first = await take_in(consent, newcomer, taken, request_id="take-in-1")
    assert await take_in(consent, newcomer, taken, request_id="take-in-1") == first
    await consent.block(newcomer, grantee_of())
    again = await take_in(consent, newcomer, taken)
    assert again.existed
    assert (await consent.check(newcomer)).reason == reasons.ERROR_REASON_BLOCKED
    assert again.dossier.epoch == first.dossier.epoch + 1


async def test_closed_and_opposed_dossiers_are_taken_in_as_they_are(consent: Consent) -> None:
    closed, opposed, dead = (int(new_health_id()) for _ in range(3))
    source, taken = await handed_over(consent, int(new_health_id()))
    await consent.close(source)
    (taken,) = [each for each in await listed(consent) if each.dossier.name == dossier_name(source)]
    await take_in(consent, closed, taken)
    assert (await consent.check(closed)).reason == reasons.ERROR_REASON_DOSSIER_CLOSED
    assert (await consent.check(closed, NORTH, pb.ACTION_SUBMIT)).permitted  # its documents follow
    row = await consent.pool.fetchrow(
        "SELECT due_at FROM deadline WHERE health_id = $1 AND what = 'destruction'", closed
    )
    assert row is not None
    assert write_time(row["due_at"]) == taken.dossier.destroy_time
    taken.dossier.death_time.CopyFrom(taken.dossier.close_time)
    await take_in(consent, dead, taken)
    assert (await consent.get(dead, patient(dead))).dossier.death_time == taken.dossier.close_time
    nothing = pb.HostDossier(dossier=pb.Dossier(state=pb.DOSSIER_STATE_OPPOSED, home_host="north"))
    await take_in(consent, opposed, nothing)
    with refused(reasons.ERROR_REASON_OPENING_OPPOSED):
        await consent.open(opposed)


async def test_a_dossier_of_another_host_is_in_the_way_and_stays_as_it_is(consent: Consent) -> None:
    _, taken = await handed_over(consent, int(new_health_id()))
    mine, opposed = await consent.open(), int(new_health_id())
    oppose = pb.OpposeOpeningRequest(name=dossier_name(opposed), patient_consented=True)
    await consent.do("OpposeOpening", oppose, professional(), opposed)
    before = message_bytes(await consent.get(mine, patient(mine)))
    with refused(reasons.ERROR_REASON_DOSSIER_ALREADY_EXISTS):
        await take_in(consent, mine, taken)
    with refused(reasons.ERROR_REASON_OPENING_OPPOSED):
        await take_in(consent, opposed, taken)
    assert message_bytes(await consent.get(mine, patient(mine))) == before
    assert consent.events.recorded[-2].action == "dossier.take_in"
    assert consent.events.recorded[-2].outcome == audit_pb2.OUTCOME_REJECTED


async def test_who_was_merged_elsewhere_is_linked_first_and_the_survivor_comes_first(consent: Consent) -> None:
    _, taken = await handed_over(consent, int(new_health_id()))
    survivor, merged = sorted(int(new_health_id()) for _ in range(2))
    gone = pb.HostDossier()
    gone.CopyFrom(taken)
    gone.dossier.state, gone.dossier.merged_into = pb.DOSSIER_STATE_MERGED, dossier_name(survivor)
    with refused(reasons.ERROR_REASON_INVALID_FIELD, "taken.dossier.merged_into"):
        await take_in(consent, merged, gone)
    for each in (survivor, merged):
        await consent.pool.execute(
            "INSERT INTO linked_set (health_id, member_ids, revision) VALUES ($1, $2, 1)", each, [survivor, merged]
        )
    with refused(reasons.ERROR_REASON_INVALID_FIELD, "taken.dossier.merged_into"):
        await take_in(consent, merged, gone)
    await take_in(consent, survivor, taken)
    arrived = (await take_in(consent, merged, gone)).dossier
    assert (arrived.state, arrived.merged_into) == (pb.DOSSIER_STATE_MERGED, dossier_name(survivor))
    assert (await consent.check(survivor)).linked == [merged]


WRONG: list[tuple[str, Callable[[pb.HostDossier], object]]] = [
    ("taken.dossier.home_host", lambda taken: setattr(taken.dossier, "home_host", "south")),
    ("taken.dossier.state", lambda taken: setattr(taken.dossier, "state", pb.DOSSIER_STATE_DESTROYED)),
    ("taken.dossier.closed_by", lambda taken: setattr(taken.dossier, "closed_by", "Jeanne Martin")),
    ("taken.consent", lambda taken: taken.ClearField("consent")),
    ("taken.dossier.open_time", lambda taken: taken.dossier.ClearField("open_time")),
    ("taken.dossier.open_time", lambda taken: taken.dossier.open_time.FromDatetime(NOW + YEAR)),
    ("taken.standings", lambda taken: taken.standings.append(taken.standings[0])),
    ("taken.standings[0].grantee.id", lambda taken: setattr(taken.standings[0].grantee, "id", "99")),
    (
        "taken.standings[0].authorization.expire_time",
        lambda taken: taken.standings[0].authorization.expire_time.FromDatetime(NOW + YEAR * 2),
    ),
    ("taken.representatives", lambda taken: setattr(taken.representatives[0], "person", "people/1")),
    ("taken.representatives.kind", lambda taken: setattr(taken.representatives[0], "kind", 0)),
    ("taken.representatives[0].start_time", lambda taken: taken.representatives[0].ClearField("start_time")),
]


async def test_what_no_host_could_have_granted_is_refused_by_its_field(consent: Consent) -> None:
    newcomer = int(new_health_id())
    _, taken = await handed_over(consent, int(new_health_id()))
    taken.standings.sort(key=lambda each: not each.HasField("authorization"))
    for field, spoil in WRONG:
        wrong = pb.HostDossier()
        wrong.CopyFrom(taken)
        spoil(wrong)
        with refused(reasons.ERROR_REASON_INVALID_FIELD, field):
            await take_in(consent, newcomer, wrong)
    assert dossier_name(newcomer) not in {dossier_name(each) for each in ids(await listed(consent))}


RIGHT, FIELD = reasons.ERROR_REASON_RIGHT_DENIED, reasons.ERROR_REASON_INVALID_FIELD


@pytest.mark.parametrize(
    ("actor", "reason"),
    [
        (professional(), RIGHT),
        (certificate(STRUCTURE), RIGHT),
        (operator(), RIGHT),
        (patient(7), RIGHT),
        (taking_over("south"), FIELD),
        (taking_over("north", patient_health_id=7), reasons.ERROR_REASON_ACTING_CONTEXT_INVALID),
    ],
    ids=["professional", "certificate", "operator", "patient", "another-host", "for-one-patient"],
)
async def test_nobody_else_takes_anything_in(
    consent: Consent, actor: ActingContext, reason: reasons.ErrorReason.ValueType
) -> None:
    _, taken = await handed_over(consent, int(new_health_id()))
    with refused(reason):
        await take_in(consent, int(new_health_id()), taken, actor)


async def test_who_takes_a_host_over_feeds_its_dossiers_and_opens_none(consent: Consent) -> None:
    mine, theirs = await of_north(consent), await consent.open()
    assert (await consent.check(mine, NORTH, pb.ACTION_SUBMIT)).permitted
    assert (await consent.check(theirs, NORTH, pb.ACTION_SUBMIT)).reason == reasons.ERROR_REASON_DOSSIER_NOT_FOUND
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await consent.open(actor=NORTH)
    for action in (pb.ACTION_DELETE, pb.ACTION_MASK, pb.ACTION_UNMASK, pb.ACTION_MAKE_VISIBLE):
        assert (await consent.check(mine, NORTH, action)).reason == reasons.ERROR_REASON_RIGHT_DENIED
