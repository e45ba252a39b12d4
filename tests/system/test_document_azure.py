"""The trials of an object store, with Azure's (Azurite, Microsoft's own emulator, from npm)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from services.document.objects import ObjectStore
from services.document.store.rows import DocumentKey
from services.runtime.identifiers import new_health_id, uuid7
from tests.document_world import document_database, world
from tests.lying_clouds import AZURITE, LyingAzure
from tests.lying_store import LyingStore
from tests.object_store_trials import *  # noqa: F403 (its tests, collected here)
from tests.refusals import refused

__all__ = ["document_database", "world"]

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not on this machine"),
    pytest.mark.skipif(not AZURITE.is_file(), reason="npm ci in tests/system"),
]


@pytest.fixture(scope="module")
def lying() -> Iterator[LyingStore]:
    with LyingAzure() as server:
        yield server


async def test_a_key_that_the_account_does_not_have_is_no_answer(lying: LyingAzure) -> None:
    """A store that refuses the service has not said that there is nothing."""
    key = await lying.store().put(DocumentKey(new_health_id(), uuid7()), b"sealed")
    other = {**lying.config, "azure_storage_account_key": base64.b64encode(b"of another account").decode()}
    stranger = ObjectStore(lying.place, other, timeout=20)
    with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
        await stranger.get(key)
    with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
        await stranger.listing("", 10)
    assert await lying.store().get(key) == b"sealed"


@pytest.mark.parametrize("permissions", ["racwdl", "r"])
async def test_a_shared_access_signature_allows_what_it_says_and_no_more(lying: LyingAzure, permissions: str) -> None:
    key = await lying.store().put(DocumentKey(new_health_id(), uuid7()), b"sealed")
    config = {name: value for name, value in lying.config.items() if name != "azure_storage_account_key"}
    signed = ObjectStore(lying.place, {**config, "azure_storage_sas_key": _signature(lying, permissions)}, timeout=20)
    assert await signed.get(key) == b"sealed"
    if permissions == "r":
        with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
            await signed.put(DocumentKey(new_health_id(), uuid7()), b"sealed")
        return
    another = await signed.put(DocumentKey(new_health_id(), uuid7()), b"sealed")
    assert {key, another} <= {one.key for one in await signed.listing("", 1000)}
    await signed.delete(another)
    assert await lying.store().get(another) is None


def _signature(lying: LyingAzure, permissions: str) -> str:
    """Of the container, as Microsoft has it ("Create a service SAS", 2020-12-06), here once more."""
    account = lying.config["azure_storage_account_name"]
    until, version = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ"), "2020-12-06"
    resource = f"/blob/{account}/{lying.place.split('/')[2]}"
    signed = "\n".join((permissions, "", until, resource, "", "", "", version, "c", *[""] * 7))
    key = base64.b64decode(lying.config["azure_storage_account_key"])
    signature = base64.b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).decode()
    return urlencode({"sp": permissions, "se": until, "sv": version, "sr": "c", "sig": signature})
