"""Finding people on a real PostgreSQL: by birth date and name, by what a call centre was told, by likeness."""

from __future__ import annotations

from typing import Any

import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2
from dmp.identity.v1 import identity_pb2 as pb
from services.runtime.identifiers import person_name
from tests.identity_service import (
    DOMINIQUE,
    SOFTWARE,
    People,
    ins,
    refused,
    traits,
)

RUTH_TRAITS = traits("Nessi", "Ruth", given="Ruth Isabelle", birth_date="1977-07-14", birth_place="63220")
QUALIFIED = pb.IDENTITY_STATUS_QUALIFIED


def update(health_id: int, **changes: Any) -> pb.UpdatePersonRequest:
    return pb.UpdatePersonRequest(name=person_name(health_id), reason="corrected", **changes)


async def get(people: People, health_id: int) -> pb.Person:
    response: pb.GetPersonResponse = await people.ask("GetPerson", pb.GetPersonRequest(name=person_name(health_id)))
    return response.person


async def test_people_are_found_by_birth_date_and_three_letters_and_never_listed(people: People) -> None:
    health_id = await people.register(traits(used_name="Décourçy"), DOMINIQUE)
    for family in ("pat", "PAT-TRO", "decour", "DÉC"):
        request = pb.SearchPeopleRequest(birth_date="1979-03-28", family_name=family)
        assert [one.name for one in (await people.ask("SearchPeople", request)).people] == [person_name(health_id)]
    for request, field, rule in (
        (pb.SearchPeopleRequest(family_name="pat"), "birth_date", "search.birth_date"),
        (pb.SearchPeopleRequest(birth_date="1979-03-28", family_name="p-a"), "family_name", "search.letters"),
        (pb.SearchPeopleRequest(), "birth_date", "search.birth_date"),
    ):
        with refused("INVALID_FIELD", field, rule):
            await people.ask("SearchPeople", request)
    by_number = await people.ask("SearchPeople", pb.SearchPeopleRequest(identifier=DOMINIQUE, family_name="pat"))
    assert [one.name for one in by_number.people] == [person_name(health_id)]
    assert list(by_number.people[0].identifiers) == []
    exact = pb.SearchPeopleRequest(birth_date="1979-03-28", family_name="pat", exact=True)
    assert list((await people.ask("SearchPeople", exact)).people) == []


async def test_a_search_is_in_the_trail_of_each_who_was_found(people: People) -> None:
    health_id = await people.register()
    people.events.recorded.clear()
    await people.ask("SearchPeople", pb.SearchPeopleRequest(birth_date="1979-03-28", family_name="pat"))
    (event,) = people.events.recorded
    assert (event.health_id, event.action, event.outcome) == (health_id, "person.search", audit_pb2.OUTCOME_SUCCESS)


async def test_search_pages_hold_everyone_once(people: People) -> None:
    everyone = {
        person_name(await people.register(traits(first=f"Dominique{letter}", given="")))
        for letter in ("a", "b", "c", "d", "e")
    }
    seen: list[str] = []
    token = ""
    while True:
        request = pb.SearchPeopleRequest(birth_date="1979-03-28", family_name="pat", page_size=2, page_token=token)
        page = await people.ask("SearchPeople", request)
        seen += [one.name for one in page.people]
        token = page.next_page_token
        if not token:
            break
    assert sorted(seen) == sorted(everyone)


def regulation() -> ActingContext:
    actor = ActingContext()
    actor.CopyFrom(SOFTWARE)
    actor.access_mode = context_pb2.ACCESS_MODE_REGULATION
    return actor


