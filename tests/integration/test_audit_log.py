"""The log: contiguous, durable, each event once, whoever appends and however they retry."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit import sequencer
from services.audit.append import LogDamaged, Receipt
from services.audit.leaf import COMMITMENT_TAG, EventPlace, open_clear
from services.audit.sequencer import AppendLimits
from services.runtime import postgres
from services.runtime.errors import DmpError
from tests.audit_log import DOSSIER, OTHER_DOSSIER, LogUnderTest, copy, empty, event, migrated, places

LEAVES = "SELECT leaf_index, event_id FROM event WHERE log_id = $1 ORDER BY leaf_index"
HEAD = "SELECT size FROM log_head WHERE log_id = $1"


@pytest.fixture(scope="module")
def audit_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def dsn(audit_database: str) -> str:
    """An empty database with the audit service's migrations."""
    await empty(audit_database)
    return audit_database


@pytest.fixture
async def log(dsn: str) -> AsyncIterator[LogUnderTest]:
    opened = await LogUnderTest.open(dsn)
    yield opened
    await opened.close()


async def contiguous(under_test: LogUnderTest, log_id: int = 0) -> list[uuid.UUID]:
    """The events in the order of the log, once it is sure that there is no gap and that the head is right."""
    rows = await under_test.pool.fetch(LEAVES, log_id)
    assert [row["leaf_index"] for row in rows] == list(range(len(rows)))
    assert await under_test.pool.fetchval(HEAD, log_id) == len(rows)
    return [row["event_id"] for row in rows]


def reason_of(receipt: Receipt) -> int:
    assert isinstance(receipt, DmpError)
    return receipt.reason


async def test_events_of_one_call_lie_in_its_order(log: LogUnderTest) -> None:
    events = [event() for _ in range(20)]
    assert places(await log.append(*events)) == list(range(20))
    assert await contiguous(log) == [uuid.UUID(bytes=each.event_id) for each in events]


async def test_an_event_sent_again_has_the_same_place(log: LogUnderTest) -> None:
    events = [event() for _ in range(3)]
    first = places(await log.append(*events))
    again = places(await log.append(*(copy(each) for each in reversed(events))))
    assert again == first[::-1]
    assert len(await contiguous(log)) == 3


async def test_an_event_that_comes_twice_in_one_call_is_there_once(log: LogUnderTest) -> None:
    once = event()
    assert places(await log.append(once, copy(once), event())) == [0, 0, 1]
    assert len(await contiguous(log)) == 2


async def test_another_event_under_a_known_id_is_a_conflict_and_the_others_are_appended(log: LogUnderTest) -> None:
    first = event()
    await log.append(first)
    other = event(event_id=first.event_id, action="document.search")
    receipts = await log.append(event(), other, event())
    assert reason_of(receipts[1]) == reasons.ERROR_REASON_EVENT_CONFLICT
    assert places([receipts[0], receipts[2]]) == [1, 2]
    within = event()
    receipts = await log.append(within, event(OTHER_DOSSIER, event_id=within.event_id))
    assert reason_of(receipts[1]) == reasons.ERROR_REASON_EVENT_CONFLICT
    assert len(await contiguous(log)) == 4


async def test_two_producers_may_use_one_id(log: LogUnderTest) -> None:
    shared = event()
    assert places(await log.append(shared, producer="document")) == [0]
    assert places(await log.append(copy(shared), producer="consent")) == [1]


async def test_a_malformed_event_is_refused_alone(log: LogUnderTest) -> None:
    short, endless = event(), event()
    short.event_id = b"short"
    endless.event_time.seconds = 1 << 60
    receipts = await log.append(event(), short, endless, event())
    assert [reason_of(receipts[at]) for at in (1, 2)] == [reasons.ERROR_REASON_INVALID_FIELD] * 2
    assert [violation.field for at in (1, 2) for violation in _error(receipts[at]).fields] == ["event_id", "event_time"]
    assert places([receipts[0], receipts[3]]) == [0, 1]


