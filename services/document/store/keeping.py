"""What operators' work and jobs read and write, slice by slice: contents, keys, look-ups, deadlines, destruction.

None of it is on the path of a request. Slices go by the primary key, from where the last one ended.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from services.document.clinical_store import ProjectionRow
from services.document.store.rows import COLUMNS, DocumentRow
from services.runtime.postgres import Connection, Pool

DOCUMENTS: Final = f"""
SELECT d.class_code, d.format_code, d.created_at, d.service_start, d.service_stop, d.unique_id_digest, d.content_id,
    d.facility_code, d.setting_code, d.confidentiality, d.event_codes, d.reference_digests, d.title_digests,
    d.set_digest, d.set_version, d.author_name_digests, {COLUMNS}
FROM document d
WHERE (d.health_id, d.document_id) > ($1, $2::uuid) AND d.health_id <= $3
ORDER BY d.health_id, d.document_id LIMIT $4
"""  # noqa: S608 (the columns are a constant)
VERSIONS_OF: Final = """
SELECT health_id, document_id, version, entry_id, sealed FROM document_version
WHERE health_id = ANY($1::bigint[]) AND document_id = ANY($2::uuid[])
"""
SETS_OF: Final = """
SELECT health_id, submission_set_id, unique_id_digest, submitted_at, source_id, content_type, sealed
FROM submission_set WHERE health_id = ANY($1::bigint[]) AND submission_set_id = ANY($2::uuid[])
"""
FOLDERS_OF: Final = """
SELECT health_id, folder_id, unique_id_digest, codes, sealed FROM folder
WHERE health_id = ANY($1::bigint[]) AND folder_id = ANY($2::uuid[])
"""
PROJECTIONS_OF: Final = """
SELECT health_id, document_id, place, kind, occurred_at, unread, series_digest, link_digests, sealed FROM projection
WHERE health_id = ANY($1::bigint[]) AND document_id = ANY($2::uuid[])
"""
CONTENTS: Final = """
SELECT health_id, content_id, object_key, stored_at FROM content
WHERE (health_id, content_id) > ($1, $2::uuid) ORDER BY health_id, content_id LIMIT $3
"""
LOCK_CLOCK: Final = "SELECT health_id FROM dossier_clock WHERE health_id = $1 FOR UPDATE"
UNUSED: Final = """
SELECT c.content_id, c.object_key FROM content c
WHERE c.health_id = $1 AND c.content_id = ANY($2::uuid[]) AND NOT EXISTS (
    SELECT FROM document d
    WHERE d.health_id = $1 AND d.content_id = c.content_id AND (d.status <> 4 OR coalesce(d.changed_at, now()) > $3)
)
"""
DROP: Final = "DELETE FROM content WHERE health_id = $1 AND content_id = ANY($2::uuid[])"
SEALED: Final = "SELECT sealed FROM content WHERE health_id = $1 AND content_id = $2 AND object_key IS NULL"
# Only the copy that was written there: its nonce names it. Another has come meanwhile, if somebody sent the same again.
TO_OBJECT: Final = """
UPDATE content SET sealed = NULL, object_key = $3
WHERE health_id = $1 AND content_id = $2 AND object_key IS NULL
AND substring(sealed FROM 1 FOR length($4::bytea)) = $4
RETURNING true
"""
TO_DATABASE: Final = """
UPDATE content SET sealed = $4, object_key = NULL WHERE health_id = $1 AND content_id = $2 AND object_key = $3
RETURNING true
"""
KNOWN_OBJECTS: Final = (
    "SELECT object_key FROM content WHERE health_id = ANY($1::bigint[]) AND object_key = ANY($2::text[])"
)
NEW_UNIQUE_IDS: Final = (
    "SELECT health_id, document_id, digest FROM unique_id_new ORDER BY health_id, document_id LIMIT $1"
)
PUT_UNIQUE_IDS: Final = """
INSERT INTO unique_id (digest, health_id, document_id)
SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::uuid[]) ON CONFLICT (digest, health_id, document_id) DO NOTHING
"""
SHARED_UNIQUE_IDS: Final = """
SELECT digest, count(DISTINCT health_id) FROM unique_id WHERE digest = ANY($1::bytea[])
GROUP BY digest HAVING count(DISTINCT health_id) > 1
"""
DROP_NEW_UNIQUE_IDS: Final = """
DELETE FROM unique_id_new WHERE health_id = ANY($1::bigint[]) AND document_id = ANY($2::uuid[])
"""
WAITING: Final = """
SELECT health_id, document_id FROM document
WHERE invisible_patient AND status <> 4 AND noticed_at IS NULL AND submitted_at <= $1 AND submitted_at > $2
ORDER BY submitted_at LIMIT $3
"""
NOTICED: Final = """
UPDATE document SET noticed_at = $3
WHERE health_id = $1 AND document_id = $2 AND noticed_at IS NULL AND invisible_patient
RETURNING invisible_representatives
"""
DUE: Final = """
SELECT health_id, document_id, submitted_at FROM document
WHERE invisible_patient AND status <> 4 AND submitted_at <= $1
AND (submitted_at, health_id, document_id) > ($3, $4, $5)
ORDER BY submitted_at, health_id, document_id LIMIT $2
"""
NAMED_SETS: Final = """
SELECT health_id, submission_set_id, sealed, author_name_digests FROM submission_set
WHERE (health_id, submission_set_id) > ($1, $2::uuid) ORDER BY health_id, submission_set_id LIMIT $3
"""
NAME_DOCUMENT: Final = """
UPDATE document SET author_name_digests = $3
WHERE health_id = $1 AND document_id = $2 AND author_name_digests = '{}'
"""
NAME_SET: Final = """
UPDATE submission_set SET author_name_digests = $3
WHERE health_id = $1 AND submission_set_id = $2 AND author_name_digests = '{}'
"""
DOSSIER_TABLES: Final = """
SELECT c.table_name::text FROM information_schema.columns c
JOIN information_schema.tables t USING (table_schema, table_name)
WHERE c.table_schema = current_schema() AND c.column_name = 'health_id' AND t.table_type = 'BASE TABLE'
ORDER BY 1
"""
KEPT_TABLES: Final = frozenset({"dossier_key", "outbox", "outbox_parked", "reading_sweep"})
"""Tables with a dossier in their rows that outlive it: the mark that its key was destroyed, events on their way, how
far a walk over all dossiers has come."""


_ROW: Final = len(DocumentRow._fields)


class StoredDocument(NamedTuple):
    """A document's row with all its columns."""

    class_code: str
    format_code: str
    created_at: datetime
    service_start: datetime
    service_stop: datetime | None
    unique_id_digest: bytes
    content_id: uuid.UUID
    facility_code: str
    setting_code: str
    confidentiality: list[str]
    event_codes: list[str]
    reference_digests: list[bytes]
    title_digests: list[int]
    set_digest: bytes | None
    set_version: int | None
    author_name_digests: list[int]
    row: DocumentRow


