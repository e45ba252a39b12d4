"""Every statement on notices and unusual accesses. No rule and no sealing here.

Each row bears its tag (`services.audit.tags`), and each change of a row gives it another, if it had the right one. How
many there are of a log is taken down in `derived`, whose row is held first by whoever adds or deletes some.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from services.audit import derived_store
from services.audit.tags import RowTags
from services.runtime.postgres import Connection

# Events come in the order of the log, which is not quite that of their times: one that happened just before the first
# of its episode, and comes after it, belongs to it as well.
EPISODE: Final = """
SELECT health_id, notice_id, kind, recipient, actor_digest, log_id, leaves, happened_at, created_at, sealed, attempts,
       next_attempt_at, delivered_at, tag
FROM notice
WHERE health_id = $1 AND kind = $2 AND recipient = $3 AND actor_digest = $4
  AND happened_at > $5::timestamptz - interval '8 hours' AND happened_at < $5::timestamptz + interval '8 hours'
ORDER BY happened_at <= $5 DESC, happened_at DESC LIMIT 1
"""
HOLD_NOTICE: Final = """
SELECT health_id, notice_id, kind, recipient, actor_digest, log_id, leaves, happened_at, created_at, sealed, attempts,
       next_attempt_at, delivered_at, tag
FROM notice WHERE health_id = $1 AND notice_id = $2 FOR UPDATE
"""
KEEP_NOTICE: Final = """
UPDATE notice SET leaves = $3, attempts = $4, next_attempt_at = $5, delivered_at = $6, tag = $7
WHERE health_id = $1 AND notice_id = $2
"""
ADD_NOTICE: Final = """
INSERT INTO notice (health_id, notice_id, kind, recipient, actor_digest, log_id, leaves, happened_at, created_at,
                    sealed, attempts, next_attempt_at, delivered_at, tag)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (health_id, notice_id) DO NOTHING
"""
NOTICES: Final = """
SELECT health_id, notice_id, kind, recipient, actor_digest, log_id, leaves, happened_at, created_at, sealed, attempts,
       next_attempt_at, delivered_at, tag
FROM notice WHERE health_id = ANY($1::bigint[]) AND recipient = ANY($2::bigint[]) AND notice_id < $3
ORDER BY notice_id DESC LIMIT $4
"""
DUE: Final = """
SELECT health_id, notice_id, kind, recipient, actor_digest, log_id, leaves, happened_at, created_at, sealed, attempts,
       next_attempt_at, delivered_at, tag
FROM notice WHERE delivered_at IS NULL AND next_attempt_at <= now() ORDER BY next_attempt_at LIMIT $1
"""
ADD_UNUSUAL: Final = """
INSERT INTO unusual_access (item_id, health_id, log_id, leaf_index, detector, detected_at, sealed, decision, decided_at,
                            decided_by, tag)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (item_id) DO NOTHING
"""
UNUSUAL: Final = """
SELECT item_id, health_id, log_id, leaf_index, detector, detected_at, sealed, decision, decided_at, decided_by, tag
FROM unusual_access
WHERE (decision <> 0) = $1 AND (detected_at, item_id) > ($2, $3)
ORDER BY detected_at, item_id LIMIT $4
"""
ONE_UNUSUAL: Final = """
SELECT item_id, health_id, log_id, leaf_index, detector, detected_at, sealed, decision, decided_at, decided_by, tag
FROM unusual_access WHERE item_id = $1
"""
DECIDE: Final = """
UPDATE unusual_access SET decision = $2, decided_at = $3, decided_by = $4, tag = $5 WHERE item_id = $1
"""
EVENT_IDS: Final = "SELECT leaf_index, event_id FROM event WHERE log_id = $1 AND leaf_index = ANY($2::bigint[])"
SECRECY: Final = "SELECT secret FROM event WHERE log_id = $1 AND leaf_index = $2"
FORGET: Final = (
    "DELETE FROM notice WHERE health_id = $1",
    "DELETE FROM unusual_access WHERE health_id = $1",
)
FORGET_BEFORE: Final = (
    "DELETE FROM notice WHERE log_id = $1 AND leaves[cardinality(leaves)] < $2",
    "DELETE FROM unusual_access WHERE log_id = $1 AND leaf_index < $2",
)

_MOST_LEAVES: Final = 50


class NoticeRow(NamedTuple):
    """A notice as it is kept."""

    health_id: int
    notice_id: uuid.UUID
    kind: int
    recipient: int
    actor_digest: bytes
    log_id: int
    leaves: list[int]
    happened_at: datetime
    created_at: datetime
    sealed: bytes
    attempts: int
    next_attempt_at: datetime
    delivered_at: datetime | None
    tag: bytes


class UnusualRow(NamedTuple):
    """An item of the work list as it is kept."""

    item_id: uuid.UUID
    health_id: int
    log_id: int
    leaf_index: int
    detector: str
    detected_at: datetime
    sealed: bytes
    decision: int
    decided_at: datetime | None
    decided_by: str | None
    tag: bytes


class NewNotice(NamedTuple):
    """A notice to add."""

    health_id: int
    notice_id: uuid.UUID
    kind: int
    recipient: int
    actor_digest: bytes
    log_id: int
    leaf_index: int
    happened_at: datetime
    sealed: bytes


class NewUnusual(NamedTuple):
    """An item of the work list to add."""

    item_id: uuid.UUID
    health_id: int
    log_id: int
    leaf_index: int
    detector: str
    sealed: bytes


async def add_notice(conn: Connection, tags: RowTags, notice: NewNotice) -> bool:
    """Joins the event to the actor's episode less than eight hours from it, or adds a notice; whether it was added.
    In the transaction that holds the log's `derived`."""
    record = await conn.fetchrow(
        EPISODE, notice.health_id, notice.kind, notice.recipient, notice.actor_digest, notice.happened_at
    )
    if record is not None:
        await _join(conn, tags, record["notice_id"], notice)
        return False
    now = datetime.now(UTC)
    values = (*notice[:6], [notice.leaf_index], notice.happened_at, now, notice.sealed, 0, now, None)
    added = bool(await conn.execute(ADD_NOTICE, *values, tags.make("notice", values)) == "INSERT 0 1")
    await derived_store.account(conn, tags, notice.log_id, notices=int(added))
    return added


