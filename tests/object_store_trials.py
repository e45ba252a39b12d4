"""What every kind of object store must stand: kept, read back, verified, swept, moved and destroyed; and a store that
refuses, stalls, forgets and lies, loses nobody's document.

The fixture `lying` of the module that collects these says which store.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2 as pb
from services.document.objects import ObjectStore
from services.document.store.rows import DocumentKey
from services.runtime.identifiers import new_health_id, uuid7
from tests.document_world import World
from tests.documents import call, cda, new_oid
from tests.integration.test_document_contents import content_of, faults_of, run, submitted
from tests.lying_store import LyingStore
from tests.refusals import refused

_SLOW = 20.0
"""Seconds that an honest store may take here, where the machine is busy."""


def open_store(lying: LyingStore) -> ObjectStore:
    lying.mode = ""
    return lying.store(_SLOW)


async def test_an_object_is_written_once_read_listed_in_order_and_removed(lying: LyingStore) -> None:
    store, health_id = open_store(lying), new_health_id()
    keys = [await store.put(DocumentKey(health_id, uuid7()), b"sealed %d" % number) for number in range(5)]
    with pytest.raises(AlreadyExistsError):
        await obstore.put_async(store._store, keys[0], b"others", mode="create")
    assert await store.get(keys[0]) == b"sealed 0"
    assert sorted(await store.of_dossier(health_id)) == sorted(keys)
    assert await store.of_dossier(health_id ^ 1) == []
    listed, after = list[str](), ""
    while page := await store.listing(after, 2):
        assert len(page) <= 2
        listed += [one.key for one in page]
        after = listed[-1]
    assert listed == sorted(listed)
    assert [key for key in listed if key in keys] == sorted(keys)
    for key in keys:
        await store.delete(key)
        await store.delete(key)
        assert await store.get(key) is None
    assert await store.of_dossier(health_id) == []


async def test_large_objects_come_back_whole(lying: LyingStore) -> None:
    store, content = open_store(lying), bytes(range(256)) * (24 << 12)
    key = await store.put(DocumentKey(new_health_id(), uuid7()), content)
    assert await store.get(key) == content
    await store.delete(key)


async def test_a_write_whose_answer_is_lost_is_written_once_and_believed_when_read(lying: LyingStore) -> None:
    """The second attempt meets the first one's object: it is not a failure, and not overwritten."""
    store, health_id = open_store(lying), new_health_id()
    lying.mode = "forget"
    key = await store.put(DocumentKey(health_id, uuid7()), b"sealed")
    assert lying.mode == ""
    assert await store.get(key) == b"sealed"
    assert await store.of_dossier(health_id) == [key]
    await store.delete(key)


async def test_contents_of_the_store_come_back_are_verified_and_end_with_their_dossier(
    world: World, lying: LyingStore
) -> None:
    store = open_store(lying)
    service, content = world.service_of(objects=store), cda(new_oid())
    document = await submitted(world, service, content)
    assert await world.pool.fetchval("SELECT sealed FROM content WHERE health_id = $1", world.dossier) is None
    assert await content_of(service, document.name) == content
    assert await faults_of(world, service) == []
    [key] = await store.of_dossier(world.dossier)
    await store.delete(key)
    assert await faults_of(world, service) == [pb.CONTENT_FAULT_KIND_CONTENT_MISSING]
    again = await submitted(world, service, cda(new_oid()))
    request = pb.DestroyDossierRequest(health_id=world.dossier, request_id="request-destroy")
    await service.servicer.DestroyDossier(request, call("DestroyDossier", 0))
    assert await store.of_dossier(world.dossier) == []
    with refused(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND):
        await content_of(service, again.name)


async def test_a_store_that_refuses_stalls_or_lies_leaves_no_document(world: World, lying: LyingStore) -> None:
    service = world.service_of(objects=open_store(lying))
    hasty = world.service_of(objects=lying.store(0.6))
    good = await submitted(world, service, cda(new_oid()))
    for mode in ("refuse", "stall", "lie"):
        lying.mode = mode
        before = await world.rows()
        with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
            await submitted(world, hasty, cda(new_oid()))
        assert await world.rows() == before, mode
        lying.mode = ""
        assert await content_of(service, good.name)
    assert await content_of(service, (await submitted(world, service, cda(new_oid()))).name)


