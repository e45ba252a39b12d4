"""Verifying a whole log: everything is derived again from its entries, up to the checkpoint, and compared. Pure of CLI.

For each bundle of entries: the entries' hashes make the tile of level 0; full tiles make those above; the last ones
make the root that the checkpoint states and that the log's key signed, under enough witnesses. Where two differ,
what is above decides which one is damaged, and the finding names the first wrong byte of that resource.

The work is resumable: after each bundle `Progress` holds the edge of the tree so far, a few kilobytes of JSON.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ops.audit.sources import Source
from services.runtime.tlog.checkpoint import Checkpoint
from services.runtime.tlog.layout import (
    TILE_WIDTH,
    Bundle,
    Edge,
    Grown,
    Tile,
    bundle_path,
    bundles_of,
    decode_bundle,
    divided,
    edge_tiles,
    tile_path,
)
from services.runtime.tlog.note import NoteWrong
from services.runtime.tlog.policy import Policy, trust
from services.runtime.tlog.tree import HASH_BYTES, leaf_hash, perfect_hash

_MOST_FINDINGS: Final = 1000
ENTRY_BYTES: Final = 49
_STRIDE: Final = ENTRY_BYTES + 2


@dataclass(frozen=True, slots=True)
class Finding:
    """Something damaged: which resource, its first wrong byte (-1 where that cannot be told), and what is wrong."""

    resource: str
    offset: int
    problem: str

    def __str__(self) -> str:
        at = "" if self.offset < 0 else f", byte {self.offset}"
        return f"{self.resource}{at}: {self.problem}"


@dataclass(slots=True)
class Progress:
    """How far a log was verified: the next bundle, and the edge of the tree that the entries so far make."""

    origin: str = ""
    bundle: int = 0
    edge: Edge = field(default_factory=lambda: Edge(0, []))

    def save(self, file: Path) -> None:
        """Writes it whole or not at all."""
        partial = [base64.b64encode(bytes(each)).decode("ascii") for each in self.edge.partial]
        content = {"origin": self.origin, "bundle": self.bundle, "size": self.edge.size, "partial": partial}
        fresh = file.with_suffix(".partial")
        fresh.write_text(json.dumps(content))
        fresh.replace(file)

    @classmethod
    def load(cls, file: Path) -> Progress:
        """What was saved; ValueError for anything else."""
        content = json.loads(file.read_text())
        edge = Edge(content["size"], [base64.b64decode(each) for each in content["partial"]])
        return cls(content["origin"], content["bundle"], edge)


@dataclass(slots=True)
class Verdict:
    """What was found, and of which tree."""

    checkpoint: Checkpoint | None = None
    findings: list[Finding] = field(default_factory=list)
    destroyed: int = 0
    adopted: int = 0
    cosigners: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.checkpoint is not None and not self.findings


class Verification:
    """One log, from one source, under one policy."""

    def __init__(
        self,
        source: Source,
        policy: Policy,
        progress: Progress | None = None,
        *,
        advanced: Callable[[Progress, int], None] = lambda *_: None,
    ) -> None:
        """`advanced` is called after each bundle with the progress and the size of the whole tree."""
        self._source = source
        self._policy = policy
        self._progress = progress or Progress()
        self._advanced = advanced
        self._verdict = Verdict()
        self._partial = b""

    async def run(self) -> Verdict:
        """Verifies up to the published checkpoint. Raises SourceFailed when the log cannot be read."""
        verdict, progress = self._verdict, self._progress
        try:
            trusted = trust(await self._source.checkpoint(), self._policy)
        except NoteWrong as error:
            self._find("checkpoint", -1, str(error))
            return verdict
        checkpoint = verdict.checkpoint = trusted.checkpoint
        verdict.cosigners = trusted.cosigners
        if progress.origin not in ("", checkpoint.origin) or progress.edge.size > checkpoint.size:
            self._find("checkpoint", -1, f"the log was verified to {progress.edge.size} events, and now has fewer")
            return verdict
        progress.origin = checkpoint.origin
        for bundle in bundles_of(checkpoint.size, progress.bundle):
            await self._bundle(bundle)
            if len(verdict.findings) >= _MOST_FINDINGS:
                return verdict
            self._advanced(progress, checkpoint.size)
        await self._last(checkpoint)
        for damage in await self._source.tables():
            self._find(f"table {damage.table}, row {damage.row}", -1, damage.problem)
        return verdict

    async def _bundle(self, bundle: Bundle) -> None:
        """One bundle against the stored rows, its tile, and the tiles above that become full by it."""
        await self._rows(bundle)
        content = await self._source.bundle(bundle)
        hashes = await self._tile(Tile(0, bundle.number, bundle.width))
        entries = self._entries(bundle_path(bundle), content, bundle.width)
        made = b"".join(leaf_hash(entry) for entry in entries) if entries is not None else None
        right = hashes if hashes is not None else made
        if made is not None and hashes is not None and made != hashes:
            right = await self._judge(bundle, made, hashes)
        if right is None:
            right = bytes(bundle.width * HASH_BYTES)
        if bundle.width < TILE_WIDTH:
            self._partial = right
            return
        for grown in self._progress.edge.append_hashes(right):
            if grown.tile.level and grown.tile.width == TILE_WIDTH:
                await self._compare_above(grown)
        self._progress.bundle += 1

    async def _judge(self, bundle: Bundle, made: bytes, hashes: bytes) -> bytes:
        """Which of a bundle and its tile is damaged: the one that does not make what is above. Returns the other."""
        if await self._makes_above(bundle, made):
            offset = _first_difference(hashes, made)
            self._find(tile_path(Tile(0, bundle.number, bundle.width)), offset, "is not the hash of the entry")
            return made
        first = next(at for at in range(bundle.width) if _hash(made, at) != _hash(hashes, at))
        begin = first * _STRIDE + 2
        self._find(
            bundle_path(bundle),
            begin,
            f"entry {bundle.number * TILE_WIDTH + first}, bytes {begin} to {begin + ENTRY_BYTES - 1}, does not hash to "
            "what its tile says",
        )
        return hashes

    async def _makes_above(self, bundle: Bundle, made: bytes) -> bool:
        if bundle.width == TILE_WIDTH:
            return perfect_hash(divided(made)) == await self._hash_above(bundle.number)
        checkpoint = self._verdict.checkpoint
        return checkpoint is not None and self._root(checkpoint.size, made) == checkpoint.root

    async def _hash_above(self, number: int) -> bytes | None:
        size = self._verdict.checkpoint.size if self._verdict.checkpoint else 0
        count = size // TILE_WIDTH
        tile = Tile(1, number // TILE_WIDTH, min(TILE_WIDTH, count - number // TILE_WIDTH * TILE_WIDTH))
        content = await self._source.tile(tile)
        return _hash(content, number % TILE_WIDTH) if content is not None else None

    async def _compare_above(self, grown: Grown) -> None:
        found = await self._tile(grown.tile)
        if found is not None and found != grown.hashes:
            offset = _first_difference(found, grown.hashes)
            below = tile_path(
                Tile(grown.tile.level - 1, grown.tile.number * TILE_WIDTH + offset // HASH_BYTES, TILE_WIDTH)
            )
            self._find(tile_path(grown.tile), offset, f"is not the hash of {below}, or that tile is damaged")

    async def _last(self, checkpoint: Checkpoint) -> None:
        """The partial tiles above, and the root."""
        partial = self._partials(checkpoint.size, self._partial)
        for tile in edge_tiles(checkpoint.size):
            if tile is not None and tile.level:
                found = await self._tile(tile)
                if found is not None and found != partial[tile.level]:
                    offset = _first_difference(found, partial[tile.level])
                    self._find(tile_path(tile), offset, "is not the hash of the tile below")
        if self._root(checkpoint.size, self._partial) != checkpoint.root:
            self._find("checkpoint", -1, "line 3: the root is not that of the entries and tiles below it")

    def _partials(self, size: int, last: bytes) -> list[bytes]:
        partial = [bytes(each) for each in self._progress.edge.partial]
        return [last, *partial[1:]] if size % TILE_WIDTH else partial

    def _root(self, size: int, last: bytes) -> bytes:
        return Edge(size, self._partials(size, last)).root()

    async def _tile(self, tile: Tile) -> bytes | None:
        content = await self._source.tile(tile)
        if content is None:
            self._find(tile_path(tile), 0, "there is no such tile")
            return None
        if len(content) != tile.width * HASH_BYTES:
            self._find(tile_path(tile), min(len(content), tile.width * HASH_BYTES), "has not the length of its width")
            return None
        return content

    def _entries(self, name: str, content: bytes | None, width: int) -> list[bytes] | None:
        if content is None:
            self._find(name, 0, "there is no such bundle")
            return None
        try:
            entries = decode_bundle(content)
        except ValueError:
            entries = []
        wrong = next((at for at, entry in enumerate(entries) if len(entry) != ENTRY_BYTES), None)
        if wrong is not None or len(entries) != width or len(content) != width * _STRIDE:
            self._find(name, _wrong_length(content, width), f"an entry has {ENTRY_BYTES} bytes, and here are {width}")
            return None
        return entries

    async def _rows(self, bundle: Bundle) -> None:
        start = bundle.number * TILE_WIDTH
        rows = await self._source.rows(start, bundle.width)
        if rows is None:
            return
        self._verdict.destroyed += rows.destroyed
        self._verdict.adopted += rows.adopted
        for damage in rows.damages:
            if damage.leaf_index < 0:
                resource = damage.column
                if any(finding.resource == resource for finding in self._verdict.findings):
                    continue
            else:
                resource = f"event {damage.leaf_index}, column {damage.column}"
            self._find(resource, damage.offset, damage.problem)

    def _find(self, resource: str, offset: int, problem: str) -> None:
        if len(self._verdict.findings) < _MOST_FINDINGS:
            self._verdict.findings.append(Finding(resource, offset, problem))


def _hash(hashes: bytes, number: int) -> bytes:
    return hashes[number * HASH_BYTES : (number + 1) * HASH_BYTES]


def _first_difference(found: bytes, expected: bytes) -> int:
    shorter = min(len(found), len(expected))
    return next((at for at in range(shorter) if found[at] != expected[at]), shorter)


def _wrong_length(content: bytes, width: int) -> int:
    """The first byte of a bundle at which a length is not that of an entry; else where it ends."""
    expected = ENTRY_BYTES.to_bytes(2, "big")
    for number in range(width):
        at = number * _STRIDE
        if content[at : at + 2] != expected:
            return at + _first_difference(content[at : at + 2], expected)
    return min(len(content), width * _STRIDE)
