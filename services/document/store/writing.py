"""What a change of a dossier reads, locks and writes. Every change first locks the dossier's clock, so that the changes
of one dossier happen one after another, and what is read after the lock stays true until the commit.

Statements take many dossiers at once: submissions are committed in groups (`commit`).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from services.document.store.reading import BY_ENTRY
from services.document.store.rows import COLUMNS, DocumentRow
from services.runtime.postgres import Connection

# In the order of the dossiers, so that two groups never wait for each other. Times of one dossier never stand still.
LOCK: Final = """
INSERT INTO dossier_clock (health_id, sequence, changed_at)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[]) AS wanted (health_id, steps, now) ORDER BY health_id
ON CONFLICT (health_id) DO UPDATE SET
    sequence = dossier_clock.sequence + excluded.sequence,
    changed_at = greatest(excluded.changed_at, dossier_clock.changed_at + interval '1 microsecond')
RETURNING health_id, sequence, changed_at
"""
FACTS: Final = f"""
SELECT {COLUMNS}, d.unique_id_digest, d.set_digest, d.set_version FROM document d
WHERE d.health_id = ANY($1::bigint[]) AND d.unique_id_digest = ANY($2::bytea[])
UNION ALL
SELECT {COLUMNS}, d.unique_id_digest, d.set_digest, d.set_version FROM document d
WHERE d.health_id = ANY($1::bigint[]) AND d.set_digest = ANY($3::bytea[])
UNION ALL
SELECT {COLUMNS}, d.unique_id_digest, d.set_digest, d.set_version FROM document d
WHERE d.health_id = ANY($1::bigint[]) AND d.document_id = ANY($4::uuid[])
"""  # noqa: S608 (the columns are a constant)
TAKEN: Final = """
SELECT health_id, unique_id_digest, NULL::uuid AS folder_id, NULL::bytea AS sealed FROM submission_set
WHERE health_id = ANY($1::bigint[]) AND unique_id_digest = ANY($2::bytea[])
UNION ALL
SELECT health_id, unique_id_digest, folder_id, sealed FROM folder
WHERE health_id = ANY($1::bigint[]) AND unique_id_digest = ANY($3::bytea[])
UNION ALL
SELECT health_id, unique_id_digest, folder_id, sealed FROM folder
WHERE health_id = ANY($1::bigint[]) AND folder_id = ANY($4::uuid[])
"""
PUT_SET: Final = """
INSERT INTO submission_set (
    health_id, submission_set_id, unique_id_digest, status, submitted_at, sealed, source_id, content_type,
    author_digests, institution_digests, author_name_digests
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""
PUT_DOCUMENT: Final = """
INSERT INTO document (
    health_id, document_id, logical_id, version, status, type_code, submitted_at, submission_set_id, masked,
    invisible_patient, invisible_representatives, author_digests, stored_size, sealed, entry_id, changed_at, change,
    status_before, replaced_by, relations, folder_ids, institution_digests, class_code, format_code, created_at,
    service_start, service_stop, unique_id_digest, content_id, facility_code, setting_code, confidentiality,
    event_codes, reference_digests, title_digests, set_digest, set_version, author_name_digests
) VALUES (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25,
    $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38
)
"""
# The parts do not see each other, and need not. Of a content that is there already the new copy is kept: the bytes are
# the same, and the old copy may be damaged or lost (its object, if any, is swept).
PUT_REST: Final = """
WITH contents AS (
    INSERT INTO content (health_id, content_id, sealed, object_key, stored_size)
    SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::bytea[], $4::text[], $5::bigint[])
    ON CONFLICT (health_id, content_id) DO UPDATE SET
        sealed = excluded.sealed, object_key = excluded.object_key, stored_size = excluded.stored_size
), pending AS (
    INSERT INTO unique_id_new (health_id, document_id, digest)
    SELECT * FROM unnest($6::bigint[], $7::uuid[], $8::bytea[])
), uploads AS (
    DELETE FROM upload WHERE health_id = ANY($9::bigint[]) AND upload_id = ANY($10::uuid[])
), chunks AS (
    DELETE FROM upload_chunk WHERE health_id = ANY($9::bigint[]) AND upload_id = ANY($10::uuid[])
)
INSERT INTO change (health_id, sequence, document_id, kind, changed_at)
SELECT * FROM unnest($11::bigint[], $12::bigint[], $13::uuid[], $14::bigint[], $15::timestamptz[])
"""
UPDATE: Final = """
UPDATE document SET
    version = $3, status = $4, masked = $5, invisible_patient = $6, invisible_representatives = $7, entry_id = $8,
    changed_at = $9, change = $10, status_before = $11, replaced_by = $12, folder_ids = $13, sealed = $14
WHERE health_id = $1 AND document_id = $2
"""
KEEP_VERSION: Final = """
INSERT INTO document_version (health_id, document_id, version, entry_id, sealed) VALUES ($1, $2, $3, $4, $5)
"""
PUT_CHANGE: Final = """
INSERT INTO change (health_id, sequence, document_id, kind, changed_at) VALUES ($1, $2, $3, $4, $5)
"""
PUT_FOLDER: Final = """
INSERT INTO folder (health_id, folder_id, unique_id_digest, status, updated_at, submission_set_id, codes, sealed)
VALUES ($1, $2, $3, 1, $4, $5, $6, $7)
"""
TOUCH_FOLDERS: Final = "UPDATE folder SET updated_at = $3 WHERE health_id = $1 AND folder_id = ANY($2::uuid[])"


class Moment(NamedTuple):
    """A dossier's clock, locked: the first number that the change may give, and its time."""

    sequence: int
    now: datetime


class Fact(NamedTuple):
    """A document of the dossier that bears on a submission."""

    row: DocumentRow
    unique_id_digest: bytes
    set_digest: bytes | None
    set_version: int | None


class Taken(NamedTuple):
    """A submission set (no folder id) or a folder that bears on a submission."""

    health_id: int
    unique_id_digest: bytes
    folder_id: uuid.UUID | None
    sealed: bytes | None


@dataclass(frozen=True, slots=True)
class NewSet:
    """A submission set to store."""

    submission_set_id: uuid.UUID
    unique_id_digest: bytes
    status: int
    submitted_at: datetime
    sealed: bytes
    source_id: str
    content_type: str
    author_digests: list[bytes]
    institution_digests: list[bytes]
    author_name_digests: list[int]


@dataclass(frozen=True, slots=True)
class NewContent:
    """A content to store, here or already in the object store."""

    content_id: uuid.UUID
    sealed: bytes | None
    object_key: str | None
    stored_size: int


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A document to store: its row, and the columns that are only searched by."""

    row: DocumentRow
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

    def values(self) -> tuple[object, ...]:
        """The parameters of PUT_DOCUMENT."""
        return (
            *self.row,
            self.class_code,
            self.format_code,
            self.created_at,
            self.service_start,
            self.service_stop,
            self.unique_id_digest,
            self.content_id,
            self.facility_code,
            self.setting_code,
            self.confidentiality,
            self.event_codes,
            self.reference_digests,
            self.title_digests,
            self.set_digest,
            self.set_version,
            self.author_name_digests,
        )


@dataclass(frozen=True, slots=True)
class NewFolder:
    """A folder to store."""

    folder_id: uuid.UUID
    unique_id_digest: bytes
    codes: list[str]
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Revision:
    """A document that changes: its row as it will be, sealed, and the version that is kept of what it was."""

    row: DocumentRow
    kept: DocumentRow
    kept_sealed: bytes


@dataclass(frozen=True, slots=True)
class Submission:
    """All that one submission writes. `moments` are those of its dossier and of the others that it changes: `sequence`
    is the number of the first change in each."""

    health_id: int
    moments: Mapping[int, Moment]
    new_set: NewSet
    documents: Sequence[NewDocument]
    contents: Sequence[NewContent]
    folders: Sequence[NewFolder]
    touched_folders: Sequence[uuid.UUID]
    revisions: Sequence[Revision]
    uploads: Sequence[uuid.UUID]


async def lock(conn: Connection, wanted: dict[int, int], now: datetime) -> dict[int, Moment]:
    """Lock the clocks of dossiers, until the transaction ends, and advance each by so many steps."""
    ids = sorted(wanted)
    records = await conn.fetch(LOCK, ids, [wanted[health_id] for health_id in ids], [now] * len(ids))
    return {row[0]: Moment(row[1] - wanted[row[0]] + 1, row[2]) for row in records}


async def facts(
    conn: Connection,
    health_ids: Sequence[int],
    unique_ids: Sequence[bytes],
    sets: Sequence[bytes],
    documents: Sequence[uuid.UUID],
) -> dict[int, list[Fact]]:
    """Documents of these dossiers with one of these identifiers, each once."""
    found: dict[tuple[int, uuid.UUID], Fact] = {}
    for record in await conn.fetch(FACTS, health_ids, unique_ids, sets, documents):
        values = tuple(record)
        found[values[0], values[1]] = Fact(DocumentRow._make(values[:-3]), *values[-3:])
    by_dossier: dict[int, list[Fact]] = {health_id: [] for health_id in health_ids}
    for (health_id, _), fact in found.items():
        by_dossier[health_id].append(fact)
    return by_dossier


async def by_entry(conn: Connection, health_id: int, entry_id: uuid.UUID) -> uuid.UUID | None:
    """The document that has, or had, this entryUUID."""
    found: uuid.UUID | None = await conn.fetchval(BY_ENTRY, health_id, entry_id)
    return found


async def taken(
    conn: Connection,
    health_ids: Sequence[int],
    sets: Sequence[bytes],
    folders: Sequence[bytes],
    folder_ids: Sequence[uuid.UUID],
) -> dict[int, list[Taken]]:
    """Submission sets and folders of these dossiers with one of these identifiers."""
    by_dossier: dict[int, list[Taken]] = {health_id: [] for health_id in health_ids}
    for record in await conn.fetch(TAKEN, health_ids, sets, folders, folder_ids):
        by_dossier[record[0]].append(Taken._make(record))
    return by_dossier


async def insert(conn: Connection, submissions: Sequence[Submission]) -> None:
    """Write submissions of different dossiers."""
    await conn.executemany(PUT_SET, [_set_values(submission) for submission in submissions])
    await conn.executemany(PUT_DOCUMENT, [d.values() for submission in submissions for d in submission.documents])
    contents = [(s.health_id, c) for s in submissions for c in s.contents]
    added = [(s.health_id, d) for s in submissions for d in s.documents]
    uploads = [(s.health_id, upload) for s in submissions for upload in s.uploads]
    changes = [change for submission in submissions for change in _changes(submission)]
    await conn.execute(
        PUT_REST,
        [health_id for health_id, _ in contents],
        [c.content_id for _, c in contents],
        [c.sealed for _, c in contents],
        [c.object_key for _, c in contents],
        [c.stored_size for _, c in contents],
        [health_id for health_id, _ in added],
        [d.row.document_id for _, d in added],
        [d.unique_id_digest for _, d in added],
        [health_id for health_id, _ in uploads],
        [upload for _, upload in uploads],
        *(list(column) for column in zip(*changes, strict=True)),
    )
    for submission in submissions:
        await _insert_folders(conn, submission)
        for revision in submission.revisions:
            await revise(conn, revision)


async def revise(conn: Connection, revision: Revision) -> None:
    """Give a document its next version and keep the one before."""
    row, kept = revision.row, revision.kept
    entry = kept.entry_id or kept.document_id
    await conn.execute(KEEP_VERSION, kept.health_id, kept.document_id, kept.version, entry, revision.kept_sealed)
    await conn.execute(
        UPDATE,
        row.health_id,
        row.document_id,
        row.version,
        row.status,
        row.masked,
        row.invisible_patient,
        row.invisible_representatives,
        row.entry_id,
        row.changed_at,
        row.change,
        row.status_before,
        row.replaced_by,
        row.folder_ids,
        row.sealed,
    )


async def put_change(conn: Connection, row: DocumentRow, sequence: int) -> None:
    """Tell that a document has changed."""
    await conn.execute(PUT_CHANGE, row.health_id, sequence, row.document_id, row.change, row.changed_at)


def _changes(submission: Submission) -> list[tuple[int, int, uuid.UUID, int, datetime | None]]:
    changes = []
    steps = dict.fromkeys(submission.moments, 0)
    for row in (*(r.row for r in submission.revisions), *(d.row for d in submission.documents)):
        sequence = submission.moments[row.health_id].sequence + steps[row.health_id]
        changes.append((row.health_id, sequence, row.document_id, row.change, row.changed_at))
        steps[row.health_id] += 1
    return changes


def _set_values(submission: Submission) -> tuple[object, ...]:
    new = submission.new_set
    return (
        submission.health_id,
        new.submission_set_id,
        new.unique_id_digest,
        new.status,
        new.submitted_at,
        new.sealed,
        new.source_id,
        new.content_type,
        new.author_digests,
        new.institution_digests,
        new.author_name_digests,
    )


async def _insert_folders(conn: Connection, submission: Submission) -> None:
    set_id, now = submission.new_set.submission_set_id, submission.moments[submission.health_id].now
    for folder in submission.folders:
        await conn.execute(
            PUT_FOLDER,
            submission.health_id,
            folder.folder_id,
            folder.unique_id_digest,
            now,
            set_id,
            folder.codes,
            folder.sealed,
        )
    if submission.touched_folders:
        await conn.execute(TOUCH_FOLDERS, submission.health_id, list(submission.touched_folders), now)
