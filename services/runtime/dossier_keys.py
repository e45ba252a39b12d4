"""One service's keys, one for each dossier: got or made in a batch, wrapped at rest, destroyed by law.

The only user of the table `dossier_key`; its statements are the constants below. Wrapping is `keyring`'s, sealing is
`sealing`'s. What to destroy, and when, is decided elsewhere.

Writing and destroying exclude each other: a writer holds its dossier's row FOR KEY SHARE until it commits, and
destroying takes the row FOR UPDATE. Whoever commits content therefore commits it before the key is gone, or sees that
it is gone (design §8, sealing).

Associated data of a wrapped dossier key (frozen): "dmp/dossier-key/v1/" ‖ service ‖ 0x00 ‖ health id (8 bytes,
big-endian): a row copied to another dossier, or to another service's table, does not open.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DmpError
from services.runtime.sealing import KEY_BYTES, DossierKey

if TYPE_CHECKING:
    from services.runtime.postgres import Connection

_READ: Final = """
SELECT health_id, wrapped
FROM dossier_key
WHERE health_id = ANY($1::bigint[])
"""

_READ_AND_HOLD: Final = "SELECT health_id, wrapped FROM dossier_key WHERE health_id = $1 FOR KEY SHARE"

# Several dossiers at once, for a table that stays on one node (the audit service's): no cluster locks across shards.
_READ_AND_HOLD_SEVERAL: Final = """
SELECT health_id, wrapped
FROM dossier_key
WHERE health_id = ANY($1::bigint[])
ORDER BY health_id
FOR KEY SHARE
"""

_INSERT: Final = """
INSERT INTO dossier_key (health_id, wrapped)
SELECT health_id, wrapped FROM unnest($1::bigint[], $2::bytea[]) AS made (health_id, wrapped)
ORDER BY health_id
ON CONFLICT (health_id) DO NOTHING
"""

_INSERT_DESTROYED: Final = """
INSERT INTO dossier_key (health_id, wrapped, destroyed_at) VALUES ($1, NULL, $2)
ON CONFLICT (health_id) DO NOTHING
"""

_LOCK: Final = "SELECT destroyed_at FROM dossier_key WHERE health_id = $1 FOR UPDATE"

_DESTROY: Final = """
UPDATE dossier_key SET wrapped = NULL, destroyed_at = $2
WHERE health_id = $1 AND destroyed_at IS NULL
"""

_DESTROYED_AT: Final = "SELECT destroyed_at FROM dossier_key WHERE health_id = $1"

_SLICE: Final = """
SELECT health_id, wrapped FROM dossier_key WHERE health_id > $1 ORDER BY health_id LIMIT $2
"""

_REWRAP: Final = """
UPDATE dossier_key k SET wrapped = made.wrapped
FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS made (health_id, before, wrapped)
WHERE k.health_id = made.health_id AND k.wrapped = made.before
"""


class UnwrapFailed(Exception):
    """The wrapped key was altered, belongs to another owner, or its generation is not in the keyring."""


@dataclass(frozen=True, slots=True)
class KeyForOwner:
    """A key, plain or wrapped, and the associated data that binds it to its owner."""

    key: bytes
    aad: bytes


class KeyWrapper(Protocol):
    """Wraps and unwraps keys in batches; what a transit engine (Vault, OpenBao) or a KMS implements.

    Results are in the order of the items. `unwrap_batch` raises UnwrapFailed if any item fails.
    """

    async def wrap_batch(self, items: Sequence[KeyForOwner]) -> list[bytes]: ...

    async def unwrap_batch(self, items: Sequence[KeyForOwner]) -> list[bytes]: ...


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What one slice of `rewrap` did: the keys looked at, the last of their dossiers, those wrapped anew."""

    looked_at: int
    last: int
    rewrapped: int


class RecalledKey(NamedTuple):
    """A key that this process knows, and the column that it came from."""

    wrapped: bytes
    key: DossierKey


