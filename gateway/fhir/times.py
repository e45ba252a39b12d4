"""FHIR dates to protobuf timestamps and back, and date search parameters to half-open ranges. Pure.

A time without a zone is read in Europe/Paris, the platform's own (FHIR search: the server's local time zone).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from google.protobuf.timestamp_pb2 import Timestamp

from dmp.document.v1.document_pb2 import TimeRange
from gateway.fhir.node import Node
from gateway.fhir.refusals import invalid

PARIS: Final = ZoneInfo("Europe/Paris")

_DATE_TIME: Final = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d\d)(?:-(?P<day>\d\d)"
    r"(?:T(?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?"
    r"(?P<zone>Z|[+-]\d\d:\d\d)?)?)?)?",
    re.ASCII,
)
_LONGEST: Final = 40
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 (UTC, written with its Z)
PREFIXES: Final = frozenset({"eq", "ne", "ge", "gt", "le", "lt", "sa", "eb", "ap"})


def timestamp(node: Node) -> Timestamp | None:
    """The instant that a date, dateTime or instant element begins at; None when absent."""
    text = node.token(_LONGEST)
    if not text:
        return None
    return _to_timestamp(_interval(text, node.path)[0])


def last_second(node: Node) -> Timestamp | None:
    """The instant at which a period ends: a date, month or year takes in all of itself (R4: Period.end); None when
    absent."""
    text = node.token(_LONGEST)
    if not text or "T" in text:
        return timestamp(node)
    return _to_timestamp(_interval(text, node.path)[1] - timedelta(seconds=1))


def instant(node: Node) -> Timestamp | None:
    """The time of an instant element: complete to the second, with its zone; None when absent."""
    text = node.token(_LONGEST)
    match = _DATE_TIME.fullmatch(text)
    if text and (match is None or match["second"] is None or match["zone"] is None):
        raise invalid(node.path, "instant", "an instant is complete: date, time to the second, and zone")
    return timestamp(node)


def partial_date(node: Node) -> str:
    """A date element as written: YYYY, YYYY-MM or YYYY-MM-DD; '' when absent."""
    text = node.token(_LONGEST)
    if text:
        if "T" in text:
            raise invalid(node.path, "date", "a date without time: YYYY, YYYY-MM or YYYY-MM-DD")
        _interval(text, node.path)
    return text


def write(value: Timestamp) -> str:
    """A timestamp as a FHIR instant, in UTC, to the millisecond where it has one."""
    micros = value.nanos // 1000  # not by ToDatetime, which takes thrice as long
    moment = _EPOCH + timedelta(seconds=value.seconds, microseconds=micros)
    return moment.isoformat(timespec="milliseconds" if micros else "seconds") + "Z"


def narrow(range_: TimeRange, text: str, field: str) -> None:
    """Narrow a range by one value of a date parameter, such as `ge2024-01` (R4 search: prefixes).

    `ap` takes as much time again on either side: ap2024 is 2023 to 2025, ap2024-05-10 three days. (How near is near is
    each server's own; what grows with the time gone by would differ from page to page.)
    """
    prefix, begin, end = _bounds(text, field)
    if prefix in ("eq", "ge", "ap"):
        _raise_start(range_, begin)
    if prefix in ("gt", "sa"):
        _raise_start(range_, end)
    if prefix in ("eq", "le", "ap"):
        _lower_end(range_, end)
    if prefix in ("lt", "eb"):
        _lower_end(range_, begin)
    if prefix == "ne":
        if range_.HasField("excluded_start_time"):
            raise invalid(field, "repeated", "the prefix ne once")
        range_.excluded_start_time.CopyFrom(_to_timestamp(begin))
        range_.excluded_end_time.CopyFrom(_to_timestamp(end))


def is_within(range_: TimeRange, moment: Timestamp) -> bool:
    """Whether a range takes a moment in."""
    place = (moment.seconds, moment.nanos)
    start, end = range_.start_time, range_.end_time
    without = range_.excluded_start_time, range_.excluded_end_time
    if range_.HasField("excluded_start_time") and (
        (without[0].seconds, without[0].nanos) <= place < (without[1].seconds, without[1].nanos)
    ):
        return False
    return (not range_.HasField("start_time") or (start.seconds, start.nanos) <= place) and (
        not range_.HasField("end_time") or place < (end.seconds, end.nanos)
    )


def narrow_period(starts: TimeRange, ends: TimeRange, text: str, field: str) -> None:
    """Narrow where a period begins and where it ends by one value of a date parameter: `ge` and `le` keep what overlaps
    the time from, or up to, the date; `eq` what lies within it; `sa` and `eb` what lies wholly after, or before."""
    prefix, begin, end = _bounds(text, field)
    if prefix == "ne":
        raise invalid(field, "prefix", "the prefix ne is not offered for a period: period-start and period-end have it")
    if prefix in ("eq", "ap"):
        _raise_start(starts if prefix == "eq" else ends, begin)
        _lower_end(ends if prefix == "eq" else starts, end)
    if prefix in ("ge", "gt"):
        _raise_start(ends, begin if prefix == "ge" else end)
    if prefix in ("le", "lt"):
        _lower_end(starts, end if prefix == "le" else begin)
    if prefix == "sa":
        _raise_start(starts, end)
    if prefix == "eb":
        _lower_end(ends, begin)


def _bounds(text: str, field: str) -> tuple[str, datetime, datetime]:
    """The prefix of a date parameter, and what its date means; of `ap`, with its neighbours."""
    prefix, value = (text[:2], text[2:]) if text[:2].isalpha() else ("eq", text)
    if prefix not in PREFIXES:
        raise invalid(field, "prefix", f"one of the prefixes {', '.join(sorted(PREFIXES))}")
    begin, end = _interval(value.replace(" ", "+"), field)  # the + of a zone that was not percent-encoded
    if prefix == "ap":
        try:
            begin, end = begin - (end - begin), end + (end - begin)
        except OverflowError:
            raise invalid(field, "date", "this is no date of the calendar") from None
    return prefix, begin, end


def since(text: str, field: str) -> Timestamp:
    """The instant that a date parameter begins at; the prefix ge is understood."""
    return _to_timestamp(_interval(text.removeprefix("ge"), field)[0])


def _interval(text: str, field: str) -> tuple[datetime, datetime]:
    """What a date means: from its first instant to the first after it, by its precision."""
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise invalid(field, "date", "a FHIR date: YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm:ss with a zone")
    try:
        begin = _begin(match)
        return begin.astimezone(UTC), _after(match, begin).astimezone(UTC)
    except (ValueError, OverflowError):
        raise invalid(field, "date", "this is no date of the calendar") from None


def _begin(match: re.Match[str]) -> datetime:
    fraction = (match["fraction"] or "")[:6].ljust(6, "0")
    return datetime(
        int(match["year"]),
        int(match["month"] or 1),
        int(match["day"] or 1),
        int(match["hour"] or 0),
        int(match["minute"] or 0),
        int(match["second"] or 0),
        int(fraction),
        tzinfo=datetime.strptime(match["zone"], "%z").tzinfo if match["zone"] else PARIS,
    )


def _after(match: re.Match[str], begin: datetime) -> datetime:
    if match["month"] is None:
        return begin.replace(year=begin.year + 1)
    if match["day"] is None:
        return begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
    if match["hour"] is None:
        return begin + timedelta(days=1)
    if match["second"] is None:
        return begin + timedelta(minutes=1)
    fraction = match["fraction"]
    return begin + (timedelta(microseconds=max(1, 10 ** (6 - len(fraction)))) if fraction else timedelta(seconds=1))


def _raise_start(range_: TimeRange, moment: datetime) -> None:
    if not range_.HasField("start_time") or range_.start_time.ToDatetime(tzinfo=UTC) < moment:
        range_.start_time.CopyFrom(_to_timestamp(moment))


def _lower_end(range_: TimeRange, moment: datetime) -> None:
    if not range_.HasField("end_time") or range_.end_time.ToDatetime(tzinfo=UTC) > moment:
        range_.end_time.CopyFrom(_to_timestamp(moment))


def _to_timestamp(moment: datetime) -> Timestamp:
    value = Timestamp()
    value.FromDatetime(moment)
    return value
