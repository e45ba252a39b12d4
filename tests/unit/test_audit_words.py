"""The patient reads of everything that is done in words, whichever service did it."""

from __future__ import annotations

from services.audit.words import OF_THE_PLATFORM, WORDS
from services.runtime.names import AUDIT_ACTIONS


def test_every_action_has_words_or_is_about_nobodys_dossier() -> None:
    assert AUDIT_ACTIONS - WORDS.keys() - OF_THE_PLATFORM == frozenset()
    assert not WORDS.keys() & OF_THE_PLATFORM


def test_the_words_are_of_an_attempt_of_one_act_and_of_several() -> None:
    for action, words in WORDS.items():
        assert all(words), action
        assert words.once.startswith(("a ", "vous a ", "s’est ")), action
        assert "{n}" in words.several, action
        assert "{" not in words.once + words.attempt, action
