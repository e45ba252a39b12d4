"""The identity service's composition root: what it is made of, and how it starts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dmp.identity.v1 import identity_pb2
from services.identity.digests import Digests
from services.identity.lookup import Lookups
from services.identity.registration import Registration
from services.identity.service import IdentityServicer
from services.identity.settings import IdentitySettings
from services.runtime.dossier_keys import DossierKeys
from services.runtime.server import Service, open_service, run

MIGRATIONS: Final = Path(__file__).parent / "migrations"


async def main() -> None:
    """Start, serve until told to stop, close."""
    async with open_service("identity", IdentitySettings, MIGRATIONS) as service:
        await _serve(service)


async def _serve(service: Service[IdentitySettings]) -> None:
    pool = service.pool
    relay = service.outbox_relay()
    keys, digests = DossierKeys(service.keyring, "identity"), Digests(service.keyring)
    registration = Registration(pool, keys, digests, relay.kick, lambda: datetime.now(UTC))
    lookups = Lookups(pool, keys, digests)
    servicer = IdentityServicer(registration, lookups, service.trail)
    descriptor = identity_pb2.DESCRIPTOR.services_by_name["IdentityService"]
    try:
        await service.serve([(descriptor, servicer)], background=[relay.run, service.housekeeping().run])
    finally:
        await lookups.close()


if __name__ == "__main__":
    run(main)
