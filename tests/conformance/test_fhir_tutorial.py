"""docs/tutorial.md as a newcomer types it: every line of its shell and Python blocks, on the running platform."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.platform_fixture import Platform

ROOT: Final = Path(__file__).resolve().parents[2]
TUTORIAL: Final = ROOT / "docs" / "tutorial.md"
_BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[str]:
    """The fenced blocks of a language."""
    return [body for language, body in _BLOCK.findall(TUTORIAL.read_text("utf-8")) if language == kind]


def test_every_block_but_the_start_is_run() -> None:
    kinds = [language for language, _ in _BLOCK.findall(TUTORIAL.read_text("utf-8"))]
    assert set(kinds) == {"", "sh", "python"}
    assert blocks("") == ["make run\n"]  # `platform` stands for it; test_fhir_platform runs it


@pytest.mark.asyncio(loop_scope="session")
async def test_every_line_does_what_the_page_says(platform: Platform, tmp_path: Path) -> None:
    here = tmp_path / "repository"
    here.mkdir()
    (here / ".dmp").symlink_to(platform.state.root)
    (here / ".venv").symlink_to(Path(sys.prefix))
    script = "set -euo pipefail\n" + "\n".join(blocks("sh"))
    told = await run(here, "bash", "-c", script)
    assert "refused, as it should be" in told
    assert "refused: whose documents?" in told
    assert '"code":"DOSSIER_ALREADY_EXISTS"' in told.replace(" ", "")
    program = here / "same_in_python.py"
    (python,) = blocks("python")
    program.write_text(python)
    assert "2 documents" in await run(here, sys.executable, str(program))


async def run(here: Path, *command: str) -> str:
    """What a command prints in the newcomer's directory; it must succeed."""
    environment = {
        **os.environ,
        "DMP_STATE": str(here / ".dmp"),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'stubs'}",
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=here,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 110)
    text = out.decode()
    assert process.returncode == 0, text[-4000:]
    return text
