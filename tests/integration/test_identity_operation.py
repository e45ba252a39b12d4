"""The directory, the national identity service and the rotation of keys, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dmp.common.v1 import access_pb2
from dmp.common.v1.coding_pb2 import Coding
from dmp.identity.v1 import directory_pb2, keys_pb2
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.insi import SimulatedInsi
from services.identity.nir import nir_key
from services.identity.professional_ids import finess_key, luhn_digit
from services.runtime.identifiers import person_name
from services.runtime.keyring import Keyring
from tests.identity_service import (
    DOMINIQUE,
    RUTH,
    People,
    health_id_of,
    identity_service,
    local,
    refused,
    traits,
)

OPERATOR = access_pb2.CALLER_KIND_OPERATOR
NATIONAL = """system,nir,birth_name,given_names,sex,birth_date,birth_place
1.2.250.1.213.1.4.10,279035121518989,PAT-TROIS,DOMINIQUE MARIE,F,1979-03-28,51215
1.2.250.1.213.1.4.10,277076322082910,NESSI,RUTH ISABELLE,F,1977-07-14,63220
1.2.250.1.213.1.4.10,255069900000103,JUMELLE,ANNE,F,1955-06-01,99100
1.2.250.1.213.1.4.10,255069900000200,JUMELLE,ANNE LISE,F,1955-06-01,99101
"""


def simulator(directory: Path) -> SimulatedInsi:
    lines = NATIONAL.splitlines()
    for place, line in enumerate(lines[1:], 1):
        system, nir, rest = line.split(",", 2)
        lines[place] = f"{system},{nir[:13]}{nir_key(nir[:13]):02d},{rest}"
    file = directory / "national.csv"
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return SimulatedInsi.from_file(file)


def twin(given: str, place: str, birth_date: str = "1955-06-01") -> pb.Traits:
    """One of two whom the national service tells apart by their birth places alone."""
    return traits("Jumelle", given, given=given, birth_date=birth_date, birth_place=place)


@pytest.fixture
async def people(identity_database: str, tmp_path: Path) -> AsyncIterator[People]:
    async with identity_service(identity_database, simulator(tmp_path)) as service:
        yield service


# --- the national identity service -------------------------------------------------------------------------------


async def test_a_retrieved_ins_makes_prov_recup_and_a_checked_document_then_makes_it_qual(people: People) -> None:
    health_id = await people.register()
    name = person_name(health_id)
    answer = await people.ask("RetrieveIns", pb.RetrieveInsRequest(name=name))
    assert (answer.outcome, answer.person.status) == (pb.INSI_OUTCOME_FOUND, pb.IDENTITY_STATUS_RETRIEVED)
    assert list(answer.person.identifiers) == []  # not yet qualified
    assert await people.resolve(DOMINIQUE) == [health_id]
    qualified = await people.ask(
        "UpdatePerson", pb.UpdatePersonRequest(name=name, status=pb.IDENTITY_STATUS_QUALIFIED, reason="passport seen")
    )
    assert list(qualified.person.identifiers) == [DOMINIQUE]


async def test_a_checked_identity_becomes_qual_at_once(people: People) -> None:
    created = await people.create(status=pb.IDENTITY_STATUS_VALIDATED)
    answer = await people.ask("RetrieveIns", pb.RetrieveInsRequest(name=created.person.name))
    assert answer.person.status == pb.IDENTITY_STATUS_QUALIFIED


@pytest.mark.parametrize(
    ("who", "outcome"),
    [
        (traits("Inconnu"), pb.INSI_OUTCOME_NOT_FOUND),
        (
            traits("Jumelle", "Anne", given="Anne", birth_date="1955-06-01", birth_place="99999"),
            pb.INSI_OUTCOME_SEVERAL,
        ),
        (twin("Lise", "99999"), pb.INSI_OUTCOME_FOUND),
        (twin("Anne", "99100"), pb.INSI_OUTCOME_FOUND),
        (twin("Anne", "99100", "1955-06"), pb.INSI_OUTCOME_NOT_FOUND),
    ],
)
async def test_the_national_service_finds_one_none_or_several(
    people: People, who: pb.Traits, outcome: pb.InsiOutcome.ValueType
) -> None:
    health_id = await people.register(who)
    answer = await people.ask("RetrieveIns", pb.RetrieveInsRequest(name=person_name(health_id)))
    assert answer.outcome == outcome
    retrieved = answer.person.status == pb.IDENTITY_STATUS_RETRIEVED
    assert retrieved == (outcome == pb.INSI_OUTCOME_FOUND)


async def test_an_ins_of_somebody_else_is_a_conflict(people: People) -> None:
    await people.register(traits("Autre", birth_date="1950-01-01"), DOMINIQUE)
    health_id = await people.register()
    with refused("PERSON_CONFLICT"):
        await people.ask("RetrieveIns", pb.RetrieveInsRequest(name=person_name(health_id)))


async def test_an_ins_that_no_longer_verifies_makes_the_identity_provisional_and_doubtful(people: People) -> None:
    good = (await people.create(None, DOMINIQUE, status=pb.IDENTITY_STATUS_QUALIFIED)).person
    assert (await people.ask("VerifyIns", pb.VerifyInsRequest(name=good.name))).verified
    bad = await people.create(
        traits("Nessie", "Ruth", birth_date="1977-07-14"), RUTH, status=pb.IDENTITY_STATUS_QUALIFIED
    )
    answer = await people.ask("VerifyIns", pb.VerifyInsRequest(name=bad.person.name))
    assert not answer.verified
    assert (answer.person.status, answer.person.doubtful) == (pb.IDENTITY_STATUS_PROVISIONAL, True)


# --- the directory -----------------------------------------------------------------------------------------------


def rpps(number: int) -> str:
    payload = f"99{number:08d}"
    return f"8{payload}{luhn_digit(payload)}"


def finess(number: int, department: str = "99") -> str:
    payload = f"{department}{number:06d}"
    return f"1{payload}{finess_key(payload)}"


def practitioner(number: int, family: str = "Martin", **more: Any) -> directory_pb2.Practitioner:
    fields: dict[str, Any] = {
        "idnps": rpps(number),
        "family_name": family,
        "given_name": "Zoé",
        "profession": "10",
        "active": True,
    }
    return directory_pb2.Practitioner(**(fields | more))


def rows(*entries: Any, start: int = 1) -> list[directory_pb2.DirectoryRow]:
    kinds = {"Practitioner": "practitioner", "Structure": "structure", "PractitionerRole": "role"}
    return [
        directory_pb2.DirectoryRow(row=number, **{kinds[type(entry).__name__]: entry})
        for number, entry in enumerate(entries, start)
    ]


async def bring(people: People, import_id: str, *given: directory_pb2.DirectoryRow) -> Any:
    request = directory_pb2.ImportDirectoryRequest(import_id=import_id, rows=given)
    return await people.ask("ImportDirectory", request, caller=OPERATOR)


async def test_an_import_takes_what_is_right_and_reports_the_rest(people: People) -> None:
    wrong_key = rpps(5)[:-1] + str((int(rpps(5)[-1]) + 1) % 10)
    hospital = directory_pb2.Structure(
        idnst=finess(1), display_name="Hôpital de l’Œuvre", facility_type="SA01", postcode="75013", active=True
    )
    corsican = directory_pb2.Structure(idnst=finess(7, "2A"), display_name="Clinique", postcode="20000", active=True)
    answer = await bring(
        people,
        "import-of-today",
        *rows(
            practitioner(1, specialties=[Coding(system="1.2.250.1.213.1.1.4.5", code="G15_10/SM54")]),
            hospital,
            directory_pb2.PractitionerRole(idnps=rpps(1), idnst=finess(1), profession="10", active=True),
            practitioner(2, profession="11"),
            practitioner(3, idnps="9123"),
            practitioner(4, family_name="Ma\x07rtin"),
            practitioner(5, idnps=wrong_key),
            directory_pb2.PractitionerRole(idnps=rpps(9), idnst=finess(1), active=True),
            corsican,
            practitioner(6, profession="60", specialties=[Coding(system="1.2", code="X")]),
        ),
    )
    found = [(each.row, each.field, each.rule, each.refused) for each in answer.findings]
    assert found == [
        (4, "profession", "profession.known", True),
        (5, "idnps", "idnps.form", True),
        (6, "family_name", "text.printable", True),
        (7, "idnps", "idnps.key", True),
        (8, "idnps", "directory.known", True),
        (10, "specialties", "specialty.profession", False),
    ]
    stands = answer.directory_import
    assert (stands.last_row, stands.taken, stands.refused, stands.warned) == (10, 5, 5, 1)
    report = await people.ask(
        "GetDirectoryImport", directory_pb2.GetDirectoryImportRequest(import_id="import-of-today"), caller=OPERATOR
    )
    assert list(report.findings) == list(answer.findings)
    roles = await people.ask("SearchPractitionerRoles", directory_pb2.SearchPractitionerRolesRequest(idnst=finess(1)))
    assert [(role.idnps, role.idnst) for role in roles.roles] == [(rpps(1), finess(1))]
    assert [one.idnps for one in roles.practitioners] == [rpps(1)]
    assert [one.display_name for one in roles.structures] == ["Hôpital de l’Œuvre"]


async def test_an_import_goes_on_where_it_stopped_and_takes_nothing_twice(people: People) -> None:
    given = rows(*(practitioner(number) for number in range(6)))
    await bring(people, "import-of-today", *given[:4])
    answer = await bring(people, "import-of-today", *given[2:])
    assert (answer.directory_import.last_row, answer.directory_import.taken) == (6, 6)
    with refused("INVALID_FIELD"):
        await bring(people, "import-of-today", *reversed(given))


async def test_professionals_are_found_by_the_beginning_of_a_name_in_pages(people: People) -> None:
    entries = [practitioner(number, "Élouard" if number % 2 else "Martin") for number in range(9)]
    await bring(people, "import-of-today", *rows(*entries, practitioner(20, "Éloi", active=False)))
    seen: list[str] = []
    token = ""
    while True:
        request = directory_pb2.SearchPractitionersRequest(family_name="elo", page_size=2, page_token=token)
        page = await people.ask("SearchPractitioners", request)
        seen += [one.idnps for one in page.practitioners]
        token = page.next_page_token
        if not token:
            break
    assert len(seen) == len(set(seen)) == 5
    active = directory_pb2.SearchPractitionersRequest(family_name="elo", active_only=True, profession="10")
    assert len((await people.ask("SearchPractitioners", active)).practitioners) == 4
    by_id = directory_pb2.SearchPractitionersRequest(idnps=rpps(20))
    assert [one.active for one in (await people.ask("SearchPractitioners", by_id)).practitioners] == [False]
    with refused("INVALID_FIELD"):
        await people.ask("SearchPractitioners", directory_pb2.SearchPractitionersRequest(family_name="é"))
    got = await people.ask(
        "BatchGetDirectoryEntries", directory_pb2.BatchGetDirectoryEntriesRequest(idnps=[rpps(20), rpps(999)])
    )
    assert [one.idnps for one in got.practitioners] == [rpps(20)]


# --- rotation ----------------------------------------------------------------------------------------------------


async def rotate(people: People, until: keys_pb2.KeyRotationPhase.ValueType) -> int:
    """Slices of two people until the phase; how many slices."""
    for slices in range(1, 50):
        request = keys_pb2.AdvanceKeyRotationRequest(max_people=2)
        state = (await people.ask("AdvanceKeyRotation", request, caller=OPERATOR)).key_rotation
        if state.phase == until:
            return slices
    raise AssertionError("the rotation does not end")


async def test_keys_rotate_while_people_are_registered_found_and_changed(people: People) -> None:
    changes = people.servicer._parts.changes
    keyring: Keyring = changes.digests._keyring
    secrets = {1: bytes(range(32)), 2: bytes(range(1, 33))}
    first = await people.register(None, DOMINIQUE, local("IPP-1"))
    for number in range(5):
        await people.register(traits(f"Nom{'abcde'[number]}", birth_date=f"194{number}-02-03"), local(f"IPP-1{number}"))

    async def works(*known: tuple[Any, int | str]) -> None:
        for identifier, health_id in known:
            assert await people.resolve(identifier) == [health_id]
        assert (await people.create(None, DOMINIQUE, local("IPP-1"))).existed
        found = await people.ask("SearchPeople", pb.SearchPeopleRequest(birth_date="1979-03-28", family_name="pat"))
        assert [one.name for one in found.people] == [person_name(first)]

    keyring.take(Keyring(secrets, current=2, digests=[1, 2]))
    during = health_id_of((await people.create(traits("Nessi", "Ruth", birth_date="1977-07-14"), RUTH)).person)
    await works((DOMINIQUE, first), (RUTH, during))
    assert await rotate(people, keys_pb2.KEY_ROTATION_PHASE_BACKFILLED) >= 4
    await works((DOMINIQUE, first), (RUTH, during))
    keyring.take(Keyring(secrets, current=2, digests=[2]))
    await works((DOMINIQUE, first), (RUTH, during), (local("IPP-12"), (await people.resolve(local("IPP-12")))[0]))
    assert await rotate(people, keys_pb2.KEY_ROTATION_PHASE_IDLE) >= 4
    await works((DOMINIQUE, first), (RUTH, during))
    assert await people.pool.fetchval("SELECT count(*) FROM identifier") == 8
    generations = await people.pool.fetch("SELECT DISTINCT get_byte(wrapped, 4) AS generation FROM dossier_key")
    assert [row["generation"] for row in generations] == [2]
    keyring.take(Keyring({2: secrets[2]}, current=2, digests=[2]))
    await works((DOMINIQUE, first), (RUTH, during))
    state = (await people.ask("GetKeyRotation", keys_pb2.GetKeyRotationRequest(), caller=OPERATOR)).key_rotation
    assert (list(state.digest_generations), state.wrapping_generation) == ([2], 2)
