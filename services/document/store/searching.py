"""What is found by criteria and bounded by a view: documents, submission sets, folders, changes.

Every statement begins with the dossiers of the person (nearly always one) and the view ($1 to $10, `view_values`), so
that rights are applied before anything is counted or cut into pages. One statement gives a page and its exact total.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import asyncpg

from services.document.access import View
from services.document.store.rows import COLUMNS, DocumentRow
from services.runtime.postgres import Pool

_Record = asyncpg.Record

VISIBLE: Final = """
    d.type_code <> ALL($2::text[])
    AND (NOT d.masked OR $3::boolean OR coalesce($4::bytea = ANY(d.author_digests), false))
    AND (NOT d.invisible_patient OR $5::timestamptz IS NULL OR d.submitted_at <= $5)
    AND NOT (d.invisible_representatives AND $6::boolean)
    AND d.status <> ALL($7::bigint[])
    AND CASE $8::bigint
        WHEN 0 THEN true
        WHEN 1 THEN coalesce($9::bytea = ANY(d.author_digests), false)
        WHEN 2 THEN coalesce($10::bytea = ANY(d.author_digests || d.institution_digests), false)
        WHEN 3 THEN d.type_code ~ '^(DOCPAT|EXPPAT)'
        ELSE false END
"""
_MATCHES: Final = """
    d.status = ANY($11::bigint[])
    AND ($12::text[] IS NULL OR d.type_code = ANY($12))
    AND ($13::text[] IS NULL OR d.class_code = ANY($13))
    AND ($14::text[] IS NULL OR d.format_code = ANY($14))
    AND ($15::text[] IS NULL OR d.facility_code = ANY($15))
    AND ($16::text[] IS NULL OR d.setting_code = ANY($16))
    AND ($17::text[] IS NULL OR d.confidentiality && $17
        OR d.masked AND 'MASQUE_PS' = ANY($17) OR d.invisible_patient AND 'INVISIBLE_PATIENT' = ANY($17)
        OR d.invisible_representatives AND 'INVISIBLE_REPRESENTANTS_LEGAUX' = ANY($17))
    AND ($18::text[] IS NULL OR d.event_codes && $18)
    AND ($19::bytea[] IS NULL OR d.author_digests && $19)
    AND ($20::bytea[] IS NULL OR d.institution_digests && $20)
    AND ($21::bytea[] IS NULL OR d.reference_digests && $21)
    AND ($22::bytea[] IS NULL OR d.unique_id_digest = ANY($22) OR $54::uuid[] && ARRAY[d.document_id, d.entry_id])
    AND ($23::uuid[] IS NULL OR d.document_id = ANY($23) OR d.entry_id = ANY($23))
    AND ($24::uuid IS NULL OR $24 = ANY(d.folder_ids))
    AND ($25::text[] IS NULL OR d.relations && $25)
    AND ($26::bigint[] IS NULL OR d.title_digests @> ARRAY(
        SELECT wanted.digest FROM unnest($53::bigint[], $26) AS wanted (health_id, digest)
        WHERE wanted.health_id = d.health_id
    ))
    AND ($27::uuid IS NULL OR d.submission_set_id = $27)
    AND ($28::bigint[] IS NULL OR d.author_name_digests && $28)
    AND ($29::bigint[] IS NULL OR d.author_name_digests && $29)
    AND ($30::timestamptz IS NULL OR d.created_at >= $30) AND ($31::timestamptz IS NULL OR d.created_at < $31)
    AND ($32::timestamptz IS NULL OR d.created_at < $32 OR d.created_at >= $33)
    AND ($34::timestamptz IS NULL OR d.service_start >= $34) AND ($35::timestamptz IS NULL OR d.service_start < $35)
    AND ($36::timestamptz IS NULL OR d.service_start < $36 OR d.service_start >= $37)
    AND ($38::timestamptz IS NULL OR coalesce(d.service_stop, d.service_start) >= $38)
    AND ($39::timestamptz IS NULL OR coalesce(d.service_stop, d.service_start) < $39)
    AND ($40::timestamptz IS NULL OR coalesce(d.service_stop, d.service_start) < $40
        OR coalesce(d.service_stop, d.service_start) >= $41)
    AND ($42::timestamptz IS NULL OR d.submitted_at >= $42) AND ($43::timestamptz IS NULL OR d.submitted_at < $43)
    AND ($44::timestamptz IS NULL OR d.submitted_at < $44 OR d.submitted_at >= $45)
    AND ($46::timestamptz IS NULL OR coalesce(d.changed_at, d.submitted_at) >= $46)
    AND ($47::timestamptz IS NULL OR coalesce(d.changed_at, d.submitted_at) < $47)
    AND ($48::timestamptz IS NULL OR coalesce(d.changed_at, d.submitted_at) < $48
        OR coalesce(d.changed_at, d.submitted_at) >= $49)
