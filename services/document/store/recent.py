"""When dossiers were last fed, as far as somebody may know: of many dossiers at once, each by its own index."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from services.document.access import View
from services.document.store.searching import VISIBLE, view_values
from services.runtime.postgres import Pool

CHANGED: Final = """
SELECT health_id, changed_at FROM dossier_clock
WHERE health_id = ANY($1::bigint[]) AND ($2::timestamptz IS NULL OR changed_at >= $2)
"""
# From the clock, which each dossier with documents has: so each shard looks into its own dossiers alone.
NEWEST: Final = f"""
SELECT clock.health_id, newest.submitted_at FROM dossier_clock AS clock
CROSS JOIN LATERAL (
    SELECT d.submitted_at FROM document d
    WHERE d.health_id = clock.health_id AND d.health_id = ANY($1::bigint[]) AND d.status = 1
    AND ($11::timestamptz IS NULL OR d.submitted_at >= $11) AND {VISIBLE}
    ORDER BY d.submitted_at DESC, d.document_id DESC
    LIMIT 1
) AS newest
WHERE clock.health_id = ANY($1::bigint[])
"""  # noqa: S608 (a constant of this module; 1 is APPROVED)


class RecentStore:
    """Finds. Each method is one statement."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def changed(self, health_ids: Sequence[int], since: datetime | None) -> dict[int, datetime]:
        """When anything about the documents of dossiers last changed: no document is newer. Those before `since`, and
        those without documents, are left out."""
        return {row[0]: row[1] for row in await self._pool.fetch(CHANGED, health_ids, since)}

    async def newest(self, health_ids: Sequence[int], view: View, since: datetime | None) -> dict[int, datetime]:
        """When the newest approved document was submitted that may be known of, in each dossier that has one."""
        rows = await self._pool.fetch(NEWEST, health_ids, *view_values(view), since)
        return {row[0]: row[1] for row in rows}
