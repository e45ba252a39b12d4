"""How titles are found although they are sealed: digests of their words, under a key of the dossier.

A title may hold a patient's name, so no word of it is stored. Of each word, without case and accents, eight bytes of a
keyed digest are kept, and of its beginnings of 3 to 12 letters: equal words of one dossier show as equal digests, which
says nothing outside of it, and goes when the row goes. Pure.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from typing import Final

_WORD: Final = re.compile(r"[a-z0-9]+")
_MOST_WORDS: Final = 32
_SHORTEST, _LONGEST = 3, 12


def digests_of(key: bytes, title: str) -> list[int]:
    """The digests to store with a title, in no order."""
    found = {part for word in _words(title) for part in _parts(word)}
    return [keyed(key, part) for part in found]


def wanted(key: bytes, query: str) -> list[int] | None:
    """The digests that a title must have to match all words of a query; None for a query without a word.

    A word of 3 to 12 letters is looked for as a whole word or as a beginning, any other as a whole word.
    """
    words = list(_words(query))
    if not words:
        return None
    return [keyed(key, _asked(word)) for word in words]


def _asked(word: str) -> str:
    return word if _SHORTEST <= len(word) <= _LONGEST else f"={word}"


def _parts(word: str) -> Iterator[str]:
    yield f"={word}"
    for length in range(_SHORTEST, min(len(word), _LONGEST) + 1):
        yield word[:length]


def _words(text: str) -> Iterator[str]:
    plain = unicodedata.normalize("NFKD", text.lower())
    bare = "".join(character for character in plain if not unicodedata.combining(character))
    return iter(list(dict.fromkeys(_WORD.findall(bare)))[:_MOST_WORDS])


def keyed(key: bytes, part: str) -> int:
    """Eight bytes of the keyed digest of a word, or of its beginning."""
    return int.from_bytes(hashlib.blake2b(part.encode(), key=key, digest_size=8).digest(), "big", signed=True)
