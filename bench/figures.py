"""What a measurement is, and the arithmetic on it: percentiles, rows, ratios, the verdict. Pure; no I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Name = Literal["echo", "read_metadata", "read_content", "gateway_read_metadata", "submit"]
Transport = Literal["grpcio", "native", "native+tls"]
"""grpcio over its own TLS; native on its socket; native behind Envoy."""

ECHO: Final[Name] = "echo"
WORK: Final[tuple[Name, ...]] = ("read_metadata", "read_content", "gateway_read_metadata", "submit")
IN_FLIGHT: Final = (1, 16, 64, 256)
LEAST: Final[Mapping[tuple[Name, int], float]] = {("read_metadata", 16): 0.15, ("read_metadata", 256): 0.30}
"""The ratios to the echo below which a run fails, by name and calls in flight."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Calls that ended inside one window: its length in seconds, and each call's latency in seconds.

    `answered` counts all calls made for it, those of the warm-up and those that ended after the window too.
    """

    seconds: float
    latencies: tuple[float, ...]
    answered: int

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.latencies) / self.seconds


@dataclass(frozen=True, slots=True)
class Row:
    """One line of bench/results.json."""

    name: Name
    transport: Transport
    in_flight: int
    rate_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """A rate beside that of the echoes just before and just after its measurements."""

    name: Name
    in_flight: int
    rate_per_s: float
    echo_per_s: float

    @property
    def value(self) -> float:
        """The rate as a part of the echo's."""
        return self.rate_per_s / self.echo_per_s

    @property
    def least(self) -> float | None:
        """What it must reach, None where nothing is asked."""
        return LEAST.get((self.name, self.in_flight))

    @property
    def enough(self) -> bool:
        """Whether it reaches what it must."""
        return self.least is None or self.value >= self.least


def percentile(ordered: Sequence[float], part: float) -> float:
    """The value below or at which `part` (above 0, at most 1) of the values lie (nearest rank); ValueError for none."""
    if not ordered:
        raise ValueError("no value has a percentile")
    if not 0 < part <= 1:
        raise ValueError("a percentile is above 0 and at most 1")
    return ordered[math.ceil(part * len(ordered)) - 1]


def pooled(measured: Sequence[Measurement]) -> Measurement:
    """Several measurements as one; ValueError for none."""
    if not measured:
        raise ValueError("nothing was measured")
    return Measurement(
        seconds=sum(each.seconds for each in measured),
        latencies=tuple(latency for each in measured for latency in each.latencies),
        answered=sum(each.answered for each in measured),
    )


def row(name: Name, transport: Transport, in_flight: int, measured: Measurement) -> Row:
    """A measurement as a line of results. ValueError when no call ended in it."""
    ordered = sorted(measured.latencies)
    p50, p95, p99 = (round(percentile(ordered, part) * 1000, 3) for part in (0.50, 0.95, 0.99))
    return Row(name, transport, in_flight, round(measured.rate, 1), p50, p95, p99)


def ratio(name: Name, in_flight: int, measured: Measurement, neighbours: Measurement) -> Ratio:
    """A measurement against the echoes around it."""
    return Ratio(name, in_flight, measured.rate, neighbours.rate)


def too_low(ratios: Sequence[Ratio]) -> list[Ratio]:
    """The ratios that fail the run."""
    return [each for each in ratios if not each.enough]
