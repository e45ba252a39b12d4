"""What an outside observer sees of the trail: how many events there are, read from the audit database itself.

A benchmark that is fast because events are lost, or doubled, measures nothing. This looks with a superuser's eyes and
through none of the platform's code; the trail of single dossiers is read through the platform, as their patients do.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, NamedTuple

import asyncpg

from dmp.audit.v1 import audit_pb2
from ops.acts import Acts
from ops.local.databases import database_name
from ops.local.stack import Stack

_SIZE: Final = "SELECT sum(size)::bigint FROM log_head"
_COUNT: Final = "SELECT count(*), count(DISTINCT (event_id, producer)) FROM event"
_WAITING: Final = "SELECT count(*) FROM outbox"
_SETTLES_WITHIN: Final = 30.0


class NotSettled(Exception):
    """Events of writes were still on their way to the trail long after the writes."""


class Tally(NamedTuple):
    """Rows in the log, and how many different events they are."""

    rows: int
    events: int


class Observer:
    """Connections to the databases of audit and document. Open it by `open`, then `close` it."""

    def __init__(self, audit: asyncpg.Connection, document: asyncpg.Connection) -> None:
        self._audit = audit
        self._document = document

    @classmethod
    async def open(cls, stack: Stack) -> Observer:
        """Connects as the superuser."""
        audit = await asyncpg.connect(stack.superuser_dsn(database_name("audit")))
        document = await asyncpg.connect(stack.superuser_dsn(database_name("document")))
        return cls(audit, document)

    async def close(self) -> None:
        """Ends the connections."""
        await self._audit.close()
        await self._document.close()

    async def size(self) -> int:
        """Events in all logs by their heads, once no write has one left to deliver. Raises NotSettled."""
        gives_up = time.monotonic() + _SETTLES_WITHIN
        while await self._document.fetchval(_WAITING):
            if time.monotonic() > gives_up:
                raise NotSettled(f"the outbox of document is not empty after {_SETTLES_WITHIN:.0f} s")
            await asyncio.sleep(0.05)
        size: int = await self._audit.fetchval(_SIZE)
        return size

    async def tally(self) -> Tally:
        """Every row counted, however long it takes."""
        [(rows, events)] = await self._audit.fetch(_COUNT)
        return Tally(rows, events)

    async def postgresql(self) -> str:
        """The server's version."""
        version: str = await self._audit.fetchval("SHOW server_version")
        return version.split(maxsplit=1)[0]


async def served(acts: Acts, health_id: int, actions: frozenset[str]) -> int:
    """Successful accesses of these audit actions in one dossier's trail, as its patient reads it."""
    count, page = 0, ""
    while True:
        answer = await acts.trail(health_id, page)
        count += sum(
            item.event.action in actions and item.event.outcome == audit_pb2.OUTCOME_SUCCESS for item in answer.events
        )
        page = answer.next_page_token
        if not page:
            return count
