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
from services.audit.integration import Integrator
from services.audit.listing import TrailReader
from services.audit.logs import NO_WITNESS, Logs
from services.audit.sequencer import AppendLimits
from services.audit.service import Parts
from services.audit.tiles import DatabaseTiles
from services.audit.tree import LogTree
from services.audit.witnesses import Witnesses
from services.runtime import postgres
from services.runtime.errors import DmpError
from services.runtime.identifiers import uuid7
from services.runtime.jobs import Lease
from services.runtime.keyring import DossierKeys, Keyring
from services.runtime.metrics import Metrics
from services.runtime.paging import PageTokens
from services.runtime.tlog.note import Signer
from services.runtime.tlog.policy import Policy

MIGRATIONS = Path(__file__).parents[1] / "services" / "audit" / "migrations"
TABLES = (
    "event",
    "log_head",
    "dossier_key",
    "checkpoint",
    "tile",
    "lease",
    "job",
    "derived",
    "day_count",
    "notice",
    "unusual_access",
    "actor_window",
    "set_aside",
    "given_up",
    "destruction",
)
DOSSIER = 4_611_686_018_427_387_904
OTHER_DOSSIER = 1_234_567_890_123_456_789
PHYSICIAN = "899700245667"


def keyring() -> Keyring:
    return Keyring({1: bytes(range(32))}, current=1, digests=[1])


def signer(number: int = 0) -> Signer:
    """The key of a log: the same in all tests, for logs that are in one database."""
    return _SIGNERS.setdefault(number, Signer.generate(f"dmp.test/log/{number}"))


_SIGNERS: dict[int, Signer] = {}


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
        await connection.execute(f"TRUNCATE {', '.join(TABLES)}")
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
        self.tokens = PageTokens(keyring())
        self.reader = TrailReader(cast("postgres.Pool", counted), keys, self.digests, self.tokens, log.log_count)
        self.logs = self._logs(Policy.unwitnessed())

    def _logs(self, policy: Policy, every: float = 0.05) -> Logs:
        """The trees of the log, with the keys that all tests share."""
        trees = [
            LogTree(number, signer(number), policy, self.pool, DatabaseTiles()) for number in range(self.log.log_count)
        ]
        integrators = [
            Integrator(
                tree, Witnesses(policy, 2.0), Lease(self.pool, f"integrate-{tree.log_id}"), Metrics(), every=every
            )
            for tree in trees
        ]
        return Logs(trees, integrators, NO_WITNESS)

    async def integrate(self) -> None:
        """Takes what is durable into the trees and publishes them."""
        for integrator in self.logs.integrators:
            await integrator.open()
            size = await self.pool.fetchval("SELECT size FROM log_head WHERE log_id = $1", integrator.tree.log_id)
            while await integrator.step() < size:
                pass

    def parts(self) -> Parts:
        """What a service on this log is made of."""
        return Parts(self.pool, self.keys, self.digests, self.tokens, self.log, self.logs)

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
