"""What was stored before it was found by its authors' names (docs/decisions/0045): names are written down once.

The backfill of the column that migration 0023 adds: authors are sealed, so that only a process with the keys can fill
it. Harmless when done twice; what cannot be opened is left to `dmp content verify`, which names it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeAlias

from dmp.common.v1 import coding_pb2
from services.document import author_names, envelope
from services.document.store import keeping
from services.document.store.keeping import NamedSet
from services.document.store.reading import DocumentStore
from services.document.store.rows import DocumentRow
from services.document.unique_ids import UniqueIds
from services.runtime.errors import DmpError
from services.runtime.jobs import Job
from services.runtime.postgres import Pool
from services.runtime.sealing import DossierKey

_ONCE: Final = timedelta(days=36_500)
_SLICE: Final = 200
_SHARE: Final = 0.25
"""Of one processor."""
_LAST: Final = 2**63 - 1

_At: TypeAlias = tuple[int, uuid.UUID]
_Authors: TypeAlias = Callable[[DossierKey], Sequence[coding_pb2.Author]]
_START: Final = (0, uuid.UUID(int=0))


class AuthorNaming:
    """Writes down the digests of authors' names."""

    def __init__(self, pool: Pool, store: DocumentStore, unique_ids: UniqueIds, *, slice_: int = _SLICE) -> None:
        """`slice_` is how many are looked at in one go."""
        self._pool = pool
        self._store = store
        self._unique_ids = unique_ids
        self._slice = slice_

    def job(self) -> Job:
        """What to run; it has run to its end once, and is not repeated."""
        return Job("author-names", _ONCE, self.run)

    async def run(self, _now: datetime) -> None:
        """From the first document and submission set to the last."""
        for step in (self._documents, self._sets):
            after: _At | None = _START
            while after is not None:
                started = time.monotonic()
                after = await step(after)
                await asyncio.sleep((time.monotonic() - started) * (1 / _SHARE - 1))

    async def _documents(self, after: _At) -> _At | None:
        found = await keeping.documents(self._pool, after, _LAST, self._slice)
        unnamed = [one.row for one in found if not one.author_name_digests]
        await self._name(
            keeping.NAME_DOCUMENT,
            [((row.health_id, row.document_id), partial(_of_document, row)) for row in unnamed],
        )
        return None if len(found) < self._slice else (found[-1].row.health_id, found[-1].row.document_id)

    async def _sets(self, after: _At) -> _At | None:
        found = await keeping.named_sets(self._pool, after, self._slice)
        unnamed = [one for one in found if not one.author_name_digests]
        await self._name(keeping.NAME_SET, [((one.health_id, one.set_id), partial(_of_set, one)) for one in unnamed])
        return None if len(found) < self._slice else (found[-1].health_id, found[-1].set_id)

    async def _name(self, statement: str, unnamed: Sequence[tuple[_At, _Authors]]) -> None:
        """Write down the names of what lies at these places."""
        keys = await self._keys(health_id for (health_id, _), _ in unnamed)
        for at, authors in unnamed:
            key = keys.get(at[0])
            if key is None:
                continue
            try:
                digests = author_names.digests_of(self._unique_ids.author_name_key(at[0]), authors(key))
            except DmpError:
                continue
            if digests:
                await self._pool.execute(statement, *at, digests)

    async def _keys(self, health_ids: Iterable[int]) -> dict[int, DossierKey]:
        wanted = sorted(set(health_ids))
        keys = await self._store.keys(wanted) if wanted else []
        return {health_id: key for health_id, key in zip(wanted, keys, strict=True) if isinstance(key, DossierKey)}


def _of_document(row: DocumentRow, key: DossierKey) -> Sequence[coding_pb2.Author]:
    return envelope.open_metadata(key, row).document.authors


def _of_set(found: NamedSet, key: DossierKey) -> Sequence[coding_pb2.Author]:
    return [envelope.open_submission_set(key, found.set_id, found.sealed).author]
