"""The arithmetic of the benchmark, its load on a fake workload, and how results are written."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from bench import figures, load, page, report
from bench.figures import IN_FLIGHT, WORK, Measurement, Name, Ratio, Row
from bench.machine import Machine, cpu_seconds, machine
from bench.population import another, submission
from bench.run import Plan, Result, TrailCheck
from bench.usage import PROCESSES, Cost, Usage, costs
from services.runtime.identifiers import dossier_name

Counted = tuple[tuple[Name, int], ...]

AT = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_a_value_at_or_below_which_that_part_lies(values: list[float], part: float) -> None:
    ordered = sorted(values)
    found = figures.percentile(ordered, part)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= part * len(ordered)
    assert sum(value < found for value in ordered) < part * len(ordered)


@pytest.mark.parametrize(("values", "part"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.1)])
def test_there_is_no_percentile_of_nothing_or_beyond_all(values: list[float], part: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        figures.percentile(values, part)


def test_a_row_has_milliseconds_and_calls_a_second() -> None:
    measured = Measurement(2.0, tuple(number / 1000 for number in range(100, 0, -1)), answered=120)
    assert figures.row("submit", "grpcio", 16, measured) == Row("submit", "grpcio", 16, 50.0, 50.0, 95.0, 99.0)


def test_pooled_measurements_weigh_by_their_time() -> None:
    both = figures.pooled([Measurement(1.0, (0.1,) * 10, 12), Measurement(3.0, (0.2,) * 90, 95)])
    assert (both.seconds, both.rate, both.answered) == (4.0, 25.0, 107)
    with pytest.raises(ValueError, match="nothing"):
        figures.pooled([])


def test_a_ratio_fails_the_run_only_where_something_is_asked() -> None:
    asked = [Ratio("read_metadata", 256, 299.0, 1000.0), Ratio("read_metadata", 16, 150.0, 1000.0)]
    free = [Ratio("read_metadata", 64, 1.0, 1000.0), Ratio("submit", 256, 1.0, 1000.0)]
    assert figures.too_low([*asked, *free]) == asked[:1]
    measured, neighbours = Measurement(1.0, (0.1,) * 30, 30), Measurement(2.0, (0.1,) * 200, 200)
    assert figures.ratio("read_metadata", 256, measured, neighbours).value == pytest.approx(0.3)


class Answering:
    """A workload that answers after a moment, and fails when told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.under_way = 0
        self.most = 0
        self.sent = 0

    async def send(self, connection: int) -> None:
        assert 0 <= connection < load.CONNECTIONS
        self.sent += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.005)
        self.under_way -= 1
        if self.failure is not None:
            raise self.failure


async def test_as_many_calls_are_under_way_as_asked_and_all_are_answered() -> None:
    work = Answering()
    measured = await load.measure(work, 7, warm_up=0.03, seconds=0.1)
    assert work.most == 7
    assert work.under_way == 0
    assert work.sent == measured.answered
    assert 0 < len(measured.latencies) < measured.answered, "the warm-up is not measured"
    assert min(measured.latencies) >= 0.004


@pytest.mark.parametrize(
    "failure",
    [
        load.WrongAnswer("an answer of 0 bytes"),
        grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone"),
    ],
)
async def test_a_measurement_with_a_failure_measures_nothing(failure: Exception) -> None:
    with pytest.raises(load.CallsFailed, match=r"an answer of 0 bytes|UNAVAILABLE: gone"):
        await load.measure(Answering(failure), 2, warm_up=0, seconds=0.02)


def test_another_document_differs_in_its_identifiers_alone() -> None:
    model = b'<id root="2.25.111"/><x/><setId root="2.25.222"/><versionNumber value="1"/><id root="1.2.250.1"/>'
    made = [another(model) for _ in range(2)]
    assert len({*made, model}) == 3
    assert {re.sub(rb"2\.25\.\d+", b"-", each) for each in (*made, model)} == {re.sub(rb"2\.25\.\d+", b"-", model)}


def test_submissions_are_never_alike() -> None:
    first, second = (submission(7, [b"content"]) for _ in range(2))
    assert first.parent == dossier_name(7)
    assert first.request_id != second.request_id
    assert first.submission_set.unique_id != second.submission_set.unique_id
    assert first.documents[0].document.size == len(b"content")


