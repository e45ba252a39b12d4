"""Merkle trees as in RFC 6962, section 2.1: hashes, proofs, and how proofs are verified. Pure.

A range is `[low, high)` of leaves. The hash of a range that begins at a multiple of a power of two not smaller than its
length, as all ranges of the RFC do, is made of the hashes of complete subtrees; such a subtree is a `Node`: `level` is
its height and `index` its place among those of its height, so that it covers `2^level` leaves from `number * 2^level`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()
"""The root of a tree without leaves."""
_LONGEST_PROOF: Final = 64


class Node(NamedTuple):
    """A complete subtree."""

    level: int
    number: int


class Range(NamedTuple):
    """Leaves from `low` to before `high`."""

    low: int
    high: int


NodeHash = Callable[[Node], bytes]
"""Where the hash of a complete subtree comes from."""


class ProofWrong(Exception):
    """A proof does not prove what it should; the message says which check failed."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of an entry."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees side by side."""
    return sha256(b"\x01" + left + right).digest()


def perfect_hash(hashes: Sequence[bytes]) -> bytes:
    """The hash of a complete subtree over `hashes`, whose number is a power of two."""
    level = list(hashes)
    while len(level) > 1:
        level = [sha256(b"\x01" + level[n] + level[n + 1]).digest() for n in range(0, len(level), 2)]
    return level[0]


def nodes_of(part: Range) -> list[Node]:
    """The complete subtrees that make up a range, from left to right, largest first."""
    nodes: list[Node] = []
    low = part.low
    while low < part.high:
        level = (part.high - low).bit_length() - 1
        nodes.append(Node(level, low >> level))
        low += 1 << level
    return nodes


def fold(hashes: Sequence[bytes]) -> bytes:
    """The hash over complete subtrees of decreasing size, from left to right."""
    if not hashes:
        return EMPTY_ROOT
    total = hashes[-1]
    for left in reversed(hashes[:-1]):
        total = node_hash(left, total)
    return total


def range_hash(part: Range, node: NodeHash) -> bytes:
    """The hash of a range."""
    return fold([node(each) for each in nodes_of(part)])


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The ranges whose hashes prove leaf `index` in a tree of `size`, from the leaf's sibling up (PATH of the RFC)."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    ranges: list[Range] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            ranges.append(Range(middle, high))
            high = middle
        else:
            ranges.append(Range(low, middle))
            low = middle
    ranges.reverse()
    return ranges


def consistency_ranges(old: int, size: int) -> list[Range]:
    """The ranges whose hashes prove that a tree of `size` begins with one of `old` (PROOF of the RFC)."""
    if not 0 < old <= size:
        raise ValueError(f"a tree of {size} does not continue one of {old}")
    ranges: list[Range] = []
    low, high = 0, size
    whole = True
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            ranges.append(Range(middle, high))
            high = middle
        else:
            ranges.append(Range(low, middle))
            low = middle
            whole = False
    if not whole:
        ranges.append(Range(low, high))
    ranges.reverse()
    return ranges


def prove(ranges: Iterable[Range], node: NodeHash) -> list[bytes]:
    """The hashes of the ranges of a proof."""
    return [range_hash(part, node) for part in ranges]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raises ProofWrong unless `proof` binds the leaf hash at `index` to the root of the tree of `size`."""
    if not 0 <= index < size:
        raise ProofWrong(f"leaf {index} is not in a tree of {size}")
    _check_form(proof, leaf, root)
    ranges = inclusion_ranges(index, size)
    if len(ranges) != len(proof):
        raise ProofWrong(f"an inclusion proof of leaf {index} in {size} has {len(ranges)} hashes, not {len(proof)}")
    total = leaf
    for part, sibling in zip(ranges, proof, strict=True):
        total = node_hash(sibling, total) if part.low < index and part.high <= index else node_hash(total, sibling)
    if total != root:
        raise ProofWrong("the inclusion proof does not lead to the root")


def verify_consistency(old: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Raises ProofWrong unless `proof` shows that the tree of `size` with `root` begins with that of `old`."""
    if not 0 <= old <= size:
        raise ProofWrong(f"a tree of {size} does not continue one of {old}")
    _check_form(proof, old_root, root)
    if old == 0:
        if proof or old_root != EMPTY_ROOT or (size == 0 and root != EMPTY_ROOT):
            raise ProofWrong("the empty tree has the hash of nothing, and needs no proof")
        return
    ranges = consistency_ranges(old, size)
    if len(ranges) != len(proof):
        raise ProofWrong(f"a consistency proof from {old} to {size} has {len(ranges)} hashes, not {len(proof)}")
    if old == size:
        if old_root != root:
            raise ProofWrong("two trees of one size have different roots")
        return
    hashes = dict(zip(ranges, proof, strict=True))
    if all(part.high != old for part in ranges):
        hashes[Range(0, old)] = old_root  # the older tree is a subtree of the newer one, and the proof leaves it out
    if _total(hashes, Range(0, old)) != old_root:
        raise ProofWrong("the consistency proof does not lead to the older root")
    if _total(hashes, Range(0, size)) != root:
        raise ProofWrong("the consistency proof does not lead to the newer root")


def _total(hashes: dict[Range, bytes], part: Range) -> bytes:
    """The hash of a range, from those of the ranges in it."""
    found = hashes.get(part)
    if found is not None:
        return found
    if part.high - part.low == 1:
        raise ProofWrong("the consistency proof does not cover the tree")
    middle = part.low + _split(part.high - part.low)
    return node_hash(_total(hashes, Range(part.low, middle)), _total(hashes, Range(middle, part.high)))


def _check_form(proof: Sequence[bytes], *ends: bytes) -> None:
    if len(proof) > _LONGEST_PROOF or any(len(each) != HASH_BYTES for each in (*proof, *ends)):
        raise ProofWrong(f"a proof is at most {_LONGEST_PROOF} hashes of {HASH_BYTES} bytes")


def _split(count: int) -> int:
    """The largest power of two smaller than `count`."""
    return 1 << ((count - 1).bit_length() - 1)
