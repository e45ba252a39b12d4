"""Tiles in an object store: an S3 server that works, refuses, stalls, lies, or is another one; and a directory. And one
process overtaken by another, in the store or at the witness.

(A directory that is another one is refused in test_audit_tree.py.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import obstore
import pytest
from obstore.store import ObjectStore as Store
from obstore.store import from_url

from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit.tiles import ForkFound, ObjectTiles
from services.audit.tree import LogTree
from services.audit.witnesses import Prove
from services.runtime.errors import DmpError, unavailable
from services.runtime.tlog.checkpoint import Checkpoint, parse
from services.runtime.tlog.note import Note, Verifier
from tests import independent_verifier
from tests.audit_log import LogUnderTest, empty, migrated
from tests.integration.test_audit_tree import LocalWitness, fill, integrator, witnessed
from tests.lying_s3 import LyingS3

CONFIG = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "aws_region": "us-east-1", "allow_http": "true"}


@pytest.fixture(scope="module")
def s3() -> Iterator[LyingS3]:
    with LyingS3() as server:
        yield server


@pytest.fixture(scope="module")
def tiles_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def log(tiles_database: str) -> AsyncIterator[LogUnderTest]:
    await empty(tiles_database)
    opened = await LogUnderTest.open(tiles_database)
    yield opened
    await opened.close()


def stored(log: LogUnderTest, s3: LyingS3, prefix: str, timeout: float = 3.0) -> LogTree:
    """The log's tree with its tiles under a prefix of the server."""
    config = CONFIG | {"aws_endpoint": s3.url}
    return replace(log.logs.trees[0], tiles=ObjectTiles.open(f"s3://documents/{prefix}", config, timeout))


def objects(s3: LyingS3, prefix: str, origin: str) -> dict[str, bytes]:
    """What the server holds of a log, by path."""
    config = {name: value for name, value in CONFIG.items() if name != "allow_http"} | {"aws_endpoint": s3.url}
    store: Store = from_url(f"s3://documents/{prefix}", config=config, client_options={"allow_http": True})  # type: ignore[call-overload]
    listed = [each["path"] for batch in obstore.list(store, prefix=origin) for each in batch]
    return {path.removeprefix(f"{origin}/"): bytes(obstore.get(store, path).bytes()) for path in listed}


async def test_what_lies_in_the_store_is_the_published_log_for_any_verifier(log: LogUnderTest, s3: LyingS3) -> None:
    tree = stored(log, s3, "whole")
    mine = integrator(log, tree)
    await mine.open()
    for size in (300, 520):
        await fill(log, size - await log.pool.fetchval("SELECT size FROM log_head"))
        assert await mine.step() == size
    files = objects(s3, "whole", tree.origin)
    assert files["checkpoint"] == await tree.checkpoint()
    assert len(independent_verifier.whole_log(files.__getitem__, tree.signer.verifier.text())) == 520
    assert {"tile/0/000", "tile/0/001.p/44", "tile/0/002.p/8", "tile/1/000.p/2", "tile/entries/001"} <= set(files)
    assert await log.pool.fetchval("SELECT count(*) FROM tile") == 0
    assert (await tree.proof(17, b"")) is not None
    await integrator(log, stored(log, s3, "whole")).open()


@pytest.mark.parametrize("mode", ["refuse", "stall"])
async def test_a_store_that_fails_delays_the_checkpoint_and_nothing_is_lost(
    log: LogUnderTest, s3: LyingS3, mode: str
) -> None:
    tree = stored(log, s3, mode, timeout=1.5)
    mine = integrator(log, tree)
    await fill(log, 40)
    await mine.open()
    assert await mine.step() == 40
    await fill(log, 30)
    s3.mode = mode
    try:
        with pytest.raises(DmpError) as failed:
            await mine.step()
        assert failed.value.reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
        assert parse(await tree.checkpoint())[0].size == 40, "nothing is published that is not stored"
        await fill(log, 5)
    finally:
        s3.mode = ""
    again = integrator(log, stored(log, s3, mode, timeout=20))
    await again.open()
    assert await again.step() == 75
    files = objects(s3, mode, tree.origin)
    assert len(independent_verifier.whole_log(files.__getitem__, tree.signer.verifier.text())) == 75


async def test_a_store_that_keeps_nothing_or_is_another_one_is_refused_and_it_says_why(
    log: LogUnderTest, s3: LyingS3
) -> None:
    tree = stored(log, s3, "lie")
    await fill(log, 40)
    mine = integrator(log, tree)
    await mine.open()
    s3.mode = "lie"
    try:
        await mine.step()
    finally:
        s3.mode = ""
    for swapped in ("lie", "another"):
        with pytest.raises(ForkFound, match="tiles of the tree of 40 events are missing"):
            await integrator(log, stored(log, s3, swapped)).open()


