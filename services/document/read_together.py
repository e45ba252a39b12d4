"""GetDocument for many calls at once: one batch of checks beside one statement, then one append.

Each call has its own decision, its own row and its own event, as if it had come alone. Only those are answered here
whose document is plainly to be shown: of their own dossier, permitted, visible, whole. With every other one
`read.Reader` goes on from its decision and its row, alone: it knows why not, and records it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial

from asyncpg.pgproto.pgproto import UUID

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from services.document.access import VISIBLE, hidden_because, view_of_many
from services.document.authorship import Authorship
from services.document.entries import shown_bytes
from services.document.envelope import unseal_metadata
from services.document.gate import Gate
from services.document.store.reading import DocumentStore, FoundDocument, translated
from services.document.store.rows import DocumentKey
from services.runtime.context import Call, callers_a_turn
from services.runtime.errors import DmpError

Named = tuple[Call, str]
"""A call and the name of the document that it asks for, whose form has been checked."""
Shown = bytes | DmpError | Callable[[], Awaitable[bytes]]
"""A serialized Document, the error that is the answer, or what is left to do for either."""
Decided = Callable[[Call, str, consent_pb2.Decision, FoundDocument | None], Awaitable[bytes]]
"""`read.Reader.decided`: the metadata from consent's answer and the row, or the refusal, recorded."""


class ReadTogether:
    """Reads the metadata of single documents for many calls."""

    def __init__(
        self,
        store: DocumentStore,
        gate: Gate,
        authorship: Authorship,
        decided: Decided,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._gate = gate
        self._authorship = authorship
        self._decided = decided
        self._clock = clock

    async def get(self, asked: Sequence[Named]) -> list[Shown]:
        """For each call the metadata, recorded. DmpError when consent or the database answers to none of them."""
        if not asked:
            return []
        decisions, found = await asyncio.gather(
            self._gate.decisions([call for call, _ in asked], consent_pb2.ACTION_SEARCH), self._find(asked)
        )
        now, left = self._clock(), callers_a_turn()
        outcomes: list[Shown] = []
        for (call, name), decision, document in zip(asked, decisions, found, strict=True):
            outcomes.append(self._shown(call, name, decision, document, now))
            left -= 1
            if not left:  # what is urgent comes between
                await asyncio.sleep(0)
                left = callers_a_turn()
        await self._record(asked, decisions, outcomes)
        return outcomes

    async def _find(self, asked: Sequence[Named]) -> list[FoundDocument | None]:
        with translated():
            return await self._store.find([DocumentKey(call.health_id, UUID(name[-36:])) for call, name in asked])

    def _shown(
        self,
        call: Call,
        name: str,
        decision: consent_pb2.Decision | DmpError,
        found: FoundDocument | None,
        now: datetime,
    ) -> Shown:
        if isinstance(decision, DmpError):
            return decision
        rest = partial(self._decided, call, name, decision, found)
        if not decision.permitted or found is None:
            return rest
        if call.deadline is not None and not call.remaining():
            return DmpError(reasons.ERROR_REASON_DEADLINE_EXCEEDED)
        row = found.row
        view = view_of_many(decision.filter, self._authorship.of_caller(call.actor), now)
        if hidden_because(row, view) != VISIBLE:
            return rest
        try:
            return shown_bytes(unseal_metadata(found.key, row), row, name)
        except DmpError:
            return rest

    async def _record(
        self, asked: Sequence[Named], decisions: Sequence[consent_pb2.Decision | DmpError], outcomes: list[Shown]
    ) -> None:
        """Make the accesses durable; of one that is not, the outcome becomes the error."""
        served = [
            (number, (call, decision, (name,)))
            for number, ((call, name), decision) in enumerate(zip(asked, decisions, strict=True))
            if isinstance(outcomes[number], bytes) and not isinstance(decision, DmpError)
        ]
        errors = await self._gate.all_served([access for _, access in served])
        for (number, _), error in zip(served, errors, strict=True):
            if error is not None:
                outcomes[number] = error
