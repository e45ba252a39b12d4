"""By which words an author is found."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp.common.v1.coding_pb2 import Author
from services.document.author_names import Part, digests_of, wanted

KEY: Final = b"k" * 32


def finds(part: Part, asked: str, *authors: Author) -> bool:
    """Whether a search by one name finds a document of these authors."""
    return bool(set(wanted(KEY, part, [asked])) & set(digests_of(KEY, authors)))


@pytest.mark.parametrize("asked", ["d", "DUP", "dupont", "Dupont-Martin", "dupont martin", "martin", "DupontM"])
def test_a_name_is_found_by_its_beginning_and_that_of_its_later_words(asked: str) -> None:
    author = Author(name="Anne Dupont-Martin", family_name="Dupont-Martin", given_names=["Anne"])
    assert finds("family", asked, author)
    assert not finds("given", asked, author)


@pytest.mark.parametrize("asked", ["upont", "dupontmartinez", "anne", "-", "=", "dupont  x"])
def test_nothing_else_finds_it(asked: str) -> None:
    assert not finds("family", asked, Author(family_name="Dupont-Martin", given_names=["Anne"]))


def test_ligatures_and_accents_do_not_count_and_long_names_are_compared_by_their_beginning() -> None:
    assert finds("family", "lecoeur", Author(family_name="Le CŒUR"))
    assert finds("given", "Helene", Author(family_name="x", given_names=["Marie", "Hélène"]))
    assert finds("family", "a" * 200, Author(family_name="A" * 200))


def test_of_a_name_in_one_piece_each_word_counts_as_either() -> None:
    parts: tuple[Part, ...] = ("family", "given")
    for part in parts:
        for asked in ("jean", "DUPONT", "dup"):
            assert finds(part, asked, Author(name="Jean DUPONT"))


def test_another_dossier_has_other_digests() -> None:
    author = Author(family_name="Dupont")
    assert not set(digests_of(KEY, [author])) & set(digests_of(b"l" * 32, [author]))


@given(st.text(max_size=60), st.integers(1, 60))
def test_any_name_is_found_by_any_of_its_beginnings(name: str, length: int) -> None:
    author = Author(family_name=name, given_names=["Anne"])
    beginning = name[:length]
    if any(character.isalnum() for character in beginning):
        assert finds("family", beginning, author) or len(name.split()) > 8