class StoredSet(NamedTuple):
    """A submission set's row."""

    health_id: int
    set_id: uuid.UUID
    unique_id_digest: bytes
    submitted_at: datetime
    source_id: str
    content_type: str
    sealed: bytes


class NamedSet(NamedTuple):
    """A submission set, and what it is found by of its author's names."""

    health_id: int
    set_id: uuid.UUID
    sealed: bytes
    author_name_digests: list[int]


class StoredFolder(NamedTuple):
    """A folder's row."""

    health_id: int
    folder_id: uuid.UUID
    unique_id_digest: bytes
    codes: list[str]
    sealed: bytes


class ContentEntry(NamedTuple):
    """A content without its bytes."""

    health_id: int
    content_id: uuid.UUID
    object_key: str | None
    stored_at: datetime


class NewUniqueId(NamedTuple):
    """A document that the look-up by uniqueId does not know of yet."""

    health_id: int
    document_id: uuid.UUID
    digest: bytes


async def documents(pool: Pool, after: tuple[int, uuid.UUID], last: int, limit: int) -> list[StoredDocument]:
    """Documents after one of them, of dossiers up to `last`."""
    records = [tuple(record) for record in await pool.fetch(DOCUMENTS, *after, last, limit)]
    return [StoredDocument._make((*record[:-_ROW], DocumentRow._make(record[-_ROW:]))) for record in records]


