"""Tiles of a Merkle tree: their paths, which a tree has, where a hash lies, and how a tree grows by them. Pure.

Format: c2sp.org/tlog-tiles. A tile holds up to 256 hashes of one level; hash `i` of tile `n` at level `l` covers the
`256^l` leaves from `(256 n + i) 256^l`. A partial tile is the beginning of what the tile becomes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from services.runtime.tlog.tree import HASH_BYTES, Node, Range, fold, nodes_of, perfect_hash

TILE_WIDTH: Final = 256
TILE_HEIGHT: Final = 8
FULL_TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
MAX_LEVEL: Final = 7
"""The highest level of tiles in a tree of less than 2^64 leaves."""
CHECKPOINT_PATH: Final = "checkpoint"

_PATH: Final = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")
_MAX_INDEX: Final = 1 << 56


class Tile(NamedTuple):
    """A tile of hashes, whole when `width` is 256."""

    level: int
    number: int
    width: int


class Bundle(NamedTuple):
    """The entries under a tile of level 0."""

    number: int
    width: int


class Grown(NamedTuple):
    """A tile's new content, `bytes` from its first hash on."""

    tile: Tile
    hashes: bytes


def tile_path(tile: Tile) -> str:
    """The path of a tile, under the log's prefix."""
    return f"tile/{tile.level}/{_number(tile.number, tile.width)}"


def bundle_path(bundle: Bundle) -> str:
    """The path of an entry bundle, under the log's prefix."""
    return f"tile/entries/{_number(bundle.number, bundle.width)}"


def parse_path(path: str) -> Tile | Bundle | None:
    """The tile or bundle of a path; None for a path in any other form than the one that names it."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    kind, number, partial = match.groups()
    index = int(number.replace("x", "").replace("/", ""))
    width = int(partial) if partial else TILE_WIDTH
    if index >= _MAX_INDEX or (partial and width >= TILE_WIDTH):
        return None
    found: Tile | Bundle = Bundle(index, width) if kind == "entries" else Tile(int(kind), index, width)
    canonical = bundle_path(found) if isinstance(found, Bundle) else tile_path(found)
    return found if canonical == path and (isinstance(found, Bundle) or found.level <= 63) else None


def width_at(size: int, level: int, index: int) -> int:
    """How many hashes tile `index` of `level` has in a tree of `size`; 0 if there is no such tile."""
    return max(0, min(TILE_WIDTH, (size >> (TILE_HEIGHT * level)) - index * TILE_WIDTH))


def tiles_of(size: int, level: int, first: int = 0) -> Iterator[Tile]:
    """The tiles of one level of a tree, from tile `first` on."""
    count = size >> (TILE_HEIGHT * level)
    for index in range(first, (count + TILE_WIDTH - 1) // TILE_WIDTH):
        yield Tile(level, index, min(TILE_WIDTH, count - index * TILE_WIDTH))


def bundles_of(size: int, first: int = 0) -> Iterator[Bundle]:
    """The entry bundles of a tree, from bundle `first` on."""
    return (Bundle(tile.number, tile.width) for tile in tiles_of(size, 0, first))


def levels_of(size: int) -> int:
    """How many levels of tiles a tree has."""
    return 0 if size == 0 else (size.bit_length() - 1) // TILE_HEIGHT + 1


def tile_of(node: Node, size: int) -> Tile:
    """The tile, in a tree of `size`, that a complete subtree's hash is found or made in."""
    level = node.level // TILE_HEIGHT
    index = (node.number << (node.level % TILE_HEIGHT)) // TILE_WIDTH
    return Tile(level, index, width_at(size, level, index))


def node_in(node: Node, hashes: bytes) -> bytes:
    """The hash of a complete subtree from the content of its tile. ValueError if the tile is too narrow."""
    height = node.level % TILE_HEIGHT
    first = (node.number << height) % TILE_WIDTH
    part = hashes[first * HASH_BYTES : (first + (1 << height)) * HASH_BYTES]
    if len(part) != HASH_BYTES << height:
        raise ValueError("the tile does not reach so far")
    return perfect_hash(divided(part))


def divided(hashes: bytes) -> list[bytes]:
    """The hashes of a tile, one by one."""
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


