"""Destroying what the audit service knows of a dossier, by law: the log and every proof of it stay valid."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from services.audit import ending_store, notice_store
from services.audit.append import AuditLog
from services.audit.entry import EntryDigests
from services.audit.rules import log_of
from services.audit.tags import Place
from services.audit.told import Teller
from services.runtime import faults
from services.runtime.dossier_keys import DossierKeys
from services.runtime.postgres import Pool, transaction, translate

_ACQUIRE_SECONDS: Final = 5.0
_AT_ONCE: Final = 500


async def destroy_dossier(
    pool: Pool, keys: DossierKeys, digests: EntryDigests, log: AuditLog, health_id: int
) -> datetime:
    """When the dossier's key was destroyed: now, or the first time. Each step may be repeated, and says where it stops:

    1. the event that it is destroyed is durable, among those about no dossier, once;
    2. the key goes, alone, so that no append waits longer than for that, and the place of that event is kept;
    3. each row of the dossier gives up the digests that could be guessed against, and names that event instead;
    4. notices and findings go.

    Whoever verifies finds a key or a row that is gone without the event, and an event without what it tells of.
    """
    try:
        async with pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
            before = await keys.destroyed_at(conn, health_id)
        told = await Teller(pool, keys, digests, log).destroyed(health_id, before or datetime.now(UTC))
        faults.point("destroy.told")
        at = before or told.at
        async with transaction(pool, timeout=_ACQUIRE_SECONDS) as conn:
            await keys.destroy(conn, health_id, at)
            await ending_store.add_destruction(conn, digests.tags, health_id, told.place)
        faults.point("destroy.key_gone")
        log_id = log_of(health_id, b"", log.log_count)
        while await _end(pool, digests, log_id, health_id, told.place):
            faults.point("destroy.ended")
        async with transaction(pool, timeout=_ACQUIRE_SECONDS) as conn:
            await notice_store.forget(conn, digests.tags, log_id, health_id)
    except Exception as error:
        raise translate(error) from error
    return at


async def _end(pool: Pool, digests: EntryDigests, log_id: int, health_id: int, place: Place) -> bool:
    """Ends some of the dossier's rows; whether there were any."""
    async with transaction(pool, timeout=_ACQUIRE_SECONDS) as conn:
        rows = await ending_store.unended(conn, log_id, health_id, _AT_ONCE)
        ends = [digests.tags.end(row.kept(log_id, row.sealed), place) for row in rows]
        await ending_store.end(conn, log_id, [row.leaf_index for row in rows], ends)
    return bool(rows)
