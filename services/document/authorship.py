"""Whose own a document is: keyed digests of author identifiers, as stored and as asked for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from dmp.common.v1 import coding_pb2, context_pb2
from services.document.access import Caller
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


def identifier_of(actor: context_pb2.ActingContext) -> tuple[str, str] | None:
    """Under which identifier (system, value) an actor is an author: what a staff card does is its structure's (TD2.2).
    None for those who are no author."""
    system = _SYSTEMS.get(actor.actor_kind)
    if system is None:
        return None
    return (system, actor.subject) if system == IDNPS else (system, actor.structure or actor.subject)


class Authorship:
    """Digests of authors under the keyring. Those asked for are remembered: callers are few, and repeat."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._asked = lru_cache(maxsize=10_000)(self._digest)

    def of_authors(self, authors: Iterable[coding_pb2.Author]) -> tuple[bytes, ...]:
        """The digests to store: one for each identified author and live generation of the keyring."""
        return self._digests(author.id for author in authors)

    def of_institutions(self, authors: Iterable[coding_pb2.Author]) -> tuple[bytes, ...]:
        """The same for the structures where the authors act."""
        return self._digests(author.institution_id for author in authors)

    def wanted(self, identifiers: Iterable[coding_pb2.Identifier]) -> list[bytes] | None:
        """The digests by which authors or structures are searched; None when none is asked for."""
        return [self._digest(identifier.system, identifier.value) for identifier in identifiers] or None

    def of_caller(self, actor: context_pb2.ActingContext) -> Caller:
        """By what the actor's own documents, and those of the actor's structure, are known; nothing for those who
        are no author (patients, systems)."""
        identifier = identifier_of(actor)
        if identifier is None:
            return Caller()
        own = self._asked(*identifier)
        if identifier[0] == IDNST:
            return Caller(own, own)
        return Caller(own, self._asked(IDNST, actor.structure) if actor.structure else None)

    def _digests(self, identifiers: Iterable[coding_pb2.Identifier]) -> tuple[bytes, ...]:
        stated = (f"{identifier.system}|{identifier.value}".encode() for identifier in identifiers if identifier.value)
        return tuple(dict.fromkeys(digest for value in stated for digest in self._keyring.digests(_LABEL, value)))

    def _digest(self, system: str, value: str) -> bytes:
        return self._keyring.digest(_LABEL, f"{system}|{value}".encode())


def author_of(actor: context_pb2.ActingContext) -> coding_pb2.Author:
    """Who hands in, when the submission set does not say."""
    author = coding_pb2.Author(name=actor.subject_name, institution_name=actor.structure_name)
    identifier = identifier_of(actor)
    if identifier is not None:
        author.id.system, author.id.value = identifier
    if actor.structure:
        author.institution_id.CopyFrom(coding_pb2.Identifier(system=IDNST, value=actor.structure))
    return author
