"""A hundred thousand documents (a million and more in the campaign): found, opened, paged and verified as one would be;
one bit flipped anywhere, or bytes exchanged, and nothing of it is served.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Final

import pytest
import pytest_asyncio

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2 as pb
from services.document.__main__ import MIGRATIONS
from services.runtime.identifiers import document_name, dossier_name
from services.runtime.keyring import Keyring
from services.runtime.postgres import connect, migrate
from tests.document_bulk import fill
from tests.document_world import World
from tests.documents import FakeAudit, FakeConsent, FakeIdentity, call
from tests.faults.campaign import CAMPAIGN
from tests.refusals import refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

_DOSSIERS: Final = 20_000 if CAMPAIGN else 2_000
_EACH: Final = 50
_LARGEST: Final = 700
"""Documents of the first dossier: what a person may have (domain.md §5)."""
_FLIPS: Final = 500 if CAMPAIGN else 12
_BLOBS: Final = {"document": "document_id", "content": "content_id", "dossier_key": None}
_CHANCE: Final = random.Random(20261126)


class Many(World):
    """The world, with dossiers full of documents."""

    dossiers: list[int]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many(postgres_url: Callable[[], str]) -> AsyncIterator[Many]:
    dsn = postgres_url()
    await asyncio.to_thread(lambda: asyncio.run(migrate(dsn, MIGRATIONS, service="document")))
    pool = await connect(dsn, min_size=1, max_size=4, name="dmp-test")
    made = Many(pool, FakeConsent(), FakeIdentity(), FakeAudit())
    sizes = [_LARGEST, *[_EACH] * (_DOSSIERS - 1)]
    made.dossiers = await fill(made, Keyring({1: b"k" * 32}, current=1, digests=[1]), sizes)
    yield made
    for service in made.opened:
        await service.close()
    await pool.close()


async def faults(many: Many, dossier: int) -> list[int]:
    """What verify finds in a dossier."""
    request = pb.VerifyContentsRequest(parent=dossier_name(dossier), limit=1000)
    answer = await many.service.servicer.VerifyContents(request, call("VerifyContents", 0))
    return [fault.kind for fault in answer.faults]


async def test_the_largest_dossier_is_opened_and_paged_whole(many: Many) -> None:
    dossier, found, token = many.dossiers[0], list[str](), ""
    while True:
        request = pb.SearchDocumentsRequest(parent=dossier_name(dossier), page_size=150, page_token=token)
        page = await many.service.servicer.SearchDocuments(request, call("SearchDocuments", dossier))
        assert page.total_size == _LARGEST
        found += [document.name for document in page.documents]
        if not (token := page.next_page_token):
            break
    assert len(found) == len(set(found)) == _LARGEST
    opening = pb.GetFirstOpeningRequest(parent=dossier_name(dossier))
    opened = await many.service.servicer.GetFirstOpening(opening, call("GetFirstOpening", dossier))
    assert opened.total_size == _LARGEST


async def test_any_dossier_among_all_is_found_whole_and_only_itself(many: Many) -> None:
    for dossier in _CHANCE.sample(many.dossiers[1:], 5):
        request = pb.SearchDocumentsRequest(parent=dossier_name(dossier), page_size=100)
        answer = await many.service.servicer.SearchDocuments(request, call("SearchDocuments", dossier))
        assert answer.total_size == len(answer.documents) == _EACH
        assert {document.name[9:28] for document in answer.documents} == {dossier_name(dossier)[9:28]}
        content = await many.content(answer.documents[0].name)
        assert content.startswith(f"%PDF-1.7 of {dossier}, ".encode())


async def test_verify_walks_over_all_and_finds_nothing(many: Many) -> None:
    """A sample of two in a hundred; all of them in the campaign."""
    walked, token = 0, ""
    while True:
        request = pb.VerifyContentsRequest(limit=2000, page_token=token, sample_per_mille=0 if CAMPAIGN else 20)
        answer = await many.service.servicer.VerifyContents(request, call("VerifyContents", 0))
        assert not answer.faults
        walked += answer.checked
        if not (token := answer.next_page_token):
            break
    assert walked > _DOSSIERS * _EACH * (1 if CAMPAIGN else 0.01)


@pytest.mark.parametrize("table", _BLOBS)
async def test_any_bit_flipped_is_detected_at_read_and_by_verify(many: Many, table: str) -> None:
    column, blob_id = ("wrapped" if table == "dossier_key" else "sealed"), _BLOBS[table]
    for dossier in _CHANCE.sample(many.dossiers[1:], _FLIPS):
        row = await many.pool.fetchrow(
            "SELECT document_id, content_id FROM document WHERE health_id = $1 LIMIT 1", dossier
        )
        assert row is not None
        own = "" if blob_id is None else f"AND {blob_id} = '{row[blob_id]}'"
        measure = f"SELECT length({column}) FROM {table} WHERE health_id = $1 {own}"  # noqa: S608
        size = await many.pool.fetchval(measure, dossier)
        bit = _CHANCE.randrange(size * 8)
        flip = f"UPDATE {table} SET {column} = set_bit({column}, $2, 1 - get_bit({column}, $2))"  # noqa: S608
        flip += f" WHERE health_id = $1 {own}"
        await many.pool.execute(flip, dossier, bit)
        with refused(reasons.ERROR_REASON_CONTENT_CORRUPTED):
            await content_read_anew(many, document_name(dossier, row["document_id"]))
        assert len(await faults(many, dossier)) == (_EACH if table == "dossier_key" else 1), (table, bit)
        await many.pool.execute(flip, dossier, bit)
        assert await faults(many, dossier) == []


async def content_read_anew(many: Many, name: str) -> bytes:
    """Read by a service that has not met the dossier before."""
    service, made = many.service_of(), call("ReadDocument", int(name[9:28]))
    stream = service.servicer.ReadDocument(pb.ReadDocumentRequest(name=name), made)
    return b"".join([part.chunk async for part in stream])


@pytest.mark.parametrize("within", [True, False], ids=["two documents", "two dossiers"])
async def test_contents_exchanged_are_refused_by_both(many: Many, within: bool) -> None:
    one, two = _CHANCE.sample(many.dossiers[1:], 2)
    ids = "SELECT health_id, document_id, content_id FROM document WHERE health_id = $1 ORDER BY document_id LIMIT 2"
    first, second = await many.pool.fetch(ids, one)
    if not within:
        second = (await many.pool.fetch(ids, two))[0]
    exchange = """
    UPDATE content c SET sealed = o.sealed, stored_size = o.stored_size FROM content o
    WHERE (c.health_id, c.content_id, o.health_id, o.content_id) IN (($1, $2, $3, $4), ($3, $4, $1, $2))
    """
    pairs = (first["health_id"], first["content_id"], second["health_id"], second["content_id"])
    assert await many.pool.execute(exchange, *pairs) == "UPDATE 2"
    for row in (first, second):
        with refused(reasons.ERROR_REASON_CONTENT_CORRUPTED):
            await many.content(document_name(row["health_id"], uuid.UUID(str(row["document_id"]))))
    assert sum([len(await faults(many, dossier)) for dossier in {one, second["health_id"]}]) == 2
    await many.pool.execute(exchange, *pairs)
    assert await faults(many, one) == []
