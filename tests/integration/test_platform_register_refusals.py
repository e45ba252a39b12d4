"""What may not enter the register is refused with its field and rule, whichever way it comes, and leaves nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
import pytest_asyncio
from google.protobuf.message import Message

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.coding_pb2 import Identifier
from dmp.document.v1 import document_pb2
from dmp.identity.v1 import directory_pb2
from dmp.identity.v1 import identity_pb2 as pb
from ops.demo_platform import person_message
from ops.local.registrations import INTERNAL, OPERATOR, PARTNER
from ops.session import Statement
from services.identity.nir import nir_key
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, format_health_id, person_name
from tests.platform_fixture import Patient, Platform, method

pytestmark = pytest.mark.asyncio(loop_scope="session")

OWN: Final = "1.2.250.1.999.41"
FOREIGN: Final = "1.2.250.1.999.42"
HUGE: Final = "x" * 10_000_000
BOTH: Final = (INTERNAL, PARTNER)
Expected = tuple[str, str, str]
"""Reason, field and rule."""
Wrong = tuple[str, Message, Expected]
_COUNT: Final = "SELECT count(*) FROM {}"
_COUNTED: Final = ("person", "person_history", "identifier", "match_block", "link_ledger", "possible_duplicate")


@dataclass(slots=True)
class Scene:
    """A person, one who was merged into it, and two domains of local identifiers, of which one is the partner's."""

    platform: Platform
    one: Patient
    merged: Patient

    def statement(self, client: str) -> Statement:
        if client == OPERATOR:
            return Statement.of(OPERATOR, actor="operator", subject="operator-1")
        return Statement(client, self.one.caregiver.statement().fields)

    async def ask(self, rpc: str, request: Message, client: str = INTERNAL) -> Any:
        if method(rpc).mutation:
            request.request_id = self.platform.request_id()  # type: ignore[attr-defined]
        service = method(rpc).path.split(".")[1]
        return await self.platform.session.call(service, rpc, request, method(rpc).response, self.statement(client))

    def person(self, *identifiers: Identifier, **traits: Any) -> pb.Person:
        """Somebody who is not registered, but for what is said of them."""
        person = person_message(self.one.person)
        del person.identifiers[:]
        person.status = pb.IDENTITY_STATUS_PROVISIONAL
        person.traits.birth_name = "REFUSED"
        for name, value in traits.items():
            setattr(person.traits, name, value)
        person.identifiers.extend(identifiers)
        return person

    async def stored(self) -> dict[str, int]:
        async with self.platform.database("identity") as database:
            return {table: await database.fetchval(_COUNT.format(table)) for table in _COUNTED}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scene(platform: Platform) -> AsyncIterator[Scene]:
    made = Scene(platform, await platform.registered(), await platform.patient())
    for system, client in ((OWN, PARTNER), (FOREIGN, "somebody-else")):
        domain = pb.IdentifierDomain(system=system, display_name="Refusals", client_id=client)
        await made.ask("SetIdentifierDomain", pb.SetIdentifierDomainRequest(domain=domain), OPERATOR)
    names = person_name(made.one.health_id), person_name(made.merged.health_id)
    await made.ask("LinkPeople", pb.LinkPeopleRequest(name=names[0], merged=names[1], reason="refusals"))
    yield made


def invalid(field: str, rule: str) -> Expected:
    return "INVALID_FIELD", field, rule


def create(scene: Scene, *identifiers: Identifier, **traits: Any) -> Message:
    return pb.CreatePersonRequest(person=scene.person(*identifiers, **traits))


def update(scene: Scene, **given: Any) -> Message:
    name = given.pop("name", person_name(scene.one.health_id))
    return pb.UpdatePersonRequest(name=name, reason="refusals", **given)


def add(scene: Scene, identifier: Identifier) -> Message:
    return pb.AddIdentifierRequest(name=person_name(scene.one.health_id), identifier=identifier, reason="x")


def wrong_keys(scene: Scene) -> dict[str, Wrong]:
    nir, system = scene.one.person.nir, scene.one.person.nir_oid
    number = Identifier(system=system, value=f"{nir[:13]}{(int(nir[13:]) % 97) + 1:02d}")
    corsican = Identifier(system=system, value=f"255062B033001{nir_key('255062B033001') % 97 + 1:02d}")
    insc = Identifier(system="1.2.250.1.213.1.4.2", value="0" * 20 + "01")
    digits = format_health_id(scene.one.health_id)
    name = f"people/{digits[:19]}{(int(digits[19:]) % 97) + 1:02d}"
    value = "person.identifiers[0].value"
    return {
        "a NIR": ("CreatePerson", create(scene, number), invalid(value, "nir.key")),
        "a Corsican NIR": ("CreatePerson", create(scene, corsican), invalid(value, "nir.key")),
        "a NIR later on": ("AddIdentifier", add(scene, number), invalid("identifier.value", "nir.key")),
        "an INS-C": ("CreatePerson", create(scene, insc), invalid(value, "insc.key")),
        "a health id": ("UpdatePerson", update(scene, name=name, homonym=True), invalid("name", "health_id.key")),
    }


