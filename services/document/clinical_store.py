"""Every statement on projections, and the rows that they give and take.

Here live SQL and rows. Sealing is `clinical_envelope`; what is read is `reading`. The lists begin with the dossier and
the view ($1 to $10), joined to the documents that the projections are of: a projection is never shown to who may not
know of its document, and only approved documents have any.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from services.document.access import View
from services.document.store.rows import DocumentKey
from services.runtime.postgres import Connection, Pool

_APPROVED: Final = "d.status = 1"
_VISIBLE: Final = """
    d.type_code <> ALL($2::text[])
    AND (NOT d.masked OR $3::boolean OR coalesce($4::bytea = ANY(d.author_digests), false))
    AND (NOT d.invisible_patient OR $5::timestamptz IS NULL OR d.submitted_at <= $5)
    AND NOT (d.invisible_representatives AND $6::boolean)
"""
_COLUMNS: Final = "p.document_id, p.place, p.kind, p.occurred_at, p.unread, p.series_digest, p.link_digests, p.sealed"
_LIST: Final = f"""
WITH known AS MATERIALIZED (
    SELECT p.document_id, p.place, p.occurred_at
    FROM projection p JOIN document d ON d.health_id = $1 AND d.document_id = p.document_id
    WHERE p.health_id = $1 AND p.kind = $7
    AND ($8::bigint[] IS NULL OR p.subkind = ANY($8))
    AND ($9::bytea[] IS NULL OR p.code_digests && $9)
    AND ($10::timestamptz IS NULL OR p.occurred_at >= $10) AND ($11::timestamptz IS NULL OR p.occurred_at < $11)
    AND {_APPROVED} AND {_VISIBLE}
), page AS (
    SELECT * FROM known
    WHERE $12::timestamptz IS NULL OR (occurred_at, document_id, place) < ($12, $13::uuid, $14::bigint)
    ORDER BY occurred_at DESC, document_id DESC, place DESC
    LIMIT $15
)
SELECT total.known, {_COLUMNS}
FROM (SELECT count(*) AS known FROM known) AS total
LEFT JOIN (
    page JOIN projection p ON p.health_id = $1 AND p.document_id = page.document_id AND p.place = page.place
) ON true
ORDER BY p.occurred_at DESC, p.document_id DESC, p.place DESC
"""  # noqa: S608 (constants of this module)
# Series one after the other, each newest first: everything descends, so that one row comparison finds the next page.
_SERIES: Final = f"""
WITH known AS MATERIALIZED (
    SELECT p.document_id, p.place, p.occurred_at, p.series_digest
    FROM projection p JOIN document d ON d.health_id = $1 AND d.document_id = p.document_id
    WHERE p.health_id = $1 AND p.kind = $7 AND p.unread = 0
    AND ($8::bytea[] IS NULL OR p.code_digests && $8)
    AND ($9::timestamptz IS NULL OR p.occurred_at >= $9) AND ($10::timestamptz IS NULL OR p.occurred_at < $10)
    AND {_APPROVED} AND {_VISIBLE}
), page AS (
    SELECT * FROM known
    WHERE $11::bytea IS NULL
    OR (series_digest, occurred_at, document_id, place) < ($11, $12::timestamptz, $13::uuid, $14::bigint)
    ORDER BY series_digest DESC, occurred_at DESC, document_id DESC, place DESC
    LIMIT $15
)
SELECT total.known, {_COLUMNS}
FROM (SELECT count(*) AS known FROM known) AS total
LEFT JOIN (
    page JOIN projection p ON p.health_id = $1 AND p.document_id = page.document_id AND p.place = page.place
) ON true
ORDER BY p.series_digest DESC, p.occurred_at DESC, p.document_id DESC, p.place DESC
"""  # noqa: S608
# Reports ($7), and the references ($8) that no report which may be known of is linked to.
_IMAGING: Final = f"""
WITH visible AS MATERIALIZED (
    SELECT p.document_id, p.place, p.kind, p.occurred_at, p.link_digests
    FROM projection p JOIN document d ON d.health_id = $1 AND d.document_id = p.document_id
    WHERE p.health_id = $1 AND p.kind IN ($7, $8) AND {_APPROVED} AND {_VISIBLE}
), known AS (
    SELECT v.document_id, v.place, v.occurred_at FROM visible v
    WHERE (v.kind = $7 OR NOT EXISTS (
        SELECT FROM visible report WHERE report.kind = $7 AND report.link_digests && v.link_digests
    ))
    AND ($9::timestamptz IS NULL OR v.occurred_at >= $9) AND ($10::timestamptz IS NULL OR v.occurred_at < $10)
), page AS (
    SELECT * FROM known
    WHERE $11::timestamptz IS NULL OR (occurred_at, document_id, place) < ($11, $12::uuid, $13::bigint)
    ORDER BY occurred_at DESC, document_id DESC, place DESC
    LIMIT $14
)
SELECT total.known, {_COLUMNS}
FROM (SELECT count(*) AS known FROM known) AS total
LEFT JOIN (
    page JOIN projection p ON p.health_id = $1 AND p.document_id = page.document_id AND p.place = page.place
) ON true
ORDER BY p.occurred_at DESC, p.document_id DESC, p.place DESC
"""  # noqa: S608
_LINKED: Final = f"""
SELECT {_COLUMNS}
FROM projection p JOIN document d ON d.health_id = $1 AND d.document_id = p.document_id
WHERE p.health_id = $1 AND p.kind = $7 AND p.link_digests && $8::bytea[] AND {_APPROVED} AND {_VISIBLE}
ORDER BY p.occurred_at DESC, p.document_id DESC, p.place DESC
LIMIT $9
"""  # noqa: S608
_UNREAD: Final = f"""
SELECT p.document_id
FROM projection p JOIN document d ON d.health_id = $1 AND d.document_id = p.document_id
WHERE p.health_id = $1 AND p.kind = $7 AND p.unread <> 0 AND {_APPROVED} AND {_VISIBLE}
ORDER BY p.occurred_at DESC, p.document_id DESC
LIMIT $8
"""  # noqa: S608
_PENDING: Final = f"""
SELECT count(*) FROM document d
WHERE d.health_id = $1 AND {_APPROVED} AND {_VISIBLE}
AND NOT EXISTS (SELECT FROM reading r WHERE r.health_id = $1 AND r.document_id = d.document_id)
"""  # noqa: S608
_WAITING: Final = """
SELECT d.document_id FROM document d
WHERE d.health_id = $1 AND d.status = 1
AND NOT EXISTS (SELECT FROM reading r WHERE r.health_id = $1 AND r.document_id = d.document_id)
ORDER BY d.document_id DESC
LIMIT $2
"""
_LEFT_OUT: Final = "SELECT document_id, left_out FROM reading WHERE health_id = $1 AND document_id = ANY($2::uuid[])"
# Whoever comes first with a version writes; a row of the same reading made meanwhile by another process is as good.
_RECORD: Final = """
INSERT INTO reading (health_id, document_id, reader_version, unread, left_out, read_at)
SELECT $1, $2, $3, $4, $5, $6
WHERE EXISTS (SELECT FROM document d WHERE d.health_id = $1 AND d.document_id = $2)
ON CONFLICT (health_id, document_id) DO UPDATE SET
    reader_version = excluded.reader_version, unread = excluded.unread, left_out = excluded.left_out,
    read_at = excluded.read_at
