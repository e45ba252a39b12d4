"""The bytes of leaves are frozen: these vectors never change."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit.leaf import (
    COMMITMENT_TAG,
    LEAF_BYTES,
    ClearPart,
    EventPlace,
    clear_aad,
    commitment,
    leaf,
    open_clear,
    seal_clear,
)
from services.runtime.sealing import DossierKey, SealBroken

EVENT_ID = bytes.fromhex("0192f0c4a1b27c3d8e4f5a6b7c8d9e0f")
SALT = bytes(range(32))
CLEAR = bytes.fromhex("0a100192f0c4a1b27c3d8e4f5a6b7c8d9e0f18d2c4") + b"document.read"
KEY = DossierKey.from_bytes(42, bytes(range(32, 64)))
PLACE = EventPlace(42, EVENT_ID, 3)

COMMITMENT = "e9b04258bd01a5805e4b16ac595c79fb05054dc9cf94a417771b46dda893e463"
EMPTY = "95dba3effb211ecbf535668c071ef470c5f82f26ab065e55e14388fdc11a6eb7"
SEALED = (
    "01899419d6d07fef80d8ed79a97948c010e62ac495e00479d2489e5b3bdb9ea960205a4a103f9bfe38cc702fdc0d0ccb78d2"
    "1f204a73cd2cea1c34169af18f9208c50a10c5be5f014f60ed5fb55cebbd823b626ae564552675b16f300a652a"
)


def test_the_commitment_is_that_of_the_frozen_vector() -> None:
    assert commitment(ClearPart(SALT, CLEAR)).hex() == COMMITMENT


def test_the_leaf_is_version_event_id_and_commitment() -> None:
    entry = leaf(EVENT_ID, ClearPart(SALT, CLEAR))
    assert entry.hex() == "01" + EVENT_ID.hex() + COMMITMENT
    assert len(entry) == LEAF_BYTES == 49


def test_an_empty_clear_part_has_its_vector_too() -> None:
    assert commitment(ClearPart(bytes(32), b"")).hex() == EMPTY


def test_a_judge_recomputes_the_commitment_with_sha256sum(tmp_path: Path) -> None:
    program = shutil.which("sha256sum")
    assert program is not None
    (tmp_path / "opening").write_bytes(COMMITMENT_TAG + SALT + CLEAR)
    shown = subprocess.run([program, tmp_path / "opening"], capture_output=True, text=True, check=True).stdout
    assert shown.split()[0].removeprefix("\\") == COMMITMENT


def test_the_tag_is_one_line_of_27_bytes() -> None:
    assert COMMITMENT_TAG == b"dmp.sante.fr/audit/leaf/v1\n"
    assert len(COMMITMENT_TAG) == 27


def test_associated_data_are_dossier_event_and_log() -> None:
    assert clear_aad(PLACE).hex() == "000000000000002a" + EVENT_ID.hex() + "00000003"


def test_a_clear_part_sealed_by_the_first_release_opens() -> None:
    assert open_clear(KEY, bytes.fromhex(SEALED), PLACE) == ClearPart(SALT, CLEAR)


@given(st.binary(max_size=400), st.integers(0, 2**63 - 1), st.binary(min_size=16, max_size=16), st.integers(0, 1023))
def test_what_is_sealed_opens_at_its_place(clear: bytes, health_id: int, event_id: bytes, log_id: int) -> None:
    place = EventPlace(health_id, event_id, log_id)
    assert open_clear(KEY, seal_clear(KEY, ClearPart(SALT, clear), place), place) == ClearPart(SALT, clear)


@pytest.mark.parametrize(
    "elsewhere",
    [EventPlace(43, EVENT_ID, 3), EventPlace(42, bytes(16), 3), EventPlace(42, EVENT_ID, 4)],
    ids=["another dossier", "another event", "another log"],
)
def test_a_clear_part_moved_elsewhere_does_not_open(elsewhere: EventPlace) -> None:
    with pytest.raises(SealBroken):
        open_clear(KEY, seal_clear(KEY, ClearPart(SALT, CLEAR), PLACE), elsewhere)


def test_the_same_event_with_another_salt_has_a_leaf_that_tells_nothing_of_it() -> None:
    first, second = leaf(EVENT_ID, ClearPart(SALT, CLEAR)), leaf(EVENT_ID, ClearPart(bytes(32), CLEAR))
    assert first[17:] != second[17:]
    assert hashlib.sha256(CLEAR).digest() not in (first[17:], second[17:])


@pytest.mark.parametrize(("event_id", "salt"), [(bytes(15), bytes(32)), (bytes(16), bytes(31))])
def test_a_leaf_is_made_of_16_and_32_bytes_only(event_id: bytes, salt: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        leaf(event_id, ClearPart(salt, CLEAR))
