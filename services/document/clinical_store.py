"""Every statement on projections, and the rows that they give and take.

Here live SQL and rows. Sealing is `clinical_envelope`; what is read is `reading`. The lists begin with the person's
dossiers and the view (`clinical_sources`), joined to the documents that the projections are of: a projection is never
shown to who may not know of its document, and only approved documents have any.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from services.document.clinical_sources import VISIBLE, DocumentKey, View, view_values
from services.runtime import faults
from services.runtime.postgres import Connection, Pool

_COLUMNS: Final = """
p.health_id, p.document_id, p.place, p.kind, p.occurred_at, p.unread, p.series_digest, p.link_digests, p.sealed
"""
_OF_DOCUMENT: Final = (
    "JOIN document d ON d.health_id = ANY($1) AND d.health_id = p.health_id AND d.document_id = p.document_id"
)
_LIST: Final = f"""
WITH known AS MATERIALIZED (
    SELECT p.health_id, p.document_id, p.place, p.occurred_at
    FROM projection p {_OF_DOCUMENT}
    WHERE p.health_id = ANY($1::bigint[]) AND p.kind = $11
    AND ($12::bigint[] IS NULL OR p.subkind = ANY($12))
    AND ($13::bytea[] IS NULL OR p.code_digests && $13)
    AND ($14::timestamptz IS NULL OR p.occurred_at >= $14) AND ($15::timestamptz IS NULL OR p.occurred_at < $15)
    AND {VISIBLE}
), page AS (
    SELECT * FROM known
    WHERE $16::timestamptz IS NULL OR (occurred_at, document_id, place) < ($16, $17::uuid, $18::bigint)
    ORDER BY occurred_at DESC, document_id DESC, place DESC
    LIMIT $19
)
SELECT total.known, {_COLUMNS}
FROM (SELECT count(*) AS known FROM known) AS total
LEFT JOIN (
    page JOIN projection p ON p.health_id = ANY($1) AND p.health_id = page.health_id
    AND p.document_id = page.document_id AND p.place = page.place
) ON true
ORDER BY p.occurred_at DESC, p.document_id DESC, p.place DESC
"""  # noqa: S608 (constants of this module)
# Series one after the other, each newest first: everything descends, so that one row comparison finds the next page.
# What is one series in linked dossiers ($20) goes by one digest ($21).
_SERIES: Final = f"""
WITH known AS MATERIALIZED (
    SELECT p.health_id, p.document_id, p.place, p.occurred_at,
    coalesce(($21::bytea[])[array_position($20::bytea[], p.series_digest)], p.series_digest) AS series_digest
    FROM projection p {_OF_DOCUMENT}
    WHERE p.health_id = ANY($1::bigint[]) AND p.kind = $11 AND p.unread = 0
    AND ($12::bytea[] IS NULL OR p.code_digests && $12)
    AND ($13::timestamptz IS NULL OR p.occurred_at >= $13) AND ($14::timestamptz IS NULL OR p.occurred_at < $14)
    AND {VISIBLE}
), page AS (
    SELECT * FROM known
    WHERE $15::bytea IS NULL
    OR (series_digest, occurred_at, document_id, place) < ($15, $16::timestamptz, $17::uuid, $18::bigint)
    ORDER BY series_digest DESC, occurred_at DESC, document_id DESC, place DESC
    LIMIT $19
)
SELECT total.known, {_COLUMNS}
FROM (SELECT count(*) AS known FROM known) AS total
LEFT JOIN (
    page JOIN projection p ON p.health_id = ANY($1) AND p.health_id = page.health_id
    AND p.document_id = page.document_id AND p.place = page.place
) ON true
ORDER BY page.series_digest DESC, p.occurred_at DESC, p.document_id DESC, p.place DESC
"""  # noqa: S608
# Reports ($11), and the references ($12) that no report which may be known of is linked to. What joins them in linked
# dossiers ($19) goes by one digest ($20).
_IMAGING: Final = f"""
WITH visible AS MATERIALIZED (
    SELECT p.health_id, p.document_id, p.place, p.kind, p.occurred_at,
    CASE WHEN cardinality($19::bytea[]) = 0 THEN p.link_digests ELSE ARRAY(
        SELECT coalesce(($20::bytea[])[array_position($19, link)], link) FROM unnest(p.link_digests) AS link
    ) END AS link_digests
    FROM projection p {_OF_DOCUMENT}
    WHERE p.health_id = ANY($1::bigint[]) AND p.kind IN ($11, $12) AND {VISIBLE}
), known AS (
    SELECT v.health_id, v.document_id, v.place, v.occurred_at FROM visible v
    WHERE (v.kind = $11 OR NOT EXISTS (
        SELECT FROM visible report WHERE report.kind = $11 AND report.link_digests && v.link_digests
    ))
    AND ($13::timestamptz IS NULL OR v.occurred_at >= $13) AND ($14::timestamptz IS NULL OR v.occurred_at < $14)
), page AS (
    SELECT * FROM known
    WHERE $15::timestamptz IS NULL OR (occurred_at, document_id, place) < ($15, $16::uuid, $17::bigint)
    ORDER BY occurred_at DESC, document_id DESC, place DESC
    LIMIT $18
)
SELECT total.known, {_COLUMNS}
FROM (SELECT count(*) AS known FROM known) AS total
LEFT JOIN (
    page JOIN projection p ON p.health_id = ANY($1) AND p.health_id = page.health_id
    AND p.document_id = page.document_id AND p.place = page.place
) ON true
ORDER BY p.occurred_at DESC, p.document_id DESC, p.place DESC
"""  # noqa: S608
_LINKED: Final = f"""
SELECT {_COLUMNS}
FROM projection p {_OF_DOCUMENT}
WHERE p.health_id = ANY($1::bigint[]) AND p.kind = $11 AND p.link_digests && $12::bytea[] AND {VISIBLE}
ORDER BY p.occurred_at DESC, p.document_id DESC, p.place DESC
LIMIT $13
"""  # noqa: S608
# One of each series, and all images: what is compared between linked dossiers.
_ONE_OF_EACH_SERIES: Final = f"""
SELECT DISTINCT ON (p.health_id, p.series_digest) {_COLUMNS}
FROM projection p {_OF_DOCUMENT}
WHERE p.health_id = ANY($1::bigint[]) AND p.kind = $11 AND p.unread = 0 AND {VISIBLE}
ORDER BY p.health_id, p.series_digest
"""  # noqa: S608
_IMAGES: Final = f"""
SELECT {_COLUMNS}
FROM projection p {_OF_DOCUMENT}
WHERE p.health_id = ANY($1::bigint[]) AND p.kind IN ($11, $12) AND p.unread = 0 AND {VISIBLE}
"""  # noqa: S608
_UNREAD: Final = f"""
SELECT p.health_id, p.document_id
FROM projection p {_OF_DOCUMENT}
WHERE p.health_id = ANY($1::bigint[]) AND p.kind = $11 AND p.unread <> 0 AND {VISIBLE}
ORDER BY p.occurred_at DESC, p.document_id DESC
LIMIT $12
"""  # noqa: S608
_PENDING: Final = f"""
SELECT count(*) FROM document d
WHERE d.health_id = ANY($1::bigint[]) AND {VISIBLE}
AND NOT EXISTS (SELECT FROM reading r WHERE r.health_id = d.health_id AND r.document_id = d.document_id)
"""  # noqa: S608
_WAITING: Final = """
SELECT d.document_id FROM document d
WHERE d.health_id = $1 AND d.status = 1
AND NOT EXISTS (SELECT FROM reading r WHERE r.health_id = $1 AND r.document_id = d.document_id)
ORDER BY d.document_id DESC
LIMIT $2
"""
_LEFT_OUT: Final = """
SELECT document_id, left_out FROM reading WHERE health_id = ANY($1::bigint[]) AND document_id = ANY($2::uuid[])
"""
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
_FORGET_DELETED: Final = """
DELETE FROM projection p USING document d
WHERE p.health_id = ANY($1::bigint[]) AND d.health_id = p.health_id AND d.document_id = p.document_id AND d.status = 4
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

    health_id: int
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


