"""The versions of the rights tables in this process: each is read once and never changes. No decision here.

Which version is in force is read with the facts of every batch, never remembered: a replacement that was acknowledged
holds for every decision that begins afterwards, on any replica.
"""

from __future__ import annotations

from datetime import datetime

from services.consent import store
from services.consent.functional_rights import SHIPPED, FunctionalRights, parse_rights
from services.runtime.postgres import Reader

_FIRST_PAGE = 200


class RightsVersions:
    """Gives the tables of a version."""

    def __init__(self, shipped: FunctionalRights) -> None:
        """`shipped` are the tables that the service came with."""
        self.shipped = shipped
        self._known: dict[int, FunctionalRights] = {SHIPPED: shipped}

    def known(self, version: int) -> FunctionalRights | None:
        """The tables, if they were read before."""
        return self._known.get(version)

    async def of(self, reader: Reader, version: int) -> FunctionalRights:
        """The tables of a version that exists. Raises what asyncpg raises, LookupError for no such version."""
        rights = self._known.get(version)
        if rights is None:
            stored = await store.read_rights(reader, version)
            if stored is None:
                raise LookupError("the rights in force are not there")
            rights = self._known[version] = parse_rights(stored.text, version)
        return rights

    async def at(self, reader: Reader, now: datetime) -> FunctionalRights:
        """The tables that were in force at an instant."""
        before = 1 << 62
        while versions := await store.rights_versions(reader, before, _FIRST_PAGE):
            for stored in versions:
                if stored.effective_at <= now:
                    return await self.of(reader, stored.version)
            before = versions[-1].version
        return self.shipped
