"""Usage: how often each client did what, with which outcome and how long it took, for SRE and for the client itself.

Counted in memory, added to the database every few seconds and when the process stops. It is a statistic: what a
process that is killed had not yet added is lost, and the trail has every access in any case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import structlog

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.store import UsageRow, UsageStore

FLUSH_EVERY: Final = 5.0
_MOST_KEYS: Final = 20_000

OK: Final = "ok"
_OUTCOMES: Final[Mapping[int, str]] = {
    reasons.ERROR_REASON_QUOTA_EXCEEDED: "over_quota",
    reasons.ERROR_REASON_OVERLOADED: "overloaded",
    reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE: "failed",
    reasons.ERROR_REASON_AUDIT_UNAVAILABLE: "failed",
    reasons.ERROR_REASON_DEADLINE_EXCEEDED: "failed",
    reasons.ERROR_REASON_INTERNAL: "failed",
}

_log = structlog.get_logger("usage")

Key = tuple[str, str, str]


def outcome_of_reason(reason: int) -> str:
    """How a call that ended by this reason counts."""
    return _OUTCOMES.get(reason, "refused")


def outcome_of_status(status: int) -> str:
    """How an HTTP answer counts."""
    if status < 400:
        return OK
    return {429: "over_quota", 503: "overloaded"}.get(status, "failed" if status >= 500 else "refused")


class Usage:
    """The counts of one process that are not in the database yet."""

    def __init__(self, store: UsageStore, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._now = now
        self._counts: dict[Key, list[float]] = {}

    def add(self, client_id: str, operation: str, outcome: str, seconds: float) -> None:
        """Count one call."""
        known = self._counts.get((client_id, operation, outcome))
        if known is not None:
            known[0] += 1
            known[1] += seconds
        elif len(self._counts) < _MOST_KEYS:
            self._counts[client_id, operation, outcome] = [1, seconds]

    async def run(self) -> None:
        """Add to the database every few seconds, for ever."""
        while True:
            await asyncio.sleep(FLUSH_EVERY)
            await self.flush()

    async def flush(self) -> None:
        """Add what there is; what cannot be added now is kept for the next time."""
        counts, self._counts = self._counts, {}
        if not counts:
            return
        day = self._now().date()
        rows = [
            UsageRow(client_id, day, operation, outcome, int(count), seconds)
            for (client_id, operation, outcome), (count, seconds) in sorted(counts.items())
        ]
        try:
            await self._store.add(rows)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the database: the counts wait
            _log.warning("usage_not_added", error_type=type(error).__name__, rows=len(rows))
            for (client_id, operation, outcome), (count, seconds) in counts.items():
                known = self._counts.setdefault((client_id, operation, outcome), [0, 0.0])
                known[0] += count
                known[1] += seconds
