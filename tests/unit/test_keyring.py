"""What the keyring promises: keys come back only for their owner, whatever the generation, and gone is gone."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime import dossier_keys
from services.runtime.errors import DmpError
from services.runtime.keyring import (
    DossierKeyBatch,
    DossierKeys,
    KeyForOwner,
    Keyring,
    KeyringError,
    UnwrapFailed,
    wrapped_generation,
)
from services.runtime.sealing import DossierKey, open_sealed, seal

FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))
OLD = Keyring({1: FIRST}, current=1, digests=[1])
ROTATED = Keyring({1: FIRST, 2: SECOND}, current=2, digests=[1])
RETIRED = Keyring({2: SECOND}, current=2, digests=[2])
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.binary(min_size=1, max_size=64), st.binary(max_size=40))
def test_a_wrapped_key_comes_back_for_its_owner(key: bytes, owner: bytes) -> None:
    assert OLD.unwrap(OLD.wrap(key, owner), owner) == key


@given(st.data())
def test_one_flipped_bit_of_a_wrapped_key_is_detected(data: st.DataObject) -> None:
    blob = bytearray(ROTATED.wrap(b"k" * 32, b"owner"))
    bit = data.draw(st.integers(min_value=0, max_value=len(blob) * 8 - 1))
    blob[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(UnwrapFailed):
        ROTATED.unwrap(bytes(blob), b"owner")


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_a_key_wrapped_for_one_owner_does_not_open_for_another(owner: bytes, other: bytes) -> None:
    if owner != other:
        with pytest.raises(UnwrapFailed):
            OLD.unwrap(OLD.wrap(b"k" * 32, owner), other)


def test_after_a_rotation_the_new_generation_wraps_and_the_old_one_still_unwraps() -> None:
    before = OLD.wrap(b"key", b"")
    after = ROTATED.wrap(b"key", b"")
    assert (wrapped_generation(before), wrapped_generation(after)) == (1, 2)
    assert ROTATED.unwrap(before, b"") == ROTATED.unwrap(after, b"") == b"key"
    assert RETIRED.unwrap(after, b"") == b"key"
    with pytest.raises(UnwrapFailed, match="generation"):
        RETIRED.unwrap(before, b"")


@pytest.mark.parametrize("blob", [b"", b"\x01", b"\x01" * 32, b"\x02" + b"\x00" * 64])
def test_what_is_no_wrapped_key_is_refused(blob: bytes) -> None:
    with pytest.raises(UnwrapFailed):
        OLD.unwrap(blob, b"")


def test_the_formats_are_frozen() -> None:
    """Wrapped keys and digests of the first day are found and opened for ever."""

    def derived(info: bytes) -> bytes:
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(FIRST)

    header, nonce = b"\x01" + b"\x00\x00\x00\x01", b"n" * 12
    by_hand = header + nonce + AESGCM(derived(b"dmp/wrap/v1")).encrypt(nonce, b"key", header + b"owner")
    assert OLD.unwrap(by_hand, b"owner") == b"key"
    expected = hmac.new(derived(b"dmp/digest/v1/ins"), b"value", hashlib.sha256).digest()
    assert OLD.digest("ins", b"value") == expected


def test_digests_do_not_move_when_the_wrapping_key_rotates() -> None:
    assert ROTATED.digest("ins", b"value") == OLD.digest("ins", b"value")


def test_digests_of_one_value_under_two_labels_or_generations_have_nothing_in_common() -> None:
    both = Keyring({1: FIRST, 2: SECOND}, current=2, digests=[1, 2])
    written = both.digests("ins", b"value")
    assert written == (OLD.digest("ins", b"value"), RETIRED.digest("ins", b"value"))
    assert both.digest("ins", b"value") == written[0], "the oldest live generation decides uniqueness"
    assert both.digest("match", b"value") not in written


def test_a_directory_is_created_read_and_rotated(tmp_path: Path) -> None:
    directory = tmp_path / "keyring"
    first = Keyring.create(directory)
    assert (directory / "1.key").stat().st_mode & 0o077 == 0
    wrapped, digest = first.wrap(b"key", b""), first.digest("ins", b"v")
    second = Keyring.add_generation(directory)
    again = Keyring.from_directory(directory)
    assert (second.current, again.current, again.generations, again.digest_generations) == (2, 2, (1, 2), (1,))
    assert again.unwrap(wrapped, b"") == b"key"
    assert again.digest("ins", b"v") == digest
    with pytest.raises(KeyringError, match="already"):
        Keyring.create(directory)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no <generation>.key"),
        ({"1.key": "00" * 32}, "current: cannot be read"),
        ({"1.key": "00" * 31, "current": "1"}, "32 bytes"),
        ({"1.key": "not hex", "current": "1"}, "not hexadecimal"),
        ({"01.key": "00" * 32, "current": "1"}, "decimal number from 1"),
        ({"1.key": "00" * 32, "current": "2"}, "no key of generation 2"),
        ({"1.key": "00" * 32, "2.key": "11" * 32, "current": "2"}, "digest: missing"),
        ({"1.key": "00" * 32, "current": "1", "digest": "7"}, "digest: must name"),
        ({"1.key": "00" * 32, "current": "1", "digest": ""}, "digest: must name"),
    ],
)
def test_a_wrong_directory_is_refused_with_the_file_and_the_rule(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(KeyringError, match=message):
        Keyring.from_directory(tmp_path)


def test_a_keyring_does_not_show_its_keys() -> None:
    assert repr(ROTATED) == "Keyring(current=2, generations=(1, 2))"


@dataclass
class KeyTable:
    """The table `dossier_key` in memory: what each statement of `dossier_keys` does to it, and how many were run."""

    rows: dict[int, bytes | None] = field(default_factory=dict)
    statements: int = 0

    async def fetch(self, statement: str, asked: Sequence[int] | int) -> list[tuple[int, bytes | None]]:
        self.statements += 1
        assert (statement == dossier_keys._READ_AND_HOLD) == isinstance(asked, int)
        health_ids = [asked] if isinstance(asked, int) else asked
        return [(i, self.rows[i]) for i in health_ids if i in self.rows]

    async def execute(self, statement: str, *arguments: Any) -> str:
        self.statements += 1
        if statement == dossier_keys._INSERT:
            for health_id, wrapped in zip(*arguments, strict=True):
                self.rows.setdefault(health_id, wrapped)
            return "INSERT"
        health_id = arguments[0]
        if statement == dossier_keys._INSERT_DESTROYED:
            new = health_id not in self.rows
            self.rows.setdefault(health_id, None)
            return f"INSERT 0 {int(new)}"
        if statement == dossier_keys._DESTROY:
            held = self.rows[health_id] is not None
            self.rows[health_id] = None
            return f"UPDATE {int(held)}"
        return "SELECT 1"


class CountingWrapper:
    """A key wrapper that counts its calls and items, as a remote one would be billed."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self.unwrapped: list[int] = []

    async def wrap_batch(self, items: Sequence[KeyForOwner]) -> list[bytes]:
        return await self.keyring.wrap_batch(items)

    async def unwrap_batch(self, items: Sequence[KeyForOwner]) -> list[bytes]:
        self.unwrapped.append(len(items))
        return await self.keyring.unwrap_batch(items)


