"""Destroying what the audit service knows of a dossier, by law: the log and every proof of it stay valid."""

from __future__ import annotations

from datetime import UTC, datetime

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from services.audit import derived_store
from services.audit.append import AuditLog, Receipt
from services.audit.entry import EntryDigests
from services.audit.rules import SYSTEM_HEALTH_ID, log_of
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name
from services.runtime.postgres import Pool, transaction, translate

_ACQUIRE_SECONDS = 5.0


async def destroy_dossier(
    pool: Pool, keys: DossierKeys, digests: EntryDigests, log: AuditLog, producer: str, health_id: int
) -> datetime:
    """When the dossier's key was destroyed: now, or the first time. Each step may be repeated.

    The key first, alone, so that no append waits longer than for that; then the digests that could be guessed against,
    notices and findings; then the event that it was done, among those about no dossier, once.
    """
    try:
        async with transaction(pool, timeout=_ACQUIRE_SECONDS) as conn:
            await keys.destroy(conn, health_id, datetime.now(UTC))
            at = await derived_store.destroyed_at(conn, health_id)
        async with transaction(pool, timeout=_ACQUIRE_SECONDS) as conn:
            await derived_store.forget(conn, log_of(health_id, b"", log.log_count), health_id)
    except Exception as error:
        raise translate(error) from error
    receipts: list[Receipt] = await log.append(
        producer, audit_pb2.BatchAppendEventsRequest(events=[_destroyed(health_id, at, digests)])
    )
    for receipt in receipts:
        if isinstance(receipt, DmpError):
            raise receipt
    return at


def _destroyed(health_id: int, at: datetime, digests: EntryDigests) -> audit_pb2.AuditEvent:
    """The same event, byte for byte, however often it is sent. Its id, which tiles show, tells nothing."""
    event = audit_pb2.AuditEvent(
        event_id=digests.event_id("destroyed", health_id.to_bytes(8, "big")),
        health_id=SYSTEM_HEALTH_ID,
        action="dossier.destroy",
        actor=context_pb2.ActingContext(actor_kind=context_pb2.ACTOR_KIND_SYSTEM, subject="audit"),
        objects=[dossier_name(health_id)],
        outcome=audit_pb2.OUTCOME_SUCCESS,
        basis=audit_pb2.ACCESS_BASIS_LAW,
    )
    event.event_time.FromDatetime(at)
    return event
