"""What lies in the other dossiers of a person: shown under the dossier asked for, recorded in each that it lies in.

Rows never move (design §8, merges): a document stays in its dossier, sealed with that one's key, and is read with the
others of the person as long as consent names them together (`decision.linked`). Its name in an answer is that of the
dossier asked for, for which the caller was checked; by the name of its own dossier it is read as before. Nearly nobody
has a second dossier: everything here costs nothing then. Pure.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from dmp.consent.v1 import consent_pb2
from services.runtime.identifiers import document_name, dossier_name

M = TypeVar("M", bound=Message)

Elsewhere = Mapping[int, Sequence[str]]
"""The documents that an answer shows of other dossiers than the one asked for, by the names that they have there."""

NOWHERE: Final[Elsewhere] = {}
_NAMES: Final = frozenset({"name", "submission_set", "replaced_by", "folders", "target", "documents"})


def as_asked(message: M, owner: int, asked: int) -> M:
    """A document, set, folder or version of the dossier `owner`, by its names in the dossier asked for; in place."""
    if owner != asked:
        _rename(message, f"{dossier_name(owner)}/", f"{dossier_name(asked)}/")
    return message


def elsewhere(decision: consent_pb2.Decision, asked: int, documents: Iterable[tuple[int, uuid.UUID]]) -> Elsewhere:
    """Of these documents (health id, id) those of other dossiers than the one asked for."""
    if not decision.linked:
        return NOWHERE
    found: dict[int, dict[str, None]] = {}
    for owner, document_id in documents:
        if owner != asked:
            found.setdefault(owner, {})[document_name(owner, document_id)] = None
    return {owner: list(names) for owner, names in found.items()}


def _rename(message: Message, before: str, after: str) -> None:
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for each in value if field.is_repeated else (value,):
                _rename(each, before, after)
        elif field.type == FieldDescriptor.TYPE_STRING and field.name in _NAMES:
            if field.is_repeated:
                value[:] = [_renamed(each, before, after) for each in value]
            else:
                setattr(message, field.name, _renamed(value, before, after))


def _renamed(name: str, before: str, after: str) -> str:
    return after + name.removeprefix(before) if name.startswith(before) else name
