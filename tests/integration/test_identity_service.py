"""Identity on a real PostgreSQL: registering people, resolving their identifiers, verifying documents' patients."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import Any

import pytest
from asyncpg.connection import LoggedQuery

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.coding_pb2 import Identifier
from dmp.common.v1.context_pb2 import ActingContext
from dmp.identity.v1 import identity_pb2 as pb
from services.runtime.errors import DmpError
from services.runtime.identifiers import new_health_id, person_name
from tests.identity_service import (
    DOMINIQUE,
    NIA_OID,
    NIR_OID,
    RUTH,
    SOFTWARE,
    TEST_NIR_OID,
    People,
    claim,
    health_id_of,
    ins,
    local,
    traits,
)

RUTH_TRAITS = traits(
    "Nessi", "Ruth", given="Ruth Isabelle", birth_date="1977-07-14", birth_place="63220", used_name="Decourcy"
)


@contextmanager
def refused(reason: int) -> Any:
    with pytest.raises(DmpError) as caught:
        yield caught
    assert caught.value.reason_name == reasons.ErrorReason.Name(reason).removeprefix("ERROR_REASON_")  # type: ignore[arg-type]


@contextmanager
def wrong_field(field: str, rule: str) -> Any:
    with pytest.raises(DmpError) as caught:
        yield
    assert [(violation.field, violation.rule) for violation in caught.value.fields] == [(field, rule)]


async def count(people: People, table: str) -> int:
    number: int = await people.pool.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608 (names of this file)
    return number


# --- registering -------------------------------------------------------------------------------------------------


async def test_a_person_gets_a_health_id_that_nothing_tells_about(people: People) -> None:
    response = await people.create(None, DOMINIQUE)
    assert not response.existed
    assert response.person.identifiers == []  # an INS goes out only of a qualified identity
    assert response.person.status == pb.IDENTITY_STATUS_PROVISIONAL
    (event,) = await people.told()
    assert (event.action, event.health_id) == ("person.create", health_id_of(response.person))
    assert event.objects == [response.person.name]
    assert event.outcome == audit_pb2.OUTCOME_SUCCESS


async def test_an_ins_goes_out_only_of_a_qualified_identity(people: People) -> None:
    qualified = await people.create(None, DOMINIQUE, status=pb.IDENTITY_STATUS_QUALIFIED)
    assert qualified.person.identifiers == [DOMINIQUE]


async def test_the_same_number_with_the_same_traits_is_the_same_person(people: People) -> None:
    first = await people.create(None, DOMINIQUE)
    again = await people.create(traits("PAT TROIS", "dominique", given=""), DOMINIQUE)
    assert again.existed
    assert again.person.name == first.person.name
    assert again.person.traits.birth_name == "Pat-Trois"
    assert await count(people, "person") == 1


async def test_the_same_number_with_other_traits_stops(people: People) -> None:
    health_id = await people.register(None, DOMINIQUE)
    for other in (traits(birth_date="1979-03-29"), traits("Autre"), traits(sex=pb.SEX_MALE)):
        with refused(reasons.ERROR_REASON_PERSON_CONFLICT):
            await people.create(other, DOMINIQUE)
    assert [(event.health_id, event.outcome) for event in people.events.recorded] == [
        (health_id, audit_pb2.OUTCOME_REJECTED)
    ] * 3


async def test_the_same_traits_with_another_number_are_left_to_a_human(people: People) -> None:
    await people.register(None, DOMINIQUE)
    with refused(reasons.ERROR_REASON_PERSON_POSSIBLE_DUPLICATE):
        await people.create(None, ins("2790351215190"))
    with refused(reasons.ERROR_REASON_PERSON_POSSIBLE_DUPLICATE):
        await people.create(None, ins("2790351215190", NIA_OID))
    assert await count(people, "person") == 1


async def test_the_same_traits_without_a_number_are_the_same_person_who_then_gets_the_number(people: People) -> None:
    health_id = await people.register(None, local("IPP-1"))
    response = await people.create(None, DOMINIQUE)
    assert (response.existed, health_id_of(response.person)) == (True, health_id)
    assert await people.resolve(DOMINIQUE, local("IPP-1")) == [health_id, health_id]


async def test_who_names_no_number_is_not_told_the_number(people: People) -> None:
    await people.register(None, DOMINIQUE)
    response = await people.create(None)
    assert response.existed
    assert list(response.person.identifiers) == []


async def test_without_a_birth_place_nothing_is_certain(people: People) -> None:
    unknown = traits(birth_place="99999")
    await people.register(unknown)
    with refused(reasons.ERROR_REASON_PERSON_POSSIBLE_DUPLICATE):
        await people.create(unknown)


async def test_numbers_of_two_people_make_nobody(people: People) -> None:
    await people.register(None, DOMINIQUE)
    await people.register(RUTH_TRAITS, local("IPP-2"))
    with refused(reasons.ERROR_REASON_PERSON_CONFLICT):
        await people.create(None, DOMINIQUE, local("IPP-2"))


async def test_a_local_number_of_someone_with_another_national_number_is_left_to_a_human(people: People) -> None:
    await people.register(None, DOMINIQUE, local("IPP-1"))
    with refused(reasons.ERROR_REASON_PERSON_POSSIBLE_DUPLICATE):
        await people.create(None, ins("2790351215190"), local("IPP-1"))


async def test_sixty_four_identical_registrations_at_once_make_one_person(people: People) -> None:
    responses = await asyncio.gather(*(people.create(None, DOMINIQUE, local("IPP-1")) for _ in range(64)))
    assert len({response.person.name for response in responses}) == 1
    assert [response.existed for response in responses].count(False) == 1
    assert await count(people, "person") == 1
    assert await count(people, "outbox") == 64


async def test_registrations_that_overlap_in_every_way_never_wait_for_each_other(people: People) -> None:
    numbers = [DOMINIQUE, local("IPP-1"), local("IPP-2"), local("IPP-3")]
    some = [numbers[start:] + numbers[:start] for start in range(4)] * 12
    responses = await asyncio.gather(*(people.create(None, *each) for each in some))
    assert len({response.person.name for response in responses}) == 1
    assert await count(people, "identifier") == 4


async def test_two_strangers_at_once_are_two_people(people: People) -> None:
    one, other = await asyncio.gather(people.register(None, DOMINIQUE), people.register(RUTH_TRAITS, RUTH))
    assert one != other


async def test_a_retry_gets_the_first_answer_and_changes_nothing(people: People) -> None:
    first = await people.create(None, DOMINIQUE, request_id="request-id-1")
    again = await people.create(None, DOMINIQUE, request_id="request-id-1")
    assert first == again
    assert not again.existed
    assert await count(people, "outbox") == 1


async def test_a_request_id_used_again_for_someone_else_is_refused(people: People) -> None:
    await people.create(None, DOMINIQUE, request_id="request-id-1")
    with refused(reasons.ERROR_REASON_REQUEST_ID_REUSED):
        await people.create(RUTH_TRAITS, RUTH, request_id="request-id-1")


async def test_a_token_for_one_patient_registers_and_finds_nobody_else(people: People) -> None:
    health_id = await people.register(None, DOMINIQUE)
    own = ActingContext()
    own.CopyFrom(SOFTWARE)
    own.patient_health_id = health_id
    assert (await people.create(None, DOMINIQUE, actor=own)).existed
    with refused(reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH):
        await people.create(RUTH_TRAITS, RUTH, actor=own)
    assert await count(people, "person") == 1


async def test_nothing_of_a_person_is_stored_in_clear(people: People) -> None:
    await people.create(None, DOMINIQUE, local("IPP-SECRET-7"), request_id="request-id-1")
    tables = [
        row["tablename"]
        for row in await people.pool.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    ]
    assert len(tables) > 8
    for table in tables:
        for row in await people.pool.fetch(f"SELECT * FROM {table}"):  # noqa: S608 (names of the catalogue)
            stored = b"|".join(value if isinstance(value, bytes) else str(value).encode() for value in row.values())
            for secret in (b"2790351215189", b"Pat-Trois", b"PAT TROIS", b"Dominique", b"1979-03-28", b"IPP-SECRET-7"):
                assert secret not in stored, table


@pytest.mark.parametrize(
    ("identifier", "rule"),
    [
        (Identifier(system=NIR_OID, value="279035121518988"), "nir.key"),
        (Identifier(system=TEST_NIR_OID, value="2790351215189"), "nir.format"),
        (Identifier(system="1.2.250.1.213.1.4.2", value="0833910461279517589859"), "insc.key"),
        (Identifier(system="1.2.250.1.213.1.4.2", value="083391046127951758985"), "insc.format"),
        (local("IPP\x07"), "identifier.printable"),
    ],
)
async def test_a_wrong_identifier_is_named_by_its_place_and_rule(
    people: People, identifier: Identifier, rule: str
) -> None:
    with wrong_field("person.identifiers[1].value", rule):
        await people.create(None, local("IPP-1"), identifier)
    assert [event.outcome for event in people.events.recorded] == [audit_pb2.OUTCOME_REJECTED]


async def test_a_number_of_corsica_is_registered_and_found(people: People) -> None:
    corsican = ins("279032A215189", NIR_OID)
    health_id = await people.register(None, corsican)
    assert await people.resolve(Identifier(system=NIR_OID, value=corsican.value.lower())) == [health_id]


@pytest.mark.parametrize(
    ("who", "field", "rule"),
    [
        (traits(birth_date="1979-02-30"), "birth_date", "date.calendar"),
        (traits(birth_date="2026-11-23"), "birth_date", "date.past"),
        (traits("Pat\u0000Trois"), "birth_name", "name.printable"),
        (traits("Pat\u202eTrois"), "birth_name", "name.printable"),
        (traits("--- '"), "birth_name", "name.letters"),
        (traits(given="Marie Dominique"), "first_birth_given_name", "given_name.first"),
    ],
)
async def test_a_wrong_trait_is_named_by_its_field_and_rule(
    people: People, who: pb.Traits, field: str, rule: str
) -> None:
    with wrong_field(f"person.traits.{field}", rule):
        await people.create(who)


# --- resolving ---------------------------------------------------------------------------------------------------


async def test_identifiers_resolve_each_in_its_own_place(people: People) -> None:
    one, other = await people.register(None, DOMINIQUE), await people.register(RUTH_TRAITS, RUTH)
    resolved = await people.resolve(
        RUTH,
        Identifier(system=NIR_OID, value=RUTH.value),
        DOMINIQUE,
        Identifier(system=TEST_NIR_OID, value="2 79 03 51 215 189 89"),
        Identifier(system=TEST_NIR_OID, value="2790351215189"),
        Identifier(system=TEST_NIR_OID, value="279035121518900"),
        Identifier(system="not-an-oid", value="x"),
    )
    assert resolved == [other, "UNKNOWN_PATIENT", one, one, one, "UNKNOWN_PATIENT", "INVALID_FIELD"]


async def test_production_and_test_numbers_never_meet(people: People) -> None:
    one = await people.register(None, DOMINIQUE)
    other = await people.register(RUTH_TRAITS, Identifier(system=NIR_OID, value=DOMINIQUE.value))
    assert one != other


@pytest.mark.parametrize("size", [1, 5, 1024])
async def test_resolving_is_two_statements_whatever_the_size(people: People, size: int) -> None:
    await people.register(None, DOMINIQUE)
    with counted_statements(people) as statements:
        await people.resolve(*[DOMINIQUE] * size)
    assert len(statements) == 2


async def test_who_is_no_service_is_recorded_before_the_answer(people: People) -> None:
    health_id = await people.register(None, DOMINIQUE)
    await people.resolve(DOMINIQUE, caller=access_pb2.CALLER_KIND_SERVICE)
    assert people.events.recorded == []
    await people.resolve(DOMINIQUE, RUTH, caller=access_pb2.CALLER_KIND_INTERNAL)
    (event,) = people.events.recorded
    assert (event.action, event.result_count, list(event.objects)) == ("person.resolve", 1, [person_name(health_id)])
    people.events.down = True
    with refused(reasons.ERROR_REASON_AUDIT_UNAVAILABLE):
        await people.resolve(DOMINIQUE, caller=access_pb2.CALLER_KIND_INTERNAL)


async def test_a_token_for_one_patient_resolves_nobody_else(people: People) -> None:
    health_id = await people.register(None, DOMINIQUE)
    await people.register(RUTH_TRAITS, RUTH)
    own = ActingContext(subject="x", patient_health_id=health_id)
    assert await people.resolve(DOMINIQUE, RUTH, actor=own) == [health_id, "TOKEN_PATIENT_MISMATCH"]


@pytest.mark.parametrize("size", [0, 1025])
async def test_a_batch_of_no_or_too_many_identifiers_is_refused(people: People, size: int) -> None:
    with wrong_field("identifiers", "repeated.items"):
        await people.resolve(*[DOMINIQUE] * size)


# --- verifying ---------------------------------------------------------------------------------------------------


async def test_a_document_is_about_its_patient_or_it_is_not(people: People) -> None:
    dominique, ruth = await people.register(None, DOMINIQUE), await people.register(RUTH_TRAITS, RUTH)
    own = claim(DOMINIQUE, local("1234567890121", "1.2.3.4.567.8.9.10"), sex=pb.SEX_FEMALE, birth_date="1979-03-28")
    assert await people.verify(
        (dominique, own), (ruth, own), (new_health_id(), own), (dominique, claim(birth_date="28/03/1979"))
    ) == ["verified", "PATIENT_MISMATCH", "PERSON_NOT_FOUND", "INVALID_FIELD"]


@pytest.mark.parametrize("size", [1, 3, 256])
async def test_verifying_is_four_statements_whatever_the_size(people: People, size: int) -> None:
    health_id = await people.register(None, DOMINIQUE)
    with counted_statements(people) as statements:
        await people.verify(*[(health_id, claim(DOMINIQUE))] * size)
    assert len(statements) == 4


async def test_concurrent_verifications_each_get_their_own_answer(people: People) -> None:
    dominique, ruth = await people.register(None, DOMINIQUE), await people.register(RUTH_TRAITS, RUTH)
    items = [(dominique, claim(DOMINIQUE)), (ruth, claim(DOMINIQUE)), (ruth, claim(RUTH)), (dominique, claim(RUTH))]
    answers = await asyncio.gather(*(people.verify(item) for item in items * 10))
    assert answers == [["verified"], ["PATIENT_MISMATCH"], ["verified"], ["PATIENT_MISMATCH"]] * 10


async def test_an_altered_record_verifies_nobody_and_spares_the_others(people: People) -> None:
    dominique, ruth = await people.register(None, DOMINIQUE), await people.register(RUTH_TRAITS, RUTH)
    await people.pool.execute(
        "UPDATE person SET sealed = (SELECT sealed FROM person WHERE health_id = $2) WHERE health_id = $1",
        dominique,
        ruth,
    )
    answers = await people.verify((dominique, claim(DOMINIQUE)), (ruth, claim(RUTH)))
    assert answers == ["CONTENT_CORRUPTED", "verified"]


async def test_when_the_database_is_gone_nobody_is_verified(people: People) -> None:
    health_id = await people.register(None, DOMINIQUE)
    await people.pool.close()
    with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
        await people.verify((health_id, claim(DOMINIQUE)))
    with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
        await people.resolve(DOMINIQUE)
    with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
        await people.create(None, DOMINIQUE)


@contextmanager
def counted_statements(people: People) -> Any:
    """The statements that the pool's connections run meanwhile."""
    statements: list[str] = []

    def log(query: LoggedQuery) -> None:
        statements.append(query.query)

    holders: list[Any] = people.pool._holders  # type: ignore[attr-defined]
    connections = [holder._con for holder in holders if holder._con is not None]
    for connection in connections:
        connection.add_query_logger(log)
    try:
        yield statements
    finally:
        for connection in connections:
            connection.remove_query_logger(log)


async def test_names_are_compared_with_the_family_names_and_no_name_comes_back(people: People) -> None:
    health_id = await people.register(traits(birth_name="DUPONT-MARTIN", used_name="O'NEILL"))
    asked = ["Claire Dupont Martin", "o'neill", "Claire DUPONT", "Martinez O", "", "Dupönt-Martin Claire"]
    request = pb.BatchCompareNamesRequest(
        requests=[pb.CompareNameRequest(health_id=health_id, name=name) for name in asked]
    )
    request.requests.add(health_id=health_id ^ 1, name="Dupont Martin")
    call = people.call("BatchCompareNames", ActingContext(), caller=access_pb2.CALLER_KIND_SERVICE)
    answer = await people.servicer.BatchCompareNames(request, call)
    assert list(answer.same_family_names) == [True, True, False, False, False, True, False]
