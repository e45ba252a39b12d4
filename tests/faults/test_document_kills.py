"""`kill -9` of the document service at every named instant of a submission, a change, a reading and a move: all or
nothing, no content without metadata, no event missing or doubled, no object that nothing names but such as the sweep
finds, nothing of what a document says lost or told twice.

One process between neighbours of our own; the platform as a whole under load is `test_kills`.
"""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from dmp.document.v1 import clinical_pb2
from dmp.document.v1 import document_pb2 as pb
from ops.local.pki import CertificateAuthority
from ops.local.state import State
from services.document.__main__ import MIGRATIONS
from services.runtime.identifiers import dossier_name
from services.runtime.postgres import migrate
from tests import clinical_documents as bodies
from tests.document_process import Neighbours, Platform
from tests.documents import cda, new_oid, submission
from tests.faults.chaos import DOCUMENT_POINTS
from tests.faults.fleet import Zygote
from tests.faults.forked import Process, forking

pytestmark = pytest.mark.asyncio(loop_scope="session")

_SUBMIT = [
    *(point for point in DOCUMENT_POINTS if point.startswith("submit.")),
    "submit.before_commit",
    "submit.after_commit",
]
_CHANGE = [point for point in DOCUMENT_POINTS if point.startswith("change.")]
_READING = [point for point in DOCUMENT_POINTS if point.startswith("reading.")]
_MOVE = [point for point in DOCUMENT_POINTS if point.startswith("move.")]


@pytest.fixture(scope="module")
def database(postgres_url: Callable[[], str]) -> str:
    dsn = postgres_url()
    asyncio.run(migrate(dsn, MIGRATIONS, service="document"))
    return dsn


@pytest_asyncio.fixture(loop_scope="session")
async def platform(database: str, tmp_path: Path, zygote: Zygote) -> AsyncIterator[Platform]:
    state = State.open(tmp_path / "state")
    authority = CertificateAuthority(state)
    neighbours = Neighbours()
    server, address = await neighbours.start(authority)
    made = Platform(tmp_path, database, address, authority, state, neighbours)
    made.fork = forking(zygote)
    yield made
    await made.close()
    await server.stop(None)


@asynccontextmanager
async def running(platform: Platform, **settings: str) -> AsyncIterator[Process]:
    """The service with these settings, until the block ends."""
    process = await platform.spawn(settings)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def dies(process: Process, attempt: Coroutine[Any, Any, object]) -> None:
    """Attempt something, again and again, until the process is dead."""
    task = asyncio.ensure_future(attempt)
    async with asyncio.timeout(30):
        assert await process.wait() == -signal.SIGKILL
    task.cancel()
    await asyncio.wait({task})


def objects(platform: Platform) -> dict[str, str]:
    return {"DMP_OBJECT_STORE_URL": f"file://{platform.dsn_file.parent}/objects"}


async def holding(platform: Platform) -> dict[str, int]:
    """Rows of the dossier, and objects that no row names."""
    conn = await asyncpg.connect(platform.dsn_file.read_text())
    try:
        counts = {
            table: await conn.fetchval(f"SELECT count(*) FROM {table} WHERE health_id = $1", platform.dossier)  # noqa: S608
            for table in ("document", "content", "submission_set", "change", "document_version")
        }
        named = {
            row[0]
            for row in await conn.fetch(
                "SELECT object_key FROM content WHERE health_id = $1 AND object_key IS NOT NULL", platform.dossier
            )
        }
        bare = await conn.fetchval(
            "SELECT count(*) FROM document d WHERE health_id = $1 AND NOT EXISTS "
            "(SELECT FROM content c WHERE c.health_id = $1 AND c.content_id = d.content_id)",
            platform.dossier,
        )
    finally:
        await conn.close()
    root = platform.dsn_file.parent / "objects"
    there = (
        {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()} if root.exists() else set()
    )
    return {**counts, "without content": bare, "orphans": len(there - named), "missing objects": len(named - there)}


@pytest.mark.parametrize("point", _SUBMIT)
async def test_a_submission_killed_anywhere_is_whole_or_nothing_and_is_made_once(
    platform: Platform, point: str
) -> None:
    content = cda(new_oid())
    request = submission(platform.dossier, (pb.Document(), content))
    async with running(platform, DMP_FAULT_POINTS=f"{point}=kill", **objects(platform)) as process:
        await dies(process, platform.patiently("SubmitDocuments", request))
    held = await holding(platform)
    assert held["document"] in (0, 1)
    assert held["content"] == held["submission_set"] == held["change"] == held["document"]
    assert held["without content"] == held["missing objects"] == 0
    async with running(platform, **objects(platform)):
        answer = await platform.patiently("SubmitDocuments", request)
        assert await platform.patiently("SubmitDocuments", request) == answer
        await platform.told(1, answer.documents[0].name, "document.submit")
        assert (await platform.read(answer.documents[0].name))[1] == content
    held = await holding(platform)
    assert (held["document"], held["content"], held["change"]) == (1, 1, 1)


