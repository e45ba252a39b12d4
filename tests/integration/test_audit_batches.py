"""How events are appended together: how many statements a batch takes, and calls of many events beside small ones."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable

import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit import store
from services.runtime import postgres
from tests.audit_log import DOSSIER, OTHER_DOSSIER, LogUnderTest, copy, empty, event, migrated, places
from tests.integration.test_audit_log import contiguous, reason_of, until_locked


@pytest.fixture(scope="module")
def batch_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def dsn(batch_database: str) -> str:
    await empty(batch_database)
    return batch_database


@pytest.fixture
async def log(dsn: str) -> AsyncIterator[LogUnderTest]:
    opened = await LogUnderTest.open(dsn)
    yield opened
    await opened.close()


async def test_calls_of_many_events_are_transactions_of_their_own_beside_small_ones(log: LogUnderTest) -> None:
    await log.append(*(event(DOSSIER + offset) for offset in range(10)))
    large = [[event(DOSSIER + at % 10) for at in range(130)] for _ in range(5)]
    with log.statements() as statements:
        answers = await asyncio.gather(*(log.append(*call) for call in large), log.append(event()), log.append(event()))
    assert statements.count(store.APPEND) == 6, statements
    for call, answer in zip(large, answers, strict=False):
        found = places(answer)
        assert found == list(range(found[0], found[0] + 130)), "those of one call lie together, in its order"
        assert places(await log.append(*map(copy, call))) == found
    assert len(await contiguous(log)) == 10 + 5 * 130 + 2


async def test_a_key_destroyed_while_sealed_events_wait_lets_none_of_them_in(dsn: str, log: LogUnderTest) -> None:
    await log.append(event(DOSSIER), event(OTHER_DOSSIER))
    other = await LogUnderTest.open(dsn)
    async with other.pool.acquire() as blocker:
        held = blocker.transaction()
        await held.start()
        await blocker.execute("SELECT FROM log_head FOR UPDATE")
        ahead = [asyncio.ensure_future(log.append(*(event(OTHER_DOSSIER) for _ in range(130)))) for _ in range(2)]
        await until_locked(log.pool, 2)
        mixed = [event(DOSSIER) if at % 2 else event(OTHER_DOSSIER) for at in range(130)]
        waiting = asyncio.ensure_future(log.append(*mixed))
        await asyncio.sleep(0.05)
        async with postgres.transaction(other.pool) as conn:
            await other.keys.destroy(conn, DOSSIER, dt.datetime.now(dt.UTC))
        await held.rollback()
    assert sorted(places(await ahead[0]) + places(await ahead[1])) == list(range(2, 262))
    receipts = await waiting
    assert {reason_of(each) for each in receipts[1::2]} == {reasons.ERROR_REASON_CONTENT_DESTROYED}
    assert places(receipts[::2]) == list(range(262, 262 + 65))
    assert await log.pool.fetchval("SELECT count(*) FROM event WHERE health_id = $1", DOSSIER) == 1
    await contiguous(log)
    await other.close()


@pytest.mark.parametrize("number", [1, 500])
async def test_a_batch_is_one_statement_whatever_its_size(log: LogUnderTest, number: int) -> None:
    dossiers = [DOSSIER + offset for offset in range(10)]
    await log.append(*(event(dossier) for dossier in dossiers))
    with log.statements() as statements:
        await log.append(*(event(dossiers[place % 10]) for place in range(number)))
    assert len(statements) == 1, statements
    assert len(await contiguous(log)) == 10 + number


async def test_keys_that_this_process_does_not_know_are_one_statement_more(dsn: str, log: LogUnderTest) -> None:
    await log.append(event(DOSSIER), event(OTHER_DOSSIER))
    other = await LogUnderTest.open(dsn)
    with other.statements() as statements:
        assert places(await other.append(event(DOSSIER), event(OTHER_DOSSIER))) == [2, 3]
    ours = [statement for statement in statements if "pg_catalog" not in statement and "'jit'" not in statement]
    assert len(ours) == 2, ours
    await other.close()


async def test_new_dossiers_and_repeated_events_cost_nine_statements_more_at_most(log: LogUnderTest) -> None:
    known = [event() for _ in range(100)]
    await log.append(*known)
    with log.statements() as statements:
        await log.append(*(event(OTHER_DOSSIER + offset) for offset in range(300)), *map(copy, known))
    assert len(statements) <= 10, statements


async def test_a_batch_of_retries_alone_writes_no_row(log: LogUnderTest) -> None:
    known = [event() for _ in range(100)]
    await log.append(*known)
    with log.statements() as statements:
        await log.append(*map(copy, known))
    assert len(statements) == 6, statements
    assert len(await contiguous(log)) == 100


async def test_many_calls_at_once_share_few_transactions(log: LogUnderTest) -> None:
    await log.append(event())
    with log.statements() as statements:
        await asyncio.gather(*(log.append(event()) for _ in range(200)))
    assert len(statements) <= 3
