"""Reading and searching documents, on a real PostgreSQL: authorised, recorded, and shown to whom they are for."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from datetime import UTC, datetime, timedelta

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import coding_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document.submit import SubmissionLimits
from services.runtime.errors import unavailable
from services.runtime.identifiers import dossier_name, new_health_id
from tests import documents
from tests.document_world import MAX_DOCUMENT, World
from tests.documents import call, cda, decision, new_oid, no, submission
from tests.refusals import refused

# --- authorised, recorded --------------------------------------------------------------------------------------------


async def test_what_consent_refuses_is_recorded_before_it_is_answered(world: World) -> None:
    document = await world.add()
    world.consent.answer = no(reasons.ERROR_REASON_BLOCKED)
    for attempt in (lambda: world.get(document.name), lambda: world.read(document.name), world.search, world.add):
        events = len(world.audit.events)
        with refused(reasons.ERROR_REASON_BLOCKED):
            await attempt()
        [event] = world.audit.events[events:]
        assert (event.outcome, event.reason) == (audit_pb2.OUTCOME_DENIED, reasons.ERROR_REASON_BLOCKED)
        assert event.health_id == world.dossier


async def test_without_consent_or_audit_nothing_is_served(world: World) -> None:
    document = await world.add()
    attempts = (lambda: world.get(document.name), lambda: world.read(document.name), world.search)
    world.consent.answer = unavailable("consent")
    for attempt in attempts:
        with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
            await attempt()
    world.consent.answer = decision()
    world.audit.down = True
    for attempt in attempts:
        with refused(reasons.ERROR_REASON_AUDIT_UNAVAILABLE):
            await attempt()
    world.consent.answer = no(reasons.ERROR_REASON_BLOCKED)
    with refused(reasons.ERROR_REASON_AUDIT_UNAVAILABLE):
        await world.get(document.name)


async def test_reads_and_searches_are_recorded_with_what_they_gave(world: World) -> None:
    document = await world.add()
    await world.get(document.name)
    assert (world.last_event().action, list(world.last_event().objects)) == ("document.get", [document.name])
    await world.content(document.name)
    assert (world.last_event().action, list(world.last_event().objects)) == ("document.read", [document.name])
    await world.search()
    assert (world.last_event().action, list(world.last_event().objects)) == ("document.search", [document.name])
    assert world.last_event().result_count == 1


async def test_a_document_outside_the_view_is_absent_and_the_trail_says_why(world: World) -> None:
    masked = await world.add(flags=["MASQUE_PS"], author=documents.OTHER)
    hidden = await world.add(flags=["INVISIBLE_PATIENT"])
    secret = await world.add(flags=["INVISIBLE_REPRESENTANTS_LEGAUX"])
    typed = await world.add(type_code="11502-2")
    absent = masked.name[:-12] + uuid.uuid4().hex[:12]
    own = decision(masked=consent_pb2.MASKED_VIEW_OWN)
    for name, view, reason in (
        (masked.name, own, reasons.ERROR_REASON_RIGHT_DENIED),
        (masked.name, decision(masked=consent_pb2.MASKED_VIEW_NONE), reasons.ERROR_REASON_RIGHT_DENIED),
        (hidden.name, decision(patient_view=True), reasons.ERROR_REASON_RIGHT_DENIED),
        (secret.name, decision(representative_view=True), reasons.ERROR_REASON_RIGHT_DENIED),
        (typed.name, decision(denied_type_codes=["11502-2"]), reasons.ERROR_REASON_TYPE_DENIED),
        (absent, decision(), reasons.ERROR_REASON_DOCUMENT_NOT_FOUND),
    ):
        world.consent.answer = view
        with refused(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND):
            await world.get(name)
        assert (world.last_event().outcome, world.last_event().reason) == (audit_pb2.OUTCOME_DENIED, reason)
        assert list(world.last_event().objects) == [name]
        found = await world.search()
        assert name not in [document.name for document in found.documents]
        assert found.total_size == len(found.documents)
    world.consent.answer = own
    assert (await world.get(masked.name, documents.professional(documents.OTHER))).name == masked.name
    world.consent.answer = decision()
    assert (await world.search()).total_size == 4


async def test_a_search_shows_exactly_what_a_read_would(world: World) -> None:
    """The statement and the function apply one rule, for every kind of document and of view."""
    allowing = world.service_with(SubmissionLimits(MAX_DOCUMENT, allow_masked_and_invisible=True))
    flags = ("MASQUE_PS", "INVISIBLE_PATIENT", "INVISIBLE_REPRESENTANTS_LEGAUX")
    sets = [[flag for bit, flag in enumerate(flags) if number >> bit & 1] for number in range(8)]
    kinds = list(itertools.product(sets, (documents.AUTHOR, documents.OTHER), ("11488-4", "11502-2")))
    given = []
    for chosen, author, type_code in kinds:
        metadata = document_pb2.Document(confidentiality=[coding_pb2.Coding(code=flag) for flag in chosen])
        given.append((metadata, cda(new_oid(), author=author, type_code=type_code)))
    names = []
    for part in (given[::2] + given[1::4], given[3::4]):
        request = submission(world.dossier, *part)
        response = await allowing.servicer.SubmitDocuments(request, call("SubmitDocuments", world.dossier))
        names += [document.name for document in response.documents]
        world.later(timedelta(days=20))
    masked = (consent_pb2.MASKED_VIEW_NONE, consent_pb2.MASKED_VIEW_OWN, consent_pb2.MASKED_VIEW_ALL)
    sizes = set()
    for view, types, patient, representative in itertools.product(
        masked, ([], ["11502-2"]), (True, False), (True, False)
    ):
        world.consent.answer = decision(
            masked=view, denied_type_codes=types, patient_view=patient, representative_view=representative
        )
        found = await world.search(page_size=200)
        outcomes = await asyncio.gather(*(world.get(name) for name in names), return_exceptions=True)
        shown = {outcome.name for outcome in outcomes if isinstance(outcome, document_pb2.Document)}
        assert {document.name for document in found.documents} == shown
        assert found.total_size == len(shown)
        sizes.add(len(shown))
    assert len(sizes) > 8


async def test_who_may_search_but_not_read_gets_metadata_and_no_content(world: World) -> None:
    document = await world.add()
    world.consent.answer = decision(content_readable=False)
    assert (await world.search()).total_size == 1
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await world.read(document.name)
    assert world.last_event().reason == reasons.ERROR_REASON_RIGHT_DENIED


async def test_a_document_of_another_dossier_is_not_found_under_this_one(world: World) -> None:
    document = await world.add()
    foreign = dossier_name(new_health_id()) + document.name[30:]
    with refused(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND):
        await world.get(foreign)


# --- searching -------------------------------------------------------------------------------------------------------


async def test_pages_are_stable_exact_and_bound_to_their_search(world: World) -> None:
    names = [(await world.add()).name for _ in range(7)]
    seen: list[str] = []
    page = await world.search(page_size=3)
    first_token = page.next_page_token
    while True:
        assert page.total_size == 7
        seen += [document.name for document in page.documents]
        if not page.next_page_token:
            break
        page = await world.search(page_size=3, page_token=page.next_page_token)
    assert seen == names[::-1]
    for other in ({"type_codes": ["11488-4"]}, {"client_id": "other"}):
        with refused(reasons.ERROR_REASON_INVALID_PAGE_TOKEN):
            await world.search(page_token=first_token, **other)
    with refused(reasons.ERROR_REASON_INVALID_PAGE_TOKEN):
        await world.search(page_token=first_token[:-2] + "AA")
    world.dossier = new_health_id()
    with refused(reasons.ERROR_REASON_INVALID_PAGE_TOKEN):
        await world.search(page_token=first_token)
    assert (await world.search()).total_size == 0


async def test_criteria_must_all_hold(world: World) -> None:
    old = await world.add(effective="20200101000000+0100", type_code="11502-2")
    new = await world.add(effective="20240601000000+0100")

    async def found(**criteria: object) -> list[str]:
        return [document.name for document in (await world.search(**criteria)).documents]

    span = document_pb2.TimeRange()
    span.start_time.FromDatetime(datetime(2024, 1, 1, tzinfo=UTC))
    assert await found(create_time=span) == [new.name]
    assert await found(type_codes=["11502-2"]) == [old.name]
    assert await found(type_codes=["11502-2"], create_time=span) == []
    assert await found(class_codes=["10"]) == [new.name, old.name]
    assert await found(format_codes=[new.format_code.code]) == [new.name, old.name]
    assert await found(unique_id=f"urn:oid:{old.unique_id}") == [old.name]
    assert await found(statuses=[document_pb2.DOCUMENT_STATUS_DEPRECATED]) == []
    assert await found(statuses=[document_pb2.DOCUMENT_STATUS_DELETED]) == []
    span.end_time.seconds = 10**15
    with refused(reasons.ERROR_REASON_INVALID_FIELD):
        await found(create_time=span)