class Same(NamedTuple):
    """Digests of linked dossiers, and in their places those that they go by: where both say the same, it is one."""

    theirs: list[bytes]
    ours: list[bytes]

    def rows(self, rows: Sequence[ProjectionRow]) -> list[ProjectionRow]:
        """The rows, by the digests that they go by."""
        if not self.theirs:
            return list(rows)
        known = dict(zip(self.theirs, self.ours, strict=True))
        return [
            row._replace(
                series_digest=known.get(row.series_digest, row.series_digest),
                link_digests=[known.get(link, link) for link in row.link_digests],
            )
            for row in rows
        ]

    def all_of(self, digests: Iterable[bytes]) -> list[bytes]:
        """These digests, and those of linked dossiers that go by them."""
        wanted = set(digests)
        return sorted(
            wanted.union(theirs for theirs, ours in zip(self.theirs, self.ours, strict=True) if ours in wanted)
        )


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


class ClinicalStore:
    """Reads projections. Each method is one statement."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def listed(
        self,
        health_ids: Sequence[int],
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
        return _rows(await self._pool.fetch(_LIST, health_ids, *view_values(view), *values))

    async def series(
        self,
        health_ids: Sequence[int],
        view: View,
        kind: int,
        *,
        codes: list[bytes] | None,
        span: tuple[datetime | None, datetime | None],
        after: tuple[bytes, Place] | None,
        limit: int,
        same: Same,
    ) -> Rows:
        """Results series by series, each newest first."""
        position = (None, None, None, None) if after is None else (after[0], *after[1])
        values = (kind, codes, *span, *position, limit, *same)
        page = _rows(await self._pool.fetch(_SERIES, health_ids, *view_values(view), *values))
        return page._replace(rows=same.rows(page.rows))

    async def imaging(
        self,
        health_ids: Sequence[int],
        view: View,
        kinds: tuple[int, int],
        *,
        span: tuple[datetime | None, datetime | None],
        after: Place | None,
        limit: int,
        same: Same,
    ) -> Rows:
        """Reports and the references that stand by themselves, newest first."""
        values = (*kinds, *span, *(after or (None, None, None)), limit, *same)
        page = _rows(await self._pool.fetch(_IMAGING, health_ids, *view_values(view), *values))
        return page._replace(rows=same.rows(page.rows))

    async def linked(
        self, health_ids: Sequence[int], view: View, kind: int, links: Iterable[bytes], limit: int, same: Same
    ) -> list[ProjectionRow]:
        """Projections of a kind with any of these links, newest first."""
        wanted = same.all_of(links)
        records = await self._pool.fetch(_LINKED, health_ids, *view_values(view), kind, wanted, limit)
        return same.rows([ProjectionRow._make(record) for record in records])

    async def one_of_each_series(self, health_ids: Sequence[int], view: View, kind: int) -> list[ProjectionRow]:
        """One result of each series of each of these dossiers."""
        records = await self._pool.fetch(_ONE_OF_EACH_SERIES, health_ids, *view_values(view), kind)
        return [ProjectionRow._make(record) for record in records]

    async def images(self, health_ids: Sequence[int], view: View, kinds: tuple[int, int]) -> list[ProjectionRow]:
        """All reports and references of these dossiers."""
        records = await self._pool.fetch(_IMAGES, health_ids, *view_values(view), *kinds)
        return [ProjectionRow._make(record) for record in records]

    async def unread(self, health_ids: Sequence[int], view: View, kind: int, limit: int) -> list[DocumentKey]:
        """Documents that stand unread in the list of a kind, newest first."""
        return [
            DocumentKey._make(row)
            for row in await self._pool.fetch(_UNREAD, health_ids, *view_values(view), kind, limit)
        ]

    async def pending(self, health_ids: Sequence[int], view: View) -> int:
        """How many documents that may be known of wait to be read."""
        count: int = await self._pool.fetchval(_PENDING, health_ids, *view_values(view))
        return count

    async def waiting(self, health_id: int, limit: int) -> list[uuid.UUID]:
        """Documents of a dossier that wait to be read, the latest first."""
        return [row[0] for row in await self._pool.fetch(_WAITING, health_id, limit)]

    async def forget_deleted(self, health_ids: list[int]) -> None:
        """Remove what deleted documents said: as their content, it is gone for all."""
        await self._pool.execute(_FORGET_DELETED, health_ids)

    async def left_out(self, health_ids: Sequence[int], document_ids: list[uuid.UUID]) -> dict[uuid.UUID, int]:
        """How much of these documents could not be read."""
        return {row[0]: row[1] for row in await self._pool.fetch(_LEFT_OUT, health_ids, document_ids)}


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
    faults.point("reading.cleared")
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
