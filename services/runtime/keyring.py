"""The keys that wrap other keys, and the digests by which identifiers are found.

Here live the generations of the wrapping key, the frozen format of a wrapped key, and keyed digests. It implements the
port `KeyWrapper` that the per-dossier keys (`dossier_keys`, offered here too) are wrapped through; what those seal is
`sealing`. No database and no business rule here.

A keyring is a directory:

    <generation>.key    32 bytes in hexadecimal; generation is a decimal number from 1
    current             the generation that wraps new keys
    digest              the generations whose digests live, oldest first, one a line; may be absent beside a single key

Format of a wrapped key (version 1, frozen):

    offset  length  content
    0       1       version, 0x01
    1       4       generation of the wrapping key, big-endian
    5       12      nonce, random
    17      n       ciphertext of the n bytes of key, AES-256-GCM
    17+n    16      GCM tag

The tag also covers: the first 5 bytes, followed by the caller's associated data. From the 32 bytes of a generation
are derived, by HKDF-SHA256 without salt: its AES key (info "dmp/wrap/v1") and the digest key of a label (info
"dmp/digest/v1/" ‖ label). A digest is HMAC-SHA256 under the latter (frozen too).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.runtime.dossier_keys import DossierKeyBatch, DossierKeys, KeyForOwner, KeyWrapper, UnwrapFailed
from services.runtime.sealing import KEY_BYTES, NONCE_BYTES, TAG_BYTES

__all__ = [
    "DossierKeyBatch",
    "DossierKeys",
    "KeyForOwner",
    "KeyWrapper",
    "Keyring",
    "KeyringError",
    "UnwrapFailed",
    "wrapped_generation",
]

_VERSION: Final = b"\x01"
_HEADER_BYTES: Final = 5
_BLOCK_BYTES: Final = 64
_MAX_GENERATION: Final = 2**32 - 1


class KeyringError(Exception):
    """The keyring's directory is not as it should be. Names the file and the rule, never a key."""


@dataclass(frozen=True, slots=True)
class _Generation:
    """One generation: its cipher for wrapping, and the secret from which digest keys are derived."""

    number: int
    secret: bytes
    aead: AESGCM


