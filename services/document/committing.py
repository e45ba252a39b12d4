"""The commit of submissions: many of them in one transaction, each whole or not at all.

Submissions that are ready wait for the commit under way and leave together in the next one (a coalescer). A group holds
at most one of each dossier, those linked with it included; dossiers are locked first, so that what the group reads of
them stays true until it commits, and every refusal (duplicate, replaced meanwhile) is decided before anything is
written. If the database refuses a group for what one of them holds, each is tried alone.

    lock the dossiers' clocks → keys → answers kept, documents concerned → decide and seal → write → commit
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from dmp.document.v1 import document_pb2
from services.document import envelope
from services.document.admission import Admission, Prospect, Surroundings
from services.document.store import writing
from services.document.store.reading import translated
from services.document.store.writing import Moment, NewContent
from services.document.succession import successors
from services.runtime import faults, idempotency, outbox
from services.runtime.coalescer import Coalescer
from services.runtime.dossier_keys import DossierKeyBatch, DossierKeys
from services.runtime.errors import DmpError
from services.runtime.idempotency import IdempotencyKey, Kept
from services.runtime.outbox import OutboxRow
from services.runtime.postgres import Connection, Pool, is_transient, transaction

Response = document_pb2.SubmitDocumentsResponse

GROUP: Final = 48
_GROUP_BYTES: Final = 8 << 20
_STEPS: Final = 4096
"""Numbers that a submission may give to changes: its documents, and those that they replace."""


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A submission that is ready: verified, measured, and its contents where they will be."""

    prospect: Prospect
    key: IdempotencyKey
    body_digest: bytes
    placed: Mapping[uuid.UUID, NewContent]
    """Contents that are in the object store already."""

    @property
    def health_id(self) -> int:
        return self.key.health_id

    @property
    def dossiers(self) -> Sequence[int]:
        """Its dossier first, then those linked with it."""
        return self.prospect.dossiers

    @property
    def size(self) -> int:
        """Bytes that it will write."""
        return sum(len(p.packed.frame) for p in self.prospect.prepared)


class _NothingToWrite(Exception):
    """Every submission of a group was refused or answered before: the transaction leaves nothing."""


