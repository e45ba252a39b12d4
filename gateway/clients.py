"""Registered clients as the gateway asks for them: by id, read from the database at each request, many at once.

A suspended client, or a revoked token, is refused at its next request: nothing is cached across requests; a batch of
look-ups that had not been sent when the request came is one statement (promise 2). Only the *parsing* of a
registration is remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.registration import Registration
from gateway.store import ClientRow, Store
from services.runtime.coalescer import Coalescer
from services.runtime.errors import DmpError
from services.runtime.pace import PACE
from services.runtime.postgres import translate


@dataclass(frozen=True, slots=True)
class Found:
    """A registered client at one moment. `refusal` is why it, or its token, may not call; None when it may."""

    registration: Registration
    refusal: int | None


class Clients:
    """Looks clients up and tells whether they may call."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lookup: Coalescer[tuple[str, str], Found] = Coalescer("clients", self._read, pace=PACE)

    async def find(self, client_id: str, token_id: str, timeout: float | None = None) -> Found:
        """The client of a token, and whether it may call with it; CLIENT_INVALID when there is none."""
        return await self._lookup.submit((client_id, token_id), timeout=timeout)

    async def find_all(self, pairs: list[tuple[str, str]]) -> list[Found | DmpError]:
        """`find` for many (client, token), now, in one statement; its error in the place of each that has one.

        DEPENDENCY_UNAVAILABLE when the database does not answer.
        """
        try:
            return await self._read(pairs)
        except Exception as error:  # a boundary: whatever the database's fault is, nobody may call
            raise translate(error) from error

    async def with_keys(self, client_id: str) -> tuple[Found, dict[str, list[dict[str, str]]]]:
        """A client with the keys that count now, for who must authenticate it; CLIENT_INVALID when there is none."""
        row = await self._store.client(client_id)
        if row is None:
            raise DmpError(reasons.ERROR_REASON_CLIENT_INVALID, metadata={"rule": "client.unknown"})
        return _found(row.registration, suspended=row.suspended_at is not None), current_keys(row)

    async def close(self) -> None:
        """Finish what is under way."""
        await self._lookup.close()

    async def _read(self, pairs: list[tuple[str, str]]) -> list[Found | DmpError]:
        answers: list[Found | DmpError] = []
        for standing in await self._store.standings(pairs):
            if standing.registration is None:
                answers.append(DmpError(reasons.ERROR_REASON_CLIENT_INVALID))
                continue
            answers.append(
                _found(_parse(standing.registration), suspended=standing.suspended, revoked=standing.token_revoked)
            )
        return answers


def current_keys(row: ClientRow) -> dict[str, list[dict[str, str]]]:
    """The JWK set that counts now: that of the registration, with the keys added and without those retired since."""
    changes: list[Mapping[str, Any]] = [dict(entry) for entry in row.keys]
    changed = {str(entry["kid"]) for entry in changes}
    kept = [key for key in row.registration.jwks.get("keys", ()) if key.get("kid") not in changed]
    added = [dict(entry["jwk"]) for entry in changes if entry["jwk"] is not None and not entry["retired"]]
    return {"keys": [*kept, *added]}


def _found(registration: Registration, *, suspended: bool, revoked: bool = False) -> Found:
    if suspended or not registration.active:
        return Found(registration, reasons.ERROR_REASON_CLIENT_SUSPENDED)
    return Found(registration, reasons.ERROR_REASON_TOKEN_REVOKED if revoked else None)


@lru_cache(maxsize=4096)
def _parse(registration: str) -> Registration:
    return Registration.model_validate_json(registration)
