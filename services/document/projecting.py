"""From stored documents to their projections: when a dossier is listed, soon after a submission, and all over again
with a newer reader.

A submission neither waits for this nor fails by it: a document that has no row in `reading` waits to be read, and that
is all the queue there is. Whoever lists a dossier reads first what waits in it, so that a list is never behind; the
work done ahead (`Ahead`, `ReadingSweep`) only spares that wait, at a share of the processor that is bounded,
and by `Ahead` when nobody else wants it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import structlog

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.document import clinical_store, sweep_store
from services.document.clinical_envelope import Digests, sealed
from services.document.clinical_sources import DocumentKey, Documents, Stored, translated
from services.document.clinical_store import ClinicalStore, NewProjection
from services.document.reading import reader
from services.document.reading.model import READER_VERSION, Reading
from services.document.sweep_store import FIRST, Sweep, SweepStore
from services.document.times import Clock
from services.runtime import faults, outbox
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.outbox import OutboxRow
from services.runtime.postgres import Pool, transaction
from services.runtime.trail import Trail, build_event

_log = structlog.get_logger("document")

NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Before every reading: a document that was read at all is not read again."""
AT_ONCE: Final = 100
"""Most documents that are read for one list; what remains is read soon after, and counted as pending."""
PATIENCE: Final = 2.0
"""Most seconds that one list spends on reading."""
SHARE: Final = 0.25
"""Of one processor: what work ahead may take."""
BUSY: Final = 0.5
"""Of one processor: while the process uses more, people wait for it, and work ahead waits for them."""
_LOOK: Final = 0.05
_LONGEST_WAIT: Final = 10.0
_WAITING_DOSSIERS: Final = 20_000
_SWEPT: Final = 50
_SECONDS_BETWEEN: Final = 0.05


class Projector:
    """Reads documents and keeps what they say."""

    def __init__(self, pool: Pool, documents: Documents, keys: DossierKeys, digests: Digests, clock: Clock) -> None:
        self._pool = pool
        self._documents = documents
        self._keys = keys
        self._digests = digests
        self._clock = clock
        self._store = ClinicalStore(pool)
        self._under_way: dict[int, asyncio.Task[None]] = {}

    async def catch_up(self, health_id: int) -> None:
        """Read what waits in a dossier, within AT_ONCE and PATIENCE. Callers at the same time share the work."""
        task = self._under_way.get(health_id)
        if task is None:
            task = asyncio.ensure_future(self._catch_up(health_id))
            self._under_way[health_id] = task
            task.add_done_callback(lambda _: self._under_way.pop(health_id, None))
        await asyncio.shield(task)

    async def forget_deleted(self, health_ids: Iterable[int]) -> None:
        """Remove what deleted documents of these dossiers said."""
        with translated():
            await self._store.forget_deleted(list(health_ids))

    async def read(self, keys: Sequence[DocumentKey], before: datetime) -> tuple[int, int]:
        """Read documents that were not read since `before`; gives how many were, and how many could not be opened."""
        done = failed = 0
        for key in keys:
            try:
                done += await self._read(key, before)
            except DmpError as error:
                failed += 1
                _log.warning("document_not_read", reason=error.reason_name)
        return done, failed

    async def close(self) -> None:
        """Stop what is under way: it changes nothing before its commit."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _catch_up(self, health_id: int) -> None:
        with translated():
            waiting = await self._store.waiting(health_id, AT_ONCE)
        until = time.monotonic() + PATIENCE
        for document_id in waiting:
            await self.read([DocumentKey(health_id, document_id)], NEVER)
            if time.monotonic() > until:
                return

    async def _read(self, key: DocumentKey, before: datetime) -> bool:
        found = await self._documents.stored([key])
        if not found:
            return False
        started = self._clock()
        content = await self._content(found[0])
        faults.point("reading.opened")
        reading, rows = await asyncio.to_thread(self._project, found[0], content)
        faults.point("reading.read")
        with translated():
            async with transaction(self._pool) as conn:
                # Holds the key's row: nothing is kept of a dossier that has been destroyed meanwhile.
                (await self._keys.for_write(conn, [key.health_id]))[key.health_id]
                faults.point("reading.locked")
                what = (READER_VERSION, int(reading.unread), reading.left_out, started)
                kept = await clinical_store.replace(conn, key, what, max(before, NEVER), rows)
                faults.point("reading.before_commit")
        faults.point("reading.after_commit")
        return kept

    async def _content(self, stored: Stored) -> bytes | None:
        """The bytes; None when they are damaged. Raises what keeps them from being fetched."""
        try:
            return await self._documents.content(stored)
        except DmpError as error:
            if error.reason != reasons.ERROR_REASON_CONTENT_CORRUPTED:
                raise
            return None

    def _project(self, stored: Stored, content: bytes | None) -> tuple[Reading, list[NewProjection]]:
        document = stored.document
        reading = reader.damaged(document) if content is None else reader.read(content, document)
        return reading, sealed(stored.key, stored.row.document_id, document, reading.projections, self._digests)


class Ahead:
    """Reads what has just been submitted, before anybody asks for it."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self._dossiers: OrderedDict[int, None] = OrderedDict()
        self._wake = asyncio.Event()

    def told(self, health_ids: Iterable[int]) -> None:
        """These dossiers have documents that are new, or changed. Beyond the bound they are read when asked for."""
        for health_id in health_ids:
            if len(self._dossiers) < _WAITING_DOSSIERS:
                self._dossiers[health_id] = None
        self._wake.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dossiers:
                await _quiet()
                health_id, _ = self._dossiers.popitem(last=False)
                started = time.monotonic()
                try:
                    await self._projector.forget_deleted([health_id])
                    await self._projector.catch_up(health_id)
                except DmpError as error:  # the next who lists the dossier meets it, and is told
                    _log.warning("dossier_not_read_ahead", reason=error.reason_name)
                await asyncio.sleep((time.monotonic() - started) * (1 / SHARE - 1))


