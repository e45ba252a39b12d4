"""Asking witnesses to cosign (c2sp.org/tlog-witness), as the client of their protocol. No tree is read here.

A witness that does not answer is left alone for a while: the log goes on without it. One that answers that it knows
another tree is asked to show it: a checkpoint under the log's own signature that this tree does not continue stops the
log, whoever shows it, for then its database is older than what was published, or was changed. A witness that only says
so stops the log too, unless the others cosigned and meet the quorum without it: then it lies or is broken, and is left
alone like a silent one (docs/decisions/0018).
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import httpx
import structlog

from services.audit.tiles import ForkFound
from services.runtime.tlog.checkpoint import Checkpoint, parse
from services.runtime.tlog.note import Note, NoteWrong, Signature, Verifier, parse_signatures, verified
from services.runtime.tlog.policy import Named, Policy
from services.runtime.tlog.tree import ProofWrong, verify_consistency

Prove = Callable[[int], Awaitable[list[bytes]]]
"""The consistency proof to the checkpoint from an older size."""

_LEFT_ALONE: Final = 5.0
_SIZE_TYPE: Final = "text/x.tlog.size"
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")

_log = structlog.get_logger("witnesses")


class WitnessAhead(ForkFound):
    """A witness has cosigned more events, `size`, than it is asked for: unless they are stored here by now, a fork."""

    def __init__(self, problem: str, size: int) -> None:
        super().__init__(problem)
        self.size = size


@dataclass(slots=True)
class _Standing:
    """What is known of one witness: the size that it cosigned last, and when to ask it again."""

    size: int = 0
    ask_at: float = 0.0


@dataclass
class Witnesses:
    """The witnesses of one log. Use `close` at the end."""

    policy: Policy
    timeout: float
    _standing: dict[str, _Standing] = field(default_factory=dict)
    _client: httpx.AsyncClient | None = None

    async def cosign(
        self, log_key: Verifier, checkpoint: Checkpoint, note: Note, prove: Prove
    ) -> tuple[Note, tuple[str, ...]]:
        """The note with the cosignatures that were had in time, and the names of the witnesses who gave them.

        Raises ForkFound when a witness knows a tree that this one does not continue; WitnessAhead when it is larger.
        """
        asked = [(name, witness) for name, witness in self.policy.witnesses.items() if witness.url]
        answers = await asyncio.gather(*(self._ask(name, witness, checkpoint, note, prove) for name, witness in asked))
        signatures = [(n, each) for (n, _), each in zip(asked, answers, strict=True) if isinstance(each, Signature)]
        names = tuple(name for name, _ in signatures)
        for (name, witness), each in zip(asked, answers, strict=True):
            if isinstance(each, ForkFound):
                await self._judge(name, witness, each, names, log_key, checkpoint, prove)
        return Note(note.text, (*note.signatures, *(each for _, each in signatures))), names

    async def seen(self, origin: str, log_key: Verifier) -> dict[str, Checkpoint]:
        """The newest checkpoint of the log that each witness shows; those that show none under the log's own signature
        are left out."""
        found: dict[str, Checkpoint] = {}
        for name, witness in self.policy.witnesses.items():
            checkpoint = await self._shown(name, witness, origin, log_key) if witness.url else None
            if checkpoint is not None:
                found[name] = checkpoint
                self._standing_of(name).size = checkpoint.size
        return found

    async def _shown(self, name: str, witness: Named, origin: str, log_key: Verifier) -> Checkpoint | None:
        """The newest checkpoint of the log that a witness shows, with its signature and that of the log."""
        try:
            path = f"{witness.url}/{sha256(origin.encode()).hexdigest()}/checkpoint"
            response = await self._http().get(path, timeout=max(self.timeout, 2.0))
            if response.status_code != 200:
                return None
            checkpoint, note = parse(response.content)
            signed = len(verified(note, [witness.key])) == len(verified(note, [log_key])) == 1
        except (httpx.HTTPError, NoteWrong) as error:
            _log.warning("witness_silent", peer=name, error_type=type(error).__name__)
            return None
        return checkpoint if signed and checkpoint.origin == origin else None

    async def _judge(
        self,
        name: str,
        witness: Named,
        said: ForkFound,
        others: Sequence[str],
        log_key: Verifier,
        checkpoint: Checkpoint,
        prove: Prove,
    ) -> None:
        """Whether what a witness said stops the log: then it is raised."""
        shown = await self._shown(name, witness, checkpoint.origin, log_key)
        if shown is not None and shown.size > checkpoint.size:
            raise _ahead(name, shown.size, checkpoint)
        if shown is not None and not await _continues(shown, checkpoint, prove):
            raise said
        if not others or self.policy.quorum == "none" or not self.policy.met(others):
            raise said
        self._standing_of(name).ask_at = time.monotonic() + _LEFT_ALONE
        _log.error("witness_contradicts", peer=name)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=self.timeout)
        return self._client

    def _standing_of(self, name: str) -> _Standing:
        return self._standing.setdefault(name, _Standing())

    async def _ask(
        self, name: str, witness: Named, checkpoint: Checkpoint, note: Note, prove: Prove
    ) -> Signature | ForkFound | None:
        """Its cosignature, or that it contradicts; None when it does not answer, or not as it should."""
        standing = self._standing_of(name)
        if time.monotonic() < standing.ask_at:
            return None
        try:
            async with asyncio.timeout(self.timeout):
                response = await self._add(witness, standing.size, checkpoint, note, prove)
                if response.status_code == 409:
                    known = _known_size(name, response, checkpoint)
                    if known != standing.size:
                        standing.size = known
                        response = await self._add(witness, known, checkpoint, note, prove)
            # The size that it knows, and a conflict all the same: it knows another tree of this size.
            conflict = response.status_code == 409 and standing.size == checkpoint.size
            if response.status_code == 422 or (conflict and _known_size(name, response, checkpoint) == standing.size):
                return ForkFound(
                    f"{checkpoint.origin}: the witness {name} cosigned a tree of {standing.size} events that is not "
                    "the beginning of this one"
                )
            response.raise_for_status()
            cosigned = Note(note.text, parse_signatures(response.text))
            [(_, signature)] = verified(cosigned, [witness.key])
        except WitnessAhead as ahead:
            return ahead
        except (httpx.HTTPError, TimeoutError, NoteWrong, ValueError) as error:
            standing.ask_at = time.monotonic() + _LEFT_ALONE
            _log.error("witness_failed", peer=name, error_type=type(error).__name__)
            return None
        standing.size = checkpoint.size
        return signature

    async def _add(self, witness: Named, old: int, checkpoint: Checkpoint, note: Note, prove: Prove) -> httpx.Response:
        proof = await prove(old) if 0 < old < checkpoint.size else []
        lines = [f"old {old}", *(base64.b64encode(each).decode("ascii") for each in proof), "", ""]
        body = "\n".join(lines).encode() + note.encode()
        return await self._http().post(f"{witness.url}/add-checkpoint", content=body)


def _known_size(name: str, response: httpx.Response, checkpoint: Checkpoint) -> int:
    """The size that a witness says it knows. WitnessAhead if it is larger than ours."""
    text = response.text.removesuffix("\n")
    if not response.headers.get("content-type", "").startswith(_SIZE_TYPE) or _SIZE.fullmatch(text) is None:
        raise ValueError("not a witness's answer")
    size = int(text)
    if size > checkpoint.size:
        raise _ahead(name, size, checkpoint)
    return size


def _ahead(name: str, size: int, checkpoint: Checkpoint) -> WitnessAhead:
    return WitnessAhead(
        f"{checkpoint.origin}: the witness {name} has cosigned a tree of {size} events and this one has "
        f"{checkpoint.size}: the database is older than what was published (a restored backup?)",
        size,
    )


async def _continues(shown: Checkpoint, checkpoint: Checkpoint, prove: Prove) -> bool:
    """Whether the tree of a checkpoint begins with one that is no larger."""
    proof = await prove(shown.size) if 0 < shown.size < checkpoint.size else []
    try:
        verify_consistency(shown.size, shown.root, checkpoint.size, checkpoint.root, proof)
    except ProofWrong:
        return False
    return True
