"""Linked people (design §8, merges): rows never move; a service keeps who is one person and reads their rows together.

Lives here: the statements on ``linked_set`` (``sql/linked_set.sql``), in a service that identity tells of links.
May not live here: what it means for a service that two dossiers are one person's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

from google.protobuf.descriptor import ServiceDescriptor

from dmp.common.v1 import links_pb2
from dmp.common.v1.links_pb2 import ApplyLinksRequest, ApplyLinksResponse, LinkedSet
from services.runtime.context import Call
from services.runtime.postgres import Connection, Pool, Reader, transaction, translate
from services.runtime.validation import validate

SERVICE: Final[ServiceDescriptor] = links_pb2.DESCRIPTOR.services_by_name["LinksService"]
APPLY: Final = "/dmp.common.v1.LinksService/ApplyLinks"

MEMBERS: Final = "SELECT health_id, member_ids FROM linked_set WHERE health_id = ANY($1::bigint[])"
# Sets are told at least once and in any order: each member keeps the newest that it has been in.
_APPLY: Final = """
INSERT INTO linked_set (health_id, revision, member_ids) VALUES ($1, $2, $3)
ON CONFLICT (health_id) DO UPDATE SET revision = excluded.revision, member_ids = excluded.member_ids
WHERE linked_set.revision < excluded.revision
"""
_STAND_ALONE: Final = """
INSERT INTO linked_set (health_id, revision, member_ids) VALUES ($1, 0, ARRAY[$1]::bigint[])
ON CONFLICT (health_id) DO NOTHING
"""
_HOLD: Final = "SELECT member_ids FROM linked_set WHERE health_id = $1 FOR SHARE"

Also = Callable[[Connection, Sequence[LinkedSet]], Awaitable[None]]
"""What a service does besides, in the same transaction."""


class LinksServicer:
    """dmp.common.v1.LinksService, for a service whose database has ``linked_set``."""

    def __init__(self, pool: Pool, also: Also | None = None) -> None:
        self._pool = pool
        self._also = also

    async def ApplyLinks(self, request: ApplyLinksRequest, call: Call) -> ApplyLinksResponse:
        """Keep what identity tells. The linking itself is in the trail of the people concerned, by identity."""
        validate(request)
        try:
            async with transaction(self._pool, timeout=call.remaining()) as conn:
                await apply_links(conn, request.sets)
                if self._also is not None:
                    await self._also(conn, request.sets)
        except Exception as error:  # a boundary: whatever the database's fault is, nothing is acknowledged
            raise translate(error) from error
        return ApplyLinksResponse()


async def apply_links(conn: Connection, sets: Iterable[LinkedSet]) -> None:
    """Keep what identity told, in the caller's transaction."""
    rows = {member: (each.revision, list(each.health_ids)) for each in sets for member in each.health_ids}
    await conn.executemany(_APPLY, [(member, *rows[member]) for member in sorted(rows)])


async def hold(conn: Connection, health_id: int) -> tuple[int, ...]:
    """All who are one person with this one, the survivor first; nobody is linked with it until the transaction ends.

    A set that is being told is waited for and seen; one that comes later waits, and sees what this transaction did.
    """
    await conn.execute(_STAND_ALONE, health_id)
    return tuple(await conn.fetchval(_HOLD, health_id))


async def linked_with(reader: Reader, health_ids: Sequence[int]) -> Mapping[int, tuple[int, ...]]:
    """For each of these people all who are one person with it, the survivor first; oneself alone without links."""
    linked = {row["health_id"]: tuple(row["member_ids"]) for row in await reader.fetch(MEMBERS, health_ids)}
    return {health_id: linked.get(health_id, (health_id,)) for health_id in health_ids}
