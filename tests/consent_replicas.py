"""Several replicas of the consent service on one database, on one clock that the test moves."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import Final

from services.runtime import postgres
from tests.consent_service import NOW, Consent, consent_on

_REPLICAS: Final = 3


class Replicas:
    """Several replicas of the service on one database, for all histories: each history has a dossier of its own."""

    def __init__(self, dsn: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = [NOW]
        self.services = self.loop.run_until_complete(self._start(dsn))

    async def _start(self, dsn: str) -> list[Consent]:
        made = []
        for number in range(_REPLICAS):
            pool = await postgres.connect(dsn, min_size=1, max_size=2, name="test-oracle")
            replica, _ = consent_on(pool, self.clock)
            made.append(replace(replica, numbers=itertools.count(number << 32)))
        return made

    def begin(self) -> None:
        """Another history: at the beginning of time, with nobody authorised anywhere (the lists of TD0.4)."""
        self.clock[0] = NOW
        self.loop.run_until_complete(self.services[0].pool.execute("DELETE FROM grantee_dossier"))

    def stop(self) -> None:
        """Close everything."""

        async def close() -> None:
            for replica in self.services:
                await replica.checks.close()
                await replica.pool.close()

        self.loop.run_until_complete(close())
        self.loop.close()