"""


def _ordered(order: str, direction: str) -> str:
    after = "<" if direction == "DESC" else ">"
    return f"""
WITH known AS MATERIALIZED (
    SELECT d.health_id, d.document_id, d.{order} AS place FROM document d
    WHERE d.health_id = ANY($1::bigint[]) AND {_MATCHES} AND {VISIBLE}
), page AS (
    SELECT health_id, document_id, place FROM known
    WHERE $50::timestamptz IS NULL OR (place, document_id) {after} ($50, $51::uuid)
    ORDER BY place {direction}, document_id {direction}
    LIMIT $52
)
SELECT total.known, {COLUMNS}, page.place
FROM (SELECT count(*) AS known FROM known) AS total
LEFT JOIN (
    page JOIN document d
    ON d.health_id = ANY($1::bigint[]) AND d.health_id = page.health_id AND d.document_id = page.document_id
) ON true
ORDER BY page.place {direction}, d.document_id {direction}
"""  # noqa: S608 (constants of this module)


SEARCHES: Final = {
    (order, direction): _ordered(order, direction)
    for order in ("submitted_at", "service_start", "created_at")
    for direction in ("DESC", "ASC")
}
"""One constant statement for each order."""
SEARCH: Final = SEARCHES["submitted_at", "DESC"]
SETS: Final = f"""
WITH known AS MATERIALIZED (
    SELECT s.health_id, s.submission_set_id, s.submitted_at FROM submission_set s
    WHERE s.health_id = ANY($1::bigint[])
    AND ($11::timestamptz IS NULL OR s.submitted_at >= $11) AND ($12::timestamptz IS NULL OR s.submitted_at < $12)
    AND ($13::timestamptz IS NULL OR s.submitted_at < $13 OR s.submitted_at >= $14)
    AND ($15::text IS NULL OR s.source_id = $15)
    AND ($16::text[] IS NULL OR s.content_type = ANY($16))
    AND ($17::bytea[] IS NULL OR s.author_digests && $17)
    AND ($18::bytea[] IS NULL OR s.institution_digests && $18)
    AND ($19::bytea IS NULL OR s.unique_id_digest = $19 OR s.submission_set_id = $23::uuid)
    AND ($20::bigint[] IS NULL OR s.author_name_digests && $20)
    AND ($21::bigint[] IS NULL OR s.author_name_digests && $21)
    AND ($22::uuid IS NULL OR s.submission_set_id = $22)
    AND (s.health_id, s.submission_set_id) IN (
        SELECT d.health_id, d.submission_set_id FROM document d WHERE d.health_id = ANY($1::bigint[]) AND {VISIBLE}
    )
), page AS (
    SELECT * FROM known WHERE $24::timestamptz IS NULL OR (submitted_at, submission_set_id) < ($24, $25::uuid)
    ORDER BY submitted_at DESC, submission_set_id DESC LIMIT $26
)
SELECT total.known, s.health_id, s.submission_set_id, s.submitted_at, s.status, s.sealed
FROM (SELECT count(*) AS known FROM known) AS total
LEFT JOIN (
    page JOIN submission_set s ON s.health_id = ANY($1::bigint[]) AND s.health_id = page.health_id
    AND s.submission_set_id = page.submission_set_id
) ON true
ORDER BY s.submitted_at DESC, s.submission_set_id DESC
"""  # noqa: S608 (constants of this module)
SET: Final = """
SELECT health_id, submission_set_id, submitted_at, status, sealed FROM submission_set
WHERE health_id = ANY($1::bigint[]) AND submission_set_id = $2
"""
SET_DOCUMENTS: Final = f"""
SELECT {COLUMNS} FROM document d
WHERE d.health_id = ANY($1::bigint[]) AND d.submission_set_id = $11 AND {VISIBLE} ORDER BY d.document_id
"""  # noqa: S608
FOLDERS: Final = f"""
WITH known AS MATERIALIZED (
    SELECT f.health_id, f.folder_id, f.updated_at FROM folder f
    WHERE f.health_id = ANY($1::bigint[])
    AND ($11::timestamptz IS NULL OR f.updated_at >= $11) AND ($12::timestamptz IS NULL OR f.updated_at < $12)
    AND ($13::timestamptz IS NULL OR f.updated_at < $13 OR f.updated_at >= $14)
    AND ($15::bytea IS NULL OR f.unique_id_digest = $15 OR f.folder_id = $18::uuid)
    AND ($16::text[] IS NULL OR f.codes && $16)
    AND ($17::uuid IS NULL OR f.folder_id = $17)
    AND EXISTS (
        SELECT FROM document d
        WHERE d.health_id = ANY($1::bigint[]) AND d.health_id = f.health_id AND f.folder_id = ANY(d.folder_ids)
        AND {VISIBLE}
    )
), page AS (
    SELECT * FROM known WHERE $19::timestamptz IS NULL OR (updated_at, folder_id) < ($19, $20::uuid)
    ORDER BY updated_at DESC, folder_id DESC LIMIT $21
)
SELECT total.known, f.health_id, f.folder_id, f.updated_at, f.status, f.sealed
FROM (SELECT count(*) AS known FROM known) AS total
LEFT JOIN (
    page JOIN folder f
    ON f.health_id = ANY($1::bigint[]) AND f.health_id = page.health_id AND f.folder_id = page.folder_id
) ON true
ORDER BY f.updated_at DESC, f.folder_id DESC
"""  # noqa: S608
# Each dossier's changes keep their order, whatever the clocks said; between dossiers the time decides.
CHANGES: Final = f"""
WITH known AS MATERIALIZED (
    SELECT c.health_id, c.sequence, c.document_id, c.kind, c.changed_at,
        max(c.changed_at) OVER (PARTITION BY c.health_id ORDER BY c.sequence) AS place
    FROM unnest($1::bigint[], $11::bigint[]) AS seen (health_id, sequence)
    JOIN change c ON c.health_id = seen.health_id AND c.sequence > seen.sequence
    JOIN document d ON d.health_id = c.health_id AND d.document_id = c.document_id
    WHERE c.health_id = ANY($1) AND d.health_id = ANY($1) AND ($12::timestamptz IS NULL OR c.changed_at >= $12)
    AND (d.status <> 4 OR c.kind = 7) AND {VISIBLE}
), page AS (
    SELECT * FROM known ORDER BY place, health_id, sequence LIMIT $13
)
SELECT total.known, total.latest, page.sequence, page.kind, page.changed_at, {COLUMNS}
FROM (
    SELECT (SELECT count(*) FROM known) AS known, ARRAY(
        SELECT coalesce(clock.sequence, 0) FROM unnest($1) WITH ORDINALITY AS asked (health_id, place)
        LEFT JOIN dossier_clock AS clock ON clock.health_id = asked.health_id AND clock.health_id = ANY($1)
        ORDER BY asked.place
    ) AS latest
) AS total
LEFT JOIN (
    page JOIN document d
    ON d.health_id = ANY($1) AND d.health_id = page.health_id AND d.document_id = page.document_id
) ON true
ORDER BY page.place, page.health_id, page.sequence
"""  # noqa: S608 (4 is DELETED, 7 the change that deletes)
LATEST: Final = "SELECT sequence FROM dossier_clock WHERE health_id = $1"
LATEST_OF: Final = "SELECT health_id, sequence FROM dossier_clock WHERE health_id = ANY($1::bigint[])"
REFERENCES: Final = f"""
SELECT {COLUMNS}, s.author_digests || s.institution_digests AS handed_in_by
FROM document d JOIN submission_set s ON s.health_id = d.health_id AND s.submission_set_id = d.submission_set_id
WHERE d.health_id = ANY($1::bigint[]) AND s.health_id = ANY($1::bigint[]) AND d.unique_id_digest = $2
"""  # noqa: S608 (the columns are a constant)
ELSEWHERE: Final = "SELECT health_id FROM unique_id WHERE digest = $1 ORDER BY health_id LIMIT $2"


class Span(NamedTuple):
    """From `start`, included, to `end`, excluded, None for no bound; without the times of another such span."""

    start: datetime | None = None
    end: datetime | None = None
    excluded_start: datetime | None = None
    excluded_end: datetime | None = None


class Criteria(NamedTuple):
    """What a search asks for, in the order of the statement; None for anything."""

    statuses: list[int]
    type_codes: list[str] | None = None
    class_codes: list[str] | None = None
    format_codes: list[str] | None = None
    facility_codes: list[str] | None = None
    setting_codes: list[str] | None = None
    confidentiality: list[str] | None = None
    event_codes: list[str] | None = None
    author_digests: list[bytes] | None = None
    institution_digests: list[bytes] | None = None
    reference_digests: list[bytes] | None = None
    unique_id_digests: list[bytes] | None = None
    ids: list[uuid.UUID] | None = None
    folder_id: uuid.UUID | None = None
    relations: list[str] | None = None
    title_digests: list[int] | None = None
    submission_set_id: uuid.UUID | None = None
    author_families: list[int] | None = None
    author_givens: list[int] | None = None
    created: Span = Span()
    service: Span = Span()
    stopped: Span = Span()
    submitted: Span = Span()
    changed: Span = Span()
    title_dossiers: list[int] | None = None
    """Of which dossier each of `title_digests` is: their key is a dossier's."""
    entry_ids: list[uuid.UUID] | None = None
    """What matches as well as `unique_id_digests`."""

    def values(self) -> list[Any]:
        """The parameters from $11 on."""
        return [*self[:19], *self.created, *self.service, *self.stopped, *self.submitted, *self.changed]