async def tried(
    conn: Connection, tags: RowTags, health_id: int, notice_id: uuid.UUID, again: timedelta | None = None
) -> None:
    """A notice was delivered, or is tried again after a while. In a transaction."""
    record = await conn.fetchrow(HOLD_NOTICE, health_id, notice_id)
    if record is not None:
        row, now = NoticeRow(*record), datetime.now(UTC)
        changed = row._replace(attempts=row.attempts + 1)
        if again is None:
            await _keep(conn, tags, row, changed._replace(delivered_at=now))
        else:
            await _keep(conn, tags, row, changed._replace(next_attempt_at=now + again))


async def notices(
    conn: Connection, health_ids: Sequence[int], recipients: Sequence[int], before: uuid.UUID, limit: int
) -> list[NoticeRow]:
    """Notices about dossiers to these recipients, newest first."""
    return [NoticeRow(*record) for record in await conn.fetch(NOTICES, health_ids, recipients, before, limit)]


async def due(conn: Connection, limit: int) -> list[NoticeRow]:
    """Notices to deliver now."""
    return [NoticeRow(*record) for record in await conn.fetch(DUE, limit)]


async def add_unusual(conn: Connection, tags: RowTags, item: NewUnusual) -> bool:
    """Adds an item, once; whether it was added. In the transaction that holds the log's `derived`."""
    values = (*item[:5], datetime.now(UTC), item.sealed, 0, None, None)
    added = bool(await conn.execute(ADD_UNUSUAL, *values, tags.make("unusual_access", values)) == "INSERT 0 1")
    await derived_store.account(conn, tags, item.log_id, items=int(added))
    return added


async def unusual(
    conn: Connection, *, decided: bool, after: tuple[datetime, uuid.UUID], limit: int
) -> list[UnusualRow]:
    """The work list, oldest first, after an item."""
    return [UnusualRow(*record) for record in await conn.fetch(UNUSUAL, decided, *after, limit)]


async def one_unusual(conn: Connection, item_id: uuid.UUID) -> UnusualRow | None:
    """One item."""
    record = await conn.fetchrow(ONE_UNUSUAL, item_id)
    return None if record is None else UnusualRow(*record)


async def decide(conn: Connection, tags: RowTags, row: UnusualRow, decision: int, operator: str) -> UnusualRow:
    """Decides an item, read while the log's `derived` is held; the item as it then is."""
    after = row._replace(decision=decision, decided_at=datetime.now(UTC), decided_by=operator)
    tag = tags.anew("unusual_access", row[:-1], row.tag, after[:-1])
    await conn.execute(DECIDE, row.item_id, decision, after.decided_at, operator, tag)
    return after._replace(tag=tag)


async def forget(conn: Connection, tags: RowTags, log_id: int, health_id: int) -> None:
    """Deletes what was made of a dossier's events. In a transaction."""
    await _delete(conn, tags, FORGET, log_id, health_id)


async def forget_before(conn: Connection, tags: RowTags, log_id: int, before: int) -> None:
    """Deletes what was made of events that were all given up. In a transaction."""
    await _delete(conn, tags, FORGET_BEFORE, log_id, log_id, before)


async def event_ids(conn: Connection, log_id: int, leaves: Sequence[int]) -> dict[int, uuid.UUID]:
    """The ids of the events at these places."""
    return {record[0]: record[1] for record in await conn.fetch(EVENT_IDS, log_id, leaves)}


async def is_secret(conn: Connection, log_id: int, leaf_index: int) -> bool:
    """Whether the event at a place was of a secret connection."""
    return bool(await conn.fetchval(SECRECY, log_id, leaf_index))


async def _join(conn: Connection, tags: RowTags, notice_id: uuid.UUID, notice: NewNotice) -> None:
    """Held before it is looked at: it may be on its way to somebody just now."""
    record = await conn.fetchrow(HOLD_NOTICE, notice.health_id, notice_id)
    row = None if record is None else NoticeRow(*record)
    if row is not None and len(row.leaves) < _MOST_LEAVES and notice.leaf_index not in row.leaves:
        await _keep(conn, tags, row, row._replace(leaves=[*row.leaves, notice.leaf_index]))


async def _keep(conn: Connection, tags: RowTags, before: NoticeRow, after: NoticeRow) -> None:
    tag = tags.anew("notice", before[:-1], before.tag, after[:-1])
    await conn.execute(
        KEEP_NOTICE,
        after.health_id,
        after.notice_id,
        after.leaves,
        after.attempts,
        after.next_attempt_at,
        after.delivered_at,
        tag,
    )


async def _delete(conn: Connection, tags: RowTags, statements: tuple[str, str], log_id: int, *which: int) -> None:
    await derived_store.hold(conn, tags, log_id)
    deleted = [int((await conn.execute(statement, *which)).rpartition(" ")[2]) for statement in statements]
    await derived_store.account(conn, tags, log_id, notices=-deleted[0], items=-deleted[1])