WHERE reading.read_at < $7
RETURNING true
"""
_CLEAR: Final = "DELETE FROM projection WHERE health_id = $1 AND document_id = $2"
_INSERT: Final = """
INSERT INTO projection (
    health_id, document_id, place, kind, subkind, occurred_at, unread, series_digest, code_digests, link_digests, sealed
)
SELECT $1, $2, new.place, new.kind, new.subkind, new.occurred_at, new.unread, new.series_digest,
    ARRAY(SELECT c.digest FROM unnest($10::bigint[], $11::bytea[]) AS c (place, digest) WHERE c.place = new.place),
    ARRAY(SELECT l.digest FROM unnest($12::bigint[], $13::bytea[]) AS l (place, digest) WHERE l.place = new.place),
    new.sealed
FROM unnest(
    $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::bigint[], $8::bytea[], $9::bytea[]
) AS new (place, kind, subkind, occurred_at, unread, series_digest, sealed)
"""
_FORGET: Final = """
WITH gone AS (DELETE FROM projection WHERE health_id = $1)
DELETE FROM reading WHERE health_id = $1
"""


class Place(NamedTuple):
    """Where a list goes on: the last row of a page."""

    occurred_at: datetime
    document_id: uuid.UUID
    place: int


class ProjectionRow(NamedTuple):
    """A projection as its row has it, in the order of `_COLUMNS`."""

    document_id: uuid.UUID
    place: int
    kind: int
    occurred_at: datetime
    unread: int
    series_digest: bytes
    link_digests: list[bytes]
    sealed: bytes

    @property
    def position(self) -> Place:
        """Where it stands in a list by time."""
        return Place(self.occurred_at, self.document_id, self.place)


class Rows(NamedTuple):
    """A page in order, and how many match over all pages."""

    rows: list[ProjectionRow]
    total: int


class NewProjection(NamedTuple):
    """A projection to store."""

    place: int
    kind: int
    subkind: int
    occurred_at: datetime
    unread: int
    series_digest: bytes
    sealed: bytes
    code_digests: tuple[bytes, ...]
    link_digests: tuple[bytes, ...]


def view_values(view: View) -> tuple[Any, ...]:
    """A view as the parameters $2 to $6."""
    return (
        list(view.denied_types),
        view.sees_masked,
        view.masked_own_digest,
        view.patient_cutoff,
        view.as_representative,
    )


class ClinicalStore:
    """Reads projections. Each method is one statement."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def listed(
        self,
        health_id: int,
        view: View,
        kind: int,
        *,
        subkinds: list[int] | None,
        codes: list[bytes] | None,
        span: tuple[datetime | None, datetime | None],
        after: Place | None,
        limit: int,
    ) -> Rows:
        """Projections of a kind, newest first."""
        values = (kind, subkinds, codes, *span, *(after or (None, None, None)), limit)
        return _rows(await self._pool.fetch(_LIST, health_id, *view_values(view), *values))

    async def series(
        self,
        health_id: int,
        view: View,
        kind: int,
        *,
        codes: list[bytes] | None,
        span: tuple[datetime | None, datetime | None],
        after: tuple[bytes, Place] | None,
        limit: int,
    ) -> Rows:
        """Results series by series, each newest first."""
        position = (None, None, None, None) if after is None else (after[0], *after[1])
        values = (kind, codes, *span, *position, limit)
        return _rows(await self._pool.fetch(_SERIES, health_id, *view_values(view), *values))

    async def imaging(
        self,
        health_id: int,
        view: View,
        kinds: tuple[int, int],
        *,
        span: tuple[datetime | None, datetime | None],
        after: Place | None,
        limit: int,
    ) -> Rows:
        """Reports and the references that stand by themselves, newest first."""
        values = (*kinds, *span, *(after or (None, None, None)), limit)
        return _rows(await self._pool.fetch(_IMAGING, health_id, *view_values(view), *values))

    async def linked(
        self, health_id: int, view: View, kind: int, links: list[bytes], limit: int
    ) -> list[ProjectionRow]:
        """Projections of a kind with any of these links, newest first."""
        records = await self._pool.fetch(_LINKED, health_id, *view_values(view), kind, links, limit)
        return [ProjectionRow._make(record) for record in records]

    async def unread(self, health_id: int, view: View, kind: int, limit: int) -> list[uuid.UUID]:
        """Documents that stand unread in the list of a kind, newest first."""
        return [row[0] for row in await self._pool.fetch(_UNREAD, health_id, *view_values(view), kind, limit)]

    async def pending(self, health_id: int, view: View) -> int:
        """How many documents that may be known of wait to be read."""
        count: int = await self._pool.fetchval(_PENDING, health_id, *view_values(view))
        return count

    async def waiting(self, health_id: int, limit: int) -> list[uuid.UUID]:
        """Documents of a dossier that wait to be read, the latest first."""
        return [row[0] for row in await self._pool.fetch(_WAITING, health_id, limit)]

    async def left_out(self, health_id: int, document_ids: list[uuid.UUID]) -> dict[uuid.UUID, int]:
        """How much of these documents could not be read."""
        return {row[0]: row[1] for row in await self._pool.fetch(_LEFT_OUT, health_id, document_ids)}


