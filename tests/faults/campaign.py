"""How much is broken in a test run and in a campaign, and where the counts of a campaign are written.

DMP_CAMPAIGN=1            full counts: ten thousand rounds of revocation, ten thousand kills
DMP_CAMPAIGN_SECONDS=600  at most so long for each of the two; what was reached is published with its counts
DMP_CAMPAIGN_RESULTS=…    where to write; by default tests/faults/results.json
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

CAMPAIGN = os.environ.get("DMP_CAMPAIGN", "") not in ("", "0")
SECONDS = float(os.environ.get("DMP_CAMPAIGN_SECONDS", "3400"))
_RESULTS = Path(os.environ.get("DMP_CAMPAIGN_RESULTS") or Path(__file__).with_name("results.json"))


def amount(in_a_test: int, in_a_campaign: int) -> int:
    """How often to do something."""
    return in_a_campaign if CAMPAIGN else in_a_test


@dataclass(slots=True)
class Budget:
    """The time that one scenario has, from its making on; without end outside of a campaign."""

    begun: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.begun

    @property
    def left(self) -> float:
        """Seconds left."""
        return (SECONDS if CAMPAIGN else 3600.0) - self.spent


def publish(scenario: str, results: Mapping[str, object]) -> None:
    """Write down what a scenario of a campaign has counted so far; nothing outside of a campaign."""
    if not CAMPAIGN:
        return
    known: dict[str, object] = json.loads(_RESULTS.read_bytes()) if _RESULTS.exists() else {}
    known["machine"] = _machine()
    known[scenario] = {"until": datetime.now(UTC).isoformat(timespec="seconds"), **results}
    _RESULTS.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


def _machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{os.cpu_count()} cores of {model}, {platform.system()} {platform.release().split('-')[0]}"
