"""What holds on every path into the register: who may, which numbers go out, what a record that went wrong spares."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2
from dmp.identity.v1 import identity_pb2 as pb
from dmp.identity.v1 import keys_pb2
from services.identity.civil_identity import PatientIdentifier, Traits
from services.identity.insi import InsiAnswer, NationalIdentity
from services.runtime.context import enter
from services.runtime.errors import unavailable
from services.runtime.identifiers import person_name
from services.runtime.keyring import Keyring
from tests.identity_service import (
    DOMINIQUE,
    NIA_OID,
    NIR_OID,
    RUTH,
    SOFTWARE,
    People,
    claim,
    health_id_of,
    identity_service,
    ins,
    local,
    refused,
    traits,
)

PARTNER = access_pb2.CALLER_KIND_PARTNER
SYSTEM = context_pb2.ACTOR_KIND_SYSTEM
OPERATOR = access_pb2.CALLER_KIND_OPERATOR
QUALIFIED = pb.IDENTITY_STATUS_QUALIFIED
RUTH_TRAITS = traits("Nessi", "Ruth", given="Ruth Isabelle", birth_date="1977-07-14", birth_place="63220")


@dataclass
class Insi:
    """A national service that knows one number; `meanwhile` is done before it answers."""

    meanwhile: Any = None
    down: bool = False
    asked: list[str] = field(default_factory=list)

    async def search(self, who: Traits) -> InsiAnswer:
        await self._answer("search")
        number = PatientIdentifier(DOMINIQUE.system, DOMINIQUE.value)
        known = NationalIdentity(number, "PAT-TROIS", ("DOMINIQUE",), pb.SEX_FEMALE, "1979-03-28", "51215")
        return InsiAnswer(pb.INSI_OUTCOME_FOUND, known)

    async def verify(self, number: PatientIdentifier, who: Traits) -> bool:
        await self._answer("verify")
        return True

    async def _answer(self, what: str) -> None:
        self.asked.append(what)
        if self.down:
            raise unavailable("insi")
        if self.meanwhile is not None:
            await self.meanwhile()


@pytest.fixture
def insi() -> Insi:
    return Insi()


@pytest.fixture
async def people(identity_database: str, insi: Insi) -> AsyncIterator[People]:
    async with identity_service(identity_database, insi) as service:
        yield service


async def qualified(people: People, who: pb.Traits | None = None, *identifiers: Any) -> int:
    return health_id_of((await people.create(who, *(identifiers or (DOMINIQUE,)), status=QUALIFIED)).person)


# --- who may -----------------------------------------------------------------------------------------------------


async def test_whoever_may_not_change_or_read_a_person_may_not_by_another_method(people: People) -> None:
    one, other = await people.register(None, DOMINIQUE), await people.register(RUTH_TRAITS)
    people.consent.answer = consent_pb2.Decision(reason=reasons.ERROR_REASON_BLOCKED)
    name = person_name(one)
    for method, request in (
        ("AddIdentifier", pb.AddIdentifierRequest(name=name, identifier=local("IPP-1"), reason="x")),
        ("AddIdentifier", pb.AddIdentifierRequest(name=name, identifier=DOMINIQUE, reason="x")),
        ("RetireIdentifier", pb.RetireIdentifierRequest(name=name, identifier=DOMINIQUE, reason="x")),
        ("RetrieveIns", pb.RetrieveInsRequest(name=name)),
        ("VerifyIns", pb.VerifyInsRequest(name=name)),
        ("LinkPeople", pb.LinkPeopleRequest(name=name, merged=person_name(other), reason="x")),
    ):
        with refused("BLOCKED"):
            await people.ask(method, request, caller=PARTNER)
        assert people.events.recorded[-1].reason == reasons.ERROR_REASON_BLOCKED
    with refused("BLOCKED"):
        history = pb.ListPersonHistoryRequest(name=name)
        await people.ask("ListPersonHistory", history, caller=access_pb2.CALLER_KIND_PATIENT)
    assert not any("linked" in change.attribute for event in await people.told() for change in event.changes)


@pytest.mark.parametrize("reason", ["AUTHORIZATION_MISSING", "AUTHORIZATION_EXPIRED", "DOSSIER_NOT_FOUND"])
@pytest.mark.parametrize("shut", ["survivor", "merged"])
async def test_who_takes_over_a_host_links_nobody_whose_dossier_is_not_of_that_host(
    people: People, reason: str, shut: str
) -> None:
    """Software that feeds the register links people without having been let into a dossier; a token that takes over a
    host does not, though one of the two has a dossier there: by no order of the two, and by none of the ways to say
    that they are one."""
    survivor, merged = await people.register(None, DOMINIQUE), await people.register(RUTH_TRAITS, local("IPP-1"))
    denied = consent_pb2.Decision(reason=reasons.ErrorReason.Value(f"ERROR_REASON_{reason}"))
    people.consent.answers = {survivor if shut == "survivor" else merged: denied}
    host = ActingContext(actor_kind=SYSTEM, subject="carrier", takes_over_host="other-host")
    request = pb.LinkPeopleRequest(name=person_name(survivor), merged=person_name(merged), reason="one person")
    with refused(reason):
        await people.ask("LinkPeople", request, caller=PARTNER, actor=host)
    assert people.events.recorded[-1].reason == denied.reason
    outsider = person_name(survivor if shut == "survivor" else merged)
    for method, other in (
        ("AddIdentifier", pb.AddIdentifierRequest(name=outsider, identifier=local("IPP-9"), reason="x")),
        ("RetireIdentifier", pb.RetireIdentifierRequest(name=outsider, identifier=DOMINIQUE, reason="x")),
        ("UpdatePerson", pb.UpdatePersonRequest(name=outsider, reason="x", added_identifiers=[local("IPP-9")])),
    ):
        with refused(reason):
            await people.ask(method, other, caller=PARTNER, actor=host)
    with refused("RIGHT_DENIED"):
        found = pb.CrossReferenceRequest(source=local("IPP-1"))
        await people.ask("CrossReference", found, caller=PARTNER, actor=host)
    assert not any("merged_into" in change.attribute for event in await people.told() for change in event.changes)
    assert (await people.ask("LinkPeople", request, caller=PARTNER)).linked == [person_name(merged)]


# --- the national service ----------------------------------------------------------------------------------------


async def test_who_became_doubtful_while_the_national_service_was_asked_gets_no_number(
    people: People, insi: Insi
) -> None:
    health_id = await people.register()

    async def doubt() -> None:
        await people.ask("UpdatePerson", pb.UpdatePersonRequest(name=person_name(health_id), doubtful=True, reason="x"))

    insi.meanwhile = doubt
    with refused("CONCURRENT_CHANGE"):
        await people.ask("RetrieveIns", pb.RetrieveInsRequest(name=person_name(health_id)))
    assert await people.resolve(DOMINIQUE) == ["UNKNOWN_PATIENT"]


async def test_a_retry_of_what_the_national_service_answered_gets_the_same_answer_without_it(
    people: People, insi: Insi
) -> None:
    health_id = await people.register()
    retrieve = pb.RetrieveInsRequest(name=person_name(health_id))
    verify = pb.VerifyInsRequest(name=person_name(health_id))
    answers = [await people.ask("RetrieveIns", retrieve), await people.ask("VerifyIns", verify)]
    retire = pb.RetireIdentifierRequest(name=person_name(health_id), identifier=DOMINIQUE, reason="not hers")
    await people.ask("RetireIdentifier", retire)
    insi.down = True
    assert [await people.ask("RetrieveIns", retrieve), await people.ask("VerifyIns", verify)] == answers
    assert insi.asked == ["search", "verify"]


async def test_a_merged_record_is_not_verified_the_survivor_is(people: People) -> None:
    survivor, merged = await people.register(RUTH_TRAITS, RUTH), await qualified(people)
    await people.ask(
        "LinkPeople", pb.LinkPeopleRequest(name=person_name(survivor), merged=person_name(merged), reason="x")
    )
    with refused("PERSON_MERGED"):
        await people.ask("VerifyIns", pb.VerifyInsRequest(name=person_name(merged)))


# --- numbers -----------------------------------------------------------------------------------------------------


async def test_a_number_that_is_not_the_dossiers_is_a_mismatch_though_a_merged_record_has_none(people: People) -> None:
    one = await qualified(people)
    other = await people.register(traits(birth_place="99999"))
    await people.ask("LinkPeople", pb.LinkPeopleRequest(name=person_name(one), merged=person_name(other), reason="x"))
    about = {"family": ("Pat-Trois",), "given": ("Dominique",), "birth_date": "1979-03-28"}
    strange = claim(ins("2790351215190"), **about)  # type: ignore[arg-type]
    known = claim(**about)  # type: ignore[arg-type]
    assert await people.verify((one, strange), (other, strange), (one, known)) == [
        "PATIENT_MISMATCH",
        "PATIENT_MISMATCH",
        "verified",
    ]


async def split(people: People, health_id: int, *identifiers: Any) -> pb.SplitPersonResponse:
    request = pb.SplitPersonRequest(
        name=person_name(health_id), traits=RUTH_TRAITS, identifiers=identifiers, reason="two people in one record"
    )
    answer: pb.SplitPersonResponse = await people.ask("SplitPerson", request)
    return answer


async def test_an_old_number_of_a_collision_goes_to_the_person_whose_it_is(people: People) -> None:
    mixed = await qualified(people, None, RUTH)
    replaced = pb.AddIdentifierRequest(
        name=person_name(mixed), identifier=DOMINIQUE, reason="hers is another", replaces_ins=True
    )
    await people.ask("AddIdentifier", replaced)
    new = health_id_of((await split(people, mixed, RUTH)).split_off)
    assert await people.resolve(RUTH, DOMINIQUE) == [new, mixed]
    found = await people.create(RUTH_TRAITS, RUTH)
    assert (found.existed, health_id_of(found.person)) == (True, new)


async def test_no_past_state_shows_a_number_that_was_somebody_elses_or_of_who_is_not_qualified_now(
    people: People,
) -> None:
    mixed = await qualified(people, None, RUTH)
    before = people.clock.tick()
    await split(people, mixed, RUTH)

    async def told() -> str:
        name = person_name(mixed)
        history = await people.ask("ListPersonHistory", pb.ListPersonHistoryRequest(name=name))
        asked = pb.GetPersonAsOfRequest(name=name)
        asked.read_time.FromDatetime(before)
        person = await people.ask("GetPerson", pb.GetPersonRequest(name=name))
        return f"{history}{await people.ask('GetPersonAsOf', asked)}{person}"

    assert RUTH.value not in await told(), "provisional"
    for status in (pb.IDENTITY_STATUS_VALIDATED, QUALIFIED):
        added = [DOMINIQUE] if status == QUALIFIED else []
        await people.ask(
            "UpdatePerson",
            pb.UpdatePersonRequest(name=person_name(mixed), status=status, added_identifiers=added, reason="x"),
        )
    shown = await told()
    assert DOMINIQUE.value in shown
    assert RUTH.value not in shown, "qualified again, by another number"


async def test_a_rotation_of_keys_gives_a_number_back_to_nobody(people: People) -> None:
    keyring: Keyring = people.servicer._parts.changes.digests._keyring
    secrets = {1: bytes(range(32)), 2: bytes(range(1, 33))}
    owners: dict[str, int] = {}
    for number in range(8):  # whichever of the two comes first in the order of health ids
        who = ins(f"27903512151{10 + number}")
        mixed = await qualified(people, traits(f"Nom{'abcdefgh'[number]}"), who)
        old = await people.pool.fetchrow("SELECT sealed, version FROM person WHERE health_id = $1", mixed)
        assert old is not None
        request = pb.SplitPersonRequest(
            name=person_name(mixed),
            traits=traits("Nessi", birth_date=f"1977-07-1{number}"),
            identifiers=[who],
            reason="x",
        )
        owners[who.value] = health_id_of((await people.ask("SplitPerson", request)).split_off)
        # as records were left by splits before: the number is still in their past
        await people.pool.execute("UPDATE person SET sealed = $2 WHERE health_id = $1", mixed, old["sealed"])
    keyring.take(Keyring(secrets, current=2, digests=[1, 2]))
    await advance(people, keys_pb2.KEY_ROTATION_PHASE_BACKFILLED)
    keyring.take(Keyring(secrets, current=2, digests=[2]))
    found = await people.resolve(*(ins(value[:13]) for value in owners))
    assert found == list(owners.values())


async def advance(people: People, until: keys_pb2.KeyRotationPhase.ValueType) -> None:
    for _ in range(50):
        answer = await people.ask("AdvanceKeyRotation", keys_pb2.AdvanceKeyRotationRequest(), caller=OPERATOR)
        if answer.key_rotation.phase == until:
            return
    raise AssertionError("the rotation does not end")


# --- invented people ---------------------------------------------------------------------------------------------


async def test_an_invented_person_and_a_real_one_are_never_a_pair(people: People) -> None:
    await people.register()
    call = people.call("CreatePerson")
    invented = pb.Person(traits=traits("Pat-Troi"), fictitious=True)
    answer = await people.servicer.CreatePerson(
        pb.CreatePersonRequest(person=invented, request_id=call.request_id), call
    )
    assert answer.possible_duplicates == 0, "software on trial learns nothing of real people"
    await people.parts.rematch.sweep()
    listed = await people.ask("ListPossibleDuplicates", pb.ListPossibleDuplicatesRequest())
    assert list(listed.duplicates) == []


async def test_software_on_trial_learns_nothing_by_the_number_of_somebody_real(people: People) -> None:
    await people.register(None, DOMINIQUE)
    trial = ActingContext()
    trial.CopyFrom(SOFTWARE)
    trial.sandbox = True
    enter(people.call("MatchPerson", trial))
    try:
        answers = [
            await people.ask("MatchPerson", pb.MatchPersonRequest(traits=traits(), identifiers=[number]), actor=trial)
            for number in (DOMINIQUE, RUTH)
        ]
    finally:
        enter(people.call("MatchPerson"))
    assert [list(answer.candidates) for answer in answers] == [[], []]


async def test_an_invented_person_gets_no_number_of_the_real_register(people: People) -> None:
    call = people.call("CreatePerson")
    for number in (ins("2790351215189", NIR_OID), ins("2790351215189", NIA_OID)):
        invented = pb.Person(traits=traits(), fictitious=True, identifiers=[number])
        with refused("INVALID_FIELD", "person.identifiers", "identifier.fictitious"):
            await people.servicer.CreatePerson(
                pb.CreatePersonRequest(person=invented, request_id=call.request_id), call
            )
    invented = pb.Person(traits=traits(), fictitious=True, identifiers=[DOMINIQUE])
    made = await people.servicer.CreatePerson(pb.CreatePersonRequest(person=invented, request_id=call.request_id), call)
    number, name = ins("2790351215190", NIR_OID), made.person.name
    for request, where in (
        (pb.AddIdentifierRequest(name=name, identifier=number, reason="x"), "identifier"),
        (pb.UpdatePersonRequest(name=name, added_identifiers=[number], reason="x"), "added_identifiers"),
    ):
        method = request.DESCRIPTOR.name.removesuffix("Request")
        with refused("INVALID_FIELD", where, "identifier.fictitious"):
            await people.ask(method, request)


async def test_a_token_that_names_a_patient_finds_and_links_nobody_else(people: People) -> None:
    one = await people.register(None, DOMINIQUE)
    other = await people.register(traits("Pat-Troi"), RUTH)
    bound = ActingContext()
    bound.CopyFrom(SOFTWARE)
    bound.patient_health_id = one
    enter(people.call("SearchPeople", bound))
    try:
        search = pb.SearchPeopleRequest(birth_date="1979-03-28", family_name="pat")
        found = await people.ask("SearchPeople", search, actor=bound)
        match = await people.ask("MatchPerson", pb.MatchPersonRequest(traits=traits()), actor=bound)
        with refused("UNKNOWN_PATIENT"):
            await people.ask("CrossReference", pb.CrossReferenceRequest(source=RUTH), actor=bound)
        with refused("TOKEN_PATIENT_MISMATCH"):
            link = pb.LinkPeopleRequest(name=person_name(one), merged=person_name(other), reason="x")
            await people.ask("LinkPeople", link, actor=bound)
    finally:
        enter(people.call("SearchPeople"))
    assert [each.name for each in found.people] == [person_name(one)]
    assert [each.person.name for each in match.candidates] == [person_name(one)]


# --- matching, and what spares what ------------------------------------------------------------------------------


async def test_a_match_with_a_merged_record_alone_is_answered_as_the_survivor(people: People) -> None:
    survivor = await people.register(RUTH_TRAITS)
    merged = await people.register()
    await people.ask(
        "LinkPeople", pb.LinkPeopleRequest(name=person_name(survivor), merged=person_name(merged), reason="x")
    )
    answer = await people.ask("MatchPerson", pb.MatchPersonRequest(traits=traits()))
    assert [each.person.name for each in answer.candidates] == [person_name(survivor)]


async def test_a_record_that_does_not_open_hides_nobody_else(people: People) -> None:
    broken, whole = await people.register(), await people.register(traits("Pat-Troi"))
    await people.pool.execute("UPDATE person SET sealed = '\\x00' WHERE health_id = $1", broken)
    search = pb.SearchPeopleRequest(birth_date="1979-03-28", family_name="pat")
    assert [one.name for one in (await people.ask("SearchPeople", search)).people] == [person_name(whole)]
    match = await people.ask("MatchPerson", pb.MatchPersonRequest(traits=traits("Pat-Troi")))
    assert [each.person.name for each in match.candidates] == [person_name(whole)]
    (pair,) = (await people.ask("ListPossibleDuplicates", pb.ListPossibleDuplicatesRequest())).duplicates
    assert {pair.one.name, pair.other.name} == {person_name(broken), person_name(whole)}
    with refused("CONTENT_CORRUPTED"):
        await people.ask("GetPerson", pb.GetPersonRequest(name=person_name(broken)))
