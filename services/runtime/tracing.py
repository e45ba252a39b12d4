"""Traces: W3C trace context, and spans that cost next to nothing when they are not sampled.

The decision comes before any object is built. A call that arrives with a `traceparent` keeps its sender's decision; a
call without one is decided here by the ratio. What is not sampled only carries its `traceparent` on. Exporters are set
up by `telemetry`. Attributes take the keys of `names.LogKey` alone, and errors are recorded by type, never by text.
"""

from __future__ import annotations

import random
import re
from types import TracebackType
from typing import Final, NamedTuple, Self

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan

from services.runtime.names import LogKey

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_LENGTH: Final = 55
_FLAGS_END: Final = 54
_SAMPLED_DIGITS: Final = frozenset("13579bdf")


class TraceParent(NamedTuple):
    """The fields of a W3C `traceparent`: 128-bit trace id, 64-bit parent id, and the sampled flag."""

    trace_id: int
    span_id: int
    sampled: bool


def parse_traceparent(text: str | None) -> TraceParent | None:
    """The fields of a `traceparent` header (W3C Trace Context 1, §3.2); None if absent or malformed."""
    match = _match(text)
    if match is None:
        return None
    return TraceParent(int(match[1], 16), int(match[2], 16), match[3][1] in _SAMPLED_DIGITS)


def format_traceparent(parent: TraceParent) -> str:
    """The header, version 00."""
    return f"00-{parent.trace_id:032x}-{parent.span_id:016x}-{int(parent.sampled):02x}"


def _match(text: str | None) -> re.Match[str] | None:
    if text is None:
        return None
    match = _TRACEPARENT.fullmatch(text)
    if match is None or (text.startswith("00") and len(text) != _LENGTH):
        return None
    return match


class Span:
    """A piece of work of a trace that is not sampled: it only knows the `traceparent` to pass on."""

    __slots__ = ("traceparent",)
    sampled = False

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def set(self, key: LogKey, value: str | int | float | bool) -> None:
        """Add an attribute. Does nothing unless sampled."""

    def end(self, error: str | None = None) -> None:
        """The work is done; `error` is the reason or type of what went wrong, never a text of an exception."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.end(None if kind is None else kind.__name__)


class SampledSpan(Span):
    """A piece of work that is recorded and exported."""

    __slots__ = ("_span",)
    sampled = True

    def __init__(self, span: OtelSpan) -> None:
        context = span.get_span_context()
        super().__init__(format_traceparent(TraceParent(context.trace_id, context.span_id, sampled=True)))
        self._span = span

    def set(self, key: LogKey, value: str | int | float | bool) -> None:
        self._span.set_attribute(key, value)

    def end(self, error: str | None = None) -> None:
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


class Tracer:
    """Starts spans. Without a provider none is ever recorded, and trace contexts still travel on."""

    def __init__(self, provider: TracerProvider | None, ratio: float) -> None:
        """`ratio` (0 to 1) of the calls that arrive without a trace are sampled."""
        self._tracer = None if provider is None else provider.get_tracer("dmp")
        self._bound = 0 if provider is None else round(ratio * 2**64)

    def start(self, name: str, traceparent: str | None = None, kind: SpanKind = SpanKind.INTERNAL) -> Span:
        """Start a span named for a method or step, as a child of `traceparent`, or of a new trace without a valid one.

        Use it as a context manager, or call `end`; its `traceparent` is what to pass on.
        """
        match = _match(traceparent)
        if match is None or traceparent is None:
            if self._tracer is None or random.getrandbits(64) >= self._bound:
                return Span(f"00-{random.getrandbits(128) or 1:032x}-{random.getrandbits(64) or 1:016x}-00")
            return SampledSpan(self._tracer.start_span(name, kind=kind))
        if self._tracer is None or traceparent[_FLAGS_END] not in _SAMPLED_DIGITS:
            return Span(traceparent)
        parent = SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=TraceFlags(1))
        context = set_span_in_context(NonRecordingSpan(parent))
        return SampledSpan(self._tracer.start_span(name, context, kind=kind))
