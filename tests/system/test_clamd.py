"""The scanner's port against the real clamd (Debian's clamav-daemon), with a signature base of its own."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.document.scanning import ClamdScanner
from services.runtime.errors import DmpError

pytestmark = pytest.mark.skipif(shutil.which("clamd") is None, reason="clamd is not installed (clamav-daemon)")

EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + rb"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
_SIGNATURE = "44d88612fea8a8f36de82e1278abb02f:68:Eicar-Test\n"


@pytest_asyncio.fixture
async def clamd(tmp_path: Path) -> AsyncIterator[str]:
    """The daemon's socket."""
    (tmp_path / "eicar.hdb").write_text(_SIGNATURE)
    socket = tmp_path / "clamd.sock"
    configuration = tmp_path / "clamd.conf"
    configuration.write_text(f"Foreground yes\nLocalSocket {socket}\nDatabaseDirectory {tmp_path}\nUser root\n")
    process = await asyncio.create_subprocess_exec(
        "clamd", "--config-file", str(configuration), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(60):
            while not socket.exists():
                await asyncio.sleep(0.1)
        yield f"unix:{socket}"
    finally:
        process.terminate()
        await process.wait()


async def test_clamd_finds_what_it_knows_and_lets_the_rest_through(clamd: str) -> None:
    scanner = ClamdScanner(clamd)
    assert await scanner.scan(b"%PDF-1.7 a letter" * 20_000)
    assert not await scanner.scan(EICAR)
    with pytest.raises(DmpError):
        await ClamdScanner(clamd + ".gone").scan(b"anything")
