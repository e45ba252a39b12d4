"""Contents on their way to an object store and back, by `dmp content move`, while they are read and everything dies.

What dies is the store, the command and the service: this platform is the test's own.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
import pytest_asyncio

from ops.local.stack import python_module
from ops.local.state import ServiceName
from tests.lying_s3 import STORE, LyingS3
from tests.platform_fixture import Patient, Platform, running_platform
from tests.platform_moving import Readers, feed, go_on
from tests.platform_process import dmp, started

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module")
def store() -> Iterator[LyingS3]:
    """A store that can be made to fail."""
    with LyingS3() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own(tmp_path_factory: pytest.TempPathFactory, store: LyingS3) -> AsyncIterator[Platform]:
    """A platform that may be broken. An object store is known to it, and nothing goes there by itself."""
    file = tmp_path_factory.mktemp("store") / "store.json"
    file.write_text(json.dumps(store.config), "utf-8")
    settings = (
        f"DMP_OBJECT_STORE_URL={STORE}",
        f"DMP_OBJECT_STORE_CONFIG_FILE={file}",
        "DMP_OBJECT_STORE_WRITES=false",
    )

    def command(service: ServiceName) -> Sequence[str]:
        return (shutil.which("env") or "env", *(settings if service == "document" else ()), *python_module(service))

    async with running_platform(command=command) as running:
        yield running


class Moving:
    """A dossier full of documents, and where their contents are."""

    def __init__(self, platform: Platform, patient: Patient, count: int) -> None:
        self.platform = platform
        self.patient = patient
        self.count = count

    async def left(self, where: str) -> int:
        """Contents that are there: `sealed` (the database) or `object_key`."""
        async with self.platform.database("document") as conn:
            query = f"SELECT count(*) FROM content WHERE health_id = $1 AND {where} IS NOT NULL"  # noqa: S608
            return int(await conn.fetchval(query, self.patient.health_id))

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
async def moving(own: Platform) -> AsyncIterator[Moving]:
    """The documents, read all the time by somebody who never gets anything but their bytes, or `not now`."""
    patient = await own.patient()
    contents = await feed(own, patient, 160)
    readers = Readers(own, patient, contents)
    reading = asyncio.ensure_future(readers.run())
    yield Moving(own, patient, len(contents))
    await readers.until(20)
    readers.stopping = True
    await reading


async def test_contents_move_to_the_store_whatever_dies(moving: Moving, store: LyingS3) -> None:
    """First the store takes nothing any more; then the command is killed, and the service."""
    own = moving.platform
    store.mode, store.spared = "refuse", 120
    code, out, err = await dmp(own, "content", "move", "objects")
    assert (code, "DEPENDENCY_UNAVAILABLE" in err) == (1, True), (out, err)
    assert await moving.left("sealed") == moving.count - 120
    store.mode = ""
    going = await started(own, "content", "move", "objects", *go_on(out))
    await moving.until_left("sealed", moving.count - 130)
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
