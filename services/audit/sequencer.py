"""The sequencer: gives each event its place in a log, durably, without gaps, once. No gRPC and no SQL text here.

The life of an append: a call's events become entries and wait as one bundle; while a transaction is under way others
join; then all of them are appended in one transaction. A call of many events is one of its own, sealed as it comes. Two
of those are under way at a time: one waits for the head of the log while the other commits, so neither PostgreSQL nor
this process rests.

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

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import asyncpg
import structlog
from asyncpg.pgproto.pgproto import UUID

from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit import store
from services.audit.entry import Entry
from services.audit.leaf import commit_and_seal
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
_BUSY_AFTERWARDS: Final = 0.1
"""Seconds for which a log is in use after an append: between two batches of a load nothing waits for a moment."""

DESTROYED: Final = b""
"""The digest of an event whose dossier was destroyed: sent again, it keeps its place, whatever it says."""

_NO_KEYS: Final = DossierKeyBatch({})

_log = structlog.get_logger("sequencer")


class AppendLimits(NamedTuple):
    """Events of one transaction (about); events of one log that may wait; events from which on a call is a transaction
    of its own, since joining others would save it next to nothing."""

    batch_events: int = 512
    pending_events: int = 8192
    alone_events: int = 48


class _Sealed(NamedTuple):
    """The rows of a batch, and for each dossier the key that sealed them, as it was stored."""

    wrapped: Mapping[int, bytes]
    columns: store.EventColumns


class _Batch(NamedTuple):
    """The entries of one transaction, and their rows where they were sealed beforehand."""

    entries: Sequence[Entry]
    sealed: _Sealed | None = None


class Sequencer:
    """Appends to one log. Any number of them, in any number of processes, may append to the same log."""

    def __init__(self, pool: Pool, keys: DossierKeys, log_id: int, limits: AppendLimits, metrics: Metrics) -> None:
        self._pool = pool
        self._keys = keys
        self._log_id = log_id
        self._limits = limits
        self._waiting = 0
        self._last = float("-inf")
        self._appended = metrics.counter("dmp_audit_events_total")
        self._seconds = metrics.histogram("dmp_audit_commit_seconds")
        self._bundles: Coalescer[Sequence[Entry], list[Outcome]] = Coalescer(
            "sequencer", self._send, max_batch=limits.batch_events, max_pending=limits.pending_events
        )
        self._batches: Coalescer[_Batch, list[Outcome]] = Coalescer(
            "sequencer", self._send_batch, max_batch=1, max_pending=limits.pending_events, in_flight=2
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
            if len(entries) >= self._limits.alone_events:
                return await self._batches.submit(self._ahead(entries), timeout=timeout)
            return await self._bundles.submit(entries, timeout=timeout)
        finally:
            self._waiting -= len(entries)
            self._last = asyncio.get_running_loop().time()

    @property
    def busy(self) -> bool:
        """Whether events wait to be appended, or did a moment ago."""
        return self._waiting > 0 or asyncio.get_running_loop().time() - self._last < _BUSY_AFTERWARDS

    async def close(self) -> None:
        """Refuse new events, finish those accepted."""
        await asyncio.gather(self._bundles.close(), self._batches.close())

    def _ahead(self, entries: Sequence[Entry]) -> _Batch:
        """A batch that is sealed before its turn comes, if the keys are known: while another one commits."""
        keys = self._keys.remembered({entry.health_id for entry in entries})
        return _Batch(entries, None if keys is None else seal_entries(entries, keys, self._log_id))

    async def _send_batch(self, batches: list[_Batch]) -> list[list[Outcome] | DmpError]:
        [batch] = batches
        return [await self._append_one(batch)]

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
        outcomes = await self._append_one(_Batch([entry for bundle in bundles for entry in bundle]))
        if isinstance(outcomes, DmpError):
            return [outcomes] * len(bundles)
        divided: list[list[Outcome] | DmpError] = []
        start = 0
        for bundle in bundles:
            divided.append(outcomes[start : start + len(bundle)])
            start += len(bundle)
        return divided

    async def _append_one(self, batch: _Batch) -> list[Outcome] | DmpError:
        """Appends a batch in a transaction of its own; the error of all of it where that fails."""
        started = time.perf_counter()
        try:
            outcomes = await self._append_batch(batch)
        except Exception as error:  # noqa: BLE001 (the boundary of a transaction: its callers are told, others go on)
            failure = translate(error)
            if not is_transient(error):
                _log.error("append_failed", log=self._log_id, items=len(batch.entries), exc_info=error)
            return failure
        self._seconds.record(time.perf_counter() - started)
        self._appended.add(sum(not isinstance(outcome, DmpError) for outcome in outcomes))
        return outcomes

    async def _append_batch(self, batch: _Batch) -> list[Outcome]:
        """One transaction: a constant number of statements, whatever the number of entries."""
        outcomes: list[Outcome] | None = None
        if len({(entry.producer, entry.event_id) for entry in batch.entries}) == len(batch.entries):
            # In a task of its own: cancelled, PostgreSQL would stop waiting for its standby and keep the rows.
            outcomes = await run_to_completion(self._append_whole(batch))
        if outcomes is None:
            outcomes = await self._append_carefully(batch.entries)
        faults.point("sequencer.after_commit")
        return outcomes

    async def _append_whole(self, batch: _Batch) -> list[Outcome] | None:
        """One statement. None, with nothing done, when not all of the entries are new and their dossiers open."""
        async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
            sealed = batch.sealed
            if sealed is None:
                keys = await self._keys.recall(conn, (entry.health_id for entry in batch.entries))
                if keys is None:
                    return None
                sealed = seal_entries(batch.entries, keys, self._log_id)
            faults.point("sequencer.before_commit")
            try:
                first = await store.append_whole(conn, self._log_id, sealed.wrapped, sealed.columns)
            except asyncpg.PostgresError as error:
                if is_transient(error):
                    raise
                return None  # the long way does it, or says what is wrong
        return None if first is None else list(range(first, first + len(batch.entries)))

    async def _append_carefully(self, entries: Sequence[Entry]) -> list[Outcome]:
        """The long way: statement by statement, while the head is held."""
        async with transaction(self._pool, timeout=_ACQUIRE_SECONDS) as conn:
            first = await store.take_places(conn, self._log_id, len(entries))
            known = await store.find_events(conn, self._log_id, [UUID(entry.event_id) for entry in entries])
            new = [entry for entry in entries if (entry.producer, entry.event_id) not in known]
            keys = await self._keys.for_write(conn, [entry.health_id for entry in new]) if new else _NO_KEYS
            outcomes, fresh = place(entries, first, known, keys)
            if fresh:
                columns = seal_with([keys[entry.health_id] for entry in fresh], fresh, self._log_id)
                await store.insert_events(conn, self._log_id, first, columns)
            if len(fresh) < len(entries):
                await store.give_back(conn, self._log_id, len(entries) - len(fresh))
            faults.point("sequencer.before_commit")
        return outcomes


def place(
    entries: Sequence[Entry], first: int, known: dict[tuple[str, bytes], store.KnownEvent], keys: DossierKeyBatch
) -> tuple[list[Outcome], list[Entry]]:
    """The outcome of each entry, and those that are new, for the places from `first` on.

    `known` is what the log holds; an event that comes twice in the batch is known from its first coming on.
    """
    outcomes: list[Outcome] = []
    fresh: list[Entry] = []
    for entry in entries:
        identity = (entry.producer, entry.event_id)
        earlier = known.get(identity)
        if earlier is not None:
            same = earlier.content_digest in (entry.content_digest, DESTROYED)
            outcomes.append(earlier.leaf_index if same else DmpError(reasons.ERROR_REASON_EVENT_CONFLICT))
            continue
        try:
            keys[entry.health_id]
        except DmpError as error:
            outcomes.append(DmpError(error.reason))
            continue
        at = first + len(fresh)
        fresh.append(entry)
        known[identity] = store.KnownEvent(at, entry.content_digest)
        outcomes.append(at)
    return outcomes, fresh


def seal_entries(entries: Sequence[Entry], keys: Mapping[int, RecalledKey], log_id: int) -> _Sealed:
    """The rows of entries whose dossiers' keys are all known, and the keys that sealed them."""
    columns = seal_with([keys[entry.health_id].key for entry in entries], entries, log_id)
    return _Sealed({health_id: known.wrapped for health_id, known in keys.items()}, columns)


def seal_with(keys: Sequence[DossierKey], entries: Sequence[Entry], log_id: int) -> store.EventColumns:
    """The rows of entries, each sealed with the key at its place."""
    producers, event_ids, health_ids, times, secrets, actors, contents, clears = zip(*entries, strict=True)
    leaves, sealed = commit_and_seal(zip(health_ids, event_ids, clears, strict=True), keys, log_id)
    ids = list(map(UUID, event_ids))
    return store.EventColumns(health_ids, ids, producers, times, secrets, actors, contents, leaves, sealed)
