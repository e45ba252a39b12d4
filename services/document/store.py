"""Every statement of this service on its own tables, and the rows that they give and take.

Here live SQL and rows. Sealing is `envelope`; who may know of what is `access` (the search statement applies the same
`View`); the tables that services share belong to the runtime. Each statement names the dossier first and goes through
an index that starts with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg
import structlog

from dmp.common.v1 import error_reason_pb2 as reasons
from services.document.access import View
from services.runtime.dossier_keys import DossierKeyBatch, DossierKeys
from services.runtime.errors import DmpError
from services.runtime.postgres import Connection, Pool, translate
from services.runtime.sealing import DossierKey

_log = structlog.get_logger("document")

SET_VERSION_CONSTRAINT: Final = "document_set_version"

_COLUMNS: Final = """
d.health_id, d.document_id, d.logical_id, d.version, d.status, d.type_code, d.submitted_at, d.submission_set_id,
d.masked, d.invisible_patient, d.invisible_representatives, d.author_digests, d.stored_size, d.sealed
"""
# Document and content ids are unique across dossiers (UUIDv7): two plain lists name exactly the rows, and become one
# indexed task per shard (design §4). What comes back is looked up by both ids.
_FIND: Final = (
    f"SELECT {_COLUMNS} FROM document d WHERE d.health_id = ANY($1::bigint[]) AND d.document_id = ANY($2::uuid[])"  # noqa: S608
)
_CONTENTS: Final = """
SELECT health_id, content_id, sealed FROM content
WHERE health_id = ANY($1::bigint[]) AND content_id = ANY($2::uuid[])
"""
_SEARCH: Final = f"""
WITH known AS MATERIALIZED (
    SELECT document_id, submitted_at FROM document
    WHERE health_id = $1
    AND status = ANY($2::bigint[])
    AND ($3::text[] IS NULL OR type_code = ANY($3))
    AND ($4::text[] IS NULL OR class_code = ANY($4))
    AND ($5::text[] IS NULL OR format_code = ANY($5))
    AND ($6::timestamptz IS NULL OR created_at >= $6) AND ($7::timestamptz IS NULL OR created_at < $7)
    AND ($8::timestamptz IS NULL OR service_start >= $8) AND ($9::timestamptz IS NULL OR service_start < $9)
    AND ($10::timestamptz IS NULL OR submitted_at >= $10) AND ($11::timestamptz IS NULL OR submitted_at < $11)
    AND ($12::bytea IS NULL OR unique_id_digest = $12)
    AND type_code <> ALL($13::text[])
    AND (NOT masked OR $14::boolean OR coalesce($15::bytea = ANY(author_digests), false))
    AND (NOT invisible_patient OR $16::timestamptz IS NULL OR submitted_at <= $16)
    AND NOT (invisible_representatives AND $17::boolean)
), page AS (
    SELECT document_id FROM known
    WHERE $18::timestamptz IS NULL OR (submitted_at, document_id) < ($18, $19::uuid)
    ORDER BY submitted_at DESC, document_id DESC
    LIMIT $20
)
SELECT total.known, {_COLUMNS}
FROM (SELECT count(*) AS known FROM known) AS total
LEFT JOIN (page JOIN document d ON d.health_id = $1 AND d.document_id = page.document_id) ON true
ORDER BY d.submitted_at DESC, d.document_id DESC
"""  # noqa: S608 (the columns are a constant of this module)
_INSERT_SET: Final = """
INSERT INTO submission_set (health_id, submission_set_id, unique_id_digest, status, submitted_at, sealed)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (health_id, unique_id_digest) DO NOTHING
RETURNING true
"""
# In the order of the digests, so that two submissions with the same documents never wait for each other.
_INSERT_DOCUMENTS: Final = """
INSERT INTO document (
    health_id, status, version, submitted_at, submission_set_id, document_id, logical_id, type_code, class_code,
    format_code, created_at, service_start, unique_id_digest, set_version_digest, masked, invisible_patient,
    invisible_representatives, content_id, stored_size, sealed, author_digests
)
SELECT $1, $2, 1, $3, $4, new.*,
    ARRAY(SELECT a.digest FROM unnest($20::uuid[], $21::bytea[]) AS a (document_id, digest)
          WHERE a.document_id = new.document_id)
