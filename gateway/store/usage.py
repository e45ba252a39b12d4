"""Counts of what clients did, by day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from services.runtime.postgres import Pool

# In one order, so that two gateways that add at once cannot wait for each other in a circle.
_ADD = """
INSERT INTO partner_usage (client_id, day, operation, outcome, count, seconds)
SELECT * FROM unnest($1::text[], $2::date[], $3::text[], $4::text[], $5::bigint[], $6::float8[])
ORDER BY 1, 2, 3, 4
ON CONFLICT (client_id, day, operation, outcome) DO UPDATE SET
    count = partner_usage.count + excluded.count, seconds = partner_usage.seconds + excluded.seconds
"""
_OF_ONE = """
SELECT client_id, day, operation, outcome, count, seconds FROM partner_usage
WHERE client_id = $1 AND day >= $2 ORDER BY day DESC, operation, outcome LIMIT 5000
"""
_OF_ALL = """
SELECT client_id, day, operation, outcome, count, seconds FROM partner_usage
WHERE day >= $1 ORDER BY day DESC, client_id, operation, outcome LIMIT 5000
"""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """How often a client did something on one day (UTC), and how many seconds these took together."""

    client_id: str
    day: date
    operation: str
    outcome: str
    count: int
    seconds: float


class UsageStore:
    """Adds and reads counts."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, rows: Sequence[UsageRow]) -> None:
        """Add to what is there, all or none."""
        await self._pool.execute(
            _ADD,
            [row.client_id for row in rows],
            [row.day for row in rows],
            [row.operation for row in rows],
            [row.outcome for row in rows],
            [row.count for row in rows],
            [row.seconds for row in rows],
        )

    async def read(self, client_id: str, since: date) -> list[UsageRow]:
        """Newest first; of all clients when `client_id` is empty."""
        rows = await (self._pool.fetch(_OF_ONE, client_id, since) if client_id else self._pool.fetch(_OF_ALL, since))
        return [
            UsageRow(r["client_id"], r["day"], r["operation"], r["outcome"], r["count"], r["seconds"]) for r in rows
        ]
