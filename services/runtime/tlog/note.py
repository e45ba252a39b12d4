"""Signed notes: text under the signatures of named Ed25519 keys, and the cosignatures of witnesses. Pure.

Formats: c2sp.org/signed-note (signature type 0x01) and c2sp.org/tlog-cosignature (type 0x04, `cosignature/v1`). Keys
are kept and exchanged as text:

    verifier   <name>+<key id in hexadecimal>+<base64 of type and public key>
    signer     PRIVATE+KEY+<name>+<key id in hexadecimal>+<base64 of type and private seed>

Base64 is taken only as it would be written: no other text than the canonical one stands for the same bytes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

ED25519: Final = 0x01
COSIGNATURE: Final = 0x04
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 4
_SIGNATURE_BYTES: Final = 64
_TIME_BYTES: Final = 8
_MOST_SIGNATURES: Final = 100
_LONGEST: Final = 1 << 20
_NAME: Final = re.compile(r"[^\s+]+")
_DASH: Final = "—"
_PRIVATE: Final = "PRIVATE+KEY+"


class NoteWrong(Exception):
    """A note or a key is not as it should be; the message says what is wrong, and names no private key."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: who, by which key, and the bytes after the key id."""

    name: str
    key_id: bytes
    value: bytes

    def line(self) -> str:
        """As it stands in a note."""
        return f"{_DASH} {self.name} {base64.b64encode(self.key_id + self.value).decode('ascii')}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note taken apart, nothing verified. `text` ends with a line feed."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The note's bytes."""
        return (self.text + "\n" + "".join(signature.line() for signature in self.signatures)).encode()


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key: of a log (type 0x01) or of a witness (type 0x04)."""

    name: str
    kind: int
    public: bytes

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """A verifier key from its text. Raises NoteWrong."""
        name, id_text, key = _parts(text)
        kind, public = key[0], key[1:]
        if kind not in (ED25519, COSIGNATURE) or len(public) != _KEY_BYTES:
            raise NoteWrong("a verifier key is an Ed25519 key of type 0x01 or 0x04")
        verifier = cls(name, kind, public)
        if verifier.key_id.hex() != id_text:
            raise NoteWrong("the id of a verifier key does not belong to it")
        return verifier

    @property
    def key_id(self) -> bytes:
        """The first four bytes of the digest of name, type and key."""
        return _key_id(self.name, self.kind, self.public)

    def text(self) -> str:
        """The key as it is exchanged."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(bytes([self.kind]) + self.public).decode('ascii')}"

    def made(self, signature: Signature) -> bool:
        """Whether a signature says that it is of this key."""
        return signature.name == self.name and signature.key_id == self.key_id

    def verify(self, text: str, signature: Signature) -> None:
        """Raises NoteWrong unless the signature is this key's on this text."""
        message, value = text.encode(), signature.value
        if self.kind == COSIGNATURE:
            message, value = _cosigned(text, cosignature_time(signature)), value[_TIME_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(value, message)
        except (InvalidSignature, ValueError):
            raise NoteWrong(f"the signature of {self.name} is not on this text") from None


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    """A private key, of a log or of a witness. `repr` shows its name only."""

    name: str
    kind: int
    _private: Ed25519PrivateKey

    @classmethod
    def generate(cls, name: str, kind: int = ED25519) -> Signer:
        """A new key. NoteWrong for a name that cannot be one."""
        return cls(_name(name), kind, Ed25519PrivateKey.generate())

    @classmethod
    def parse(cls, text: str) -> Signer:
        """A signer key from its text. Raises NoteWrong."""
        if not text.startswith(_PRIVATE):
            raise NoteWrong("a signer key begins with PRIVATE+KEY+")
        name, id_text, key = _parts(text.removeprefix(_PRIVATE))
        if key[0] not in (ED25519, COSIGNATURE) or len(key) != 1 + _KEY_BYTES:
            raise NoteWrong("a signer key is an Ed25519 key of type 0x01 or 0x04")
        signer = cls(name, key[0], Ed25519PrivateKey.from_private_bytes(key[1:]))
        if signer.verifier.key_id.hex() != id_text:
            raise NoteWrong("the id of a signer key does not belong to it")
        return signer

    def __repr__(self) -> str:
        return f"Signer({self.name!r})"

    @property
    def verifier(self) -> Verifier:
        """The public key."""
        return Verifier(self.name, self.kind, self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def text(self) -> str:
        """The key as it is kept: a secret."""
        seed = self._private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        key = base64.b64encode(bytes([self.kind]) + seed).decode("ascii")
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id.hex()}+{key}"

    def sign(self, text: str, at: int = 0) -> Signature:
        """This key's signature on a note's text; `at`, POSIX seconds, is what a cosignature states."""
        if self.kind == ED25519:
            return Signature(self.name, self.verifier.key_id, self._private.sign(text.encode()))
        value = at.to_bytes(_TIME_BYTES, "big") + self._private.sign(_cosigned(text, at))
        return Signature(self.name, self.verifier.key_id, value)


def cosignature_time(signature: Signature) -> int:
    """When a witness cosigned, POSIX seconds. Raises NoteWrong for what is no cosignature."""
    if len(signature.value) != _TIME_BYTES + _SIGNATURE_BYTES:
        raise NoteWrong(f"the cosignature of {signature.name} has not the length of one")
    at = int.from_bytes(signature.value[:_TIME_BYTES], "big")
    if at >= 1 << 63:
        raise NoteWrong(f"the cosignature of {signature.name} states an impossible time")
    return at


def parse_note(data: bytes) -> Note:
    """A note taken apart. Raises NoteWrong with the line at fault."""
    if len(data) > _LONGEST:
        raise NoteWrong("the note is too long")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NoteWrong(f"byte {error.start}: not UTF-8") from None
    wrong = next((at for at, char in enumerate(whole) if char < " " and char != "\n"), None)
    if wrong is not None:
        raise NoteWrong(f"byte {len(whole[:wrong].encode())}: a control character")
    text, blank, lines = whole.rpartition("\n\n")
    if not blank or not lines.endswith("\n"):
        raise NoteWrong("a note is text, an empty line, and lines of signatures")
    return Note(text + "\n", parse_signatures(lines))


def parse_signatures(lines: str) -> tuple[Signature, ...]:
    """Signature lines, each ended by a line feed. Raises NoteWrong."""
    found = lines.removesuffix("\n").split("\n")
    if len(found) > _MOST_SIGNATURES:
        raise NoteWrong("too many signatures")
    return tuple(_signature(number, line) for number, line in enumerate(found, 1))


def verified(note: Note, known: Iterable[Verifier]) -> list[tuple[Verifier, Signature]]:
    """The signatures of known keys, each verified. Raises NoteWrong if one of them is wrong; the others are ignored."""
    found: list[tuple[Verifier, Signature]] = []
    for verifier in known:
        for signature in note.signatures:
            if verifier.made(signature):
                verifier.verify(note.text, signature)
                found.append((verifier, signature))
                break
    return found


def sign(text: str, signers: Sequence[Signer], at: Callable[[], int] = lambda: 0) -> Note:
    """A note under the signatures of these keys. NoteWrong for a text that cannot be a note's."""
    if not text.endswith("\n"):
        raise NoteWrong("a note's text ends with a line feed")
    return Note(text, tuple(signer.sign(text, at()) for signer in signers))


def decode_base64(text: str) -> bytes:
    """Bytes from canonical base64. Raises NoteWrong for any other text."""
    try:
        value = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError):
        raise NoteWrong("not base64") from None
    if base64.b64encode(value).decode("ascii") != text:
        raise NoteWrong("base64 that is not written as it should be")
    return value


def _signature(number: int, line: str) -> Signature:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != _DASH:
        raise NoteWrong(f"signature line {number}: not a dash, a name and a signature")
    try:
        value = decode_base64(parts[2])
        name = _name(parts[1])
    except NoteWrong as error:
        raise NoteWrong(f"signature line {number}: {error}") from None
    if len(value) <= _ID_BYTES:
        raise NoteWrong(f"signature line {number}: too short")
    return Signature(name, value[:_ID_BYTES], value[_ID_BYTES:])


def _parts(text: str) -> tuple[str, str, bytes]:
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise NoteWrong("a key is a name, an id and the key, with + between")
    key = decode_base64(parts[2])
    if not key:
        raise NoteWrong("a key has a type")
    return _name(parts[0]), parts[1], key


def _name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise NoteWrong("a key's name is not empty and has neither spaces nor +")
    return name


def _key_id(name: str, kind: int, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:_ID_BYTES]


def _cosigned(text: str, at: int) -> bytes:
    return f"cosignature/v1\ntime {at}\n{text}".encode()