async def test_a_call_centre_finds_a_patient_by_what_it_was_told(people: People) -> None:
    health_id = await people.register(traits(used_name="Martin"))
    contact = pb.Contact(postcode="51100", city="Reims")
    await people.ask("UpdatePerson", update(health_id, contact=contact))
    for request in (
        pb.FindPatientRequest(family_name="Martin", given_name="Dominique", birth_date="1979-03-28"),
        pb.FindPatientRequest(family_name="martin", given_name="dominique", postcode="51100", city="REIMS"),
        pb.FindPatientRequest(family_name="Pat-Trois", birth_date="1979-03-28", sex=pb.SEX_FEMALE),
    ):
        answer = await people.ask("FindPatient", request, actor=regulation())
        assert [each.person.name for each in answer.candidates] == [person_name(health_id)]
        assert answer.candidates[0].score >= 0.9
    with refused("REGULATION_ONLY"):
        await people.ask("FindPatient", request)
    with refused("INVALID_FIELD", "birth_date", "search.criteria"):
        await people.ask("FindPatient", pb.FindPatientRequest(family_name="Martin"), actor=regulation())


async def test_a_call_centre_with_too_many_candidates_is_told_so(people: People) -> None:
    for letter in "abcdefghijk":
        await people.register(traits(first=f"Dominique{letter}", given=""))
    request = pb.FindPatientRequest(family_name="Pat-Trois", birth_date="1979-03-28")
    with refused("SEARCH_TOO_BROAD"):
        await people.ask("FindPatient", request, actor=regulation())


async def test_a_match_is_certain_probable_or_possible(people: People) -> None:
    health_id = await people.register(None, DOMINIQUE)
    for who, grade in (
        (traits(), pb.MATCH_GRADE_CERTAIN),
        (traits("Pat-Troi"), pb.MATCH_GRADE_PROBABLE),
        (traits(birth_date="1979-03-29"), pb.MATCH_GRADE_POSSIBLE),
    ):
        answer = await people.ask("MatchPerson", pb.MatchPersonRequest(traits=who))
        assert [(each.person.name, each.grade) for each in answer.candidates] == [(person_name(health_id), grade)]
    other_ins = pb.MatchPersonRequest(traits=traits(), identifiers=[ins("2790351215190")], only_certain=True)
    assert list((await people.ask("MatchPerson", other_ins)).candidates) == []
    stranger = pb.MatchPersonRequest(traits=RUTH_TRAITS)
    assert list((await people.ask("MatchPerson", stranger)).candidates) == []


@pytest.mark.parametrize(
    ("reason", "served"),
    [
        (reasons.ERROR_REASON_RIGHT_DENIED, False),
        (reasons.ERROR_REASON_BLOCKED, False),
        (reasons.ERROR_REASON_ACTING_CONTEXT_INVALID, False),
        (reasons.ERROR_REASON_DOSSIER_NOT_FOUND, True),
        (reasons.ERROR_REASON_AUTHORIZATION_MISSING, True),
    ],
)
async def test_what_partners_do_with_administrative_data_is_asked_of_the_rights_table(
    people: People, reason: reasons.ErrorReason.ValueType, served: bool
) -> None:
    health_id = await people.register()
    people.consent.answer = consent_pb2.Decision(reason=reason)
    partner = access_pb2.CALLER_KIND_PARTNER
    find = pb.FindPatientRequest(family_name="Pat-Trois", birth_date="1979-03-28")
    for method, request, action in (
        ("GetPerson", pb.GetPersonRequest(name=person_name(health_id)), consent_pb2.ACTION_READ_ADMINISTRATIVE),
        ("UpdatePerson", update(health_id, homonym=True), consent_pb2.ACTION_CHANGE_ADMINISTRATIVE),
        ("FindPatient", find, consent_pb2.ACTION_FIND_PATIENT),
    ):
        if served:
            await people.ask(method, request, actor=regulation(), caller=partner)
        else:
            with refused(reasons.ErrorReason.Name(reason).removeprefix("ERROR_REASON_")):
                await people.ask(method, request, actor=regulation(), caller=partner)
            assert people.events.recorded[-1].reason == reason
        assert people.consent.actions[-1] == action
    people.consent.actions.clear()
    await people.ask("GetPerson", pb.GetPersonRequest(name=person_name(health_id)))
    assert people.consent.actions == [], "registers have no row in the table"
