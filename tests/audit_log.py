"""A log in a database of its own, and events for it: what the tests of the audit service share."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import asyncpg
from asyncpg.connection import LoggedQuery

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from services.audit.append import DEFAULT_LIMITS, AuditLog, Receipt
from services.audit.entry import EntryDigests
from services.audit.listing import TrailReader
from services.audit.sequencer import AppendLimits
from services.runtime import postgres
from services.runtime.errors import DmpError
from services.runtime.identifiers import uuid7
from services.runtime.keyring import DossierKeys, Keyring
from services.runtime.paging import PageTokens

MIGRATIONS = Path(__file__).parents[1] / "services" / "audit" / "migrations"
DOSSIER = 4_611_686_018_427_387_904
OTHER_DOSSIER = 1_234_567_890_123_456_789
PHYSICIAN = "899700245667"


def keyring() -> Keyring:
    return Keyring({1: bytes(range(32))}, current=1, digests=[1])


def event(
    health_id: int = DOSSIER,
    *,
    event_id: bytes | None = None,
    subject: str = PHYSICIAN,
    secret: bool = False,
    action: str = "document.read",
) -> audit_pb2.AuditEvent:
    """A valid event; two calls give two events, unless they are given one id."""
    made = audit_pb2.AuditEvent(
        event_id=event_id or uuid7().bytes,
        health_id=health_id,
        action=action,
        transaction="TD3.2",
        actor=context_pb2.ActingContext(
            actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
            subject=subject,
            profession="10",
            authentication_mode=context_pb2.AUTHENTICATION_MODE_DIRECT,
            secret_connection=secret,
        ),
        outcome=audit_pb2.OUTCOME_SUCCESS,
        epoch=7,
        request_id="request-1",
    )
    made.event_time.FromDatetime(dt.datetime(2026, 11, 22, 8, 30, tzinfo=dt.UTC))
    return made


def copy(original: audit_pb2.AuditEvent) -> audit_pb2.AuditEvent:
    """As a producer that sends it again: an equal message of its own."""
    return audit_pb2.AuditEvent.FromString(original.SerializeToString())


def places(receipts: Sequence[Receipt]) -> list[int]:
    """The leaf indices; raises the first error among the receipts."""
    for receipt in receipts:
        if isinstance(receipt, DmpError):
            raise receipt
    return [receipt.leaf_index for receipt in receipts if not isinstance(receipt, DmpError)]


def migrated(dsn: str) -> str:
    """The DSN of the database once it has the audit service's migrations; for fixtures outside of an event loop."""
    asyncio.run(postgres.migrate(dsn, MIGRATIONS, service="audit"))
    return dsn


async def empty(dsn: str) -> None:
    """Makes the database as it was when migrated."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("TRUNCATE event, log_head, dossier_key")
    finally:
        await connection.close()


class CountedPool:
    """A pool that keeps the text of each statement sent over its connections."""

    def __init__(self, pool: postgres.Pool) -> None:
        self._pool = pool
        self.statements: list[str] = []

    def acquire(self, *, timeout: float | None = None) -> _Acquire:
        return _Acquire(self, timeout)

    async def take(self, timeout: float | None) -> postgres.PoolConnection:
        connection = await self._pool.acquire(timeout=timeout)
        connection.add_query_logger(self._seen)
        return connection

    async def release(self, connection: postgres.PoolConnection) -> None:
        connection.remove_query_logger(self._seen)
        await self._pool.release(connection)

    def _seen(self, record: LoggedQuery) -> None:
        self.statements.append(record.query)


class _Acquire:
    """As asyncpg's: to be awaited, or entered."""

    def __init__(self, pool: CountedPool, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._connection: postgres.PoolConnection | None = None

    def __await__(self) -> Generator[Any, None, postgres.PoolConnection]:
        return self._pool.take(self._timeout).__await__()

    async def __aenter__(self) -> postgres.PoolConnection:
        self._connection = await self._pool.take(self._timeout)
        return self._connection

    async def __aexit__(self, *exception: object) -> None:
        assert self._connection is not None
        await self._pool.release(self._connection)


class LogUnderTest:
    """One process's view of a log's database: its pool, keys, log and reader."""

    def __init__(self, pool: postgres.Pool, counted: CountedPool, log: AuditLog, keys: DossierKeys) -> None:
        self.pool = pool
        self.log = log
        self.keys = keys
        self.digests = EntryDigests(keyring())
        self.counted = counted
        self.reader = TrailReader(
            cast("postgres.Pool", counted), keys, self.digests, PageTokens(keyring()), log.log_count
        )

    @classmethod
    async def open(
        cls, dsn: str, *, log_count: int = 1, limits: AppendLimits = DEFAULT_LIMITS, pool_size: int = 4
    ) -> LogUnderTest:
        pool = await postgres.connect(dsn, min_size=1, max_size=pool_size, name="test-audit")
        counted = CountedPool(pool)
        keys = DossierKeys(keyring(), "audit")
        try:
            log = await AuditLog.open(
                cast("postgres.Pool", counted), keys, EntryDigests(keyring()), log_count, limits=limits
            )
        except BaseException:
            await pool.close()
            raise
        return cls(pool, counted, log, keys)

    async def close(self) -> None:
        await self.log.close()
        await self.pool.close()

    async def append(self, *events: audit_pb2.AuditEvent, producer: str = "document") -> list[Receipt]:
        return await self.log.append(producer, audit_pb2.BatchAppendEventsRequest(events=events))

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        """The statements that the log and its reader send inside the block."""
        self.counted.statements.clear()
        yield self.counted.statements
