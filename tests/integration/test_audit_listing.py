"""Reading a trail: who sees which events, page by page, and that reading it is itself in it."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import asyncpg
import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from services.audit import derived_store, ending_store, store, table_store
from services.audit.leaf import EventPlace, open_clear
from services.audit.rules import SYSTEM_HEALTH_ID
from services.audit.service import AuditService, own_trail
from services.runtime import postgres
from services.runtime.access import methods_of
from services.runtime.channels import Peer
from services.runtime.checks import AccessChecks
from services.runtime.context import Call
from services.runtime.errors import DmpError, unavailable
from services.runtime.identifiers import dossier_name
from tests.audit_log import DOSSIER, OTHER_DOSSIER, PHYSICIAN, LogUnderTest, empty, event, migrated

NURSE = "899700333444"
LIST = methods_of(audit_pb2.DESCRIPTOR.services_by_name.values())["/dmp.audit.v1.AuditService/ListEvents"]


class FakeConsent:
    """Answers every check with one decision, or not at all."""

    def __init__(self) -> None:
        self.decision = consent_pb2.Decision()
        self.down = False
        self.allow(consent_pb2.TRACE_VIEW_ALL)

    def allow(self, view: consent_pb2.TraceView.ValueType) -> None:
        self.decision = consent_pb2.Decision(permitted=True, epoch=12, filter=consent_pb2.Filter(traces=view))

    def refuse(self, reason: reasons.ErrorReason.ValueType) -> None:
        self.decision = consent_pb2.Decision(permitted=False, epoch=12, reason=reason)

    def unary(self, path: str, request: type[Any], response: type[Any]) -> Callable[..., Any]:
        async def check(
            batch: consent_pb2.BatchCheckAccessRequest, *, timeout: float
        ) -> consent_pb2.BatchCheckAccessResponse:
            if self.down:
                raise unavailable("consent")
            allowed = (consent_pb2.ACTION_READ_TRACES, consent_pb2.ACTION_SUBMIT)
            assert all(item.action in allowed for item in batch.requests)
            result = consent_pb2.CheckAccessResult(decision=self.decision)
            return consent_pb2.BatchCheckAccessResponse(results=[result] * len(batch.requests))

        return check

    def unary_written(self, path: str, response: type[Any]) -> Callable[..., Any]:
        check = self.unary(path, consent_pb2.BatchCheckAccessRequest, response)
        return lambda batch, *, timeout: check(consent_pb2.BatchCheckAccessRequest.FromString(batch), timeout=timeout)


class ServiceUnderTest:
    """The audit service's handlers on a log of their own, with a consent that says what the test wants."""

    def __init__(self, log: LogUnderTest) -> None:
        self.log = log
        self.consent = FakeConsent()
        self.trail = own_trail(log.log)
        self.service = AuditService(log.parts(), log.reader, AccessChecks(cast("Peer", self.consent)), self.trail)

    async def list_events(
        self, *, subject: str = PHYSICIAN, health_id: int = DOSSIER, page_size: int = 0, page_token: str = ""
    ) -> audit_pb2.ListEventsResponse:
        actor = context_pb2.ActingContext(actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL, subject=subject)
        call = Call(
            actor=actor,
            caller=access_pb2.CALLER_KIND_PARTNER,
            client_id="software",
            peer="gateway",
            request_id="request-2",
            deadline=time.monotonic() + 10,
            traceparent="",
            method=LIST,
            health_id=health_id,
        )
        request = audit_pb2.ListEventsRequest(
            parent=dossier_name(health_id), page_size=page_size, page_token=page_token
        )
        return await self.service.ListEvents(request, call)

    async def recorded(self, health_id: int = DOSSIER) -> list[audit_pb2.AuditEvent]:
        """The audit service's own events about a dossier, oldest first."""
        async with self.log.pool.acquire() as conn:
            rows = await conn.fetch(
                "SELECT event_id, sealed FROM event WHERE producer = 'audit' AND health_id = $1 ORDER BY leaf_index",
                health_id,
            )
            keys = await self.log.keys.for_read(conn, [health_id])
        return [
            audit_pb2.AuditEvent.FromString(
                open_clear(keys[health_id], row["sealed"], EventPlace(health_id, row["event_id"].bytes, 0)).clear
            )
            for row in rows
        ]


@pytest.fixture(scope="module")
def audit_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def audit(audit_database: str) -> AsyncIterator[ServiceUnderTest]:
    await empty(audit_database)
    log = await LogUnderTest.open(audit_database)
    yield ServiceUnderTest(log)
    await log.close()


async def test_a_trail_is_listed_newest_first_with_each_event_as_it_was_sent(audit: ServiceUnderTest) -> None:
    sent = [event(action=f"document.{number}") for number in range(5)]
    await audit.log.append(*sent, event(OTHER_DOSSIER))
    listed = (await audit.list_events()).events
    assert [each.event.action for each in listed] == [each.action for each in reversed(sent)]
    assert [each.receipt.leaf_index for each in listed] == [4, 3, 2, 1, 0]
    assert listed[0].name.startswith(f"{dossier_name(DOSSIER)}/events/")
    expected = audit_pb2.AuditEvent.FromString(sent[4].SerializeToString())
    expected.producer = "document"
    assert listed[0].event == expected


