"""Documents on a real PostgreSQL: they come back as they came, unchanged, at a constant cost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from services.document.store import reading, recent, searching, uploads, writing
from services.runtime.identifiers import dossier_name
from tests import documents
from tests.document_world import World
from tests.documents import cda, new_oid
from tests.refusals import refused

REAL_FILES = sorted((Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cda").glob("*.xml"))
needs_real = pytest.mark.skipif(
    not REAL_FILES, reason="../shared/data/cda is absent: the real CDA files are not copied"
)


# --- in and out ------------------------------------------------------------------------------------------------------


@needs_real
@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: path.name)
async def test_a_real_document_comes_back_byte_for_byte(world: World, path: Path) -> None:
    content = path.read_bytes()
    response = await world.submit((document_pb2.Document(mime_type="text/xml"), content))
    parts = await world.read(response.documents[0].name)
    assert parts[0].document == response.documents[0]
    assert all(0 < len(part.chunk) <= 64 * 1024 for part in parts[1:])
    assert b"".join(part.chunk for part in parts) == content
    found = await world.search(type_codes=[response.documents[0].type_code.code])
    assert [document.name for document in found.documents] == [response.documents[0].name]
    assert world.identity.claims[0].identifiers[0].value in content.decode()


@needs_real
@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: path.name)
async def test_a_real_document_goes_through_its_whole_life_unharmed(world: World, path: Path) -> None:
    content = path.read_bytes()
    first = (await world.submit((document_pb2.Document(mime_type="text/xml"), content))).documents[0]
    other = world.dossier ^ 1
    again = (await world.submit((document_pb2.Document(mime_type="text/xml"), content), dossier=other)).documents[0]
    for change in (
        document_pb2.DOCUMENT_CHANGE_MASK,
        document_pb2.DOCUMENT_CHANGE_ARCHIVE,
        document_pb2.DOCUMENT_CHANGE_UNARCHIVE,
        document_pb2.DOCUMENT_CHANGE_UNMASK,
        document_pb2.DOCUMENT_CHANGE_DEPRECATE,
    ):
        now = await world.change(first.name, change)
        assert (now.hash, now.title, now.unique_id) == (first.hash, first.title, first.unique_id)
        assert await world.content(first.name) == content
    assert len(await world.versions(first.name)) == 6
    assert (await world.search(statuses=[2], title=first.title, unique_ids=[first.unique_id])).total_size == 1
    with refused(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID):
        await world.submit((document_pb2.Document(mime_type="text/xml"), content))
    await world.change(first.name, document_pb2.DOCUMENT_CHANGE_DELETE)
    with refused(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND):
        await world.get(first.name)
    assert await world.content(again.name) == content, "the same bytes in another dossier are another content"


async def test_a_document_has_the_metadata_of_its_header_and_those_of_the_service(world: World) -> None:
    oid = new_oid()
    response = await world.submit((document_pb2.Document(), cda(oid)))
    document = response.documents[0]
    assert document.unique_id == oid
    assert document.mime_type == "text/xml"
    assert document.version == 1
    assert document.status == document_pb2.DOCUMENT_STATUS_APPROVED
    assert document.class_code.code == "10"
    assert [code.code for code in document.confidentiality] == ["N"]
    assert document.size == len(cda(oid))
    assert document.submission_set == response.submission_set.name
    assert document.name.startswith(dossier_name(world.dossier) + "/documents/")
    assert response.submission_set.author.id.value == documents.AUTHOR
    assert await world.get(document.name) == document


async def test_large_contents_and_plain_formats_come_back_too(world: World) -> None:
    noise = b"%PDF-1.7 " + os.urandom(3 << 20)
    response = await world.submit(
        (documents.plain_metadata(new_oid()), noise), (documents.plain_metadata(new_oid()), b"%PDF-1.7 small")
    )
    large, small = response.documents
    assert large.format_code.code == "urn:ihe:iti:xds-sd:pdf:2008"
    assert await world.content(large.name) == noise
    assert await world.content(small.name) == b"%PDF-1.7 small"


async def test_nothing_personal_is_stored_in_clear(world: World) -> None:
    await world.add()
    for table in ("document", "content", "submission_set", "idempotency", "outbox"):
        for record in await world.pool.fetch(f"SELECT * FROM {table}"):  # noqa: S608
            blobs = b"".join(value for value in record.values() if isinstance(value, bytes))
            line = " ".join(str(value) for value in record.values() if not isinstance(value, bytes))
            for secret in ("PATIENTE", "279035121518989", "1979-03-28", "19790328", "Consultation du"):
                assert secret not in line
                assert secret.encode() not in blobs


# --- what is stored cannot be changed unnoticed ----------------------------------------------------------------------

_FLIP = "UPDATE {table} SET {column} = set_byte({column}, 40, get_byte({column}, 40) # 1) WHERE health_id = $1"


@pytest.mark.parametrize(
    ("table", "column"), [("document", "sealed"), ("content", "sealed"), ("dossier_key", "wrapped")]
)
async def test_a_flipped_bit_is_noticed_and_nothing_is_served(world: World, table: str, column: str) -> None:
    document = await world.add()
    await world.pool.execute(_FLIP.format(table=table, column=column), world.dossier)
    with refused(reasons.ERROR_REASON_CONTENT_CORRUPTED):
        await world.content(document.name)
    assert world.last_event().reason == reasons.ERROR_REASON_CONTENT_CORRUPTED


@pytest.mark.parametrize(("table", "identifier"), [("content", "content_id"), ("document", "document_id")])
async def test_stored_bytes_exchanged_between_two_documents_are_refused(
    world: World, table: str, identifier: str
) -> None:
    one, two = await world.add(), await world.add()
    swap = f"""
        UPDATE {table} t SET sealed = o.sealed FROM {table} o
        WHERE t.health_id = $1 AND o.health_id = $1 AND t.{identifier} <> o.{identifier}
    """  # noqa: S608
    assert await world.pool.execute(swap, world.dossier) == "UPDATE 2"
    for document in (one, two):
        with refused(reasons.ERROR_REASON_CONTENT_CORRUPTED):
            await world.content(document.name)


async def test_a_content_that_is_gone_or_destroyed_is_not_served(world: World) -> None:
    document = await world.add()
    await world.pool.execute("DELETE FROM content WHERE health_id = $1", world.dossier)
    with refused(reasons.ERROR_REASON_CONTENT_CORRUPTED):
        await world.content(document.name)
    await world.pool.execute(
        "UPDATE dossier_key SET wrapped = NULL, destroyed_at = now() WHERE health_id = $1", world.dossier
    )
    with refused(reasons.ERROR_REASON_CONTENT_DESTROYED):
        await world.get(document.name)
    with refused(reasons.ERROR_REASON_CONTENT_DESTROYED):
        await world.add()


# --- flat ------------------------------------------------------------------------------------------------------------


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The statements that asyncpg sends."""
    sent: list[str] = []
    genuine = asyncpg.Connection._execute  # type: ignore[attr-defined]

    async def execute(self: object, query: str, *args: object, **kwargs: object) -> object:
        sent.append(query)
        return await genuine(self, query, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.Connection, "_execute", execute)
        yield sent


