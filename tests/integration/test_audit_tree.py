"""The trail as a public tree: whatever happens to it, what was acknowledged gets in once, and it forks for nobody."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import asyncpg
import httpx
import pytest

from dmp.audit.v1 import audit_pb2
from services.audit import tree_store
from services.audit.integration import Integrator
from services.audit.leaf import COMMITMENT_TAG
from services.audit.listing import Reader
from services.audit.rules import TrailFilter
from services.audit.tiles import ForkFound, ObjectTiles
from services.audit.tree import LogTree
from services.audit.tree_store import TreeState
from services.audit.witnesses import Witnesses
from services.runtime.jobs import Lease
from services.runtime.metrics import Metrics
from services.runtime.tlog.checkpoint import parse
from services.runtime.tlog.layout import Bundle, Edge, Grown, Tile, parse_path
from services.runtime.tlog.note import COSIGNATURE, Signer, verified
from services.runtime.tlog.policy import parse_policy
from services.witness.__main__ import application
from services.witness.cosigning import Witness
from services.witness.store import WitnessStore
from tests import independent_verifier
from tests.audit_log import DOSSIER, LogUnderTest, empty, event, migrated, places, signer

WITNESS = Signer.generate("witness.test", COSIGNATURE)
URL = "http://witness.test"


@pytest.fixture(scope="module")
def tree_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def log(tree_database: str) -> AsyncIterator[LogUnderTest]:
    await empty(tree_database)
    opened = await LogUnderTest.open(tree_database)
    yield opened
    await opened.close()


async def fill(log: LogUnderTest, count: int) -> list[audit_pb2.AuditEvent]:
    events = [event(DOSSIER + number % 5) for number in range(count)]
    for start in range(0, count, 500):
        places(await log.append(*events[start : start + 500]))
    return events


async def resources(tree: LogTree, size: int) -> dict[str, bytes]:
    """Everything that is published of a tree, by path; what a public mirror of it would hold."""
    found: dict[str, bytes] = {"checkpoint": await tree.checkpoint()}

    async def keep(path: str) -> None:
        wanted = parse_path(path)
        assert wanted is not None
        content = await (tree.bundle(wanted) if isinstance(wanted, Bundle) else tree.tile(wanted))
        assert content is not None, path
        found[path] = content

    for level, span in enumerate((1, 256, 65_536)):
        count = size // span
        for number in range((count + 255) // 256):
            width = min(256, count - number * 256)
            suffix = "" if width == 256 else f".p/{width}"
            await keep(f"tile/{level}/{independent_verifier.number(number)}{suffix}")
            if level == 0:
                await keep(f"tile/entries/{independent_verifier.number(number)}{suffix}")
    return found


def integrator(log: LogUnderTest, tree: LogTree, witnesses: Witnesses | None = None, **more: float) -> Integrator:
    witnesses = witnesses or Witnesses(tree.policy, 2.0)
    return Integrator(tree, witnesses, Lease(log.pool, "test"), Metrics(), **{"every": 0.01, **more})


class LocalWitness(Witnesses):
    """The witness of these tests, asked without a network; `down` makes it silent."""

    def __init__(self, store: Path) -> None:
        policy = parse_policy(f"witness w {WITNESS.verifier.text()} {URL}\nquorum w\n")
        super().__init__(policy, 5.0)
        self.down = False
        self.clock = 1_700_000_000.0
        witness = Witness(WITNESS, [signer().verifier], WitnessStore.open(store), lambda: self.clock)
        self.transport = httpx.ASGITransport(application(witness))
        self._client = httpx.AsyncClient(transport=httpx.MockTransport(self._pass))

    async def _pass(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("down", request=request)
        response = await self.transport.handle_async_request(request)
        await response.aread()
        return response


def witnessed(log: LogUnderTest, witness: LocalWitness) -> Integrator:
    return integrator(log, replace(log.logs.trees[0], policy=witness.policy), witness)


# --- what is published -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 700])
async def test_a_verifier_made_from_the_specification_alone_accepts_the_published_log(
    log: LogUnderTest, size: int
) -> None:
    events = await fill(log, size)
    await log.integrate()
    tree = log.logs.trees[0]
    published = await resources(tree, size)
    entries = independent_verifier.whole_log(published.__getitem__, tree.signer.verifier.text())
    assert [entry[1:17] for entry in entries] == [each.event_id for each in events]


async def test_every_size_on_the_way_is_consistent_with_every_later_one(log: LogUnderTest) -> None:
    tree = log.logs.trees[0]
    roots, size = {}, 0
    for _ in range(12):
        await fill(log, 29)
        await log.integrate()
        _, size, root = independent_verifier.checkpoint(await tree.checkpoint(), tree.signer.verifier.text())
        roots[size] = root
    published = await resources(tree, size)
    leaves = [
        independent_verifier.sha(b"\0" + entry)
        for entry in independent_verifier.whole_log(published.__getitem__, tree.signer.verifier.text())
    ]
    for older, root in roots.items():
        assert independent_verifier.mth(leaves[:older]) == root


async def test_a_receipt_is_checked_by_the_independent_verifier_and_says_what_happened(log: LogUnderTest) -> None:
    events = await fill(log, 300)
    await log.integrate()
    tree = log.logs.trees[0]
    key = tree.signer.verifier.text()
    reader = Reader(DOSSIER, "x", TrailFilter(own_only=False, with_secret=True))
    for number in (0, 150, 295):
        found = await log.reader.event(reader, uuid.UUID(bytes=events[number].event_id))
        extra = events[number].event_id + found.part.salt + found.part.clear
        proof = await tree.proof(number, extra)
        assert proof is not None
        clear, place = independent_verifier.receipt(proof.encode(), key, [], COMMITMENT_TAG)
        assert place == number
        assert audit_pb2.AuditEvent.FromString(clear).event_id == events[number].event_id
    assert await tree.proof(300, b"") is None


async def test_tiles_never_published_are_not_given_out(log: LogUnderTest) -> None:
    await fill(log, 300)
    await log.integrate()
    tree = log.logs.trees[0]
    assert await tree.tile(Tile(0, 1, 44)) is not None
    assert await tree.tile(Tile(0, 1, 45)) is None
    assert await tree.tile(Tile(0, 0, 255)) is not None, "a partial tile is the beginning of the full one"
    assert await tree.bundle(Bundle(1, 45)) is None
    assert await tree.tile(Tile(5, 0, 1)) is None


async def test_nothing_that_is_published_tells_who_or_what(log: LogUnderTest) -> None:
    await fill(log, 20)
    await log.integrate()
    tree = log.logs.trees[0]
    content = b"".join((await resources(tree, 20)).values())
    one = event(DOSSIER)
    for word in (one.actor.subject.encode(), one.action.encode(), DOSSIER.to_bytes(8, "big"), str(DOSSIER).encode()):
        assert word not in content
    clear = event(DOSSIER).SerializeToString()
    assert independent_verifier.sha(COMMITMENT_TAG + clear) not in content, "without the salt nothing can be tried"


# --- two sequencers, restored backups, swapped stores ----------------------------------------------------------------


async def test_two_integrators_at_once_make_one_log_and_lose_nothing(log: LogUnderTest) -> None:
    await log.logs.trees[0].begin()
    two = [integrator(log, log.logs.trees[0]) for _ in range(2)]
    seen: list[tuple[int, bytes]] = []

    async def work(mine: Integrator) -> None:
        for _ in range(25):
            await mine.step()
            checkpoint, _ = parse(await log.logs.trees[0].checkpoint())
            seen.append((checkpoint.size, checkpoint.root))

    await asyncio.gather(*(work(each) for each in two), fill(log, 1500))
    await two[0].step()
    tree = log.logs.trees[0]
    published = await resources(tree, 1500)
    entries = independent_verifier.whole_log(published.__getitem__, tree.signer.verifier.text())
    leaves = [independent_verifier.sha(b"\0" + entry) for entry in entries]
    for size, root in set(seen):
        assert independent_verifier.mth(leaves[:size]) == root, "no published checkpoint is ever contradicted"


async def test_an_integrator_that_was_stopped_before_its_swap_loses_it(log: LogUnderTest) -> None:
    tree = log.logs.trees[0]
    await tree.begin()
    reached, gate = asyncio.Event(), asyncio.Event()

    class Stopped(Integrator):
        async def _swap(self, state: TreeState, edge: Edge, grown: Sequence[Grown]) -> bool:
            reached.set()
            await gate.wait()
            return await super()._swap(state, edge, grown)

    await fill(log, 10)
    late = Stopped(tree, Witnesses(tree.policy, 2.0), Lease(log.pool, "late"), Metrics(), every=0.01)
    stopped = asyncio.ensure_future(late.step())
    await reached.wait()
    await fill(log, 20)
    assert await integrator(log, tree).step() == 30
    gate.set()
    await stopped
    assert parse(await tree.checkpoint())[0].size == 30
    await tree.check()


async def test_a_database_older_than_what_a_witness_saw_is_refused(log: LogUnderTest, tmp_path: Path) -> None:
    witness = LocalWitness(tmp_path / "w.sqlite")
    mine = witnessed(log, witness)
    await fill(log, 40)
    await mine.open()
    assert await mine.step() == 40
    await restore_to(log, 25)
    with pytest.raises(ForkFound, match="restored backup"):
        await witnessed(log, witness).open()


async def test_a_running_log_stops_when_a_witness_knows_more(log: LogUnderTest, tmp_path: Path) -> None:
    witness = LocalWitness(tmp_path / "w.sqlite")
    await fill(log, 40)
    mine = witnessed(log, witness)
    await mine.open()
    await mine.step()
    await restore_to(log, 25)
    await fill(log, 5)
    with pytest.raises(ForkFound, match="older than what was published"):
        await witnessed(log, LocalWitness(tmp_path / "w.sqlite")).step()


async def test_another_history_of_the_same_size_is_refused(log: LogUnderTest, tmp_path: Path) -> None:
    witness = LocalWitness(tmp_path / "w.sqlite")
    await fill(log, 40)
    mine = witnessed(log, witness)
    await mine.open()
    await mine.step()
    await restore_to(log, 25)
    await fill(log, 30)
    await integrator(log, log.logs.trees[0]).step()
    with pytest.raises(ForkFound, match="another tree of 40 events"):
        await witnessed(log, witness).open()


async def test_a_swapped_tile_store_is_refused(log: LogUnderTest) -> None:
    await fill(log, 300)
    await log.integrate()
    await log.pool.execute("UPDATE tile SET hashes = sha256('x') WHERE level = 1")
    with pytest.raises(ForkFound, match="do not make the root"):
        await log.logs.integrators[0].open()
    await log.pool.execute("DELETE FROM tile WHERE level = 0 AND number = 1")
    with pytest.raises(ForkFound, match="missing"):
        await log.logs.integrators[0].open()


async def test_a_swapped_object_store_is_refused(log: LogUnderTest, tmp_path: Path) -> None:
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
    tree = replace(log.logs.trees[0], tiles=ObjectTiles.open(f"file://{tmp_path}/mine"))
    await fill(log, 600)
    mine = integrator(log, tree)
    await mine.open()
    await mine.step()
    files = tmp_path / "mine" / tree.origin
    entries = independent_verifier.whole_log(lambda path: (files / path).read_bytes(), tree.signer.verifier.text())
    assert len(entries) == 600
    await integrator(log, tree).open()
    with pytest.raises(ForkFound, match="missing"):
        await integrator(log, replace(tree, tiles=ObjectTiles.open(f"file://{tmp_path}/other"))).open()
    await fill(log, 100)
    shutil.copytree(tmp_path / "mine", tmp_path / "kept")
    await mine.step()
    newer = (files / "checkpoint").read_bytes()
    await restore_to(log, 500)
    with pytest.raises(ForkFound):
        await integrator(log, replace(tree, tiles=ObjectTiles.open(f"file://{tmp_path}/kept"))).open()
    assert b"\n700\n" in newer


async def test_another_key_and_lost_events_are_refused(log: LogUnderTest) -> None:
    await fill(log, 10)
    await log.integrate()
    stranger = replace(log.logs.trees[0], signer=Signer.generate("dmp.test/log/9"))
    with pytest.raises(ForkFound, match="key belongs to another log"):
        await integrator(log, stranger).open()
    await log.pool.execute("DELETE FROM event WHERE leaf_index >= 6")
    await log.pool.execute("UPDATE log_head SET size = 6")
    with pytest.raises(ForkFound, match="some were lost"):
        await log.logs.integrators[0].open()


async def restore_to(log: LogUnderTest, size: int) -> None:
    """The database as an older backup has it: events, tiles and checkpoint of a smaller log, all consistent."""
    rows = await log.pool.fetch("SELECT * FROM event WHERE leaf_index < $1 ORDER BY leaf_index", size)
    await log.pool.execute("DELETE FROM event")
    await log.pool.execute("DELETE FROM tile")
    await log.pool.execute("DELETE FROM checkpoint")
    await log.pool.copy_records_to_table("event", records=[tuple(row) for row in rows])
    await log.pool.execute("UPDATE log_head SET size = $1", size)
    fresh = integrator(log, log.logs.trees[0])
    await log.logs.trees[0].begin()
    await fresh.step()


# --- witnesses -------------------------------------------------------------------------------------------------------


async def test_a_checkpoint_says_who_cosigned_it(log: LogUnderTest, tmp_path: Path) -> None:
    witness = LocalWitness(tmp_path / "w.sqlite")
    mine = witnessed(log, witness)
    await mine.open()
    for size in (10, 300, 301):
        await fill(log, size - (await log.pool.fetchval("SELECT size FROM log_head")))
        assert await mine.step() == size
        checkpoint, note = parse(await mine.tree.checkpoint())
        assert checkpoint.size == size
        assert len(verified(note, [mine.tree.signer.verifier, WITNESS.verifier])) == 2


async def test_without_its_witness_a_log_goes_on_unwitnessed_and_is_cosigned_later(
    log: LogUnderTest, tmp_path: Path
) -> None:
    witness = LocalWitness(tmp_path / "w.sqlite")
    metrics = Metrics()
    tree = replace(log.logs.trees[0], policy=witness.policy)
    mine = Integrator(tree, witness, Lease(log.pool, "test"), metrics, every=0.01)
    await mine.open()
    witness.down = True
    await fill(log, 10)
    assert await mine.step() == 10
    assert verified(parse(await tree.checkpoint())[1], [WITNESS.verifier]) == []
    assert 'dmp_audit_unwitnessed_total{log="0"} 1' in metrics.render()
    witness.down = False
    for standing in witness._standing.values():
        standing.ask_at = 0.0
    assert await mine.step() == 10
    assert len(verified(parse(await tree.checkpoint())[1], [WITNESS.verifier])) == 1


async def test_an_integrator_without_its_lease_does_nothing(log: LogUnderTest) -> None:
    await fill(log, 5)
    await log.logs.trees[0].begin()
    other = Lease(log.pool, "test")
    assert await other.acquire()
    task = asyncio.ensure_future(integrator(log, log.logs.trees[0]).run())
    await asyncio.sleep(0.3)
    assert parse(await log.logs.trees[0].checkpoint())[0].size == 0
    await other.release()
    for _ in range(200):
        if parse(await log.logs.trees[0].checkpoint())[0].size == 5:
            break
        await asyncio.sleep(0.05)
    task.cancel()
    assert parse(await log.logs.trees[0].checkpoint())[0].size == 5


async def test_each_query_of_the_tree_uses_the_key_of_its_log(log: LogUnderTest, tree_database: str) -> None:
    await fill(log, 2000)
    await log.integrate()
    await log.pool.execute("INSERT INTO tile SELECT 0, 0, n + 10, sha256('x') FROM generate_series(1, 5000) AS n")
    await log.pool.execute("VACUUM ANALYZE event, tile")
    connection = await asyncpg.connect(tree_database, server_settings={"plan_cache_mode": "force_generic_plan"})
    try:
        for number, (statement, index, arguments) in enumerate(
            [
                (tree_store.TILES, "tile_pkey", 3),
                (tree_store.ENTRIES, "event_pkey", 3),
                (tree_store.ROWS, "event_pkey", 3),
            ]
        ):
            await connection.execute(f"PREPARE t{number} AS {statement}")
            plan = await connection.fetch(f"EXPLAIN EXECUTE t{number}({', '.join(['NULL'] * arguments)})")
            text = "\n".join(row[0] for row in plan)
            assert index in text, text
            assert "Seq Scan" not in text, text
    finally:
        await connection.close()
