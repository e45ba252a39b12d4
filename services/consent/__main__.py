"""The consent service's composition root: what it is made of, and how it starts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from dmp.consent.v1 import consent_pb2, rights_pb2
from services.consent.attending import AttendingPhysicians
from services.consent.changes import Changes, Clock
from services.consent.checking import AccessChecks, Count
from services.consent.destroyers import destroy_documents, destroy_trail
from services.consent.duties import Destroy, Duties
from services.consent.functional_rights import FunctionalRights, RightsTableError, load_rights
from services.consent.held import HeldDossiers
from services.consent.hosts import HostDossiers
from services.consent.merging import Merging
from services.consent.reading import Readings
from services.consent.rights_service import RightsServicer
from services.consent.rights_versions import RightsVersions
from services.consent.service import ConsentServicer
from services.consent.settings import ConsentSettings
from services.consent.terms import ConsentTerms
from services.runtime import links
from services.runtime.jobs import Job, Jobs, Lease
from services.runtime.paging import PageTokens
from services.runtime.postgres import Pool
from services.runtime.server import Service, StartRefused, open_service, run
from services.runtime.trail import Trail

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_DUTIES_EVERY: Final = timedelta(minutes=1)


class ConsentService:
    """The service without its transport: what `__main__` serves, and tests call."""

    def __init__(
        self,
        pool: Pool,
        shipped: FunctionalRights,
        tokens: PageTokens,
        trail: Trail,
        terms: ConsentTerms,
        *,
        clock: Clock,
        kick: Callable[[], None],
        count: Count | None = None,
    ) -> None:
        rights = RightsVersions(shipped)
        self.checks = AccessChecks(pool, rights, clock, count)
        readings = Readings(pool, self.checks, rights, tokens, clock)
        changes = Changes(pool, rights, kick, clock)
        held = HeldDossiers(pool, self.checks, terms.authorization_validity, clock)
        hosts = HostDossiers(pool, self.checks, tokens, clock)
        attending = AttendingPhysicians(pool, clock)
        self.servicer = ConsentServicer(changes, self.checks, readings, held, hosts, attending, trail, terms)
        self.rights_servicer = RightsServicer(pool, rights, trail, tokens, clock, kick)

    async def close(self) -> None:
        """Finish what was accepted."""
        await self.checks.close()


async def main() -> None:
    """Start, serve until told to stop, close."""
    rights = _rights()
    async with open_service("consent", ConsentSettings, MIGRATIONS) as service:
        await _serve(service, rights, lambda: datetime.now(UTC))


async def _serve(service: Service[ConsentSettings], rights: FunctionalRights, clock: Clock) -> None:
    pool, metrics = service.pool, service.telemetry.metrics
    relay = service.outbox_relay()
    consent = ConsentService(
        pool,
        rights,
        PageTokens(service.keyring),
        service.trail,
        terms_of(service.settings),
        clock=clock,
        kick=relay.kick,
        count=metrics.counter("dmp_consent_decisions_total").add,
    )
    duties = Duties(pool, _destroyers(service), relay.kick)
    jobs = Jobs(pool, [Job("duties", _DUTIES_EVERY, duties.run)], lease=Lease(pool, "duties"), metrics=metrics)
    servicers = [
        (consent_pb2.DESCRIPTOR.services_by_name["ConsentService"], consent.servicer),
        (rights_pb2.DESCRIPTOR.services_by_name["RightsService"], consent.rights_servicer),
    ]
    try:
        servicers.append((links.SERVICE, links.LinksServicer(pool, Merging(clock, relay.kick).follow)))
        await service.serve(servicers, background=[relay.run, service.housekeeping().run, jobs.run])
    finally:
        await consent.close()


def terms_of(settings: ConsentSettings) -> ConsentTerms:
    """What the settings leave to the operator."""
    return ConsentTerms(
        authorization_validity=timedelta(days=settings.authorization_days),
        home_host=settings.home_host,
        region=settings.region,
        visit_validity=timedelta(hours=settings.visit_hours),
        retention_years=settings.retention_years,
        destruction_after=timedelta(days=settings.destruction_days),
        minority_years=settings.minority_years,
    )


def _destroyers(service: Service[ConsentSettings]) -> tuple[Destroy, ...]:
    """Documents first: what was done to them is then still in a trail that can be read."""
    if service.settings.document_address is None:
        return ()
    return destroy_documents(service.peer("document")), destroy_trail(service.peer("audit"))


def _rights() -> FunctionalRights:
    try:
        return load_rights()
    except (RightsTableError, OSError) as error:
        raise StartRefused(f"the rights table cannot be read: {error}") from error


if __name__ == "__main__":
    run(main)
