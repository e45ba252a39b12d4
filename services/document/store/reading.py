"""What is read by its id, in batches: documents, contents, keys, versions."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import asyncpg
import structlog

from dmp.common.v1 import error_reason_pb2 as reasons
from services.document.store.rows import COLUMNS, DocumentKey, DocumentRow
from services.runtime.dossier_keys import DossierKeyBatch, DossierKeys
from services.runtime.errors import DmpError
from services.runtime.postgres import Pool, translate
from services.runtime.sealing import DossierKey

_log = structlog.get_logger("document")

# Document and content ids are unique across dossiers (UUIDv7; contents by a keyed digest): two plain lists name exactly
# the rows, and become one indexed task per shard (design §4). What comes back is looked up by both ids. The dossier's
# key is read with its document, in one snapshot.
FIND: Final = f"""
SELECT {COLUMNS}, k.health_id, k.wrapped
FROM document d LEFT JOIN dossier_key k ON k.health_id = d.health_id
WHERE d.health_id = ANY($1::bigint[]) AND d.document_id = ANY($2::uuid[])
"""  # noqa: S608
CONTENTS: Final = """
SELECT health_id, content_id, sealed, object_key FROM content
WHERE health_id = ANY($1::bigint[]) AND content_id = ANY($2::uuid[])
"""
BY_ENTRY: Final = """
SELECT document_id FROM document_version WHERE health_id = $1 AND entry_id = $2
UNION ALL SELECT document_id FROM document WHERE health_id = $1 AND entry_id = $2
LIMIT 1
"""
VERSIONS: Final = """
SELECT version, entry_id, sealed FROM document_version
WHERE health_id = $1 AND document_id = $2 AND version < $3 ORDER BY version DESC LIMIT $4
"""


class FoundDocument(NamedTuple):
    """A row, and the keys that were read with it."""

    row: DocumentRow
    keys: DossierKeyBatch

    @property
    def key(self) -> DossierKey:
        """The dossier's key; CONTENT_DESTROYED or CONTENT_CORRUPTED without a usable one."""
        return self.keys[self.row.health_id]


class StoredContent(NamedTuple):
    """Where a sealed content is: here, or in the object store under a key."""

    sealed: bytes | None
    object_key: str | None


class StoredVersion(NamedTuple):
    """A metadata version that another has followed."""

    version: int
    entry_id: uuid.UUID
    sealed: bytes


class DocumentStore:
    """Reads, in batches: each method is a constant number of statements whatever the number of items."""

    def __init__(self, pool: Pool, keys: DossierKeys) -> None:
        self._pool = pool
        self._keys = keys

    async def find(self, wanted: list[DocumentKey]) -> list[FoundDocument | None]:
        """The documents and their dossiers' keys, None for what is not there. One statement."""
        async with self._pool.acquire() as conn:
            records = await conn.fetch(FIND, [key.health_id for key in wanted], [key.id for key in wanted])
        keys = await self._keys.usable({row[0]: row[-1] for row in records if row[-2] is not None})
        found = {(row[0], row[1]): FoundDocument(DocumentRow._make(row[:-2]), keys) for row in records}
        return [found.get(key) for key in wanted]

    async def contents(self, wanted: list[DocumentKey]) -> list[StoredContent | None]:
        """Where the contents are, None for what is not there. One statement."""
        records = await self._pool.fetch(CONTENTS, [key.health_id for key in wanted], [key.id for key in wanted])
        found = {(row[0], row[1]): StoredContent(row[2], row[3]) for row in records}
        return [found.get(key) for key in wanted]

    async def keys(self, health_ids: list[int]) -> list[DossierKey | DmpError]:
        """The keys of dossiers, each with its own error. One statement."""
        async with self._pool.acquire() as conn:
            batch = await self._keys.for_read(conn, health_ids)
        return [_key_or_error(batch, health_id) for health_id in health_ids]

    async def by_entry(self, key: DocumentKey) -> DocumentKey | None:
        """The document that has, or had, this entryUUID."""
        found = await self._pool.fetchval(BY_ENTRY, *key)
        return None if found is None else DocumentKey(key.health_id, found)

    async def versions(self, key: DocumentKey, before: int, limit: int) -> list[StoredVersion]:
        """Versions that others have followed, newest first, below a number."""
        return [StoredVersion._make(row) for row in await self._pool.fetch(VERSIONS, *key, before, limit)]


@contextmanager
def translated() -> Iterator[None]:
    """What the database raises inside the block becomes the DmpError that a caller is told."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        told = translate(error)
        if told.reason == reasons.ERROR_REASON_INTERNAL:
            _log.error("statement_failed", error_type=type(error).__name__)
        raise told from error


def _key_or_error(batch: DossierKeyBatch, health_id: int) -> DossierKey | DmpError:
    try:
        return batch[health_id]
    except DmpError as error:
        return error