async def test_no_events_and_too_many_are_refused(log: LogUnderTest) -> None:
    for number in (0, 1025):
        with pytest.raises(DmpError) as refused:
            await log.append(*(event() for _ in range(number)))
        assert refused.value.reason == reasons.ERROR_REASON_INVALID_FIELD
    assert await contiguous(log) == []


async def test_the_producer_is_who_is_connected_whatever_the_event_says(log: LogUnderTest) -> None:
    forged = event()
    forged.producer = "consent"
    await log.append(forged, producer="document")
    assert await log.pool.fetchval("SELECT producer FROM event") == "document"
    assert (await stored_event(log)).producer == "document"


async def test_the_leaf_commits_to_the_very_bytes_that_are_sealed(log: LogUnderTest) -> None:
    sent = event()
    await log.append(sent)
    row = await log.pool.fetchrow("SELECT event_id, leaf, sealed FROM event")
    async with log.pool.acquire() as conn:
        keys = await log.keys.for_read(conn, [DOSSIER])
    assert row is not None
    part = open_clear(keys[DOSSIER], row["sealed"], EventPlace(DOSSIER, row["event_id"].bytes, 0))
    digest = hashlib.sha256(COMMITMENT_TAG + part.salt + part.clear).digest()
    assert row["leaf"] == b"\x01" + sent.event_id + digest
    assert audit_pb2.AuditEvent.FromString(part.clear).actor == sent.actor


async def test_nothing_in_the_tables_tells_who_did_what(log: LogUnderTest) -> None:
    await log.append(event(subject="899700245667", action="document.read"))
    row = await log.pool.fetchrow("SELECT * FROM event")
    assert row is not None
    content = b"|".join(value if isinstance(value, bytes) else str(value).encode() for value in row.values())
    for secret in (b"899700245667", b"document.read", b"TD3.2", b"request-1"):
        assert secret not in content


async def test_events_about_no_dossier_are_sealed_under_a_key_of_their_own(log: LogUnderTest) -> None:
    await log.append(event(0), event(0))
    assert await log.pool.fetchval("SELECT array_agg(health_id) FROM dossier_key") == [0]
    assert (await stored_event(log, health_id=0)).health_id == 0


async def test_a_dossier_whose_key_is_destroyed_takes_no_more_events(log: LogUnderTest) -> None:
    await log.append(event(DOSSIER))
    async with postgres.transaction(log.pool) as conn:
        await log.keys.destroy(conn, DOSSIER, dt.datetime.now(dt.UTC))
    receipts = await log.append(event(OTHER_DOSSIER), event(DOSSIER), event(OTHER_DOSSIER))
    assert reason_of(receipts[1]) == reasons.ERROR_REASON_CONTENT_DESTROYED
    assert places([receipts[0], receipts[2]]) == [1, 2]
    assert len(await contiguous(log)) == 3


async def test_a_caller_that_gives_up_undoes_nothing_and_finds_its_event_when_it_comes_again(
    log: LogUnderTest,
) -> None:
    events = [event() for _ in range(40)]
    calls = [asyncio.ensure_future(log.append(each)) for each in events]
    for turn, call in enumerate(calls):
        if turn % 4 == 0:
            await asyncio.sleep(0.002)
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    again = [places(await log.append(copy(each)))[0] for each in events]
    assert sorted(again) == list(range(40))
    assert len(await contiguous(log)) == 40


async def test_a_deadline_ends_the_wait_and_not_the_transaction(log: LogUnderTest) -> None:
    late = event()
    async with postgres.transaction(log.pool) as conn:
        await conn.execute("SELECT FROM log_head FOR UPDATE")
        request = audit_pb2.BatchAppendEventsRequest(events=[late])
        [receipt] = await log.log.append("document", request, timeout=0.1)
        assert reason_of(receipt) == reasons.ERROR_REASON_DEADLINE_EXCEEDED
    assert places(await log.append(copy(late))) == [0]
    assert len(await contiguous(log)) == 1


