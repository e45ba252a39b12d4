"""A verifier of logs written from the words of the specifications alone: RFC 6962 and the C2SP documents on notes,
checkpoints, tiles, cosignatures and proofs. It imports nothing of ours, so that it cannot share a mistake with us.

`read(path)` is how it gets a resource under the log's prefix; it raises KeyError for one that is not there.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Iterable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Read = Callable[[str], bytes]


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def mth(hashes: list[bytes]) -> bytes:
    """The Merkle tree hash over leaf hashes, by the recursion of the RFC."""
    return mths(hashes, [len(hashes)])[0]


def mths(hashes: list[bytes], sizes: Iterable[int]) -> list[bytes]:
    """The Merkle tree hash over the first so many leaf hashes, for each size; what they share is hashed once."""

    @functools.cache
    def over(start: int, end: int) -> bytes:
        if start == end:
            return sha(b"")
        if end - start == 1:
            return hashes[start]
        k = 1
        while k << 1 < end - start:
            k <<= 1
        return sha(b"\x01" + over(start, start + k) + over(start + k, end))

    return [over(0, size) for size in sizes]


def verifier_key(text: str) -> tuple[str, bytes, int, bytes]:
    """Name, key id, type and key of a vkey; checked against one another."""
    name, identity, encoded = text.split("+", 2)
    material = base64.b64decode(encoded, validate=True)
    assert sha(name.encode() + b"\n" + material)[:4].hex() == identity, "key id"
    return name, bytes.fromhex(identity), material[0], material[1:]


def note(data: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    """Text and signatures (name, key id and signature) of a signed note."""
    text, _, lines = data.decode().rpartition("\n\n")
    assert lines.endswith("\n"), "a note ends with a newline"
    signatures = []
    for line in lines[:-1].split("\n"):
        dash, name, encoded = line.split(" ")
        assert dash == "\u2014"
        signatures.append((name, base64.b64decode(encoded, validate=True)))
    return text + "\n", signatures


def signed_by(data: bytes, key: str) -> str:
    """The text, if this key signed or cosigned it."""
    text, signatures = note(data)
    name, identity, kind, public = verifier_key(key)
    for signer, value in signatures:
        if signer == name and value[:4] == identity:
            message, signature = text.encode(), value[4:]
            if kind == 4:
                at = int.from_bytes(signature[:8], "big")
                message, signature = b"cosignature/v1\ntime %d\n" % at + message, signature[8:]
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
            return text
    raise AssertionError(f"not signed by {name}")


def checkpoint(data: bytes, key: str) -> tuple[str, int, bytes]:
    """Origin, size and root of a checkpoint that this key signed."""
    origin, size, root, *_ = signed_by(data, key).split("\n")
    assert origin == key.split("+", maxsplit=1)[0]
    return origin, int(size), base64.b64decode(root, validate=True)


def number(n: int) -> str:
    """A tile's index as path elements."""
    text = f"{n % 1000:03d}"
    while n >= 1000:
        n //= 1000
        text = f"x{n % 1000:03d}/{text}"
    return text


def whole_log(read: Read, key: str) -> list[bytes]:
    """Every entry of a log, once all tiles, bundles and the checkpoint agree."""
    _, size, root = checkpoint(read("checkpoint"), key)
    entries: list[bytes] = []
    level: list[bytes] = []
    for tile in range((size + 255) // 256):
        width = min(256, size - tile * 256)
        suffix = "" if width == 256 else f".p/{width}"
        bundle = read(f"tile/entries/{number(tile)}{suffix}")
        at = 0
        while at < len(bundle):
            length = int.from_bytes(bundle[at : at + 2], "big")
            entries.append(bundle[at + 2 : at + 2 + length])
            at += 2 + length
        assert at == len(bundle)
        mine = [sha(b"\x00" + entry) for entry in entries[tile * 256 :]]
        assert len(mine) == width
        assert read(f"tile/0/{number(tile)}{suffix}") == b"".join(mine), f"tile {tile}"
        level += mine
    assert mth(level) == root, "root"
    above = 1
    while len(level) >= 256:
        level = [mth(level[at : at + 256]) for at in range(0, len(level) - 255, 256)]
        for tile in range((len(level) + 255) // 256):
            mine = level[tile * 256 : tile * 256 + 256]
            suffix = "" if len(mine) == 256 else f".p/{len(mine)}"
            assert read(f"tile/{above}/{number(tile)}{suffix}") == b"".join(mine), f"tile {above}/{tile}"
        above += 1
    return entries


def root_from_path(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that an inclusion path leads to (RFC 9162, section 2.1.3.2)."""
    fn, sn, r = index, size - 1, leaf
    for p in path:
        assert sn != 0, "too long"
        if fn & 1 or fn == sn:
            r = sha(b"\x01" + p + r)
            while not fn & 1 and fn != 0:
                fn >>= 1
                sn >>= 1
        else:
            r = sha(b"\x01" + r + p)
        fn >>= 1
        sn >>= 1
    assert sn == 0, "too short"
    return r


def receipt(data: bytes, log_key: str, witness_keys: list[str], tag: bytes) -> tuple[bytes, int]:
    """The clear part that a receipt proves, and its place. `tag` is what the log's documentation gives."""
    head, _, tail = data.partition(b"\n\n")
    header, extra, index, *path = head.decode("ascii").split("\n")
    assert header == "c2sp.org/tlog-proof@v1"
    more = base64.b64decode(extra.removeprefix("extra "), validate=True)
    event_id, salted = more[:16], more[16:]
    entry = b"\x01" + event_id + sha(tag + salted)
    _, size, root = checkpoint(tail, log_key)
    place = int(index.removeprefix("index "))
    hashes = [base64.b64decode(line, validate=True) for line in path]
    assert root_from_path(sha(b"\x00" + entry), place, size, hashes) == root
    for key in witness_keys:
        signed_by(tail, key)
    return salted[32:], place
