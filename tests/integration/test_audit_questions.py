"""Who looked at my record? The questions asked of a trail, and what is derived from it, on a real database."""

from __future__ import annotations

import datetime as dt
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from google.protobuf import json_format
from google.protobuf.message import Message

from dmp.audit.v1 import audit_pb2, notice_pb2
from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from services.audit.derivation import Derivation
from services.audit.detectors import load
from services.audit.leaf import COMMITMENT_TAG
from services.audit.notices import LogDelivery, Outbox, SmtpDelivery
from services.runtime.access import methods_of
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, format_health_id
from services.runtime.jobs import Lease
from services.runtime.metrics import Metrics
from services.runtime.tlog.layout import Bundle
from tests import independent_verifier
from tests.audit_log import DOSSIER, OTHER_DOSSIER, PHYSICIAN, LogUnderTest, empty, event, keyring, migrated, places
from tests.integration.test_audit_listing import ServiceUnderTest

METHODS = methods_of(audit_pb2.DESCRIPTOR.services_by_name.values())
NURSE = "899700333444"
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
PATIENT = context_pb2.ActingContext(
    actor_kind=context_pb2.ACTOR_KIND_PATIENT,
    subject=format_health_id(DOSSIER),
    patient_health_id=DOSSIER,
    client_id="portal",
)
OPERATOR = context_pb2.ActingContext(
    actor_kind=context_pb2.ACTOR_KIND_OPERATOR, subject="operator-1", client_id="console"
)
DOCTOR = context_pb2.ActingContext(
    actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL, subject=PHYSICIAN, profession="10", client_id="software"
)


OTHER = context_pb2.ActingContext(actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL, subject=NURSE)


class Asked(ServiceUnderTest):
    """The service's RPCs, by name."""

    async def ask(
        self, method: str, request: Message, actor: context_pb2.ActingContext = PATIENT, health_id: int = DOSSIER
    ) -> Any:
        return await getattr(self.service, method)(request, self.call(method, request, actor, health_id))

    def call(self, method: str, request: Message, actor: context_pb2.ActingContext, health_id: int) -> Call:
        access = METHODS[f"/dmp.audit.v1.AuditService/{method}"]
        return Call(
            actor=actor,
            caller=access_pb2.CALLER_KIND_PATIENT,
            client_id=actor.client_id,
            peer="gateway",
            request_id=getattr(request, "request_id", "request-9"),
            deadline=time.monotonic() + 20,
            traceparent="",
            method=access,
            health_id=health_id if access.dossier_field else 0,
        )

    async def derive(self) -> None:
        derivation = Derivation(
            self.log.pool, self.log.keys, keyring(), 0, load(), Metrics(), Lease(self.log.pool, "derive")
        )
        while await derivation.step():
            pass


@pytest.fixture(scope="module")
def questions_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def audit(questions_database: str) -> AsyncIterator[Asked]:
    await empty(questions_database)
    log = await LogUnderTest.open(questions_database)
    yield Asked(log)
    await log.close()


def happened(
    action: str = "document.read",
    *,
    at: dt.datetime = NOW,
    subject: str = PHYSICIAN,
    name: str = "Claire Martin",
    structure: str = "1750000001",
    structure_name: str = "Hôpital Bellevue",
    mode: int = context_pb2.ACCESS_MODE_NORMAL,
    reason: int = 0,
    said: str = "",
    health_id: int = DOSSIER,
    secret: bool = False,
    objects: tuple[str, ...] = (),
) -> audit_pb2.AuditEvent:
    made = event(health_id, subject=subject, action=action, secret=secret)
    made.event_time.FromDatetime(at)
    made.actor.subject_name, made.actor.structure = name, structure
    made.actor.structure_name, made.actor.access_mode = structure_name, mode  # type: ignore[assignment]
    made.actor.break_glass_reason = said
    made.objects.extend(objects)
    if reason:
        made.outcome, made.reason = audit_pb2.OUTCOME_DENIED, reason  # type: ignore[assignment]
    return made


def listing(**asked: Any) -> audit_pb2.ListEventsRequest:
    return audit_pb2.ListEventsRequest(parent=dossier_name(DOSSIER), filter=audit_pb2.EventFilter(**asked))


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


# --- counts, notices, unusual accesses -------------------------------------------------------------------------------


