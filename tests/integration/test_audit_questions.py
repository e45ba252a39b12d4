"""Who looked at my record? The questions asked of a trail, on a real database."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from google.protobuf import json_format

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from services.audit.leaf import COMMITMENT_TAG
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name
from tests import independent_verifier
from tests.audit_log import DOSSIER, PHYSICIAN, LogUnderTest, empty, event, migrated, places
from tests.audit_questions import DOCTOR, NOW, NURSE, OTHER, PATIENT, Asked, happened, listing


@pytest.fixture(scope="module")
def questions_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def audit(questions_database: str) -> AsyncIterator[Asked]:
    await empty(questions_database)
    log = await LogUnderTest.open(questions_database)
    yield Asked(log)
    await log.close()


# --- by actor, structure, action, outcome, period --------------------------------------------------------------------


async def test_a_trail_is_narrowed_by_each_part_of_a_filter(audit: Asked) -> None:
    sent = [
        happened("document.read"),
        happened("document.search", subject=NURSE, structure="1750000002"),
        happened("document.read", reason=reasons.ERROR_REASON_BLOCKED, subject=NURSE),
        happened("document.read", at=NOW - dt.timedelta(days=40), mode=context_pb2.ACCESS_MODE_BREAK_GLASS),
        happened("document.read", objects=("dossiers/x/documents/y",)),
    ]
    places(await audit.log.append(*sent))
    since = audit_pb2.EventFilter()
    since.start_time.FromDatetime(NOW - dt.timedelta(days=1))
    until = audit_pb2.EventFilter()
    until.end_time.FromDatetime(NOW - dt.timedelta(days=1))
    questions: list[tuple[dict[str, Any], set[int]]] = [
        ({"actor": NURSE}, {1, 2}),
        ({"structure": "1750000002"}, {1}),
        ({"actions": ["document.search", "document.submit"]}, {1}),
        ({"outcome": audit_pb2.OUTCOME_DENIED}, {2}),
        ({"access_mode": context_pb2.ACCESS_MODE_BREAK_GLASS}, {3}),
        ({"object": "dossiers/x/documents/y"}, {4}),
        ({"start_time": since.start_time}, {0, 1, 2, 4}),
        ({"end_time": until.end_time}, {3}),
        ({"actor": NURSE, "outcome": audit_pb2.OUTCOME_SUCCESS}, {1}),
    ]
    for asked, expected in questions:
        answer = await audit.ask("ListEvents", listing(**asked))
        found = {each.event.event_id for each in answer.events if each.event.producer == "document"}
        assert found == {sent[number].event_id for number in expected}, asked


async def test_ones_own_acts_and_the_acts_of_another_that_one_may_not_see(audit: Asked) -> None:
    places(await audit.log.append(happened(), happened(subject=NURSE)))
    audit.consent.allow(consent_pb2.TRACE_VIEW_OWN)
    own = await audit.ask("ListEvents", listing(), DOCTOR)
    assert {each.event.actor.subject for each in own.events} == {PHYSICIAN}
    assert not (await audit.ask("ListEvents", listing(actor=NURSE), DOCTOR)).events
    audit.consent.allow(consent_pb2.TRACE_VIEW_ALL)
    assert {
        each.event.actor.subject for each in (await audit.ask("ListEvents", listing(own_only=True), DOCTOR)).events
    } == {PHYSICIAN}


async def test_pages_of_a_narrowed_trail_hold_every_event_once_and_tokens_keep_to_their_question(audit: Asked) -> None:
    sent = [happened("document.read" if number % 10 else "document.search") for number in range(1200)]
    for start in range(0, 1200, 400):
        places(await audit.log.append(*sent[start : start + 400]))
    request = listing(actions=["document.search"])
    request.page_size = 7
    found: list[bytes] = []
    while True:
        answer = await audit.ask("ListEvents", request)
        found += [each.event.event_id for each in answer.events]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert found == [each.event_id for each in reversed(sent) if each.action == "document.search"]
    other = listing(actions=["document.read"])
    other.page_token = request.page_token
    with pytest.raises(DmpError) as refused:
        await audit.ask("ListEvents", other)
    assert refused.value.reason == reasons.ERROR_REASON_INVALID_PAGE_TOKEN


async def test_one_event_is_read_by_its_name_and_one_that_may_not_be_seen_is_not_found(audit: Asked) -> None:
    mine, secret = happened(), happened(secret=True)
    places(await audit.log.append(mine, secret))

    def named(one: audit_pb2.AuditEvent) -> audit_pb2.GetEventRequest:
        return audit_pb2.GetEventRequest(name=f"{dossier_name(DOSSIER)}/events/{uuid.UUID(bytes=one.event_id)}")

    assert (await audit.ask("GetEvent", named(mine))).event.event.event_id == mine.event_id
    assert (await audit.ask("GetEvent", named(secret))).event.event.actor.secret_connection
    audit.consent.allow(consent_pb2.TRACE_VIEW_WITHOUT_SECRET)
    for view, one, who in (
        (consent_pb2.TRACE_VIEW_WITHOUT_SECRET, secret, PATIENT),
        (consent_pb2.TRACE_VIEW_OWN, mine, OTHER),
        (consent_pb2.TRACE_VIEW_ALL, event(), PATIENT),
    ):
        audit.consent.allow(view)
        with pytest.raises(DmpError) as hidden:
            await audit.ask("GetEvent", named(one), who)
        assert hidden.value.reason == reasons.ERROR_REASON_EVENT_NOT_FOUND


async def test_the_whole_trail_is_exported_oldest_first_as_ndjson_and_that_it_was_is_in_it(audit: Asked) -> None:
    sent = [happened() for _ in range(950)]
    for start in range(0, 950, 475):
        places(await audit.log.append(*sent[start : start + 475]))
    request = audit_pb2.ExportEventsRequest(parent=dossier_name(DOSSIER))
    call = audit.call("ExportEvents", request, PATIENT, DOSSIER)
    lines = [
        json.dumps(json_format.MessageToDict(each.event)) async for each in audit.service.ExportEvents(request, call)
    ]
    assert [json.loads(line)["event"]["action"] for line in lines][-1] == "trace.export"
    assert len(lines) == 951
    assert [json.loads(line)["receipt"].get("leafIndex", "0") for line in lines] == [str(n) for n in range(951)]


async def test_ones_own_acts_alone_are_exported_where_that_is_asked_for(audit: Asked) -> None:
    places(await audit.log.append(happened(), happened(subject=OTHER.subject)))
    request = audit_pb2.ExportEventsRequest(
        parent=dossier_name(DOSSIER), filter=audit_pb2.EventFilter(own_only=True, actions=["document.read"])
    )
    call = audit.call("ExportEvents", request, DOCTOR, DOSSIER)
    subjects = [each.event.event.actor.subject async for each in audit.service.ExportEvents(request, call)]
    assert subjects == [DOCTOR.subject]


async def test_a_receipt_is_had_by_who_sees_the_event_once_a_checkpoint_covers_it(audit: Asked) -> None:
    one = happened()
    places(await audit.log.append(one))
    request = audit_pb2.GetReceiptRequest(name=f"{dossier_name(DOSSIER)}/events/{uuid.UUID(bytes=one.event_id)}")
    await audit.log.logs.trees[0].begin()
    with pytest.raises(DmpError) as early:
        await audit.ask("GetReceipt", request)
    assert early.value.reason == reasons.ERROR_REASON_RECEIPT_NOT_READY
    await audit.log.integrate()
    answer = await audit.ask("GetReceipt", request)
    clear, place = independent_verifier.receipt(answer.proof.encode(), answer.log_key, [], COMMITMENT_TAG)
    assert (place, audit_pb2.AuditEvent.FromString(clear).event_id) == (0, one.event_id)


# --- in plain French -------------------------------------------------------------------------------------------------


async def test_the_patient_reads_who_when_where_what_and_why(audit: Asked) -> None:
    at = dt.datetime(2026, 11, 25, 13, 2, tzinfo=dt.UTC)
    places(
        await audit.log.append(
            happened("document.search", at=at),
            happened(at=at + dt.timedelta(minutes=3)),
            happened(at=at + dt.timedelta(minutes=3)),
            happened(
                at=at + dt.timedelta(hours=2),
                subject=NURSE,
                name="Paul Petit",
                reason=reasons.ERROR_REASON_BLOCKED,
            ),
            happened(
                at=at + dt.timedelta(hours=3),
                mode=context_pb2.ACCESS_MODE_BREAK_GLASS,
                said="patient inconscient",
            ),
        )
    )
    asked = audit_pb2.SummarizeAccessRequest(parent=dossier_name(DOSSIER))
    asked.filter.start_time.FromDatetime(at - dt.timedelta(days=1))
    asked.filter.actions.extend(["document.search", "document.read"])
    answer = await audit.ask("SummarizeAccess", asked)
    assert [each.sentence for each in answer.summaries] == [
        (
            "Le 25 novembre 2026 à 17 h 02, Claire Martin, médecin (Hôpital Bellevue) a lu un document. Accès "
            "permis par l’urgence, votre vie pouvant être en danger (« bris de glace ») ; motif indiqué : « patient "
            "inconscient »."
        ),
        (
            "Le 25 novembre 2026 à 16 h 02, Paul Petit, médecin (Hôpital Bellevue) n’a pas pu lire un document. "
            "Refusé parce que vous avez bloqué cette personne."
        ),
        (
            "Le 25 novembre 2026 entre 14 h 02 et 14 h 05, Claire Martin, médecin (Hôpital Bellevue) a recherché des "
            "documents et a lu 2 documents. Accès permis par l’autorisation que vous avez donnée."
        ),
    ]
    last = answer.summaries[2]
    assert (last.event_count, last.day, last.refused, len(last.events)) == (3, "2026-11-25", False, 3)
    asked.page_size = 1
    pages = [await audit.ask("SummarizeAccess", asked)]
    while pages[-1].next_page_token:
        asked.page_token = pages[-1].next_page_token
        pages.append(await audit.ask("SummarizeAccess", asked))
    assert [page.summaries[0].sentence for page in pages] == [each.sentence for each in answer.summaries]


# --- what partners add -----------------------------------------------------------------------------------------------


async def test_a_partner_adds_an_event_once_under_its_own_name(audit: Asked) -> None:
    request = audit_pb2.RecordEventRequest(
        parent=dossier_name(DOSSIER), outcome=audit_pb2.OUTCOME_SUCCESS, objects=["urn:oid:1.2"], request_id="report-01"
    )
    request.event_time.FromDatetime(NOW)
    request.reported.type, request.reported.subtype = "110106", "ITI-68"
    first = await audit.ask("RecordEvent", request, DOCTOR)
    again = await audit.ask("RecordEvent", request, DOCTOR)
    assert first.event.name == again.event.name
    assert first.event.receipt == again.event.receipt
    assert (first.event.event.action, first.event.event.producer) == ("event.report", "audit")
    assert first.event.event.actor.subject == PHYSICIAN
    request.reported.subtype = "ITI-67"
    with pytest.raises(DmpError) as other:
        await audit.ask("RecordEvent", request, DOCTOR)
    assert other.value.reason == reasons.ERROR_REASON_REQUEST_ID_REUSED
    audit.consent.refuse(reasons.ERROR_REASON_DOSSIER_NOT_FOUND)
    request.request_id = "report-02"
    with pytest.raises(DmpError) as nobody:
        await audit.ask("RecordEvent", request, DOCTOR)
    assert nobody.value.reason == reasons.ERROR_REASON_DOSSIER_NOT_FOUND
