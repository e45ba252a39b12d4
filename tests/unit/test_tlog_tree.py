"""Trees, proofs and tiles against a tree made the naive way, from the words of the specifications."""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.tlog.layout import (
    Bundle,
    Edge,
    Tile,
    bundle_path,
    decode_bundle,
    edge_tiles,
    encode_bundle,
    node_reader,
    parse_path,
    tile_path,
    tiles_for,
    tiles_of,
    width_at,
)
from services.runtime.tlog.tree import (
    EMPTY_ROOT,
    Node,
    ProofWrong,
    Range,
    consistency_ranges,
    inclusion_ranges,
    node_hash,
    prove,
    range_hash,
    verify_consistency,
    verify_inclusion,
)

LARGE = 10_000_000
BOUNDARIES = (1, 2, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537, 65_792, 131_072)


def entry(number: int) -> bytes:
    return b"entry %d" % number


@lru_cache(maxsize=400_000)
def naive(low: int, high: int) -> bytes:
    """MTH(D[low:high]), word for word."""
    if high - low == 0:
        return hashlib.sha256().digest()
    if high - low == 1:
        return hashlib.sha256(b"\0" + entry(low)).digest()
    k = 1
    while k * 2 < high - low:
        k *= 2
    return hashlib.sha256(b"\1" + naive(low, low + k) + naive(low + k, high)).digest()


def naive_path(m: int, low: int, high: int) -> list[bytes]:
    """PATH(m, D[low:high]), word for word."""
    if high - low == 1:
        return []
    k = 1
    while k * 2 < high - low:
        k *= 2
    if m < k:
        return [*naive_path(m, low, low + k), naive(low + k, high)]
    return [*naive_path(m - k, low + k, high), naive(low, low + k)]