async def test_a_store_that_is_not_there_is_no_answer(world: World, lying: LyingStore) -> None:
    """Nobody is told that a content is lost because its store cannot be asked."""
    service = world.service_of(objects=open_store(lying))
    document = await submitted(world, service, cda(new_oid()))
    elsewhere = {name: value.replace(lying.url, "http://127.0.0.1:9") for name, value in lying.config.items()}
    away = world.service_of(objects=ObjectStore(lying.place, elsewhere, timeout=1.0))
    for work in (content_of(away, document.name), submitted(world, away, cda(new_oid())), faults_of(world, away)):
        with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
            await work
    assert await faults_of(world, service) == []


async def test_an_object_that_no_commit_followed_is_swept_and_no_other(world: World, lying: LyingStore) -> None:
    store = open_store(lying)
    service = world.service_of(objects=store, grace=timedelta(0))
    kept, twice = await submitted(world, service, cda(new_oid())), cda(new_oid())
    await submitted(world, service, twice)
    with refused(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID):
        await submitted(world, service, twice)
    foreign = "contents/é: somebody else's"
    await obstore.put_async(store._store, foreign, b"not ours")
    assert len(await store.of_dossier(world.dossier)) == 3
    world.later(timedelta(days=400))
    answers = await run(world, service, "SweepContents", pb.SweepContentsRequest(limit=1, request_id="request-sweep"))
    assert sum(answer.objects for answer in answers) >= 1
    assert len(await store.of_dossier(world.dossier)) == 2
    assert await store.get(foreign) == b"not ours"
    await store.delete(foreign)
    assert await content_of(service, kept.name)
    assert await faults_of(world, service) == []


async def test_contents_move_to_the_store_and_back_while_they_are_read(world: World, lying: LyingStore) -> None:
    await world.pool.execute("DELETE FROM content WHERE object_key IS NOT NULL")  # of other tests' stores
    store = open_store(lying)
    service = world.service_of(objects=store, write_objects=False)
    contents = [cda(new_oid()) for _ in range(4)]
    names = [(await submitted(world, service, content)).name for content in contents]
    stop = False

    async def read_on() -> int:
        reads = 0
        while not stop:
            for name, content in zip(names, contents, strict=True):
                assert await content_of(service, name) == content
                reads += 1
        return reads

    reader = asyncio.ensure_future(read_on())
    here = "SELECT count(*) FROM content WHERE health_id = $1 AND sealed IS NOT NULL"
    for to_objects, left in ((True, 0), (False, 4), (True, 0)):
        request = pb.MoveContentsRequest(to_object_store=to_objects, limit=3, request_id="request-move")
        await run(world, service, "MoveContents", request)
        assert await world.pool.fetchval(here, world.dossier) == left
        assert len(await store.of_dossier(world.dossier)) == 4 - left
    stop = True
    assert await reader > 0
    assert await faults_of(world, service) == []


async def test_what_a_lying_store_gives_back_is_not_taken_for_the_content(world: World, lying: LyingStore) -> None:
    """Moved back unread, altered bytes would take the place of the good ones, which are then removed."""
    await world.pool.execute("DELETE FROM content WHERE object_key IS NOT NULL")  # of other tests' stores
    service = world.service_of(objects=open_store(lying))
    content = cda(new_oid())
    document = await submitted(world, service, content)
    back = pb.MoveContentsRequest(request_id="request-back")
    mine = "SELECT sealed IS NOT NULL FROM content WHERE health_id = $1"
    for mode in ("alter", "deny"):
        lying.mode = mode
        answers = await run(world, service, "MoveContents", back)
        assert (sum(a.left for a in answers), sum(a.moved for a in answers)) == (1, 0)
        with refused(reasons.ERROR_REASON_CONTENT_CORRUPTED):
            await content_of(service, document.name)
        assert len(await faults_of(world, service)) == 1
        lying.mode = ""
        assert await content_of(service, document.name) == content
        assert not await world.pool.fetchval(mine, world.dossier)
        back.page_token = ""
    [answer] = await run(world, service, "MoveContents", back)
    assert (answer.left, answer.moved) == (0, 1)
    assert await content_of(service, document.name) == content
    assert await world.pool.fetchval(mine, world.dossier)
