"""What all listings share: page tokens and cursors, and opening what a page holds. No statement, no rule of rights."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from google.protobuf.message import Message

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from services.document import envelope
from services.document.entries import opened
from services.document.linked import as_asked
from services.document.store.reading import DocumentStore
from services.document.store.rows import DocumentRow
from services.document.store.searching import Position
from services.document.times import EPOCH
from services.runtime.coalescer import Coalescer
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.paging import PageTokens, page_scope
from services.runtime.sealing import DossierKey

_MICROSECOND: Final = timedelta(microseconds=1)
_PLACE_BYTES: Final = 24
_OTHER_BYTES: Final = 8 + 6
"""Of another dossier in a cursor: a token holds the two dozen that may be one person (identity's bound)."""
_OPENED_AT_ONCE: Final = 64
"""Documents opened before other work gets a turn of the loop."""

Seen = dict[int, int]
"""The last change seen of each dossier of a person; of one that is absent, none."""


class Opener:
    """Opens what pages hold. Keys of many calls are read together."""

    def __init__(self, store: DocumentStore) -> None:
        self._keys: Coalescer[int, DossierKey] = Coalescer("dossier-keys", store.keys, in_flight=2)

    async def key(self, call: Call, health_id: int) -> DossierKey:
        """The key of a dossier."""
        return await self._keys.submit(health_id, timeout=call.remaining())

    async def keys(self, call: Call, health_ids: Iterable[int]) -> dict[int, DossierKey]:
        """The keys of dossiers: of one, nearly always."""
        wanted = list(dict.fromkeys(health_ids))
        if len(wanted) == 1:
            return {wanted[0]: await self.key(call, wanted[0])}
        found = await asyncio.gather(*(self.key(call, health_id) for health_id in wanted))
        return dict(zip(wanted, found, strict=True))

    async def documents(self, call: Call, rows: Sequence[DocumentRow]) -> list[document_pb2.Document]:
        """The documents of a page, each opened with its own dossier's key, by its name in the dossier asked for."""
        if not rows:
            return []
        keys, asked = await self.keys(call, (row.health_id for row in rows)), call.health_id

        def each() -> list[document_pb2.Document]:
            return [as_asked(opened(keys[row.health_id], row), row.health_id, asked) for row in rows]

        if len(rows) <= _OPENED_AT_ONCE:
            return each()
        return await envelope.off_loop(sum(len(row.sealed) for row in rows), each)

    async def close(self) -> None:
        """Finish the batches under way."""
        await self._keys.close()


class Cursors:
    """Where a dossier's changes are to be taken up again: opaque, authenticated, bound to the dossier alone, so that
    another workstation of the caller may go on; what is shown is decided anew each time."""

    def __init__(self, tokens: PageTokens) -> None:
        self._tokens = tokens

    def issue(self, health_id: int, seen: Seen) -> str:
        """The cursor after these changes."""
        return self._tokens.issue(_scope(health_id), _seen_bytes(health_id, seen))

    def read(self, cursor: str, health_id: int) -> Seen:
        """After which changes a cursor goes on; INVALID_PAGE_TOKEN for what is none of this dossier."""
        return _seen(health_id, self._tokens.read(cursor, _scope(health_id), "cursor"))

    def opening(self, token: str, scope: bytes, health_id: int, latest: Seen) -> tuple[Position | None, Seen]:
        """Where a first opening goes on, and the changes after which its cursor goes on: those of its first page."""
        if not token:
            return None, latest
        content = self._tokens.read(token, scope)
        return position(content[:_PLACE_BYTES]), _seen(health_id, content[_PLACE_BYTES:])

    def next_opening(self, scope: bytes, last: bytes, health_id: int, seen: Seen) -> str:
        """The token of a first opening's next page."""
        return self._tokens.issue(scope, last + _seen_bytes(health_id, seen))


def scope_of(request: Message, call: Call) -> bytes:
    """Dossier, criteria, caller and mode: a token continues this very listing. The page size may change."""
    criteria = type(request)()
    criteria.CopyFrom(request)
    for field in ("page_token", "page_size"):
        criteria.ClearField(field)
    actor = call.actor
    caller = f"{call.client_id}|{actor.actor_kind}|{actor.subject}|{actor.structure}|{actor.access_mode}"
    return page_scope(call.method.path.encode(), criteria.SerializeToString(deterministic=True), caller.encode())


def after(tokens: PageTokens, token: str, scope: bytes) -> Position | None:
    """Where a listing goes on; None for its beginning."""
    return position(tokens.read(token, scope)) if token else None


def position_bytes(place: datetime, item: uuid.UUID) -> bytes:
    """A position as it travels in a token."""
    return ((place - EPOCH) // _MICROSECOND).to_bytes(8, "big", signed=True) + item.bytes


def position(token: bytes) -> Position:
    """What `position_bytes` wrote."""
    if len(token) != _PLACE_BYTES:
        raise DmpError(reasons.ERROR_REASON_INVALID_PAGE_TOKEN)
    since = int.from_bytes(token[:8], "big", signed=True)
    return Position(EPOCH + since * _MICROSECOND, uuid.UUID(bytes=token[8:]))


def _seen_bytes(health_id: int, seen: Seen) -> bytes:
    """The sequence of the dossier asked for, then health id and sequence of each other where anything happened."""
    others = (
        other.to_bytes(8, "big") + sequence.to_bytes(_OTHER_BYTES - 8, "big")
        for other, sequence in sorted(seen.items())
        if other != health_id and sequence
    )
    return b"".join((seen.get(health_id, 0).to_bytes(8, "big"), *others))


def _seen(health_id: int, content: bytes) -> Seen:
    if len(content) % _OTHER_BYTES != 8:
        raise DmpError(reasons.ERROR_REASON_INVALID_PAGE_TOKEN)
    others = (content[start : start + _OTHER_BYTES] for start in range(8, len(content), _OTHER_BYTES))
    return {health_id: int.from_bytes(content[:8], "big")} | {
        int.from_bytes(each[:8], "big"): int.from_bytes(each[8:], "big") for each in others
    }


def _scope(health_id: int) -> bytes:
    return page_scope(b"changes", health_id.to_bytes(8, "big"))
