"""Checking the tables that are made of the logs, part by part: that each row is what this service kept, and that none
is missing where that can be told. It returns names of rows, no contents.

    every row         its tag is that of its columns
    derived           counts, notices, findings and what is set aside are as many as were taken down
    dossier_key       a key opens; one that is gone was destroyed, as the log says, when it says
    tile, …           no tile that the tree does not have, and nothing of a log that there is not

`event`, `log_head`, `checkpoint` and `tile` are checked against the tree itself (`checking`, and who verifies).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, Final, NamedTuple

from services.audit import ending_store, table_store, tree_store
from services.audit.derived_store import DerivedRow
from services.audit.endings import is_destroyed
from services.audit.entry import EntryDigests
from services.audit.findings import TableDamage
from services.audit.table_store import KEPT, Kept, KeyRow, Row
from services.audit.tags import Value
from services.audit.told import Adopted, Destroyed, Told, find_told, read_told
from services.audit.tree import LogTree
from services.runtime.dossier_keys import DossierKeys
from services.runtime.identifiers import dossier_name
from services.runtime.postgres import Connection, Pool

_ACQUIRE_SECONDS: Final = 5.0
PAGE: Final = 1000
_KEYS: Final = len(KEPT)
_LOG: Final = _KEYS + 1
_NO_TAG: Final = "bears no tag: from before rows did (dmp audit adopt), or changed"
_LOW: Final = -(1 << 63)


class TablePart(NamedTuple):
    """What was found in one part, how many rows it had, and where the next one begins; empty at the end."""

    damages: list[TableDamage]
    rows: int
    next_part: bytes


class TableChecker:
    """Checks the tables of one service."""

    def __init__(self, pool: Pool, keys: DossierKeys, digests: EntryDigests, log_count: int) -> None:
        self._pool = pool
        self._keys = keys
        self._digests = digests
        self._log_count = log_count

    async def check(self, tree: LogTree, part: bytes) -> TablePart:
        """The part that begins there, the first one for nothing. Tables of all logs are looked at with each log."""
        number, after = json.loads(part) if part else (0, None)
        if number < _KEYS:
            table = KEPT[number]
            key = table.begin if after is None else [read(text) for read, text in zip(table.read, after, strict=True)]
            return await self._rows(number, table, key)
        if number == _KEYS:
            return await self._dossier_keys(_LOW if after is None else int(after[0]))
        return await self._log(tree)

    async def _rows(self, number: int, table: Kept, after: Sequence[Any]) -> TablePart:
        async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
            rows = await table_store.page(conn, table, after, PAGE)
            damages = [
                TableDamage(table.name, row_name(table, row), "is not what was kept there" if row[-1] else _NO_TAG)
                for row in rows
                if not _holds(self._digests, table, row)
            ]
            if table is table_store.DESTRUCTION:
                damages += await self._not_destroyed(conn, [int(str(row[0])) for row in rows])
        if len(rows) < PAGE:
            return TablePart(damages, len(rows), _part(number + 1))
        return TablePart(damages, len(rows), _part(number, rows[-1][: len(table.begin)]))

    async def _not_destroyed(self, conn: Connection, health_ids: Sequence[int]) -> list[TableDamage]:
        """Dossiers that were destroyed, and whose key's row does not say so, or is gone: another key could be made."""
        keys = await self._keys.for_read(conn, health_ids)
        problem = "the dossier was destroyed, and its key is there or its row is gone"
        return [
            TableDamage("dossier_key", dossier_name(max(health_id, 0)), problem)
            for health_id in health_ids
            if not is_destroyed(keys, health_id)
        ]

    async def _dossier_keys(self, after: int) -> TablePart:
        async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
            rows = await table_store.keys(conn, after, PAGE)
            usable = await self._keys.usable({row.health_id: row.wrapped for row in rows})
            ids = [row.health_id for row in rows]
            destructions = await ending_store.destructions(conn, ids)
            told = await read_told(conn, self._keys, [each.place for each in destructions.values()])
            damages = []
            for row in rows:
                known = destructions.get(row.health_id)
                problem = ""
                if row.wrapped is None:
                    problem = _unfounded(row, None if known is None else told.get(known.place))
                    if known is None:
                        problem = await self._untold(conn, row)
                elif row.health_id not in usable:
                    problem = "wrapped does not open (or the health id was changed)"
                if problem:
                    damages.append(TableDamage("dossier_key", dossier_name(max(row.health_id, 0)), problem))
        if len(rows) < PAGE:
            return TablePart(damages, len(rows), _part(_LOG))
        return TablePart(damages, len(rows), _part(_KEYS, ids[-1:]))

    async def _untold(self, conn: Connection, row: KeyRow) -> str:
        """What is wrong with a key that is gone and whose event is not known: how dossiers were destroyed before their
        events were durable first, or nothing but an emptied row."""
        ids = self._digests.event_ids("destroyed", row.health_id.to_bytes(8, "big", signed=True))
        told = await find_told(conn, self._keys, ids, self._log_count)
        if told is None:
            return "the key is gone, and no event of the log says that the dossier was destroyed"
        return "the place of the event that tells of it is not kept: from before it was (dmp audit adopt), or gone"

    async def _log(self, tree: LogTree) -> TablePart:
        """What is taken down of one log, against what there is, all of one moment."""
        damages: list[TableDamage] = []
        async with (
            self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn,
            conn.transaction(isolation="repeatable_read", readonly=True),
        ):
            record = await conn.fetchrow(table_store.PAGE_DERIVED, tree.log_id - 1, 1)
            found = await table_store.amounts(conn, tree.log_id)
            row = DerivedRow(*record) if record is not None and record["log_id"] == tree.log_id else None
            state = await tree_store.state(conn, tree.log_id)
            size = state.size if state is not None and not tree.tiles.keeps_bundles else None
            more = size is not None and await table_store.has_more_tiles(conn, tree.log_id, _tiles_of(size))
            strays = await table_store.strays(conn, self._log_count)
        taken = (row.counted, row.notices, row.items, row.aside) if row is not None else (0, 0, 0, 0)
        for name, here, down in zip(("day_count", "notice", "unusual_access", "set_aside"), found, taken, strict=True):
            if here != down and (row is None or row.tag):
                problem = f"{down} were taken down and {here} are here: some were added or are gone"
                damages.append(TableDamage(name, f"log {tree.log_id}", problem))
        if more:
            damages.append(TableDamage("tile", f"log {tree.log_id}", "a row is of a tile that the tree does not have"))
        damages += [TableDamage(table, "log_id", "a row is of a log that there is not") for table in strays]
        return TablePart(damages, 1, b"")


