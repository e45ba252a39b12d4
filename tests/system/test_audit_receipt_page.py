"""The page that tells a judge how to check a receipt with other tools: its commands, run as they are written."""

from __future__ import annotations

import asyncio
import re
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.audit.listing import Reader
from services.audit.rules import TrailFilter
from tests.audit_log import DOSSIER, LogUnderTest, empty, event, migrated, places

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "check-a-receipt.md"
SCRIPT = "".join(re.findall(r"```bash\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, as the page says")


@pytest.fixture(scope="module")
def receipt_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def log(receipt_database: str) -> AsyncIterator[LogUnderTest]:
    await empty(receipt_database)
    opened = await LogUnderTest.open(receipt_database)
    yield opened
    await opened.close()


async def run(directory: Path, receipt: bytes, key: str) -> tuple[int, str]:
    directory.mkdir()
    (directory / "receipt.tlog-proof").write_bytes(receipt)
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        SCRIPT,
        cwd=directory,
        env={"KEY": key, "PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_the_commands_of_the_page_accept_a_receipt_and_no_altered_one(log: LogUnderTest, tmp_path: Path) -> None:
    events = [event() for _ in range(13)]
    places(await log.append(*events))
    await log.integrate()
    tree = log.logs.trees[0]
    key = tree.signer.verifier.text()
    reader = Reader(DOSSIER, "x", TrailFilter(own_only=False, with_secret=True))
    for place in (0, 5, 12):
        found = await log.reader.event(reader, uuid.UUID(bytes=events[place].event_id))
        proof = await tree.proof(place, events[place].event_id + found.part.salt + found.part.clear)
        assert proof is not None
        receipt = proof.encode()
        code, said = await run(tmp_path / f"good-{place}", receipt, key)
        assert (code, f"event {place} is in the log {tree.origin}" in said) == (0, True), said
        assert (tmp_path / f"good-{place}" / "clear").read_bytes() == found.part.clear
        signature = receipt.index("— ".encode()) + len(f"— {tree.origin} ".encode()) + 20
        for name, at in (
            ("extra", receipt.index(b"extra ") + 80),
            ("path", len(receipt) - 300),
            ("signature", signature),
        ):
            letter = b"A" if receipt[at : at + 1] != b"A" else b"B"
            altered = receipt[:at] + letter + receipt[at + 1 :]
            code, said = await run(tmp_path / f"{name}-{place}", altered, key)
            assert code != 0, (name, said)