class Committer:
    """Commits submissions, in groups."""

    def __init__(
        self,
        pool: Pool,
        keys: DossierKeys,
        admission: Admission,
        *,
        clock: Callable[[], datetime],
        committed: Callable[[Sequence[int]], None],
        group: int = GROUP,
    ) -> None:
        """`committed` is called with the dossiers concerned after each commit; `group` is how many submissions may
        share one (1 on a cluster, where a transaction stays on one shard)."""
        self._pool = pool
        self._keys = keys
        self._admission = admission
        self._clock = clock
        self._committed = committed
        self._groups: Coalescer[Pending, Response] = Coalescer(
            "submissions", self._send, max_batch=group, max_pending=2048, in_flight=2
        )

    async def commit(self, pending: Pending, timeout: float | None) -> Response:
        """The answer, durable; the same one for the same request_id."""
        return await self._groups.submit(pending, timeout=timeout)

    async def close(self) -> None:
        """Finish the groups under way."""
        await self._groups.close()

    async def _send(self, batch: list[Pending]) -> list[Response | DmpError]:
        outcomes: dict[Pending, Response | DmpError] = {}
        for group in _groups(batch):
            outcomes |= await self._group(group)
        return [outcomes[pending] for pending in batch]

    async def _group(self, group: Sequence[Pending]) -> dict[Pending, Response | DmpError]:
        try:
            with translated():
                return await self._transaction(group)
        except DmpError as error:
            cause = error.__cause__
            transient = cause is None or is_transient(cause)
            if transient or len(group) == 1:
                return {pending: _same(error) for pending in group}
        outcomes: dict[Pending, Response | DmpError] = {}
        for pending in group:  # one of them holds what the database refuses: the others must not suffer
            outcomes |= await self._group([pending])
        return outcomes

    async def _transaction(self, group: Sequence[Pending]) -> dict[Pending, Response | DmpError]:
        outcomes: dict[Pending, Response | DmpError] = {}
        try:
            async with transaction(self._pool) as conn:
                faults.point("submit.begun")
                steps = {health_id: _STEPS for p in group for health_id in p.dossiers}
                moments = await writing.lock(conn, steps, self._clock())
                faults.point("submit.locked")
                keys = await self._keys.for_write(conn, [p.health_id for p in group])
                faults.point("submit.keyed")
                kept = await idempotency.find_many(conn, [p.key for p in group])
                surroundings = await self._surroundings(conn, group)
                keys |= await self._keys_elsewhere(conn, surroundings)
                faults.point("submit.read")
                handled = sum(p.size for p in group)
                decide = self._decide
                outcomes, writes = await envelope.off_loop(handled, decide, group, moments, keys, kept, surroundings)
                if not writes.submissions:
                    raise _NothingToWrite
                await writing.insert(conn, writes.submissions)
                faults.point("submit.written")
                await outbox.put(conn, writes.events)
                await idempotency.put_many(conn, writes.answers)
                faults.point("submit.before_commit")
        except _NothingToWrite:
            return outcomes
        faults.point("submit.after_commit")
        self._committed(sorted({row.health_id for row in writes.events}))
        return outcomes

    async def _surroundings(self, conn: Connection, group: Sequence[Pending]) -> dict[int, Surroundings]:
        """What the dossiers hold that bears on the group, by the dossier that each submission is for."""
        ids = [health_id for p in group for health_id in p.dossiers]
        wanted = [self._admission.wanted(p.prospect) for p in group]
        facts = await writing.facts(
            conn,
            ids,
            [digest for one in wanted for digest in one.unique_ids],
            [digest for one in wanted for digest in one.sets],
            [document for one in wanted for document in one.documents],
        )
        if later := [one for known in facts.values() for one in successors(known)]:
            for health_id, more in (await writing.facts(conn, ids, [], [], later)).items():
                facts[health_id] += more
        taken = await writing.taken(
            conn,
            ids,
            [one.submission_set for one in wanted],
            [digest for one in wanted for digest in one.folders],
            [folder for one in wanted for folder in one.folder_ids],
        )
        return {
            p.health_id: Surroundings(
                [fact for health_id in p.dossiers for fact in facts[health_id]],
                [one for health_id in p.dossiers for one in taken[health_id]],
            )
            for p in group
        }

    async def _keys_elsewhere(self, conn: Connection, surroundings: Mapping[int, Surroundings]) -> DossierKeyBatch:
        """The keys of documents in linked dossiers, which may be replaced; nearly nobody has any."""
        owners = {fact.row.health_id for around in surroundings.values() for fact in around.documents}
        others = sorted(owners - surroundings.keys())
        return await self._keys.for_write(conn, others) if others else DossierKeyBatch({})

    def _decide(
        self,
        group: Sequence[Pending],
        moments: Mapping[int, Moment],
        keys: DossierKeyBatch,
        kept: Mapping[IdempotencyKey, Kept],
        surroundings: Mapping[int, Surroundings],
    ) -> tuple[dict[Pending, Response | DmpError], _Writes]:
        outcomes: dict[Pending, Response | DmpError] = {}
        writes = _Writes([], [], {})
        for pending in group:
            try:
                known = idempotency.replay(kept.get(pending.key), pending.body_digest)
                if known is not None:
                    key = keys[pending.health_id]
                    outcomes[pending] = envelope.open_answer(key, pending.body_digest, known, Response)
                    continue
                outcomes[pending] = self._admit(pending, keys, moments, surroundings[pending.health_id], writes)
            except DmpError as error:
                outcomes[pending] = error
        return outcomes, writes

    def _admit(
        self,
        pending: Pending,
        keys: DossierKeyBatch,
        moments: Mapping[int, Moment],
        around: Surroundings,
        writes: _Writes,
    ) -> Response:
        admitted = self._admission.admit(pending.prospect, keys, moments, around, pending.placed)
        writes.submissions.append(admitted.submission)
        writes.events.extend(
            OutboxRow(event.health_id, uuid.UUID(bytes=event.event_id), event.SerializeToString())
            for event in admitted.events
        )
        sealed = envelope.seal_answer(keys[pending.health_id], pending.body_digest, admitted.answer)
        writes.answers[pending.key] = Kept(pending.body_digest, sealed)
        return admitted.answer


@dataclass(frozen=True, slots=True)
class _Writes:
    """What a group writes."""

    submissions: list[writing.Submission]
    events: list[OutboxRow]
    answers: dict[IdempotencyKey, Kept]


def _groups(batch: Sequence[Pending]) -> Iterator[list[Pending]]:
    """The batch in groups of bounded size, each dossier at most once in a group, its submissions in order."""
    waiting = list(batch)
    while waiting:
        group: list[Pending] = []
        later: list[Pending] = []
        dossiers: set[int] = set()
        size = 0
        for pending in waiting:
            if not dossiers.isdisjoint(pending.dossiers) or (group and size + pending.size > _GROUP_BYTES):
                later.append(pending)
            else:
                group.append(pending)
                size += pending.size
            dossiers.update(pending.dossiers)
        yield group
        waiting = later


def _same(error: DmpError) -> DmpError:
    copied = DmpError(error.reason, error.message, metadata=error.metadata, retry_after=error.retry_after)
    copied.__cause__ = error
    return copied
