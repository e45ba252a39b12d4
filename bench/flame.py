"""A flame graph as a small SVG: a box for each function, as wide as its part of the samples, on who called it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Final

Stacks = Mapping[tuple[str, ...], int]

_WIDTH: Final = 1200
_ROW: Final = 17
_LEAST: Final = 2.0
"""Pixels below which a box is left out."""
_LETTER: Final = 6.4
_HEAD: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
    'font-family="monospace" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
)


@dataclass(slots=True)
class _Box:
    count: int = 0
    above: dict[str, _Box] = field(default_factory=dict)


def svg(stacks: Stacks, colour: Callable[[str], str]) -> str:
    """The graph of stacks, each from its root to its leaf, as many times as it was seen. ValueError for none."""
    root = _Box()
    for stack, count in stacks.items():
        box = root
        box.count += count
        for frame in stack:
            box = box.above.setdefault(frame, _Box())
            box.count += count
    if not root.count:
        raise ValueError("no sample")
    scale = _WIDTH / root.count
    depth = _depth(root, scale)
    height = (depth + 1) * _ROW
    parts: list[str] = []
    _draw(root, "all", 0.0, depth, scale, root.count, colour, parts)
    return "\n".join([_HEAD.format(width=_WIDTH, height=height), *parts, "</svg>\n"])


def _depth(box: _Box, scale: float) -> int:
    drawn = (_depth(above, scale) for above in box.above.values() if above.count * scale >= _LEAST)
    return max((1 + below for below in drawn), default=0)


def _draw(
    box: _Box,
    name: str,
    left: float,
    row: int,
    scale: float,
    total: int,
    colour: Callable[[str], str],
    parts: list[str],
) -> None:
    width = box.count * scale
    label = name.rpartition(" ")[2] if " " in name else name
    letters = int((width - 4) / _LETTER)
    shown = label if len(label) <= letters else f"{label[: letters - 1]}…" if letters > 3 else ""
    text = f'<text x="{left + 2:.1f}" y="{row * _ROW + 12}">{escape(shown)}</text>' if shown else ""
    parts.append(
        f"<g><title>{escape(name)} {box.count / total:.1%}</title>"
        f'<rect x="{left:.1f}" y="{row * _ROW}" width="{max(width - 0.5, 0.5):.1f}" height="{_ROW - 1}" '
        f'fill="{colour(name)}"/>{text}</g>'
    )
    for above_name, above in sorted(box.above.items()):
        if above.count * scale >= _LEAST:
            _draw(above, above_name, left, row - 1, scale, total, colour, parts)
        left += above.count * scale
