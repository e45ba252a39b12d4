"""The trails of one person's dossiers are read as one while they are linked, whatever logs they lie in."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator

import pytest

from dmp.audit.v1 import audit_pb2, notice_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit.destroying import destroy_dossier
from services.runtime.identifiers import dossier_name
from tests.audit_log import DOSSIER, OTHER_DOSSIER, LogUnderTest, empty
from tests.audit_questions import NOW, PATIENT, Asked, happened
from tests.integration.test_audit_listing import audit_database
from tests.refusals import refused

__all__ = ["audit_database"]

COUNT = 7


@pytest.fixture(params=[1, 2])
async def linked(audit_database: str, request: pytest.FixtureRequest) -> AsyncIterator[Asked]:
    """Two linked dossiers, in one log and in two, with seven events each, turn by turn."""
    await empty(audit_database)
    log = await LogUnderTest.open(audit_database, log_count=request.param)
    asked = Asked(log)
    for number in range(2 * COUNT):
        dossier = OTHER_DOSSIER if number % 2 else DOSSIER
        at = NOW - dt.timedelta(minutes=60 - number)
        await log.append(happened(f"document.{number}", at=at, health_id=dossier))
    asked.consent.decision.linked.append(OTHER_DOSSIER)
    yield asked
    await log.close()


async def listed(asked: Asked, size: int, **narrowed: object) -> list[audit_pb2.TrailEvent]:
    """The events of documents, in pages."""
    found: list[audit_pb2.TrailEvent] = []
    request = audit_pb2.ListEventsRequest(
        parent=dossier_name(DOSSIER),
        page_size=size,
        filter=audit_pb2.EventFilter(**narrowed),  # type: ignore[arg-type]
    )
    while True:
        page = await asked.ask("ListEvents", request)
        found += [event for event in page.events if event.event.action.startswith("document.")]
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


@pytest.mark.parametrize("size", [1, 3, 50])
async def test_both_are_listed_newest_first_and_nothing_twice(linked: Asked, size: int) -> None:
    expected = [f"document.{number}" for number in reversed(range(2 * COUNT))]
    found = await listed(linked, size)
    assert [event.event.action for event in found] == expected
    assert all(event.name.startswith(f"{dossier_name(DOSSIER)}/events/") for event in found)
    one = [f"document.{number}" for number in (3, 4)]
    assert [event.event.action for event in await listed(linked, size, actions=one)] == one[::-1]


async def test_the_whole_is_exported_oldest_first(linked: Asked) -> None:
    request = audit_pb2.ExportEventsRequest(parent=dossier_name(DOSSIER))
    call = linked.call("ExportEvents", request, PATIENT, DOSSIER)
    exported = [each.event.event.action async for each in linked.service.ExportEvents(request, call)]
    assert exported == [*(f"document.{number}" for number in range(2 * COUNT)), "trace.export", "trace.export"]


async def test_an_event_of_the_other_is_read_by_the_name_it_is_listed_by_until_they_are_parted(linked: Asked) -> None:
    event = (await listed(linked, 1))[0]
    assert event.event.health_id == OTHER_DOSSIER
    request = audit_pb2.GetEventRequest(name=event.name)
    assert (await linked.ask("GetEvent", request)).event == event
    token = (await linked.ask("ListEvents", _page_of(3))).next_page_token
    del linked.consent.decision.linked[:]
    with refused(reasons.ERROR_REASON_EVENT_NOT_FOUND):
        await linked.ask("GetEvent", request)
    with refused(reasons.ERROR_REASON_INVALID_PAGE_TOKEN):
        await linked.ask("ListEvents", _page_of(3, token))
    actions = [event.event.action for event in await listed(linked, 3)]
    assert actions == [f"document.{number}" for number in reversed(range(0, 2 * COUNT, 2))]


async def test_summaries_page_through_both(linked: Asked) -> None:
    days = [NOW - dt.timedelta(days=number) for number in (3, 2, 1)]
    for number, day in enumerate(days):
        for dossier in (DOSSIER, OTHER_DOSSIER):
            await linked.log.append(happened(at=day, health_id=dossier, subject=f"81000000000{number}"))
    seen: list[str] = []
    request = audit_pb2.SummarizeAccessRequest(parent=dossier_name(DOSSIER), page_size=1)
    request.filter.actions.append("document.read")
    while True:
        page = await linked.ask("SummarizeAccess", request)
        seen += [" ".join(summary.what) for summary in page.summaries]
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert seen == ["a lu 2 documents"] * 3


async def test_reading_the_trail_is_in_both(linked: Asked) -> None:
    await linked.ask("ListEvents", _page_of(3))
    async with linked.log.pool.acquire() as conn:
        rows = await conn.fetch("SELECT health_id FROM event WHERE producer = 'audit'")
    assert sorted(row["health_id"] for row in rows) == sorted((DOSSIER, OTHER_DOSSIER))


async def test_a_destroyed_dossier_of_the_person_hides_nothing_of_the_one_that_lives_on(linked: Asked) -> None:
    log = linked.log
    await destroy_dossier(log.pool, log.keys, log.digests, log.log, OTHER_DOSSIER)
    expected = [f"document.{number}" for number in range(0, 2 * COUNT, 2)]
    assert [event.event.action for event in await listed(linked, 3)] == expected[::-1]


async def test_notices_of_both_are_listed(linked: Asked) -> None:
    for dossier in (DOSSIER, OTHER_DOSSIER):
        await linked.log.append(
            happened(mode=context_pb2.ACCESS_MODE_BREAK_GLASS, said="urgence", at=NOW, health_id=dossier)
        )
    await linked.derive()
    request = notice_pb2.ListNoticesRequest(parent=dossier_name(DOSSIER), page_size=1)
    first = await linked.ask("ListNotices", request)
    if linked.log.log.log_count == 2:  # the other log is looked at by another process
        assert len(first.notices) == 1
        return
    request.page_token = first.next_page_token
    second = await linked.ask("ListNotices", request)
    names = [notice.name for notice in (*first.notices, *second.notices)]
    assert (len(set(names)), second.next_page_token) == (2, "")
    assert all(notice.events for notice in (*first.notices, *second.notices))


def _page_of(size: int, token: str = "") -> audit_pb2.ListEventsRequest:
    return audit_pb2.ListEventsRequest(parent=dossier_name(DOSSIER), page_size=size, page_token=token)