class Order(NamedTuple):
    """By which time, and which way (a key of SEARCHES)."""

    column: str = "submitted_at"
    direction: str = "DESC"


class Position(NamedTuple):
    """The last item of a page: its time in the order, and its id."""

    place: datetime
    id: uuid.UUID


class Page(NamedTuple):
    """Rows in order, their places in it, and how many match over all pages."""

    rows: list[DocumentRow]
    places: list[datetime]
    total: int


class SealedItem(NamedTuple):
    """A submission set or a folder as its row has it; `time` is what it is ordered by."""

    health_id: int
    id: uuid.UUID
    time: datetime
    status: int
    sealed: bytes


class SealedPage(NamedTuple):
    """Submission sets or folders in order, and how many match over all pages."""

    items: list[SealedItem]
    total: int


class ChangeRow(NamedTuple):
    """Something that happened, and the document as it is now."""

    sequence: int
    kind: int
    changed_at: datetime
    row: DocumentRow


class ChangePage(NamedTuple):
    """Changes, oldest first; how many there are; where each dossier's changes are now."""

    changes: list[ChangeRow]
    total: int
    latest: dict[int, int]


def view_values(view: View) -> tuple[Any, ...]:
    """A view as the parameters $2 to $10."""
    return (
        list(view.denied_types),
        view.sees_masked,
        view.masked_own_digest,
        view.patient_cutoff,
        view.as_representative,
        list(view.hidden_statuses),
        view.restriction,
        view.own_digest,
        view.structure_digest,
    )


