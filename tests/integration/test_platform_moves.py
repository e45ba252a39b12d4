"""Contents on their way to an object store and back, by `dmp content move`, while they are read and everything dies.

What dies is the store, the command and the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.lying_s3 import LyingS3
from tests.platform_fixture import Patient, Platform
from tests.platform_moving import Readers, feed, go_on
from tests.platform_process import dmp, started

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Moving:
    """A dossier full of documents, and where the contents of all dossiers are: all of them are moved."""

    def __init__(self, platform: Platform, patient: Patient, count: int) -> None:
        self.platform = platform
        self.patient = patient
        self.count = count

    async def left(self, where: str) -> int:
        """Contents that are there: `sealed` (the database) or `object_key`."""
        async with self.platform.database("document") as conn:
            return int(await conn.fetchval(f"SELECT count(*) FROM content WHERE {where} IS NOT NULL"))  # noqa: S608

    async def until_left(self, where: str, most: int) -> None:
        """Until at most so many are there."""
        async with asyncio.timeout(60):
            while await self.left(where) > most:
                await asyncio.sleep(0.02)

    async def command(self, *arguments: str) -> str:
        """What `dmp content` says, having ended well."""
        code, out, err = await dmp(self.platform, "content", *arguments)
        assert code == 0, (out, err)
        return out

    async def verify(self) -> None:
        """All of the dossier is as it was stored."""
        out = await self.command("verify", "--dossier", self.patient.dossier.removeprefix("dossiers/"))
        assert f"{self.count} documents" in out
        assert " 0 faults" in out


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def moving(breakable: Platform) -> AsyncIterator[Moving]:
    """The documents, read all the time by somebody who never gets anything but their bytes, or `not now`."""
    patient = await breakable.patient()
    contents = await feed(breakable, patient, 160)
    readers = Readers(breakable, patient, contents)
    reading = asyncio.ensure_future(readers.run())
    yield Moving(breakable, patient, len(contents))
    await readers.until(20)
    readers.stopping = True
    await reading


async def test_contents_move_to_the_store_whatever_dies(moving: Moving, breakable_store: LyingS3) -> None:
    """First the store takes nothing any more; then the command is killed, and the service."""
    own, store = moving.platform, breakable_store
    all_of_them = await moving.left("sealed")
    store.mode, store.spared = "refuse", 120
    code, out, err = await dmp(own, "content", "move", "objects")
    assert (code, "DEPENDENCY_UNAVAILABLE" in err) == (1, True), (out, err)
    assert await moving.left("sealed") == all_of_them - 120
    store.mode = ""
    going = await started(own, "content", "move", "objects", *go_on(out))
    await moving.until_left("sealed", all_of_them - 130)
    going.kill()
    await going.communicate()
    await own.stack.kill("document")
    await own.stack.restart("document")
    await moving.command("move", "objects")
    assert await moving.left("sealed") == 0
    await moving.verify()


async def test_contents_move_back_although_the_service_dies(moving: Moving) -> None:
    """The command tells where it was broken off, and goes on from there."""
    own = moving.platform
    await moving.command("move", "objects")
    going = await started(own, "content", "move", "database")
    await moving.until_left("object_key", 50)
    await own.stack.kill("document")
    out, err = (part.decode() for part in await asyncio.wait_for(going.communicate(), 60))
    assert going.returncode == 1, (out, err)
    await own.stack.restart("document")
    assert 0 < await moving.left("object_key") <= 50
    await moving.command("move", "database", *go_on(out))
    assert await moving.left("object_key") == 0
    await moving.verify()
