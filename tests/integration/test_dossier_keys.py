"""Dossier keys in a real PostgreSQL: writing and destroying exclude each other, two makers get one key."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DmpError
from services.runtime.keyring import DossierKeys, Keyring
from services.runtime.postgres import Pool
from services.runtime.sealing import open_sealed, seal

KEYRING = Keyring({1: bytes(range(32))}, current=1, digests=[1])
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def keys() -> DossierKeys:
    return DossierKeys(KEYRING, "document")


async def test_two_first_writers_of_a_dossier_get_the_same_key(runtime_pool: Pool) -> None:
    async def write(text: bytes) -> bytes:
        async with runtime_pool.acquire() as conn, conn.transaction():
            batch = await DossierKeys(KEYRING, "document").for_write(conn, [2, 1])
            await asyncio.sleep(0.05)
            return seal(batch[1], text, b"")

    blobs = await asyncio.gather(*(write(b"%d" % number) for number in range(3)))
    async with runtime_pool.acquire() as conn:
        batch = await DossierKeys(KEYRING, "document").for_read(conn, [1, 2, 3])
    assert [open_sealed(batch[1], blob, b"") for blob in blobs] == [b"0", b"1", b"2"]
    assert len(batch) == 2


async def test_destroying_waits_for_a_writer_and_no_writer_begins_after(runtime_pool: Pool, keys: DossierKeys) -> None:
    steps: list[str] = []

    async def destroy() -> None:
        async with runtime_pool.acquire() as conn, conn.transaction():
            assert await keys.destroy(conn, 1, WHEN)
            steps.append("destroyed")

    async with runtime_pool.acquire() as conn:
        async with conn.transaction():
            await keys.for_write(conn, [1])
        async with conn.transaction():
            await keys.for_write(conn, [1])
            destroying = asyncio.create_task(destroy())
            await asyncio.sleep(0.2)
            steps.append("written")
        await destroying
        assert steps == ["written", "destroyed"]
        async with conn.transaction():
            batch = await keys.for_write(conn, [1])
        with pytest.raises(DmpError) as refused:
            batch[1]
        assert refused.value.reason == reasons.ERROR_REASON_CONTENT_DESTROYED


async def test_a_writer_that_meets_a_destruction_waits_and_is_refused(runtime_pool: Pool, keys: DossierKeys) -> None:
    async def write() -> bool:
        async with runtime_pool.acquire() as conn, conn.transaction():
            return 1 in await keys.for_write(conn, [1])

    assert await write()
    async with runtime_pool.acquire() as conn, conn.transaction():
        await keys.destroy(conn, 1, WHEN)
        writing = asyncio.create_task(write())
        await asyncio.sleep(0.2)
        assert not writing.done()
    assert not await writing


async def test_a_destroyed_key_leaves_nothing_to_unwrap(runtime_pool: Pool, keys: DossierKeys) -> None:
    async with runtime_pool.acquire() as conn, conn.transaction():
        await keys.for_write(conn, [1])
        assert await keys.destroy(conn, 1, WHEN)
        assert await keys.destroy(conn, 2, WHEN), "before any key was made"
        assert not await keys.destroy(conn, 1, WHEN)
        rows = await conn.fetch("SELECT health_id, wrapped, destroyed_at FROM dossier_key ORDER BY health_id")
        assert [tuple(row) for row in rows] == [(1, None, WHEN), (2, None, WHEN)]
        assert len(await keys.for_read(conn, [1, 2])) == 0
