"""Who acts for a patient, on a real PostgreSQL: from when, until when, and how far."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.mapping import write_time
from services.runtime.identifiers import dossier_name, new_health_id, person_name
from tests.consent_service import (
    NOW,
    NURSE,
    Consent,
    grantee_of,
    operator,
    patient,
    professional,
    representative,
)
from tests.integration.test_consent_life import die
from tests.refusals import refused

PARENT = pb.REPRESENTATION_KIND_PARENT
MAJORITY = NOW + timedelta(days=3 * 365)


async def register(
    consent: Consent,
    child: int,
    person: int,
    actor: ActingContext | None = None,
    kind: pb.RepresentationKind.ValueType = PARENT,
    **given: Any,
) -> pb.Representative:
    if kind == PARENT:
        given.setdefault("end_time", write_time(MAJORITY))
    given.setdefault("documents_seen", True)
    request = pb.RegisterRepresentativeRequest(
        parent=dossier_name(child), person=person_name(person), kind=kind, **given
    )
    response: pb.RegisterRepresentativeResponse = await consent.do(
        "RegisterRepresentative", request, actor or professional(), child
    )
    return response.representative


async def end(consent: Consent, child: int, person: int, actor: ActingContext) -> int:
    request = pb.EndRepresentationRequest(parent=dossier_name(child), person=person_name(person))
    response: pb.EndRepresentationResponse = await consent.do("EndRepresentation", request, actor, child)
    return response.epoch


async def childhood(consent: Consent) -> tuple[int, int]:
    """A child whose physician is authorised, and its mother, registered."""
    child, mother = await consent.open(), new_health_id()
    await consent.grant(child)
    await register(consent, child, mother)
    return child, mother


async def test_a_parent_acts_for_the_child_from_the_registration_until_majority(consent: Consent) -> None:
    child, mother = await consent.open(), new_health_id()
    acting = representative(mother, child)
    assert (await consent.check(child, acting)).reason == reasons.ERROR_REASON_REPRESENTATION_MISSING
    await consent.grant(child)
    assert (await register(consent, child, mother)).active
    assert (await consent.check(child, acting)).permitted
    await consent.block(child, grantee_of(NURSE), acting)
    consent.now[0] = MAJORITY - timedelta(seconds=1)
    assert (await consent.check(child, acting)).permitted
    consent.now[0] = MAJORITY
    assert (await consent.check(child, acting)).reason == reasons.ERROR_REASON_REPRESENTATION_MISSING
    with refused(reasons.ERROR_REASON_REPRESENTATION_MISSING):
        await consent.unblock(child, grantee_of(NURSE), acting)


async def test_a_representation_begins_when_it_says(consent: Consent) -> None:
    child, guardian = await consent.open(), new_health_id()
    await consent.grant(child)
    begins = NOW + timedelta(days=7)
    registered = await register(
        consent, child, guardian, kind=pb.REPRESENTATION_KIND_GUARDIAN, start_time=write_time(begins)
    )
    assert not registered.active
    acting = representative(guardian, child)
    assert (await consent.check(child, acting)).reason == reasons.ERROR_REASON_REPRESENTATION_MISSING
    consent.now[0] = begins
    assert (await consent.check(child, acting)).permitted


async def test_once_ended_it_serves_no_request(consent: Consent) -> None:
    child, mother = await childhood(consent)
    await end(consent, child, mother, representative(mother, child))
    assert (await consent.check(child, representative(mother, child))).reason == (
        reasons.ERROR_REASON_REPRESENTATION_MISSING
    )
    with refused(reasons.ERROR_REASON_REPRESENTATION_MISSING):
        await end(consent, child, mother, professional())


async def test_nobody_makes_himself_or_another_a_representative(consent: Consent) -> None:
    child, mother = await childhood(consent)
    for actor in (patient(child), representative(mother, child)):
        with refused(reasons.ERROR_REASON_RIGHT_DENIED):
            await register(consent, child, new_health_id(), actor)
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await end(consent, child, mother, patient(child))
    with refused(reasons.ERROR_REASON_AUTHORIZATION_MISSING):
        await register(consent, child, new_health_id(), professional(NURSE, "60", structure=""))


async def test_a_registration_needs_documents_an_end_and_another_person(consent: Consent) -> None:
    child, _ = await childhood(consent)
    wrong: list[dict[str, Any]] = [
        {"documents_seen": False},
        {"end_time": None},
        {"end_time": write_time(NOW + timedelta(days=19 * 366))},
        {"end_time": write_time(NOW - timedelta(days=1))},
        {"person": child},
    ]
    for given in wrong:
        person = given.pop("person", None) or new_health_id()
        with refused(reasons.ERROR_REASON_INVALID_FIELD):
            await register(consent, child, person, **given)


async def test_a_representative_is_never_the_patient_himself_and_never_in_secret(consent: Consent) -> None:
    child, mother = await childhood(consent)
    himself = representative(child, child)
    secret = representative(mother, child)
    secret.secret_connection = True
    for acting in (himself, secret):
        assert (await consent.check(child, acting)).reason == reasons.ERROR_REASON_ACTING_CONTEXT_INVALID


async def test_what_was_given_in_a_secret_connection_is_not_told_to_representatives(consent: Consent) -> None:
    child, mother = await childhood(consent)
    secret = professional(NURSE, "60")
    secret.secret_connection = True
    await consent.grant(child, secret)
    request = pb.ListAuthorizationsRequest(parent=dossier_name(child))

    async def seen(actor: ActingContext) -> set[str]:
        answer = await consent.do("ListAuthorizations", request, actor, child)
        return {each.grantee.id for each in answer.standings}

    assert NURSE in await seen(patient(child))
    assert NURSE not in await seen(representative(mother, child))
    events = pb.ListConsentEventsRequest(parent=dossier_name(child))
    theirs = await consent.do("ListConsentEvents", events, representative(mother, child), child)
    assert NURSE not in {event.grantee.id for event in theirs.events}
    assert (await consent.check(child, secret, pb.ACTION_SUBMIT)).filter.secret


async def test_heirs_and_courts_read_the_archive_and_nothing_more(consent: Consent) -> None:
    dossier, heir, court = await consent.open(), new_health_id(), new_health_id()
    await consent.grant(dossier)
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await register(consent, dossier, heir, kind=pb.REPRESENTATION_KIND_HEIR)
    await register(consent, dossier, heir, operator(), pb.REPRESENTATION_KIND_HEIR)
    acting = representative(heir, dossier)
    assert (await consent.check(dossier, acting)).reason == reasons.ERROR_REASON_REPRESENTATION_MISSING
    await die(consent, dossier)
    await register(consent, dossier, court, operator(), pb.REPRESENTATION_KIND_COURT)
    for reader in (acting, representative(court, dossier)):
        for action in (pb.ACTION_SEARCH, pb.ACTION_READ):
            decision = await consent.check(dossier, reader, action)
            assert decision.permitted
            assert decision.filter.representative_view
        for action in (pb.ACTION_SUBMIT, pb.ACTION_MASK, pb.ACTION_READ_TRACES):
            assert (await consent.check(dossier, reader, action)).reason == reasons.ERROR_REASON_DOSSIER_CLOSED
        with refused(reasons.ERROR_REASON_RIGHT_DENIED):
            await consent.do(
                "RequestDestruction", pb.RequestDestructionRequest(name=dossier_name(dossier)), reader, dossier
            )
    assert (await consent.check(dossier, patient(dossier))).reason == reasons.ERROR_REASON_DOSSIER_CLOSED


async def test_representatives_are_listed_and_a_person_is_told_whom_he_represents(consent: Consent) -> None:
    child, mother = await childhood(consent)
    listed = await consent.do(
        "ListRepresentatives", pb.ListRepresentativesRequest(parent=dossier_name(child)), professional(), child
    )
    assert [each.person for each in listed.representatives] == [person_name(mother)]
    request = pb.ListRepresentedRequest(parent=person_name(mother))
    assert (await consent.do("ListRepresented", request, patient(mother), mother)).dossiers == [dossier_name(child)]
    consent.now[0] = MAJORITY
    assert (await consent.do("ListRepresented", request, patient(mother), mother)).dossiers == []
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await consent.do("ListRepresented", request, representative(child, mother), mother)
