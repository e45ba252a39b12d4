"""Where contents lie and what operators do with them: verify, sweep, keys, the end. (What object stores
must stand, and those that fail or lie: `test_document_objects`.)"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import zstandard

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2 as pb
from services.document.__main__ import DocumentService
from services.document.objects import ObjectStore
from services.document.scanning import ClamdScanner
from services.document.store.rows import DocumentKey
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.keyring import Keyring, wrapped_generation
from tests.document_world import World
from tests.documents import call, cda, new_oid, plain_metadata, submission
from tests.refusals import refused


async def run(world: World, service: DocumentService, method: str, request: Any) -> list[Any]:
    """Every slice of an operator's work."""
    answers = []
    while True:
        answer = await getattr(service.servicer, method)(request, call(method, 0))
        answers.append(answer)
        if not answer.next_page_token:
            return answers
        request.page_token = answer.next_page_token


async def faults_of(world: World, service: DocumentService) -> list[int]:
    """What verify finds in the world's dossier."""
    parent = submission(world.dossier).parent
    request = pb.VerifyContentsRequest(parent=parent)
    return [fault.kind for answer in await run(world, service, "VerifyContents", request) for fault in answer.faults]


async def submitted(
    world: World, service: DocumentService, content: bytes, metadata: pb.Document | None = None
) -> pb.Document:
    request = submission(world.dossier, (metadata or pb.Document(), content))
    answer = await service.servicer.SubmitDocuments(request, call("SubmitDocuments", world.dossier))
    return answer.documents[0]


async def content_of(service: DocumentService, name: str, *, zstd: bool = False) -> bytes:
    request = pb.ReadDocumentRequest(name=name, accept_zstd=zstd)
    made = call("ReadDocument", int(name[9:28]))
    return b"".join([part.chunk async for part in service.servicer.ReadDocument(request, made)])


@pytest.fixture
def directory(tmp_path: Path) -> ObjectStore:
    return ObjectStore(f"file://{tmp_path}/objects")


# --- stored once, wherever -------------------------------------------------------------------------------------------


async def test_the_same_bytes_are_stored_once_in_a_dossier_and_apart_in_two(world: World) -> None:
    content = b"%PDF-1.7 the same"
    for _ in range(3):
        await world.submit((plain_metadata(new_oid()), content), (plain_metadata(new_oid()), content))
    rows = await world.rows()
    assert (rows["document"], rows["content"]) == (6, 1)
    other = (await world.submit((plain_metadata(new_oid()), content), dossier=world.dossier ^ 1)).documents[0]
    assert await world.content(other.name) == content
    shared = await world.pool.fetchval("SELECT count(DISTINCT content_id) FROM content WHERE stored_size < 100")
    assert shared >= 2


@pytest.mark.parametrize("where", ["database", "object store"])
async def test_what_is_sent_again_mends_what_was_damaged(world: World, directory: ObjectStore, where: str) -> None:
    """Its bytes are in hand: nobody is told that they are kept while the copy that is kept cannot be read."""
    service = world.service_of(objects=directory, write_objects=where == "object store", grace=timedelta(0))
    one = await submitted(world, service, content := b"%PDF-1.7 the same", plain_metadata(new_oid()))
    if where == "database":
        await world.pool.execute(f"{_FLIPS['content.sealed']} WHERE health_id = $1", world.dossier)
    else:
        [key] = await directory.of_dossier(world.dossier)
        await directory.delete(key)
    with refused(reasons.ERROR_REASON_CONTENT_CORRUPTED):
        await content_of(service, one.name)
    two = await submitted(world, service, content, plain_metadata(new_oid()))
    assert await content_of(service, one.name) == await content_of(service, two.name) == content
    assert await faults_of(world, service) == []
    assert (await world.rows())["content"] == 1


class Meanwhile(ObjectStore):
    """A store of which each write lets something happen before its answer comes."""

    happens: Callable[[], Awaitable[object]]

    async def put(self, content: DocumentKey, sealed: bytes) -> str:
        key = await super().put(content, sealed)
        await self.happens()
        return key


async def test_a_copy_that_mends_stays_while_the_damaged_one_is_moved(world: World, tmp_path: Path) -> None:
    store = Meanwhile(f"file://{tmp_path}/objects")
    service = world.service_of(objects=store, write_objects=False)
    one = await submitted(world, service, content := b"%PDF-1.7 the same", plain_metadata(new_oid()))
    await world.pool.execute(f"{_FLIPS['content.sealed']} WHERE health_id = $1", world.dossier)
    store.happens = lambda: submitted(world, service, content, plain_metadata(new_oid()))
    request = pb.MoveContentsRequest(to_object_store=True, request_id="request-move")
    await run(world, service, "MoveContents", request)
    assert await store.of_dossier(world.dossier) == []
    assert await content_of(service, one.name) == content
    assert await faults_of(world, service) == []


