"""The register on a real PostgreSQL: changing people, identifiers and statuses, telling their past."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1.context_pb2 import ActingContext
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.nir import NATIONAL_OIDS
from services.runtime.identifiers import person_name
from tests.identity_service import (
    DOMINIQUE,
    NIR_OID,
    RUTH,
    SOFTWARE,
    TEST_NIR_OID,
    Identifier,
    People,
    ins,
    local,
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


# --- statuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        ("PROVISIONAL", "VALIDATED", True),
        ("PROVISIONAL", "RETRIEVED", True),
        ("PROVISIONAL", "QUALIFIED", False),
        ("VALIDATED", "QUALIFIED", True),
        ("VALIDATED", "RETRIEVED", False),
        ("RETRIEVED", "QUALIFIED", True),
        ("RETRIEVED", "VALIDATED", False),
        ("QUALIFIED", "VALIDATED", True),
        ("QUALIFIED", "PROVISIONAL", True),
        ("QUALIFIED", "RETRIEVED", False),
    ],
)
async def test_a_status_goes_where_the_national_reference_lets_it_and_nowhere_else(
    people: People, old: str, new: str, allowed: bool
) -> None:
    before, after = (pb.IdentityStatus.Value(f"IDENTITY_STATUS_{word}") for word in (old, new))
    created = await people.create(None, DOMINIQUE, status=before)
    request = update(int(created.person.name[7:26]), status=after)
    if allowed:
        assert (await people.ask("UpdatePerson", request)).person.status == after
    else:
        with refused("STATUS_TRANSITION", "status", "status.transition"):
            await people.ask("UpdatePerson", request)


async def test_a_doubtful_identity_is_provisional_and_a_qualified_one_has_an_ins(people: People) -> None:
    health_id = int((await people.create(None, DOMINIQUE, status=QUALIFIED)).person.name[7:26])
    doubtful = (await people.ask("UpdatePerson", update(health_id, doubtful=True))).person
    assert (doubtful.status, doubtful.doubtful) == (pb.IDENTITY_STATUS_PROVISIONAL, True)
    with refused("INVALID_FIELD", "status", "status.attributes"):
        await people.ask("UpdatePerson", update(health_id, status=pb.IDENTITY_STATUS_VALIDATED))
    with refused("INVALID_FIELD", "person.status", "status.ins"):
        await people.create(RUTH_TRAITS, status=QUALIFIED)


async def test_without_any_birth_date_an_identity_is_provisional_and_nobody_for_certain(people: People) -> None:
    unknown = traits(birth_date="")
    with refused("INVALID_FIELD", "person.status", "status.birth_date"):
        await people.create(unknown, status=pb.IDENTITY_STATUS_VALIDATED)
    await people.create(unknown)
    for partial in ("1979", "1979-03", ""):
        with refused("PERSON_POSSIBLE_DUPLICATE"):
            await people.create(traits(birth_date=partial))
            await people.create(traits(birth_date=partial))


# --- traits and versions -----------------------------------------------------------------------------------------


async def test_every_version_is_kept_with_who_changed_it_and_why(people: People) -> None:
    health_id = await people.register(None, DOMINIQUE)
    registered = people.clock.tick()
    await people.ask("UpdatePerson", update(health_id, traits=traits("Pat-Quatre")))
    married = people.clock.tick()
    contact = pb.Contact(lines=["1 rue de la Paix"], postcode="75002", city="Paris", phone="+33100000000")
    await people.ask("UpdatePerson", update(health_id, contact=contact, expected_version=2))
    history = await people.ask("ListPersonHistory", pb.ListPersonHistoryRequest(name=person_name(health_id)))
    assert [version.person.version for version in history.versions] == [3, 2, 1]
    assert [version.person.traits.birth_name for version in history.versions] == [
        "Pat-Quatre",
        "Pat-Quatre",
        "Pat-Trois",
    ]
    assert [version.change.reason for version in history.versions] == ["corrected", "corrected", ""]
    assert {version.change.subject for version in history.versions} == {SOFTWARE.subject}
    assert history.versions[0].person.contact == contact
    for moment, name, version in ((registered, "Pat-Trois", 1), (married, "Pat-Quatre", 2)):
        request = pb.GetPersonAsOfRequest(name=person_name(health_id))
        request.read_time.FromDatetime(moment)
        told = await people.ask("GetPersonAsOf", request)
        assert (told.version.person.traits.birth_name, told.version.person.version) == (name, version)
    before = pb.GetPersonAsOfRequest(name=person_name(health_id))
    before.read_time.FromDatetime(registered - timedelta(seconds=10))
    with refused("PERSON_NOT_FOUND"):
        await people.ask("GetPersonAsOf", before)


async def test_history_comes_in_pages(people: People) -> None:
    health_id = await people.register()
    for number in range(6):
        people.clock.tick()
        await people.ask("UpdatePerson", update(health_id, traits=traits(used_name=f"Nom {'abcdef'[number]}")))
    seen: list[int] = []
    token = ""
    while True:
        request = pb.ListPersonHistoryRequest(name=person_name(health_id), page_size=3, page_token=token)
        page = await people.ask("ListPersonHistory", request)
        seen += [version.person.version for version in page.versions]
        token = page.next_page_token
        if not token:
            break
    assert seen == [7, 6, 5, 4, 3, 2, 1]


async def test_a_change_from_an_older_version_is_refused(people: People) -> None:
    health_id = await people.register()
    await people.ask("UpdatePerson", update(health_id, homonym=True, expected_version=1))
    with refused("CONCURRENT_CHANGE"):
        await people.ask("UpdatePerson", update(health_id, homonym=False, expected_version=1))


async def test_new_traits_are_found_and_old_ones_are_not(people: People) -> None:
    health_id = await people.register()
    await people.ask("UpdatePerson", update(health_id, traits=traits("Autrement", birth_date="1979-03-28")))
    search = pb.SearchPeopleRequest(birth_date="1979-03-28", family_name="Aut")
    assert [one.name for one in (await people.ask("SearchPeople", search)).people] == [person_name(health_id)]
    gone = pb.SearchPeopleRequest(birth_date="1979-03-28", family_name="Pat")
    assert list((await people.ask("SearchPeople", gone)).people) == []


async def test_a_retry_of_a_change_gets_the_same_answer_and_changes_nothing(people: People) -> None:
    health_id = await people.register()
    request = update(health_id, homonym=True, request_id="the-same-request")
    first = await people.ask("UpdatePerson", request)
    assert await people.ask("UpdatePerson", request) == first
    assert (await get(people, health_id)).version == 2
    with refused("REQUEST_ID_REUSED"):
        await people.ask("UpdatePerson", update(health_id, homonym=False, request_id="the-same-request"))


# --- identifiers -------------------------------------------------------------------------------------------------


async def test_a_new_ins_makes_the_former_one_old_and_both_lead_to_the_person(people: People) -> None:
    health_id = int((await people.create(None, DOMINIQUE, status=QUALIFIED)).person.name[7:26])
    people.clock.tick()
    newer = ins("2790351215190")
    request = pb.AddIdentifierRequest(name=person_name(health_id), identifier=newer, reason="reattributed")
    with refused("PERSON_CONFLICT", "identifier", "ins.other"):
        await people.ask("AddIdentifier", request)
    request.replaces_ins, request.request_id = True, ""
    person = (await people.ask("AddIdentifier", request)).person
    assert list(person.identifiers) == [newer]
    assert [(one.identifier.value, one.use) for one in person.identifier_history] == [
        (DOMINIQUE.value, pb.IDENTIFIER_USE_OLD),
        (newer.value, pb.IDENTIFIER_USE_OFFICIAL),
    ]
    assert await people.resolve(DOMINIQUE, newer) == [health_id, health_id]


async def test_an_ended_ins_takes_the_qualification_with_it(people: People) -> None:
    health_id = int((await people.create(None, DOMINIQUE, status=QUALIFIED)).person.name[7:26])
    request = pb.RetireIdentifierRequest(name=person_name(health_id), identifier=DOMINIQUE, reason="not his")
    assert (await people.ask("RetireIdentifier", request)).person.status == pb.IDENTITY_STATUS_VALIDATED
    with refused("IDENTIFIER_NOT_HELD"):
        request.request_id = ""
        await people.ask("RetireIdentifier", request)


async def test_a_change_gives_its_identifiers_too_or_nothing_is_changed(people: People) -> None:
    health_id = await people.register(None, local("IPP-1"))
    other = await people.register(traits(birth_name="AUTRE"), local("IPP-7"))
    name, moved = person_name(health_id), traits(used_name="Nouveau")
    for given, refusal in (
        (local("1", "1.2.250.1.999.9"), ("UNKNOWN_DOMAIN", "added_identifiers", "domain.known")),
        (local("IPP-7"), ("PERSON_CONFLICT",)),
    ):
        request = pb.UpdatePersonRequest(name=name, reason="x", traits=moved, added_identifiers=[local("IPP-2"), given])
        with refused(*refusal):
            await people.ask("UpdatePerson", request)
        further = pb.AddIdentifierRequest(name=name, identifier=local("IPP-2"), further_identifiers=[given], reason="x")
        with refused(refusal[0]):
            await people.ask("AddIdentifier", further)
    assert (await people.ask("GetPerson", pb.GetPersonRequest(name=name))).person.version == 1
    assert await people.resolve(local("IPP-2"), local("IPP-7")) == ["UNKNOWN_PATIENT", other]
    request = pb.UpdatePersonRequest(
        name=name, reason="x", traits=moved, added_identifiers=[local("IPP-2"), local("IPP-1"), local("IPP-2")]
    )
    person = (await people.ask("UpdatePerson", request)).person
    assert (person.version, person.traits.used_name) == (2, "Nouveau")
    assert list(person.identifiers) == [local("IPP-1"), local("IPP-2")]
    assert await people.resolve(local("IPP-2")) == [health_id]


async def test_no_change_puts_another_ins_in_the_place_of_the_one_in_force(people: People) -> None:
    health_id = int((await people.create(None, DOMINIQUE, status=QUALIFIED)).person.name[7:26])
    request = pb.UpdatePersonRequest(
        name=person_name(health_id), reason="x", homonym=True, added_identifiers=[ins("2790351215190")]
    )
    with refused("PERSON_CONFLICT", "added_identifiers", "ins.other"):
        await people.ask("UpdatePerson", request)
    without = await people.register(traits(birth_name="AUTRE"))
    both = pb.AddIdentifierRequest(
        name=person_name(without), identifier=RUTH, further_identifiers=[ins("2790351215190")], reason="two at once"
    )
    with refused("PERSON_CONFLICT", "identifier", "ins.other"):
        await people.ask("AddIdentifier", both)


async def test_a_source_touches_its_own_domain_only(people: People) -> None:
    health_id = await people.register(None, local("IPP-1"))
    request = pb.AddIdentifierRequest(name=person_name(health_id), identifier=local("IPP-9"), reason="new")
    with refused("FOREIGN_DOMAIN", "identifier.system", "domain.own"):
        await people.ask("AddIdentifier", request, client="software-2")
    retire = pb.RetireIdentifierRequest(name=person_name(health_id), identifier=local("IPP-1"), reason="old")
    with refused("FOREIGN_DOMAIN"):
        await people.ask("RetireIdentifier", retire, client="software-2")
    unknown = pb.AddIdentifierRequest(
        name=person_name(health_id), identifier=local("1", "1.2.250.1.999.9"), reason="new"
    )
    with refused("UNKNOWN_DOMAIN", "identifier.system", "domain.known"):
        await people.ask("AddIdentifier", unknown)
    await people.ask("RetireIdentifier", retire)
    assert await people.resolve(local("IPP-1")) == ["UNKNOWN_PATIENT"]
    operator = ActingContext(actor_kind=context_pb2.ACTOR_KIND_OPERATOR, subject="operator-1")
    await people.ask("AddIdentifier", request, client="desk", actor=operator, caller=access_pb2.CALLER_KIND_OPERATOR)


async def test_an_identifier_of_somebody_else_is_a_conflict(people: People) -> None:
    await people.register(None, DOMINIQUE)
    ruth = await people.register(RUTH_TRAITS)
    with refused("PERSON_CONFLICT"):
        await people.ask(
            "AddIdentifier", pb.AddIdentifierRequest(name=person_name(ruth), identifier=DOMINIQUE, reason="new")
        )
    assert (await get(people, ruth)).version == 1


@pytest.mark.parametrize("system", sorted(NATIONAL_OIDS))
async def test_a_national_number_is_nobodys_domain(people: People, system: str) -> None:
    domain = pb.IdentifierDomain(system=system, display_name="Mine", client_id="software-2")
    with refused("INVALID_FIELD", "domain.system", "domain.local"):
        request = pb.SetIdentifierDomainRequest(domain=domain)
        await people.ask("SetIdentifierDomain", request, caller=access_pb2.CALLER_KIND_OPERATOR)


async def test_cross_reference_gives_other_domains_and_an_ins_of_a_qualified_identity_only(people: People) -> None:
    domain = pb.SetIdentifierDomainRequest()
    domain.domain.system, domain.domain.display_name = "1.2.250.1.999.2", "Laboratory"
    domain.domain.client_id = "software-2"
    await people.ask("SetIdentifierDomain", domain, caller=access_pb2.CALLER_KIND_OPERATOR)
    health_id = int((await people.create(None, local("IPP-1"))).person.name[7:26])
    theirs = pb.AddIdentifierRequest(
        name=person_name(health_id), identifier=local("L-7", "1.2.250.1.999.2"), reason="x"
    )
    await people.ask("AddIdentifier", theirs, client="software-2")
    await people.ask(
        "AddIdentifier", pb.AddIdentifierRequest(name=person_name(health_id), identifier=DOMINIQUE, reason="x")
    )
    request = pb.CrossReferenceRequest(source=local("IPP-1"))
    answer = await people.ask("CrossReference", request)
    assert [(one.system, one.value) for one in answer.identifiers] == [("1.2.250.1.999.2", "L-7")]
    for status in (pb.IDENTITY_STATUS_VALIDATED, QUALIFIED):
        await people.ask("UpdatePerson", update(health_id, status=status))
    assert {one.system for one in (await people.ask("CrossReference", request)).identifiers} == {
        "1.2.250.1.999.2",
        TEST_NIR_OID,
    }
    request.target_systems.append("1.2.250.1.999.2")
    assert [one.value for one in (await people.ask("CrossReference", request)).identifiers] == ["L-7"]
    for source, targets, reason in (
        (local("IPP-2"), [], "UNKNOWN_PATIENT"),
        (local("IPP-1", "1.2.250.1.999.8"), [], "UNKNOWN_DOMAIN"),
        (local("IPP-1"), ["1.2.250.1.999.8"], "UNKNOWN_TARGET_DOMAIN"),
    ):
        with refused(reason):
            await people.ask("CrossReference", pb.CrossReferenceRequest(source=source, target_systems=targets))


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("person", "field", "rule"),
    [
        (pb.Person(traits=traits("x" * 10_000_000)), "person.traits.birth_name", "string.max_len"),
        (pb.Person(traits=traits("Pat\x07")), "person.traits.birth_name", "name.printable"),
        (pb.Person(traits=traits(birth_date="1979-13-01")), "person.traits.birth_date", "date.calendar"),
        (pb.Person(traits=traits(birth_date="1979-00")), "person.traits.birth_date", "date.calendar"),
        (
            pb.Person(traits=traits(), identifiers=[Identifier(system=NIR_OID, value="279035121518988")]),
            "person.identifiers[0].value",
            "nir.key",
        ),
        (
            pb.Person(traits=traits(), contact=pb.Contact(city="Re\x00ims")),
            "person.contact.city",
            "contact.printable",
        ),
    ],
)
async def test_what_is_wrong_is_named_by_its_field_and_rule(
    people: People, person: pb.Person, field: str, rule: str
) -> None:
    with refused("INVALID_FIELD", field, rule):
        await people.ask("CreatePerson", pb.CreatePersonRequest(person=person))


async def test_a_person_who_is_not_there_is_not_found(people: People) -> None:
    for method, request in (
        ("GetPerson", pb.GetPersonRequest(name=person_name(7))),
        ("UpdatePerson", update(7, homonym=True)),
        ("ListPersonHistory", pb.ListPersonHistoryRequest(name=person_name(7))),
        ("AddIdentifier", pb.AddIdentifierRequest(name=person_name(7), identifier=RUTH, reason="x")),
        ("LinkPeople", pb.LinkPeopleRequest(name=person_name(7), merged=person_name(8), reason="x")),
        ("UnlinkPeople", pb.UnlinkPeopleRequest(name=person_name(7), reason="x")),
        ("SplitPerson", pb.SplitPersonRequest(name=person_name(7), traits=traits(), reason="x")),
        ("RetrieveIns", pb.RetrieveInsRequest(name=person_name(7))),
        ("VerifyIns", pb.VerifyInsRequest(name=person_name(7))),
    ):
        with refused("PERSON_NOT_FOUND"):
            await people.ask(method, request)


async def test_a_batch_registers_each_in_its_own_place(people: People) -> None:
    def asked(who: pb.Traits, *identifiers: Identifier, request_id: str) -> pb.CreatePersonRequest:
        return pb.CreatePersonRequest(person=pb.Person(traits=who, identifiers=identifiers), request_id=request_id)

    request = pb.BatchCreatePeopleRequest(
        requests=[
            asked(traits(), DOMINIQUE, request_id="batch-person-1"),
            asked(traits("---"), request_id="batch-person-2"),
            asked(RUTH_TRAITS, RUTH, request_id="batch-person-3"),
            asked(traits(), DOMINIQUE, local("IPP-5"), request_id="batch-person-4"),
            asked(RUTH_TRAITS, DOMINIQUE, request_id="batch-person-5"),
            asked(traits(), DOMINIQUE, request_id="batch-person-1"),
        ]
    )
    response = await people.ask("BatchCreatePeople", request)
    kinds = [result.WhichOneof("outcome") for result in response.results]
    assert kinds == ["response", "status", "response", "response", "status", "response"]
    assert [response.results[each].response.existed for each in (0, 2, 3, 5)] == [False, False, True, False]
    names = {response.results[each].response.person.name for each in (0, 3, 5)}
    assert len(names) == 1
    assert await people.ask("BatchCreatePeople", request) == response
    assert await people.pool.fetchval("SELECT count(*) FROM person") == 2