async def test_a_full_queue_pushes_back_before_any_effect(dsn: str) -> None:
    log = await LogUnderTest.open(dsn, limits=AppendLimits(batch_events=16, pending_events=32))
    async with postgres.transaction(log.pool) as conn:
        await conn.execute("SELECT FROM log_head FOR UPDATE")
        waiting = asyncio.gather(log.append(*(event() for _ in range(32))))
        await asyncio.sleep(0.05)
        [refused] = await log.append(event())
        assert reason_of(refused) == reasons.ERROR_REASON_OVERLOADED
    [accepted] = await waiting
    assert len(places(accepted)) == 32
    assert len(await contiguous(log)) == 32
    await log.close()


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), log_count=st.sampled_from([1, 1, 3]))
async def test_sixty_four_callers_two_sequencers_retries_and_duplicates_leave_each_event_once_without_gaps(
    audit_database: str, seed: int, log_count: int
) -> None:
    chance = random.Random(seed)
    await empty(audit_database)
    limits = AppendLimits(chance.choice([4, 32, 512]), pending_events=4096, alone_events=chance.choice([3, 128]))
    replicas = [await LogUnderTest.open(audit_database, log_count=log_count, limits=limits) for _ in range(2)]
    dossiers = [chance.getrandbits(62) for _ in range(12)] + [0]
    events = [event(chance.choice(dossiers)) for _ in range(160)]
    answers: dict[bytes, set[tuple[int, int]]] = {each.event_id: set() for each in events}

    async def caller(number: int) -> None:
        turns = random.Random(seed + number)
        for _ in range(turns.randint(1, 4)):
            bundle = [copy(each) for each in turns.choices(events, k=turns.randint(1, 6))]
            work = asyncio.ensure_future(turns.choice(replicas).append(*bundle))
            if turns.random() < 0.25:
                await asyncio.sleep(turns.random() / 200)
                work.cancel()
            [result] = await asyncio.gather(work, return_exceptions=True)
            if isinstance(result, BaseException):
                assert isinstance(result, asyncio.CancelledError)
                continue
            for sent, receipt in zip(bundle, result, strict=True):
                learnt(answers, sent, receipt)

    try:
        with pytest.MonkeyPatch.context() as impatient:
            impatient.setattr(sequencer, "_ACQUIRE_SECONDS", chance.choice([0.002, 5.0]))
            await asyncio.gather(*(caller(number) for number in range(64)))
        for each in events:
            while not learnt(answers, each, *await replicas[0].append(copy(each))):
                pass
        in_logs = [each.bytes for log_id in range(log_count) for each in await contiguous(replicas[0], log_id)]
        assert Counter(in_logs) == Counter(each.event_id for each in events)
        assert all(len(places_told) == 1 for places_told in answers.values())
        spread = await replicas[0].pool.fetch(
            "SELECT health_id FROM event WHERE health_id <> 0 GROUP BY health_id HAVING count(DISTINCT log_id) > 1"
        )
        assert spread == []
    finally:
        for replica in replicas:
            await replica.close()


async def test_a_key_that_another_process_destroyed_or_wrapped_anew_is_not_sealed_with(
    dsn: str, log: LogUnderTest
) -> None:
    await log.append(event(DOSSIER), event(OTHER_DOSSIER))
    other = await LogUnderTest.open(dsn)
    async with postgres.transaction(other.pool) as conn:
        await other.keys.rewrap(conn, OTHER_DOSSIER - 1, 1, 2, lambda _: 1)
        await other.keys.destroy(conn, DOSSIER, dt.datetime.now(dt.UTC))
    receipts = await log.append(event(OTHER_DOSSIER), event(DOSSIER), event(OTHER_DOSSIER))
    assert reason_of(receipts[1]) == reasons.ERROR_REASON_CONTENT_DESTROYED
    assert places([receipts[0], receipts[2]]) == [2, 3]
    assert len(await contiguous(log)) == 4
    with log.statements() as statements:
        assert places(await log.append(event(OTHER_DOSSIER))) == [4]
    assert len(statements) == 1, statements
    await other.close()


