"""Starts the audit service: opens what it needs, puts it together, serves. Nothing else."""

from __future__ import annotations

from pathlib import Path

from dmp.audit.v1 import audit_pb2
from services.audit.append import AuditLog, LogDamaged
from services.audit.entry import EntryDigests
from services.audit.listing import TrailReader
from services.audit.sequencer import AppendLimits
from services.audit.service import PRODUCER, AuditService, own_trail
from services.audit.settings import AuditSettings
from services.runtime.checks import AccessChecks
from services.runtime.keyring import DossierKeys
from services.runtime.paging import PageTokens
from services.runtime.server import StartRefused, open_service, run

MIGRATIONS = Path(__file__).parent / "migrations"


async def main() -> None:
    """Serve until asked to stop."""
    async with open_service(PRODUCER, AuditSettings, migrations=MIGRATIONS) as service:
        settings = service.settings
        keys = DossierKeys(service.keyring, PRODUCER)
        digests = EntryDigests(service.keyring)
        limits = AppendLimits(settings.audit_batch_events, settings.audit_max_pending_events)
        try:
            log = await AuditLog.open(
                service.pool, keys, digests, settings.audit_log_count, limits=limits, metrics=service.telemetry.metrics
            )
        except LogDamaged as error:
            raise StartRefused(str(error)) from error
        reader = TrailReader(service.pool, keys, digests, PageTokens(service.keyring), log.log_count)
        checks = AccessChecks(service.peer("consent"))
        trail = own_trail(log)
        servicer = AuditService(log, reader, checks, trail)
        await service.serve([(audit_pb2.DESCRIPTOR.services_by_name["AuditService"], servicer)], trail=trail)
        await checks.close()
        await log.close()


if __name__ == "__main__":
    run(main)
