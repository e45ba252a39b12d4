"""Verification: whatever single byte is changed, of what is published or of the tables, it is found and named."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from ops.audit.monitor import Alarm, Grown, Monitor
from ops.audit.receipts import check_receipt
from ops.audit.sources import DirectorySource, RowDamage, Rows, TableDamage
from ops.audit.verify import Progress, Verdict, Verification
from services.audit.checking import EntryChecker
from services.audit.destroying import destroy_dossier
from services.audit.table_checks import TableChecker
from services.runtime.tlog.layout import Bundle, Tile, bundle_path, tile_path
from services.runtime.tlog.note import COSIGNATURE, NoteWrong, Signer, parse_note
from services.runtime.tlog.policy import Policy, parse_policy
from services.runtime.tlog.tree import ProofWrong
from tests.audit_log import DOSSIER, LogUnderTest, empty, event, migrated, places, signer
from tests.faults.campaign import CAMPAIGN, Budget, amount, publish
from tests.integration.test_audit_tree import fill, resources

WITNESS = Signer.generate("witness.test", COSIGNATURE)
POLICY = parse_policy(f"log {signer().verifier.text()}\nwitness w {WITNESS.verifier.text()}\nquorum w\n")
COSIGNED_AT = 1_700_000_000.0
UNWITNESSED = Policy.unwitnessed(signer().verifier)


class Published:
    """Published files in memory, and how many events were acknowledged, which pages do not tell."""

    def __init__(self, files: Mapping[str, bytes], promised: int = 0) -> None:
        self.files = dict(files)
        self.promised = promised

    async def checkpoint(self) -> bytes:
        return self.files["checkpoint"]

    async def acknowledged(self) -> int:
        return self.promised

    async def tile(self, tile: Tile) -> bytes | None:
        return self.files.get(tile_path(tile))

    async def bundle(self, bundle: Bundle) -> bytes | None:
        return self.files.get(bundle_path(bundle))

    async def rows(self, start: int, count: int) -> Rows | None:
        return None

    async def tables(self) -> list[TableDamage]:
        return []


class Stored(Published):
    """As the service answers by RPC: the published files, and what it finds in its tables."""

    def __init__(self, log: LogUnderTest, files: Mapping[str, bytes]) -> None:
        super().__init__(files)
        self.log = log
        self.checker = EntryChecker(log.pool, log.keys, log.digests)
        self.checks = TableChecker(log.pool, log.keys, log.digests, log.log.log_count)

    async def rows(self, start: int, count: int) -> Rows | None:
        answer = (await self.checker.check(self.log.logs.trees[0], start, count)).response()
        damages = [RowDamage(d.leaf_index, d.column, d.offset, d.problem) for d in answer.damages]
        return Rows(answer.entries, damages, len(answer.destroyed), len(answer.adopted))

    async def tables(self) -> list[TableDamage]:
        found, part = list[TableDamage](), b""
        while True:
            checked = await self.checks.check(self.log.logs.trees[0], part)
            found += [TableDamage(*each) for each in checked.damages]
            part = checked.next_part
            if not part:
                return found


@pytest.fixture(scope="module")
def verify_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def log(verify_database: str) -> AsyncIterator[LogUnderTest]:
    await empty(verify_database)
    opened = await LogUnderTest.open(verify_database)
    yield opened
    await opened.close()


async def published(log: LogUnderTest, size: int) -> dict[str, bytes]:
    await fill(log, size)
    await log.integrate()
    files = await resources(log.logs.trees[0], size)
    note = parse_note(files["checkpoint"])
    files["checkpoint"] += WITNESS.sign(note.text, 1_700_000_000).line().encode()
    return files


async def verdict(source: Published, policy: Policy = POLICY) -> Verdict:
    return await Verification(source, policy).run()


def altered(content: bytes, at: int, bit: int = 1) -> bytes:
    return content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]


async def test_a_sound_log_is_sound(log: LogUnderTest) -> None:
    files = await published(log, 520)
    found = await verdict(Stored(log, files))
    assert found.findings == []
    assert found.sound
    assert found.cosigners == ("w",)


async def test_every_byte_of_a_small_published_log_counts_and_is_named(log: LogUnderTest) -> None:
    files = await published(log, 5)
    for path, content in files.items():
        for at in range(len(content)):
            source = Published({**files, path: altered(content, at)})
            found = await verdict(source)
            assert not found.sound, (path, at)
            first = found.findings[0]
            assert first.resource == path, (path, at, found.findings)
            if path.startswith("tile/0") or (path.startswith("tile/entries") and at % 51 < 2):
                assert first.offset == at
            elif path.startswith("tile/entries"):
                assert first.offset <= at < first.offset + 49, "the entry is named"


async def test_bytes_of_a_larger_published_log_count(log: LogUnderTest) -> None:
    files = await published(log, 70_000 if CAMPAIGN else 600)
    chance, budget = random.Random(7), Budget()
    for flipped in range(1, 1 + amount(150, 4000)):
        if budget.left <= 0:
            break
        path = chance.choice(sorted(files))
        at = chance.randrange(len(files[path]))
        found = await verdict(Published({**files, path: altered(files[path], at, 1 << chance.randrange(8))}))
        assert not found.sound, (path, at)
        if path != "checkpoint":
            assert path in {finding.resource for finding in found.findings}, (path, at, found.findings)
        publish("bytes of the audit log", {"events": 70_000, "files": len(files), "flipped": flipped, "not found": 0})


async def test_what_is_missing_short_or_swapped_is_found(log: LogUnderTest) -> None:
    files = await published(log, 600)
    for path in [each for each in files if each != "checkpoint"]:
        without = {name: content for name, content in files.items() if name != path}
        assert (await verdict(Published(without))).findings[0].resource == path
        assert not (await verdict(Published({**files, path: files[path][:-1]}))).sound
        assert not (await verdict(Published({**files, path: files[path] + b"\0"}))).sound
    swapped = {**files, "tile/0/000": files["tile/0/001"], "tile/entries/000": files["tile/entries/001"]}
    assert not (await verdict(Published(swapped))).sound


TABLES = {
    "event": ("log_id = 0 AND leaf_index = 1", ("event_id", "actor_digest", "content_digest", "leaf", "sealed")),
    "tile": ("log_id = 0 AND level = 0", ("hashes",)),
    "checkpoint": ("log_id = 0", ("root", "signed", "published")),
    "dossier_key": (f"health_id = {DOSSIER + 1}", ("wrapped",)),
}


@pytest.mark.parametrize(("table", "column"), [(t, c) for t, (_, columns) in TABLES.items() for c in columns])
async def test_every_byte_of_the_tables_counts(log: LogUnderTest, table: str, column: str) -> None:
    files = await published(log, 3)
    where, _ = TABLES[table]
    original = await log.pool.fetchval(f"SELECT {column} FROM {table} WHERE {where}")  # noqa: S608
    content = original.bytes if column == "event_id" else bytes(original)
    step = 1 if CAMPAIGN or len(content) <= 96 else 3
    for at in [*range(0, len(content), step), len(content) - 1]:
        await put(log, table, column, altered(content, at))
        if table in ("tile", "checkpoint"):
            tree = log.logs.trees[0]
            served = {"tile/0/000.p/3": await tree.tile(Tile(0, 0, 3)) or b"", "checkpoint": await tree.checkpoint()}
            source = Stored(log, {**files, **served})
            found = await verdict(source, UNWITNESSED)
        else:
            found = await verdict(Stored(log, files))
        assert not found.sound, (table, column, at)
        if table == "event":
            assert found.findings[0].resource.startswith("event 1, column"), found.findings
        if column in ("actor_digest", "content_digest"):
            assert found.findings[0].offset == at
        if column == "leaf" and at >= 1:
            assert found.findings[0].offset == at
    await put(log, table, column, content)
    assert (await verdict(Stored(log, files))).sound


async def put(log: LogUnderTest, table: str, column: str, content: bytes) -> None:
    kind = "uuid" if column == "event_id" else "bytea"
    value = f"encode($1::bytea, 'hex')::{kind}" if kind == "uuid" else "$1::bytea"
    where, _ = TABLES[table]
    await log.pool.execute(f"UPDATE {table} SET {column} = {value} WHERE {where}", content)  # noqa: S608


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE event SET health_id = health_id + 1 WHERE leaf_index = 1",
        "UPDATE event SET health_id = 99 WHERE leaf_index = 1",
        "UPDATE event SET producer = 'consent' WHERE leaf_index = 1",
        "UPDATE event SET event_time = event_time + interval '1 microsecond' WHERE leaf_index = 1",
        "UPDATE event SET secret = NOT secret WHERE leaf_index = 1",
        "DELETE FROM event WHERE leaf_index = 1",
        "UPDATE log_head SET size = size + 1",
        "UPDATE log_head SET size = size - 1",
        "UPDATE checkpoint SET tree_size = tree_size + 1",
        "UPDATE checkpoint SET cosigners = '{somebody}'",
        "UPDATE event SET leaf_index = 10 - leaf_index WHERE leaf_index < 2",
        "DELETE FROM dossier_key",
    ],
)
async def test_every_other_column_counts_too(log: LogUnderTest, change: str) -> None:
    files = await published(log, 3)
    await log.pool.execute(change)
    assert not (await verdict(Stored(log, files))).sound


async def test_verification_goes_on_where_it_stopped(log: LogUnderTest, tmp_path: Path) -> None:
    files = await published(log, 1100)
    state = tmp_path / "progress.json"
    sizes: list[int] = []

    class Stopped(Exception):
        pass

    def advanced(progress: Progress, size: int) -> None:
        progress.save(state)
        sizes.append(progress.edge.size)
        if len(sizes) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        await Verification(Published(files), POLICY, advanced=advanced).run()
    del files["tile/entries/000"]
    again = await Verification(Published(files), POLICY, Progress.load(state), advanced=advanced).run()
    assert again.sound, "what was verified before is not read again"
    assert sizes[:2] == [256, 512]
    assert sizes[-1] == 1024


async def test_destroyed_clear_parts_are_told_and_are_no_damage(log: LogUnderTest) -> None:
    files = await published(log, 20)
    await destroy_dossier(log.pool, log.keys, log.digests, log.log, DOSSIER)
    found = await verdict(Stored(log, files))
    assert found.findings == []
    assert found.destroyed == 4


async def test_what_is_appended_or_destroyed_while_the_log_is_checked_is_no_damage(log: LogUnderTest) -> None:
    checker, tree, done = EntryChecker(log.pool, log.keys, log.digests), log.logs.trees[0], asyncio.Event()
    await log.integrate()

    async def go_on(first: int) -> None:
        dossier = first
        while not done.is_set():
            places(await log.append(*(event(dossier) for _ in range(3))))
            await destroy_dossier(log.pool, log.keys, log.digests, log.log, dossier)
            dossier += 1

    acting = [asyncio.ensure_future(go_on(first)) for first in (DOSSIER, DOSSIER + 10_000)]
    try:
        for _ in range(30):
            assert (await checker.check(tree, 0, 4096)).damages == []
    finally:
        done.set()
        await asyncio.gather(*acting)


# --- watching from outside -------------------------------------------------------------------------------------------


async def test_a_monitor_follows_growth_and_alarms_on_a_fork_and_a_rewrite(log: LogUnderTest, tmp_path: Path) -> None:
    state = tmp_path / "seen"
    first = await published(log, 300)
    monitor = Monitor(Published(first), POLICY, state, clock=lambda: COSIGNED_AT)
    assert isinstance(await monitor.look(), Grown)
    assert await monitor.look() is None
    await fill(log, 300)
    await log.integrate()
    second = await resources(log.logs.trees[0], 600)
    second["checkpoint"] += WITNESS.sign(parse_note(second["checkpoint"]).text, 1_700_000_001).line().encode()
    grown = await Monitor(Published({**first, **second}), POLICY, state, clock=lambda: COSIGNED_AT).look()
    assert isinstance(grown, Grown)
    assert grown.size_before == 300
    rewritten = await Monitor(Published(first), POLICY, state, clock=lambda: COSIGNED_AT).look()
    assert isinstance(rewritten, Alarm)
    assert "rewrite" in rewritten.problem
    forged = await forged_log(log, 600)
    fork = await Monitor(Published(forged), POLICY, state, clock=lambda: COSIGNED_AT).look()
    assert isinstance(fork, Alarm)
    assert "fork" in fork.problem
    assert fork.before != fork.now
    longer = await Monitor(Published(await forged_log(log, 700)), POLICY, state, clock=lambda: COSIGNED_AT).look()
    assert isinstance(longer, Alarm)
    assert "does not begin" in longer.problem


async def forged_log(log: LogUnderTest, size: int) -> dict[str, bytes]:
    """Another history under the same keys: what an operator who lies would publish."""
    await log.pool.execute("TRUNCATE event, log_head, checkpoint, tile")
    await log.pool.execute("INSERT INTO log_head (log_id) VALUES (0)")
    return await published(log, size)


async def test_a_directory_is_verified_as_the_pages_are(log: LogUnderTest, tmp_path: Path) -> None:
    files = await published(log, 300)
    for path, content in files.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    assert (await Verification(DirectorySource(tmp_path), POLICY).run()).sound
    (tmp_path / "tile/entries/000").write_bytes(altered(files["tile/entries/000"], 60))
    [finding] = (await Verification(DirectorySource(tmp_path), POLICY).run()).findings
    assert str(finding).startswith("tile/entries/000, byte 53: entry 1")


async def test_a_receipt_file_is_checked_offline_and_no_byte_can_be_altered(log: LogUnderTest) -> None:
    import uuid

    from services.audit.listing import Reader
    from services.audit.rules import TrailFilter

    one = event()
    places(await log.append(one, *(event() for _ in range(20))))
    await log.integrate()
    reader = Reader(DOSSIER, "x", TrailFilter(own_only=False, with_secret=True))
    found = await log.reader.event(reader, uuid.UUID(bytes=one.event_id))
    proof = await log.logs.trees[0].proof(0, one.event_id + found.part.salt + found.part.clear)
    assert proof is not None
    content = proof.encode()
    assert check_receipt(content, UNWITNESSED).event.event_id == one.event_id
    for at in range(len(content)):
        with pytest.raises((NoteWrong, ProofWrong)):
            check_receipt(altered(content, at), UNWITNESSED)
