"""The details that docs/reference/fhir.md says are tested: each names tests, and each test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
NAMED: Final = re.compile(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`")


def details() -> list[str]:
    """The rows of the table."""
    _, _, after = (ROOT / "docs/reference/fhir.md").read_text("utf-8").partition("## What is usually got wrong")
    return [line for line in after.splitlines() if line.startswith("| ") and not line.startswith("| detail")]


@pytest.mark.parametrize("row", details(), ids=lambda row: row.split("|")[1].strip()[:60])
def test_a_detail_names_tests_that_are_there(row: str) -> None:
    named = NAMED.findall(row)
    assert len(named) == row.count("::") > 0
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, functions)}, f"{file}::{name}"


def test_the_table_is_whole() -> None:
    assert len(details()) >= 16