def test_cpu_time_is_divided_by_the_calls_it_was_spent_on() -> None:
    before = Usage((1.0,) * len(PROCESSES))
    spent = Usage((1.5,) * len(PROCESSES)).since(before, 1000)
    [cost] = costs({"read_metadata": spent + spent, "submit": Usage()})
    assert cost.name == "read_metadata"
    assert cost.microseconds == pytest.approx((500.0,) * len(PROCESSES))
    assert cpu_seconds(os.getpid()) >= 0


def result(*, exact: bool = True) -> Result:
    rows = tuple(Row(name, "grpcio", n, 1000.0, 1.0, 2.0, 3.0) for n in IN_FLIGHT for name in ("echo", *WORK))
    counted = tuple((name, 100) for name in WORK)
    return Result(
        machine=Machine(2, "a processor", 8.0, "Linux", "CPython 3.11", "18", ("grpcio 1",), 0.1),
        plan=Plan(),
        echo_bytes=500,
        rows=rows,
        ratios=tuple(Ratio(name, n, 1000.0, 4000.0) for n in IN_FLIGHT for name in WORK),
        plain_echo=rows[0],
        costs=(Cost("read_metadata", (100.0,) * len(PROCESSES)),),
        trail=TrailCheck(counted, counted, 500, 500 if exact else 499, 9, 9),
    )


def test_a_section_replaces_its_own_and_leaves_the_others_in_their_order() -> None:
    written = page.with_section("", "audit", "## The log\n\nfast")
    written = page.with_section(written, "platform", "# How fast\n")
    written = page.with_section(written, "consent", "## Access")
    assert [line for line in written.splitlines() if line.startswith("#")] == ["# How fast", "## Access", "## The log"]
    again = page.with_section(written, "audit", "## The log\n\nfaster")
    assert again == written.replace("fast\n<!-- end -->\n", "faster\n<!-- end -->\n").replace("How faster", "How fast")
    with pytest.raises(ValueError, match="no part is called weather"):
        page.with_section(written, "weather", "sunny")


def test_a_section_tells_when_on_what_and_beside_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(page, "PERFORMANCE", tmp_path / "performance.md")
    shown = Table("what", "p50 ms")
    shown.add_row("a read", "1.50")
    page.publish("consent", "Access", shown, "five times", busy=99.0)
    page.publish("audit", "The log", shown, busy=0.0)
    written = (tmp_path / "performance.md").read_text("utf-8")
    assert "| what | p50 ms |\n|---|--:|\n| a read | 1.50 |\n\n- five times\n" in written
    assert written.count("Others were using the machine") == 1
    figures = json.loads((tmp_path / "results.json").read_bytes())
    assert list(figures) == ["consent", "audit"]
    assert figures["audit"]["rows"] == [{"what": "a read", "p50 ms": "1.50"}]


def test_the_page_says_what_is_asked_and_whether_the_trail_is_exact() -> None:
    said = report.performance_md(result(), AT)
    assert "| 256 | metadata read | 1,000 | 1.00 | 2.00 | 3.00 | 0.25 | 0.30 |" in said
    assert "Each call has exactly one event." in said
    assert "22 November 2026" in said
    assert "Others were using" not in said
    assert "the run failed" in report.performance_md(result(exact=False), AT)
    assert max(map(len, said.splitlines())) <= 200


def test_the_table_fits_a_terminal() -> None:
    written = io.StringIO()
    Console(width=80, file=written).print(report.table(result()))
    shown = written.getvalue()
    assert "gateway_read_metadata" in shown
    assert "…" not in shown


def test_a_lost_or_doubled_event_is_seen() -> None:
    counted: Counted = (("submit", 3),)
    assert TrailCheck(counted, counted, 5, 5, 2, 2).exact
    assert not TrailCheck(counted, (("submit", 2),), 5, 5, 2, 2).exact
    assert not TrailCheck(counted, counted, 5, 4, 2, 2).exact
    assert not TrailCheck(counted, counted, 5, 5, 2, 3).exact


def test_this_machine_can_be_described() -> None:
    here = machine("18.1", 0.5)
    assert here.cores >= 1
    assert here.memory_gib > 0
    assert here.processor
    assert any(package.startswith("grpcio ") for package in here.packages)