class DossierKeyBatch:
    """The keys of the dossiers asked for. Indexing raises the DmpError of that dossier alone, so that one destroyed
    dossier fails its own items and no others of the batch."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Mapping[int, DossierKey | DmpError]) -> None:
        self._keys = keys

    def __getitem__(self, health_id: int) -> DossierKey:
        """The key; DmpError CONTENT_DESTROYED, or CONTENT_CORRUPTED when it is absent or was altered."""
        key = self._keys.get(health_id)
        if isinstance(key, DossierKey):
            return key
        raise key if key is not None else DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED)

    def __contains__(self, health_id: int) -> bool:
        """Whether the dossier has a usable key."""
        return isinstance(self._keys.get(health_id), DossierKey)

    def __or__(self, other: DossierKeyBatch) -> DossierKeyBatch:
        return DossierKeyBatch({**self._keys, **other._keys}) if other._keys else self

    def __len__(self) -> int:
        return sum(isinstance(key, DossierKey) for key in self._keys.values())


class DossierKeys:
    """Keys of one service's dossiers. Unwrapped keys are remembered (least recently used go first); whether a key is
    destroyed is read from its row every time, so destroying takes effect at once on every replica."""

    def __init__(self, wrapper: KeyWrapper, service: str, *, capacity: int = 20_000) -> None:
        """`service` is part of what binds a key to its row; `capacity` bounds the remembered keys."""
        self._wrapper = wrapper
        self._binding = b"dmp/dossier-key/v1/" + service.encode() + b"\x00"
        self._capacity = capacity
        self._unwrapped: OrderedDict[int, RecalledKey] = OrderedDict()

    async def for_read(self, conn: Connection, health_ids: Sequence[int]) -> DossierKeyBatch:
        """The keys of these dossiers, in one statement whatever their number."""
        return await self.usable(await _rows(conn, _READ, sorted(set(health_ids))))

    async def for_write(self, conn: Connection, health_ids: Sequence[int]) -> DossierKeyBatch:
        """The keys of these dossiers, made where absent; call it inside the transaction that writes the content.

        One statement when all exist, three otherwise. The rows are held FOR KEY SHARE until the transaction ends.
        """
        wanted = sorted(set(health_ids))
        rows = await _held(conn, wanted)
        missing = [health_id for health_id in wanted if health_id not in rows]
        if missing:
            made = [KeyForOwner(os.urandom(KEY_BYTES), self._aad(health_id)) for health_id in missing]
            await conn.execute(_INSERT, missing, await self._wrapper.wrap_batch(made))
            rows |= await _held(conn, missing)
        return await self.usable(rows)

    async def recall(self, conn: Connection, health_ids: Iterable[int]) -> dict[int, RecalledKey] | None:
        """The keys of these dossiers as this process knows them; those that it does not know are read. None when one of
        the dossiers has no usable key.

        A key may have been destroyed since: the statement that writes must hold the row and compare `wrapped` with it.
        """
        wanted = set(health_ids)
        if unknown := [health_id for health_id in wanted if health_id not in self._unwrapped]:
            await self.usable(await _rows(conn, _READ, unknown))
        return self.remembered(wanted)

    def remembered(self, wanted: Set[int]) -> dict[int, RecalledKey] | None:
        """As `recall`, without looking at the database: None also when one of the keys is not known here."""
        recalled: dict[int, RecalledKey] = {}
        for health_id in wanted:
            known = self._unwrapped.get(health_id)
            if known is None:
                return None
            self._unwrapped.move_to_end(health_id)
            recalled[health_id] = known
        return recalled

    async def for_new(self, conn: Connection, health_ids: Sequence[int]) -> Mapping[int, DossierKey]:
        """Keys for dossiers whose health ids were drawn in this very transaction, in one statement.

        LookupError when one has a key already: a health id was drawn twice, and nothing may be written.
        """
        made = [KeyForOwner(os.urandom(KEY_BYTES), self._aad(health_id)) for health_id in health_ids]
        wrapped = await self._wrapper.wrap_batch(made)
        if await conn.execute(_INSERT, list(health_ids), wrapped) != f"INSERT 0 {len(made)}":
            raise LookupError("a new health id has a key already")
        keys: dict[int, DossierKey] = {}
        for health_id, item, blob in zip(health_ids, made, wrapped, strict=True):
            keys[health_id] = DossierKey.from_bytes(health_id, item.key)
            self._remember(health_id, blob, keys[health_id])
        return keys

    async def destroy(self, conn: Connection, health_id: int, at: datetime) -> bool:
        """Destroy the dossier's key for ever; call it inside a transaction. False when it was destroyed before.

        Waits for writers of the dossier to finish; a dossier without a key is marked, so that none is made later.
        """
        if await conn.execute(_INSERT_DESTROYED, health_id, at) == "INSERT 0 1":
            return True
        await conn.execute(_LOCK, health_id)
        self._unwrapped.pop(health_id, None)
        return bool(await conn.execute(_DESTROY, health_id, at) == "UPDATE 1")

    async def destroyed_at(self, conn: Connection, health_id: int) -> datetime | None:
        """When the dossier's key was destroyed; None while it is not."""
        at: datetime | None = await conn.fetchval(_DESTROYED_AT, health_id)
        return at

    async def rewrap(
        self, conn: Connection, after: int, limit: int, current: int, generation: Callable[[bytes], int]
    ) -> Rewrapped:
        """Wrap anew, under the current generation, the keys of the next dossiers that an older one wraps. One that is
        destroyed meanwhile stays so; one that was altered is left as it is, for those who verify to find."""
        records = await conn.fetch(_SLICE, after, limit)
        stale = [row for row in records if row["wrapped"] is not None and generation(row["wrapped"]) != current]
        if stale:
            wrapped = [KeyForOwner(row["wrapped"], self._aad(row["health_id"])) for row in stale]
            try:
                plain: list[bytes | None] = list(await self._wrapper.unwrap_batch(wrapped))
            except UnwrapFailed:
                plain = [await self._unwrap_one(item) for item in wrapped]
            opened = [(row, key) for row, key in zip(stale, plain, strict=True) if key is not None]
            anew = [KeyForOwner(key, self._aad(row["health_id"])) for row, key in opened]
            stale = [row for row, _ in opened]
            before = [row["wrapped"] for row in stale]
            ids = [row["health_id"] for row in stale]
            await conn.execute(_REWRAP, ids, before, await self._wrapper.wrap_batch(anew))
        return Rewrapped(len(records), records[-1]["health_id"] if records else after, len(stale))

    def binding(self, health_id: int) -> bytes:
        """What binds a dossier's wrapped key to it and to this service: for loading keys in bulk."""
        return self._aad(health_id)

    def _aad(self, health_id: int) -> bytes:
        return self._binding + health_id.to_bytes(8, "big")

    async def usable(self, rows: Mapping[int, bytes | None]) -> DossierKeyBatch:
        """The keys in these rows, by dossier: `wrapped` as just read, None of a key that was destroyed."""
        keys: dict[int, DossierKey | DmpError] = {}
        unknown: list[KeyForOwner] = []
        owners: list[int] = []
        remembered = self._unwrapped
        for health_id, wrapped in rows.items():
            if wrapped is None:
                remembered.pop(health_id, None)
                keys[health_id] = DmpError(reasons.ERROR_REASON_CONTENT_DESTROYED)
                continue
            known = remembered.get(health_id)
            if known is not None and known.wrapped == wrapped:
                remembered.move_to_end(health_id)
                keys[health_id] = known.key
            else:
                owners.append(health_id)
                unknown.append(KeyForOwner(wrapped, self._aad(health_id)))
        if unknown:
            keys |= await self._unwrap(owners, unknown)
        return DossierKeyBatch(keys)

    async def _unwrap(self, owners: Sequence[int], items: Sequence[KeyForOwner]) -> dict[int, DossierKey | DmpError]:
        """Unwrap in one call of the wrapper; only if that fails, one by one, to fail the altered rows alone."""
        try:
            plain: list[bytes | None] = list(await self._wrapper.unwrap_batch(items))
        except UnwrapFailed:
            plain = [await self._unwrap_one(item) for item in items]
        keys: dict[int, DossierKey | DmpError] = {}
        for health_id, item, secret in zip(owners, items, plain, strict=True):
            if secret is None:
                keys[health_id] = DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED)
                continue
            key = DossierKey.from_bytes(health_id, secret)
            keys[health_id] = key
            self._remember(health_id, item.key, key)
        return keys

    def _remember(self, health_id: int, wrapped: bytes, key: DossierKey) -> None:
        self._unwrapped[health_id] = RecalledKey(wrapped, key)
        if len(self._unwrapped) > self._capacity:
            self._unwrapped.popitem(last=False)

    async def _unwrap_one(self, item: KeyForOwner) -> bytes | None:
        try:
            return (await self._wrapper.unwrap_batch([item]))[0]
        except UnwrapFailed:
            return None


async def _held(conn: Connection, health_ids: Sequence[int]) -> dict[int, bytes | None]:
    """The rows of these dossiers, held for the rest of the transaction."""
    if len(health_ids) == 1:
        return await _rows(conn, _READ_AND_HOLD, health_ids[0])
    return await _rows(conn, _READ_AND_HOLD_SEVERAL, health_ids)


async def _rows(conn: Connection, statement: str, asked: Sequence[int] | int) -> dict[int, bytes | None]:
    return {record[0]: record[1] for record in await conn.fetch(statement, asked)}
