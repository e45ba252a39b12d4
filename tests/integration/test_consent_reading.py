"""Lists, explanations and history on a real PostgreSQL, and who may read them."""

from __future__ import annotations

from datetime import timedelta

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.mapping import write_time
from services.runtime.identifiers import dossier_name
from tests.consent_service import (
    BREAK_GLASS,
    NOW,
    NURSE,
    OTHER_STRUCTURE,
    PHYSICIAN,
    STRUCTURE,
    YEAR,
    Consent,
    certificate,
    grantee_of,
    operator,
    patient,
    professional,
    staff,
    structure_grantee,
)
from tests.refusals import refused


async def standings(consent: Consent, health_id: int, actor: ActingContext) -> dict[str, str]:
    """TD1.6, page by page."""
    told: dict[str, str] = {}
    token = ""
    while True:
        request = pb.ListAuthorizationsRequest(parent=dossier_name(health_id), page_size=1, page_token=token)
        page = await consent.do("ListAuthorizations", request, actor, health_id)
        told |= {each.grantee.id: pb.AuthorizationState.Name(each.state)[20:] for each in page.standings}
        token = page.next_page_token
        if not token:
            return told


async def accessible(consent: Consent, actor: ActingContext, **asked: object) -> list[str]:
    names: list[str] = []
    token = ""
    while True:
        request = pb.ListAccessibleRequest(page_size=2, page_token=token, **asked)  # type: ignore[arg-type]
        page = await consent.do("ListAccessible", request, actor, 0)
        names += [each.name for each in page.dossiers]
        token = page.next_page_token
        if not token:
            return names


async def explain(
    consent: Consent,
    health_id: int,
    actor: ActingContext,
    action: pb.Action.ValueType = pb.ACTION_READ,
    **asked: object,
) -> pb.ExplainAccessResponse:
    request = pb.ExplainAccessRequest(name=dossier_name(health_id), action=action, **asked)  # type: ignore[arg-type]
    response: pb.ExplainAccessResponse = await consent.do("ExplainAccess", request, actor, health_id)
    return response


def party(subject: str = PHYSICIAN, profession: str = "10", **more: object) -> pb.ExplainedParty:
    return pb.ExplainedParty(
        kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
        subject=subject,
        profession=profession,
        structure=STRUCTURE,
        **more,  # type: ignore[arg-type]
    )


async def test_who_is_authorised_and_who_is_blocked_is_listed_page_by_page(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier, staff())
    consent.now[0] = NOW + YEAR
    await consent.grant(dossier)
    await consent.block(dossier, grantee_of(NURSE))
    told = {PHYSICIAN: "VALID", NURSE: "FORBIDDEN", STRUCTURE: "EXPIRED"}
    assert await standings(consent, dossier, patient(dossier)) == told
    assert await standings(consent, dossier, professional()) == told
    assert [event.action for event in consent.events.recorded][-1] == "authorization.list"


async def test_the_list_is_not_for_emergencies_strangers_or_the_blocked(consent: Consent) -> None:
    dossier = await consent.open()
    with refused(reasons.ERROR_REASON_AUTHORIZATION_MISSING):
        await standings(consent, dossier, professional())
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await standings(consent, dossier, professional(mode=BREAK_GLASS))
    await consent.block(dossier, grantee_of())
    with refused(reasons.ERROR_REASON_BLOCKED):
        await standings(consent, dossier, professional())


async def test_the_dossiers_that_one_may_enter_are_listed_newest_first_and_only_those(consent: Consent) -> None:
    dossiers = []
    for day in range(5):
        consent.now[0] = NOW + timedelta(days=day)
        dossiers.append(await consent.open())
        await consent.grant(dossiers[-1])
    await consent.close(dossiers[0])
    await consent.block(dossiers[1], structure_grantee())
    await consent.revoke(dossiers[2])
    before = len(consent.events.recorded)
    assert await accessible(consent, professional()) == [dossier_name(dossiers[4]), dossier_name(dossiers[3])]
    recorded = consent.events.recorded[before:]
    assert {(event.action, event.health_id) for event in recorded if event.health_id} == {
        ("dossier.list_accessible", dossiers[4]),
        ("dossier.list_accessible", dossiers[3]),
    }
    since = write_time(NOW + timedelta(days=4))
    assert await accessible(consent, professional(), since=since) == [dossier_name(dossiers[4])]
    consent.now[0] = NOW + YEAR + timedelta(days=3, hours=1)
    assert await accessible(consent, professional()) == [dossier_name(dossiers[4])]