async def named_sets(pool: Pool, after: tuple[int, uuid.UUID], limit: int) -> list[NamedSet]:
    """Submission sets after one of them."""
    return [NamedSet._make(record) for record in await pool.fetch(NAMED_SETS, *after, limit)]


async def versions_of(
    pool: Pool, documents: Sequence[StoredDocument]
) -> list[tuple[int, uuid.UUID, int, uuid.UUID, bytes]]:
    """The earlier versions of these documents: dossier, document, version, entry, seal."""
    return [tuple(record) for record in await pool.fetch(VERSIONS_OF, *_ids(documents))]


async def sets_of(pool: Pool, documents: Sequence[StoredDocument]) -> list[StoredSet]:
    """The submission sets of these documents."""
    ids = [one.row.submission_set_id for one in documents]
    return [StoredSet._make(record) for record in await pool.fetch(SETS_OF, _ids(documents)[0], ids)]


async def folders_of(pool: Pool, documents: Sequence[StoredDocument]) -> list[StoredFolder]:
    """The folders of these documents."""
    ids = [folder_id for one in documents for folder_id in one.row.folder_ids]
    return [StoredFolder._make(record) for record in await pool.fetch(FOLDERS_OF, _ids(documents)[0], ids)]


async def projections_of(pool: Pool, documents: Sequence[StoredDocument]) -> list[ProjectionRow]:
    """The projections of these documents."""
    return [ProjectionRow._make(record) for record in await pool.fetch(PROJECTIONS_OF, *_ids(documents))]


def _ids(documents: Sequence[StoredDocument]) -> tuple[list[int], list[uuid.UUID]]:
    return [one.row.health_id for one in documents], [one.row.document_id for one in documents]


async def contents(pool: Pool, after: tuple[int, uuid.UUID], limit: int) -> list[ContentEntry]:
    """Contents after one of them."""
    return [ContentEntry._make(record) for record in await pool.fetch(CONTENTS, *after, limit)]


async def drop_unused(
    conn: Connection, health_id: int, ids: Sequence[uuid.UUID], deleted_before: datetime
) -> list[str | None]:
    """Remove those of a dossier's contents that no document has but such as were deleted before; gives the keys of
    their objects. Locks the dossier first, so that no submission takes one up meanwhile."""
    await conn.execute(LOCK_CLOCK, health_id)
    unused = await conn.fetch(UNUSED, health_id, list(ids), deleted_before)
    if unused:
        await conn.execute(DROP, health_id, [row[0] for row in unused])
    return [row[1] for row in unused]


async def known_objects(pool: Pool, health_ids: Sequence[int], keys: Sequence[str]) -> set[str]:
    """Those of these objects that belong to a content."""
    return {row[0] for row in await pool.fetch(KNOWN_OBJECTS, list(health_ids), list(keys))}


async def new_unique_ids(pool: Pool, limit: int) -> list[NewUniqueId]:
    """What the look-up does not know of yet."""
    return [NewUniqueId._make(record) for record in await pool.fetch(NEW_UNIQUE_IDS, limit)]


async def index_unique_ids(pool: Pool, new: Sequence[NewUniqueId]) -> set[bytes]:
    """Put them into the look-up; gives the digests that several dossiers hold."""
    digests = [one.digest for one in new]
    await pool.execute(PUT_UNIQUE_IDS, digests, [one.health_id for one in new], [one.document_id for one in new])
    return {row[0] for row in await pool.fetch(SHARED_UNIQUE_IDS, digests)}


async def forget_new(conn: Connection | Pool, new: Sequence[NewUniqueId]) -> None:
    """The look-up knows of them."""
    await conn.execute(DROP_NEW_UNIQUE_IDS, [one.health_id for one in new], [one.document_id for one in new])


async def destroy_rows(conn: Connection, health_id: int) -> None:
    """Remove every row of a dossier, in every table that has rows of dossiers, but KEPT_TABLES."""
    for record in await conn.fetch(DOSSIER_TABLES):
        table: str = record[0]
        if table not in KEPT_TABLES:
            await conn.execute(f'DELETE FROM "{table}" WHERE health_id = $1', health_id)  # noqa: S608 (the catalogue's)
