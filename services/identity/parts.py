"""The identity service without its transport: what `__main__` serves, and tests call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.identity.changes import Changes
from services.identity.digests import Digests
from services.identity.directory import Directory
from services.identity.duplicates import Duplicates
from services.identity.finding import Finding
from services.identity.history import History
from services.identity.insi import InsRetrieval, NationalIdentityService, NoNationalService
from services.identity.links import Links
from services.identity.lookup import Lookups
from services.identity.people import PersonChanges
from services.identity.propagation import Propagation, Tell
from services.identity.registration import Registration
from services.identity.rematch import Rematch
from services.identity.rights import Checks, Rights
from services.identity.rotation import KeyRotation
from services.identity.rpc_directory import DirectoryParts
from services.identity.rpc_people import PeopleParts
from services.identity.service import IdentityServicer
from services.runtime.dossier_keys import DossierKeys
from services.runtime.keyring import Keyring
from services.runtime.paging import PageTokens
from services.runtime.postgres import Pool
from services.runtime.trail import Trail


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the service is given: where events go, who is told of links, consent, the national service, the time."""

    trail: Trail
    tellers: Mapping[str, Tell]
    checks: Checks
    committed: Callable[[], None] = lambda: None
    insi: NationalIdentityService = field(default_factory=NoNationalService)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    strict_keys: bool = True


class IdentityParts:
    """Its use cases, put together."""

    def __init__(self, pool: Pool, keyring: Keyring, around: Surroundings) -> None:
        keys, digests, tokens = DossierKeys(keyring, "identity"), Digests(keyring), PageTokens(keyring)
        changes = Changes(pool, keys, digests, around.committed, around.clock)
        self.rematch = Rematch(pool, keys, digests, around.clock)
        self.propagation = Propagation(pool, around.tellers)
        self.lookups = Lookups(pool, keys, digests)
        self.registration = Registration(pool, keys, digests, around.committed, around.clock, self.rematch)
        links = Links(changes, self.propagation, self.rematch.kick)
        people = PeopleParts(
            changes=changes,
            people=PersonChanges(changes, self.rematch.kick),
            finding=Finding(pool, keys, digests, tokens, around.clock),
            history=History(pool, keys, tokens),
            links=links,
            duplicates=Duplicates(changes, links, self.propagation, tokens),
            insi=InsRetrieval(changes, around.insi, self.rematch.kick),
        )
        directory = DirectoryParts(
            Directory(changes, tokens, strict_keys=around.strict_keys), KeyRotation(changes, keyring)
        )
        self.servicer = IdentityServicer(
            self.registration, self.lookups, around.trail, people, directory, Rights(around.checks)
        )

    async def close(self) -> None:
        """Finish what was accepted."""
        await self.registration.close()
        await self.lookups.close()
