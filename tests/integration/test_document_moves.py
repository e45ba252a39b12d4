"""Contents moved to an object store and back, a slice a call: while they are read, and from a store that lies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2 as pb
from services.document.objects import ObjectStore
from tests.document_world import World
from tests.documents import cda, new_oid
from tests.integration.test_document_contents import content_of, faults_of, run, submitted
from tests.lying_s3 import LyingS3
from tests.refusals import refused


@pytest.fixture
def directory(tmp_path: Path) -> ObjectStore:
    return ObjectStore(f"file://{tmp_path}/objects")


@pytest.fixture(scope="module")
def s3() -> Iterator[LyingS3]:
    with LyingS3() as server:
        yield server


async def test_contents_move_to_the_object_store_and_back_while_they_are_read(
    world: World, directory: ObjectStore
) -> None:
    service = world.service_of(objects=directory, write_objects=False)
    contents = {}
    for _ in range(6):
        content = cda(new_oid())
        contents[(await submitted(world, service, content)).name] = content
    stop = False

    async def read_on() -> int:
        reads = 0
        while not stop:
            for name, content in contents.items():
                assert await content_of(service, name) == content
                reads += 1
        return reads

    reader = asyncio.ensure_future(read_on())
    here = "SELECT count(*) FROM content WHERE health_id = $1 AND sealed IS NOT NULL"
    for to_objects, left in ((True, 0), (False, 6), (True, 0)):
        request = pb.MoveContentsRequest(to_object_store=to_objects, limit=5, request_id="request-move")
        await run(world, service, "MoveContents", request)
        assert await world.pool.fetchval(here, world.dossier) == left
    stop = True
    assert await reader > 0
    assert await faults_of(world, service) == []
    assert len(await directory.of_dossier(world.dossier)) == 6


async def test_what_a_lying_store_gives_back_is_not_taken_for_the_content(world: World, s3: LyingS3) -> None:
    """Moved back unread, altered bytes would take the place of the good ones, which are then removed."""
    await world.pool.execute("DELETE FROM content WHERE object_key IS NOT NULL")  # of other tests' stores
    service = world.service_of(objects=s3.store())
    content = cda(new_oid())
    document = await submitted(world, service, content)
    back = pb.MoveContentsRequest(request_id="request-back")
    mine = "SELECT sealed IS NOT NULL FROM content WHERE health_id = $1"
    for mode in ("alter", "deny"):
        s3.mode = mode
        answers = await run(world, service, "MoveContents", back)
        assert (sum(a.left for a in answers), sum(a.moved for a in answers)) == (1, 0)
        with refused(reasons.ERROR_REASON_CONTENT_CORRUPTED):
            await content_of(service, document.name)
        assert len(await faults_of(world, service)) == 1
        s3.mode = ""
        assert await content_of(service, document.name) == content
        assert not await world.pool.fetchval(mine, world.dossier)
        back.page_token = ""
    [answer] = await run(world, service, "MoveContents", back)
    assert (answer.left, answer.moved) == (0, 1)
    assert await content_of(service, document.name) == content
    assert await world.pool.fetchval(mine, world.dossier)
