"""Where document looks for a caller's dossiers by their last document (TD0.4), and which of them it may list."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.held import HeldDossiers
from services.runtime.identifiers import dossier_name
from tests.consent_service import (
    BREAK_GLASS,
    NOW,
    REGULATION,
    YEAR,
    Consent,
    certificate,
    grantee_of,
    patient,
    professional,
    staff,
    structure_grantee,
)
from tests.integration.test_consent_life import prefer
from tests.integration.test_consent_links import told
from tests.refusals import refused

HELD = pb.ACTION_SEARCH_HELD


def request(actor: ActingContext) -> pb.ListHeldDossiersRequest:
    return pb.ListHeldDossiersRequest(context=context_pb2.ItemContext(actor=actor, request_id="request-x"))


async def held(consent: Consent, actor: ActingContext) -> pb.ListHeldDossiersResponse:
    answer: pb.ListHeldDossiersResponse = await consent.do("ListHeldDossiers", request(actor), ActingContext(), 0)
    return answer


async def reason(consent: Consent, health_id: int, actor: ActingContext) -> int:
    return int((await consent.check(health_id, actor, HELD)).reason)


async def test_the_dossiers_are_named_newest_authorisation_first_valid_or_not(consent: Consent) -> None:
    dossiers = []
    for day in range(4):
        consent.now[0] = NOW + timedelta(days=day)
        dossiers.append(await consent.open())
        await consent.grant(dossiers[-1])
    await consent.revoke(dossiers[1])
    await consent.block(dossiers[2], structure_grantee())
    consent.now[0] = NOW + YEAR + timedelta(hours=1)
    answer = await held(consent, professional())
    assert answer.decision.permitted
    assert [each.health_id for each in answer.held] == [dossiers[3], dossiers[2], dossiers[0]]
    assert await reason(consent, dossiers[3], professional()) == 0
    assert await reason(consent, dossiers[2], professional()) == reasons.ERROR_REASON_BLOCKED
    assert await reason(consent, dossiers[1], professional()) == reasons.ERROR_REASON_AUTHORIZATION_MISSING
    assert await reason(consent, dossiers[0], professional()) == reasons.ERROR_REASON_AUTHORIZATION_EXPIRED


@pytest.mark.parametrize("actor", [staff(), certificate(), patient(1 << 50)], ids=["staff", "certificate", "patient"])
async def test_who_may_not_search_is_named_nothing(consent: Consent, actor: ActingContext) -> None:
    dossier = await consent.open()
    await consent.grant(dossier, staff())
    answer = await held(consent, actor)
    assert not answer.decision.permitted
    assert not answer.held
    wrong = (reasons.ERROR_REASON_RIGHT_DENIED, reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH)
    assert answer.decision.reason in wrong
    assert await reason(consent, dossier, actor) in wrong


@pytest.mark.parametrize("mode", [BREAK_GLASS, REGULATION])
async def test_no_emergency_opens_a_list_it_shows_what_it_shows_in_normal_mode(
    consent: Consent, mode: context_pb2.AccessMode.ValueType
) -> None:
    mine, others, opposed, of_structure, shown = [
        await consent.open(break_glass_opposed=opposed, regulation_opposed=opposed)
        for opposed in (False, False, True, False, False)
    ]
    for dossier in (mine, opposed, shown):
        await consent.grant(dossier)
    await consent.grant(of_structure, staff())
    await prefer(consent, shown, patient(shown), masked_shown_in_emergency=True)
    actor = professional(mode=mode)
    assert (await consent.check(others, actor, pb.ACTION_SEARCH)).permitted, "the mode would let in"
    assert await reason(consent, others, actor) == reasons.ERROR_REASON_AUTHORIZATION_MISSING
    assert await reason(consent, of_structure, actor) == reasons.ERROR_REASON_AUTHORIZATION_MISSING
    assert {each.health_id for each in (await held(consent, actor)).held} == {mine, opposed, shown}
    for dossier in (mine, opposed, shown):
        listed = await consent.check(dossier, actor, HELD)
        assert listed == await consent.check(dossier, professional(), HELD)
        assert listed.basis == audit_pb2.ACCESS_BASIS_AUTHORIZATION
    in_it = await consent.check(shown, actor, pb.ACTION_SEARCH)
    assert in_it.filter.masked == pb.MASKED_VIEW_ALL, "a search in it is an access in the emergency"
    assert (await consent.check(shown, actor, HELD)).filter.masked == pb.MASKED_VIEW_OWN
    page = await consent.do("ListAccessible", pb.ListAccessibleRequest(), actor, 0)
    assert {each.name for each in page.dossiers} == {dossier_name(each) for each in (mine, opposed, shown)}


async def test_a_closed_dossier_is_not_listed_and_a_merged_one_by_the_one_it_went_to(consent: Consent) -> None:
    closed, merged, survivor = [await consent.open() for _ in range(3)]
    for dossier in (closed, merged, survivor):
        await consent.grant(dossier)
    await consent.close(closed)
    await told(consent, 1, (survivor, merged))
    named = {each.health_id: list(each.linked) for each in (await held(consent, professional())).held}
    assert named == {closed: [], merged: [survivor], survivor: [merged]}
    assert await reason(consent, closed, professional()) == reasons.ERROR_REASON_DOSSIER_CLOSED
    assert await reason(consent, merged, professional()) == reasons.ERROR_REASON_DOSSIER_MERGED
    decision = await consent.check(survivor, professional(), HELD)
    assert list(decision.linked) == [merged]
    await consent.block(merged, grantee_of())
    assert await reason(consent, survivor, professional()) == reasons.ERROR_REASON_BLOCKED


async def test_more_than_can_be_looked_through_is_said_unless_what_is_left_out_has_expired(consent: Consent) -> None:
    for day in (0, 1, 200):
        consent.now[0] = NOW + timedelta(days=day)
        await consent.grant(await consent.open())
    few = HeldDossiers(consent.pool, consent.checks, YEAR, lambda: consent.now[0], most=2)
    with refused(reasons.ERROR_REASON_SEARCH_TOO_BROAD):
        await few.name(request(professional()), 5.0)
    consent.now[0] = NOW + YEAR
    assert len((await few.name(request(professional()), 5.0)).held) == 2
