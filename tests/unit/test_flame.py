"""The flame graph, and to which subject a sample belongs."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import flame
from bench.hot_path import about, colour, read_stacks, subject_of

_LOOP = "uvloop/__init__.py run"
_READ = "services/document/read.py Reader._open"
_ASK = "services/runtime/coalescer.py Coalescer.ask"
_SVG = "{http://www.w3.org/2000/svg}"


def test_a_box_is_as_wide_as_its_part_and_stands_on_its_caller() -> None:
    drawn = ET.fromstring(flame.svg({(_LOOP, _READ): 1, (_LOOP, _READ, _ASK): 2, (_LOOP,): 1}, colour))  # noqa: S314 (our own)
    boxes = {group[0].text: group[1] for group in drawn.iter(f"{_SVG}g")}
    widths = {title: float(box.attrib["width"]) for title, box in boxes.items()}
    assert widths[f"{_READ} 75.0%"] == pytest.approx(899.5)
    assert widths[f"{_ASK} 50.0%"] == pytest.approx(599.5)
    assert float(boxes[f"{_ASK} 50.0%"].attrib["y"]) < float(boxes[f"{_READ} 75.0%"].attrib["y"])


def test_without_a_sample_there_is_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="no sample"):
        flame.svg({}, colour)


def test_a_sample_belongs_to_the_innermost_module_that_is_about_something() -> None:
    assert about(_READ) == "answer"
    assert subject_of((_LOOP, _READ, _ASK, "asyncio/futures.py wait")) == "batches"
    assert subject_of((_LOOP,)) == "event loop"


def test_what_lies_below_the_event_loop_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "document"
    file.write_text(f"runpy.py run;asyncio/runners.py Runner.run;{_READ} 3\nruntime/native.py receive 1\n")
    assert read_stacks(file) == {(_READ,): 3, ("runtime/native.py receive",): 1}
