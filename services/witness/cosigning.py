"""When a witness cosigns (c2sp.org/tlog-witness): the answer to each request, from what it remembers. No HTTP here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from services.runtime.tlog.checkpoint import Checkpoint, parse
from services.runtime.tlog.note import Note, NoteWrong, Signer, Verifier, decode_base64, verified
from services.runtime.tlog.tree import EMPTY_ROOT, ProofWrong, verify_consistency
from services.witness.store import Cosigned, WitnessStore

SIZE_TYPE: Final = "text/x.tlog.size"
TEXT_TYPE: Final = "text/plain; charset=utf-8"
_OLD: Final = re.compile(r"old (0|[1-9][0-9]{0,18})")
_LONGEST_PROOF: Final = 63


class Answer(NamedTuple):
    """What is answered: an HTTP status, a body and its type."""

    status: int
    body: bytes = b""
    content_type: str = TEXT_TYPE


class _Request(NamedTuple):
    old: int
    proof: list[bytes]
    checkpoint: Checkpoint
    note: Note


class Witness:
    """Cosigns the checkpoints of the logs that it was told of."""

    def __init__(
        self, signer: Signer, logs: Sequence[Verifier], store: WitnessStore, clock: Callable[[], float]
    ) -> None:
        """`clock` is POSIX seconds; `logs` are the keys of the logs, a log's name being its origin."""
        self._signer = signer
        self._logs: dict[str, list[Verifier]] = {}
        for log in logs:
            self._logs.setdefault(log.name, []).append(log)
        self._store = store
        self._clock = clock
        self._origins = {sha256(origin.encode()).hexdigest(): origin for origin in self._logs}

    def add_checkpoint(self, body: bytes) -> Answer:
        """Cosigns a checkpoint that continues the newest one; else says why not, as the protocol has it."""
        try:
            asked = _parse(body)
        except NoteWrong as error:
            return _refusal(400, str(error))
        keys = self._logs.get(asked.checkpoint.origin)
        if keys is None:
            return _refusal(404, "this witness does not know the log")
        try:
            signed = verified(asked.note, keys)
        except NoteWrong as error:
            return _refusal(403, str(error))
        if not signed:
            return _refusal(403, "no signature of the log's key")
        if asked.old > asked.checkpoint.size:
            return _refusal(400, "the old size is larger than the checkpoint's")
        return self._grow(asked, Note(asked.note.text, tuple(signature for _, signature in signed)))

    def newest(self, origin_hash: str) -> Answer:
        """The newest checkpoint of a log, under the log's signature and ours."""
        origin = self._origins.get(origin_hash)
        newest = None if origin is None else self._store.newest(origin)
        return _refusal(404, "nothing cosigned") if newest is None else Answer(200, newest.note)

    def _grow(self, asked: _Request, note: Note) -> Answer:
        checkpoint = asked.checkpoint
        before = self._store.newest(checkpoint.origin)
        size, root = (0, EMPTY_ROOT) if before is None else (before.size, before.root)
        if asked.old != size:
            return Answer(409, f"{size}\n".encode(), SIZE_TYPE)
        if asked.old == checkpoint.size and checkpoint.root != root:
            return Answer(409, f"{size}\n".encode(), SIZE_TYPE)  # another tree of the same size
        try:
            verify_consistency(size, root, checkpoint.size, checkpoint.root, asked.proof)
        except ProofWrong as error:
            return _refusal(422, str(error))
        mine = self._signer.sign(note.text, int(self._clock()))
        cosigned = Cosigned(checkpoint.size, checkpoint.root, Note(note.text, (*note.signatures, mine)).encode())
        if not self._store.swap(checkpoint.origin, before, cosigned):
            newest = self._store.newest(checkpoint.origin)
            return Answer(409, f"{newest.size if newest else 0}\n".encode(), SIZE_TYPE)
        return Answer(200, mine.line().encode())


def _parse(body: bytes) -> _Request:
    head, blank, rest = body.partition(b"\n\n")
    try:
        first, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise NoteWrong("the lines before the checkpoint are ASCII") from None
    match = _OLD.fullmatch(first)
    if not blank or match is None or len(lines) > _LONGEST_PROOF:
        raise NoteWrong("an old size line, at most 63 lines of proof, an empty line, a checkpoint")
    proof = [decode_base64(line) for line in lines]
    return _Request(int(match[1]), proof, *parse(rest))


def _refusal(status: int, why: str) -> Answer:
    return Answer(status, f"{why}\n".encode())