class Service:
    """One replica of a service: its keys over a table and a keyring."""

    def __init__(self, table: KeyTable, keyring: Keyring = OLD, name: str = "document", capacity: int = 100) -> None:
        self.wrapper = CountingWrapper(keyring)
        self.keys = DossierKeys(self.wrapper, name, capacity=capacity)
        self.table = table

    async def write(self, *health_ids: int) -> DossierKeyBatch:
        return await self.keys.for_write(cast(Any, self.table), health_ids)

    async def read(self, *health_ids: int) -> DossierKeyBatch:
        return await self.keys.for_read(cast(Any, self.table), health_ids)

    async def destroy(self, health_id: int) -> bool:
        return await self.keys.destroy(cast(Any, self.table), health_id, WHEN)


def opens(key: DossierKey, blob: bytes) -> bool:
    return open_sealed(key, blob, b"") == b"content"


async def test_what_one_replica_sealed_another_opens() -> None:
    table = KeyTable()
    blob = seal((await Service(table).write(1))[1], b"content", b"")
    assert opens((await Service(table).read(1))[1], blob)
    assert opens((await Service(table).write(1))[1], blob)


async def test_a_batch_takes_one_statement_and_one_unwrapping_whatever_its_size() -> None:
    table = KeyTable()
    await Service(table).write(*range(1, 101))
    reader = Service(table)
    table.statements = 0
    assert len(await reader.read(*range(1, 101), 5, 5)) == 100
    assert (table.statements, reader.wrapper.unwrapped) == (1, [100])
    await reader.read(*range(1, 101))
    assert (table.statements, reader.wrapper.unwrapped) == (2, [100]), "unwrapped keys are remembered"
    await reader.write(3, 4)
    assert table.statements == 3, "existing keys are got for writing in one statement"
    await reader.write(3, 101, 102)
    assert table.statements == 6, "and made in three"


