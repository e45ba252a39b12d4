"""Page tokens continue the listing that they were issued for, and no other."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DmpError
from services.runtime.keyring import Keyring
from services.runtime.paging import PageTokens, page_scope

FIRST, SECOND = bytes(range(32)), bytes(range(1, 33))
TOKENS = PageTokens(Keyring({1: FIRST}, current=1, digests=[1]))
SCOPE = page_scope(b"audit.ListEvents", b"dossier", b"reader")


@given(st.binary(max_size=300))
def test_a_token_gives_back_its_position(position: bytes) -> None:
    token = TOKENS.issue(SCOPE, position)
    assert TOKENS.read(token, SCOPE) == position
    assert len(token) <= 512


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_a_token_of_another_scope_is_refused(one: bytes, other: bytes) -> None:
    token = TOKENS.issue(one, b"12345678")
    if one == other:
        assert TOKENS.read(token, other) == b"12345678"
    else:
        _refused(token, other)


@given(st.text(max_size=600))
def test_any_other_text_is_refused_with_the_field(text: str) -> None:
    _refused(text, SCOPE)


@given(st.integers(0, 24), st.integers(1, 255))
def test_a_token_with_one_byte_changed_is_refused(place: int, flip: int) -> None:
    content = bytearray(base64.urlsafe_b64decode(TOKENS.issue(SCOPE, b"12345678") + "=="))
    content[place] ^= flip
    _refused(base64.urlsafe_b64encode(bytes(content)).decode().rstrip("="), SCOPE)


def test_parts_of_a_scope_cannot_run_into_each_other() -> None:
    assert page_scope(b"ab", b"c") != page_scope(b"a", b"bc")


def test_a_token_outlives_a_rotation_of_the_digest_key_while_both_live() -> None:
    both = PageTokens(Keyring({1: FIRST, 2: SECOND}, current=2, digests=[1, 2]))
    after = PageTokens(Keyring({2: SECOND}, current=2, digests=[2]))
    token = TOKENS.issue(SCOPE, b"position")
    assert both.read(token, SCOPE) == b"position"
    assert both.read(after.issue(SCOPE, b"position"), SCOPE) == b"position"
    with pytest.raises(DmpError):
        after.read(token, SCOPE)


def test_a_position_too_long_for_a_token_is_the_services_fault() -> None:
    assert len(TOKENS.issue(SCOPE, bytes(367))) == 512
    with pytest.raises(ValueError, match="at most 367"):
        TOKENS.issue(SCOPE, bytes(368))


def _refused(token: str, scope: bytes) -> None:
    with pytest.raises(DmpError) as refused:
        TOKENS.read(token, scope)
    assert refused.value.reason == reasons.ERROR_REASON_INVALID_PAGE_TOKEN
    assert [violation.field for violation in refused.value.fields] == ["page_token"]
