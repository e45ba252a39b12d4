"""Whose own a document is: keyed digests of author identifiers, as stored and as asked for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from dmp.common.v1 import coding_pb2, context_pb2
from services.runtime.keyring import Keyring

IDNPS: Final = "1.2.250.1.71.4.2.1"
"""The system of professionals' identifiers."""
IDNST: Final = "1.2.250.1.71.4.2.2"
"""The system of structures' identifiers."""

_LABEL: Final = "document-author"
_SYSTEMS: Final = {
    context_pb2.ACTOR_KIND_PROFESSIONAL: IDNPS,
    context_pb2.ACTOR_KIND_STRUCTURE_STAFF: IDNST,
    context_pb2.ACTOR_KIND_STRUCTURE: IDNST,
}


class Authorship:
    """Digests of authors under the keyring. Those asked for are remembered: callers are few, and repeat."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._asked = lru_cache(maxsize=10_000)(self._digest)

    def of_authors(self, authors: Iterable[coding_pb2.Author]) -> tuple[bytes, ...]:
        """The digests to store: one for each identified author and live generation of the keyring."""
        identified = (f"{author.id.system}|{author.id.value}".encode() for author in authors if author.id.value)
        return tuple(dict.fromkeys(digest for value in identified for digest in self._keyring.digests(_LABEL, value)))

    def of_actor(self, actor: context_pb2.ActingContext) -> bytes | None:
        """The digest that the actor's own documents carry; None for those who are no author (patients, systems)."""
        system = _SYSTEMS.get(actor.actor_kind)
        return None if system is None else self._asked(system, actor.subject)

    def _digest(self, system: str, value: str) -> bytes:
        return self._keyring.digest(_LABEL, f"{system}|{value}".encode())