def tiles_for(ranges: Iterable[Range], size: int) -> list[Tile]:
    """The tiles, in a tree of `size`, from which the hashes of these ranges are made; each once."""
    return sorted({tile_of(node, size) for part in ranges for node in nodes_of(part)})


def node_reader(tiles: dict[tuple[int, int], bytes]) -> Callable[[Node], bytes]:
    """Hashes of subtrees from tiles by (level, index), which must hold those of `tiles_for`."""

    def node(each: Node) -> bytes:
        level, index = each.level // TILE_HEIGHT, (each.number << (each.level % TILE_HEIGHT)) // TILE_WIDTH
        return node_in(each, tiles[level, index])

    return node


class Edge:
    """The right edge of a tree: of each level, the hashes of its last tile while that is not full.

    All that is needed to append: the rest of the tree never changes.
    """

    __slots__ = ("partial", "size")

    def __init__(self, size: int, partial: Sequence[bytes]) -> None:
        """`partial` has, for each level from 0, `width_at` hashes of the last, partial tile (none if it would be full).

        ValueError if it does not fit the size.
        """
        self.size = size
        self.partial = [bytearray(each) for each in partial]
        widths = [len(each) for each in self.partial]
        if widths != [tile.width * HASH_BYTES if tile else 0 for tile in edge_tiles(size)]:
            raise ValueError("these tiles are not the edge of a tree of that size")

    def root(self) -> bytes:
        """The root of the tree."""
        hashes: list[bytes] = []
        for content in reversed(self.partial):
            count = len(content) // HASH_BYTES
            first = 0
            for height in reversed(range(TILE_HEIGHT)):
                if count & 1 << height:
                    end = first + (1 << height)
                    hashes.append(perfect_hash(divided(bytes(content[first * HASH_BYTES : end * HASH_BYTES]))))
                    first = end
        return fold(hashes)

    def append(self, entries: Iterable[bytes]) -> list[Grown]:
        """Append entries; what became of the tiles that grew, those of one level in order."""
        return self.append_hashes(b"".join([sha256(b"\x00" + entry).digest() for entry in entries]))

    def append_hashes(self, leaves: bytes) -> list[Grown]:
        """As `append`, by the hashes of the entries."""
        before = self.size
        self.size += len(leaves) // HASH_BYTES
        grown: list[Grown] = []
        level = 0
        while leaves:
            if level == len(self.partial):
                self.partial.append(bytearray())
            index = (before >> (TILE_HEIGHT * level)) // TILE_WIDTH
            content = self.partial[level] + leaves
            above: list[bytes] = []
            for start in range(0, len(content), FULL_TILE_BYTES):
                hashes = bytes(content[start : start + FULL_TILE_BYTES])
                grown.append(Grown(Tile(level, index, len(hashes) // HASH_BYTES), hashes))
                if len(hashes) == FULL_TILE_BYTES:
                    above.append(perfect_hash(divided(hashes)))
                index += 1
            self.partial[level] = content[len(above) * FULL_TILE_BYTES :]
            leaves = b"".join(above)
            level += 1
        return grown


def edge_tiles(size: int) -> list[Tile | None]:
    """The partial tiles of a tree by level, None where the level's last tile is full."""
    found: list[Tile | None] = []
    for level in range(levels_of(size)):
        count = size >> (TILE_HEIGHT * level)
        width = count % TILE_WIDTH
        found.append(Tile(level, count // TILE_WIDTH, width) if width else None)
    return found


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """An entry bundle: each entry after its length in two bytes, big-endian. OverflowError over 65,535 bytes."""
    return b"".join([len(entry).to_bytes(2, "big") + entry for entry in entries])


def decode_bundle(content: bytes) -> list[bytes]:
    """The entries of a bundle. ValueError, naming the byte, if it ends within one."""
    entries: list[bytes] = []
    at = 0
    while at < len(content):
        end = at + 2 + int.from_bytes(content[at : at + 2], "big")
        if at + 2 > len(content) or end > len(content):
            raise ValueError(f"byte {at}: the length of entry {len(entries)} leads beyond the end")
        entries.append(content[at + 2 : end])
        at = end
    return entries


def _number(index: int, width: int) -> str:
    digits = str(index)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    number = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return number if width == TILE_WIDTH else f"{number}.p/{width}"