FROM unnest(
    $5::uuid[], $6::uuid[], $7::text[], $8::text[], $9::text[], $10::timestamptz[], $11::timestamptz[], $12::bytea[],
    $13::bytea[], $14::boolean[], $15::boolean[], $16::boolean[], $17::uuid[], $18::bigint[], $19::bytea[]
) AS new (
    document_id, logical_id, type_code, class_code, format_code, created_at, service_start, unique_id_digest,
    set_version_digest, masked, invisible_patient, invisible_representatives, content_id, stored_size, sealed
)
ORDER BY new.unique_id_digest
ON CONFLICT (health_id, unique_id_digest) DO NOTHING
RETURNING document_id
"""
_INSERT_CONTENTS: Final = """
INSERT INTO content (health_id, content_id, sealed)
SELECT $1, new.content_id, new.sealed FROM unnest($2::uuid[], $3::bytea[]) AS new (content_id, sealed)
"""


class DocumentRow(NamedTuple):
    """A document as its row has it, in the order of `_COLUMNS`."""

    health_id: int
    document_id: uuid.UUID
    logical_id: uuid.UUID
    version: int
    status: int
    type_code: str
    submitted_at: datetime
    submission_set_id: uuid.UUID
    masked: bool
    invisible_patient: bool
    invisible_representatives: bool
    author_digests: list[bytes]
    stored_size: int
    sealed: bytes


class DocumentKey(NamedTuple):
    """A document, or a content, of a dossier."""

    health_id: int
    id: uuid.UUID


class FoundDocument(NamedTuple):
    """A row, and the keys that were read with it."""

    row: DocumentRow
    keys: DossierKeyBatch

    @property
    def key(self) -> DossierKey:
        """The dossier's key; CONTENT_DESTROYED or CONTENT_CORRUPTED without a usable one."""
        return self.keys[self.row.health_id]


class Span(NamedTuple):
    """From `start`, included, to `end`, excluded; None for no bound."""

    start: datetime | None = None
    end: datetime | None = None


class Criteria(NamedTuple):
    """What a search asks for; None for anything."""

    statuses: list[int]
    type_codes: list[str] | None
    class_codes: list[str] | None
    format_codes: list[str] | None
    created: Span
    service: Span
    submitted: Span
    unique_id_digest: bytes | None


class Position(NamedTuple):
    """The last document of a page."""

    submitted_at: datetime
    document_id: uuid.UUID


class Page(NamedTuple):
    """Rows, newest submission first, and how many match over all pages."""

    rows: list[DocumentRow]
    total: int


