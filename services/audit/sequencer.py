"""The sequencer: gives each event its place in a log, durably, without gaps, once. No gRPC and no SQL text here.

The life of an append: a call's events become entries and wait as one bundle; while a transaction is under way others
join; then all of them are appended in one transaction.

Nearly always it is one statement (`store.append_whole`): new events of dossiers whose keys are there. They are sealed
before it, so the head of the log is held no longer than the rows take. It does all or nothing. A batch with a repeated
event, a new dossier or a destroyed one goes the long way, in a transaction that

    moves the head of the log (the row lock that orders every appender, in this process or another),
    looks up which of the events the log holds already,
    holds the dossiers' keys and seals,
    inserts the rows,
    gives back the places that repeated or refused events did not use,

and commits. Either way only then is anybody answered. The transaction runs in a task of the coalescer's own: a caller
that gives up, or whose deadline passes, stops waiting and undoes nothing; when it sends the event again it gets the
same place.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import asyncpg
import structlog
from asyncpg.pgproto.pgproto import UUID

from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit import store
from services.audit.entry import Entry
from services.audit.leaf import SALT_BYTES, ClearPart, EventPlace, leaf, seal_clear
from services.runtime import faults
from services.runtime.coalescer import Coalescer
from services.runtime.dossier_keys import DossierKeyBatch, DossierKeys, RecalledKey
from services.runtime.errors import DmpError
from services.runtime.metrics import Metrics
from services.runtime.postgres import Pool, is_transient, run_to_completion, transaction, translate
from services.runtime.sealing import DossierKey

Outcome = int | DmpError
"""The place of an event in its log, or why it has none."""

_ACQUIRE_SECONDS: Final = 5.0

DESTROYED: Final = b""
"""The digest of an event whose dossier was destroyed: sent again, it keeps its place, whatever it says."""

_NO_KEYS: Final = DossierKeyBatch({})

_log = structlog.get_logger("sequencer")


class AppendLimits(NamedTuple):
    """Events of one transaction (about), and events of one log that may wait."""

    batch_events: int = 512
    pending_events: int = 8192


class Sequencer:
    """Appends to one log. Any number of them, in any number of processes, may append to the same log."""

    def __init__(self, pool: Pool, keys: DossierKeys, log_id: int, limits: AppendLimits, metrics: Metrics) -> None:
        self._pool = pool
        self._keys = keys
        self._log_id = log_id
        self._limits = limits
        self._waiting = 0
        self._appended = metrics.counter("dmp_audit_events_total")
        self._seconds = metrics.histogram("dmp_audit_commit_seconds")
        self._bundles: Coalescer[Sequence[Entry], list[Outcome]] = Coalescer(
            "sequencer", self._send, max_batch=limits.batch_events, max_pending=limits.pending_events
        )

    async def append(self, entries: Sequence[Entry], timeout: float | None = None) -> list[Outcome]:
        """The outcome of each entry, in order, once all are durable; `timeout` in seconds bounds the wait alone.

        An outcome is a DmpError for an event id that stands for another event (EVENT_CONFLICT) and for a dossier whose
        key is destroyed (CONTENT_DESTROYED). Raises DmpError for all of them together: OVERLOADED before any effect;
        DEADLINE_EXCEEDED and DEPENDENCY_UNAVAILABLE with effect unknown (send them again).
        """
        if self._waiting + len(entries) > self._limits.pending_events:
            raise DmpError(reasons.ERROR_REASON_OVERLOADED, metadata={"dependency": "sequencer"})
        self._waiting += len(entries)
        try:
            return await self._bundles.submit(entries, timeout=timeout)
        finally:
            self._waiting -= len(entries)

    @property
    def busy(self) -> bool:
        """Whether events wait to be appended now."""
        return self._waiting > 0

    async def close(self) -> None:
        """Refuse new events, finish those accepted."""
        await self._bundles.close()

    async def _send(self, bundles: list[Sequence[Entry]]) -> list[list[Outcome] | DmpError]:
        """Appends the bundles in transactions of about `batch_events`; one that fails fails its own bundles."""
        outcomes: list[list[Outcome] | DmpError] = []
        batch: list[Sequence[Entry]] = []
        size = 0
        for bundle in bundles:
            if batch and size + len(bundle) > self._limits.batch_events:
                outcomes += await self._append_bundles(batch)
                batch, size = [], 0
            batch.append(bundle)
            size += len(bundle)
        return outcomes + await self._append_bundles(batch)

    async def _append_bundles(self, bundles: list[Sequence[Entry]]) -> list[list[Outcome] | DmpError]:
        entries = bundles[0] if len(bundles) == 1 else [entry for bundle in bundles for entry in bundle]
        started = time.perf_counter()
        try:
            outcomes = await self._append_batch(entries)
        except Exception as error:  # noqa: BLE001 (the boundary of a transaction: its bundles are told, others go on)
            failure = translate(error)
            if not is_transient(error):
                _log.error("append_failed", log=self._log_id, items=len(entries), exc_info=error)
            return [failure] * len(bundles)
        self._seconds.record(time.perf_counter() - started)
        self._appended.add(sum(not isinstance(outcome, DmpError) for outcome in outcomes))
        if len(bundles) == 1:
            return [outcomes]
        divided: list[list[Outcome] | DmpError] = []
        start = 0
        for bundle in bundles:
            divided.append(outcomes[start : start + len(bundle)])
            start += len(bundle)
        return divided

    async def _append_batch(self, entries: Sequence[Entry]) -> list[Outcome]:
        """One transaction: a constant number of statements, whatever the number of entries."""
        ids = [UUID(entry.event_id) for entry in entries]
        outcomes: list[Outcome] | None = None
        if len({(entry.producer, entry.event_id) for entry in entries}) == len(entries):
            # In a task of its own: cancelled, PostgreSQL would stop waiting for its standby and keep the rows.
            outcomes = await run_to_completion(self._append_whole(entries, ids))
        if outcomes is None:
            outcomes = await self._append_carefully(entries, ids)
        faults.point("sequencer.after_commit")
        return outcomes

    async def _append_whole(self, entries: Sequence[Entry], ids: Sequence[uuid.UUID]) -> list[Outcome] | None:
        """One statement. None, with nothing done, when not all of the entries are new and their dossiers open."""
        async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
            keys = await self._keys.recall(conn, (entry.health_id for entry in entries))
            if keys is None:
                return None
            rows = _sealed(entries, ids, keys, self._log_id)
            wrapped = {health_id: known.wrapped for health_id, known in keys.items()}
            faults.point("sequencer.before_commit")
            try:
                first = await store.append_whole(conn, self._log_id, wrapped, rows)
            except asyncpg.PostgresError as error:
                if is_transient(error):
                    raise
                return None  # the long way does it, or says what is wrong
        return None if first is None else list(range(first, first + len(rows)))

    async def _append_carefully(self, entries: Sequence[Entry], ids: Sequence[uuid.UUID]) -> list[Outcome]:
        """The long way: statement by statement, while the head is held."""
        async with transaction(self._pool, timeout=_ACQUIRE_SECONDS) as conn:
            first = await store.take_places(conn, self._log_id, len(entries))
            known = await store.find_events(conn, self._log_id, ids)
            fresh = [entry for entry in entries if (entry.producer, entry.event_id) not in known]
            keys = await self._keys.for_write(conn, [entry.health_id for entry in fresh]) if fresh else _NO_KEYS
            outcomes, rows = place(entries, ids, first, known, keys, self._log_id)
            if rows:
                await store.insert_events(conn, self._log_id, first, rows)
            if len(rows) < len(entries):
                await store.give_back(conn, self._log_id, len(entries) - len(rows))
            faults.point("sequencer.before_commit")
        return outcomes


def place(
    entries: Sequence[Entry],
    ids: Sequence[uuid.UUID],
    first: int,
    known: dict[tuple[str, bytes], store.KnownEvent],
    keys: DossierKeyBatch,
    log_id: int,
) -> tuple[list[Outcome], list[store.EventRow]]:
    """The outcome of each entry, and the rows of those that are new, sealed, for the places from `first` on.

    `known` is what the log holds; an event that comes twice in the batch is known from its first coming on.
    """
    outcomes: list[Outcome] = []
    rows: list[store.EventRow] = []
    salts = os.urandom(SALT_BYTES * len(entries))
    for number, entry in enumerate(entries):
        identity = (entry.producer, entry.event_id)
        earlier = known.get(identity)
        if earlier is not None:
            same = earlier.content_digest in (entry.content_digest, DESTROYED)
            outcomes.append(earlier.leaf_index if same else DmpError(reasons.ERROR_REASON_EVENT_CONFLICT))
            continue
        try:
            key = keys[entry.health_id]
        except DmpError as error:
            outcomes.append(DmpError(error.reason))
            continue
        at = first + len(rows)
        salt = salts[number * SALT_BYTES : (number + 1) * SALT_BYTES]
        rows.append(_row(entry, ids[number], salt, key, log_id))
        known[identity] = store.KnownEvent(at, entry.content_digest)
        outcomes.append(at)
    return outcomes, rows


def _sealed(
    entries: Sequence[Entry], ids: Sequence[uuid.UUID], keys: Mapping[int, RecalledKey], log_id: int
) -> list[store.EventRow]:
    """The row of each entry."""
    salts = os.urandom(SALT_BYTES * len(entries))
    return [
        _row(entry, event_id, salts[at : at + SALT_BYTES], keys[entry.health_id].key, log_id)
        for entry, event_id, at in zip(entries, ids, range(0, len(salts), SALT_BYTES), strict=True)
    ]


def _row(entry: Entry, event_id: uuid.UUID, salt: bytes, key: DossierKey, log_id: int) -> store.EventRow:
    part = ClearPart(salt, entry.clear)
    return store.EventRow(
        entry.health_id,
        event_id,
        entry.producer,
        entry.event_time,
        entry.secret,
        entry.actor_digest,
        entry.content_digest,
        leaf(entry.event_id, part),
        seal_clear(key, part, EventPlace(entry.health_id, entry.event_id, log_id)),
    )