async def _quiet() -> None:
    """Return once the process is not busy, or has been for so long that some work ahead is due all the same."""
    until = time.monotonic() + _LONGEST_WAIT
    while (began := time.monotonic()) < until:
        used = time.process_time()
        await asyncio.sleep(_LOOK)
        if time.process_time() - used < BUSY * (time.monotonic() - began):
            return


class ReadingSweep:
    """Goes through all documents once for each version of the readers, from where it stopped."""

    def __init__(self, pool: Pool, projector: Projector, trail: Trail, clock: Clock) -> None:
        self._pool = pool
        self._store = SweepStore(pool)
        self._projector = projector
        self._trail = trail
        self._clock = clock

    async def state(self, call: Call) -> Sweep:
        """How far it has come; recorded."""
        with translated():
            found = await self._store.sweep()
        await self._trail.record(build_event(call, outcome=audit_pb2.OUTCOME_SUCCESS), call.remaining())
        return found or Sweep(READER_VERSION, self._clock(), 0, FIRST, 0, 0, done=False)

    async def restart(self, call: Call) -> Sweep:
        """Begin from the first document again, once for each request_id; recorded in the same commit."""
        event = build_event(call, outcome=audit_pb2.OUTCOME_SUCCESS)
        row = OutboxRow(call.health_id, uuid.UUID(bytes=event.event_id), event.SerializeToString())
        with translated():
            async with transaction(self._pool, timeout=call.remaining()) as conn:
                await sweep_store.restart_sweep(conn, READER_VERSION, self._clock(), call.request_id)
                await outbox.put(conn, [row])
            found = await self._store.sweep()
        assert found is not None  # noqa: S101 (it has just been written)
        return found

    async def run(self, now: datetime) -> None:
        """Go on to the end: a job (`services.runtime.jobs`), repeated from where it stopped, harmless twice."""
        await self._store.renew_sweep(READER_VERSION, now)
        while True:
            sweep = await self._store.sweep()
            if sweep is None or sweep.done:
                return
            await self._step(sweep)

    async def _step(self, sweep: Sweep) -> None:
        started = time.monotonic()
        at = DocumentKey(sweep.health_id, sweep.document_id)
        passed = await self._store.next(at, _SWEPT)
        todo = [one.key for one in passed if one.read_at is None or one.read_at < sweep.started_at]
        await self._projector.forget_deleted({one.key.health_id for one in passed})
        read, failed = await self._projector.read(todo, sweep.started_at)
        last = passed[-1].key if passed else at
        faults.point("reading.before_advance")
        await self._store.advance(sweep, last, read, failed, done=len(passed) < _SWEPT)
        await asyncio.sleep(_SECONDS_BETWEEN + (time.monotonic() - started) * (1 / SHARE - 1))
