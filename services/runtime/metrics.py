"""Metrics cheap enough for the request path: plain Python numbers, given to OpenTelemetry or Prometheus when asked.

Here live the instruments and their registry. The names, units, labels and bounds are `names`; exporting is set up by
`telemetry`. An instrument is added to from the process's event loop; reading from another thread is safe, adding from
two threads at once may lose a count.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramPoints
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from services.runtime.names import (
    LABEL_VALUES,
    METRICS,
    OTHER,
    CounterName,
    GaugeName,
    HistogramName,
    Label,
    MetricName,
    MetricSpec,
)

LabelValues = tuple[str, ...]
_SCOPE: Final = InstrumentationScope("dmp")


class _Labelled:
    """What instruments share: their spec and the label values that were declared."""

    __slots__ = ("_declared", "name", "spec")

    def __init__(self, name: MetricName, spec: MetricSpec, declared: tuple[frozenset[str], ...]) -> None:
        self.name = name
        self.spec = spec
        self._declared = declared

    def _bounded(self, values: LabelValues) -> LabelValues:
        """The values with each undeclared one as `other`. ValueError if there are not as many as labels."""
        if len(values) != len(self._declared):
            raise ValueError(f"{self.name} has the labels {self.spec.labels}")
        return tuple(value if value in known else OTHER for value, known in zip(values, self._declared, strict=True))


class Counter(_Labelled):
    """A number that only grows, for each combination of label values."""

    __slots__ = ("_cells",)

    def __init__(self, name: CounterName, spec: MetricSpec, declared: tuple[frozenset[str], ...]) -> None:
        super().__init__(name, spec, declared)
        self._cells: dict[LabelValues, int] = {}

    def add(self, amount: int, *values: str) -> None:
        """Add `amount` (not negative) to the cell of these label values, in the order of the spec's labels."""
        try:
            self._cells[values] += amount
        except KeyError:
            bounded = self._bounded(values)
            self._cells[bounded] = self._cells.get(bounded, 0) + amount

    def value(self, *values: str) -> int:
        """The count so far."""
        return self._cells.get(self._bounded(values), 0)

    def cells(self) -> Mapping[LabelValues, int]:
        """A copy of every cell."""
        return dict(self._cells)


