"""The log as processes: two replicas, a gateway that publishes, a witness; one of them killed at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

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
from services.runtime.channels import Peer
from services.runtime.errors import DmpError
from services.runtime.server import APPEND
from services.runtime.settings import ServiceSettings
from services.runtime.tlog.checkpoint import Checkpoint, parse
from services.runtime.tlog.policy import Policy, parse_policy
from services.runtime.trail import receipts
from tests import independent_verifier
from tests.audit_log import DOSSIER, event, places
from tests.local_stack import opened

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
        assert time.monotonic() - started < LIMIT
        await asyncio.gather(*loads)
        await platform.covered(max(platform.sent.values()) + 1)
        await platform.stack.restart("audit", victim)
    assert sorted(platform.sent.values()) == sorted(set(platform.sent.values()))
    await platform.covered(max(platform.sent.values()) + 1)
    entries = await platform.whole()
    assert all(entries[place][1:17] == event_id for event_id, place in platform.sent.items())
    assert len({entry[1:17] for entry in entries}) == len(entries), "nothing twice"
    assert (await Verification(RpcSource(platform.session, 0), platform.policy).run()).sound


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
