"""Links, the work list and imports told and continued rightly: by each of the two, again, and after a stop."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dmp.common.v1 import access_pb2
from dmp.common.v1.coding_pb2 import Coding
from dmp.identity.v1 import directory_pb2
from dmp.identity.v1 import identity_pb2 as pb
from ops.register_commands import request_id_of
from services.identity.history import parents_at
from services.identity.store.links import LedgerRow
from services.runtime.identifiers import new_health_id, person_name
from tests.identity_service import NOW, People, health_id_of, refused, traits

OPERATOR = access_pb2.CALLER_KIND_OPERATOR
RUTH_TRAITS = traits("Nessi", "Ruth", given="Ruth Isabelle", birth_date="1977-07-14", birth_place="63220")


# --- links -------------------------------------------------------------------------------------------------------


async def test_a_link_and_its_end_are_in_the_trail_of_each_of_the_two(people: People) -> None:
    one, other = await people.register(), await people.register(RUTH_TRAITS)
    await people.ask("LinkPeople", pb.LinkPeopleRequest(name=person_name(one), merged=person_name(other), reason="x"))
    await people.ask("UnlinkPeople", pb.UnlinkPeopleRequest(name=person_name(other), reason="y"))
    told = [
        (event.health_id, change.attribute, change.after)
        for event in await people.told()
        for change in event.changes
        if event.action in ("person.link", "person.unlink")
    ]
    assert sorted(told) == sorted(
        [
            (one, "linked", person_name(other)),
            (other, "merged_into", person_name(one)),
            (other, "unlinked", person_name(one)),
            (one, "parted", person_name(other)),
        ]
    )


async def test_an_unlink_asked_again_is_answered_when_consent_knows_of_both(people: People) -> None:
    one, other = await people.register(), await people.register(RUTH_TRAITS)
    await people.ask("LinkPeople", pb.LinkPeopleRequest(name=person_name(one), merged=person_name(other), reason="x"))
    consent = people.siblings["consent"]
    consent.down = True
    request = pb.UnlinkPeopleRequest(name=person_name(other), reason="two people")
    with refused("DEPENDENCY_UNAVAILABLE"):
        await people.ask("UnlinkPeople", request)
    consent.down = False
    await people.ask("UnlinkPeople", request)
    assert (consent.members(one), consent.members(other)) == ((one,), (other,))


async def test_a_pair_that_was_linked_or_parted_elsewhere_is_decided_on_the_work_list_too(people: People) -> None:
    one, near = await people.register(), await people.register(traits("Pat-Troi"))
    other, nearer = await people.register(traits("Pat-Tro")), await people.register(RUTH_TRAITS)

    async def states() -> dict[frozenset[int], int]:
        found = {}
        for state in (pb.DUPLICATE_STATE_OPEN, pb.DUPLICATE_STATE_DISTINCT, pb.DUPLICATE_STATE_SAME):
            listed = await people.ask("ListPossibleDuplicates", pb.ListPossibleDuplicatesRequest(state=state))
            for pair in listed.duplicates:
                found[frozenset((health_id_of(pair.one), health_id_of(pair.other)))] = pair.state
        return found

    pairs = [frozenset(pair) for pair in ((one, near), (one, other), (near, other))]
    assert await states() == dict.fromkeys(pairs, pb.DUPLICATE_STATE_OPEN)
    for survivor, merged in ((nearer, near), (one, nearer)):
        await people.ask(
            "LinkPeople", pb.LinkPeopleRequest(name=person_name(survivor), merged=person_name(merged), reason="one")
        )
    linked = {pairs[0]: pb.DUPLICATE_STATE_SAME}
    assert await states() == dict.fromkeys(pairs, pb.DUPLICATE_STATE_OPEN) | linked
    low, high = sorted(pairs[0])
    decide = pb.DecidePossibleDuplicateRequest(
        name=f"duplicates/{person_name(low)[7:]}.{person_name(high)[7:]}",
        state=pb.DUPLICATE_STATE_DISTINCT,
        reason="two",
    )
    with refused("DUPLICATE_DECIDED"):
        await people.ask("DecidePossibleDuplicate", decide)
    await people.ask("UnlinkPeople", pb.UnlinkPeopleRequest(name=person_name(nearer), reason="two people"))
    parted = {pairs[0]: pb.DUPLICATE_STATE_DISTINCT}
    assert await states() == dict.fromkeys(pairs, pb.DUPLICATE_STATE_OPEN) | parted


def test_a_past_state_is_told_in_the_order_of_revisions_whatever_the_clocks() -> None:
    merged, survivor = int(new_health_id()), int(new_health_id())

    def row(revision: int, kind: str, seconds: int) -> LedgerRow:
        return LedgerRow(merged, merged, survivor, revision, kind, NOW + timedelta(seconds=seconds), b"")

    rows = [row(1, "linked", 5), row(2, "unlinked", 0), row(3, "linked", 5), row(4, "unlinked", 4)]
    assert parents_at(rows, NOW + timedelta(hours=1)) == {}
    assert parents_at(rows[:3], NOW + timedelta(hours=1)) == {merged: survivor}


# --- the directory -----------------------------------------------------------------------------------------------


async def test_a_row_that_no_column_can_hold_is_a_finding_and_stops_no_import(people: People) -> None:
    good = directory_pb2.Structure(idnst="1750712184", display_name="Hopital", active=True)
    rows = []
    for number, changed in enumerate(
        ({}, {"facility_type": "S\0"}, {"postcode": "7" * 11}, {"display_name": "x" * 10_000_000}), 1
    ):
        structure = directory_pb2.Structure()
        structure.CopyFrom(good)
        structure.MergeFrom(directory_pb2.Structure(**changed))  # type: ignore[arg-type]
        rows.append(directory_pb2.DirectoryRow(row=number, structure=structure))
    request = directory_pb2.ImportDirectoryRequest(import_id="import-1234", rows=rows, complete=True)
    answer = await people.ask("ImportDirectory", request, caller=OPERATOR)
    assert {(each.row, each.field) for each in answer.findings if each.refused} == {
        (2, "facility_type"),
        (3, "postcode"),
        (4, "display_name"),
    }
    assert (answer.directory_import.taken, answer.directory_import.refused) == (1, 3)
    for wrong in (
        directory_pb2.ImportDirectoryRequest(import_id="short", rows=rows[:1]),
        directory_pb2.ImportDirectoryRequest(
            import_id="import-5678", rows=[directory_pb2.DirectoryRow(row=1 + number) for number in range(1001)]
        ),
        directory_pb2.ImportDirectoryRequest(import_id="import-5678", rows=[directory_pb2.DirectoryRow(row=0)]),
    ):
        with refused("INVALID_FIELD"):
            await people.ask("ImportDirectory", wrong, caller=OPERATOR)


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
async def test_an_import_that_stopped_after_any_call_goes_on(people: People, calls: int) -> None:
    import_id = "ab" * 32
    rows = [directory_pb2.DirectoryRow(row=number) for number in range(2, 12)]  # the first line is the header

    async def run(most: int) -> int:
        asked = directory_pb2.GetDirectoryImportRequest(import_id=import_id)
        stands = (await people.ask("GetDirectoryImport", asked, caller=OPERATOR)).directory_import
        left = [row for row in rows if row.row > stands.last_row]
        for start in range(0, len(left), 2)[:most]:
            part = left[start : start + 2]
            request = directory_pb2.ImportDirectoryRequest(
                import_id=import_id, rows=part, request_id=request_id_of(import_id, part)
            )
            answer = await people.ask("ImportDirectory", request, caller=OPERATOR)
            stands = answer.directory_import
        return int(stands.refused)

    assert await run(calls) == 2 * calls
    assert await run(99) == len(rows)


async def test_an_import_in_which_only_the_system_of_a_specialty_is_another_is_written(people: People) -> None:
    idnps, structure = "899700000013", "1750712184"
    for number, system in enumerate(("1.2.250.1.213.1.1.4.5", "1.2.250.1.213.1.1.4.99")):
        specialty = Coding(system=system, code="SM54")
        one = directory_pb2.Practitioner(
            idnps=idnps, family_name="MARTIN", profession="10", active=True, specialties=[specialty]
        )
        place = directory_pb2.Structure(idnst=structure, display_name="Cabinet", active=True)
        role = directory_pb2.PractitionerRole(
            idnps=idnps, idnst=structure, profession="10", active=True, specialty=specialty
        )
        rows = [
            directory_pb2.DirectoryRow(row=1, practitioner=one),
            directory_pb2.DirectoryRow(row=2, structure=place),
            directory_pb2.DirectoryRow(row=3, role=role),
        ]
        request = directory_pb2.ImportDirectoryRequest(import_id=f"specialty-{number}", rows=rows, complete=True)
        answer = await people.ask("ImportDirectory", request, caller=OPERATOR)
        assert answer.directory_import.refused == 0, answer
        asked = directory_pb2.BatchGetDirectoryEntriesRequest(idnps=[idnps], idnst=[structure])
        found = await people.ask("BatchGetDirectoryEntries", asked)
        assert [each.system for each in found.practitioners[0].specialties] == [system]
        roles = await people.ask("SearchPractitionerRoles", directory_pb2.SearchPractitionerRolesRequest(idnps=idnps))
        assert [each.specialty.system for each in roles.roles] == [system]


async def test_a_report_is_continued_by_who_began_it_alone(people: People) -> None:
    rows = [directory_pb2.DirectoryRow(row=number) for number in range(1, 600)]
    request = directory_pb2.ImportDirectoryRequest(import_id="import-1234", rows=rows, complete=True)
    await people.ask("ImportDirectory", request, caller=OPERATOR)
    asked = directory_pb2.GetDirectoryImportRequest(import_id="import-1234")
    asked.page_token = (await people.ask("GetDirectoryImport", asked, caller=OPERATOR)).next_page_token
    assert asked.page_token
    assert len((await people.ask("GetDirectoryImport", asked, caller=OPERATOR)).findings) == 99
    with refused("INVALID_PAGE_TOKEN"):
        await people.ask("GetDirectoryImport", asked, caller=OPERATOR, client="another")
