"""Taking over, once after an upgrade, what was kept before rows bore tags and ends: as it is, and the log says so.

Only what bears none is taken. Whoever empties a tag to have something taken in must have an operator ask for it again,
which is an event; verification tells how much was adopted, and by which event.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from services.audit import derived_store, ending_store, table_store, tree_store
from services.audit.entry import EntryDigests
from services.audit.table_store import Kept, Row
from services.audit.tags import Place
from services.audit.told import find_told
from services.runtime.dossier_keys import DossierKeys
from services.runtime.postgres import Connection, Pool, transaction

_ACQUIRE_SECONDS: Final = 5.0
_AT_ONCE: Final = 1000
_LOW: Final = -(1 << 63)
_BY_OTHERS_TOO: Final = "notice"
"""Changed by its delivery, which does not hold `derived`."""


class AdoptedRows(NamedTuple):
    """How many rows of the logs, of keys, and of other tables."""

    events: int
    keys: int
    derived: int


class Adoption:
    """The work, over all logs of the service. `place` is where the event that it is done is."""

    def __init__(self, pool: Pool, keys: DossierKeys, digests: EntryDigests, log_count: int, place: Place) -> None:
        self._pool = pool
        self._keys = keys
        self._digests = digests
        self._tags = digests.tags
        self._log_count = log_count
        self._place = place

    async def run(self) -> AdoptedRows:
        """All of it; may be repeated."""
        return AdoptedRows(
            sum([await self._events(log_id) for log_id in range(self._log_count)]),
            await self._destroyed(),
            await self._derived(),
        )

    async def _events(self, log_id: int) -> int:
        """Rows that have ended get the end that names this adoption."""
        taken = 0
        async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
            size = await tree_store.size_of(conn, log_id)
        for start in range(0, size, _AT_ONCE):
            async with transaction(self._pool, timeout=_ACQUIRE_SECONDS) as conn:
                rows = await ending_store.bare(conn, log_id, start, start + _AT_ONCE)
                ends = [self._tags.end(row.kept(log_id, row.sealed), self._place) for row in rows]
                await ending_store.clothe(conn, log_id, [row.leaf_index for row in rows], ends)
            taken += len(rows)
        return taken

    async def _destroyed(self) -> int:
        """Keys that are gone are known by the event that told of it, where there is one, else by this adoption."""
        after, taken = _LOW, 0
        while True:
            async with transaction(self._pool, timeout=_ACQUIRE_SECONDS) as conn:
                rows = await table_store.keys(conn, after, _AT_ONCE)
                gone = [row.health_id for row in rows if row.wrapped is None]
                known = await ending_store.destructions(conn, gone)
                for health_id in (each for each in gone if each not in known):
                    ids = self._digests.event_ids("destroyed", health_id.to_bytes(8, "big", signed=True))
                    told = await find_told(conn, self._keys, ids, self._log_count)
                    place = self._place if told is None else told.place
                    await ending_store.add_destruction(conn, self._tags, health_id, place)
                    taken += 1
            if len(rows) < _AT_ONCE:
                return taken
            after = rows[-1].health_id

    async def _derived(self) -> int:
        """Everything else, while nothing is made of any log."""
        taken = 0
        async with transaction(self._pool, timeout=_ACQUIRE_SECONDS) as conn:
            held = [await derived_store.hold(conn, self._tags, log_id) for log_id in range(self._log_count)]
            for table in table_store.KEPT[1:-1]:
                taken += await self._table(conn, table)
            for row in held:
                if not row.tag:
                    found = await table_store.amounts(conn, row.log_id)
                    tag = self._tags.make("derived", (row.log_id, row.next_leaf, *found))
                    await table_store.tag_derived(conn, row.log_id, found, tag)
                    taken += 1
        return taken

    async def _table(self, conn: Connection, table: Kept) -> int:
        after, taken = table.begin, 0
        while True:
            rows = await table_store.page(conn, table, after, _AT_ONCE)
            for row in rows:
                if not row[-1]:
                    taken += await self._row(conn, table, row)
            if len(rows) < _AT_ONCE:
                return taken
            after = rows[-1][: len(table.begin)]

    async def _row(self, conn: Connection, table: Kept, row: Row) -> bool:
        key = row[: len(table.begin)]
        found = await table_store.held_notice(conn, key) if table.name == _BY_OTHERS_TOO else row
        return found is not None and await table_store.tag(conn, table, key, self._tags.make(table.name, found[:-1]))
