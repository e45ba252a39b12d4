"""Starts the audit service: opens what it needs, puts it together, serves. Nothing else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from dmp.audit.v1 import audit_pb2
from services.audit.append import AuditLog, LogDamaged
from services.audit.contacts import Contacts
from services.audit.derivation import Derivation
from services.audit.detectors import load
from services.audit.entry import EntryDigests
from services.audit.listing import TrailReader
from services.audit.logs import KeysWrong, Logs, make_logs
from services.audit.names import NameComparison
from services.audit.notices import Delivery, LogDelivery, Outbox, SmtpDelivery
from services.audit.retention import PolicyUnusable, Retention, read_policy
from services.audit.sequencer import AppendLimits
from services.audit.service import PRODUCER, AuditService, Parts, own_trail
from services.audit.settings import AuditSettings
from services.audit.tags import RowTags
from services.audit.tiles import ForkFound
from services.runtime.checks import AccessChecks
from services.runtime.jobs import Job, Jobs, Lease
from services.runtime.keyring import DossierKeys
from services.runtime.paging import PageTokens
from services.runtime.server import Background, Service, StartRefused, open_service, run

MIGRATIONS = Path(__file__).parent / "migrations"
_RETENTION_EVERY = timedelta(hours=6)


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
        tokens = PageTokens(service.keyring)
        logs = await _logs(service, log.log_count)
        reader = TrailReader(service.pool, keys, digests, tokens, log.log_count)
        checks = AccessChecks(service.peer("consent"))
        trail = own_trail(log)
        parts = Parts(service.pool, keys, digests, tokens, log, logs)
        servicer = AuditService(parts, reader, checks, trail)
        await service.serve(
            [(audit_pb2.DESCRIPTOR.services_by_name["AuditService"], servicer)],
            background=[
                *(each.run for each in logs.integrators),
                *_derivations(service, keys, log),
                _retention(service, keys, digests, log),
            ],
            trail=trail,
        )
        await checks.close()
        await log.close()
        await logs.close()


async def _logs(service: Service[AuditSettings], log_count: int) -> Logs:
    """The logs as public trees, checked. StartRefused, saying why, when one of them may not go on."""
    try:
        logs = make_logs(service.pool, service.settings, log_count, service.telemetry.metrics)
        await logs.open()
    except (KeysWrong, ForkFound) as error:
        raise StartRefused(str(error)) from error
    return logs


def _derivations(service: Service[AuditSettings], keys: DossierKeys, log: AuditLog) -> list[Background]:
    """What is made of the trail in the background: counts, notices and their delivery, unusual accesses."""
    metrics, detectors = service.telemetry.metrics, load()
    derivations = [
        Derivation(
            service.pool,
            keys,
            service.keyring,
            number,
            detectors,
            metrics,
            Lease(service.pool, f"derive-{number}"),
            log.busy,
            NameComparison(service.peer("identity")).same,
        )
        for number in range(log.log_count)
    ]
    outbox = Outbox(service.pool, RowTags(service.keyring), _delivery(service), metrics, Lease(service.pool, "notices"))
    return [*(each.run for each in derivations), outbox.run]


def _retention(service: Service[AuditSettings], keys: DossierKeys, digests: EntryDigests, log: AuditLog) -> Background:
    """What gives up clear parts that were kept long enough."""
    file = service.settings.audit_retention_file
    try:
        policy = read_policy(None if file is None else file.read_text("utf-8"))
    except PolicyUnusable as error:
        raise StartRefused(f"DMP_AUDIT_RETENTION_FILE: {error}") from error
    job = Job("retention", _RETENTION_EVERY, Retention(service.pool, keys, digests, log, policy).run)
    return Jobs(service.pool, [job], lease=Lease(service.pool, "retention"), metrics=service.telemetry.metrics).run


def _delivery(service: Service[AuditSettings]) -> Delivery:
    settings = service.settings
    if settings.audit_smtp_host is None:
        return LogDelivery()
    if settings.audit_notice_sender is None:
        raise StartRefused("DMP_AUDIT_SMTP_HOST needs DMP_AUDIT_NOTICE_SENDER")
    contacts = Contacts(service.peer("identity"), service.peer("consent"))
    return SmtpDelivery(
        settings.audit_smtp_host,
        settings.audit_smtp_port,
        settings.audit_notice_sender,
        settings.audit_notice_recipient,
        settings.audit_smtp_start_tls,
        email_of=contacts.email,
        physicians_of=contacts.physicians,
    )


if __name__ == "__main__":
    run(main)
