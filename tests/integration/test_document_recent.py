"""The dossiers of a caller by their last document (TD0.4): what a naive look into each would list, and nothing more."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2 as pb
from services.document import recent
from services.document.times import timestamp
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_of, new_health_id
from tests import documents
from tests.document_world import World, document_database, world
from tests.documents import call, cda, decision, new_oid, no
from tests.refusals import refused

__all__ = ["document_database", "world"]

MASKED, UNSEEN = "MASQUE_PS", "INVISIBLE_PATIENT"
NOT_MASKED = decision(masked=consent_pb2.MASKED_VIEW_NONE)
NOT_MASKED.filter.masked = consent_pb2.MASKED_VIEW_NONE
OWN_MASKED = decision()
OWN_MASKED.filter.masked = consent_pb2.MASKED_VIEW_OWN
NO_LETTERS = decision(denied_type_codes=["11488-4"])


async def feed(world: World, dossier: int, flag: str = "", author: str = documents.AUTHOR) -> pb.Document:
    """One document in one dossier."""
    metadata = pb.Document()
    if flag:
        metadata.confidentiality.add(system="1.2.250.1.213.1.1.4.13", code=flag)
    answer = await world.submit((metadata, cda(new_oid(), author=author)), dossier=dossier)
    return answer.documents[0]


async def page(
    world: World, size: int = 0, token: str = "", since: datetime | None = None
) -> pb.ListRecentDossiersResponse:
    request = pb.ListRecentDossiersRequest(page_size=size, page_token=token)
    if since is not None:
        request.since.CopyFrom(timestamp(since))
    return await world.service.servicer.ListRecentDossiers(request, call("ListRecentDossiers", 0))


async def listed(world: World, size: int = 0, since: datetime | None = None) -> list[tuple[datetime, int]]:
    """Every page: (time, dossier)."""
    found: list[tuple[datetime, int]] = []
    token = ""
    while True:
        answer = await page(world, size, token, since)
        assert len(answer.dossiers) <= (size or 50)
        found += [
            (each.last_submit_time.ToDatetime(tzinfo=UTC), dossier_of(each.name, "name")) for each in answer.dossiers
        ]
        token = answer.next_page_token
        if not token:
            return found


async def naive(world: World, since: datetime | None = None) -> list[tuple[datetime, int]]:
    """By a search in each dossier that consent names and lets in."""
    found = []
    for dossier in world.consent.held_dossiers:
        answer = world.consent.answers.get(dossier, world.consent.answer)
        assert isinstance(answer, consent_pb2.Decision)
        if not answer.permitted:
            continue
        documents_seen = (await world.search(dossier=dossier, page_size=100)).documents
        times = [each.submit_time.ToDatetime(tzinfo=UTC) for each in documents_seen]
        newest = max(times, default=None)
        if newest is not None and (since is None or newest >= since):
            found.append((newest, dossier))
    return sorted(found, reverse=True)


@pytest.fixture
async def many(world: World) -> World:
    """Twenty-four dossiers of which some are shut, seen through several filters, or hold hidden documents last."""
    chance = random.Random(4)
    world.consent.held_dossiers = [new_health_id() for _ in range(24)]
    await feed(world, world.dossier)  # not the caller's
    for _ in range(60):
        author = chance.choice((documents.AUTHOR, documents.OTHER))
        await feed(
            world, chance.choice(world.consent.held_dossiers[:22]), chance.choice(("", "", MASKED, UNSEEN)), author
        )
    for dossier in world.consent.held_dossiers:
        answers = (decision(), NOT_MASKED, OWN_MASKED, NO_LETTERS, no(reasons.ERROR_REASON_BLOCKED))
        world.consent.answers[dossier] = chance.choice(answers)
    return world


async def test_the_list_is_what_a_search_in_each_dossier_would_find_first(
    many: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await naive(many)
    assert 8 < len(expected) < 22
    for slice_size, size in ((1, 4), (7, 9), (128, 200)):
        monkeypatch.setattr(recent, "_SLICE", slice_size)
        assert await listed(many, size) == expected, (slice_size, size)
    for place in (0, 5, len(expected) - 1):
        since = expected[place][0]
        assert await listed(many, 3, since) == expected[: place + 1] == await naive(many, since)
    assert await listed(many, 3, expected[0][0] + timedelta(microseconds=1)) == []


async def test_hidden_documents_do_not_move_a_dossier(world: World) -> None:
    first, second = new_health_id(), new_health_id()
    world.consent.held_dossiers = [first, second]
    for dossier in (first, second):
        await feed(world, dossier)
    before = await listed(world)
    assert [dossier for _, dossier in before] == [second, first]
    await feed(world, first, MASKED)
    for hides in (pb.DOCUMENT_CHANGE_ARCHIVE, pb.DOCUMENT_CHANGE_DELETE):
        await world.change((await feed(world, first)).name, hides)
    assert [dossier for _, dossier in await listed(world)] == [first, second]
    world.consent.answer = NOT_MASKED
    assert await listed(world) == before
    assert await listed(world, since=before[0][0] + timedelta(microseconds=1)) == []


async def test_dossiers_whose_newest_documents_are_hidden_do_not_end_a_page_too_early(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "_SLICE", 1)
    dossiers: list[int] = [new_health_id() for _ in range(6)]
    world.consent.held_dossiers = dossiers
    for dossier in dossiers:
        await feed(world, dossier)
    for dossier in dossiers[:3]:
        await feed(world, dossier, MASKED)
    world.consent.answer = NOT_MASKED
    for size in (1, 2, 6):
        assert [dossier for _, dossier in await listed(world, size)] == dossiers[::-1], size


async def test_every_dossier_shown_has_it_in_its_trail_and_an_empty_list_is_recorded_too(many: World) -> None:
    many.audit.events.clear()
    answer = await page(many, 5)
    events = [(event.action, event.health_id, event.outcome) for event in many.audit.events]
    names = [dossier_of(each.name, "name") for each in answer.dossiers]
    success = audit_pb2.OUTCOME_SUCCESS
    assert sorted(events) == sorted(("dossier.list_recent", health_id, success) for health_id in names)
    many.audit.events.clear()
    many.consent.held_dossiers = []
    assert not (await page(many)).dossiers
    assert [(event.action, event.health_id) for event in many.audit.events] == [("dossier.list_recent", 0)]
    many.audit.down = True
    with refused(reasons.ERROR_REASON_AUDIT_UNAVAILABLE):
        await page(many)


async def test_the_documents_of_a_linked_dossier_count_and_are_recorded_there(world: World) -> None:
    one, other, alone = new_health_id(), new_health_id(), new_health_id()
    world.consent.held_dossiers = [one, alone]
    for dossier in (one, alone, other):
        await feed(world, dossier)
    assert [dossier for _, dossier in await listed(world)] == [alone, one]
    world.consent.linked = {one: [other], other: [one]}
    world.audit.events.clear()
    assert [dossier for _, dossier in await listed(world)] == [one, alone]
    assert {event.health_id for event in world.audit.events} == {one, other, alone}


async def test_a_page_asks_about_no_more_dossiers_than_it_needs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "_SLICE", 4)
    world.consent.held_dossiers = [new_health_id() for _ in range(12)]
    for dossier in world.consent.held_dossiers:
        await feed(world, dossier)
    world.consent.actions.clear()
    answer = await page(world, 3)
    assert [dossier_of(each.name, "name") for each in answer.dossiers] == world.consent.held_dossiers[:-4:-1]
    assert world.consent.actions == [consent_pb2.ACTION_SEARCH_HELD] * 4


async def test_what_arrives_while_one_pages_doubles_nothing(many: World) -> None:
    expected = await naive(many)
    first = await page(many, 4)
    moved = expected[-1][1]
    await feed(many, moved)
    seen = [dossier_of(each.name, "name") for each in first.dossiers]
    token = first.next_page_token
    while token:
        answer = await page(many, 4, token)
        seen += [dossier_of(each.name, "name") for each in answer.dossiers]
        token = answer.next_page_token
    assert seen == [dossier for _, dossier in expected if dossier != moved]
    assert (await listed(many))[0][1] == moved


async def test_who_may_not_list_is_told_why_and_it_is_recorded(world: World) -> None:
    world.consent.answer = no(reasons.ERROR_REASON_RIGHT_DENIED)
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await page(world)
    assert (world.last_event().action, world.last_event().outcome) == ("dossier.list_recent", audit_pb2.OUTCOME_DENIED)
    world.consent.answer = DmpError(reasons.ERROR_REASON_SEARCH_TOO_BROAD)
    with refused(reasons.ERROR_REASON_SEARCH_TOO_BROAD):
        await page(world)


@pytest.mark.parametrize("asked", [{"page_size": 201}, {"page_token": "none"}, {"since": {"nanos": -1}}])
async def test_a_wrong_request_is_refused_once_the_caller_is_known_to_be_allowed(
    world: World, asked: Mapping[str, object]
) -> None:
    request = pb.ListRecentDossiersRequest(**asked)  # type: ignore[arg-type]
    expected = reasons.ERROR_REASON_INVALID_PAGE_TOKEN if "page_token" in asked else reasons.ERROR_REASON_INVALID_FIELD
    with refused(expected):
        await world.service.servicer.ListRecentDossiers(request, call("ListRecentDossiers", 0))
    world.consent.answer = no(reasons.ERROR_REASON_RIGHT_DENIED)
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await world.service.servicer.ListRecentDossiers(request, call("ListRecentDossiers", 0))