class Keyring:
    """Wrapping keys by generation, and keyed digests. Holds keys in memory; `repr` shows only generations."""

    def __init__(self, secrets: Mapping[int, bytes], *, current: int, digests: Sequence[int]) -> None:
        """`secrets` are 32 bytes by generation; `digests` are the live digest generations, oldest first."""
        for number, secret in secrets.items():
            if not 1 <= number <= _MAX_GENERATION:
                raise KeyringError(f"generation {number}: a generation is a number from 1 to {_MAX_GENERATION}")
            if len(secret) != KEY_BYTES:
                raise KeyringError(f"generation {number}: a key has {KEY_BYTES} bytes")
        if current not in secrets:
            raise KeyringError(f"current: there is no key of generation {current}")
        if not digests or any(number not in secrets for number in digests):
            raise KeyringError("digest: must name at least one generation, each with its key")
        self._generations = {
            number: _Generation(number, secret, AESGCM(_derive(secret, b"dmp/wrap/v1")))
            for number, secret in secrets.items()
        }
        self._current = self._generations[current]
        self._digests = tuple(self._generations[number] for number in digests)
        self._digest_keys: dict[tuple[int, str], tuple[hashlib._Hash, hashlib._Hash]] = {}

    @classmethod
    def from_directory(cls, path: Path) -> Keyring:
        """Read the directory described above. Raises KeyringError with the file at fault."""
        secrets = {_generation(file.stem, file): _secret(file) for file in sorted(path.glob("*.key"))}
        if not secrets:
            raise KeyringError(f"{path}: no <generation>.key")
        current = _generation(_text(path / "current").strip(), path / "current")
        digest = path / "digest"
        if digest.exists():
            live = [_generation(line, digest) for line in _text(digest).split()]
        elif len(secrets) == 1:
            live = list(secrets)
        else:
            raise KeyringError(f"{digest}: missing; with several keys it must say whose digests live, oldest first")
        return cls(secrets, current=current, digests=live)

    @classmethod
    def create(cls, path: Path) -> Keyring:
        """Make a new keyring of one generation in an empty or absent directory, readable by its owner alone."""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(path.glob("*.key")):
            raise KeyringError(f"{path}: holds keys already")
        _write(path / "1.key", os.urandom(KEY_BYTES).hex())
        _write(path / "digest", "1\n")
        _write(path / "current", "1\n")
        return cls.from_directory(path)

    @classmethod
    def add_generation(cls, path: Path) -> Keyring:
        """Add a key that wraps from now on. Older generations still unwrap; digests stay as they are."""
        before = cls.from_directory(path)
        number = max(before.generations) + 1
        _write(path / "digest", "".join(f"{generation}\n" for generation in before.digest_generations))
        _write(path / f"{number}.key", os.urandom(KEY_BYTES).hex())
        _write(path / "current", f"{number}\n")
        return cls.from_directory(path)

    def take(self, other: Keyring) -> None:
        """Become another keyring, at once and whole: for a process that reads its directory anew."""
        self._generations, self._digests, self._current = other._generations, other._digests, other._current
        self._digest_keys = {}

    @classmethod
    def retire_digests(cls, path: Path) -> Keyring:
        """Take all but the newest generation out of the live digests. The keys stay, to unwrap and to remove."""
        before = cls.from_directory(path)
        _write(path / "digest", f"{before.digest_generations[-1]}\n")
        return cls.from_directory(path)

    @classmethod
    def add_digests(cls, path: Path) -> Keyring:
        """Let the digests of the current generation live too: they are written beside the others from now on."""
        before = cls.from_directory(path)
        live = dict.fromkeys((*before.digest_generations, before.current))
        _write(path / "digest", "".join(f"{generation}\n" for generation in live))
        return cls.from_directory(path)

    @property
    def generations(self) -> tuple[int, ...]:
        """The generations held, oldest first."""
        return tuple(sorted(self._generations))

    @property
    def current(self) -> int:
        """The generation that wraps."""
        return self._current.number

    @property
    def digest_generations(self) -> tuple[int, ...]:
        """The generations whose digests live, oldest first."""
        return tuple(generation.number for generation in self._digests)

    def __repr__(self) -> str:
        return f"Keyring(current={self.current}, generations={self.generations})"

    def wrap(self, key: bytes, aad: bytes) -> bytes:
        """Wrap under the current generation; `aad` binds the key to its owner."""
        header = _VERSION + self._current.number.to_bytes(4, "big")
        nonce = os.urandom(NONCE_BYTES)
        return b"".join((header, nonce, self._current.aead.encrypt(nonce, key, header + aad)))

    def unwrap(self, blob: bytes, aad: bytes) -> bytes:
        """The key in a blob wrapped under any generation still held. Raises UnwrapFailed."""
        if len(blob) < _HEADER_BYTES + NONCE_BYTES + TAG_BYTES or blob[:1] != _VERSION:
            raise UnwrapFailed("not a wrapped key of a known version")
        generation = self._generations.get(wrapped_generation(blob))
        if generation is None:
            raise UnwrapFailed("the wrapping generation is not in the keyring")
        header, nonce = blob[:_HEADER_BYTES], blob[_HEADER_BYTES : _HEADER_BYTES + NONCE_BYTES]
        try:
            return generation.aead.decrypt(nonce, blob[_HEADER_BYTES + NONCE_BYTES :], header + aad)
        except InvalidTag:
            raise UnwrapFailed("the wrapped key was altered, or belongs to another owner") from None

    async def wrap_batch(self, items: Sequence[KeyForOwner]) -> list[bytes]:
        """As `wrap`, for each item (the KeyWrapper port)."""
        return [self.wrap(item.key, item.aad) for item in items]

    async def unwrap_batch(self, items: Sequence[KeyForOwner]) -> list[bytes]:
        """As `unwrap`, for each item (the KeyWrapper port)."""
        return [self.unwrap(item.key, item.aad) for item in items]

    def digest(self, label: str, value: bytes) -> bytes:
        """32 bytes by which `value` is found, under the oldest live generation, which decides uniqueness (design §8).

        `label` separates uses: the digests of one value under two labels have nothing in common.
        """
        return self._digest(self._digests[0], label, value)

    def digests(self, label: str, value: bytes) -> tuple[bytes, ...]:
        """The digests to write: one for each live generation, oldest first."""
        return tuple(self._digest(generation, label, value) for generation in self._digests)

    def digest_under(self, generation: int, label: str, value: bytes) -> bytes:
        """The digest of a generation still held, live or not: for rotating what is stored. KeyringError without it."""
        held = self._generations.get(generation)
        if held is None:
            raise KeyringError(f"generation {generation} is not in the keyring")
        return self._digest(held, label, value)

    def _digest(self, generation: _Generation, label: str, value: bytes) -> bytes:
        known = self._digest_keys.get((generation.number, label))
        if known is None:
            known = _begun_hmac(_derive(generation.secret, b"dmp/digest/v1/" + label.encode()))
            self._digest_keys[generation.number, label] = known
        inner, outer = known[0].copy(), known[1].copy()
        inner.update(value)
        outer.update(inner.digest())
        return outer.digest()


def _begun_hmac(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """HMAC-SHA256 (RFC 2104) as far as it depends on the key alone: going on from there halves what a digest costs."""
    block = key.ljust(_BLOCK_BYTES, b"\0")
    return (
        hashlib.sha256(bytes(byte ^ 0x36 for byte in block)),
        hashlib.sha256(bytes(byte ^ 0x5C for byte in block)),
    )


def wrapped_generation(blob: bytes) -> int:
    """The generation that wrapped this key, read from its header without opening it."""
    return int.from_bytes(blob[1:_HEADER_BYTES], "big")


def _derive(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def _text(file: Path) -> str:
    try:
        return file.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyringError(f"{file}: cannot be read ({type(error).__name__})") from None


def _generation(text: str, file: Path) -> int:
    if not (text.isascii() and text.isdecimal()) or text.startswith("0"):
        raise KeyringError(f"{file}: a generation is a decimal number from 1")
    return int(text)


def _secret(file: Path) -> bytes:
    try:
        return bytes.fromhex(_text(file).strip())
    except ValueError:
        raise KeyringError(f"{file}: not hexadecimal") from None


def _write(file: Path, text: str) -> None:
    """Write whole or not at all, readable by the owner alone."""
    partial = file.with_name(f".{file.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