def row_name(table: Kept, row: Row) -> str:
    """How a row is named: by its key, a dossier by its name."""
    key = row[: len(table.begin)]
    if table.name == "destruction":
        return dossier_name(max(int(str(key[0])), 0))
    return "/".join(_text(each) for each in (key[1:] if table.name == "notice" else key))


def _holds(digests: EntryDigests, table: Kept, row: Row) -> bool:
    tag = row[-1]
    return isinstance(tag, bytes) and digests.tags.holds(table.name, row[:-1], tag)


def _unfounded(row: KeyRow, told: Told | None) -> str:
    """Why what is told does not account for a key that is gone; empty if it does."""
    if told is None:
        return "the key is gone, and the event that is said to tell of it is not in the log"
    match told.act:
        case Adopted():
            return ""
        case Destroyed(health_id) if health_id == row.health_id:
            return "" if told.at == row.destroyed_at else "destroyed_at is not when the log says it was"
        case _:
            return "the key is gone, and the event that is said to tell of it tells of something else"


def _tiles_of(size: int) -> list[int]:
    """How many tiles a tree has, by level."""
    tiles = []
    while size:
        tiles.append((size + 255) // 256)
        size //= 256
    return tiles


def _part(number: int, key: Sequence[Value] | None = None) -> bytes:
    return json.dumps([number, None if key is None else [_text(each) for each in key]]).encode()


def _text(value: Value) -> str:
    match value:
        case bytes():
            return value.hex()
        case datetime() | date():
            return value.isoformat()
        case _:
            return str(value)
