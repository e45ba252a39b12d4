"""Where commands print: on a terminal as wide as it is; into a file or a pipe wide enough that nothing is cut off."""

from __future__ import annotations

import sys
from typing import Final

from rich.console import Console

_UNCUT: Final = 240
"""Columns: what a program reads must hold whole names."""


def console() -> Console:
    """A console on standard output."""
    return Console(width=None if sys.stdout.isatty() else _UNCUT)
