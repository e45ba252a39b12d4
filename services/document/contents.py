"""Where contents are kept and how they are got, wherever they lie: in the database by default, else in an object store.

A content is in the database in the same commit as its metadata; in an object store it is written and proved before
that commit. A read that finds an object gone looks once more at the row: the content may just have been moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from services.document.objects import ObjectStore
from services.document.store.reading import DocumentStore, translated
from services.document.store.rows import DocumentKey
from services.document.store.writing import NewContent
from services.runtime.coalescer import Coalescer
from services.runtime.errors import DmpError, unavailable

# A batch of contents holds at most 32 of at most a mebibyte each; larger ones are read alone.
SMALL_CONTENT: Final = 1 << 20
_SMALL_CONTENTS: Final = 32
_LOOKS: Final = 3


class Contents:
    """Sealed contents, by dossier and content id."""

    def __init__(self, store: DocumentStore, objects: ObjectStore | None, *, write_objects: bool = True) -> None:
        """`objects` is the object store, if any; new contents go there if `write_objects`."""
        self._store = store
        self.objects = objects
        self.writes_objects = objects is not None and write_objects
        self._small: Coalescer[DocumentKey, bytes | str] = Coalescer(
            "contents", self._read, max_batch=_SMALL_CONTENTS, in_flight=2
        )

    async def put(self, content: DocumentKey, sealed: bytes) -> NewContent:
        """A content that may be committed: in the object store already, where new ones go there."""
        if not self.writes_objects or self.objects is None:
            return NewContent(content.id, sealed, None, len(sealed))
        return NewContent(content.id, None, await self.objects.put(content, sealed), len(sealed))

    async def get(self, content: DocumentKey, stored_size: int, timeout: float | None) -> bytes:
        """The sealed bytes. CONTENT_CORRUPTED when they are nowhere, DEPENDENCY_UNAVAILABLE when they lie in a store
        that cannot be asked."""
        for _ in range(_LOOKS):
            if stored_size <= SMALL_CONTENT:
                found = await self._small.submit(content, timeout=timeout)
            else:
                with translated():
                    [looked] = await self._read([content])
                if isinstance(looked, DmpError):
                    raise looked
                found = looked
            if isinstance(found, bytes):
                return found
            if self.objects is None:  # this replica has not been told of the store where it lies
                raise unavailable("object-store")
            sealed = await self.objects.get(found)
            if sealed is not None:
                return sealed
        raise _missing()

    async def get_all(self, contents: Sequence[DocumentKey]) -> list[bytes | None]:
        """As `get` for work on many, which the caller bounds: one statement, and the objects of a store all at once.
        None for those that are nowhere."""
        with translated():
            found = await self._read(list(contents))
        elsewhere = [content for content, one in zip(contents, found, strict=True) if not isinstance(one, bytes)]
        got = iter(await asyncio.gather(*(self._again(content) for content in elsewhere), return_exceptions=True))
        outcomes = [one if isinstance(one, bytes) else next(got) for one in found]
        whole: list[bytes | None] = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            whole.append(outcome)
        return whole

    async def close(self) -> None:
        """Finish the batches under way."""
        await self._small.close()

    async def _again(self, content: DocumentKey) -> bytes | None:
        try:
            return await self.get(content, SMALL_CONTENT, None)
        except DmpError as error:
            if error.reason != reasons.ERROR_REASON_CONTENT_CORRUPTED:
                raise
            return None

    async def _read(self, wanted: list[DocumentKey]) -> list[bytes | str | DmpError]:
        found = await self._store.contents(wanted)
        return [_missing() if one is None else one.sealed or one.object_key or _missing() for one in found]


def _missing() -> DmpError:
    return DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED)
