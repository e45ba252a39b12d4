"""What the overload bench concludes from what it found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.overload import Findings, table

KEPT = Findings(
    peak=1000.0,
    sustained=950.0,
    refused=100.0,
    unsent=0.0,
    alone=(0.010,) * 100,
    flood=(0.015,) * 100,
    overload=(0.020,) * 100,
    after=((0.1, 0.5), (0.2, 0.3), (3.0, 0.01)),
    memory=(100, 120, 126, 130, 128, 130),
    served_seconds=0.0004,
    refused_seconds=0.00004,
    failed={},
)


def test_a_platform_that_keeps_its_promises_has_no_shortcomings() -> None:
    assert KEPT.shortcomings() == []
    assert KEPT.throughput == pytest.approx(0.95)
    assert KEPT.growth == pytest.approx(130 / 120), "from the end of the first third on: warming up is no growth"
    assert KEPT.recovery == pytest.approx(0.6), "from when on nobody waited"
    assert table(KEPT).row_count == 3


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (replace(KEPT, sustained=849.0), "throughput 0.85"),
        (replace(KEPT, flood=(0.015,) * 98 + (0.021,) * 2), "flood: p99"),
        (replace(KEPT, overload=(0.015,) * 98 + (0.021,) * 2), "overload: p99"),
        (replace(KEPT, memory=(100, 120, 126, 133, 128, 130)), "memory grew to 1.11"),
        (replace(KEPT, unsent=101.0), "101 calls a second"),
        (replace(KEPT, after=((4.9, 0.2),)), "recovery took 5.1 s"),
        (replace(KEPT, failed={"INTERNAL: a defect": 1}), "INTERNAL"),
    ],
)
def test_each_promise_not_kept_is_said(found: Findings, said: str) -> None:
    [shortcoming] = found.shortcomings()
    assert said in shortcoming