async def test_a_destroyed_key_is_gone_at_once_on_a_replica_that_remembers_it() -> None:
    table = KeyTable()
    one, other = Service(table), Service(table)
    await one.write(1, 2)
    await other.read(1, 2)
    assert await one.destroy(1)
    assert not await one.destroy(1), "destroying twice changes nothing"
    for batch in (await other.read(1, 2), await other.write(1, 2)):
        with pytest.raises(DmpError) as refused:
            batch[1]
        assert refused.value.reason == reasons.ERROR_REASON_CONTENT_DESTROYED
        assert 1 not in batch
        assert 2 in batch, "the other dossiers of the batch are untouched"


async def test_a_dossier_destroyed_before_its_first_key_never_gets_one() -> None:
    table = KeyTable()
    assert await Service(table).destroy(9)
    batch = await Service(table).write(9)
    assert 9 not in batch


async def test_a_row_copied_to_another_dossier_or_service_does_not_open() -> None:
    table = KeyTable()
    await Service(table).write(1, 3)
    table.rows[2] = table.rows[1]
    reader = Service(table)
    batch = await reader.read(1, 2, 3)
    assert (1 in batch, 2 in batch, 3 in batch) == (True, False, True)
    for lost in (batch, await Service(table, name="audit").read(2)):
        with pytest.raises(DmpError) as refused:
            lost[2]
        assert refused.value.reason == reasons.ERROR_REASON_CONTENT_CORRUPTED


async def test_reading_a_dossier_without_a_key_is_refused_and_makes_none() -> None:
    table = KeyTable()
    with pytest.raises(DmpError):
        (await Service(table).read(1))[1]
    assert not table.rows


async def test_remembered_keys_are_bounded_and_the_least_used_go_first() -> None:
    table = KeyTable()
    await Service(table).write(1, 2, 3)
    reader = Service(table, capacity=2)
    for health_id in (1, 2, 1, 3, 1, 2):
        await reader.read(health_id)
    assert reader.wrapper.unwrapped == [1, 1, 1, 1], "1, 2 and 3 once, then 2 again"


async def test_a_key_wrapped_anew_is_unwrapped_anew() -> None:
    table = KeyTable()
    blob = seal((await Service(table).write(1))[1], b"content", b"")
    reader = Service(table, ROTATED)
    await reader.read(1)
    wrapped = table.rows[1]
    assert wrapped is not None
    aad = b"dmp/dossier-key/v1/document\x00" + (1).to_bytes(8, "big")
    table.rows[1] = ROTATED.wrap(ROTATED.unwrap(wrapped, aad), aad)
    assert opens((await reader.read(1))[1], blob)
    assert reader.wrapper.unwrapped == [1, 1]
