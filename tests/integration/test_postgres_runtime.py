"""What the runtime promises of PostgreSQL, on a real one: migrations, transactions, idempotency."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime import idempotency
from services.runtime.errors import DmpError
from services.runtime.idempotency import IdempotencyKey
from services.runtime.migrations import MigrationError, SchemaOutOfDate, check_migrations, migrate
from services.runtime.postgres import Pool, connect, is_transient, run_to_completion, transaction, translate

KEY = IdempotencyKey(7, "his", "/dmp.document.v1.Documents/Submit", "r-1")


@pytest.fixture
def dsn(postgres_url: Callable[[], str]) -> str:
    """An empty database."""
    return postgres_url()


@pytest.fixture
async def pool(runtime_pool: Pool) -> Pool:
    """A pool on a database that has the shared tables and one more, ``thing``, whose larger rows commit in 0.3 s."""
    await runtime_pool.execute(
        """
        CREATE TABLE thing (id int PRIMARY KEY);
        CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON thing DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (new.id >= 100) EXECUTE FUNCTION linger();
        """
    )
    return runtime_pool


# --- migrations ------------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "0001_dossier.sql").write_text("-- citus: dossier, health_id\nCREATE TABLE dossier (health_id bigint);")
    (tmp_path / "0002_outbox.sql").write_text("-- include: runtime/outbox.sql\n")
    return tmp_path


async def test_migrations_are_applied_once_in_order_and_then_found_in_place(dsn: str, directory: Path) -> None:
    pool = await connect(dsn, min_size=1, name="dmp-test")
    with pytest.raises(SchemaOutOfDate, match="lacks 0001_dossier, 0002_outbox"):
        await check_migrations(pool, directory)
    assert await migrate(dsn, directory, service="test") == ["0001_dossier", "0002_outbox"]
    assert await migrate(dsn, directory, service="test") == []
    await check_migrations(pool, directory)
    assert await pool.fetchval("SELECT count(*) FROM outbox") == 0
    await pool.close()


async def test_replicas_that_migrate_at_once_apply_each_migration_once(dsn: str, directory: Path) -> None:
    done = await asyncio.gather(*(migrate(dsn, directory, service="test") for _ in range(4)))
    assert sorted(name for names in done for name in names) == ["0001_dossier", "0002_outbox"]


async def test_a_migration_that_fails_leaves_nothing_and_those_before_it_stay(dsn: str, directory: Path) -> None:
    (directory / "0003_broken.sql").write_text("CREATE TABLE half (id int);\nSELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(dsn, directory, service="test")
    (directory / "0003_broken.sql").write_text("CREATE TABLE half (id int);")
    assert await migrate(dsn, directory, service="test") == ["0003_broken"]


async def test_a_migration_changed_after_it_was_applied_stops_everything(dsn: str, directory: Path) -> None:
    await migrate(dsn, directory, service="test")
    (directory / "0001_dossier.sql").write_text("CREATE TABLE dossier (health_id int);")
    with pytest.raises(MigrationError, match="0001_dossier is not what was applied"):
        await migrate(dsn, directory, service="test")
    pool = await connect(dsn, min_size=1, name="dmp-test")
    with pytest.raises(SchemaOutOfDate, match="0001_dossier is not what was applied"):
        await check_migrations(pool, directory)
    await pool.close()


async def test_an_older_program_runs_on_a_newer_database_but_does_not_migrate_it(
    dsn: str, directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    older = tmp_path_factory.mktemp("older")
    shutil.copy(directory / "0001_dossier.sql", older)
    await migrate(dsn, directory, service="test")
    with pytest.raises(MigrationError, match="0002_outbox, unknown to this program"):
        await migrate(dsn, older, service="test")
    pool = await connect(dsn, min_size=1, name="dmp-test")
    await check_migrations(pool, older)
    await pool.close()


# --- connections and transactions ------------------------------------------------------------------------------------


async def test_connections_are_set_up_when_they_open_and_never_reset(pool: Pool) -> None:
    async def setting(name: str) -> object:
        return await pool.fetchval("SELECT current_setting($1)", name)

    assert await setting("application_name") == "dmp-test"
    assert await setting("jit") == "off"
    assert await setting("statement_timeout") == "5s"
    assert await setting("default_transaction_isolation") == "read committed"
    async with pool.acquire() as connection:
        backend = await connection.fetchval("SELECT pg_backend_pid()")
        await connection.execute("SET statement_timeout = '1900ms'")
    async with pool.acquire() as connection:
        assert await connection.fetchval("SELECT pg_backend_pid()") == backend
        assert await connection.fetchval("SELECT current_setting('statement_timeout')") == "1900ms", "no reset query"


async def things(pool: Pool) -> list[int]:
    return [row["id"] for row in await pool.fetch("SELECT id FROM thing ORDER BY id")]


async def insert(pool: Pool, number: int) -> None:
    async with transaction(pool) as conn:
        await conn.execute("INSERT INTO thing VALUES ($1)", number)


async def test_a_transaction_commits_at_its_end_and_rolls_back_on_an_exception(pool: Pool) -> None:
    await insert(pool, 1)
    with pytest.raises(KeyError):  # noqa: PT012 (the block is what is tested)
        async with transaction(pool) as conn:
            await conn.execute("INSERT INTO thing VALUES (2)")
            raise KeyError
    with pytest.raises(asyncpg.UniqueViolationError):
        await insert(pool, 1)
    assert await things(pool) == [1]
    assert pool.get_idle_size() == pool.get_size(), "every connection is back"


async def test_a_caller_cancelled_inside_a_transaction_rolls_it_back(pool: Pool) -> None:
    async def slow() -> None:
        async with transaction(pool) as conn:
            await conn.execute("INSERT INTO thing VALUES (1)")
            await conn.execute("SELECT pg_sleep(5)")

    task = asyncio.create_task(slow())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await things(pool) == []
    assert pool.get_idle_size() == pool.get_size()


async def test_a_cancelled_caller_goes_at_once_but_its_commit_runs_to_its_end(pool: Pool) -> None:
    task = asyncio.create_task(insert(pool, 100))
    await asyncio.sleep(0.15)  # in the COMMIT, which takes 0.3 s
    assert await things(pool) == []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(task), 0.1)
    assert pool.get_idle_size() < pool.get_size(), "the connection is still committing"
    await asyncio.sleep(0.4)
    assert await things(pool) == [100]
    assert pool.get_idle_size() == pool.get_size()


async def test_a_connection_lost_inside_a_transaction_shows_its_own_error_and_frees_the_pool(pool: Pool) -> None:
    for _ in range(6):  # more often than the pool has connections
        with pytest.raises(Exception) as failure:  # noqa: PT011, PT012 (which one depends on timing)
            async with transaction(pool) as conn:
                backend = await conn.fetchval("SELECT pg_backend_pid()")
                async with pool.acquire() as other:
                    await other.execute("SELECT pg_terminate_backend($1)", backend)
                await conn.execute("INSERT INTO thing VALUES (1)")
        assert is_transient(failure.value)
    assert await things(pool) == []


async def test_the_statement_timeout_bounds_statements_and_never_a_commit(pool: Pool, runtime_dsn: str) -> None:
    hasty = await connect(runtime_dsn, min_size=1, statement_timeout_ms=150, name="dmp-test")
    async with hasty:
        with pytest.raises(asyncpg.QueryCanceledError) as failure:
            await hasty.execute("SELECT pg_sleep(2)")
        assert is_transient(failure.value)
        await insert(hasty, 100)  # its commit takes 0.3 s
    assert await things(pool) == [100]


async def test_work_that_fails_after_its_caller_has_gone_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise ZeroDivisionError

    task = asyncio.create_task(run_to_completion(fail()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.05)
    assert "ZeroDivisionError" in caplog.text


async def test_database_failures_are_unavailable_when_they_may_pass_and_internal_when_not(
    pool: Pool, runtime_dsn: str
) -> None:
    async def reason_of(statement: str, of: Pool = pool) -> int:
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)) as failure:
            await of.execute(statement)
        error = translate(failure.value)
        assert error.__cause__ is failure.value
        assert is_transient(failure.value) == (error.reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)
        return error.reason

    assert await reason_of("SELECT pg_terminate_backend(pg_backend_pid())") == (
        reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
    )
    assert await reason_of("SELECT 1 / 0") == reasons.ERROR_REASON_INTERNAL
    closed = await connect(runtime_dsn, min_size=1, name="dmp-test")
    await closed.close()
    assert await reason_of("SELECT 1", closed) == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
    assert translate(TimeoutError()).reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
    assert translate(ConnectionRefusedError()).reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
    assert translate(asyncpg.DataError("bad argument")).reason == reasons.ERROR_REASON_INTERNAL
    refusal = DmpError(reasons.ERROR_REASON_BLOCKED)
    assert translate(refusal) is refusal


# --- idempotency -----------------------------------------------------------------------------------------------------


async def mutate(pool: Pool, key: IdempotencyKey, body: bytes, answer: bytes, *, pause: float = 0.0) -> bytes:
    """A mutation as the services write it: the answer given, and whether it is a new one."""
    async with transaction(pool) as conn:
        if (replay := await idempotency.begin(conn, key, body)) is not None:
            return replay
        await asyncio.sleep(pause)
        await idempotency.finish(conn, key, answer)
        return answer


async def test_a_repeated_request_gets_the_first_answer(pool: Pool) -> None:
    assert await mutate(pool, KEY, b"digest", b"first") == b"first"
    assert await mutate(pool, KEY, b"digest", b"second") == b"first"


async def test_an_empty_answer_is_an_answer(pool: Pool) -> None:
    await mutate(pool, KEY, b"digest", b"")
    assert await mutate(pool, KEY, b"digest", b"second") == b""


async def test_a_request_id_used_with_another_body_is_refused(pool: Pool) -> None:
    await mutate(pool, KEY, b"digest", b"first")
    with pytest.raises(DmpError) as refused:
        await mutate(pool, KEY, b"another", b"second")
    assert refused.value.reason == reasons.ERROR_REASON_REQUEST_ID_REUSED


async def test_the_same_id_from_another_client_dossier_or_method_is_another_request(pool: Pool) -> None:
    await mutate(pool, KEY, b"digest", b"first")
    for other in (
        IdempotencyKey(8, KEY.client, KEY.method, KEY.request_id),
        IdempotencyKey(7, "lab", KEY.method, KEY.request_id),
        IdempotencyKey(7, KEY.client, "/dmp.consent.v1.Consents/Block", KEY.request_id),
        IdempotencyKey(7, KEY.client, KEY.method, "r-2"),
    ):
        assert await mutate(pool, other, b"another", b"second") == b"second"


async def test_of_two_at_once_the_second_waits_and_gets_the_first_ones_answer(pool: Pool) -> None:
    first = asyncio.create_task(mutate(pool, KEY, b"digest", b"first", pause=0.1))
    await asyncio.sleep(0.05)
    others = [mutate(pool, KEY, b"digest", b"second") for _ in range(3)]
    assert await asyncio.gather(first, *others) == [b"first"] * 4


async def test_when_the_first_of_two_is_rolled_back_the_second_takes_its_place(pool: Pool) -> None:
    async def undone() -> None:
        async with transaction(pool) as conn:
            assert await idempotency.begin(conn, KEY, b"digest") is None
            await asyncio.sleep(0.1)
            raise DmpError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE)

    first = asyncio.create_task(undone())
    await asyncio.sleep(0.05)
    assert await mutate(pool, KEY, b"digest", b"second") == b"second"
    with pytest.raises(DmpError):
        await first


async def test_an_answer_without_a_claim_and_a_claim_without_an_answer_are_defects(pool: Pool) -> None:
    async with transaction(pool) as conn:
        with pytest.raises(LookupError, match="without begin"):
            await idempotency.finish(conn, KEY, b"answer")
        await idempotency.begin(conn, KEY, b"digest")
    async with transaction(pool) as conn:
        with pytest.raises(LookupError, match="finish"):
            await idempotency.begin(conn, KEY, b"digest")


async def test_answers_are_forgotten_after_seven_days_and_not_before(pool: Pool) -> None:
    for number, age in enumerate([0, 6, 8, 9, 10]):
        key = IdempotencyKey(number, "his", "m", "r")
        await mutate(pool, key, b"digest", b"answer")
        await pool.execute(
            "UPDATE idempotency SET created_at = created_at - $2::interval WHERE health_id = $1",
            number,
            timedelta(days=age),
        )
    assert await idempotency.purge(pool, slice_size=2) == 3
    assert await idempotency.purge(pool) == 0
    assert [row[0] for row in await pool.fetch("SELECT health_id FROM idempotency ORDER BY 1")] == [0, 1]
