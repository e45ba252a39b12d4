"""Where a log is read from: its public pages, a directory with the same layout, or the audit service by RPC.

Nothing is believed here; `verify` judges what comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

import httpx
from google.protobuf.message import Message

from dmp.audit.v1 import log_pb2
from ops.local.registrations import OPERATOR
from ops.session import Session, Statement
from services.runtime.tlog.layout import CHECKPOINT_PATH, Bundle, Tile, bundle_path, tile_path

_MOST_DAMAGES: Final = 1000
"""Rows that are wrong beyond these are not asked for: they say no more."""
OPERATOR_STATEMENT: Final = Statement.of(OPERATOR, actor="operator", subject="operator-verify")


R = TypeVar("R", bound=Message)


class SourceFailed(Exception):
    """The log cannot be read from there; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class RowDamage:
    """What the service itself found wrong with a stored event (`leaf_index` -1: with the log's own rows)."""

    leaf_index: int
    column: str
    offset: int
    problem: str


@dataclass(frozen=True, slots=True)
class Rows:
    """Entries as stored, what is wrong with them, how many clear parts were destroyed by law or given up in their time,
    and how many were gone when rows did not say why yet (adopted)."""

    entries: bytes
    damages: Sequence[RowDamage]
    destroyed: int
    adopted: int = 0


@dataclass(frozen=True, slots=True)
class TableDamage:
    """What the service itself found wrong with a row of a table that is made of the log."""

    table: str
    row: str
    problem: str


class Source(Protocol):
    """One log."""

    async def checkpoint(self) -> bytes:
        """The published checkpoint. SourceFailed."""
        ...

    async def acknowledged(self) -> int:
        """How many events were acknowledged, where the source can tell; 0 where it sees the public log alone."""
        ...

    async def tile(self, tile: Tile) -> bytes | None:
        """A tile's hashes; None if there is none. SourceFailed."""
        ...

    async def bundle(self, bundle: Bundle) -> bytes | None:
        """A bundle; None if there is none. SourceFailed."""
        ...

    async def rows(self, start: int, count: int) -> Rows | None:
        """Stored events, where the source can look at them; None where it sees the public log alone."""
        ...

    async def tables(self) -> Sequence[TableDamage]:
        """What is wrong with the tables beside the log, where the source can look at them."""
        ...


@dataclass(frozen=True, slots=True)
class WebSource:
    """The public pages of a log, at the URL that its checkpoint is under."""

    http: httpx.AsyncClient
    prefix: str

    async def checkpoint(self) -> bytes:
        found = await self._get(CHECKPOINT_PATH)
        if found is None:
            raise SourceFailed(f"{self.prefix}: there is no checkpoint")
        return found

    async def tile(self, tile: Tile) -> bytes | None:
        return await self._get(tile_path(tile))

    async def bundle(self, bundle: Bundle) -> bytes | None:
        return await self._get(bundle_path(bundle))

    async def acknowledged(self) -> int:
        return 0

    async def rows(self, start: int, count: int) -> Rows | None:
        return None

    async def tables(self) -> Sequence[TableDamage]:
        return ()

    async def _get(self, path: str) -> bytes | None:
        try:
            response = await self.http.get(f"{self.prefix}/{path}")
        except httpx.HTTPError as error:
            raise SourceFailed(f"{self.prefix}/{path}: {error}") from error
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            raise SourceFailed(f"{self.prefix}/{path}: HTTP {response.status_code}")
        return response.content


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """A directory laid out as the public pages are: what was fetched, or an object store's files."""

    root: Path

    async def checkpoint(self) -> bytes:
        found = self._read(CHECKPOINT_PATH)
        if found is None:
            raise SourceFailed(f"{self.root}: there is no checkpoint")
        return found

    async def tile(self, tile: Tile) -> bytes | None:
        return self._read(tile_path(tile))

    async def bundle(self, bundle: Bundle) -> bytes | None:
        return self._read(bundle_path(bundle))

    async def acknowledged(self) -> int:
        return 0

    async def rows(self, start: int, count: int) -> Rows | None:
        return None

    async def tables(self) -> Sequence[TableDamage]:
        return ()

    def _read(self, path: str) -> bytes | None:
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SourceFailed(str(error)) from error


@dataclass(frozen=True, slots=True)
class RpcSource:
    """The audit service itself, which also checks what only it can open."""

    session: Session
    log_id: int

    async def checkpoint(self) -> bytes:
        request = log_pb2.GetCheckpointRequest(log_id=self.log_id)
        return (await self._call("GetCheckpoint", request, log_pb2.GetCheckpointResponse)).checkpoint

    async def tile(self, tile: Tile) -> bytes | None:
        request = log_pb2.GetTileRequest(log_id=self.log_id, level=tile.level, index=tile.number, width=tile.width)
        answer = await self._call("GetTile", request, log_pb2.GetTileResponse)
        return answer.hashes if answer.found else None

    async def bundle(self, bundle: Bundle) -> bytes | None:
        request = log_pb2.GetEntryBundleRequest(log_id=self.log_id, index=bundle.number, width=bundle.width)
        answer = await self._call("GetEntryBundle", request, log_pb2.GetEntryBundleResponse)
        return answer.entries if answer.found else None

    async def acknowledged(self) -> int:
        return next((log.size for log in await self.logs() if log.log_id == self.log_id), 0)

    async def rows(self, start: int, count: int) -> Rows | None:
        request = log_pb2.CheckEntriesRequest(log_id=self.log_id, start=start, count=count)
        answer = await self._call("CheckEntries", request, log_pb2.CheckEntriesResponse)
        damages = [RowDamage(d.leaf_index, d.column, d.offset, d.problem) for d in answer.damages]
        return Rows(answer.entries, damages, len(answer.destroyed), len(answer.adopted))

    async def tables(self) -> Sequence[TableDamage]:
        damages: list[TableDamage] = []
        request = log_pb2.CheckTablesRequest(log_id=self.log_id)
        while True:
            answer = await self._call("CheckTables", request, log_pb2.CheckTablesResponse)
            damages += [TableDamage(each.table, each.row, each.problem) for each in answer.damages]
            request.page_token = answer.next_page_token
            if not request.page_token or len(damages) >= _MOST_DAMAGES:
                return damages

    async def logs(self) -> Sequence[log_pb2.LogInfo]:
        """All logs of the service."""
        return (await self._call("ListLogs", log_pb2.ListLogsRequest(), log_pb2.ListLogsResponse)).logs

    async def _call(self, method: str, request: Message, response: type[R]) -> R:
        return await self.session.call("audit", method, request, response, OPERATOR_STATEMENT)
