"""What sealing promises: content comes back whole, only for its owner, and never altered."""

from __future__ import annotations

import os
import uuid

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.sealing import (
    OVERHEAD,
    DecompressionRefused,
    DossierKey,
    SealBroken,
    compress,
    content_aad,
    decompress,
    open_sealed,
    seal,
)

KEY = DossierKey.from_bytes(7, bytes(range(32)))
HEALTH_IDS = st.integers(min_value=1, max_value=2**63 - 1)


@given(st.binary(max_size=2000), HEALTH_IDS, st.uuids())
def test_sealed_content_comes_back_whole(plaintext: bytes, health_id: int, content_id: uuid.UUID) -> None:
    aad = content_aad(health_id, content_id)
    blob = seal(KEY, plaintext, aad)
    assert len(blob) == len(plaintext) + OVERHEAD
    assert open_sealed(KEY, blob, aad) == plaintext


@given(st.binary(max_size=64), st.data())
def test_one_flipped_bit_anywhere_is_detected(plaintext: bytes, data: st.DataObject) -> None:
    blob = bytearray(seal(KEY, plaintext, b"owner"))
    bit = data.draw(st.integers(min_value=0, max_value=len(blob) * 8 - 1))
    blob[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(SealBroken):
        open_sealed(KEY, bytes(blob), b"owner")


@given(HEALTH_IDS, HEALTH_IDS, st.uuids(), st.uuids())
def test_a_blob_moved_to_another_dossier_or_document_does_not_open(
    mine: int, other: int, content: uuid.UUID, elsewhere: uuid.UUID
) -> None:
    blob = seal(KEY, b"content", content_aad(mine, content))
    for owner in {content_aad(other, content), content_aad(mine, elsewhere)} - {content_aad(mine, content)}:
        with pytest.raises(SealBroken):
            open_sealed(KEY, blob, owner)


def test_another_dossiers_key_does_not_open_it() -> None:
    blob = seal(KEY, b"content", b"")
    with pytest.raises(SealBroken):
        open_sealed(DossierKey.from_bytes(7, os.urandom(32)), blob, b"")


@pytest.mark.parametrize("blob", [b"", b"\x01", b"\x01" * (OVERHEAD - 1), b"\x02" * 60])
def test_short_or_unknown_blobs_are_refused(blob: bytes) -> None:
    with pytest.raises(SealBroken):
        open_sealed(KEY, blob, b"")


def test_the_format_is_frozen() -> None:
    """A blob of the first day opens for ever: version, nonce, ciphertext, tag; the tag covers version and owner."""
    nonce = bytes(range(12))
    by_hand = b"\x01" + nonce + AESGCM(bytes(range(32))).encrypt(nonce, b"bonjour", b"\x01" + b"owner")
    assert open_sealed(KEY, by_hand, b"owner") == b"bonjour"
    golden = "01000102030405060708090a0b"
    assert by_hand.hex().startswith(golden)
    assert content_aad(1, uuid.UUID(int=2)).hex() == "0000000000000001" + "0" * 31 + "2"


def test_two_blobs_of_one_plaintext_differ() -> None:
    assert seal(KEY, b"same", b"") != seal(KEY, b"same", b"")


def test_a_key_does_not_show_its_bytes() -> None:
    assert "aead" not in repr(KEY)
    with pytest.raises(ValueError, match="32 bytes"):
        DossierKey.from_bytes(1, b"short")


@given(st.binary(max_size=5000))
def test_compressed_content_comes_back(content: bytes) -> None:
    assert decompress(compress(content), len(content)) == content


def test_a_frame_that_states_more_than_allowed_is_refused_before_memory_is_taken() -> None:
    bomb = compress(bytes(50_000_000))
    assert len(bomb) < 10_000
    with pytest.raises(DecompressionRefused, match="larger"):
        decompress(bomb, 1_000_000)


def test_a_frame_that_hides_its_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    with pytest.raises(DecompressionRefused, match="size"):
        decompress(frame, 10_000)


@pytest.mark.parametrize("frame", [b"", b"not zstd at all", compress(b"x" * 500)[:-3], compress(b"x") + b"more"])
def test_rubbish_is_refused(frame: bytes) -> None:
    with pytest.raises(DecompressionRefused):
        decompress(frame, 10_000)