async def test_who_accepts_zstd_gets_the_frame_as_it_is_stored(world: World) -> None:
    content = cda(new_oid())
    document = await submitted(world, world.service, content)
    frame = await content_of(world.service, document.name, zstd=True)
    assert len(frame) < len(content)
    assert zstandard.ZstdDecompressor().decompress(frame) == content


async def test_contents_of_an_object_store_come_back_and_are_verified(world: World, directory: ObjectStore) -> None:
    service = world.service_of(objects=directory)
    content = cda(new_oid())
    document = await submitted(world, service, content)
    assert await world.pool.fetchval("SELECT sealed FROM content WHERE health_id = $1", world.dossier) is None
    assert await content_of(service, document.name) == content
    assert await faults_of(world, service) == []


async def test_a_replica_that_has_not_been_told_of_the_store_says_not_now(world: World, directory: ObjectStore) -> None:
    """While replicas are given the store one after another, no content of the others is called corrupted or missing."""
    document = await submitted(world, world.service_of(objects=directory), cda(new_oid()))
    with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
        await content_of(world.service, document.name)
    with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
        await faults_of(world, world.service)


async def test_an_object_that_no_commit_followed_is_swept_and_no_other(world: World, directory: ObjectStore) -> None:
    service = world.service_of(objects=directory, grace=timedelta(0))
    kept = await submitted(world, service, cda(new_oid()))
    twice = cda(new_oid())
    await submitted(world, service, twice)
    with refused(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID):
        await submitted(world, service, twice)
    before = len(await directory.of_dossier(world.dossier))
    world.later(timedelta(days=400))
    request = pb.SweepContentsRequest(limit=2, request_id="request-sweep")
    answers = await run(world, service, "SweepContents", request)
    assert sum(answer.objects for answer in answers) >= before - 2 > 0
    assert len(await directory.of_dossier(world.dossier)) == 2
    assert await content_of(service, kept.name)
    assert await faults_of(world, service) == []


async def test_a_deleted_documents_content_is_swept_unless_another_has_it(world: World) -> None:
    service = world.service_of(grace=timedelta(0))
    one, two = [(await world.submit((plain_metadata(new_oid()), b"%PDF-1.7 shared"))).documents[0] for _ in range(2)]
    for document, left in ((one, 1), (two, 0)):
        await world.change(document.name, pb.DOCUMENT_CHANGE_DELETE)
        world.later(timedelta(days=400))
        await run(world, service, "SweepContents", pb.SweepContentsRequest(request_id="request-sweep"))
        assert (await world.rows())["content"] == left


# --- one flipped bit -------------------------------------------------------------------------------------------------

_FLIPS = {
    "document.sealed": "UPDATE document SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1)",
    "content.sealed": "UPDATE content SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1)",
    "dossier_key.wrapped": "UPDATE dossier_key SET wrapped = set_byte(wrapped, 30, get_byte(wrapped, 30) # 1)",
    "document.masked": "UPDATE document SET masked = NOT masked",
    "document.invisible": "UPDATE document SET invisible_representatives = NOT invisible_representatives",
    "document.status": "UPDATE document SET status = 2",
    "document.type_code": "UPDATE document SET type_code = '11502-2'",
    "document.submitted_at": "UPDATE document SET submitted_at = submitted_at - interval '1 microsecond'",
    "document.author_digests": "UPDATE document SET author_digests = '{}'",
    "document.version": "UPDATE document SET version = version + 1",
}
_SEARCHED = {
    "document.class_code": "UPDATE document SET class_code = '11'",
    "document.created_at": "UPDATE document SET created_at = created_at + interval '1 microsecond'",
    "document.title_digests": "UPDATE document SET title_digests = '{}'",
    "document.author_name_digests": "UPDATE document SET author_name_digests = '{}'",
    "document.event_codes": "UPDATE document SET event_codes = '{x}'",
    "document.confidentiality": "UPDATE document SET confidentiality = '{V}'",
    "document.unique_id_digest": "UPDATE document SET unique_id_digest = '\\x00'",
    "content.gone": "DELETE FROM content",
}


@pytest.mark.parametrize("flip", _FLIPS)
async def test_a_flipped_bit_is_detected_at_read_and_by_verify(world: World, flip: str) -> None:
    document = await world.add()
    assert await faults_of(world, world.service) == []
    await world.pool.execute(f"{_FLIPS[flip]} WHERE health_id = $1", world.dossier)
    with refused(reasons.ERROR_REASON_CONTENT_CORRUPTED):
        await world.content(document.name)
    assert len(await faults_of(world, world.service)) == 1