async def test_reading_the_trail_is_in_the_trail_before_it_is_answered(audit: ServiceUnderTest) -> None:
    await audit.log.append(event(), event())
    first = await audit.list_events()
    assert len(first.events) == 2
    [reading] = await audit.recorded()
    assert (reading.action, reading.outcome, reading.epoch, reading.result_count, reading.actor.subject) == (
        "trace.read", audit_pb2.OUTCOME_SUCCESS, 12, 2, PHYSICIAN,
    )  # fmt: skip
    again = await audit.list_events()
    assert again.events[0].event.action == "trace.read"


async def test_a_professional_reads_his_own_acts(audit: ServiceUnderTest) -> None:
    await audit.log.append(event(), event(subject=NURSE), event(secret=True), event(subject=NURSE))
    audit.consent.allow(consent_pb2.TRACE_VIEW_OWN)
    listed = (await audit.list_events()).events
    assert [each.receipt.leaf_index for each in listed] == [2, 0]


async def test_a_representative_reads_all_but_secret_connections(audit: ServiceUnderTest) -> None:
    await audit.log.append(event(), event(subject=NURSE), event(secret=True))
    audit.consent.allow(consent_pb2.TRACE_VIEW_WITHOUT_SECRET)
    listed = (await audit.list_events()).events
    assert [each.receipt.leaf_index for each in listed] == [1, 0]


async def test_the_attending_physician_reads_all(audit: ServiceUnderTest) -> None:
    await audit.log.append(event(), event(subject=NURSE), event(secret=True))
    assert len((await audit.list_events()).events) == 3


async def test_a_refusal_has_consents_reason_and_is_in_the_trail(audit: ServiceUnderTest) -> None:
    await audit.log.append(event())
    audit.consent.refuse(reasons.ERROR_REASON_BLOCKED)
    with pytest.raises(DmpError) as refused:
        await audit.list_events(subject=NURSE)
    assert refused.value.reason == reasons.ERROR_REASON_BLOCKED
    [denied] = await audit.recorded()
    assert (denied.outcome, denied.reason, denied.actor.subject, denied.epoch) == (
        audit_pb2.OUTCOME_DENIED, reasons.ERROR_REASON_BLOCKED, NURSE, 12,
    )  # fmt: skip


async def test_a_yes_that_does_not_say_what_may_be_seen_is_a_no(audit: ServiceUnderTest) -> None:
    audit.consent.allow(consent_pb2.TRACE_VIEW_UNSPECIFIED)
    with pytest.raises(DmpError) as refused:
        await audit.list_events()
    assert refused.value.reason == reasons.ERROR_REASON_RIGHT_DENIED


async def test_without_consent_nothing_is_shown_and_no_refusal_is_recorded(audit: ServiceUnderTest) -> None:
    await audit.log.append(event())
    audit.consent.down = True
    with pytest.raises(DmpError) as undecided:
        await audit.list_events()
    assert undecided.value.reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
    assert await audit.recorded() == []


async def test_what_cannot_be_recorded_is_not_shown(audit: ServiceUnderTest) -> None:
    await audit.log.append(event())
    await audit.log.pool.execute("DELETE FROM log_head")
    with pytest.raises(DmpError) as failed:
        await audit.list_events()
    assert failed.value.reason == reasons.ERROR_REASON_AUDIT_UNAVAILABLE


async def test_pages_follow_each_other_without_gap_or_repetition_while_events_come_in(
    audit: ServiceUnderTest,
) -> None:
    await audit.log.append(*(event() for _ in range(23)))
    seen: list[int] = []
    token = ""
    while True:
        page = await audit.list_events(page_size=5, page_token=token)
        assert len(page.events) <= 5
        seen += [each.receipt.leaf_index for each in page.events]
        token = page.next_page_token
        if not token:
            break
    assert seen == list(range(22, -1, -1))


async def test_a_page_holds_fifty_unless_asked(audit: ServiceUnderTest) -> None:
    await audit.log.append(*(event() for _ in range(60)))
    page = await audit.list_events()
    assert len(page.events) == 50
    assert len((await audit.list_events(page_token=page.next_page_token)).events) == 10


