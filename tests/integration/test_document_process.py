"""The document service as a process of its own: mutual TLS, tokens, its neighbours over gRPC, kill -9."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from ops.local.pki import CertificateAuthority
from ops.local.state import State
from services.document.__main__ import MIGRATIONS
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name
from services.runtime.limits import BATCH, NAMES, TRAFFIC_HEADER
from services.runtime.postgres import migrate
from tests.document_process import Neighbours, Platform
from tests.documents import cda, new_oid
from tests.faults.forked import Process


@pytest.fixture(scope="module")
def database(postgres_url: Callable[[], str]) -> str:
    dsn = postgres_url()
    asyncio.run(migrate(dsn, MIGRATIONS, service="document"))
    return dsn


@pytest.fixture
async def neighbours() -> Neighbours:
    return Neighbours()


@pytest.fixture
async def platform(database: str, neighbours: Neighbours, tmp_path: Path) -> AsyncIterator[Platform]:
    state = State.open(tmp_path / "state")
    authority = CertificateAuthority(state)
    server, address = await neighbours.start(authority)
    made = Platform(tmp_path, database, address, authority, state, neighbours)
    yield made
    await made.close()
    await server.stop(None)


@asynccontextmanager
async def running(platform: Platform, more: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    """The service, until the block ends."""
    process = await platform.spawn(more)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def within(seconds: float, condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; fail when it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def refusal(attempt: Awaitable[object]) -> int:
    """The reason for which an attempt is refused."""
    with pytest.raises(DmpError) as caught:
        await attempt
    return caught.value.reason


async def test_a_document_goes_in_and_comes_out_traced(platform: Platform, neighbours: Neighbours) -> None:
    async with running(platform) as process:
        content = cda(new_oid(), body="<!-- " + "x" * 300_000 + " -->")
        [document] = (await platform.submit(content)).documents
        await within(5, lambda: bool(neighbours.audit.events))
        assert [event.action for event in neighbours.audit.events] == ["document.submit"]
        assert await platform.get(document.name) == document
        head, received = await platform.read(document.name)
        assert (head, received) == (document, content)
        parent = dossier_name(platform.dossier)
        found = await platform.ask("SearchDocuments", document_pb2.SearchDocumentsRequest(parent=parent))
        assert (list(found.documents), found.total_size) == ([document], 1)
        actions = [event.action for event in neighbours.audit.events]
        assert actions == ["document.submit", "document.get", "document.read", "document.search"]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0


async def test_refusals_cross_the_wire_with_their_reason(platform: Platform, neighbours: Neighbours) -> None:
    async with running(platform):
        [document] = (await platform.submit(cda(new_oid()))).documents
        request = document_pb2.GetDocumentRequest(name=document.name)
        assert await refusal(platform.ask("GetDocument", request, ())) == reasons.ERROR_REASON_TOKEN_MISSING
        malformed = document_pb2.GetDocumentRequest(name=dossier_name(platform.dossier) + "/documents/nothing")
        assert await refusal(platform.ask("GetDocument", malformed)) == reasons.ERROR_REASON_INVALID_FIELD
        neighbours.identity.answer = DmpError(reasons.ERROR_REASON_PATIENT_MISMATCH)
        assert await refusal(platform.submit(cda(new_oid()))) == reasons.ERROR_REASON_PATIENT_MISMATCH
        assert neighbours.audit.events[-1].reason == reasons.ERROR_REASON_PATIENT_MISMATCH
        neighbours.decision = consent_pb2.Decision(permitted=False, reason=reasons.ERROR_REASON_BLOCKED)
        assert await refusal(platform.read(document.name)) == reasons.ERROR_REASON_BLOCKED
        assert neighbours.audit.events[-1].reason == reasons.ERROR_REASON_BLOCKED


async def test_with_audit_down_reads_fail_and_writes_are_traced_later(
    platform: Platform, neighbours: Neighbours
) -> None:
    async with running(platform):
        [first] = (await platform.submit(cda(new_oid()))).documents
        # A process that was killed before may have left events, which come first.
        await within(15, lambda: any(first.name in event.objects for event in neighbours.audit.events))
        told = len(neighbours.audit.events)
        neighbours.audit.down = True
        assert await refusal(platform.get(first.name)) == reasons.ERROR_REASON_AUDIT_UNAVAILABLE
        assert await refusal(platform.read(first.name)) == reasons.ERROR_REASON_AUDIT_UNAVAILABLE
        [second] = (await platform.submit(cda(new_oid()))).documents
        assert len(neighbours.audit.events) == told
        neighbours.audit.down = False
        await within(15, lambda: len(neighbours.audit.events) == told + 1)
        assert second.name in neighbours.audit.events[-1].objects
        assert await platform.get(first.name) == first


async def test_what_was_acknowledged_survives_a_kill_exactly_once(platform: Platform, neighbours: Neighbours) -> None:
    acknowledged: list[document_pb2.Document] = []
    async with running(platform) as process:
        for number in range(5):
            acknowledged += (await platform.submit(cda(new_oid()), f"kill-test-{number}")).documents
        process.kill()
        await process.wait()
    async with running(platform):
        await platform.submit(cda(new_oid()))
        for document in acknowledged:
            assert await platform.get(document.name) == document
        await within(30, lambda: len(_submitted(neighbours)) == 6)


def _submitted(neighbours: Neighbours) -> set[bytes]:
    """The ids of the events of submissions, each once however often it was delivered."""
    return {event.event_id for event in neighbours.audit.events if event.action == "document.submit"}


async def test_work_that_is_stuck_leaves_alone_what_goes_before_it(platform: Platform, neighbours: Neighbours) -> None:
    places = {"DMP_CONCURRENCY_MIN": "4", "DMP_CONCURRENCY_MAX": "4", "DMP_WAITING_SECONDS": "60"}
    async with running(platform, places):
        [document] = (await platform.submit(cda(new_oid()))).documents
        request = document_pb2.GetDocumentRequest(name=document.name)
        batch = (*platform.token, (TRAFFIC_HEADER, NAMES[BATCH]))
        neighbours.batch.clear()
        before = neighbours.asked
        crowd = [asyncio.ensure_future(platform.ask("GetDocument", request, batch)) for _ in range(3)]
        await within(5, lambda: neighbours.asked > before)
        for _ in range(3):
            assert (await platform.ask("GetDocument", request)).document == document
        assert not any(call.done() for call in crowd), "no everyday work waits for them"
        neighbours.batch.set()
        await asyncio.gather(*crowd)
        neighbours.everyday.clear()
        before = neighbours.asked
        crowd = [asyncio.ensure_future(platform.ask("GetDocument", request)) for _ in range(12)]
        await within(5, lambda: neighbours.asked > before)
        crowd += [asyncio.ensure_future(platform.ask("GetDocument", request, batch)) for _ in range(12)]
        urgent = platform.token_in(context_pb2.ACCESS_MODE_REGULATION)
        for _ in range(3):
            assert (await platform.ask("GetDocument", request, urgent)).document == document
        assert not any(call.done() for call in crowd), "they wait, and nobody waits for them"
        neighbours.everyday.set()
        answers = await asyncio.gather(*crowd)
        assert all(answer.document == document for answer in answers), "none is lost when the way is free again"
