"""The consent service's composition root: what it is made of, and how it starts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from dmp.consent.v1 import consent_pb2
from services.consent.changes import Changes, Clock
from services.consent.checking import AccessChecks
from services.consent.functional_rights import FunctionalRights, RightsTableError, load_rights
from services.consent.service import ConsentServicer, ConsentTerms
from services.consent.settings import ConsentSettings
from services.runtime.server import Service, StartRefused, open_service, run

MIGRATIONS: Final = Path(__file__).parent / "migrations"


async def main() -> None:
    """Start, serve until told to stop, close."""
    rights = _rights()
    async with open_service("consent", ConsentSettings, MIGRATIONS) as service:
        await _serve(service, rights, lambda: datetime.now(UTC))


async def _serve(service: Service[ConsentSettings], rights: FunctionalRights, clock: Clock) -> None:
    settings, pool, metrics = service.settings, service.pool, service.telemetry.metrics
    relay = service.outbox_relay()
    checks = AccessChecks(pool, rights, clock, metrics.counter("dmp_consent_decisions_total").add)
    terms = ConsentTerms(timedelta(days=settings.authorization_days), settings.home_host)
    changes = Changes(pool, relay.kick, clock)
    servicer = ConsentServicer(changes, checks, service.trail, rights, terms, clock)
    descriptor = consent_pb2.DESCRIPTOR.services_by_name["ConsentService"]
    try:
        await service.serve([(descriptor, servicer)], background=[relay.run, service.housekeeping().run])
    finally:
        await checks.close()


def _rights() -> FunctionalRights:
    try:
        return load_rights()
    except (RightsTableError, OSError) as error:
        raise StartRefused(f"the rights table cannot be read: {error}") from error


if __name__ == "__main__":
    run(main)