async def test_days_are_counted_once_however_often_derivation_runs(audit: Asked) -> None:
    yesterday = NOW - dt.timedelta(days=1)
    places(await audit.log.append(*(happened() for _ in range(300)), happened(at=yesterday)))
    await audit.derive()
    await audit.derive()
    request = audit_pb2.CountEventsRequest(start_day=yesterday.date().isoformat(), end_day=NOW.date().isoformat())
    counts = (await audit.ask("CountEvents", request, OPERATOR)).counts
    assert [(each.day, each.action, each.event_count) for each in counts] == [
        (yesterday.date().isoformat(), "document.read", 1),
        (NOW.date().isoformat(), "document.read", 300),
    ]


async def test_an_emergency_episode_is_one_notice_to_the_patient_and_one_to_the_attending_physician(
    audit: Asked,
) -> None:
    glass = context_pb2.ACCESS_MODE_BREAK_GLASS
    first = happened(mode=glass, said="coma", at=NOW - dt.timedelta(hours=10))
    joined = happened("document.search", mode=glass, said="coma", at=NOW - dt.timedelta(hours=3))
    second = happened(mode=glass, said="coma", at=NOW)
    regulation = happened(mode=context_pb2.ACCESS_MODE_REGULATION, subject=NURSE, name="Régulateur")
    refused = happened(mode=glass, said="x", reason=reasons.ERROR_REASON_EMERGENCY_OPPOSED)
    secret = happened(mode=glass, said="x", subject=NURSE, secret=True, health_id=OTHER_DOSSIER)
    places(await audit.log.append(first, joined, second, regulation, refused, secret))
    await audit.derive()
    await audit.derive()
    request = notice_pb2.ListNoticesRequest(parent=dossier_name(DOSSIER))
    mine = (await audit.ask("ListNotices", request)).notices
    assert sorted(len(each.events) for each in mine) == [1, 1, 2]
    [episode] = [each for each in mine if len(each.events) == 2]
    assert episode.text.startswith("Le ")
    assert "Claire Martin, médecin est entré dans votre dossier" in episode.text
    assert "« coma »" in episode.text
    theirs = (await audit.ask("ListNotices", request, DOCTOR)).notices
    assert len(theirs) == 3
    assert "dont vous êtes le médecin traitant" in theirs[0].text
    audit.consent.allow(consent_pb2.TRACE_VIEW_OWN)
    assert not (await audit.ask("ListNotices", request, DOCTOR)).notices
    audit.consent.allow(consent_pb2.TRACE_VIEW_ALL)
    other = notice_pb2.ListNoticesRequest(parent=dossier_name(OTHER_DOSSIER))
    assert not (await audit.ask("ListNotices", other, health_id=OTHER_DOSSIER)).notices, "its representatives read it"
    assert len((await audit.ask("ListNotices", other, DOCTOR, OTHER_DOSSIER)).notices) == 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mailbox:
    """A mail server that refuses the first mails it is given."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.received: list[tuple[str, str]] = []

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        if self.refusals:
            self.refusals -= 1
            return "451 later"
        self.received.append((envelope.rcpt_tos[0], envelope.content.decode()))
        return "250 OK"


async def test_notices_leave_by_mail_until_they_are_taken_and_say_nothing_of_care(audit: Asked) -> None:
    places(await audit.log.append(happened(mode=context_pb2.ACCESS_MODE_BREAK_GLASS, said="coma")))
    await audit.derive()
    mailbox = Mailbox(refusals=1)
    server = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        delivery = SmtpDelivery(
            "127.0.0.1", server.port, "dmp@notices.test", "{health_id}.{recipient}@notices.test", start_tls=False
        )
        outbox = Outbox(audit.log.pool, delivery, Metrics(), Lease(audit.log.pool, "notices"))
        assert await outbox.step() == 1
        assert await outbox.step() == 0, "the refused one waits"
        await audit.log.pool.execute("UPDATE notice SET next_attempt_at = now()")
        assert await outbox.step() == 1
        assert await outbox.step() == 0
    finally:
        server.stop()
    assert sorted(to for to, _ in mailbox.received) == [
        f"{format_health_id(DOSSIER)}.patient@notices.test",
        f"{format_health_id(DOSSIER)}.physician@notices.test",
    ]
    for _, mail in mailbox.received:
        assert "coma" not in mail
        assert "Martin" not in mail
    request = notice_pb2.ListNoticesRequest(parent=dossier_name(DOSSIER))
    assert (await audit.ask("ListNotices", request)).notices[0].HasField("deliver_time")


async def test_unusual_accesses_are_found_once_explained_and_decided_by_a_person(audit: Asked) -> None:
    many = [happened(health_id=DOSSIER + number, subject=NURSE) for number in range(35)]
    again = [happened(health_id=DOSSIER + number, subject=NURSE) for number in range(35)]
    usual = [happened(health_id=DOSSIER + number) for number in range(5)]
    blocked = happened(reason=reasons.ERROR_REASON_BLOCKED, subject="899700000001")
    for batch in (many, again, usual, [blocked]):
        places(await audit.log.append(*batch))
    await audit.derive()
    items = (await audit.ask("ListUnusualAccesses", notice_pb2.ListUnusualAccessesRequest(), OPERATOR)).unusual_accesses
    assert sorted((each.detector, each.subject) for each in items) == [
        ("after_block", "899700000001"), ("many_dossiers", NURSE),
    ]  # fmt: skip
    found = {each.detector: each for each in items}
    assert "35 dossiers ouverts pour la première fois en une heure (seuil : 30)" in found["many_dossiers"].explanation
    request = notice_pb2.DecideUnusualAccessRequest(
        name=found["after_block"].name, decision=notice_pb2.UNUSUAL_DECISION_CONFIRMED, request_id="decide-1"
    )
    for _ in range(2):
        decided = (await audit.ask("DecideUnusualAccess", request, OPERATOR)).unusual_access
        assert (decided.decision, decided.decided_by) == (notice_pb2.UNUSUAL_DECISION_CONFIRMED, "operator-1")
    request.decision = notice_pb2.UNUSUAL_DECISION_EXPLAINED
    with pytest.raises(DmpError) as late:
        await audit.ask("DecideUnusualAccess", request, OPERATOR)
    assert late.value.reason == reasons.ERROR_REASON_UNUSUAL_ACCESS_NOT_FOUND
    notices = (await audit.ask("ListNotices", notice_pb2.ListNoticesRequest(parent=dossier_name(DOSSIER)))).notices
    assert [each.kind for each in notices] == [notice_pb2.NOTICE_KIND_UNUSUAL_ACCESS]
    waiting = await audit.ask("ListUnusualAccesses", notice_pb2.ListUnusualAccessesRequest(), OPERATOR)
    assert [each.detector for each in waiting.unusual_accesses] == ["many_dossiers"]


# --- destruction by law ----------------------------------------------------------------------------------------------


async def test_a_destroyed_dossier_is_gone_from_every_table_and_the_tree_stays_whole(audit: Asked) -> None:
    glass = context_pb2.ACCESS_MODE_BREAK_GLASS
    sent = [happened(mode=glass, said="coma"), happened(reason=reasons.ERROR_REASON_BLOCKED, subject=NURSE), happened()]
    kept = happened(health_id=OTHER_DOSSIER)
    places(await audit.log.append(*sent, kept))
    await audit.derive()
    await audit.log.integrate()
    before = await audit.log.logs.trees[0].bundle(Bundle(0, 4))
    request = audit_pb2.DestroyDossierRequest(health_id=DOSSIER, request_id="destroy-1")
    first = await audit.ask("DestroyDossier", request)
    again = await audit.ask("DestroyDossier", request)
    assert first.destroy_time == again.destroy_time
    assert await audit.log.logs.trees[0].bundle(Bundle(0, 4)) == before
    rows = await audit.log.pool.fetch("SELECT * FROM event WHERE health_id = $1", DOSSIER)
    assert all(row["actor_digest"] == row["content_digest"] == b"" for row in rows)
    assert await audit.log.pool.fetchval("SELECT wrapped FROM dossier_key WHERE health_id = $1", DOSSIER) is None
    for table in ("notice", "unusual_access"):
        count = await audit.log.pool.fetchval(f"SELECT count(*) FROM {table} WHERE health_id = $1", DOSSIER)  # noqa: S608
        assert count == 0, table
    with pytest.raises(DmpError) as gone:
        await audit.ask("ListEvents", listing())
    assert gone.value.reason == reasons.ERROR_REASON_CONTENT_DESTROYED
    assert places(await audit.log.append(sent[0])) == [0], "a retry of an old event keeps its place"
    await audit.log.integrate()
    told = [each for each in await audit.recorded(0) if each.action == "dossier.destroy"]
    assert [each.objects[0] for each in told] == [dossier_name(DOSSIER)]
    other = audit_pb2.ListEventsRequest(parent=dossier_name(OTHER_DOSSIER))
    assert (await audit.ask("ListEvents", other, health_id=OTHER_DOSSIER)).events


async def test_a_line_in_the_log_tells_of_nobody(audit: Asked) -> None:
    places(await audit.log.append(happened(mode=context_pb2.ACCESS_MODE_BREAK_GLASS, said="coma")))
    await audit.derive()
    assert await Outbox(audit.log.pool, LogDelivery(), Metrics(), Lease(audit.log.pool, "n")).step() == 2
