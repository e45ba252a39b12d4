"""Dossiers of one person are read together while they are linked: nothing is lost, nothing doubled, all is recorded."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import clinical_pb2, document_pb2
from services.runtime.identifiers import document_name, dossier_name, new_health_id
from services.runtime.postgres import connect
from tests import clinical_documents as bodies
from tests.document_world import World, document_database, world
from tests.documents import FakeAudit, FakeConsent, FakeIdentity, call, cda, new_oid
from tests.refusals import refused

__all__ = ["document_database", "world"]

PEOPLE = 4


def link(world: World, *groups: tuple[int, ...]) -> None:
    """These are one person each; everybody else is alone."""
    world.consent.linked = {one: [other for other in group if other != one] for group in groups for one in group}


async def add(world: World, dossier: int, title: str = "", **given: str) -> str:
    """Submits one document; the id that it has whatever dossier is asked for."""
    metadata = document_pb2.Document(title=title)
    answer = await world.submit((metadata, cda(new_oid(), **given)), dossier=dossier)
    return answer.documents[0].name[-36:]


async def found(world: World, dossier: int, size: int = 100, **criteria: object) -> list[str]:
    """The ids of what is found, in pages; the total is the same on each."""
    ids: list[str] = []
    totals: set[int] = set()
    token = ""
    while True:
        page = await world.search(dossier=dossier, page_size=size, page_token=token, **criteria)
        assert all(document.name.startswith(f"{dossier_name(dossier)}/") for document in page.documents)
        ids += [document.name[-36:] for document in page.documents]
        totals.add(page.total_size)
        token = page.next_page_token
        if not token:
            assert totals == {len(ids)}
            return ids


@pytest.fixture
async def two(world: World) -> tuple[int, int, list[str], list[str]]:
    """Two linked dossiers with three documents each."""
    one, other = int(new_health_id()), int(new_health_id())
    ids: dict[int, list[str]] = {one: [], other: []}
    for _ in range(3):
        for dossier in (one, other):
            ids[dossier].append(await add(world, dossier))
    link(world, (one, other))
    return one, other, ids[one], ids[other]


async def test_either_is_searched_as_one_page_by_page(world: World, two: tuple[int, int, list[str], list[str]]) -> None:
    one, other, mine, theirs = two
    newest_first = [each for pair in zip(mine, theirs, strict=True) for each in pair][::-1]
    for dossier in (one, other):
        for size in (1, 2, 100):
            assert await found(world, dossier, size) == newest_first
    link(world)
    assert await found(world, one) == mine[::-1]


async def test_a_document_is_read_by_the_name_it_is_shown_by_and_by_that_of_its_own_dossier(
    world: World, two: tuple[int, int, list[str], list[str]]
) -> None:
    one, other, _, theirs = two
    for dossier in (one, other):
        name = document_name(dossier, uuid.UUID(theirs[0]))
        document = await world.get(name)
        assert document.name == name
        assert document.submission_set.startswith(f"{dossier_name(dossier)}/")
        assert b"ClinicalDocument" in await world.content(name)
        assert [version.document.name for version in await world.versions(name)] == [name]
    link(world)
    with refused(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND):
        await world.get(document_name(one, uuid.UUID(theirs[0])))
    await world.get(document_name(other, uuid.UUID(theirs[0])))


async def test_each_dossier_that_an_answer_reaches_has_it_in_its_own_trail(
    world: World, two: tuple[int, int, list[str], list[str]]
) -> None:
    one, other, mine, theirs = two
    world.audit.events.clear()
    await found(world, one)
    by_dossier = {event.health_id: event for event in world.audit.events}
    assert sorted(by_dossier) == sorted((one, other))
    assert len(by_dossier[one].objects) == 6
    assert set(by_dossier[other].objects) == {document_name(other, uuid.UUID(each)) for each in theirs}
    world.audit.events.clear()
    await world.content(document_name(one, uuid.UUID(mine[0])))
    assert [event.health_id for event in world.audit.events] == [one]
    world.audit.events.clear()
    world.audit.down = True
    with refused(reasons.ERROR_REASON_AUDIT_UNAVAILABLE):
        await world.content(document_name(one, uuid.UUID(theirs[0])))


async def test_a_document_of_the_other_dossier_is_changed_where_it_lies(
    world: World, two: tuple[int, int, list[str], list[str]]
) -> None:
    one, other, _, theirs = two
    name = document_name(one, uuid.UUID(theirs[0]))
    changed = await world.change(name, document_pb2.DOCUMENT_CHANGE_MASK)
    assert changed.name == name
    masked = "SELECT masked FROM document WHERE health_id = $1 AND document_id = $2"
    assert await world.pool.fetchval(masked, other, uuid.UUID(theirs[0]))
    world.dossier = other
    assert [list(event.objects) for event in await world.events("document.mask")] == [
        [document_name(other, uuid.UUID(theirs[0]))]
    ]


async def test_titles_sets_and_unique_ids_are_found_in_both(
    world: World, two: tuple[int, int, list[str], list[str]]
) -> None:
    one, other, _, theirs = two
    assert len(await found(world, one, title="consult")) == 6
    sets = document_pb2.ListSubmissionSetsRequest(parent=dossier_name(one), page_size=4)
    first = await world.service.servicer.ListSubmissionSets(sets, call("ListSubmissionSets", one))
    sets.page_token = first.next_page_token
    second = await world.service.servicer.ListSubmissionSets(sets, call("ListSubmissionSets", one))
    names = [each.name for each in (*first.submission_sets, *second.submission_sets)]
    assert (first.total_size, len(set(names)), len(names)) == (6, 6, 6)
    for name in names:
        wanted = document_pb2.GetSubmissionSetRequest(name=name)
        got = await world.service.servicer.GetSubmissionSet(wanted, call("GetSubmissionSet", one))
        assert (got.submission_set.name, len(got.documents)) == (name, 1)
    document = await world.get(document_name(other, uuid.UUID(theirs[0])))
    resolve = document_pb2.ResolveUniqueIdRequest(parent=dossier_name(one), unique_id=document.unique_id)
    answer = await world.service.servicer.ResolveUniqueId(resolve, call("ResolveUniqueId", one))
    assert [each.name for each in answer.documents] == [document_name(one, uuid.UUID(theirs[0]))]


async def test_what_documents_of_either_say_is_listed_as_one_page_by_page(world: World) -> None:
    one, other = int(new_health_id()), int(new_health_id())
    named: dict[int, str] = {}
    for world.dossier in (one, other):
        document = await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
        named[world.dossier] = document.name[-36:]

    async def listed(dossier: int) -> list[str]:
        sources, token = [], ""
        while True:
            request = clinical_pb2.ListMedicationsRequest(parent=dossier_name(dossier), page_size=1, page_token=token)
            page = await world.service.clinical.ListMedications(request, call("ListMedications", dossier))
            sources += [entry.source.document for entry in page.entries]
            assert page.total_size == len(documents)
            token = page.next_page_token
            if not token:
                return sources

    link(world, (one, other))
    documents = sorted(named.values())
    for dossier in (one, other):
        world.audit.events.clear()
        assert sorted(await listed(dossier)) == [document_name(dossier, uuid.UUID(each)) for each in documents]
        assert {event.health_id for event in world.audit.events} == {one, other}
    link(world)
    documents = [named[one]]
    assert await listed(one) == [document_name(one, uuid.UUID(named[one]))]


async def test_a_watch_wakes_for_either_dossier(world: World, two: tuple[int, int, list[str], list[str]]) -> None:
    one, other, *_ = two
    request = document_pb2.WatchChangesRequest(parent=dossier_name(one))
    watch = world.service.servicer.WatchChanges(request, call("WatchChanges", one, timeout=60.0))
    await anext(watch)
    added = await add(world, other)
    async with asyncio.timeout(30):
        told = await anext(watch)
    assert [change.document.name for change in told.changes] == [document_name(one, uuid.UUID(added))]


Act = tuple[str, int, int]
acts = st.lists(
    st.tuples(st.sampled_from(("link", "part", "add", "look")), st.integers(0, PEOPLE - 1), st.integers(0, PEOPLE - 1)),
    min_size=4,
    max_size=16,
)


@given(acts=acts)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_linked_and_parted_in_any_order_nothing_is_lost_or_doubled(document_database: str, acts: list[Act]) -> None:
    """Each dossier shows what its person has; and who follows the changes of one by its cursor has been told of every
    document that it shows, and of none twice while it stayed linked."""

    async def play() -> None:
        pool = await connect(document_database, min_size=1, max_size=4, name="dmp-test")
        world = World(pool, FakeConsent(), FakeIdentity(), FakeAudit())
        everyone = [int(new_health_id()) for _ in range(PEOPLE)]
        person = list(range(PEOPLE))
        documents: list[list[str]] = [[] for _ in everyone]
        cursors = [""] * PEOPLE
        told: list[Counter[str]] = [Counter() for _ in everyone]
        try:
            for act, first, second in [*acts, *(("look", number, 0) for number in range(PEOPLE))]:
                if act == "link":
                    person = [person[first] if each == person[second] else each for each in person]
                elif act == "part":
                    person[first] = max(person) + 1
                    for listed in told:  # who is linked again is told again
                        listed.clear()
                    cursors = [""] * PEOPLE
                elif act == "add":
                    documents[first].append(await add(world, everyone[first]))
                groups = {
                    each: tuple(d for d, of in zip(everyone, person, strict=True) if of == each) for each in person
                }
                link(world, *groups.values())
                if act == "look":
                    together = [number for number in range(PEOPLE) if person[number] == person[first]]
                    expected = sorted(each for number in together for each in documents[number])
                    assert sorted(await found(world, everyone[first], 2)) == expected
                    answer = await world.changes(cursors[first], everyone[first])
                    cursors[first] = answer.cursor
                    told[first].update(change.document.name[-36:] for change in answer.changes)
                    while len(answer.changes) == 20:
                        answer = await world.changes(cursors[first], everyone[first])
                        cursors[first] = answer.cursor
                        told[first].update(change.document.name[-36:] for change in answer.changes)
                    assert told[first] == Counter(expected)
        finally:
            for service in world.opened:
                await service.close()
            await pool.close()

    asyncio.run(play())
