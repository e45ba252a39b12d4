"""Detectors of unusual access: simple thresholds, as data (`detectors.csv`). Pure but for reading that file once.

A detector compares one measure with a threshold over the last hours and can be explained in a sentence. A finding is
for a person to look at: nothing is refused by it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Literal, cast, get_args

Measure = Literal["new_dossiers", "break_glass", "blocked", "same_name"]
MEASURES: Final = frozenset(get_args(Measure))


@dataclass(frozen=True, slots=True)
class Detector:
    """One line of the table. `hours` is 0 for a measure of the event itself."""

    name: str
    measure: Measure
    threshold: int
    hours: int
    explanation: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What a detector found, in French."""

    detector: str
    explanation: str


def load(text: str | None = None) -> tuple[Detector, ...]:
    """The detectors of a table, by default the one beside this module. ValueError for a line that cannot be used."""
    content = text if text is not None else (files("services.audit") / "detectors.csv").read_text("utf-8")
    return tuple(_detector(row) for row in csv.DictReader(content.splitlines()))


def find(
    detectors: Sequence[Detector], before: Mapping[tuple[Measure, int], int], added: Mapping[Measure, int]
) -> list[Finding]:
    """What is found now that `added` comes to what there was `before`, by measure and hours.

    A threshold is crossed once: more of the same within the hours finds nothing again.
    """
    found = []
    for detector in detectors:
        more = added.get(detector.measure, 0)
        earlier = before.get((detector.measure, detector.hours), 0) if detector.hours else 0
        if earlier < detector.threshold <= earlier + more:
            said = detector.explanation.format(count=earlier + more, threshold=detector.threshold, hours=detector.hours)
            found.append(Finding(detector.name, said))
    return found


def _detector(row: dict[str, str]) -> Detector:
    measure = row["measure"]
    if measure not in MEASURES:
        raise ValueError(f"{row['detector']}: there is no measure {measure!r}")
    threshold, hours = int(row["threshold"]), int(row["hours"])
    if threshold < 1 or not 0 <= hours <= 48:
        raise ValueError(f"{row['detector']}: a threshold is from 1, hours from 0 to 48")
    return Detector(row["detector"], cast("Measure", measure), threshold, hours, row["explanation"])