async def test_a_page_token_of_another_dossier_reader_or_making_is_refused_and_traced(
    audit: ServiceUnderTest,
) -> None:
    await audit.log.append(*(event() for _ in range(3)), *(event(OTHER_DOSSIER) for _ in range(3)))
    mine = (await audit.list_events(page_size=1)).next_page_token
    for attempt in (
        audit.list_events(health_id=OTHER_DOSSIER, page_token=mine),
        audit.list_events(subject=NURSE, page_token=mine),
        audit.list_events(page_token=mine[:-2] + "AA"),
        audit.list_events(page_token="rubbish"),
        audit.list_events(page_token="é"),
    ):
        with pytest.raises(DmpError) as refused:
            await attempt
        assert refused.value.reason == reasons.ERROR_REASON_INVALID_PAGE_TOKEN
        assert [violation.field for violation in refused.value.fields] == ["page_token"]
    last = (await audit.recorded())[-1]
    assert (last.outcome, last.reason) == (audit_pb2.OUTCOME_REJECTED, reasons.ERROR_REASON_INVALID_PAGE_TOKEN)


@pytest.mark.parametrize("page_size", [-1, 201, 2**31 - 1])
async def test_a_page_size_out_of_bounds_is_refused_once_authorised(audit: ServiceUnderTest, page_size: int) -> None:
    with pytest.raises(DmpError) as refused:
        await audit.list_events(page_size=page_size)
    assert [violation.field for violation in refused.value.fields] == ["page_size"]
    assert [each.outcome for each in await audit.recorded()] == [audit_pb2.OUTCOME_REJECTED]


async def test_an_altered_row_is_not_shown(audit: ServiceUnderTest) -> None:
    await audit.log.append(event())
    await audit.log.pool.execute("UPDATE event SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1)")
    with pytest.raises(DmpError) as failed:
        await audit.list_events()
    assert failed.value.reason == reasons.ERROR_REASON_CONTENT_CORRUPTED


async def test_a_destroyed_trail_is_gone_and_asking_for_it_is_recorded_among_the_events_about_no_dossier(
    audit: ServiceUnderTest,
) -> None:
    await audit.log.append(event())
    async with postgres.transaction(audit.log.pool) as conn:
        await audit.log.keys.destroy(conn, DOSSIER, dt.datetime.now(dt.UTC))
    with pytest.raises(DmpError) as gone:
        await audit.list_events()
    assert gone.value.reason == reasons.ERROR_REASON_CONTENT_DESTROYED
    [asked] = await audit.recorded(SYSTEM_HEALTH_ID)
    assert (asked.objects[0], asked.action) == (dossier_name(DOSSIER), "trace.read")


@pytest.mark.parametrize("view", [consent_pb2.TRACE_VIEW_ALL, consent_pb2.TRACE_VIEW_OWN])
async def test_a_page_is_two_statements_and_its_record_one_whatever_its_size(
    audit: ServiceUnderTest, view: consent_pb2.TraceView.ValueType
) -> None:
    await audit.log.append(*(event() for _ in range(300)))
    audit.consent.allow(view)
    for page_size in (1, 200):
        with audit.log.statements() as statements:
            assert len((await audit.list_events(page_size=page_size)).events) == page_size
        assert len(statements) == 3, statements


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (store.TRAIL, "event_trail"),
        (store.TRAIL_OF_ACTOR, "event_trail_of_actor"),
        (store.TRAIL_IN_PERIOD, "event_trail"),
        (store.TRAIL_OF_ACTOR_IN_PERIOD, "event_trail_of_actor"),
        (store.TRAIL_FORWARD, "event_trail"),
        (store.ONE, "event_once"),
        (store.FIND, "event_once"),
        (store.APPEND, "dossier_key_pkey"),
        (store.HEADS, "event_pkey"),
        (derived_store.LATEST, "event_trail_of_actor"),
        (derived_store.EARLIEST, "event_trail_of_actor"),
        (ending_store.UNENDED, "event_trail"),
        (ending_store.BARE, "event_pkey"),
        (table_store.LOGS_OF_EVENTS, "event_pkey"),
    ],
)
async def test_each_query_uses_the_index_made_for_it(
    audit: ServiceUnderTest, audit_database: str, statement: str, index: str
) -> None:
    await audit.log.pool.execute(
        """INSERT INTO event SELECT 0, n, n % 500, gen_random_uuid(), 'document', now(), false,
               sha256(int4send(n % 7)), sha256(int4send(n)), decode(repeat('00', 49), 'hex'), '\\x00'
           FROM generate_series(0, 19999) AS n"""
    )
    await audit.log.pool.execute(
        "INSERT INTO dossier_key SELECT n, int4send(n) FROM generate_series(1, 5000) AS n ON CONFLICT DO NOTHING"
    )
    await audit.log.pool.execute("VACUUM ANALYZE event, dossier_key")
    parameters = ", ".join(["NULL"] * len(set(re.findall(r"\$\d+", statement))))
    connection = await asyncpg.connect(audit_database, server_settings={"plan_cache_mode": "force_generic_plan"})
    try:
        await connection.execute(f"PREPARE checked AS {statement}")
        plan = await connection.fetch(f"EXPLAIN EXECUTE checked{f'({parameters})' if parameters else ''}")
    finally:
        await connection.close()
    text = "\n".join(row[0] for row in plan)
    assert f"using {index} " in text or f"Bitmap Index Scan on {index} " in text, text
    assert "Seq Scan on event" not in text