async def replace(
    conn: Connection,
    key: DocumentKey,
    reading: tuple[int, int, int, datetime],
    before: datetime,
    projections: Sequence[NewProjection],
) -> bool:
    """Store a reading (version, unread, left out, when) in place of an earlier one.

    False, and nothing done, when one of `before` or later is there, or the document is gone. The caller's transaction
    holds the dossier's key.
    """
    if not await conn.fetchval(_RECORD, *key, *reading, before):
        return False
    await conn.execute(_CLEAR, *key)
    await conn.execute(
        _INSERT,
        *key,
        [new.place for new in projections],
        [new.kind for new in projections],
        [new.subkind for new in projections],
        [new.occurred_at for new in projections],
        [new.unread for new in projections],
        [new.series_digest for new in projections],
        [new.sealed for new in projections],
        [new.place for new in projections for _ in new.code_digests],
        [digest for new in projections for digest in new.code_digests],
        [new.place for new in projections for _ in new.link_digests],
        [digest for new in projections for digest in new.link_digests],
    )
    return True


async def forget(conn: Connection, health_id: int) -> None:
    """Remove all that was read in a dossier: it is destroyed."""
    await conn.execute(_FORGET, health_id)


def _rows(records: Sequence[Any]) -> Rows:
    rows = [ProjectionRow._make(tuple(record)[1:]) for record in records if record["document_id"] is not None]
    return Rows(rows, records[0]["known"])
