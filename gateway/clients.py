"""Registered clients as the gateway asks for them: by id, read from the database at each request, many at once.

A suspended client is refused at its next request: nothing is cached across requests; a batch of look-ups that had
not been sent when the request came is one statement (promise 2). Only the *parsing* of a registration is remembered.
"""

from __future__ import annotations

from functools import lru_cache

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.registration import Registration
from gateway.store import Store
from services.runtime.coalescer import Coalescer
from services.runtime.errors import DmpError


class Clients:
    """Looks clients up and tells whether they may call."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lookup: Coalescer[str, Registration] = Coalescer("clients", self._read)

    async def get(self, client_id: str, timeout: float | None = None) -> Registration:
        """The registration of an active client: CLIENT_INVALID when unknown, CLIENT_SUSPENDED when suspended."""
        registration = await self._lookup.submit(client_id, timeout=timeout)
        if not registration.active:
            raise DmpError(reasons.ERROR_REASON_CLIENT_SUSPENDED)
        return registration

    async def close(self) -> None:
        """Finish what is under way."""
        await self._lookup.close()

    async def _read(self, client_ids: list[str]) -> list[Registration | DmpError]:
        found = await self._store.clients(list(set(client_ids)))
        return [
            _parse(found[client_id]) if client_id in found else DmpError(reasons.ERROR_REASON_CLIENT_INVALID)
            for client_id in client_ids
        ]


@lru_cache(maxsize=4096)
def _parse(registration: str) -> Registration:
    return Registration.model_validate_json(registration)