def naive_consistency(m: int, low: int, high: int, whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[low:high], b), word for word."""
    n = high - low
    if m == n:
        return [] if whole else [naive(low, high)]
    k = 1
    while k * 2 < n:
        k *= 2
    if m <= k:
        return [*naive_consistency(m, low, low + k, whole), naive(low + k, high)]
    return [*naive_consistency(m - k, low + k, high, False), naive(low, low + k)]


def naive_node(node: Node) -> bytes:
    return naive(node.number << node.level, (node.number + 1) << node.level)


class Grown:
    """A tree made by appending, and its tiles."""

    def __init__(self) -> None:
        self.edge = Edge(0, [])
        self.tiles: dict[tuple[int, int], bytes] = {}

    def append(self, count: int) -> None:
        for tile, hashes in self.edge.append(entry(self.edge.size + number) for number in range(count)):
            before = self.tiles.get((tile.level, tile.number), b"")
            assert hashes.startswith(before), "a tile only grows"
            self.tiles[tile.level, tile.number] = hashes


@pytest.fixture(scope="module")
def thousand() -> Grown:
    tree = Grown()
    tree.append(1000)
    return tree


def test_every_inclusion_and_consistency_proof_of_every_size_to_a_thousand(thousand: Grown) -> None:
    for size in range(1, 1001):
        root = naive(0, size)
        for index in {0, size // 3, size // 2, size - 1}:
            proof = prove(inclusion_ranges(index, size), naive_node)
            assert proof == naive_path(index, 0, size)
            verify_inclusion(naive(index, index + 1), index, size, proof, root)
        for old in {1, size // 2, size - 1, size} - {0}:
            proof = prove(consistency_ranges(old, size), naive_node)
            assert proof == naive_consistency(old, 0, size, whole=True)
            verify_consistency(old, naive(0, old), size, root, proof)


@given(st.integers(1, 300), st.data())
def test_all_proofs_of_small_trees(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    assert prove(inclusion_ranges(index, size), naive_node) == naive_path(index, 0, size)
    assert prove(consistency_ranges(old, size), naive_node) == naive_consistency(old, 0, size, whole=True)


@given(st.integers(1, LARGE), st.data())
def test_proofs_hold_in_trees_of_any_size_to_ten_million_and_an_altered_one_does_not(
    size: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    root = range_hash(Range(0, size), synthetic_tree)
    path = prove(inclusion_ranges(index, size), synthetic_tree)
    verify_inclusion(synthetic_tree(Node(0, index)), index, size, path, root)
    proof = prove(consistency_ranges(old, size), synthetic_tree)
    old_root = range_hash(Range(0, old), synthetic_tree)
    verify_consistency(old, old_root, size, root, proof)
    with pytest.raises(ProofWrong):
        verify_inclusion(b"\0" * 32, index, size, path, root)

    def check_path(wrong: list[bytes]) -> None:
        verify_inclusion(synthetic_tree(Node(0, index)), index, size, wrong, root)

    def check_proof(wrong: list[bytes]) -> None:
        verify_consistency(old, old_root, size, root, wrong)

    for hashes, check in ((path, check_path), (proof, check_proof)):
        wrong = list(hashes)
        if wrong:
            at = size % len(wrong)
            wrong[at] = bytes([wrong[at][0] ^ 1]) + wrong[at][1:]
            with pytest.raises(ProofWrong):
                check(wrong)
            with pytest.raises(ProofWrong):
                check(list(hashes[:-1]))
        with pytest.raises(ProofWrong):
            check([*hashes, b"\0" * 32])


def synthetic_tree(node: Node) -> bytes:
    """A node of a tree of any size whose leaves repeat every 7 × 1,024: few nodes to make, no two neighbours alike."""
    period = 7 * 1024 >> node.level if node.level <= 10 else 7
    return _repeating(Node(node.level, node.number % period))


@cache
def _repeating(node: Node) -> bytes:
    if node.level == 0:
        return hashlib.sha256(b"\0leaf %d" % node.number).digest()
    left, right = Node(node.level - 1, node.number * 2), Node(node.level - 1, node.number * 2 + 1)
    return node_hash(synthetic_tree(left), synthetic_tree(right))


def test_an_empty_tree() -> None:
    assert Edge(0, []).root() == EMPTY_ROOT == naive(0, 0)
    verify_consistency(0, EMPTY_ROOT, 5, naive(0, 5), [])
    with pytest.raises(ProofWrong):
        verify_consistency(0, naive(0, 1), 5, naive(0, 5), [])
    with pytest.raises(ProofWrong):
        verify_consistency(5, naive(0, 5), 5, naive(0, 4), [])


@pytest.mark.parametrize("size", BOUNDARIES)
def test_tiles_at_each_boundary_hold_the_hashes_that_the_specification_says(size: int) -> None:
    tree = Grown()
    for step in (size // 2, size - size // 2):
        tree.append(step)
    assert tree.edge.root() == naive(0, size)
    for level in range(3):
        for tile in tiles_of(size, level):
            assert tile.width == width_at(size, level, tile.number)
            span = 256**level
            expected = [
                naive((tile.number * 256 + i) * span, (tile.number * 256 + i + 1) * span) for i in range(tile.width)
            ]
            assert tree.tiles[tile.level, tile.number] == b"".join(expected)
    assert set(tree.tiles) == {(t.level, t.number) for level in range(3) for t in tiles_of(size, level)}
    again = Edge(size, [tree.tiles[t.level, t.number] if t else b"" for t in edge_tiles(size)])
    assert again.root() == naive(0, size)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=6), st.data())
def test_any_way_of_appending_gives_one_tree_whose_tiles_prove_everything(
    steps: list[int], data: st.DataObject
) -> None:
    tree = Grown()
    for step in steps:
        tree.append(step)
    size = tree.edge.size
    assert tree.edge.root() == naive(0, size)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    for ranges, expected in (
        (inclusion_ranges(index, size), naive_path(index, 0, size)),
        (consistency_ranges(old, size), naive_consistency(old, 0, size, whole=True)),
    ):
        needed = {(t.level, t.number): tree.tiles[t.level, t.number][: t.width * 32] for t in tiles_for(ranges, size)}
        assert prove(ranges, node_reader(needed)) == expected


def test_the_tiles_of_a_tree_of_70000_are_those_that_the_specification_counts() -> None:
    widths = [[tile.width for tile in tiles_of(70_000, level)] for level in range(4)]
    assert widths[0] == [256] * 273 + [112]
    assert widths[1] == [256, 17]
    assert widths[2] == [1]
    assert widths[3] == []


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0, 256), "tile/0/000"),
        (Tile(0, 1_234_067, 256), "tile/0/x001/x234/067"),
        (Tile(2, 999, 1), "tile/2/999.p/1"),
        (Tile(1, 1000, 255), "tile/1/x001/000.p/255"),
        (Bundle(273, 112), "tile/entries/273.p/112"),
    ],
)
def test_paths(tile: Tile | Bundle, path: str) -> None:
    assert (bundle_path(tile) if isinstance(tile, Bundle) else tile_path(tile)) == path
    assert parse_path(path) == tile


@pytest.mark.parametrize(
    "path",
    ["tile/0/0", "tile/0/x000/001", "tile/00/000", "tile/64/000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/1000",
     "tile/0/000.p/01", "tile/0/001/000", "tile/data/000", "tile/0/000/", "/tile/0/000", "tile/0/００0"],
)  # fmt: skip
def test_what_is_no_path(path: str) -> None:
    assert parse_path(path) is None


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_bundles(entries: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(entries)) == entries


def test_a_bundle_cut_short_says_where() -> None:
    with pytest.raises(ValueError, match="byte 5: the length of entry 1"):
        decode_bundle(encode_bundle([b"abc", b"defg"])[:-1])