async def test_a_structure_lists_its_own_and_a_certificate_says_since_when(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier, staff())
    assert await accessible(consent, staff()) == [dossier_name(dossier)]
    assert await accessible(consent, staff(OTHER_STRUCTURE)) == []
    with refused(reasons.ERROR_REASON_INVALID_FIELD):
        await accessible(consent, certificate())
    assert await accessible(consent, certificate(), since=write_time(NOW)) == [dossier_name(dossier)]
    with refused(reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH):
        await accessible(consent, patient(dossier))


async def test_an_explanation_says_what_the_check_says_in_two_languages(consent: Consent) -> None:
    dossier = await consent.open()
    for number, expected in enumerate((reasons.ERROR_REASON_AUTHORIZATION_MISSING, reasons.ERROR_REASON_UNSPECIFIED)):
        explained = await explain(consent, dossier, patient(dossier), party=party())
        assert explained.decision.reason == expected
        checked = await consent.check(dossier)
        assert explained.decision == checked
        assert all(rule.text_en and rule.text_fr for rule in explained.rules)
        if number == 0:
            await consent.grant(dossier)
    stranger = party(NURSE, "60")
    stranger.structure = OTHER_STRUCTURE
    refusing = (await explain(consent, dossier, operator(), party=stranger)).rules[-1]
    assert (refusing.rule, refusing.outcome) == ("authorization", pb.RULE_OUTCOME_REFUSED)
    await consent.block(dossier, grantee_of())
    blocked = (await explain(consent, dossier, patient(dossier), party=party())).rules[-1]
    assert (blocked.rule, blocked.outcome) == ("blocked", pb.RULE_OUTCOME_REFUSED)
    assert "bloqué" in blocked.text_fr


async def test_a_professional_is_told_of_himself_only_and_why_even_when_blocked(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await explain(consent, dossier, professional(), party=party(NURSE, "60"))
    await consent.block(dossier, grantee_of())
    told = await explain(consent, dossier, professional())
    assert told.rules[-1].rule == "blocked"


async def test_any_past_decision_is_made_again_and_is_the_same(consent: Consent) -> None:
    dossier = await consent.open()
    decided = [await consent.check(dossier)]
    await consent.grant(dossier)
    decided.append(await consent.check(dossier))
    await consent.revoke(dossier)
    decided.append(await consent.check(dossier))
    await consent.block(dossier, grantee_of())
    decided.append(await consent.check(dossier))
    await consent.close(dossier)
    for then in decided:
        again = await explain(consent, dossier, operator(), party=party(), as_of_epoch=then.epoch)
        assert again.decision == then
    with refused(reasons.ERROR_REASON_EPOCH_UNKNOWN):
        await explain(consent, dossier, operator(), party=party(), as_of_epoch=99)


async def test_an_explanation_at_an_instant_judges_expiries_by_it(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    later = write_time(NOW + YEAR)
    told = await explain(consent, dossier, patient(dossier), party=party(), as_of_epoch=2, as_of_time=later)
    assert told.decision.reason == reasons.ERROR_REASON_AUTHORIZATION_EXPIRED


async def test_the_history_says_who_did_what_as_far_as_one_may_read_traces(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    await consent.block(dossier, grantee_of(NURSE))

    async def kinds(actor: ActingContext) -> list[tuple[str, str]]:
        told: list[tuple[str, str]] = []
        token = ""
        while True:
            request = pb.ListConsentEventsRequest(parent=dossier_name(dossier), page_size=1, page_token=token)
            page = await consent.do("ListConsentEvents", request, actor, dossier)
            told += [(event.kind, event.actor) for event in page.events]
            token = page.next_page_token
            if not token:
                return told

    whole = [("authorization.block", "patient"), ("authorization.grant", PHYSICIAN), ("dossier.open", PHYSICIAN)]
    assert await kinds(patient(dossier)) == whole
    assert await kinds(operator()) == whole
    assert await kinds(professional()) == whole[1:]
    assert consent.events.recorded[-1].outcome == audit_pb2.OUTCOME_SUCCESS


async def test_nothing_is_told_that_cannot_be_recorded(consent: Consent) -> None:
    dossier = await consent.open()
    consent.events.down = True
    for asked in (explain(consent, dossier, patient(dossier)), standings(consent, dossier, patient(dossier))):
        with refused(reasons.ERROR_REASON_AUDIT_UNAVAILABLE):
            await asked
