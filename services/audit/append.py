"""Appending events: the use case behind BatchAppendEvents, and of this service's own events. No gRPC here.

`AuditLog` is all the logs of this service: it checks events, chooses the log of each, and hands them to that log's
sequencer. What it answers is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from dmp.audit.v1 import audit_pb2
from services.audit import store
from services.audit.entry import Entry, EntryDigests, prepare
from services.audit.rules import log_of
from services.audit.sequencer import AppendLimits, Outcome, Sequencer
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.metrics import Metrics
from services.runtime.postgres import Pool, transaction
from services.runtime.quick_check import quick_check
from services.runtime.validation import validate

Receipt = audit_pb2.AppendReceipt | DmpError
"""The place of an event, or why it has none."""
Placed = tuple[int, int] | DmpError
"""The same as numbers: its log, and its index there."""

DEFAULT_LIMITS = AppendLimits()

_MOST_EVENTS: Final = 1024
"""As the contract says; a larger request is wrong as a whole."""
_FEW: Final = 4
"""From so many events on the quick check is the quicker one."""
_keeps_the_rules: Final = quick_check(audit_pb2.BatchAppendEventsRequest, "actor")


class LogDamaged(Exception):
    """A log's head and its events disagree, or there are more or fewer logs than were set: the service must not
    start, since it would give a place twice, leave a gap, or look for a dossier's events in the wrong log."""


@dataclass(frozen=True, slots=True)
class _Part:
    """The entries of one call that go to one log, and where in the call they were."""

    numbers: list[int] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)


class AuditLog:
    """The logs 0 … `log_count` - 1. Make it by `open`, which checks them."""

    def __init__(self, sequencers: Sequence[Sequencer], digests: EntryDigests) -> None:
        self._sequencers = tuple(sequencers)
        self._digests = digests

    @classmethod
    async def open(
        cls,
        pool: Pool,
        keys: DossierKeys,
        digests: EntryDigests,
        log_count: int,
        *,
        limits: AppendLimits = DEFAULT_LIMITS,
        metrics: Metrics | None = None,
    ) -> AuditLog:
        """The logs, created if the database has none. Raises LogDamaged with what is wrong."""
        async with transaction(pool) as conn:
            found = await store.heads(conn)
            if not found:
                await store.add_logs(conn, log_count)
                found = await store.heads(conn)
        check_heads(found, log_count)
        measured = metrics or Metrics()
        return cls([Sequencer(pool, keys, head.log_id, limits, measured) for head in found], digests)

    @property
    def log_count(self) -> int:
        """How many logs there are."""
        return len(self._sequencers)

    def busy(self) -> bool:
        """Whether events are being appended: what can wait itself should."""
        return any(sequencer.busy for sequencer in self._sequencers)

    async def append(
        self, producer: str, request: audit_pb2.BatchAppendEventsRequest, timeout: float | None = None
    ) -> list[Receipt]:
        """What became of each event, in order, as `place` says."""
        return [
            outcome
            if isinstance(outcome, DmpError)
            else audit_pb2.AppendReceipt(log_id=outcome[0], leaf_index=outcome[1])
            for outcome in await self.place(producer, request, timeout)
        ]

    async def place(
        self, producer: str, request: audit_pb2.BatchAppendEventsRequest, timeout: float | None = None
    ) -> list[Placed]:
        """What became of each event, in order; `timeout` in seconds bounds the wait, never the transaction.

        `producer` is who recorded the events; it replaces what they say. An event without a place leaves the others
        alone: INVALID_FIELD, EVENT_CONFLICT, CONTENT_DESTROYED, or what kept its whole log from answering (see
        `Sequencer.append`). Raises INVALID_FIELD for no events, or too many.
        """
        outcomes: list[Placed | None] = [*_violations(request)]
        parts: dict[int, _Part] = {}
        for number, event in enumerate(request.events):
            if outcomes[number] is not None:
                continue
            try:
                entry = prepare(event, producer, self._digests)
            except DmpError as error:
                outcomes[number] = error
                continue
            log_id = log_of(entry.health_id, entry.event_id, self.log_count)
            part = parts.get(log_id)
            if part is None:
                part = parts[log_id] = _Part()
            part.numbers.append(number)
            part.entries.append(entry)
        answers = await asyncio.gather(*(self._append(log_id, part, timeout) for log_id, part in parts.items()))
        for (log_id, part), answer in zip(parts.items(), answers, strict=True):
            for number, outcome in zip(part.numbers, answer, strict=True):
                outcomes[number] = outcome if isinstance(outcome, DmpError) else (log_id, outcome)
        return [outcome for outcome in outcomes if outcome is not None]

    async def close(self) -> None:
        """Refuse new events, finish those accepted."""
        await asyncio.gather(*(sequencer.close() for sequencer in self._sequencers))

    async def _append(self, log_id: int, part: _Part, timeout: float | None) -> list[Outcome]:
        try:
            return await self._sequencers[log_id].append(part.entries, timeout)
        except DmpError as error:
            return [error] * len(part.entries)


def check_heads(found: Sequence[store.LogHead], log_count: int) -> None:
    """Raises LogDamaged unless there are `log_count` logs and each head is one past its last event. Pure."""
    if [head.log_id for head in found] != list(range(log_count)):
        raise LogDamaged(
            f"DMP_AUDIT_LOG_COUNT: the database has {len(found)} logs, not {log_count}; the number is fixed when the "
            "first event is appended, because a dossier is found in its log by it"
        )
    for head in found:
        events = 0 if head.last_leaf is None else head.last_leaf + 1
        if events != head.size:
            raise LogDamaged(
                f"log {head.log_id} is damaged: its head says {head.size} events, its last event is number {events}; "
                "nothing is appended to it before a person has compared it with a backup"
            )


def _violations(request: audit_pb2.BatchAppendEventsRequest) -> list[DmpError | None]:
    """What is wrong with each event, None for most: one check of the whole request when nothing is."""
    if len(request.events) >= _FEW and _keeps_the_rules([request]):
        return [None] * len(request.events)
    try:
        validate(request)
    except DmpError:
        if not request.events or len(request.events) > _MOST_EVENTS:
            raise
        return [_violation(event) for event in request.events]
    return [None] * len(request.events)


def _violation(event: audit_pb2.AuditEvent) -> DmpError | None:
    try:
        validate(event)
    except DmpError as error:
        return error
    return None