@dataclass(frozen=True, slots=True)
class NewSet:
    """A submission set to store."""

    submission_set_id: uuid.UUID
    unique_id_digest: bytes
    status: int
    submitted_at: datetime
    sealed: bytes


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A document to store, with its content."""

    document_id: uuid.UUID
    logical_id: uuid.UUID
    type_code: str
    class_code: str
    format_code: str
    created_at: datetime
    service_start: datetime
    unique_id_digest: bytes
    set_version_digest: bytes | None
    masked: bool
    invisible_patient: bool
    invisible_representatives: bool
    content_id: uuid.UUID
    sealed: bytes
    author_digests: tuple[bytes, ...]
    sealed_content: bytes


class DocumentStore:
    """Reads, in batches: each method is a constant number of statements whatever the number of items."""

    def __init__(self, pool: Pool, keys: DossierKeys) -> None:
        self._pool = pool
        self._keys = keys

    async def find(self, wanted: list[DocumentKey]) -> list[FoundDocument | None]:
        """The documents and their dossiers' keys, None for what is not there. Two statements."""
        health_ids = [key.health_id for key in wanted]
        async with self._pool.acquire() as conn:
            records = await conn.fetch(_FIND, health_ids, [key.id for key in wanted])
            keys = await self._keys.for_read(conn, health_ids)
        found = {(row[0], row[1]): FoundDocument(DocumentRow._make(row), keys) for row in records}
        return [found.get(key) for key in wanted]

    async def contents(self, wanted: list[DocumentKey]) -> list[bytes | None]:
        """The sealed contents, None for what is not there. One statement."""
        records = await self._pool.fetch(_CONTENTS, [key.health_id for key in wanted], [key.id for key in wanted])
        found: dict[tuple[int, uuid.UUID], bytes] = {(row[0], row[1]): row[2] for row in records}
        return [found.get(key) for key in wanted]

    async def keys(self, health_ids: list[int]) -> list[DossierKey | DmpError]:
        """The keys of dossiers, each with its own error. One statement."""
        async with self._pool.acquire() as conn:
            batch = await self._keys.for_read(conn, health_ids)
        return [_key_or_error(batch, health_id) for health_id in health_ids]

    async def search(self, health_id: int, criteria: Criteria, view: View, after: Position | None, limit: int) -> Page:
        """At most `limit` documents after a position that match and may be known of, and their total. One statement."""
        records = await self._pool.fetch(
            _SEARCH,
            health_id,
            criteria.statuses,
            criteria.type_codes,
            criteria.class_codes,
            criteria.format_codes,
            *criteria.created,
            *criteria.service,
            *criteria.submitted,
            criteria.unique_id_digest,
            list(view.denied_types),
            view.sees_masked,
            view.own_digest,
            view.patient_cutoff,
            view.as_representative,
            *(after or (None, None)),
            limit,
        )
        rows = [DocumentRow._make(tuple(record)[1:]) for record in records if record["document_id"] is not None]
        return Page(rows, records[0]["known"])


async def insert_set(conn: Connection, health_id: int, new: NewSet) -> bool:
    """Store a submission set; False when the dossier holds one with its uniqueId."""
    values = (new.submission_set_id, new.unique_id_digest, new.status, new.submitted_at, new.sealed)
    return bool(await conn.fetchval(_INSERT_SET, health_id, *values))


async def insert_documents(
    conn: Connection, health_id: int, status: int, owner: NewSet, new: Sequence[NewDocument]
) -> frozenset[uuid.UUID]:
    """Store documents, then their contents; gives those stored. The others' uniqueId is taken, and nothing of them
    may stay: the caller rolls back. Waits for a submission under way that holds the same uniqueId.

    Raises asyncpg.UniqueViolationError on SET_VERSION_CONSTRAINT.
    """
    records = await conn.fetch(
        _INSERT_DOCUMENTS,
        health_id,
        status,
        owner.submitted_at,
        owner.submission_set_id,
        [d.document_id for d in new],
        [d.logical_id for d in new],
        [d.type_code for d in new],
        [d.class_code for d in new],
        [d.format_code for d in new],
        [d.created_at for d in new],
        [d.service_start for d in new],
        [d.unique_id_digest for d in new],
        [d.set_version_digest for d in new],
        [d.masked for d in new],
        [d.invisible_patient for d in new],
        [d.invisible_representatives for d in new],
        [d.content_id for d in new],
        [len(d.sealed_content) for d in new],
        [d.sealed for d in new],
        [d.document_id for d in new for _ in d.author_digests],
        [digest for d in new for digest in d.author_digests],
    )
    stored = frozenset(record["document_id"] for record in records)
    if len(stored) == len(new):
        await conn.execute(_INSERT_CONTENTS, health_id, [d.content_id for d in new], [d.sealed_content for d in new])
    return stored


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