def wrong_states(scene: Scene) -> dict[str, Wrong]:
    born, later = "person.traits.birth_date", update(scene, traits=scene.person(birth_date="1980-02-31").traits)
    recup = update(scene, status=pb.IDENTITY_STATUS_RETRIEVED)
    return {
        "the thirteenth month": (
            "CreatePerson",
            create(scene, birth_date="1979-13-01"),
            invalid(born, "date.calendar"),
        ),
        "30 February": ("CreatePerson", create(scene, birth_date="1979-02-30"), invalid(born, "date.calendar")),
        "a birth to come": ("CreatePerson", create(scene, birth_date="2999-01-01"), invalid(born, "date.past")),
        "31 February later on": ("UpdatePerson", later, invalid("traits.birth_date", "date.calendar")),
        "QUAL to RECUP": ("UpdatePerson", recup, ("STATUS_TRANSITION", "status", "status.transition")),
    }


def wrong_domains(scene: Scene) -> dict[str, Wrong]:
    foreign, unknown = (Identifier(system=system, value="IPP-1") for system in (FOREIGN, "1.2.250.1.999.43"))
    given = "person.identifiers"
    return {
        "another's": ("CreatePerson", create(scene, foreign), ("FOREIGN_DOMAIN", given, "domain.own")),
        "another's later on": (
            "AddIdentifier",
            add(scene, foreign),
            ("FOREIGN_DOMAIN", "identifier.system", "domain.own"),
        ),
        "nobody's": ("CreatePerson", create(scene, unknown), ("UNKNOWN_DOMAIN", given, "domain.known")),
    }


def merged_ones(scene: Scene) -> dict[str, Wrong]:
    one, merged = person_name(scene.one.health_id), person_name(scene.merged.health_id)
    change = update(scene, name=merged, homonym=True)
    again, above = (pb.LinkPeopleRequest(name=a, merged=b, reason="x") for a, b in ((one, merged), (merged, one)))
    split = pb.SplitPersonRequest(name=merged, traits=scene.person().traits, reason="x")
    name = ("PERSON_MERGED", "name", "person.merged")
    return {
        "merged, changed": ("UpdatePerson", change, name),
        "merged, merged again": ("LinkPeople", again, ("PERSON_MERGED", "merged", "person.merged")),
        "merged, as survivor": ("LinkPeople", above, name),
        "merged, split": ("SplitPerson", split, name),
    }


def wrong_names(scene: Scene) -> dict[str, Wrong]:
    bell, line, mark = (
        create(scene, birth_name="PAT\x07"),
        create(scene, used_name="PAT\nTROIS"),
        create(scene, first_birth_given_name="A\u202eB"),
    )
    later = update(scene, traits=scene.person(birth_name=HUGE).traits)
    huge, printable, longest = create(scene, birth_name=HUGE), "name.printable", "string.max_len"
    return {
        "a bell": ("CreatePerson", bell, invalid("person.traits.birth_name", printable)),
        "a line break": ("CreatePerson", line, invalid("person.traits.used_name", printable)),
        "a direction mark": ("CreatePerson", mark, invalid("person.traits.first_birth_given_name", printable)),
        "ten megabytes": ("CreatePerson", huge, invalid("person.traits.birth_name", longest)),
        "ten megabytes later on": ("UpdatePerson", later, invalid("traits.birth_name", longest)),
    }


def wrong(scene: Scene) -> dict[str, Wrong]:
    """By what is wrong: the call, its request, and how it is refused."""
    parts = (wrong_keys, wrong_states, wrong_domains, merged_ones, wrong_names)
    return {what: each for part in parts for what, each in part(scene).items()}


async def test_each_is_refused_directly_and_through_the_gateway_and_nothing_is_stored(scene: Scene) -> None:
    before = await scene.stored()
    told: dict[tuple[str, str], object] = {}
    expected: dict[tuple[str, str], object] = {}
    for what, (rpc, request, refusal) in wrong(scene).items():
        for client in (INTERNAL,) if rpc == "SplitPerson" else BOTH:
            expected[what, client] = refusal
            try:
                told[what, client] = await scene.ask(rpc, request, client)
            except DmpError as error:
                named = [(each.field, each.rule) for each in error.fields]
                told[what, client] = (error.reason_name, *named[0]) if named else (error.reason_name,)
    assert [(what, told[what], expected[what]) for what in told if told[what] != expected[what]] == []
    assert await scene.stored() == before


NEW: Final = frozenset({"name", "gender", "birthDate"})
"""What `fed` says of a person, which a merge may not change."""


def fed(scene: Scene, *identifiers: tuple[str, str], **more: Any) -> dict[str, Any]:
    """A Patient whom nobody has registered, but for what is said of it."""
    return {
        "resourceType": "Patient",
        "identifier": [{"system": f"urn:oid:{system}", "value": value} for system, value in identifiers],
        "name": [{"use": "official", "family": "REFUSED", "given": ["Paul"]}],
        "gender": "male",
        "birthDate": "1970-02-03",
        **more,
    }


