"""Proofs that an entry is in a log, checked without the log (c2sp.org/tlog-proof). Pure."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from services.runtime.tlog.note import NoteWrong, decode_base64
from services.runtime.tlog.policy import Policy, Trusted, trust
from services.runtime.tlog.tree import ProofWrong, leaf_hash, verify_inclusion

HEADER: Final = "c2sp.org/tlog-proof@v1"
_INDEX: Final = re.compile(r"index (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Proof:
    """Place, path and checkpoint of an entry; `extra` is what the log adds, believed only as far as it is checked."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        """The file's bytes."""
        lines = [HEADER]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode('ascii')}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(each).decode("ascii") for each in self.path]
        return "\n".join([*lines, "", ""]).encode() + self.checkpoint

    @classmethod
    def parse(cls, data: bytes) -> Proof:
        """A proof from its file. Raises NoteWrong with the line at fault; nothing is verified."""
        head, blank, checkpoint = data.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise NoteWrong(f"byte {error.start}: not ASCII") from None
        if not blank or lines[0] != HEADER:
            raise NoteWrong(f"line 1: not {HEADER}")
        number, extra = 1, None
        if len(lines) > 1 and lines[1].startswith("extra "):
            number, extra = 2, _hash(2, lines[1].removeprefix("extra "))
        match = _INDEX.fullmatch(lines[number]) if number < len(lines) else None
        if match is None:
            raise NoteWrong(f"line {number + 1}: not an index")
        path = tuple(_hash(at, line) for at, line in enumerate(lines[number + 1 :], number + 2))
        return cls(int(match[1]), path, checkpoint, extra)


def verify(proof: Proof, entry: bytes, policy: Policy) -> Trusted:
    """The checkpoint that proves the entry. Raises NoteWrong or ProofWrong with what does not hold."""
    trusted = trust(proof.checkpoint, policy)
    checkpoint = trusted.checkpoint
    verify_inclusion(leaf_hash(entry), proof.index, checkpoint.size, proof.path, checkpoint.root)
    return trusted


def _hash(number: int, text: str) -> bytes:
    try:
        return decode_base64(text)
    except NoteWrong as error:
        raise NoteWrong(f"line {number}: {error}") from None


__all__ = ["HEADER", "NoteWrong", "Proof", "ProofWrong", "verify"]