@pytest.mark.parametrize("flip", _SEARCHED)
async def test_what_is_only_searched_by_is_checked_by_verify(world: World, flip: str) -> None:
    await world.add()
    await world.pool.execute(f"{_SEARCHED[flip]} WHERE health_id = $1", world.dossier)
    assert len(await faults_of(world, world.service)) == 1


_BELONGINGS = {
    "submission_set.sealed": (pb.CONTENT_FAULT_KIND_SUBMISSION_SET, "UPDATE submission_set SET sealed = {flipped}"),
    "submission_set.source_id": (pb.CONTENT_FAULT_KIND_SUBMISSION_SET, "UPDATE submission_set SET source_id = '1.2'"),
    "submission_set.gone": (pb.CONTENT_FAULT_KIND_SUBMISSION_SET, "DELETE FROM submission_set"),
    "folder.sealed": (pb.CONTENT_FAULT_KIND_FOLDER, "UPDATE folder SET sealed = {flipped}"),
    "folder.codes": (pb.CONTENT_FAULT_KIND_FOLDER, "UPDATE folder SET codes = '{{x}}'"),
    "folder.gone": (pb.CONTENT_FAULT_KIND_FOLDER, "DELETE FROM folder"),
    "document_version.sealed": (pb.CONTENT_FAULT_KIND_VERSION, "UPDATE document_version SET sealed = {flipped}"),
    "document_version.gone": (pb.CONTENT_FAULT_KIND_VERSION, "DELETE FROM document_version"),
    "projection.sealed": (
        pb.CONTENT_FAULT_KIND_PROJECTION,
        """UPDATE projection SET sealed = {flipped} WHERE sealed <> ''
        AND place = (SELECT max(place) FROM projection WHERE sealed <> '' AND health_id = $1) AND""",
    ),
}


async def test_what_belongs_to_documents_is_checked_by_verify(world: World) -> None:
    """Each fault is put in and taken back, in one dossier that has some of everything."""
    content = cda(new_oid())
    request = submission(world.dossier, (pb.Document(mime_type="text/xml"), content))
    folder = request.folders.add(unique_id=new_oid())
    folder.codes.add(system="1.2.3", code="folder-code")
    request.documents[0].folders.append(folder.unique_id)
    document = (await world.send(request)).documents[0]
    await world.change(document.name, pb.DOCUMENT_CHANGE_MASK)
    world.service.ahead.told([world.dossier])
    ahead = asyncio.ensure_future(world.service.ahead.run())
    async with asyncio.timeout(60):
        while not await world.pool.fetchval("SELECT count(*) FROM reading WHERE health_id = $1", world.dossier):
            await asyncio.sleep(0.02)
    ahead.cancel()
    assert await faults_of(world, world.service) == []
    flipped = "set_byte(sealed, 20, get_byte(sealed, 20) # 1)"
    for name, (kind, statement) in _BELONGINGS.items():
        table = name.partition(".")[0]
        kept = f"kept_{table}"
        async with world.pool.acquire() as conn:
            await conn.execute(f"CREATE TEMP TABLE {kept} AS SELECT * FROM {table} WHERE health_id = {world.dossier}")  # noqa: S608
            where = "health_id = $1" if statement.endswith("AND") else "WHERE health_id = $1"
            done = await conn.execute(f"{statement.format(flipped=flipped)} {where}", world.dossier)
            assert done.split()[-1] == "1", (name, done)
            assert await faults_of(world, world.service) == [kind], name
            await conn.execute(f"DELETE FROM {table} WHERE health_id = $1", world.dossier)  # noqa: S608
            await conn.execute(f"INSERT INTO {table} SELECT * FROM {kept}")  # noqa: S608
            await conn.execute(f"DROP TABLE {kept}")
    assert await faults_of(world, world.service) == []


async def test_verify_takes_a_sample_and_goes_on_from_its_token(world: World) -> None:
    for _ in range(7):
        await world.add()
    parent = submission(world.dossier).parent
    answers = await run(world, world.service, "VerifyContents", pb.VerifyContentsRequest(parent=parent, limit=3))
    assert [answer.checked for answer in answers] == [3, 3, 1]
    assert sum(answer.bytes for answer in answers) > 7 * 1000
    sampled = await run(
        world, world.service, "VerifyContents", pb.VerifyContentsRequest(parent=parent, sample_per_mille=1)
    )
    assert sum(answer.checked for answer in sampled) < 7


# --- keys, destruction -----------------------------------------------------------------------------------------------


