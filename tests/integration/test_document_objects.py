"""The trials of an object store, with S3 (moto) and Google's (fake-gcs-server). Azure's: `tests/system`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lying_clouds import LyingGcs
from tests.lying_s3 import LyingS3
from tests.lying_store import LyingStore
from tests.object_store_trials import *  # noqa: F403 (its tests, collected here)


@pytest.fixture(scope="module", params=[LyingS3, LyingGcs], ids=["s3", "gcs"])
def lying(request: pytest.FixtureRequest) -> Iterator[LyingStore]:
    with request.param() as server:
        yield server
