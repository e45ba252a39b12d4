"""The platform of those who kill, stop and freeze its parts; each leaves it whole. Started once for the run, too.

Its document service knows an object store, where nothing goes by itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
import pytest_asyncio

from ops.local.stack import python_module
from ops.local.state import ServiceName
from tests.lying_s3 import STORE, LyingS3
from tests.platform_fixture import Platform, running_platform


@pytest.fixture(scope="session")
def breakable_store() -> Iterator[LyingS3]:
    """The object store of `breakable`, which can be made to fail."""
    with LyingS3() as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def breakable(tmp_path_factory: pytest.TempPathFactory, breakable_store: LyingS3) -> AsyncIterator[Platform]:
    """The platform that may be broken."""
    file = tmp_path_factory.mktemp("store") / "store.json"
    file.write_text(json.dumps(breakable_store.config), "utf-8")
    settings = (
        f"DMP_OBJECT_STORE_URL={STORE}",
        f"DMP_OBJECT_STORE_CONFIG_FILE={file}",
        "DMP_OBJECT_STORE_WRITES=false",
    )

    def command(service: ServiceName) -> Sequence[str]:
        return (shutil.which("env") or "env", *(settings if service == "document" else ()), *python_module(service))

    async with running_platform(command=command) as running:
        yield running
