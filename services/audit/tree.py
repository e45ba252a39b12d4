"""One log as a public tree: what is read of it, and the checks that it is still itself. Nothing is added to it here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.audit import tree_store
from services.audit.tiles import ForkFound, TileStore
from services.audit.tree_store import TreeState
from services.runtime.postgres import Connection, Pool, translate
from services.runtime.tlog.checkpoint import Checkpoint, parse
from services.runtime.tlog.layout import (
    Bundle,
    Edge,
    Tile,
    edge_tiles,
    encode_bundle,
    node_reader,
    tiles_for,
    width_at,
)
from services.runtime.tlog.note import NoteWrong, Signer, verified
from services.runtime.tlog.policy import Policy
from services.runtime.tlog.receipt import Proof
from services.runtime.tlog.tree import (
    EMPTY_ROOT,
    HASH_BYTES,
    ProofWrong,
    Range,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    prove,
    verify_consistency,
)

ACQUIRE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class LogTree:
    """A log's tree in the database and the tile store."""

    log_id: int
    signer: Signer
    policy: Policy
    pool: Pool
    tiles: TileStore

    @property
    def origin(self) -> str:
        """The first line of its checkpoints: the name of its key."""
        return self.signer.name

    # --- what is published ---

    async def checkpoint(self) -> bytes:
        """The published checkpoint."""
        async with self.pool.acquire(timeout=ACQUIRE_SECONDS) as conn:
            return (await self.state(conn)).published

    async def tile(self, tile: Tile) -> bytes | None:
        """A tile of the published tree, or of one published before; None if there is none."""
        async with self.pool.acquire(timeout=ACQUIRE_SECONDS) as conn:
            state = await self.state(conn)
            if width_at(state.published_size, tile.level, tile.number) < tile.width:
                return None
            found = await self.tiles.get(conn, self.log_id, self.origin, [tile])
        content = found.get((tile.level, tile.number))
        return None if content is None else content[: tile.width * HASH_BYTES]

    async def bundle(self, bundle: Bundle) -> bytes | None:
        """The entries under a tile of level 0 of the published tree; None if there are none."""
        async with self.pool.acquire(timeout=ACQUIRE_SECONDS) as conn:
            state = await self.state(conn)
            if width_at(state.published_size, 0, bundle.number) < bundle.width:
                return None
            low = bundle.number * 256
            rows = await tree_store.entries(conn, self.log_id, low, low + bundle.width)
        return encode_bundle(leaf for _, leaf in rows) if len(rows) == bundle.width else None

    async def proof(self, index: int, extra: bytes) -> Proof | None:
        """The proof of an entry under the published checkpoint; None while that does not cover it."""
        async with self.pool.acquire(timeout=ACQUIRE_SECONDS) as conn:
            state = await self.state(conn)
            if index >= state.published_size:
                return None
            path = await self._hashes(conn, inclusion_ranges(index, state.published_size), state.published_size)
        return Proof(index, tuple(path), state.published, extra)

    async def consistency(self, conn: Connection, old: int, size: int) -> list[bytes]:
        """The proof that the tree of `size`, stored here, begins with that of `old`."""
        return await self._hashes(conn, consistency_ranges(old, size), size)

    # --- whether it is still itself ---

    async def begin(self) -> None:
        """Gives the log the checkpoint of an empty tree, if it has none."""
        empty = Checkpoint(self.origin, 0, EMPTY_ROOT)
        signed = self.sign(empty)
        async with self.pool.acquire(timeout=ACQUIRE_SECONDS) as conn:
            await tree_store.begin(conn, self.log_id, empty.root, signed)

    def sign(self, checkpoint: Checkpoint) -> bytes:
        """A signed note. The caller has committed itself to it already, or does so before it shows it to anybody."""
        text = checkpoint.text()
        return (text + "\n" + self.signer.sign(text).line()).encode()

    async def state(self, conn: Connection) -> TreeState:
        """The checkpoint row. ForkFound if it is gone."""
        state = await tree_store.state(conn, self.log_id)
        if state is None:
            raise ForkFound(f"{self.origin}: the log has no checkpoint any more")
        return state

    async def edge(self, conn: Connection, state: TreeState) -> Edge:
        """The right edge of the stored tree. ForkFound unless tiles, entries and checkpoint agree on it."""
        wanted = [tile for tile in edge_tiles(state.size) if tile]
        found = await self.tiles.get(conn, self.log_id, self.origin, wanted)
        partial = [
            found.get((tile.level, tile.number), b"")[: tile.width * HASH_BYTES] if tile else b""
            for tile in edge_tiles(state.size)
        ]
        try:
            edge = Edge(state.size, partial)
        except ValueError:
            raise ForkFound(f"{self.origin}: tiles of the tree of {state.size} events are missing") from None
        if edge.root() != state.root:
            raise ForkFound(
                f"{self.origin}: the stored tiles do not make the root of the checkpoint of {state.size} events "
                "(another log's tiles, or older ones?)"
            )
        await self._check_last_entries(conn, state.size, partial[0] if partial else b"")
        return edge

    async def check(self) -> None:
        """ForkFound, saying why, unless this is the log that it was: key, events, tiles, and what was given out."""
        try:
            # Read before the state: what others publish meanwhile is then in the state, and no larger than it.
            given_out = await self.tiles.published(self.origin)
            async with self.pool.acquire(timeout=ACQUIRE_SECONDS) as conn:
                state = await self.state(conn)
                self._check_signed(state)
                durable = await tree_store.size_of(conn, self.log_id)
                if durable < state.size:
                    raise ForkFound(
                        f"{self.origin}: the checkpoint is of {state.size} events, {durable} are here: some were lost"
                    )
                await self.edge(conn, state)
                if given_out is not None:
                    await self.check_against(conn, state, parse(given_out)[0], "the tile store")
        except NoteWrong as error:
            raise ForkFound(f"{self.origin}: the tile store holds a checkpoint that is none: {error}") from error
        except ForkFound:
            raise
        except Exception as error:
            raise translate(error) from error

    async def check_against(self, conn: Connection, state: TreeState, seen: Checkpoint, where: str) -> None:
        """ForkFound unless the tree continues a checkpoint that was seen elsewhere."""
        if seen.origin != self.origin:
            raise ForkFound(f"{self.origin}: {where} holds the checkpoint of {seen.origin}")
        if seen.size > state.size:
            raise ForkFound(
                f"{self.origin}: {where} has seen a tree of {seen.size} events and this one has {state.size}: the "
                "database is older than what was published (a restored backup?)"
            )
        if seen.size == 0:
            return
        proof = await self.consistency(conn, seen.size, state.size)
        try:
            verify_consistency(seen.size, seen.root, state.size, state.root, proof)
        except ProofWrong:
            raise ForkFound(
                f"{self.origin}: {where} has seen another tree of {seen.size} events than the one stored here"
            ) from None

    def _check_signed(self, state: TreeState) -> None:
        try:
            checkpoint, note = parse(state.signed)
            signed = verified(note, [self.signer.verifier])
        except NoteWrong as error:
            raise ForkFound(f"{self.origin}: the stored checkpoint is damaged: {error}") from error
        if not signed or checkpoint.origin != self.origin:
            raise ForkFound(
                f"the stored checkpoint of log {self.log_id} is of {checkpoint.origin} and not signed by the key "
                f"{self.signer.verifier.text()}: this key belongs to another log"
            )
        if (checkpoint.size, checkpoint.root) != (state.size, state.root):
            raise ForkFound(f"{self.origin}: the checkpoint row and its signed note disagree")

    async def _check_last_entries(self, conn: Connection, size: int, hashes: bytes) -> None:
        low = size - len(hashes) // HASH_BYTES
        rows = await tree_store.entries(conn, self.log_id, low, size) if hashes else []
        if b"".join(leaf_hash(leaf) for _, leaf in rows) != hashes:
            raise ForkFound(f"{self.origin}: events {low} to {size - 1} are not those that the tiles were made of")

    async def _hashes(self, conn: Connection, ranges: Sequence[Range], size: int) -> list[bytes]:
        wanted = tiles_for(ranges, size)
        found = await self.tiles.get(conn, self.log_id, self.origin, wanted)
        if len(found) != len(wanted):
            raise ForkFound(f"{self.origin}: tiles of the tree of {size} events are missing")
        return prove(ranges, node_reader(found))
