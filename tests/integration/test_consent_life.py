"""The whole life of a dossier on a real PostgreSQL: opposition, reopening, death, archive, preferences, home."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.mapping import write_time
from services.consent.terms import years_after
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, new_health_id, person_name
from tests.consent_service import (
    BREAK_GLASS,
    NOW,
    NURSE,
    Consent,
    consent_record,
    grantee_of,
    operator,
    patient,
    professional,
    representative,
)
from tests.refusals import refused

REGISTRY = ActingContext(actor_kind=context_pb2.ACTOR_KIND_SYSTEM, subject="registry")


async def reopen(consent: Consent, health_id: int, actor: ActingContext | None = None) -> pb.Dossier:
    request = pb.ReopenDossierRequest(name=dossier_name(health_id), consent=consent_record())
    response: pb.ReopenDossierResponse = await consent.do(
        "ReopenDossier", request, actor or patient(health_id), health_id
    )
    return response.dossier


async def prefer(consent: Consent, health_id: int, actor: ActingContext, **chosen: bool) -> pb.Dossier:
    request = pb.UpdatePreferencesRequest(name=dossier_name(health_id), **chosen)  # type: ignore[arg-type]
    response: pb.UpdatePreferencesResponse = await consent.do("UpdatePreferences", request, actor, health_id)
    return response.dossier


async def die(consent: Consent, health_id: int, actor: ActingContext = REGISTRY) -> pb.Dossier:
    request = pb.RecordDeathRequest(name=dossier_name(health_id), death_time=write_time(NOW - timedelta(days=1)))
    response: pb.RecordDeathResponse = await consent.do("RecordDeath", request, actor, health_id)
    return response.dossier


async def oppose(consent: Consent, health_id: int, actor: ActingContext, *, consented: bool = False) -> pb.Dossier:
    request = pb.OpposeOpeningRequest(name=dossier_name(health_id), patient_consented=consented)
    response: pb.OpposeOpeningResponse = await consent.do("OpposeOpening", request, actor, health_id)
    return response.dossier


async def withdraw(consent: Consent, health_id: int, actor: ActingContext) -> None:
    request = pb.WithdrawOppositionRequest(name=dossier_name(health_id), patient_consented=True)
    await consent.do("WithdrawOpposition", request, actor, health_id)


# --- opposition before any opening ------------------------------------------------------------------------------------


async def test_who_wants_no_dossier_gets_none_until_he_says_otherwise(consent: Consent) -> None:
    person = new_health_id()
    assert (await oppose(consent, person, patient(person))).state == pb.DOSSIER_STATE_OPPOSED
    with refused(reasons.ERROR_REASON_OPENING_OPPOSED):
        await consent.open(person)
    with refused(reasons.ERROR_REASON_DOSSIER_NOT_FOUND):
        await consent.get(person)
    assert (await consent.check(person, action=pb.ACTION_SUBMIT)).reason == reasons.ERROR_REASON_DOSSIER_NOT_FOUND
    await withdraw(consent, person, professional())
    await consent.open(person)
    assert (await consent.get(person)).dossier.epoch == 3


async def test_a_professional_records_an_opposition_that_he_was_told_of_and_no_other(consent: Consent) -> None:
    person = new_health_id()
    with refused(reasons.ERROR_REASON_INVALID_FIELD):
        await oppose(consent, person, professional())
    await oppose(consent, person, professional(), consented=True)
    again = await oppose(consent, person, patient(person))
    assert again.epoch == 1, "opposing twice changes nothing"


async def test_an_open_dossier_is_not_opposed_and_nothing_is_withdrawn_that_is_not_there(consent: Consent) -> None:
    dossier = await consent.open()
    with refused(reasons.ERROR_REASON_DOSSIER_ALREADY_EXISTS):
        await oppose(consent, dossier, patient(dossier))
    with refused(reasons.ERROR_REASON_NOTHING_TO_WITHDRAW):
        await withdraw(consent, dossier, patient(dossier))


async def test_nobody_else_speaks_for_a_person_without_a_dossier(consent: Consent) -> None:
    person, other = new_health_id(), new_health_id()
    with refused(reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH):
        await oppose(consent, person, patient(other))
    with refused(reasons.ERROR_REASON_REPRESENTATION_MISSING):
        await oppose(consent, person, representative(other, person))


async def test_of_an_opening_and_an_opposition_at_once_one_comes_first(consent: Consent) -> None:
    for _ in range(10):
        person = new_health_id()
        ends = await asyncio.gather(
            consent.open(person), oppose(consent, person, patient(person)), return_exceptions=True
        )
        refusals = [end.reason_name for end in ends if isinstance(end, DmpError)]
        assert len(refusals) == 1
        assert refusals[0] in ("OPENING_OPPOSED", "DOSSIER_ALREADY_EXISTS")


# --- consent of a minor -----------------------------------------------------------------------------------------------


async def test_a_minors_consent_names_who_gave_it_and_who_collected_it(consent: Consent) -> None:
    mother = new_health_id()
    record = consent_record(given_by=pb.CONSENT_GIVER_REPRESENTATIVE)
    child = new_health_id()
    request = pb.OpenDossierRequest(name=dossier_name(child), consent=record)
    with pytest.raises(DmpError) as caught:
        await consent.do("OpenDossier", request, professional(), child)
    assert [violation.field for violation in caught.value.fields] == ["consent.representative"]
    request.consent.representative = person_name(mother)
    await consent.do("OpenDossier", request, professional(), child)
    row = await consent.pool.fetchrow("SELECT consent_representative, consent_collector FROM dossier")
    assert row is not None
    assert tuple(row) == (mother, professional().subject)


# --- reopening --------------------------------------------------------------------------------------------------------


async def test_reopening_brings_back_what_was_archived_blocks_and_authorisations_too(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    await consent.block(dossier, grantee_of(NURSE))
    await consent.close(dossier)
    assert (await reopen(consent, dossier)).state == pb.DOSSIER_STATE_OPEN
    assert (await consent.check(dossier)).permitted
    assert (await consent.check(dossier, professional(NURSE, "60"))).reason == reasons.ERROR_REASON_BLOCKED
    assert await consent.pool.fetchval("SELECT count(*) FROM deadline WHERE what = 'destruction'") == 0


async def test_what_is_open_is_not_reopened_and_a_blocked_professional_reopens_nothing(consent: Consent) -> None:
    dossier = await consent.open()
    with refused(reasons.ERROR_REASON_DOSSIER_ALREADY_EXISTS):
        await reopen(consent, dossier, professional())
    await consent.block(dossier, grantee_of())
    await consent.close(dossier)
    with refused(reasons.ERROR_REASON_BLOCKED):
        await reopen(consent, dossier, professional())
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await reopen(consent, dossier, professional(NURSE, "60", mode=BREAK_GLASS))


# --- death and archive ------------------------------------------------------------------------------------------------


async def test_death_closes_and_only_an_operator_mends_a_wrong_one(consent: Consent) -> None:
    dossier = await consent.open()
    for actor in (patient(dossier), professional()):
        with refused(reasons.ERROR_REASON_RIGHT_DENIED):
            await die(consent, dossier, actor)
    closed = await die(consent, dossier)
    assert (closed.close_reason, closed.closed_by) == (pb.CLOSE_REASON_DEATH, "system")
    assert closed.HasField("death_time")
    with refused(reasons.ERROR_REASON_DOSSIER_ALREADY_CLOSED):
        await die(consent, dossier)
    for actor in (patient(dossier), professional()):
        with refused(reasons.ERROR_REASON_RIGHT_DENIED):
            await reopen(consent, dossier, actor)
    assert not (await reopen(consent, dossier, operator())).HasField("death_time")


async def test_the_death_of_who_had_closed_his_dossier_is_recorded_with_it(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.close(dossier)
    closed = await die(consent, dossier)
    assert (closed.close_reason, closed.HasField("death_time")) == (pb.CLOSE_REASON_PATIENT_REQUEST, True)


async def test_who_closed_and_until_when_the_archive_is_kept_are_told(consent: Consent) -> None:
    dossier = await consent.open()
    closed = await consent.close(dossier, professional())
    assert closed.closed_by == professional().subject
    assert closed.destroy_time.ToDatetime() == years_after(NOW, 10).replace(tzinfo=None)


async def test_on_request_the_archive_ends_within_three_months_and_a_request_can_be_taken_back(
    consent: Consent,
) -> None:
    dossier = await consent.open()
    request = pb.RequestDestructionRequest(name=dossier_name(dossier))
    with refused(reasons.ERROR_REASON_DOSSIER_NOT_CLOSED):
        await consent.do("RequestDestruction", request, patient(dossier), dossier)
    await consent.close(dossier)
    asked = (await consent.do("RequestDestruction", _again(request), patient(dossier), dossier)).dossier
    assert asked.destruction_requested
    assert asked.destroy_time.ToDatetime() <= (NOW + timedelta(days=90)).replace(tzinfo=None)
    twice = (await consent.do("RequestDestruction", _again(request), patient(dossier), dossier)).dossier
    assert twice.epoch == asked.epoch
    keep = pb.WithdrawDestructionRequest(name=dossier_name(dossier))
    kept = (await consent.do("WithdrawDestruction", keep, patient(dossier), dossier)).dossier
    assert kept.destroy_time.ToDatetime() == years_after(NOW, 10).replace(tzinfo=None)
    with refused(reasons.ERROR_REASON_NOTHING_TO_WITHDRAW):
        await consent.do("WithdrawDestruction", _again(keep), patient(dossier), dossier)
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await consent.do("RequestDestruction", _again(request), professional(), dossier)


# --- preferences and home ---------------------------------------------------------------------------------------------


async def test_the_patient_changes_what_holds_in_emergencies_at_once(consent: Consent) -> None:
    dossier = await consent.open()
    emergency = professional(mode=BREAK_GLASS)
    assert (await consent.check(dossier, emergency)).filter.masked == pb.MASKED_VIEW_NONE
    await prefer(consent, dossier, patient(dossier), masked_shown_in_emergency=True)
    assert (await consent.check(dossier, emergency)).filter.masked == pb.MASKED_VIEW_ALL
    await prefer(consent, dossier, patient(dossier), break_glass_opposed=True)
    assert (await consent.check(dossier, emergency)).reason == reasons.ERROR_REASON_EMERGENCY_OPPOSED
    same = await prefer(consent, dossier, patient(dossier), break_glass_opposed=True)
    assert same.epoch == 3, "what is so already changes nothing"


async def test_a_professional_changes_preferences_only_when_authorised_and_told(consent: Consent) -> None:
    dossier = await consent.open()
    with refused(reasons.ERROR_REASON_AUTHORIZATION_MISSING):
        await prefer(consent, dossier, professional(), break_glass_opposed=True, patient_consented=True)
    await consent.grant(dossier)
    with refused(reasons.ERROR_REASON_INVALID_FIELD):
        await prefer(consent, dossier, professional(), break_glass_opposed=True)
    told = await prefer(consent, dossier, professional(), break_glass_opposed=True, patient_consented=True)
    assert told.break_glass_opposed


async def test_an_operator_moves_a_dossier_and_nobody_else_does(consent: Consent) -> None:
    dossier = await consent.open()
    request = pb.MoveDossierRequest(name=dossier_name(dossier), home_host="north", region="coast")
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await consent.do("MoveDossier", request, patient(dossier), dossier)
    moved = (await consent.do("MoveDossier", _again(request), operator(), dossier)).dossier
    assert (moved.home_host, moved.region, moved.epoch) == ("north", "coast", 2)


def _again(request: pb.RequestDestructionRequest | pb.WithdrawDestructionRequest | pb.MoveDossierRequest) -> object:
    request.ClearField("request_id")
    return request