async def test_statements_are_constant_whatever_the_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    response = await world.submit(*((document_pb2.Document(), cda(new_oid())) for _ in range(40)))
    names = [document.name for document in response.documents]
    for size in (1, 40):
        with counted(monkeypatch) as sent:
            await asyncio.gather(*(world.get(name) for name in names[:size]))
        assert len(sent) == 1
        with counted(monkeypatch) as sent:
            await asyncio.gather(*(world.content(name) for name in names[: min(size, 32)]))
        assert len(sent) == 2
        with counted(monkeypatch) as sent:
            assert len((await world.search(page_size=size)).documents) == size
        assert len(sent) == 2
        with counted(monkeypatch) as sent:
            await world.submit(*((document_pb2.Document(), cda(new_oid())) for _ in range(size)))
        assert len(sent) <= 8


async def test_every_request_goes_through_an_index_that_begins_with_the_dossier(world: World) -> None:
    async with world.pool.acquire() as conn:
        await conn.execute("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off")
        try:
            for statement, parameters in (
                (reading.FIND, 2),
                (reading.CONTENTS, 2),
                (reading.BY_ENTRY, 2),
                (reading.VERSIONS, 4),
                *((statement, 54) for statement in searching.SEARCHES.values()),
                (searching.SETS, 26),
                (searching.SET, 2),
                (searching.SET_DOCUMENTS, 11),
                (searching.FOLDERS, 21),
                (searching.CHANGES, 13),
                (searching.LATEST_OF, 1),
                (recent.CHANGED, 2),
                (recent.NEWEST, 11),
                (searching.REFERENCES, 2),
                (writing.FACTS, 4),
                (writing.TAKEN, 4),
                (writing.UPDATE, 14),
                (writing.TOUCH_FOLDERS, 3),
                (writing.PUT_REST, 15),
                (uploads.FIND, 3),
                (uploads.ADVANCE, 5),
                (uploads.CHUNKS, 2),
                (uploads.OPEN, 2),
            ):
                await conn.execute(f"PREPARE probe AS {statement}")
                nulls = ", ".join(["NULL"] * parameters)
                plan = "\n".join(r[0] for r in await conn.fetch(f"EXPLAIN EXECUTE probe({nulls})"))
                await conn.execute("DEALLOCATE probe")
                assert "Seq Scan" not in plan, statement
                conditions = [line for line in plan.splitlines() if "Index Cond:" in line]
                assert conditions
                assert all("health_id =" in line for line in conditions), plan
        finally:
            await conn.execute("RESET plan_cache_mode; RESET enable_seqscan")


async def test_what_serves_requests_begins_with_the_dossier(world: World) -> None:
    indexes = await world.pool.fetch(
        "SELECT tablename, indexdef FROM pg_indexes WHERE tablename IN ('document', 'content', 'submission_set')"
    )
    assert len(indexes) == 10
    serving = [record["indexdef"] for record in indexes if "document_waiting" not in record["indexdef"]]
    assert all("(health_id" in definition for definition in serving)
