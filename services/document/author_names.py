"""How documents are found by the names of their authors although these are sealed (ITI-66, ITI-67: string parameters).

Most authors are professionals, whose names are no secret, but patients are authors too: so names are kept as titles are
(docs/decisions/0045), as keyed digests of their beginnings under a key of the dossier. Equal names of one dossier show
as equal digests, which says nothing outside of it. Pure.

A family name of several words is found by the beginning of the whole and of each later word: `Dupont-Martin` by Dup and
by Mart. Of an author whose producer does not tell the parts apart, each word counts as either.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

from dmp.common.v1.coding_pb2 import Author
from services.document.titles import keyed

Part = Literal["family", "given"]

_WORD: Final = re.compile(r"[^\W_]+")
_LIGATURES: Final = str.maketrans({"œ": "oe", "æ": "ae"})
_MOST_WORDS: Final = 8
_LONGEST: Final = 32
_NOBODY: Final = "="
"""What a name without a letter is looked for as: nothing is stored under it."""


def digests_of(key: bytes, authors: Iterable[Author]) -> list[int]:
    """The digests to store for the names of some authors, in no order."""
    found = {f"{part}:{beginning}" for author in authors for part, beginning in _beginnings(author)}
    return [keyed(key, text) for text in found]


def wanted(key: bytes, part: Part, names: Sequence[str]) -> list[int]:
    """The digests of which one must be there for one of these names, or its beginning, to be an author's."""
    return [keyed(key, f"{part}:{''.join(_words(name))[:_LONGEST] or _NOBODY}") for name in names]


def _beginnings(author: Author) -> Iterator[tuple[Part, str]]:
    apart = bool(author.family_name or author.given_names)
    parts: tuple[tuple[Part, Sequence[str]], ...] = (
        ("family", [author.family_name] if apart else [author.name]),
        ("given", author.given_names if apart else [author.name]),
    )
    for part, names in parts:
        for name in names:
            words = _words(name)
            for place in range(len(words)):
                whole = "".join(words[place:])[:_LONGEST]
                for length in range(1, len(whole) + 1):
                    yield part, whole[:length]


def _words(name: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", name.casefold().translate(_LIGATURES))
    bare = "".join(character for character in plain if not unicodedata.combining(character))
    return _WORD.findall(bare)[:_MOST_WORDS]
