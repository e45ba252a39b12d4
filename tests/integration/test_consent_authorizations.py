"""Whom a patient lets in, on a real PostgreSQL: authorisations, blocks and emergencies."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name
from tests.consent_service import (
    BREAK_GLASS,
    NOW,
    NURSE,
    REGULATION,
    STRUCTURE,
    YEAR,
    Consent,
    grantee_of,
    patient,
    professional,
    staff,
    structure_grantee,
)
from tests.refusals import refused

# --- authorisations ---------------------------------------------------------------------------------------------------


async def test_a_professional_declares_himself_for_a_year_and_then_reads(consent: Consent) -> None:
    dossier = await consent.open()
    before = await consent.check(dossier)
    assert before.reason == reasons.ERROR_REASON_AUTHORIZATION_MISSING
    granted = (await consent.grant(dossier)).authorization
    assert granted.expire_time.ToDatetime() - granted.grant_time.ToDatetime() == YEAR
    decision = await consent.check(dossier)
    assert (decision.permitted, decision.epoch) == (True, 2)


async def test_after_a_year_the_authorisation_has_expired_and_can_be_renewed(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    consent.now[0] = NOW + YEAR - timedelta(seconds=1)
    assert (await consent.check(dossier)).permitted
    consent.now[0] = NOW + YEAR
    assert (await consent.check(dossier)).reason == reasons.ERROR_REASON_AUTHORIZATION_EXPIRED
    assert (await consent.get(dossier)).caller_authorization == pb.AUTHORIZATION_STATE_EXPIRED
    await consent.grant(dossier)
    assert (await consent.check(dossier)).permitted


async def test_declaring_oneself_twice_is_refused(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    with refused(reasons.ERROR_REASON_AUTHORIZATION_EXISTS):
        await consent.grant(dossier)


async def test_many_declarations_at_once_are_one_authorisation(consent: Consent) -> None:
    dossier = await consent.open()
    outcomes = await asyncio.gather(*(consent.grant(dossier) for _ in range(12)), return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    assert await consent.pool.fetchval("SELECT epoch FROM dossier") == 2


async def test_without_the_patients_consent_to_the_act_nobody_declares_himself(consent: Consent) -> None:
    dossier = await consent.open()
    with pytest.raises(DmpError) as caught:
        await consent.grant(dossier, consented=False)
    assert [violation.field for violation in caught.value.fields] == ["patient_consented"]


async def test_nobody_declares_himself_in_an_emergency_mode(consent: Consent) -> None:
    dossier = await consent.open()
    for mode in (BREAK_GLASS, REGULATION):
        with refused(reasons.ERROR_REASON_RIGHT_DENIED):
            await consent.grant(dossier, professional(mode=mode))


async def test_a_staff_card_authorises_its_structure_and_with_it_the_professionals_there(consent: Consent) -> None:
    dossier = await consent.open()
    granted = (await consent.grant(dossier, staff())).authorization
    assert (granted.grantee.kind, granted.grantee.id) == (pb.GRANTEE_KIND_STRUCTURE, STRUCTURE)
    assert (await consent.check(dossier, professional(NURSE, "60"))).permitted
    elsewhere = await consent.check(dossier, professional(NURSE, "60", structure=""))
    assert elsewhere.reason == reasons.ERROR_REASON_AUTHORIZATION_MISSING


async def test_only_the_patient_names_another(consent: Consent) -> None:
    dossier = await consent.open()
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await consent.grant(dossier, grantee=grantee_of(NURSE))
    await consent.grant(dossier, patient(dossier), grantee=grantee_of(NURSE), consented=False)
    assert (await consent.check(dossier, professional(NURSE, "60", structure=""))).permitted
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await consent.revoke(dossier, grantee=grantee_of(NURSE))


async def test_the_patient_must_name_someone(consent: Consent) -> None:
    dossier = await consent.open()
    with pytest.raises(DmpError) as caught:
        await consent.grant(dossier, patient(dossier))
    assert [violation.field for violation in caught.value.fields] == ["grantee"]


async def test_a_structures_identifier_is_not_taken_for_a_professionals(consent: Consent) -> None:
    dossier = await consent.open()
    with pytest.raises(DmpError) as caught:
        await consent.block(dossier, pb.Grantee(kind=pb.GRANTEE_KIND_PROFESSIONAL, id=STRUCTURE))
    assert [violation.field for violation in caught.value.fields] == ["grantee.id"]


async def test_another_patient_has_no_say(consent: Consent) -> None:
    dossier, stranger = await consent.open(), await consent.open()
    with refused(reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH):
        await consent.grant(dossier, patient(stranger), grantee=grantee_of())
    assert (await consent.check(dossier, patient(stranger))).reason == reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH


async def test_the_attending_physician_sees_masked_documents_and_all_traces(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier, attending=True)
    decision = await consent.check(dossier)
    assert decision.filter.masked == pb.MASKED_VIEW_ALL
    traces = await consent.check(dossier, action=pb.ACTION_READ_TRACES)
    assert traces.filter.traces == pb.TRACE_VIEW_ALL
    assert (await consent.get(dossier)).caller_is_attending_physician


async def test_only_a_physician_becomes_attending_physician(consent: Consent) -> None:
    dossier = await consent.open()
    for actor, named in ((professional(NURSE, "60"), None), (patient(dossier), grantee_of())):
        with pytest.raises(DmpError) as caught:
            await consent.grant(dossier, actor, attending=True, grantee=named)
        assert [violation.field for violation in caught.value.fields] == ["attending_physician"]


async def test_a_revocation_is_seen_by_the_next_check(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    assert (await consent.check(dossier)).permitted
    epoch = await consent.revoke(dossier, patient(dossier), grantee=grantee_of())
    decision = await consent.check(dossier)
    assert (decision.permitted, decision.epoch) == (False, epoch)
    with refused(reasons.ERROR_REASON_AUTHORIZATION_MISSING):
        await consent.revoke(dossier)


async def test_no_check_that_begins_after_a_revocation_is_answered_from_before_it(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    revoked = asyncio.Event()
    wrong: list[int] = []

    async def keep_reading() -> None:
        for _ in range(60):
            began_after = revoked.is_set()
            decision = await consent.check(dossier)
            if began_after and decision.permitted:
                wrong.append(decision.epoch)

    async def revoke() -> None:
        await asyncio.sleep(0.02)
        await consent.revoke(dossier)
        revoked.set()

    await asyncio.gather(*(keep_reading() for _ in range(8)), revoke())
    assert wrong == []


# --- blocks -----------------------------------------------------------------------------------------------------------


async def test_a_blocked_professional_gets_nothing_even_by_break_glass(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    await consent.block(dossier, grantee_of())
    for mode in (context_pb2.ACCESS_MODE_NORMAL, BREAK_GLASS, REGULATION):
        for action in (pb.ACTION_READ, pb.ACTION_SEARCH, pb.ACTION_SUBMIT, pb.ACTION_READ_TRACES):
            decision = await consent.check(dossier, professional(mode=mode), action)
            assert (decision.permitted, decision.reason) == (False, reasons.ERROR_REASON_BLOCKED)
    with refused(reasons.ERROR_REASON_BLOCKED):
        await consent.grant(dossier)
    assert (await consent.get(dossier)).caller_authorization == pb.AUTHORIZATION_STATE_FORBIDDEN


async def test_blocking_a_structure_blocks_whoever_acts_in_it(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    await consent.block(dossier, structure_grantee())
    assert (await consent.check(dossier)).reason == reasons.ERROR_REASON_BLOCKED
    assert (await consent.check(dossier, professional(structure=""))).permitted


async def test_lifting_a_block_gives_no_authorisation_back(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    await consent.block(dossier, grantee_of())
    await consent.unblock(dossier, grantee_of())
    assert (await consent.check(dossier)).reason == reasons.ERROR_REASON_AUTHORIZATION_MISSING
    await consent.grant(dossier)
    assert (await consent.check(dossier)).permitted


async def test_the_patient_cannot_authorise_whom_he_blocks(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.block(dossier, grantee_of())
    with refused(reasons.ERROR_REASON_BLOCKED):
        await consent.grant(dossier, patient(dossier), grantee=grantee_of())


async def test_blocking_and_unblocking_twice_change_nothing(consent: Consent) -> None:
    dossier = await consent.open()
    epoch = await consent.block(dossier, grantee_of())
    assert await consent.block(dossier, grantee_of()) == epoch
    lifted = await consent.unblock(dossier, grantee_of())
    assert await consent.unblock(dossier, grantee_of()) == lifted == epoch + 1
    assert await consent.pool.fetchval("SELECT count(*) FROM consent_event") == lifted
    assert [event.action for event in await consent.told()].count("authorization.block") == 2


async def test_only_the_patient_blocks(consent: Consent) -> None:
    dossier = await consent.open()
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await consent.block(dossier, grantee_of(NURSE), professional())


# --- emergencies ------------------------------------------------------------------------------------------------------


async def test_break_glass_needs_no_authorisation_but_a_reason(consent: Consent) -> None:
    dossier = await consent.open()
    assert (await consent.check(dossier, professional(mode=BREAK_GLASS))).permitted
    silent = await consent.check(dossier, professional(mode=BREAK_GLASS, reason="  "))
    assert silent.reason == reasons.ERROR_REASON_ACTING_CONTEXT_INVALID
    with refused(reasons.ERROR_REASON_ACTING_CONTEXT_INVALID):
        await consent.get(dossier, professional(mode=BREAK_GLASS, reason=""))


async def test_each_opposition_closes_its_own_emergency_mode(consent: Consent) -> None:
    break_glass_opposed = await consent.open(break_glass_opposed=True)
    regulation_opposed = await consent.open(regulation_opposed=True)
    opposed = reasons.ERROR_REASON_EMERGENCY_OPPOSED
    assert (await consent.check(break_glass_opposed, professional(mode=BREAK_GLASS))).reason == opposed
    assert (await consent.check(break_glass_opposed, professional(mode=REGULATION))).permitted
    assert (await consent.check(regulation_opposed, professional(mode=REGULATION))).reason == opposed
    assert (await consent.check(regulation_opposed, professional(mode=BREAK_GLASS))).permitted


async def test_masked_documents_stay_hidden_in_an_emergency_unless_the_patient_allowed_them(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier, attending=True)
    actor = professional(mode=BREAK_GLASS)
    assert (await consent.check(dossier, actor)).filter.masked == pb.MASKED_VIEW_NONE
    await consent.pool.execute("UPDATE dossier SET masked_in_emergency = true")
    assert (await consent.check(dossier, actor)).filter.masked == pb.MASKED_VIEW_ALL


# --- the care team, single visits, the role of MT ---------------------------------------------------------------------


async def test_an_authorisation_for_a_visit_ends_with_it_and_a_longer_one_can_follow(consent: Consent) -> None:
    dossier = await consent.open()
    visit = await consent.grant(dossier, term=pb.AUTHORIZATION_TERM_VISIT)
    length = visit.authorization.expire_time.ToDatetime() - visit.authorization.grant_time.ToDatetime()
    assert length == consent.terms.visit_validity
    await consent.grant(dossier)
    consent.now[0] = NOW + consent.terms.visit_validity
    assert (await consent.check(dossier)).permitted
    with refused(reasons.ERROR_REASON_AUTHORIZATION_EXISTS):
        await consent.grant(dossier, term=pb.AUTHORIZATION_TERM_VISIT)


async def test_outside_the_care_team_each_visit_needs_the_patients_consent(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier, term=pb.AUTHORIZATION_TERM_VISIT)
    consent.now[0] = NOW + consent.terms.visit_validity
    assert (await consent.check(dossier)).reason == reasons.ERROR_REASON_AUTHORIZATION_EXPIRED
    for term in (pb.AUTHORIZATION_TERM_VISIT, pb.AUTHORIZATION_TERM_YEAR):
        with refused(reasons.ERROR_REASON_INVALID_FIELD):
            await consent.grant(dossier, term=term, consented=False)
    with refused(reasons.ERROR_REASON_INVALID_FIELD):
        await consent.grant(dossier, term=pb.AUTHORIZATION_TERM_VISIT, care_team=True)


async def test_a_member_of_the_care_team_renews_within_the_consent_that_made_him_one(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier, care_team=True)
    consent.now[0] = NOW + YEAR
    assert (await consent.grant(dossier, consented=False)).authorization.care_team
    await consent.revoke(dossier)
    with refused(reasons.ERROR_REASON_INVALID_FIELD):
        await consent.grant(dossier, consented=False)


async def test_a_structure_in_the_care_team_brings_its_professionals(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier, staff(), care_team=True)
    await consent.grant(dossier, consented=False)
    with refused(reasons.ERROR_REASON_INVALID_FIELD):
        await consent.grant(dossier, professional(NURSE, "60", structure=""), consented=False)


async def leave(consent: Consent, dossier: int, actor: ActingContext, grantee: pb.Grantee | None = None) -> None:
    request = pb.RemoveAttendingPhysicianRequest(parent=dossier_name(dossier), grantee=grantee)
    await consent.do("RemoveAttendingPhysician", request, actor, dossier)


async def test_a_physician_stops_being_mt_and_keeps_his_access(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier, attending=True)
    assert (await consent.check(dossier)).filter.masked == pb.MASKED_VIEW_ALL
    await leave(consent, dossier, professional())
    decision = await consent.check(dossier)
    assert (decision.permitted, decision.filter.masked) == (True, pb.MASKED_VIEW_OWN)
    assert not (await consent.get(dossier)).caller_is_attending_physician
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await leave(consent, dossier, professional())


async def test_the_patient_takes_the_role_of_mt_from_a_physician(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier, attending=True)
    await leave(consent, dossier, patient(dossier), grantee_of())
    assert (await consent.check(dossier)).filter.masked == pb.MASKED_VIEW_OWN
    with refused(reasons.ERROR_REASON_AUTHORIZATION_MISSING):
        await leave(consent, dossier, patient(dossier), grantee_of(NURSE))
