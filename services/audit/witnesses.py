"""Asking witnesses to cosign (c2sp.org/tlog-witness), as the client of their protocol. No tree is read here.

A witness that does not answer is left alone for a while: the log goes on without it. One that answers that it knows
another tree stops the log: either its database is older than what was published, or it has been changed.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import httpx
import structlog

from services.audit.tiles import ForkFound
from services.runtime.tlog.checkpoint import Checkpoint, parse
from services.runtime.tlog.note import Note, NoteWrong, Signature, parse_signatures, verified
from services.runtime.tlog.policy import Named, Policy

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

    async def cosign(self, checkpoint: Checkpoint, note: Note, prove: Prove) -> tuple[Note, tuple[str, ...]]:
        """The note with the cosignatures that were had in time, and the names of the witnesses who gave them.

        Raises ForkFound when a witness knows a tree that this one does not continue; WitnessAhead when it is larger.
        """
        asked = [(name, witness) for name, witness in self.policy.witnesses.items() if witness.url]
        answers = await asyncio.gather(*(self._ask(name, witness, checkpoint, note, prove) for name, witness in asked))
        signatures = [(name, each) for (name, _), each in zip(asked, answers, strict=True) if each is not None]
        return (
            Note(note.text, (*note.signatures, *(each for _, each in signatures))),
            tuple(name for name, _ in signatures),
        )

    async def seen(self, origin: str) -> dict[str, Checkpoint]:
        """The newest checkpoint of the log that each witness gives out; those that do not answer are left out."""
        found: dict[str, Checkpoint] = {}
        for name, witness in self.policy.witnesses.items():
            if not witness.url:
                continue
            try:
                path = f"{witness.url}/{sha256(origin.encode()).hexdigest()}/checkpoint"
                response = await self._http().get(path, timeout=max(self.timeout, 2.0))
                if response.status_code != 200:
                    continue
                checkpoint, note = parse(response.content)
                if checkpoint.origin == origin and verified(note, [witness.key]):
                    found[name] = checkpoint
                    self._standing_of(name).size = checkpoint.size
            except (httpx.HTTPError, NoteWrong) as error:
                _log.warning("witness_silent", peer=name, error_type=type(error).__name__)
        return found

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
    ) -> Signature | None:
        standing = self._standing_of(name)
        if time.monotonic() < standing.ask_at:
            return None
        try:
            async with asyncio.timeout(self.timeout):
                response = await self._add(witness, standing.size, checkpoint, note, prove)
                if response.status_code == 409:
                    standing.size = _known_size(name, response, checkpoint)
                    response = await self._add(witness, standing.size, checkpoint, note, prove)
            if response.status_code == 422:
                raise ForkFound(
                    f"{checkpoint.origin}: the witness {name} cosigned a tree of {standing.size} events that is not "
                    "the beginning of this one"
                )
            response.raise_for_status()
            cosigned = Note(note.text, parse_signatures(response.text))
            [(_, signature)] = verified(cosigned, [witness.key])
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
        raise WitnessAhead(
            f"{checkpoint.origin}: the witness {name} has cosigned a tree of {size} events and this one has "
            f"{checkpoint.size}: the database is older than what was published (a restored backup?)",
            size,
        )
    return size
