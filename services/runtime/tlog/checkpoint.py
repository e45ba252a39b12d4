"""Checkpoints: what a log states of its tree (c2sp.org/tlog-checkpoint). Pure."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from services.runtime.tlog.note import Note, NoteWrong, decode_base64, parse_note
from services.runtime.tlog.tree import HASH_BYTES

_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a tree: whose, how many leaves, which root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode('ascii')}\n"


def parse_text(text: str) -> Checkpoint:
    """The checkpoint of a note's text. Raises NoteWrong with the line at fault; extension lines are passed over."""
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < 3 or not all(lines):
        raise NoteWrong("a checkpoint has at least three lines, none of them empty")
    if _SIZE.fullmatch(lines[1]) is None or int(lines[1]) >= 1 << 63:
        raise NoteWrong("line 2: not a tree size")
    try:
        root = decode_base64(lines[2])
    except NoteWrong as error:
        raise NoteWrong(f"line 3: {error}") from None
    if len(root) != HASH_BYTES:
        raise NoteWrong(f"line 3: a root has {HASH_BYTES} bytes")
    return Checkpoint(lines[0], int(lines[1]), root)


def parse(data: bytes) -> tuple[Checkpoint, Note]:
    """A checkpoint and the note that it comes in; no signature is verified. Raises NoteWrong."""
    note = parse_note(data)
    return parse_text(note.text), note