@pytest.mark.parametrize("point", _CHANGE)
async def test_a_change_killed_anywhere_is_made_once(platform: Platform, point: str) -> None:
    async with running(platform):
        document = (await platform.submit(cda(new_oid()))).documents[0]
    request = pb.ChangeDocumentRequest(
        name=document.name, change=pb.DOCUMENT_CHANGE_ARCHIVE, request_id=f"request-{uuid.uuid4()}"
    )
    async with running(platform, DMP_FAULT_POINTS=f"{point}=kill") as process:
        await dies(process, platform.patiently("ChangeDocument", request))
    async with running(platform):
        await platform.patiently("ChangeDocument", request)
        await platform.told(1, document.name, "document.archive")
    held = await holding(platform)
    assert (held["document_version"], held["change"]) == (1, 2)


@pytest_asyncio.fixture(loop_scope="session")
async def nothing_stored(platform: Platform) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to the database, in which nothing is left to be read: whatever is read is of the test itself."""
    conn = await asyncpg.connect(platform.dsn_file.read_text())
    await conn.execute("TRUNCATE document, content, reading, projection, reading_sweep, job")
    yield conn
    await conn.close()


async def said(platform: Platform) -> clinical_pb2.ListMedicationsResponse:
    request = clinical_pb2.ListMedicationsRequest(parent=dossier_name(platform.dossier))
    listed: clinical_pb2.ListMedicationsResponse = await platform.patiently("ListMedications", request)
    return listed


async def kept(conn: asyncpg.Connection[asyncpg.Record], platform: Platform) -> tuple[int, int]:
    """Rows that say that a document of the dossier was read, and rows of what it says."""
    counts = [
        await conn.fetchval(f"SELECT count(*) FROM {table} WHERE health_id = $1", platform.dossier)  # noqa: S608
        for table in ("reading", "projection")
    ]
    return counts[0], counts[1]


def prescription(medicines: int) -> bytes:
    acts = [bodies.prescribed(named=bodies.product(f"MEDICINE {number}")) for number in range(medicines)]
    return cda(new_oid(), type_code="57833-6", body=bodies.prescription(*acts))


@pytest.mark.parametrize("point", [point for point in _READING if point != "reading.before_advance"])
async def test_a_reading_ahead_killed_anywhere_is_whole_or_nothing_and_is_made_once(
    platform: Platform, nothing_stored: asyncpg.Connection[asyncpg.Record], point: str
) -> None:
    request = submission(platform.dossier, (pb.Document(), prescription(3)))
    async with running(platform, DMP_FAULT_POINTS=f"{point}=kill") as process:
        await dies(process, platform.patiently("SubmitDocuments", request))
    read, rows = await kept(nothing_stored, platform)
    assert (read, rows) == ((1, rows) if point == "reading.after_commit" else (0, 0))
    async with running(platform):
        listed = await said(platform)
        assert sorted(entry.medication.product.name for entry in listed.entries) == [
            "MEDICINE 0",
            "MEDICINE 1",
            "MEDICINE 2",
        ]
        assert (listed.total_size, listed.pending) == (3, 0)
        once = await kept(nothing_stored, platform)
        assert await said(platform) == listed
        assert await kept(nothing_stored, platform) == once
        assert once[0] == 1
        assert rows in (0, once[1])


@pytest.mark.parametrize("point", ["reading.cleared", "reading.before_advance"])
async def test_a_reading_of_all_killed_anywhere_takes_nothing_away_and_goes_on(
    platform: Platform, nothing_stored: asyncpg.Connection[asyncpg.Record], point: str
) -> None:
    async with running(platform):
        await platform.submit(prescription(3))
        listed = await said(platform)
        before = await kept(nothing_stored, platform)
        request_id = f"request-{uuid.uuid4()}"
        await platform.operate(
            "RereadDocuments", clinical_pb2.RereadDocumentsRequest(restart=True, request_id=request_id)
        )
    await nothing_stored.execute("TRUNCATE job")  # as if the minute between two looks had passed
    async with running(platform, DMP_FAULT_POINTS=f"{point}=kill") as process:
        await dies(process, asyncio.sleep(60))
    assert await kept(nothing_stored, platform) == before
    async with running(platform):
        assert await said(platform) == listed
        state = clinical_pb2.RereadDocumentsRequest(request_id=f"request-{uuid.uuid4()}")
        async with asyncio.timeout(30):
            while not (await platform.operate("RereadDocuments", state)).done:
                await asyncio.sleep(0.1)
        assert await said(platform) == listed
    assert await kept(nothing_stored, platform) == before


@pytest.mark.parametrize("point", _MOVE)
async def test_a_move_killed_anywhere_loses_no_content_and_goes_on(platform: Platform, point: str) -> None:
    content = cda(new_oid())
    async with running(platform, DMP_OBJECT_STORE_WRITES="false", **objects(platform)):
        document = (await platform.submit(content)).documents[0]
    there = pb.MoveContentsRequest(to_object_store=True, limit=1000, request_id="request-move")
    back = pb.MoveContentsRequest(limit=1000, request_id="request-back")
    async with running(platform, DMP_FAULT_POINTS=f"{point}=kill", **objects(platform)) as process:
        if point == "move.committed":
            await platform.operate("MoveContents", there)
        await dies(process, platform.operate("MoveContents", there if point == "move.stored" else back))
    async with running(platform, **objects(platform)):
        await platform.patiently("GetDocument", pb.GetDocumentRequest(name=document.name))
        assert (await platform.read(document.name))[1] == content
        for request in (there, back):
            await platform.operate("MoveContents", request)
            assert (await platform.read(document.name))[1] == content
    held = await holding(platform)
    assert held["without content"] == held["missing objects"] == 0
