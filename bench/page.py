"""Where results are kept: docs/performance.md, a section for each benchmark, and bench/results.json, their figures.

Each benchmark writes its own section and leaves the others as they are: they run for minutes each, seldom all at once,
so each section tells when and on what it was measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from bench.machine import Machine, machine
from ops.local.state import write_whole

_ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = _ROOT / "bench" / "results.json"
PERFORMANCE: Final = _ROOT / "docs" / "performance.md"
PARTS: Final[Mapping[str, str]] = {
    "platform": "bench",
    "native": "bench.native",
    "overload": "bench.overload",
    "overload_grpcio": "bench.overload --transport grpcio",
    "consent": "bench.consent",
    "audit": "bench.audit",
    "audit_loaded": "bench.audit --only-loaded",
    "identity": "bench.identity",
    "identity_large": "bench.identity --people",
    "document": "bench.document",
    "gateway": "bench.gateway",
    "flood": "bench.gateway_flood",
}
"""The sections in their order, and the module that writes each."""


def publish(part: str, title: str, table: Table, *notes: str, busy: float) -> None:
    """Write the section of a benchmark that ended now: its table as printed, then the notes as a list.

    `busy` is what `load_before` said. ValueError for a part that is not one.
    """
    at, here = datetime.now(UTC), machine("", busy)
    measured = f"`python -m {PARTS[part]}`, {at:%d %B %Y}, {here.cores} cores of {here.processor}; {_busy(here)}."
    told = [f"- {note}" for note in notes]
    lines = [f"## {title}", "", measured, "", markdown(table), *([""] if told else []), *told]
    rows = [dict(zip(header(table), cells, strict=True)) for cells in cells_of(table)]
    write(part, "\n".join(lines), {"measured": at.isoformat(timespec="seconds"), "load_before": busy, "rows": rows})


def write(part: str, section: str, figures: Any) -> None:
    """Put a section and its figures in the place of those of an earlier run."""
    known: dict[str, Any] = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
    known[part] = figures
    ordered = {name: known[name] for name in PARTS if name in known}
    write_whole(RESULTS, json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", mode=0o644)
    page = PERFORMANCE.read_text("utf-8") if PERFORMANCE.exists() else ""
    write_whole(PERFORMANCE, with_section(page, part, section), mode=0o644)


def with_section(page: str, part: str, section: str) -> str:
    """The page with one section replaced, or put in its place. ValueError for a part that is not one."""
    if part not in PARTS:
        raise ValueError(f"no part is called {part}; they are {', '.join(PARTS)}")
    found = dict(re.findall(r"<!-- part: (\w+) -->\n(.*?)\n<!-- end -->", page, re.DOTALL))
    found[part] = section.strip("\n")
    return "\n\n".join(f"<!-- part: {name} -->\n{found[name]}\n<!-- end -->" for name in PARTS if name in found) + "\n"


def header(table: Table) -> list[str]:
    """The names of the columns."""
    return [str(column.header) for column in table.columns]


def cells_of(table: Table) -> list[tuple[str, ...]]:
    """The cells, row by row."""
    return list(zip(*(map(str, column.cells) for column in table.columns), strict=True)) if table.columns else []


def markdown(table: Table) -> str:
    """The same table for the page; columns of figures on the right."""
    rows = cells_of(table)
    numeric = [all(_figure(row[place]) for row in rows) for place in range(len(table.columns))]
    rule = "".join("--:|" if right else "---|" for right in numeric)
    return "\n".join([_line(header(table)), f"|{rule}", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(cell: str) -> bool:
    return re.fullmatch(r"[\d,.]*( ?(ms|µs|s|GB|%))?", cell) is not None


def _busy(here: Machine) -> str:
    said = f"processors in use before: {here.busy:.2f}"
    return f"{said}. **Others were using the machine: only the ratios mean something**" if here.disturbed else said