class _Distribution:
    """One cell of a histogram: how many values fell in each bucket, their sum and extremes."""

    __slots__ = ("counts", "largest", "smallest", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.total = 0.0
        self.smallest = math.inf
        self.largest = -math.inf


class Histogram(_Labelled):
    """How values are distributed over fixed buckets, for each combination of label values."""

    __slots__ = ("_bounds", "_cells")

    def __init__(self, name: HistogramName, spec: MetricSpec, declared: tuple[frozenset[str], ...]) -> None:
        super().__init__(name, spec, declared)
        self._bounds = spec.buckets
        self._cells: dict[LabelValues, _Distribution] = {}

    def record(self, value: float, *values: str) -> None:
        """Count one `value`, in the spec's unit, under these label values."""
        cell = self._cells.get(values)
        if cell is None:
            cell = self._cells.setdefault(self._bounded(values), _Distribution(len(self._bounds)))
        cell.counts[bisect_left(self._bounds, value)] += 1
        cell.total += value
        if value < cell.smallest:
            cell.smallest = value
        if value > cell.largest:
            cell.largest = value

    def count(self, *values: str) -> int:
        """How many values were recorded."""
        cell = self._cells.get(self._bounded(values))
        return 0 if cell is None else sum(cell.counts)

    def cells(self) -> Mapping[LabelValues, _Distribution]:
        """Every cell; the distributions are the live ones."""
        return dict(self._cells)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A gauge's label values and the function that reads it."""

    values: LabelValues
    read: Callable[[], float]


class Metrics:
    """The instruments of one process. Asking twice for a name gives the same instrument."""

    def __init__(self) -> None:
        self._counters: dict[CounterName, Counter] = {}
        self._histograms: dict[HistogramName, Histogram] = {}
        self._gauges: dict[GaugeName, dict[LabelValues, _Reading]] = {}
        self._since = time.time_ns()

    def counter(self, name: CounterName, declared: Mapping[Label, tuple[str, ...]] | None = None) -> Counter:
        """The counter of that name; `declared` bounds the labels that `LABEL_VALUES` does not."""
        found = self._counters.get(name)
        if found is None:
            found = self._counters[name] = Counter(name, METRICS[name], _declared(METRICS[name], declared))
        return found

    def histogram(self, name: HistogramName, declared: Mapping[Label, tuple[str, ...]] | None = None) -> Histogram:
        """The histogram of that name; `declared` as for `counter`."""
        found = self._histograms.get(name)
        if found is None:
            found = self._histograms[name] = Histogram(name, METRICS[name], _declared(METRICS[name], declared))
        return found

    def gauge(self, name: GaugeName, read: Callable[[], float], *values: str) -> None:
        """Read this gauge by `read`, a quick function, whenever metrics are collected. Replaces an earlier one."""
        self._gauges.setdefault(name, {})[values] = _Reading(values, read)

    def render(self) -> str:
        """All metrics as Prometheus text (version 0.0.4)."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        for counter in self._counters.values():
            yield from _head(counter.name, "counter")
            for values, count in counter.cells().items():
                yield f"{counter.name}{_labels(counter.spec, values)} {count}"
        for name, readings in self._gauges.items():
            yield from _head(name, "gauge")
            for reading in readings.values():
                yield f"{name}{_labels(METRICS[name], reading.values)} {reading.read():g}"
        for histogram in self._histograms.values():
            yield from _head(histogram.name, "histogram")
            for values, cell in histogram.cells().items():
                below = 0
                for bound, count in zip((*histogram.spec.buckets, math.inf), cell.counts, strict=True):
                    below += count
                    upper = "+Inf" if bound == math.inf else f"{bound:g}"
                    yield f"{histogram.name}_bucket{_labels(histogram.spec, values, upper)} {below}"
                yield f"{histogram.name}_sum{_labels(histogram.spec, values)} {cell.total:g}"
                yield f"{histogram.name}_count{_labels(histogram.spec, values)} {below}"

    def collect(self, resource: Resource) -> MetricsData:
        """All metrics, cumulative since the process began, as an OpenTelemetry exporter takes them."""
        now = time.time_ns()
        metrics = [*self._counter_points(now), *self._gauge_points(now), *self._histogram_points(now)]
        scope = ScopeMetrics(scope=_SCOPE, metrics=metrics, schema_url="")
        return MetricsData([ResourceMetrics(resource=resource, scope_metrics=[scope], schema_url="")])

    def _counter_points(self, now: int) -> Iterator[Metric]:
        for counter in self._counters.values():
            points = [
                NumberDataPoint(_attributes(counter.spec, values), self._since, now, count)
                for values, count in counter.cells().items()
            ]
            yield _metric(counter.name, Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True))

    def _gauge_points(self, now: int) -> Iterator[Metric]:
        for name, readings in self._gauges.items():
            points = [
                NumberDataPoint(_attributes(METRICS[name], reading.values), self._since, now, reading.read())
                for reading in readings.values()
            ]
            yield _metric(name, Gauge(points))

    def _histogram_points(self, now: int) -> Iterator[Metric]:
        for histogram in self._histograms.values():
            points = []
            for values, cell in histogram.cells().items():
                counts = list(cell.counts)
                points.append(
                    HistogramDataPoint(
                        attributes=_attributes(histogram.spec, values),
                        start_time_unix_nano=self._since,
                        time_unix_nano=now,
                        count=sum(counts),
                        sum=cell.total,
                        bucket_counts=counts,
                        explicit_bounds=histogram.spec.buckets,
                        min=cell.smallest,
                        max=cell.largest,
                    )
                )
            yield _metric(histogram.name, HistogramPoints(points, AggregationTemporality.CUMULATIVE))


def _declared(spec: MetricSpec, declared: Mapping[Label, tuple[str, ...]] | None) -> tuple[frozenset[str], ...]:
    """The values allowed for each label of the spec. KeyError for a label that nobody bounds."""
    given = declared or {}
    return tuple(frozenset(given.get(label) or LABEL_VALUES[label]) for label in spec.labels)


def _attributes(spec: MetricSpec, values: LabelValues) -> dict[str, str]:
    return dict(zip(spec.labels, values, strict=True))


def _metric(name: MetricName, points: Sum | Gauge | HistogramPoints) -> Metric:
    return Metric(name=name, description=METRICS[name].description, unit=METRICS[name].unit, data=points)


def _head(name: MetricName, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {METRICS[name].description}"
    yield f"# TYPE {name} {kind}"


def _labels(spec: MetricSpec, values: LabelValues, upper: str | None = None) -> str:
    """The braces of a sample. Values are declared in code or are names of ours, and need no escaping but quotes."""
    pairs = [*zip(spec.labels, values, strict=True), *((("le", upper),) if upper else ())]
    if not pairs:
        return ""
    return "{" + ",".join(f'{label}="{_escaped(value)}"' for label, value in pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
