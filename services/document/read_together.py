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
from typing import NamedTuple

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


class _Opened(NamedTuple):
    """What was found of a document, and what is shown of it if it may be: None where its seal is broken."""

    found: FoundDocument | None
    whole: bytes | None


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
        decisions, opened = await asyncio.gather(
            self._gate.decisions([call for call, _ in asked], consent_pb2.ACTION_SEARCH), self._open(asked)
        )
        now = self._clock()
        outcomes = [
            self._shown(call, name, decision, document, now)
            for (call, name), decision, document in zip(asked, decisions, opened, strict=True)
        ]
        await self._record(asked, decisions, outcomes)
        return outcomes

    async def _open(self, asked: Sequence[Named]) -> list[_Opened]:
        """The documents, unsealed while consent decides: nothing of them leaves before its yes."""
        with translated():
            found = await self._store.find([DocumentKey(call.health_id, UUID(name[-36:])) for call, name in asked])
        opened, left = list[_Opened](), callers_a_turn()
        for (_, name), document in zip(asked, found, strict=True):
            opened.append(_Opened(document, None if document is None else _shown_whole(document, name)))
            left -= 1
            if not left:  # what is urgent comes between
                await asyncio.sleep(0)
                left = callers_a_turn()
        return opened

    def _shown(
        self, call: Call, name: str, decision: consent_pb2.Decision | DmpError, opened: _Opened, now: datetime
    ) -> Shown:
        if isinstance(decision, DmpError):
            return decision
        found, whole = opened
        rest = partial(self._decided, call, name, decision, found)
        if not decision.permitted or found is None or whole is None:
            return rest
        if call.deadline is not None and not call.remaining():
            return DmpError(reasons.ERROR_REASON_DEADLINE_EXCEEDED)
        view = view_of_many(decision.filter, self._authorship.of_caller(call.actor), now)
        return whole if hidden_because(found.row, view) == VISIBLE else rest

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


def _shown_whole(found: FoundDocument, name: str) -> bytes | None:
    """The serialized Document; None for a broken seal, of which `Reader.decided` makes an error and a record."""
    try:
        return shown_bytes(unseal_metadata(found.key, found.row), found.row, name)
    except DmpError:
        return None
