"""From stored documents to their projections: when a dossier is listed, soon after a submission, and all over again
with a newer reader.

A submission neither waits for this nor fails by it: a document that has no row in `reading` waits to be read, and that
is all the queue there is. Whoever lists a dossier reads first what waits in it, so that a list is never behind; the
work done ahead (`Ahead`, `ReadingSweep`) only spares that wait, at a share of the processor that is bounded.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from services.document import clinical_store, envelope, sweep_store
from services.document.clinical_envelope import Clock, Digests, sealed
from services.document.clinical_store import ClinicalStore, NewProjection
from services.document.contents import Contents
from services.document.reading import reader
from services.document.reading.model import READER_VERSION, Reading
from services.document.store.reading import DocumentStore, FoundDocument, translated
from services.document.store.rows import DocumentKey
from services.document.sweep_store import FIRST, Sweep, SweepStore
from services.runtime import outbox
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.outbox import OutboxRow
from services.runtime.postgres import Pool, transaction
from services.runtime.sealing import DossierKey
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
_WAITING_DOSSIERS: Final = 20_000
_SWEPT: Final = 50
_SECONDS_BETWEEN: Final = 0.05


@dataclass(frozen=True, slots=True)
class _Opened:
    """A document ready to be read: its metadata, its bytes (None: damaged), the key for what is read in it."""

    key: DocumentKey
    document: document_pb2.Document
    content: bytes | None
    dossier: DossierKey


class Projector:
    """Reads documents and keeps what they say."""

    def __init__(
        self,
        pool: Pool,
        documents: DocumentStore,
        contents: Contents,
        keys: DossierKeys,
        digests: Digests,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._documents = documents
        self._contents = contents
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
        opened = await self._open(key)
        if opened is None:
            return False
        started = self._clock()
        reading, rows = await asyncio.to_thread(self._project, opened)
        with translated():
            async with transaction(self._pool) as conn:
                # Holds the key's row: nothing is kept of a dossier that has been destroyed meanwhile.
                (await self._keys.for_write(conn, [key.health_id]))[key.health_id]
                what = (READER_VERSION, int(reading.unread), reading.left_out, started)
                return await clinical_store.replace(conn, key, what, max(before, NEVER), rows)

    async def _open(self, key: DocumentKey) -> _Opened | None:
        with translated():
            [found] = await self._documents.find([key])
        if found is None or found.row.status != document_pb2.DOCUMENT_STATUS_APPROVED:
            return None
        dossier = found.key
        document, pointer = envelope.open_metadata(dossier, found.row)
        try:
            content = await self._content(found, dossier, pointer, document.size)
        except DmpError as error:
            if error.reason != reasons.ERROR_REASON_CONTENT_CORRUPTED:
                raise
            content = None
        return _Opened(key, document, content, dossier)

    async def _content(
        self, found: FoundDocument, dossier: DossierKey, pointer: envelope.ContentPointer, size: int
    ) -> bytes:
        wanted = DocumentKey(found.row.health_id, pointer.content_id)
        blob = await self._contents.get(wanted, found.row.stored_size, None)
        return (await envelope.off_loop(size, envelope.open_content, dossier, pointer, size, blob)).content

    def _project(self, opened: _Opened) -> tuple[Reading, list[NewProjection]]:
        document, content = opened.document, opened.content
        reading = reader.damaged(document) if content is None else reader.read(content, document)
        return reading, sealed(opened.dossier, opened.key.id, document, reading.projections, self._digests)


class Ahead:
    """Reads what has just been submitted, before anybody asks for it."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self._dossiers: OrderedDict[int, None] = OrderedDict()
        self._wake = asyncio.Event()

    def told(self, health_ids: Iterable[int]) -> None:
        """These dossiers have new documents. What exceeds the bound is read when it is asked for."""
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
                health_id, _ = self._dossiers.popitem(last=False)
                started = time.monotonic()
                try:
                    await self._projector.catch_up(health_id)
                except DmpError as error:  # the next who lists the dossier meets it, and is told
                    _log.warning("dossier_not_read_ahead", reason=error.reason_name)
                await asyncio.sleep((time.monotonic() - started) * (1 / SHARE - 1))


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
        read, failed = await self._projector.read(todo, sweep.started_at)
        last = passed[-1].key if passed else at
        await self._store.advance(sweep, last, read, failed, done=len(passed) < _SWEPT)
        await asyncio.sleep(_SECONDS_BETWEEN + (time.monotonic() - started) * (1 / SHARE - 1))