def wrong_feeds(scene: Scene) -> dict[str, tuple[tuple[str, str], dict[str, Any], tuple[int, str, str]]]:
    """By what is wrong: the identifier that the person is named by, the Patient, and status, code and place told."""
    own, foreign, ins = (OWN, "IPP-9"), (FOREIGN, "IPP-9"), (scene.one.person.nir_oid, scene.one.person.nir)
    wrong_key = (ins[0], f"{ins[1][:13]}{(int(ins[1][13:]) % 97) + 1:02d}")
    merged = (scene.merged.person.nir_oid, scene.merged.person.nir)

    def named(family: str) -> list[dict[str, Any]]:
        return [{"use": "official", "family": family, "given": ["Paul"]}]

    def replaced(by: tuple[str, str]) -> dict[str, Any]:
        other = {"reference": f"Patient?identifier=urn:oid:{by[0]}|{by[1]}"}
        return {"active": False, "link": [{"other": other, "type": "replaced-by"}]}

    return {
        "wrong key": (own, fed(scene, own, wrong_key), (400, "ins.key", "Patient.identifier[1]")),
        "wrong key as the name": (wrong_key, fed(scene, wrong_key), (400, "ins.key", "identifier")),
        "impossible date": (own, fed(scene, own, birthDate="1970-02-30"), (400, "date", "Patient.birthDate")),
        "a birth to come": (own, fed(scene, own, birthDate="2999-01-01"), (400, "date.past", "Patient.birthDate")),
        "foreign domain": (foreign, fed(scene, foreign), (403, "domain.own", "Patient.identifier")),
        "foreign beside own": (own, fed(scene, own, foreign), (403, "domain.own", "Patient.identifier")),
        "foreign later on": (ins, fed(scene, ins, foreign), (403, "domain.own", "Patient.identifier")),
        "another INS": (
            ins,
            fed(scene, ins, (ins[0], f"199999999999{5}{nir_key('1999999999995'):02d}")),
            (409, "ins.other", "Patient.identifier"),
        ),
        "into itself, by the INS of who was merged": (
            ins,
            {key: told for key, told in fed(scene, ins, **replaced(merged)).items() if key not in NEW},
            (400, "link.other", "Patient.link"),
        ),
        "control characters": (
            own,
            fed(scene, own, name=named("A\u0007B")),
            (400, "characters", "Patient.name[0].family"),
        ),
        "ten megabytes": (own, fed(scene, own, name=named(HUGE)), (400, "max_length", "Patient.name[0].family")),
    }


async def test_each_is_refused_over_fhir_where_it_stands_and_nothing_is_stored(scene: Scene) -> None:
    before = await scene.stored()
    token = await scene.platform.session.token(scene.statement(PARTNER))
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"}
    told = dict[str, tuple[int, str, str]]()
    for what, (name, patient, _) in wrong_feeds(scene).items():
        query = {"identifier": f"urn:oid:{name[0]}|{name[1]}"}
        answer = await scene.platform.session.http.put("/Patient", params=query, json=patient, headers=headers)
        (issue,) = answer.json()["issue"]
        told[what] = (answer.status_code, issue["diagnostics"].partition(":")[0], *issue["expression"])
    assert told == {what: refusal for what, (_, _, refusal) in wrong_feeds(scene).items()}
    assert await scene.stored() == before


async def test_a_profession_that_nobody_knows_is_reported_with_its_row(scene: Scene) -> None:
    practitioner = directory_pb2.Practitioner(
        idnps="810100000019", family_name="REFUSED", given_name="Anne", profession="99", active=True
    )
    request = directory_pb2.ImportDirectoryRequest(
        import_id="refusals", rows=[directory_pb2.DirectoryRow(row=7, practitioner=practitioner)], complete=True
    )
    answer = await scene.ask("ImportDirectory", request, OPERATOR)
    assert (answer.directory_import.taken, answer.directory_import.refused) == (0, 1)
    findings = await scene.ask(
        "GetDirectoryImport", directory_pb2.GetDirectoryImportRequest(import_id="refusals"), OPERATOR
    )
    (finding,) = [each for each in findings.findings if each.refused]
    assert (finding.row, finding.field, finding.rule) == (7, "profession", "profession.known")
    wanted = directory_pb2.SearchPractitionersRequest(family_name="REFUSED")
    assert not (await scene.ask("SearchPractitioners", wanted)).practitioners


async def test_a_document_for_a_merged_dossier_is_sent_on(scene: Scene) -> None:
    await scene.one.acts.open(scene.one.health_id)
    with pytest.raises(DmpError) as refused:
        await scene.merged.acts.submit(scene.merged.health_id, scene.merged.cda(), "consultation.xml")
    assert refused.value.reason == reasons.ERROR_REASON_DOSSIER_MERGED
    assert refused.value.metadata == {"merged_into": dossier_name(scene.one.health_id)}
    wanted = document_pb2.SearchDocumentsRequest(parent=scene.one.dossier)
    await scene.one.acts.authorise(scene.one.health_id)
    assert (await scene.ask("SearchDocuments", wanted, PARTNER)).total_size == 0