class SearchStore:
    """Finds. Each method is one statement."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def documents(
        self,
        health_ids: Sequence[int],
        view: View,
        criteria: Criteria,
        order: Order,
        after: Position | None,
        limit: int,
    ) -> Page:
        """At most `limit` documents after a position that match and may be known of, and their total."""
        values = (*criteria.values(), *(after or (None, None)), limit, criteria.title_dossiers, criteria.entry_ids)
        records = await self._pool.fetch(SEARCHES[order], health_ids, *view_values(view), *values)
        found = [tuple(record) for record in records if record["document_id"] is not None]
        return Page([DocumentRow._make(r[1:-1]) for r in found], [r[-1] for r in found], records[0]["known"])

    async def sets(
        self, health_ids: Sequence[int], view: View, criteria: Sequence[Any], after: Position | None, limit: int
    ) -> SealedPage:
        """Submission sets with a document that may be known of; criteria are $11 to $23."""
        return await self._sealed(SETS, health_ids, view, criteria, after, limit)

    async def folders(
        self, health_ids: Sequence[int], view: View, criteria: Sequence[Any], after: Position | None, limit: int
    ) -> SealedPage:
        """Folders with a document that may be known of; criteria are $11 to $18."""
        return await self._sealed(FOLDERS, health_ids, view, criteria, after, limit)

    async def one_set(
        self, health_ids: Sequence[int], view: View, set_id: uuid.UUID
    ) -> tuple[SealedItem | None, list[DocumentRow]]:
        """A submission set, and its documents that may be known of. Two statements."""
        rows = await self._pool.fetch(SET_DOCUMENTS, health_ids, *view_values(view), set_id)
        found = await self._pool.fetchrow(SET, health_ids, set_id)
        return (None if found is None else SealedItem._make(found)), [DocumentRow._make(row) for row in rows]

    async def changes(
        self, health_ids: Sequence[int], view: View, after: Mapping[int, int], since: datetime | None, limit: int
    ) -> ChangePage:
        """What happened after a place in each dossier's sequence (0 by default), as far as it may be known of."""
        seen = [after.get(health_id, 0) for health_id in health_ids]
        records = await self._pool.fetch(CHANGES, health_ids, *view_values(view), seen, since, limit)
        found = [tuple(record) for record in records if record["document_id"] is not None]
        changes = [ChangeRow(r[2], r[3], r[4], DocumentRow._make(r[5:])) for r in found]
        return ChangePage(changes, records[0]["known"], dict(zip(health_ids, records[0]["latest"], strict=True)))

    async def latest(self, health_ids: Sequence[int]) -> list[int]:
        """Where the changes of dossiers are now; 0 for one without any."""
        found: dict[int, int] = {row[0]: row[1] for row in await self._pool.fetch(LATEST_OF, health_ids)}
        return [found.get(health_id, 0) for health_id in health_ids]

    async def references(self, health_ids: Sequence[int], digest: bytes) -> list[tuple[DocumentRow, list[bytes]]]:
        """Documents with a uniqueId in these dossiers, and the digests of who handed each in."""
        rows = await self._pool.fetch(REFERENCES, health_ids, digest)
        return [(DocumentRow._make(tuple(row)[:-1]), row["handed_in_by"]) for row in rows]

    async def elsewhere(self, digest: bytes, limit: int) -> list[int]:
        """Dossiers that hold a uniqueId, as far as the index knows."""
        return [row[0] for row in await self._pool.fetch(ELSEWHERE, digest, limit)]

    async def _sealed(
        self,
        statement: str,
        health_ids: Sequence[int],
        view: View,
        criteria: Sequence[Any],
        after: Position | None,
        limit: int,
    ) -> SealedPage:
        values = (*criteria, *(after or (None, None)), limit)
        records = await self._pool.fetch(statement, health_ids, *view_values(view), *values)
        found = [tuple(record)[1:] for record in records if record[1] is not None]
        return SealedPage([SealedItem._make(values) for values in found], records[0]["known"])
