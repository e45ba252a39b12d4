"""What all listings share: page tokens and cursors, and opening what a page holds. No statement, no rule of rights."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from google.protobuf.message import Message

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from services.document import envelope
from services.document.entries import opened
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
_OPENED_AT_ONCE: Final = 64
"""Documents opened before other work gets a turn of the loop."""


class Opener:
    """Opens what pages hold. Keys of many calls are read together."""

    def __init__(self, store: DocumentStore) -> None:
        self._keys: Coalescer[int, DossierKey] = Coalescer("dossier-keys", store.keys, in_flight=2)

    async def key(self, call: Call) -> DossierKey:
        """The key of the call's dossier."""
        return await self._keys.submit(call.health_id, timeout=call.remaining())

    async def documents(self, call: Call, rows: Sequence[DocumentRow]) -> list[document_pb2.Document]:
        """The documents of a page."""
        if not rows:
            return []
        key = await self.key(call)
        if len(rows) <= _OPENED_AT_ONCE:
            return [opened(key, row) for row in rows]
        handled = sum(len(row.sealed) for row in rows)
        return await envelope.off_loop(handled, lambda: [opened(key, row) for row in rows])

    async def close(self) -> None:
        """Finish the batches under way."""
        await self._keys.close()


class Cursors:
    """Where a dossier's changes are to be taken up again: opaque, authenticated, bound to the dossier alone, so that
    another workstation of the caller may go on; what is shown is decided anew each time."""

    def __init__(self, tokens: PageTokens) -> None:
        self._tokens = tokens

    def issue(self, health_id: int, sequence: int) -> str:
        """The cursor after a change."""
        return self._tokens.issue(_scope(health_id), sequence.to_bytes(8, "big"))

    def read(self, cursor: str, health_id: int) -> int:
        """After which change a cursor goes on; INVALID_PAGE_TOKEN for what is none of this dossier."""
        return int.from_bytes(self._tokens.read(cursor, _scope(health_id), "cursor"), "big")

    def opening(self, token: str, scope: bytes, latest: int) -> tuple[Position | None, int]:
        """Where a first opening goes on, and the change after which its cursor goes on: that of its first page."""
        if not token:
            return None, latest
        content = self._tokens.read(token, scope)
        if len(content) != _PLACE_BYTES + 8:
            raise DmpError(reasons.ERROR_REASON_INVALID_PAGE_TOKEN)
        return position(content[:_PLACE_BYTES]), int.from_bytes(content[_PLACE_BYTES:], "big")

    def next_opening(self, scope: bytes, last: bytes, cursor: int) -> str:
        """The token of a first opening's next page."""
        return self._tokens.issue(scope, last + cursor.to_bytes(8, "big"))


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


def _scope(health_id: int) -> bytes:
    return page_scope(b"changes", health_id.to_bytes(8, "big"))