async def test_a_store_with_other_tiles_in_the_same_place_is_refused(log: LogUnderTest, s3: LyingS3) -> None:
    tree = stored(log, s3, "other")
    await fill(log, 40)
    mine = integrator(log, tree)
    await mine.open()
    await mine.step()
    files = objects(s3, "other", tree.origin)
    await empty_and_fill(log, 30)
    with pytest.raises(ForkFound, match="has seen a tree of 40 events"):
        await integrator(log, tree).open()
    await empty_and_fill(log, 40)
    with pytest.raises(ForkFound, match="holds another content"):
        await integrator(log, tree).step()
    assert objects(s3, "other", tree.origin) == files, "what was published stays as it was"


async def empty_and_fill(log: LogUnderTest, size: int) -> None:
    """Another history of the same log, not integrated but for its empty beginning."""
    await log.pool.execute("TRUNCATE event, log_head, checkpoint, tile")
    await log.pool.execute("INSERT INTO log_head (log_id) VALUES (0)")
    await log.logs.trees[0].begin()
    await fill(log, size)


async def test_what_another_process_publishes_while_this_one_starts_is_no_fork(
    log: LogUnderTest, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}"
    other = integrator(log, replace(log.logs.trees[0], tiles=ObjectTiles.open(url)))
    await fill(log, 20)
    await other.open()
    assert await other.step() == 20

    class Meanwhile(ObjectTiles):
        async def published(self, origin: str) -> bytes | None:
            await fill(log, 5)
            await other.step()
            return await super().published(origin)

    await integrator(log, replace(log.logs.trees[0], tiles=Meanwhile.open(url))).open()
    assert parse(await log.logs.trees[0].checkpoint())[0].size == 25


async def test_a_witness_that_was_asked_for_more_by_another_process_meanwhile_is_no_fork(
    log: LogUnderTest, tmp_path: Path
) -> None:
    reached, gate = asyncio.Event(), asyncio.Event()

    class Slow(LocalWitness):
        async def cosign(
            self, log_key: Verifier, checkpoint: Checkpoint, note: Note, prove: Prove
        ) -> tuple[Note, tuple[str, ...]]:
            reached.set()
            await gate.wait()
            return await super().cosign(log_key, checkpoint, note, prove)

    await fill(log, 10)
    late = witnessed(log, Slow(tmp_path / "w.sqlite"))
    await late.open()
    stopped = asyncio.ensure_future(late.step())
    await reached.wait()
    await fill(log, 20)
    assert await witnessed(log, LocalWitness(tmp_path / "w.sqlite")).step() == 30
    gate.set()
    assert await stopped == 30
    await fill(log, 5)
    assert await late.step() == 35, "and it may go on"


async def test_a_slower_process_puts_no_older_checkpoint_in_the_store(log: LogUnderTest, tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    reached, gate = asyncio.Event(), asyncio.Event()

    class Slow(ObjectTiles):
        async def publish(self, origin: str, checkpoint: bytes) -> None:
            reached.set()
            await gate.wait()
            await super().publish(origin, checkpoint)

    tree = replace(log.logs.trees[0], tiles=ObjectTiles.open(url))
    await fill(log, 10)
    await tree.begin()
    slow = asyncio.ensure_future(integrator(log, replace(tree, tiles=Slow.open(url))).step())
    await reached.wait()
    await fill(log, 10)
    quick = asyncio.ensure_future(integrator(log, tree).step())
    await asyncio.wait({quick}, timeout=0.5)
    gate.set()
    await asyncio.gather(slow, quick)
    assert (tmp_path / tree.origin / "checkpoint").read_bytes() == await tree.checkpoint()
    assert parse(await tree.checkpoint())[0].size == 20


async def test_a_checkpoint_that_could_not_be_put_in_the_store_is_put_there_though_nothing_more_happens(
    log: LogUnderTest, tmp_path: Path
) -> None:
    class Failing(ObjectTiles):
        failed = False

        async def publish(self, origin: str, checkpoint: bytes) -> None:
            if not self.failed:
                self.failed = True
                raise unavailable("tile store")
            await super().publish(origin, checkpoint)

    tree = replace(log.logs.trees[0], tiles=Failing.open(f"file://{tmp_path}"))
    await fill(log, 10)
    await tree.begin()
    mine = integrator(log, tree)
    with pytest.raises(DmpError):
        await mine.step()
    assert await mine.step() == 10
    assert parse((tmp_path / tree.origin / "checkpoint").read_bytes())[0].size == 10


async def test_a_directory_serves_as_well(log: LogUnderTest, tmp_path: Path) -> None:
    tree = replace(log.logs.trees[0], tiles=ObjectTiles.open(f"file://{tmp_path}"))
    await fill(log, 300)
    mine = integrator(log, tree)
    await mine.open()
    await mine.step()
    files = tmp_path / tree.origin
    entries = independent_verifier.whole_log(lambda path: (files / path).read_bytes(), tree.signer.verifier.text())
    assert len(entries) == 300
    (files / "tile/0/001.p/44").write_bytes(bytes(44 * 32))
    with pytest.raises(ForkFound, match="do not make the root"):
        await integrator(log, tree).open()


def test_a_url_that_is_no_store_is_refused() -> None:
    with pytest.raises(ValueError, match="not an object store"):
        ObjectTiles.open("gopher://somewhere/tiles")
