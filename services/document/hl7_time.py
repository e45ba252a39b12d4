"""HL7 timestamps (data type TS), as in CDA: `YYYYMMDDHHMMSS.UUUU+ZZZZ`, cut at any length.

Here live their syntax and their precision. No clock is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from enum import StrEnum
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

PARIS: Final = ZoneInfo("Europe/Paris")
"""The zone of a timestamp that states none (assumed: CI-SIS asks for the zone whenever there is an hour)."""

FIRST_YEAR: Final = 1800
LAST_YEAR: Final = 2200
"""Years outside are typing errors, and their neighbours cannot be converted between zones."""

_TIMESTAMP: Final = re.compile(
    r"(?P<year>\d{4})(?:(?P<month>\d\d)(?:(?P<day>\d\d)(?:(?P<hour>\d\d)"
    r"(?:(?P<minute>\d\d)(?:(?P<second>\d\d)(?:\.(?P<fraction>\d{1,32}))?)?)?)?)?)?"
    r"(?P<zone>[+-]\d\d(?:\d\d)?)?",
    re.ASCII,
)
_BIRTH_DATE: Final = re.compile(r"(\d{4})(\d\d)?(\d\d)?", re.ASCII)
_LARGEST_OFFSET: Final = timedelta(hours=14)


class Precision(StrEnum):
    """How much of a timestamp was stated; the rest is filled with the earliest value."""

    YEAR = "year"
    MONTH = "month"
    DAY = "day"
    HOUR = "hour"
    MINUTE = "minute"
    SECOND = "second"
    FRACTION = "fraction"


_PRECISIONS: Final = tuple(Precision)
"""By how many parts are stated, less one."""


@dataclass(frozen=True, slots=True)
class Hl7Time:
    """A timestamp: the aware instant (in the zone stated) and what of it was stated."""

    instant: datetime
    precision: Precision


def parse_timestamp(text: str, *, default_zone: tzinfo = PARIS) -> Hl7Time:
    """Read an HL7 TS of any length. Raises ValueError, whose message does not repeat the text.

    What is stated below a microsecond is cut off."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueError("not an HL7 timestamp YYYY[MM[DD[HH[MM[SS[.UUUUUU]]]]]][+ZZZZ]")
    year, month, day, hour, minute, second, fraction, stated_zone = match.groups()
    if not FIRST_YEAR <= int(year) <= LAST_YEAR:
        raise ValueError(f"the year is outside {FIRST_YEAR} to {LAST_YEAR}")
    zone = _zone(stated_zone) if stated_zone else default_zone
    try:
        instant = datetime(
            int(year),
            int(month or 1),
            int(day or 1),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0")[:6].ljust(6, "0")),
            tzinfo=zone,
        )
    except ValueError:
        raise ValueError("no such day or time of day") from None
    # Each part is stated only with those before it.
    return Hl7Time(instant, _PRECISIONS[6 - (year, month, day, hour, minute, second, fraction).count(None)])


def parse_birth_date(text: str) -> date | str:
    """Read a birth date: a `date`, or the ISO form of what is known ("1979", "1979-03") where a part is missing or 00.

    A time of day may follow and is dropped. Raises ValueError, whose message does not repeat the text.
    """
    match = _BIRTH_DATE.match(text)
    if match is None:
        raise ValueError("not a date YYYY[MM[DD]]")
    year, month, day = match.groups()
    rest = text[match.end() :]
    if rest and (day is None or not _TIMESTAMP.fullmatch(text)):
        raise ValueError("not a date YYYY[MM[DD]]")
    if not FIRST_YEAR <= int(year) <= LAST_YEAR:
        raise ValueError(f"the year is outside {FIRST_YEAR} to {LAST_YEAR}")
    if month is None or month == "00":
        if day not in {None, "00"}:
            raise ValueError("a day without its month")
        return str(year)
    if day is None or day == "00":
        if not 1 <= int(month) <= 12:
            raise ValueError("no such month")
        return f"{year}-{month}"
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        raise ValueError("no such day") from None


def format_timestamp(instant: datetime) -> str:
    """Write an aware instant to the second, with its zone. Raises ValueError for a naive one."""
    if instant.tzinfo is None:
        raise ValueError("a timestamp needs its zone")
    return instant.strftime("%Y%m%d%H%M%S%z")[:19]


@lru_cache(maxsize=256)
def _zone(text: str) -> tzinfo:
    hours, minutes = int(text[1:3]), int(text[3:5] or 0)
    offset = timedelta(hours=hours, minutes=minutes)
    if minutes > 59 or offset > _LARGEST_OFFSET:
        raise ValueError("no such time zone")
    if not offset:
        return UTC
    return timezone(-offset if text[0] == "-" else offset)
