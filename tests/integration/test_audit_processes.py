"""The log as processes: two replicas, a gateway that publishes, a witness; one of them killed at a time."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from dmp.audit.v1 import audit_pb2
from ops.audit.monitor import Grown, Monitor
from ops.audit.sources import RpcSource, WebSource
from ops.audit.verify import Verification
from ops.endpoints import publish
from ops.local.stack import Stack
from ops.local.witness import LocalWitness
from ops.migrations import migrate
from ops.session import Session
from services.audit.leaf import ClearPart, leaf
from services.runtime.channels import Peer
from services.runtime.errors import DmpError
from services.runtime.server import APPEND
from services.runtime.settings import ServiceSettings
from services.runtime.tlog.checkpoint import Checkpoint, parse
from services.runtime.tlog.layout import bundle_path, bundles_of, encode_bundle, levels_of, tile_path, tiles_of
from services.runtime.tlog.note import Signer
from services.runtime.tlog.policy import Policy, parse_policy
from services.runtime.tlog.receipt import Proof
from services.runtime.trail import receipts
from tests import independent_verifier
from tests.audit_log import DOSSIER, event, places
from tests.audit_recovery import patience
from tests.local_stack import opened
from tests.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 60.0


class Platform:
    """The processes, and a document service that appends."""

    def __init__(self, stack: Stack, session: Session, audit: Peer, policy: Policy) -> None:
        self.stack = stack
        self.session = session
        self.audit = audit
        self.policy = policy
        self.sent: dict[bytes, int] = {}
        self._append = audit.unary(APPEND, audit_pb2.BatchAppendEventsRequest, audit_pb2.BatchAppendEventsResponse)

    async def append(self, count: int) -> None:
        """Appends events, each until it is acknowledged."""
        events = [event(DOSSIER + number % 9) for number in range(count)]
        request = audit_pb2.BatchAppendEventsRequest(events=events)
        deadline = time.monotonic() + LIMIT
        found: list[int] = []
        while not found:
            try:
                found = places(receipts(await self._append(request, timeout=5)))
            except DmpError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        self.sent.update(zip((each.event_id for each in events), found, strict=True))

    async def page(self, path: str) -> httpx.Response:
        return await self.session.http.get(f"/log/{path}")

    async def covered(self, size: int) -> Checkpoint:
        """The first published checkpoint of at least so many events."""
        deadline = time.monotonic() + LIMIT
        while True:
            response = await self.page("0/checkpoint")
            if response.status_code == 200:
                checkpoint, _ = parse(response.content)
                if checkpoint.size >= size:
                    return checkpoint
            assert time.monotonic() < deadline, response.text
            await asyncio.sleep(0.05)

    async def whole(self) -> list[bytes]:
        """Every published entry, as the independent verifier reads the log."""
        pages: dict[str, bytes] = {}
        key = self.policy.logs[0].key.text()
        while True:
            try:
                return independent_verifier.whole_log(pages.__getitem__, key)
            except KeyError as missing:
                path = str(missing.args[0])
                response = await self.page(f"0/{path}")
                assert response.status_code == 200, path
                pages[path] = response.content


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    state = opened(tmp_path_factory.mktemp("log"))
    stack = Stack(state, ("audit", "gateway"), replicas={"audit": 2}, migrate=migrate, witness=True)
    async with stack, Session(state, publish(stack)) as session:
        mine = stack.authority.service("document")
        settings = ServiceSettings(
            environment="test", tls_cert=mine.certificate, tls_key=mine.key, tls_ca=mine.authority
        )
        audit = Peer("audit", stack.target("audit"), settings)
        policy = parse_policy((state.root / "witness" / "policy.txt").read_text())
        yield Platform(stack, session, audit, policy)
        await audit.close()


async def test_what_is_appended_is_published_cosigned_and_accepted_by_a_verifier_that_is_not_ours(
    platform: Platform,
) -> None:
    await asyncio.gather(*(platform.append(20) for _ in range(20)))
    size = (await platform.covered(400)).size
    entries = await platform.whole()
    assert {entry[1:17] for entry in entries} >= set(platform.sent)
    for event_id, place in platform.sent.items():
        assert entries[place][1:17] == event_id
    witness = platform.policy.witnesses["local"].key.text()
    published = (await platform.page("0/checkpoint")).content
    assert independent_verifier.signed_by(published, witness)
    verdict = await Verification(RpcSource(platform.session, 0), platform.policy).run()
    assert verdict.sound, verdict.findings
    assert verdict.checkpoint is not None
    assert verdict.checkpoint.size >= size
    assert verdict.cosigners == ("local",)


async def test_tiles_may_be_kept_for_ever_and_checkpoints_may_not(platform: Platform) -> None:
    await platform.append(1)
    await platform.covered(1)
    checkpoint = await platform.page("0/checkpoint")
    assert checkpoint.headers["content-type"] == "text/plain; charset=utf-8"
    assert "immutable" not in checkpoint.headers["cache-control"]
    origin = platform.policy.logs[0].key.name
    assert (await platform.page(f"{origin}/checkpoint")).status_code == 200
    tile = await platform.page("0/tile/0/000.p/1")
    assert (tile.status_code, len(tile.content)) == (200, 32)
    assert "immutable" in tile.headers["cache-control"]
    bundle = await platform.page("0/tile/entries/000.p/1")
    assert bundle.headers["content-encoding"] == "gzip"
    assert len(bundle.content) == 51
    path, plain_only = "/log/0/tile/entries/000.p/1", {"accept-encoding": "identity"}
    plain = await platform.session.http.get(path, headers=plain_only)
    assert (plain.content, "content-encoding" in plain.headers) == (bundle.content, False)
    assert plain.headers["vary"] == bundle.headers["vary"] == "accept-encoding", "a cache keeps both apart"
    for path in ("0/tile/0/0", "0/tile/0/999", "0/tile/9/000", "9/checkpoint", "0/other", "0/tile/0/000.p/256", "0"):
        missing = await platform.page(path)
        assert (missing.status_code, missing.headers["cache-control"]) == (404, "no-store"), path


async def test_a_monitor_follows_the_published_log(
    platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = WebSource(platform.session.http, "/log/0")
    monitor = Monitor(source, platform.policy, tmp_path_factory.mktemp("monitor") / "seen")
    await platform.append(10)
    size = (await platform.covered(len(platform.sent))).size
    assert isinstance(await monitor.look(), Grown)
    await platform.append(300)
    await platform.covered(size + 300)
    grown = await monitor.look()
    assert isinstance(grown, Grown)
    assert grown.trusted.checkpoint.size >= size + 300


async def test_appends_go_on_when_a_replica_is_killed_and_each_is_in_the_tree_once(platform: Platform) -> None:
    for victim in (0, 1):
        loads = [asyncio.ensure_future(_load(platform, 25)) for _ in range(6)]
        await asyncio.sleep(0.3)
        await platform.stack.kill("audit", victim)
        started = time.monotonic()
        await platform.append(1)
        assert time.monotonic() - started < patience(5.0), "appends go on within seconds"
        await asyncio.gather(*loads)
        await platform.covered(max(platform.sent.values()) + 1)
        await platform.stack.restart("audit", victim)
    assert sorted(platform.sent.values()) == sorted(set(platform.sent.values()))
    await platform.covered(max(platform.sent.values()) + 1)
    entries = await platform.whole()
    assert all(entries[place][1:17] == event_id for event_id, place in platform.sent.items())
    assert len({entry[1:17] for entry in entries}) == len(entries), "nothing twice"
    assert (await Verification(RpcSource(platform.session, 0), platform.policy).run()).sound


# --- the commands, as a person gives them ----------------------------------------------------------------------------


async def dmp(platform: Platform, *arguments: str, code: int = 0) -> str:
    """What `dmp …` prints, as a process of its own that finds the platform by its state."""
    environment = {**os.environ, "DMP_STATE": str(platform.stack.state.root), "COLUMNS": "300", "NO_COLOR": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ops.cli",
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), LIMIT * 2)
    assert process.returncode == code, (arguments, output.decode())
    return output.decode()


async def test_the_commands_verify_watch_and_find_what_is_altered(platform: Platform, tmp_path: Path) -> None:
    await platform.append(300)
    size = (await platform.covered(max(platform.sent.values()) + 1)).size
    log_key, origin = platform.policy.logs[0].key.text(), platform.policy.logs[0].key.name
    policy = str(platform.stack.state.root / "witness" / "policy.txt")
    url = str(platform.session.http.base_url.join("/log/0"))
    progress, watched = str(tmp_path / "progress.json"), str(tmp_path / "seen")
    said = await asyncio.gather(
        dmp(platform, "audit", "verify"),
        dmp(platform, "audit", "verify", "--url", url, "--policy", policy, "--state", progress),
        dmp(platform, "audit", "monitor", "--state", watched, "--url", url, "--policy", policy, "--once"),
    )
    assert "events, all sound" in said[0]
    assert "all sound, cosigned by local" in said[1]
    assert said[2].startswith(f"{origin}: 0 →")
    copied = tmp_path / "copy"
    await copy_pages(platform, copied)
    assert "all sound" in await dmp(platform, "audit", "verify", "--directory", str(copied), "--log-key", log_key)
    bundle = copied / "tile/entries/000"
    content = bytearray(bundle.read_bytes())
    content[60] ^= 1
    bundle.write_bytes(content)
    found = await dmp(platform, "audit", "verify", "--directory", str(copied), "--log-key", log_key, code=1)
    assert "tile/entries/000, byte 53: entry 1" in found
    shrunk = copied / "checkpoint"
    note = shrunk.read_text("utf-8").replace(f"\n{size}\n", f"\n{size - 1}\n", 1)
    shrunk.write_text(note, "utf-8")
    await dmp(platform, "audit", "verify", "--directory", str(copied), "--log-key", log_key, code=1)


async def test_a_forked_log_alarms_whoever_watches_it(platform: Platform, tmp_path: Path) -> None:
    signer = Signer.generate("fork.test/log")
    files = [tmp_path / name for name in ("before", "after")]
    for number, directory in enumerate(files):
        write_log(directory, signer, [bytes([number]) * 49, *(bytes(49) for _ in range(9))])
    state, key = str(tmp_path / "seen"), signer.verifier.text()
    watch = ("audit", "monitor", "--state", state, "--log-key", key, "--once", "--directory")
    assert "0 → 10 events" in await dmp(platform, *watch, str(files[0]))
    assert "ALARM: " in await dmp(platform, *watch, str(files[1]), code=3)


def write_log(directory: Path, signer: Signer, entries: list[bytes]) -> None:
    """A small log, published as files."""
    leaves = [independent_verifier.sha(b"\0" + entry) for entry in entries]
    text = Checkpoint(signer.name, len(entries), independent_verifier.mth(leaves)).text()
    for path, content in (
        ("checkpoint", (text + "\n" + signer.sign(text).line()).encode()),
        (f"tile/0/000.p/{len(entries)}", b"".join(leaves)),
        (f"tile/entries/000.p/{len(entries)}", encode_bundle(entries)),
    ):
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)


async def copy_pages(platform: Platform, directory: Path) -> None:
    """Everything that is published of the log, as files: a mirror."""
    checkpoint = (await platform.page("0/checkpoint")).content
    size = parse(checkpoint)[0].size
    pages = {"checkpoint": checkpoint}
    for level in range(levels_of(size)):
        for tile in tiles_of(size, level):
            pages[tile_path(tile)] = (await platform.page(f"0/{tile_path(tile)}")).content
    for bundle in bundles_of(size):
        pages[bundle_path(bundle)] = (await platform.page(f"0/{bundle_path(bundle)}")).content
    for path, content in pages.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)


async def test_keys_receipts_and_a_witness_are_made_and_checked_by_commands_alone(
    platform: Platform, tmp_path: Path
) -> None:
    log_file, witness_file = tmp_path / "log.skey", tmp_path / "witness.skey"
    log_key = (await dmp(platform, "audit", "new-key", "cli.test/log", str(log_file))).strip()
    witness_key = (await dmp(platform, "audit", "new-key", "--witness", "cli.test/w", str(witness_file))).strip()
    assert "exists already" in await dmp(platform, "audit", "new-key", "cli.test/log", str(log_file), code=1)
    (tmp_path / "logs.txt").write_text(f"log {log_key}\nquorum none\n")
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "LISTEN": address,
        "KEY_FILE": witness_file,
        "LOGS_FILE": tmp_path / "logs.txt",
        "STORE": tmp_path / "w",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ops.cli",
        "witness",
        env={**os.environ, **{f"DMP_WITNESS_{name}": str(value) for name, value in settings.items()}},
    )
    try:
        event_id, salt = uuid.uuid4().bytes, bytes(32)
        made = event(event_id=event_id)
        clear = made.SerializeToString()
        entry = leaf(event_id, ClearPart(salt, clear))
        signer = Signer.parse(log_file.read_text().strip())
        text = Checkpoint(signer.name, 1, independent_verifier.sha(b"\0" + entry)).text()
        note = (text + "\n" + signer.sign(text).line()).encode()
        async with httpx.AsyncClient(base_url=f"http://{address}") as http:
            cosignature = await cosigned(http, b"old 0\n\n" + note)
        receipt = tmp_path / "receipt.tlog-proof"
        receipt.write_bytes(Proof(0, (), note + cosignature, event_id + salt + clear).encode())
        (tmp_path / "policy.txt").write_text(f"log {log_key}\nwitness w {witness_key}\nquorum w\n")
        said = await dmp(platform, "audit", "verify-receipt", str(receipt), "--policy", str(tmp_path / "policy.txt"))
        assert "In the log cli.test/log, entry 0 of 1" in said
        assert "document.read" in said
        assert "seen by the witness w on 20" in said
        receipt.write_bytes(receipt.read_bytes().replace(b"cli.test/log\n1\n", b"cli.test/log\n2\n"))
        await dmp(platform, "audit", "verify-receipt", str(receipt), "--log-key", log_key, code=1)
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), LIMIT) == 0, "it stops when it is told to"


async def cosigned(http: httpx.AsyncClient, body: bytes) -> bytes:
    """The witness's cosignature, once it listens."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            response = await http.post("/add-checkpoint", content=body)
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "it listens"
            await asyncio.sleep(0.1)
            continue
        assert response.status_code == 200, response.text
        return response.content


async def test_without_its_witness_the_log_goes_on_and_says_so(platform: Platform) -> None:
    await platform.stack._supervisor.stop("witness")
    await platform.append(5)
    size = max(platform.sent.values()) + 1
    await platform.covered(size)
    response = await platform.page("0/checkpoint")
    assert "witness.dmp.local" not in response.text
    spec = LocalWitness.prepare(platform.stack.state, platform.policy.witnesses["local"].url.removeprefix("http://"))
    await platform.stack._supervisor.start(spec.spec(platform.stack.state.root.parent, _at_once))
    deadline = time.monotonic() + LIMIT
    while "witness.dmp.local" not in (await platform.page("0/checkpoint")).text:
        assert time.monotonic() < deadline, "it is cosigned once the witness is back"
        await asyncio.sleep(0.2)


async def _at_once() -> None:
    return None


async def _load(platform: Platform, rounds: int) -> None:
    for _ in range(rounds):
        await platform.append(3)
