"""The identity service's composition root: what it is made of, and how it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from dmp.common.v1.links_pb2 import ApplyLinksRequest, ApplyLinksResponse, LinkedSet
from dmp.identity.v1 import identity_pb2
from services.identity.insi import NationalIdentityService, NoNationalService, SimulatedInsi
from services.identity.parts import IdentityParts, Surroundings
from services.identity.propagation import SERVICES, Tell
from services.identity.rotation import KeyringWatch
from services.identity.settings import IdentitySettings
from services.runtime.checks import AccessChecks
from services.runtime.links import APPLY
from services.runtime.server import Background, Service, StartRefused, open_service, run

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_TIMEOUT: Final = 5.0


async def main() -> None:
    """Start, serve until told to stop, close."""
    async with open_service("identity", IdentitySettings, MIGRATIONS) as service:
        await _serve(service)


async def _serve(service: Service[IdentitySettings]) -> None:
    settings, relay = service.settings, service.outbox_relay()
    checks = AccessChecks(service.peer("consent"))
    parts = IdentityParts(
        service.pool,
        service.keyring,
        Surroundings(
            trail=service.trail,
            tellers=_tellers(service),
            checks=checks,
            committed=relay.kick,
            insi=_national_service(settings),
            strict_keys=settings.environment == "production",
        ),
    )
    descriptor = identity_pb2.DESCRIPTOR.services_by_name["IdentityService"]
    background: list[Background] = [
        relay.run,
        service.housekeeping().run,
        parts.rematch.run,
        parts.propagation.run,
    ]
    if settings.keyring_dir is not None:
        background.append(KeyringWatch(service.keyring, settings.keyring_dir).run)
    try:
        await service.serve([(descriptor, parts.servicer)], background=background)
    finally:
        await parts.close()
        await checks.close()


def _tellers(service: Service[IdentitySettings]) -> Mapping[str, Tell]:
    """How each service is told of links."""

    def teller(name: str) -> Tell:
        apply = service.peer(name).unary(APPLY, ApplyLinksRequest, ApplyLinksResponse)

        async def tell(sets: Sequence[LinkedSet]) -> None:
            await apply(ApplyLinksRequest(sets=sets), timeout=_TIMEOUT)

        return tell

    return {name: teller(name) for name in SERVICES}


def _national_service(settings: IdentitySettings) -> NationalIdentityService:
    if settings.insi_simulator_file is None:
        return NoNationalService()
    if settings.environment == "production":
        raise StartRefused("DMP_INSI_SIMULATOR_FILE: not for production")
    try:
        return SimulatedInsi.from_file(settings.insi_simulator_file)
    except (OSError, ValueError) as error:
        raise StartRefused(f"DMP_INSI_SIMULATOR_FILE: {error}") from error


if __name__ == "__main__":
    run(main)
