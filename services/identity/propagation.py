"""Telling consent who is linked with whom, before a link is answered. The others learn it from its decisions.

What is due is in `link_delivery` since the commit of the change, so nothing is lost when consent, or this process, is
down; it is told again until it is acknowledged. A set is read when it is told, whole and with its revision, so that the
order in which sets arrive does not matter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from dmp.common.v1.links_pb2 import LinkedSet
from services.identity.store import links as link_store
from services.runtime.errors import DmpError, unavailable
from services.runtime.postgres import Pool, is_transient

Tell = Callable[[Sequence[LinkedSet]], Awaitable[None]]

CONSENT: Final = "consent"
SERVICES: Final = (CONSENT,)
_AT_ONCE: Final = 64
_POLL: Final = 2.0
_TIMEOUT: Final = 5.0

_log = logging.getLogger(__name__)


class Propagation:
    """Tells. `tellers` has how each service is told; they return when it has applied what it was told."""

    def __init__(self, pool: Pool, tellers: Mapping[str, Tell]) -> None:
        self._pool = pool
        self._tellers = tellers
        self._kicked = asyncio.Event()

    async def tell_consent(self, health_ids: Sequence[int] | None, timeout: float | None = None) -> None:
        """Return when consent has applied what it is due about these people, or all that it is due; otherwise
        DEPENDENCY_UNAVAILABLE."""
        self._kicked.set()
        try:
            async with asyncio.timeout(timeout or _TIMEOUT):
                await self.deliver(CONSENT, health_ids)
        except TimeoutError:
            raise unavailable(CONSENT) from None

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            self._kicked.clear()
            for service in self._tellers:
                try:
                    await self.deliver(service)
                except Exception as error:
                    if not isinstance(error, DmpError) and not is_transient(error):
                        raise
                    _log.warning("links not delivered", extra={"peer": service}, exc_info=True)
            try:
                async with asyncio.timeout(_POLL):
                    await self._kicked.wait()
            except TimeoutError:
                continue

    async def deliver(self, service: str, health_ids: Sequence[int] | None = None) -> None:
        """Tell a service all that it is due, or what it is due about these people. Raises what telling raises."""
        while due := await link_store.untold(self._pool, service, health_ids, _AT_ONCE):
            sets: dict[int, LinkedSet] = {}
            places = await link_store.linked(self._pool, [one for one, _ in due])
            for one, _ in due:
                root = places[one].root_id
                members = await link_store.members(self._pool, root)
                sets[root] = LinkedSet(
                    health_ids=[root, *(each.health_id for each in members if each.health_id != root)],
                    revision=max(each.revision for each in members),
                )
            await self._tellers[service](list(sets.values()))
            async with self._pool.acquire() as conn:
                await link_store.told(conn, service, [(one, sets[places[one].root_id].revision) for one, _ in due])
