"""PostgreSQL as a service uses it: the pool, the transaction, what an error of the database means.

May live here: how to connect, commit and classify errors. May not live here: SQL of any table (each service's
``store.py``, and the modules here that own a shared table). The migration runner is ``migrations.py``; its two
entry points are offered here too.

No session state on pooled connections: the pool's reset query is skipped (it costs a round trip a request), so no
``SET``, advisory lock or ``LISTEN`` may ever be issued on them. Every setting is fixed when the connection opens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from asyncpg.transaction import Transaction

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DmpError, unavailable
from services.runtime.migrations import SchemaOutOfDate, check_migrations, migrate

__all__ = [
    "Connection",
    "Pool",
    "Reader",
    "SchemaOutOfDate",
    "check_migrations",
    "connect",
    "is_transient",
    "migrate",
    "run_to_completion",
    "transaction",
    "translate",
]

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
PoolConnection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"


class Reader(Protocol):
    """A pool or a connection: each statement by itself."""

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]: ...
    async def fetchval(self, query: str, *args: object) -> Any: ...


T = TypeVar("T")

_log = logging.getLogger(__name__)

# Work whose caller was cancelled and that runs on to its end; the loop itself keeps only weak references to tasks.
_unfinished: set[asyncio.Task[Any]] = set()

_TRANSIENT = (
    asyncpg.PostgresConnectionError,  # 08: the connection was lost or refused
    asyncpg.InvalidTransactionTerminationError,
    asyncpg.TransactionRollbackError,  # 40: deadlock, serialization
    asyncpg.InsufficientResourcesError,  # 53: too many connections, disk full, out of memory
    asyncpg.OperatorInterventionError,  # 57: shutdown, starting up, statement timeout
    asyncpg.PostgresSystemError,  # 58: I/O
    asyncpg.LockNotAvailableError,  # 55P03
    asyncpg.IdleInTransactionSessionTimeoutError,  # 25P03
    asyncpg.ReadOnlySQLTransactionError,  # 25006: a former primary after a failover
    asyncpg.InterfaceError,  # connection or pool closed, or still busy
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    asyncio.IncompleteReadError,
)
# Subclasses of the above that no retry mends.
_PERMANENT = (asyncpg.DataError, asyncpg.exceptions.ClientConfigurationError, asyncpg.UnsupportedClientFeatureError)


async def connect(
    dsn: str,
    *,
    min_size: int = 2,
    max_size: int = 6,
    statement_timeout_ms: int = 5000,
    name: str,
) -> Pool:
    """A pool of ``min_size`` to ``max_size`` connections; ``name`` is the ``application_name`` they show.

    TLS as the DSN says (``sslmode``, ``sslrootcert``). Raises what asyncpg raises if the database cannot be reached.
    ``statement_timeout_ms`` bounds each statement at the server; PostgreSQL lifts it before a COMMIT.
    """
    return await asyncpg.create_pool(
        dsn,
        min_size=min_size,
        max_size=max_size,
        max_queries=2**31,
        max_inactive_connection_lifetime=300.0,
        reset=_keep_session,
        statement_cache_size=512,
        max_cached_statement_lifetime=0,
        timeout=10,
        server_settings={
            "application_name": name,
            "statement_timeout": str(statement_timeout_ms),
            "idle_in_transaction_session_timeout": str(max(10_000, 2 * statement_timeout_ms)),
            "default_transaction_isolation": "read committed",
            "jit": "off",
            # Every request goes through an index that begins with its dossier, whatever its values (promise 7): one
            # plan serves all. Planned anew each time, the facts of an access check took 1.2 ms, planned once 0.15 ms.
            "plan_cache_mode": "force_generic_plan",
            "timezone": "UTC",
        },
    )


async def _keep_session(connection: Connection) -> None:
    """Takes the place of asyncpg's reset query (see the module's contract: connections carry no session state)."""


@asynccontextmanager
async def transaction(pool: Pool, *, timeout: float | None = None) -> AsyncIterator[Connection]:
    """A connection inside a transaction that commits at the end of the block and rolls back on any exception.

    Cancelling the caller inside the block rolls back. Once the block has ended the COMMIT runs to its end in a task
    of its own, and the connection goes back to the pool only then: a cancellation reaches the waiting caller, never
    the commit. (asyncpg would answer a cancellation with a cancel request, on which PostgreSQL stops waiting for the
    synchronous standby and keeps the transaction: committed, acknowledged nowhere, and lost at a failover.)

    ``timeout`` in seconds bounds the wait for a connection only. Raises what asyncpg raises; see ``translate``.
    """
    connection = await pool.acquire(timeout=timeout)
    work = connection.transaction()
    try:
        await work.start()
    except BaseException:
        await pool.release(connection)
        raise
    try:
        yield connection
    except BaseException:
        await run_to_completion(_roll_back(pool, connection, work))
        raise
    await run_to_completion(_commit(pool, connection, work))


async def _commit(pool: Pool, connection: PoolConnection, work: Transaction) -> None:
    try:
        await work.commit()
    finally:
        await pool.release(connection)


async def _roll_back(pool: Pool, connection: PoolConnection, work: Transaction) -> None:
    """Never raises on a lost connection: nothing was committed, and the caller is to see why the block ended."""
    try:
        await work.rollback()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        connection.terminate()
        _log.warning("connection lost while rolling back", exc_info=True)
    finally:
        await pool.release(connection)


async def run_to_completion(work: Coroutine[Any, Any, T]) -> T:
    """Awaits ``work`` in a task that the caller's cancellation does not reach.

    Cancelled, the caller gets its CancelledError at once and ``work`` runs on; should it fail then, that is logged,
    since nobody is left to be told. For whole units of work that must not stop half-way.
    """
    task = asyncio.get_running_loop().create_task(work)
    _unfinished.add(task)
    task.add_done_callback(_unfinished.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            task.add_done_callback(_log_late_failure)
        raise


def _log_late_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("work failed after its caller had been cancelled", exc_info=error)


def is_transient(error: BaseException) -> bool:
    """Whether the same statement may succeed later: connection lost, time-out, overload, failover, deadlock.

    The outcome of a COMMIT that fails like this is unknown: retry with the same ``request_id``.
    """
    return isinstance(error, _TRANSIENT) and not isinstance(error, _PERMANENT)


def translate(error: BaseException) -> DmpError:
    """What a caller is told of a failure of the database: DEPENDENCY_UNAVAILABLE if transient, else INTERNAL.

    The cause is chained (``__cause__``) for the log and never shown to a client; a DmpError is returned as it is.
    """
    if isinstance(error, DmpError):
        return error
    translated = unavailable("database") if is_transient(error) else DmpError(reasons.ERROR_REASON_INTERNAL)
    translated.__cause__ = error
    return translated