async def test_keys_are_wrapped_anew_and_the_old_generation_is_needed_no_more(world: World) -> None:
    document = await world.add()
    secrets = {1: b"k" * 32, 2: b"n" * 32}
    service = world.service_of(keyring=Keyring(secrets, current=2, digests=[1]))
    await run(world, service, "RewrapKeys", pb.RewrapKeysRequest(limit=500, request_id="request-rewrap"))
    wrapped = await world.pool.fetchval("SELECT wrapped FROM dossier_key WHERE health_id = $1", world.dossier)
    assert wrapped_generation(wrapped) == 2
    assert await content_of(service, document.name)
    again = await run(world, service, "RewrapKeys", pb.RewrapKeysRequest(limit=500, request_id="request-rewrap"))
    assert sum(answer.rewrapped for answer in again) == 0
    back = world.service_of(keyring=Keyring(secrets, current=1, digests=[1]))
    await run(world, back, "RewrapKeys", pb.RewrapKeysRequest(limit=500, request_id="request-rewrap"))


async def test_a_destroyed_dossier_leaves_nothing_that_can_be_opened(world: World, directory: ObjectStore) -> None:
    service = world.service_of(objects=directory)
    document = await submitted(world, service, cda(new_oid()))
    await world.change(document.name, pb.DOCUMENT_CHANGE_MASK)
    [key] = await directory.of_dossier(world.dossier)
    copy, row = (
        await directory.get(key),
        await world.pool.fetchrow("SELECT * FROM document WHERE health_id = $1", world.dossier),
    )
    assert copy is not None
    assert row is not None
    request = pb.DestroyDossierRequest(health_id=world.dossier, request_id="request-destroy")
    first = await service.servicer.DestroyDossier(request, call("DestroyDossier", 0))
    assert await service.servicer.DestroyDossier(request, call("DestroyDossier", 0)) == first
    tables = await world.pool.fetch(
        "SELECT table_name FROM information_schema.columns WHERE column_name = 'health_id' AND table_schema = 'public'"
    )
    holding = {
        name
        for (name,) in tables
        if await world.pool.fetchval(f"SELECT count(*) FROM {name} WHERE health_id = $1", world.dossier)  # noqa: S608
    }
    assert holding <= {"dossier_key", "outbox"}
    assert await directory.of_dossier(world.dossier) == []
    key_row = await world.pool.fetchrow("SELECT * FROM dossier_key WHERE health_id = $1", world.dossier)
    assert key_row is not None
    assert key_row["wrapped"] is None
    # Copies that a backup kept: the row says which key opened them, and that key is nowhere any more.
    assert row["sealed"]
    async with world.pool.acquire() as conn:
        keys = await DossierKeys(Keyring({1: b"k" * 32}, current=1, digests=[1]), "document").for_read(
            conn, [world.dossier]
        )
    with pytest.raises(DmpError) as destroyed:
        keys[world.dossier]
    assert destroyed.value.reason == reasons.ERROR_REASON_CONTENT_DESTROYED
    with refused(reasons.ERROR_REASON_CONTENT_DESTROYED):
        await submitted(world, service, cda(new_oid()))
    assert len(await world.events("document.destroy")) == 1


async def test_nothing_commits_to_a_dossier_while_it_is_destroyed(world: World) -> None:
    await world.add()
    request = pb.DestroyDossierRequest(health_id=world.dossier, request_id="request-destroy")
    outcomes = await asyncio.gather(
        *(world.add() for _ in range(10)),
        world.service.servicer.DestroyDossier(request, call("DestroyDossier", 0)),
        *(world.add() for _ in range(10)),
        return_exceptions=True,
    )
    told = {outcome.reason for outcome in outcomes if isinstance(outcome, DmpError)}
    assert told <= {reasons.ERROR_REASON_CONTENT_DESTROYED}
    rows = await world.rows()
    assert (rows["document"], rows["content"]) == (0, 0)


# --- the scanner -----------------------------------------------------------------------------------------------------


class FakeClamd:
    """Speaks clamd's INSTREAM; finds something in what holds EICAR."""

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readuntil(b"\0") == b"zINSTREAM\0"
        content = b""
        while length := int.from_bytes(await reader.readexactly(4), "big"):
            content += await reader.readexactly(length)
        writer.write(b"stream: Eicar-Test-Signature FOUND\0" if b"EICAR" in content else b"stream: OK\0")
        await writer.drain()
        writer.close()


async def test_what_the_scanner_finds_is_refused_and_without_it_nothing_is_accepted(world: World) -> None:
    async with FakeClamd() as address:
        service = world.service_of(scanner=ClamdScanner(address))
        await submitted(world, service, cda(new_oid()))
        before = await world.rows()
        with refused(reasons.ERROR_REASON_CONTENT_INFECTED, "documents[0].content"):
            await submitted(world, service, cda(new_oid(), body="<!-- EICAR -->"))
    with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
        await submitted(world, service, cda(new_oid()))
    assert await world.rows() == before
