"""Linking people, undoing it, splitting: the register equals a simple model in memory, and so does what others know."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmp.identity.v1 import identity_pb2 as pb
from services.identity.propagation import SERVICES
from services.runtime.errors import DmpError
from services.runtime.identifiers import parse_health_id, person_name
from tests.identity_service import (
    DOMINIQUE,
    RUTH,
    People,
    claim,
    health_id_of,
    identity_service,
    ins,
    local,
    refused,
    traits,
)

PEOPLE = 5
Model = dict[int, int]
"""Who is merged into whom."""


def link(survivor: int, merged: int, request_id: str = "") -> pb.LinkPeopleRequest:
    return pb.LinkPeopleRequest(
        name=person_name(survivor), merged=person_name(merged), reason="one person", request_id=request_id
    )


def unlink(merged: int) -> pb.UnlinkPeopleRequest:
    return pb.UnlinkPeopleRequest(name=person_name(merged), reason="two people")


async def someone(people: People, number: int) -> int:
    who = traits(f"Nom{'abcdefgh'[number]}", "Camille", birth_date=f"19{50 + number}-01-0{number + 1}")
    return await people.register(who, local(f"IPP-{number}"))


def root(model: Model, one: int) -> int:
    while one in model:
        one = model[one]
    return one


def names(health_ids: Any) -> list[str]:
    return sorted(map(person_name, health_ids))


async def states(people: People, everyone: list[int], model: Model) -> None:
    """The register, the identifiers, and each service that is told, say what the model says."""
    for service in SERVICES:
        await people.parts.propagation.deliver(service)
    for one in everyone:
        got = await people.ask("GetPerson", pb.GetPersonRequest(name=person_name(one)))
        survivor = root(model, one)
        assert got.person.merged_into == ("" if survivor == one else person_name(survivor))
        under = [each for each in everyone if root(model, each) == one and each != one]
        assert sorted(got.linked) == names(under)
        together = {each for each in everyone if root(model, each) == survivor}
        for sibling in people.siblings.values():
            members = sibling.members(one)
            assert (members[0], set(members)) == (survivor, together)
    resolved = await people.resolve(*(local(f"IPP-{number}") for number in range(len(everyone))))
    assert resolved == [root(model, one) for one in everyone]


async def past(people: People, everyone: list[int], at: datetime, model: Model) -> None:
    for one in everyone:
        request = pb.GetPersonAsOfRequest(name=person_name(one))
        request.read_time.FromDatetime(at)
        told = await people.ask("GetPersonAsOf", request)
        survivor = root(model, one)
        assert told.version.person.merged_into == ("" if survivor == one else person_name(survivor))
        above = [each for each in everyone if each != one and _is_under(model, each, one)]
        assert sorted(told.linked) == names(above)


def _is_under(model: Model, one: int, above: int) -> bool:
    while one in model:
        one = model[one]
        if one == above:
            return True
    return False


acts = st.lists(
    st.tuples(st.sampled_from(("link", "unlink")), st.integers(0, PEOPLE - 1), st.integers(0, PEOPLE - 1)),
    min_size=1,
    max_size=14,
)


@given(acts=acts)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_merging_and_undoing_in_any_order_is_what_the_model_says(
    identity_database: str, acts: list[tuple[str, int, int]]
) -> None:
    async def play() -> None:
        async with identity_service(identity_database) as people:
            everyone = [await someone(people, number) for number in range(PEOPLE)]
            model: Model = {}
            moments: list[tuple[datetime, Model]] = []
            for act, first, second in acts:
                one, other = everyone[first], everyone[second]
                people.clock.tick()
                if act == "unlink":
                    if one in model:
                        await people.ask("UnlinkPeople", unlink(one))
                        del model[one]
                    else:
                        with refused("PERSON_NOT_LINKED"):
                            await people.ask("UnlinkPeople", unlink(one))
                elif one == other:
                    with refused("INVALID_FIELD"):
                        await people.ask("LinkPeople", link(one, other))
                elif one in model or other in model:
                    with refused("PERSON_MERGED"):
                        await people.ask("LinkPeople", link(one, other))
                else:
                    await people.ask("LinkPeople", link(one, other))
                    model[other] = one
                moments.append((people.clock.now, dict(model)))
            await states(people, everyone, model)
            for at, then in moments[-3:]:
                await past(people, everyone, at, then)

    asyncio.run(play())


async def test_a_link_is_answered_only_when_consent_has_applied_it(people: People) -> None:
    one, other = await someone(people, 0), await someone(people, 1)
    people.siblings["consent"].down = True
    with refused("DEPENDENCY_UNAVAILABLE"):
        await people.ask("LinkPeople", link(one, other, "link-request"))
    people.siblings["consent"].down = False
    answer = await people.ask("LinkPeople", link(one, other, "link-request"))
    assert list(answer.linked) == [person_name(other)]
    assert people.siblings["consent"].members(other) == (one, other)
    await states(people, [one, other], {other: one})


async def test_consent_that_was_down_is_told_the_newest_set_when_it_is_back(people: People) -> None:
    one, other = await someone(people, 0), await someone(people, 1)
    people.siblings["consent"].down = True
    for act, request in (
        ("LinkPeople", link(one, other)),
        ("UnlinkPeople", unlink(other)),
        ("LinkPeople", link(other, one)),
    ):
        with refused("DEPENDENCY_UNAVAILABLE"):
            await people.ask(act, request)
    people.siblings["consent"].down = False
    await states(people, [one, other], {one: other})
    assert await people.pool.fetchval("SELECT count(*) FROM link_delivery") == 0


async def test_links_at_once_make_one_tree_and_no_ring(people: People) -> None:
    everyone = [await someone(people, number) for number in range(4)]
    pairs = [(one, other) for one in everyone for other in everyone if one != other]
    outcomes = await asyncio.gather(
        *(people.ask("LinkPeople", link(one, other)) for one, other in pairs), return_exceptions=True
    )
    reasons = {outcome.reason_name for outcome in outcomes if isinstance(outcome, DmpError)}
    assert reasons <= {"PERSON_MERGED", "CONCURRENT_CHANGE"}
    done = [pair for pair, outcome in zip(pairs, outcomes, strict=True) if not isinstance(outcome, BaseException)]
    model = {other: one for one, other in done}
    assert len(model) == len(done) == 3
    await states(people, everyone, model)


async def test_a_merged_person_is_not_changed_the_survivor_is(people: People) -> None:
    one, other = await someone(people, 0), await someone(people, 1)
    await people.ask("LinkPeople", link(one, other))
    for method, request in (
        ("UpdatePerson", pb.UpdatePersonRequest(name=person_name(other), homonym=True, reason="x")),
        ("AddIdentifier", pb.AddIdentifierRequest(name=person_name(other), identifier=DOMINIQUE, reason="x")),
        ("SplitPerson", pb.SplitPersonRequest(name=person_name(other), traits=traits(), reason="x")),
    ):
        with refused("PERSON_MERGED"):
            await people.ask(method, request)


async def test_registering_a_merged_person_again_finds_the_survivor(people: People) -> None:
    one = await people.register(None, DOMINIQUE)
    other = await people.register(traits("Pat-Quatre"), RUTH)
    await people.ask("LinkPeople", link(one, other))
    for who, identifier in ((traits("Pat-Quatre"), RUTH), (traits(), DOMINIQUE)):
        assert health_id_of((await people.create(who, identifier)).person) == one


async def test_documents_of_a_linked_person_are_verified_under_either_name(people: People) -> None:
    one = await people.register(None, DOMINIQUE)
    other = await people.register(traits("Pat-Quatre"), RUTH)
    await people.ask("LinkPeople", link(one, other))
    about_other = claim(RUTH, family=["Pat-Quatre"], given=["Dominique"], birth_date="1979-03-28")
    assert await people.verify((one, about_other), (other, about_other), (one, claim(DOMINIQUE))) == ["verified"] * 3
    await people.ask("UnlinkPeople", unlink(other))
    assert await people.verify((one, about_other), (other, about_other)) == ["PATIENT_MISMATCH", "verified"]


async def test_a_document_that_says_what_only_a_merged_record_says_is_about_the_survivor_too(people: People) -> None:
    """Records differ in what was typed wrong, which is why there were two; software goes on sending what it has."""
    one = await people.register(None, DOMINIQUE)
    other = await people.register(traits("Pat-Trois", birth_date="1979-08-23"), local("IPP-7"))
    third = await people.register(traits("Pat-Trois", birth_date="1978-03-28"), local("IPP-8"))
    about_third = claim(local("IPP-8"), family=["Pat-Trois"], given=["Dominique"], birth_date="1978-03-28")
    await people.ask("LinkPeople", link(other, third))
    await people.ask("LinkPeople", link(one, other))
    about = [(each, about_third) for each in (one, other, third)]
    assert await people.verify(*about) == ["verified"] * 3
    assert await people.verify((one, claim(RUTH)), (third, claim(DOMINIQUE))) == ["PATIENT_MISMATCH", "verified"]
    await people.ask("UnlinkPeople", unlink(other))
    assert await people.verify(*about) == ["PATIENT_MISMATCH", "verified", "verified"]


async def test_a_collision_is_split_and_both_start_again_as_provisional(people: People) -> None:
    mixed = health_id_of(
        (await people.create(None, DOMINIQUE, local("IPP-9"), status=pb.IDENTITY_STATUS_QUALIFIED)).person
    )
    request = pb.SplitPersonRequest(
        name=person_name(mixed),
        traits=traits("Nessi", "Ruth", birth_date="1977-07-14"),
        identifiers=[local("IPP-9")],
        reason="two people in one record",
    )
    answer = await people.ask("SplitPerson", request)
    new = health_id_of(answer.split_off)
    assert new != mixed
    assert {answer.person.status, answer.split_off.status} == {pb.IDENTITY_STATUS_PROVISIONAL}
    assert await people.resolve(DOMINIQUE, local("IPP-9")) == [mixed, new]
    for one in (mixed, new):
        history = await people.ask("ListPersonHistory", pb.ListPersonHistoryRequest(name=person_name(one)))
        assert history.versions[0].change.kind == pb.PERSON_CHANGE_KIND_SPLIT
        assert [event.kind for event in history.links] == [pb.LINK_EVENT_KIND_SPLIT]
        assert history.links[0].change.reason == "two people in one record"
    request.request_id = ""
    with refused("IDENTIFIER_NOT_HELD"):
        await people.ask("SplitPerson", request)


# --- the work list -----------------------------------------------------------------------------------------------


async def pairs(people: People, state: pb.DuplicateState.ValueType = pb.DUPLICATE_STATE_OPEN) -> list[set[str]]:
    answer = await people.ask("ListPossibleDuplicates", pb.ListPossibleDuplicatesRequest(state=state))
    return [{pair.one.name, pair.other.name} for pair in answer.duplicates]


async def test_a_near_match_is_registered_and_goes_on_the_work_list(people: People) -> None:
    one = await people.create(None, DOMINIQUE)
    other = await people.create(traits("Pat-Troi"))
    assert (other.existed, other.possible_duplicates) == (False, 1)
    assert await pairs(people) == [{one.person.name, other.person.name}]


async def test_two_near_matches_at_once_land_on_the_work_list(people: People) -> None:
    near = [traits("Pat-Trois"), traits("Pat-Troi"), traits("Pat-Troix"), traits("Pat-Tois")]
    responses = await asyncio.gather(
        *(people.parts.registration._register([_asked(people, who)]) for who in near)  # each a transaction of its own
    )
    assert not any(response.existed for (response,) in responses if isinstance(response, pb.CreatePersonResponse))
    await people.parts.rematch.fresh()
    everyone = [response.person.name for (response,) in responses if isinstance(response, pb.CreatePersonResponse)]
    assert len(everyone) == 4
    found = await pairs(people)
    assert {frozenset(pair) for pair in found} == {
        frozenset((one, other)) for one in everyone for other in everyone if one != other
    }


async def test_what_was_not_compared_before_a_crash_is_compared_after_it(people: People) -> None:
    one = await people.register()
    other = await people.register(traits("Pat-Troi"))
    await people.pool.execute("TRUNCATE possible_duplicate")
    assert await people.pool.fetchval("SELECT count(*) FROM rematch_due") == 2
    assert await people.parts.rematch.sweep() == 2
    assert await pairs(people) == [{person_name(one), person_name(other)}]
    assert await people.pool.fetchval("SELECT count(*) FROM rematch_due") == 0


async def test_twins_are_two_people_by_a_humans_decision_and_never_asked_again(people: People) -> None:
    one = await people.create(None, DOMINIQUE)
    with refused("PERSON_POSSIBLE_DUPLICATE"):
        await people.create(None, ins("2790351215190"))
    other = await people.create(None, ins("2790351215190"), accept=True)
    assert await pairs(people) == [{one.person.name, other.person.name}]
    (pair,) = (await people.ask("ListPossibleDuplicates", pb.ListPossibleDuplicatesRequest())).duplicates
    decide = pb.DecidePossibleDuplicateRequest(name=pair.name, state=pb.DUPLICATE_STATE_DISTINCT, reason="twins")
    decided = (await people.ask("DecidePossibleDuplicate", decide)).duplicate
    assert (decided.state, decided.decision.reason) == (pb.DUPLICATE_STATE_DISTINCT, "twins")
    await people.parts.rematch.sweep()
    assert await pairs(people) == []
    assert len(await pairs(people, pb.DUPLICATE_STATE_DISTINCT)) == 1
    decide.request_id = ""
    with refused("DUPLICATE_DECIDED"):
        await people.ask("DecidePossibleDuplicate", decide)


async def test_a_pair_decided_the_same_is_linked(people: People) -> None:
    one = health_id_of((await people.create(None, DOMINIQUE)).person)
    other = health_id_of((await people.create(traits("Pat-Troi"))).person)
    (pair,) = (await people.ask("ListPossibleDuplicates", pb.ListPossibleDuplicatesRequest())).duplicates
    decide = pb.DecidePossibleDuplicateRequest(
        name=pair.name, state=pb.DUPLICATE_STATE_SAME, survivor=person_name(one), reason="typing error"
    )
    await people.ask("DecidePossibleDuplicate", decide)
    await states_of_two(people, one, other)
    stranger = await people.register(traits("Nessi", "Ruth", birth_date="1977-07-14"))
    unknown = pair.name.replace(pair.name[11:32], person_name(stranger)[7:])
    for name, state, survivor, reason in (
        (pair.name, pb.DUPLICATE_STATE_DISTINCT, 0, "DUPLICATE_DECIDED"),
        (pair.name, pb.DUPLICATE_STATE_SAME, stranger, "INVALID_FIELD"),
        (unknown, pb.DUPLICATE_STATE_DISTINCT, 0, "DUPLICATE_NOT_FOUND"),
    ):
        request = pb.DecidePossibleDuplicateRequest(name=name, state=state, reason="x")
        if survivor:
            request.survivor = person_name(survivor)
        with refused(reason):
            await people.ask("DecidePossibleDuplicate", request)


async def states_of_two(people: People, survivor: int, merged: int) -> None:
    got = await people.ask("GetPerson", pb.GetPersonRequest(name=person_name(merged)))
    assert parse_health_id(got.person.merged_into.removeprefix("people/"), "merged_into") == survivor
    assert people.siblings["consent"].members(merged) == (survivor, merged)


def _asked(people: People, who: pb.Traits) -> Any:
    call = people.call("CreatePerson")
    request = pb.CreatePersonRequest(person=pb.Person(traits=who), request_id=call.request_id)
    return people.parts.registration._asked(call, request, "person")
