"""What operators do with what is stored, a slice a call: verify, sweep, move, wrap keys anew; and destroying a dossier.

Each slice says where the next one begins, so that work of any length is resumable and shows its progress. Each is
harmless when done twice, or by two at once. What is removed is looked at twice: what is younger than a day may belong
to a commit under way.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.document.v1 import document_pb2
from services.document import envelope
from services.document.contents import Contents
from services.document.gate import Gate
from services.document.objects import StoredObject
from services.document.store import keeping
from services.document.store import uploads as upload_store
from services.document.store.keeping import ContentEntry
from services.document.store.reading import translated
from services.document.store.rows import DocumentKey
from services.document.times import timestamp
from services.document.uploads import KEPT
from services.document.verification import Verifier
from services.runtime import faults, outbox
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError, invalid, unavailable
from services.runtime.identifiers import document_name, dossier_of
from services.runtime.keyring import Keyring, wrapped_generation
from services.runtime.outbox import OutboxRow
from services.runtime.paging import PageTokens, page_scope
from services.runtime.postgres import Pool, transaction
from services.runtime.sealing import NONCE_BYTES
from services.runtime.trail import build_event
from services.runtime.validation import validate_for_storage

_GRACE: Final = timedelta(days=1)
_LAST: Final = 2**63 - 1
_START: Final = (0, uuid.UUID(int=0))
_OBJECTS: Final = b"o"
_CONTENTS: Final = b"c"


class Operations:
    """Operators' work on what is stored."""

    def __init__(
        self,
        pool: Pool,
        keys: DossierKeys,
        keyring: Keyring,
        contents: Contents,
        verifier: Verifier,
        gate: Gate,
        tokens: PageTokens,
        *,
        clock: Callable[[], datetime],
        grace: timedelta = _GRACE,
        randomness: random.Random | None = None,
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._keyring = keyring
        self._contents = contents
        self._verifier = verifier
        self._gate = gate
        self._tokens = tokens
        self._clock = clock
        self._grace = grace
        self._random = randomness or random.Random()  # noqa: S311 (draws a sample, guards nothing)

    async def verify(
        self, request: document_pb2.VerifyContentsRequest, call: Call
    ) -> document_pb2.VerifyContentsResponse:
        """Check a slice, whole or a sample of it."""
        validate_for_storage(request)
        after, last = _START, _LAST
        if request.parent:
            last = dossier_of(request.parent, "parent")
            after = (last - 1, uuid.UUID(int=2**128 - 1))
        if request.page_token:
            _, after = self._position(request.page_token, call)
        limit = request.limit or 200
        with translated():
            slice_ = await keeping.documents(self._pool, after, last, limit)
            wanted = slice_
            if request.sample_per_mille:
                wanted = [one for one in slice_ if self._random.randrange(1000) < request.sample_per_mille]
            checked = await self._verifier.check(wanted)
        response = document_pb2.VerifyContentsResponse(checked=len(wanted), bytes=checked.bytes)
        for (health_id, document_id), kind in checked.faults:
            response.faults.add(document=document_name(health_id, document_id), kind=kind)
        if len(slice_) == limit:
            row = slice_[-1].row
            response.next_page_token = self._token(call, _CONTENTS, (row.health_id, row.document_id))
        await self._record(call, [fault.document for fault in response.faults], len(wanted))
        return response

    async def sweep(self, request: document_pb2.SweepContentsRequest, call: Call) -> document_pb2.SweepContentsResponse:
        """Remove what belongs to nothing, a slice of it: contents first, then objects."""
        validate_for_storage(request)
        kind, after = self._position(request.page_token, call) if request.page_token else (_CONTENTS, _START)
        limit = request.limit or 500
        response = document_pb2.SweepContentsResponse()
        before = self._clock() - self._grace
        with translated():
            if kind == _CONTENTS:
                entries = await keeping.contents(self._pool, after, limit)
                response.looked_at = len(entries)
                response.contents = await self._sweep_contents(entries, before)
                if after == _START:
                    response.uploads = await upload_store.sweep(self._pool, self._clock() - KEPT, limit)
                if response.uploads == limit:  # there may be more: this slice once again
                    response.next_page_token = self._token(call, _CONTENTS, _START)
                elif len(entries) == limit:
                    last = (entries[-1].health_id, entries[-1].content_id)
                    response.next_page_token = self._token(call, _CONTENTS, last)
                elif self._contents.objects is not None:
                    response.next_page_token = self._tokens.issue(_scope(call), _OBJECTS)
            else:
                key = self._tokens.read(request.page_token, _scope(call))[1:].decode()
                await self._sweep_objects(key, limit, before, response, call)
        await self._record(call, (), response.contents + response.objects + response.uploads)
        return response

    async def move(self, request: document_pb2.MoveContentsRequest, call: Call) -> document_pb2.MoveContentsResponse:
        """Move a slice of the contents. INVALID_FIELD without an object store."""
        validate_for_storage(request)
        if self._contents.objects is None:
            raise invalid("to_object_store", "configured", "no object store is configured")
        _, after = self._position(request.page_token, call) if request.page_token else (_CONTENTS, _START)
        limit = request.limit or 100
        response = document_pb2.MoveContentsResponse()
        with translated():
            entries = await keeping.contents(self._pool, after, limit)
            move = self._to_object if request.to_object_store else self._to_database
            for entry in entries:
                moved = await move(entry)
                response.moved += bool(moved)
                response.bytes += moved or 0
                response.left += moved is None
        if len(entries) == limit:
            last = (entries[-1].health_id, entries[-1].content_id)
            response.next_page_token = self._token(call, _CONTENTS, last)
        await self._record(call, (), response.moved)
        return response

    async def rewrap(self, request: document_pb2.RewrapKeysRequest, call: Call) -> document_pb2.RewrapKeysResponse:
        """Wrap a slice of the keys under the current generation."""
        validate_for_storage(request)
        after = self._position(request.page_token, call)[1][0] if request.page_token else 0
        limit = request.limit or 500
        with translated():
            async with transaction(self._pool) as conn:
                done = await self._keys.rewrap(conn, after, limit, self._keyring.current, wrapped_generation)
        response = document_pb2.RewrapKeysResponse(rewrapped=done.rewrapped)
        if done.looked_at == limit:
            response.next_page_token = self._token(call, _CONTENTS, (done.last, _START[1]))
        await self._record(call, (), done.rewrapped)
        return response

    async def destroy(
        self, request: document_pb2.DestroyDossierRequest, call: Call
    ) -> document_pb2.DestroyDossierResponse:
        """Destroy the dossier's key and all rows, in one commit with the event; then the objects, which nothing opens
        any more. The time is that of the first call; a second one finishes what was left of the objects."""
        validate_for_storage(request)
        health_id = request.health_id
        with translated():
            async with transaction(self._pool, timeout=call.remaining()) as conn:
                await conn.execute(keeping.LOCK_CLOCK, health_id)
                if await self._keys.destroy(conn, health_id, self._clock()):
                    await keeping.destroy_rows(conn, health_id)
                    event = build_event(
                        call, outcome=audit_pb2.OUTCOME_SUCCESS, health_id=health_id, actor=system_actor()
                    )
                    await outbox.put(
                        conn, [OutboxRow(health_id, uuid.UUID(bytes=event.event_id), event.SerializeToString())]
                    )
                destroyed_at = await self._keys.destroyed_at(conn, health_id)
        if destroyed_at is None:
            raise unavailable("database")
        if self._contents.objects is not None:
            for key in await self._contents.objects.of_dossier(health_id):
                await self._contents.objects.delete(key)
        response = document_pb2.DestroyDossierResponse()
        response.destroy_time.CopyFrom(timestamp(destroyed_at))
        return response

    async def _sweep_contents(self, entries: Sequence[ContentEntry], before: datetime) -> int:
        by_dossier: dict[int, list[uuid.UUID]] = {}
        for entry in entries:
            if entry.stored_at < before:
                by_dossier.setdefault(entry.health_id, []).append(entry.content_id)
        removed = 0
        for health_id, ids in by_dossier.items():
            async with transaction(self._pool) as conn:
                objects = await keeping.drop_unused(conn, health_id, ids, before)
            removed += len(objects)
            for key in objects:
                if key is not None and self._contents.objects is not None:
                    await self._contents.objects.delete(key)
        return removed

    async def _sweep_objects(
        self, after: str, limit: int, before: datetime, response: document_pb2.SweepContentsResponse, call: Call
    ) -> None:
        store = self._contents.objects
        if store is None:
            return
        listed = await store.listing(after, limit)
        response.looked_at = len(listed)
        ours: list[tuple[StoredObject, DocumentKey]] = [
            (one, one.content) for one in listed if one.content is not None and one.modified_at < before
        ]
        known = await keeping.known_objects(
            self._pool, sorted({content.health_id for _, content in ours}), [one.key for one, _ in ours]
        )
        for one, _ in ours:
            if one.key not in known:
                await store.delete(one.key)
                response.objects += 1
        if len(listed) == limit:
            response.next_page_token = self._tokens.issue(_scope(call), _OBJECTS + listed[-1].key.encode())

    async def _to_object(self, entry: ContentEntry) -> int | None:
        """Bytes moved; 0 for what is there already. The object is proved before the row names it."""
        store = self._contents.objects
        sealed = await self._pool.fetchval(keeping.SEALED, entry.health_id, entry.content_id)
        if store is None or entry.object_key is not None or sealed is None:
            return 0
        key = await store.put(DocumentKey(entry.health_id, entry.content_id), sealed)
        faults.point("move.stored")
        beginning = sealed[: 1 + NONCE_BYTES]
        if await self._pool.fetchval(keeping.TO_OBJECT, entry.health_id, entry.content_id, key, beginning):
            return len(sealed)
        await store.delete(key)
        return 0

    async def _to_database(self, entry: ContentEntry) -> int | None:
        """Bytes moved; 0 for what is here already. None, and the object stays, when what the store gives does not
        open: it may have been read wrongly, and nothing else has the content."""
        store = self._contents.objects
        if store is None or entry.object_key is None:
            return 0
        sealed = await store.get(entry.object_key)
        if sealed is None or not await self._opens(entry, sealed):
            return None
        moved = await self._pool.fetchval(
            keeping.TO_DATABASE, entry.health_id, entry.content_id, entry.object_key, sealed
        )
        faults.point("move.committed")
        if not moved:
            return 0
        await store.delete(entry.object_key)
        return len(sealed)

    async def _opens(self, entry: ContentEntry, sealed: bytes) -> bool:
        async with self._pool.acquire() as conn:
            keys = await self._keys.for_read(conn, [entry.health_id])
        try:
            key = keys[entry.health_id]
        except DmpError:  # destroyed meanwhile, or altered
            return False
        return await envelope.off_loop(len(sealed), envelope.is_sealed_content, key, entry.content_id, sealed)

    async def _record(self, call: Call, objects: Sequence[str], count: int) -> None:
        await self._gate.record_work(call, objects, count)

    def _token(self, call: Call, kind: bytes, last: tuple[int, uuid.UUID]) -> str:
        return self._tokens.issue(_scope(call), kind + last[0].to_bytes(8, "big") + last[1].bytes)

    def _position(self, token: str, call: Call) -> tuple[bytes, tuple[int, uuid.UUID]]:
        content = self._tokens.read(token, _scope(call))
        if content[:1] != _CONTENTS:
            return content[:1], _START
        return _CONTENTS, (int.from_bytes(content[1:9], "big"), uuid.UUID(bytes=content[9:25]))


def system_actor(*, secret: bool = False) -> context_pb2.ActingContext:
    """Who acts when this service acts by itself; in secret, about what representatives are not to know of."""
    kind = context_pb2.ACTOR_KIND_SYSTEM
    return context_pb2.ActingContext(actor_kind=kind, subject="document", secret_connection=secret)


def _scope(call: Call) -> bytes:
    return page_scope(b"operations", call.method.path.encode())
