"""What this service does by itself: visibility deadlines, the look-up by uniqueId, the nightly sweep.

R.1111-53 and domain.md §3: what waits to be announced is told of after two weeks, and becomes visible to the patient
after a month. Visibility is computed when a document is read; the job only writes down what has come true, as a
metadata version with its event, so that those who watch hear of it. Each step is harmless when done twice.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from dmp.audit.v1 import audit_pb2
from dmp.document.v1 import document_pb2
from services.document.access import month_before
from services.document.change import change_event
from services.document.entries import revision, state_of
from services.document.lifecycle import RULES, SHOW_TO_PATIENT, changed
from services.document.operations import system_actor
from services.document.store import keeping, writing
from services.document.store.keeping import NewUniqueId
from services.runtime import outbox
from services.runtime.access import methods_of
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.identifiers import document_name
from services.runtime.jobs import Job, Lease
from services.runtime.outbox import OutboxRow
from services.runtime.postgres import Pool, is_transient, transaction
from services.runtime.trail import build_event

_log = structlog.get_logger("document")

_UNREAD: Final = timedelta(days=14)
_SLICE: Final = 200
_FIRST: Final = (datetime(1, 1, 1, tzinfo=UTC), 0, uuid.UUID(int=0))
_INDEX_SLICE: Final = 500
_INDEX_POLL: Final = 1.0
_METHODS: Final = methods_of([document_pb2.DESCRIPTOR.services_by_name["DocumentService"]])
_CHANGE: Final = "/dmp.document.v1.DocumentService/ChangeDocument"


class Deadlines:
    """The deadlines of announcements."""

    def __init__(
        self,
        pool: Pool,
        keys: DossierKeys,
        *,
        clock: Callable[[], datetime],
        committed: Callable[[Sequence[int]], None],
        slice_: int = _SLICE,
    ) -> None:
        """`slice_` is how many are asked for at once."""
        self._pool = pool
        self._keys = keys
        self._clock = clock
        self._committed = committed
        self._slice = slice_

    def job(self) -> Job:
        """What to run, and how often."""
        return Job("announcements", timedelta(minutes=15), self.run)

    async def run(self, _now: datetime) -> None:
        """Tell of what has waited for two weeks, and show what has waited for a month."""
        while await self._notice() == self._slice:
            pass
        await self._show()

    async def _notice(self) -> int:
        now = self._clock()
        due = await self._pool.fetch(keeping.WAITING, now - _UNREAD, month_before(now), self._slice)
        for health_id, document_id in due:
            async with transaction(self._pool) as conn:
                hidden: bool | None = await conn.fetchval(keeping.NOTICED, health_id, document_id, now)
                if hidden is None:
                    continue
                event = build_event(
                    _by_itself(health_id),
                    outcome=audit_pb2.OUTCOME_SUCCESS,
                    objects=(document_name(health_id, document_id),),
                    action="document.waiting",
                    actor=system_actor(secret=hidden),
                )
                event.transaction = ""
                await outbox.put(
                    conn, [OutboxRow(health_id, uuid.UUID(bytes=event.event_id), event.SerializeToString())]
                )
            self._committed([health_id])
        return len(due)

    async def _show(self) -> None:
        """Each once, in the order of their times: what cannot be shown does not keep those behind it waiting."""
        before, place = month_before(self._clock()), _FIRST
        while True:
            due = await self._pool.fetch(keeping.DUE, before, self._slice, *place)
            for health_id, document_id, _ in due:
                try:
                    await self._show_one(health_id, document_id)
                except DmpError as error:  # destroyed or corrupted: said where it is read and verified
                    _log.warning("announcement_not_shown", reason=error.reason_name)
            if len(due) < self._slice:
                return
            health_id, document_id, submitted_at = due[-1]
            place = (submitted_at, health_id, document_id)

    async def _show_one(self, health_id: int, document_id: uuid.UUID) -> None:
        async with transaction(self._pool) as conn:
            moments = await writing.lock(conn, {health_id: 1}, self._clock())
            key = (await self._keys.for_write(conn, [health_id]))[health_id]
            facts = await writing.facts(conn, [health_id], [], [], [document_id])
            row = facts[health_id][0].row
            state = changed(state_of(row), SHOW_TO_PATIENT)
            if state is None:
                return
            moment = moments[health_id]
            made = revision(key, row, state, SHOW_TO_PATIENT, moment.now)
            await writing.revise(conn, made)
            await writing.put_change(conn, made.row, moment.sequence)
            actor = system_actor(secret=row.invisible_representatives)
            event = change_event(_by_itself(health_id), RULES[SHOW_TO_PATIENT], made, actor=actor)
            await outbox.put(conn, [OutboxRow(health_id, uuid.UUID(bytes=event.event_id), event.SerializeToString())])
        self._committed([health_id])


class UniqueIdIndex:
    """Feeds the look-up by uniqueId, which finds documents without their dossier, from what was committed.

    The same uniqueId in two dossiers is no error of either, and no secret of one may be told to the other: it is
    counted and logged for operators.
    """

    def __init__(self, pool: Pool, lease: Lease, elsewhere: Callable[[int], None]) -> None:
        """`elsewhere` is told how many uniqueIds were found that another dossier holds too."""
        self._pool = pool
        self._lease = lease
        self._elsewhere = elsewhere
        self._kicked = asyncio.Event()

    def kick(self) -> None:
        """Something was committed."""
        self._kicked.set()

    async def run(self) -> None:
        """Until cancelled; keeps the lease itself."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.keep())
            group.create_task(self._work())

    async def feed(self) -> int:
        """One slice; gives how many it brought in."""
        new = await keeping.new_unique_ids(self._pool, _INDEX_SLICE)
        if new:
            await self._bring_in(new)
        return len(new)

    async def _bring_in(self, new: Sequence[NewUniqueId]) -> None:
        shared = await keeping.index_unique_ids(self._pool, new)
        await keeping.forget_new(self._pool, new)
        if shared:
            self._elsewhere(len(shared))
            _log.warning("unique_id_elsewhere", count=len(shared))

    async def _work(self) -> None:
        while True:
            self._kicked.clear()
            try:
                more = self._lease.held and await self.feed() == _INDEX_SLICE
            except Exception as error:
                if not is_transient(error):
                    raise
                _log.warning("unique_ids_not_fed", error_type=type(error).__name__)
                more = False
            if not more:
                await asyncio.sleep(_INDEX_POLL)


def _by_itself(health_id: int) -> Call:
    """The call of what the service does by itself."""
    return Call(
        actor=system_actor(),
        caller=0,
        client_id="document",
        peer="document",
        request_id="",
        deadline=None,
        traceparent="",
        method=_METHODS[_CHANGE],
        health_id=health_id,
    )
