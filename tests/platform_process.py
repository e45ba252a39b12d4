"""The `dmp` command against the running platform, as a user types it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

from tests.platform_fixture import Platform

DMP: Final = Path(sys.executable).with_name("dmp")
_SECONDS: Final = 60


def environment(platform: Platform) -> dict[str, str]:
    """What a command is told of where the platform is, and of the terminal."""
    return {**os.environ, "DMP_STATE": str(platform.state.root), "NO_COLOR": "1", "COLUMNS": "200"}


async def started(platform: Platform, *arguments: str) -> asyncio.subprocess.Process:
    """The command, under way."""
    return await asyncio.create_subprocess_exec(
        DMP,
        *arguments,
        env=environment(platform),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def dmp(platform: Platform, *arguments: str) -> tuple[int, str, str]:
    """The exit code and output of the command."""
    process = await started(platform, *arguments)
    out, err = await asyncio.wait_for(process.communicate(), _SECONDS)
    return process.returncode or 0, out.decode(), err.decode()
