"""`dmp content` on a running platform: what is stored is verified, swept and wrapped anew, slice by slice."""

from __future__ import annotations

import pytest

from tests.integration.test_platform_documents import dmp
from tests.platform_fixture import Platform

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_operators_verify_sweep_and_wrap_keys_by_the_command(platform: Platform) -> None:
    await platform.patient()
    for arguments, said in (
        (("verify",), "0 faults"),
        (("verify", "--sample", "50"), "0 faults"),
        (("sweep",), "removed"),
        (("rewrap",), "wrapped 0 keys"),
    ):
        code, out, err = await dmp(platform, "content", *arguments)
        assert (code, said in out) == (0, True), (arguments, out, err)
    code, _, err = await dmp(platform, "content", "move", "objects")
    assert code == 1
    assert "no object store is configured" in err