async def test_destroying_waits_for_an_append_under_way_and_no_event_follows_it(log: LogUnderTest) -> None:
    await log.append(event())
    async with log.pool.acquire() as blocker:
        held = blocker.transaction()
        await held.start()
        await blocker.execute("SELECT FROM log_head FOR UPDATE")
        appending = asyncio.ensure_future(log.append(event()))
        await until_locked(log.pool, 1)

        async def destroy() -> None:
            async with postgres.transaction(log.pool) as conn:
                await log.keys.destroy(conn, DOSSIER, dt.datetime.now(dt.UTC))

        destroying = asyncio.ensure_future(destroy())
        await until_locked(log.pool, 2)
        await held.rollback()
    assert places(await appending) == [1]
    await destroying
    [late] = await log.append(event())
    assert reason_of(late) == reasons.ERROR_REASON_CONTENT_DESTROYED


async def until_locked(pool: postgres.Pool, sessions: int) -> None:
    """Returns when so many sessions of the test wait for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test-audit' AND wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    async with asyncio.timeout(30):
        while await pool.fetchval(waiting) < sessions:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE log_head SET size = size + 1", "head says 4 events, its last event is number 3"),
        ("DELETE FROM event WHERE leaf_index = 2", "head says 3 events, its last event is number 2"),
        ("DELETE FROM event", "head says 3 events, its last event is number 0"),
        ("INSERT INTO log_head (log_id) VALUES (1)", "the database has 2 logs, not 1"),
    ],
)
async def test_it_does_not_start_on_a_damaged_log_and_says_why(dsn: str, damage: str, says: str) -> None:
    log = await LogUnderTest.open(dsn)
    await log.append(event(), event(), event())
    await log.pool.execute(damage)
    await log.close()
    with pytest.raises(LogDamaged, match=says):
        await LogUnderTest.open(dsn)


async def test_a_lost_database_is_unavailable_and_never_a_receipt(log: LogUnderTest) -> None:
    await log.append(event())
    lost = event()
    async with postgres.transaction(log.pool) as conn:
        await conn.execute("SELECT FROM log_head FOR UPDATE")
        waiting = asyncio.ensure_future(log.append(lost))
        await asyncio.sleep(0.1)
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'test-audit' AND pid <> pg_backend_pid() AND wait_event_type = 'Lock'"
        )
        assert reason_of((await waiting)[0]) == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
    assert places(await log.append(copy(lost))) == [1]


def learnt(answers: dict[bytes, set[tuple[int, int]]], sent: audit_pb2.AuditEvent, receipt: Receipt) -> bool:
    """Keeps a place; False for what has none: its batch waited for a connection longer than it may, as nine of them do
    for four on a busy machine, or at once where they may not wait. It is sent again, as what was given up is."""
    if isinstance(receipt, DmpError):
        assert receipt.reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
        return False
    answers[sent.event_id].add((receipt.log_id, receipt.leaf_index))
    return True


def _error(receipt: Receipt) -> DmpError:
    assert isinstance(receipt, DmpError)
    return receipt


async def stored_event(log: LogUnderTest, health_id: int = DOSSIER) -> audit_pb2.AuditEvent:
    """The first event of the log, opened."""
    async with log.pool.acquire() as conn:
        row = await conn.fetchrow("SELECT event_id, sealed FROM event WHERE leaf_index = 0")
        keys = await log.keys.for_read(conn, [health_id])
    assert row is not None
    part = open_clear(keys[health_id], row["sealed"], EventPlace(health_id, row["event_id"].bytes, 0))
    return audit_pb2.AuditEvent.FromString(part.clear)
