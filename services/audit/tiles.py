"""Where tiles are kept: in the service's database, or in an object store. No tree and no checkpoint is decided here.

An object store holds what the specification serves, under the log's origin: `checkpoint`, `tile/…`, each written once
(a partial tile or bundle is an object of its own). The database decides: objects are written before its swap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from datetime import timedelta
from typing import Protocol, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore, from_url

from services.audit import tree_store
from services.runtime.errors import unavailable
from services.runtime.postgres import Connection
from services.runtime.tlog.layout import (
    CHECKPOINT_PATH,
    Bundle,
    Grown,
    Tile,
    bundle_path,
    tile_path,
)
from services.runtime.tlog.tree import HASH_BYTES

_AT_ONCE = 16
_TIMEOUT = 10.0

T = TypeVar("T")


class ForkFound(Exception):
    """What is stored, or was witnessed, contradicts the log: nothing may be added to it before a person has looked."""


class TileStore(Protocol):
    """Tiles of all logs. What is there is never changed, only added to."""

    keeps_bundles: bool
    """Whether it serves entry bundles itself, and so must be given them."""

    async def put(
        self,
        conn: Connection,
        log_id: int,
        origin: str,
        grown: Sequence[Grown],
        bundles: Sequence[tuple[Bundle, bytes]],
    ) -> None:
        """Keeps the tiles and bundles; durable at the latest when the transaction of `conn` is. ForkFound if others
        are there in their place."""
        ...

    async def get(
        self, conn: Connection, log_id: int, origin: str, wanted: Sequence[Tile]
    ) -> dict[tuple[int, int], bytes]:
        """The content of tiles by (level, number), at least as wide as wanted; those that do not exist are left out."""
        ...

    async def publish(self, origin: str, checkpoint: bytes) -> None:
        """Gives the checkpoint out, where others than this service do."""
        ...

    async def published(self, origin: str) -> bytes | None:
        """The checkpoint given out, where others than this service do."""
        ...


class DatabaseTiles:
    """Tiles in the table `tile`; entries are in the table `event`."""

    keeps_bundles = False

    async def put(
        self,
        conn: Connection,
        log_id: int,
        origin: str,
        grown: Sequence[Grown],
        bundles: Sequence[tuple[Bundle, bytes]],
    ) -> None:
        if await tree_store.put_tiles(conn, log_id, grown) != len(grown):
            raise ForkFound(f"{origin}: stored tiles are not the beginning of what the entries make")

    async def get(
        self, conn: Connection, log_id: int, origin: str, wanted: Sequence[Tile]
    ) -> dict[tuple[int, int], bytes]:
        found = await tree_store.tiles(conn, log_id, wanted) if wanted else {}
        widths = {(tile.level, tile.number): tile.width * HASH_BYTES for tile in wanted}
        return {place: hashes for place, hashes in found.items() if len(hashes) >= widths[place]}

    async def publish(self, origin: str, checkpoint: bytes) -> None:
        return None

    async def published(self, origin: str) -> bytes | None:
        return None


class ObjectTiles:
    """Tiles in an object store: `s3://`, `gs://`, `az://` or `file://` (which must exist)."""

    keeps_bundles = True

    def __init__(self, store: ObjectStore, timeout: float = _TIMEOUT) -> None:
        """`timeout` in seconds bounds what is waited for all objects of one step: the log's row is held meanwhile."""
        self._store = store
        self._timeout = timeout

    @classmethod
    def open(cls, url: str, config: Mapping[str, str] | None = None, timeout: float = _TIMEOUT) -> ObjectTiles:
        """The store at a URL; its credentials come from the environment, as its client library says, or `config`.

        ValueError for a URL or a configuration that it does not know.
        """
        if url.startswith("file:"):
            return cls(from_url(url), timeout)
        client = {"timeout": timedelta(seconds=timeout / 2), "connect_timeout": timedelta(seconds=timeout / 4)}
        options = dict(config or {})
        if options.pop("allow_http", "") == "true":
            client["allow_http"] = True  # type: ignore[assignment]
        retry = {"max_retries": 2, "retry_timeout": timedelta(seconds=timeout)}
        try:
            return cls(from_url(url, config=options, client_options=client, retry_config=retry), timeout)  # type: ignore[call-overload]
        except BaseError as error:
            raise ValueError(f"not an object store that can be used ({type(error).__name__})") from None

    async def put(
        self,
        conn: Connection,
        log_id: int,
        origin: str,
        grown: Sequence[Grown],
        bundles: Sequence[tuple[Bundle, bytes]],
    ) -> None:
        objects = [(f"{origin}/{tile_path(each.tile)}", each.hashes) for each in grown]
        objects += [(f"{origin}/{bundle_path(bundle)}", content) for bundle, content in bundles]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def put(path: str, content: bytes) -> None:
            async with gate:
                await self._put_once(path, content)

        await self._within(asyncio.gather(*(put(path, content) for path, content in objects)))

    async def get(
        self, conn: Connection, log_id: int, origin: str, wanted: Sequence[Tile]
    ) -> dict[tuple[int, int], bytes]:
        contents = await self._within(asyncio.gather(*(self._get(f"{origin}/{tile_path(tile)}") for tile in wanted)))
        return {
            (tile.level, tile.number): content
            for tile, content in zip(wanted, contents, strict=True)
            if content is not None and len(content) == tile.width * HASH_BYTES
        }

    async def publish(self, origin: str, checkpoint: bytes) -> None:
        try:
            await self._within(obstore.put_async(self._store, f"{origin}/{CHECKPOINT_PATH}", checkpoint))
        except Exception as error:
            raise unavailable("tile store") from error

    async def published(self, origin: str) -> bytes | None:
        return await self._within(self._get(f"{origin}/{CHECKPOINT_PATH}"))

    async def _within(self, work: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(work, self._timeout)
        except TimeoutError as error:
            raise unavailable("tile store") from error

    async def _put_once(self, path: str, content: bytes) -> None:
        try:
            await obstore.put_async(self._store, path, content, mode="create")
        except AlreadyExistsError:
            if await self._get(path) != content:
                raise ForkFound(f"{path}: the tile store holds another content") from None
        except Exception as error:
            raise unavailable("tile store") from error

    async def _get(self, path: str) -> bytes | None:
        try:
            result = await obstore.get_async(self._store, path)
            return bytes(await result.bytes_async())
        except FileNotFoundError:
            return None
        except Exception as error:
            raise unavailable("tile store") from error
