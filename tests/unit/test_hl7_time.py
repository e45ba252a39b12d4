"""HL7 timestamps of every length, and birth dates, whole or partial."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.document.hl7_time import format_timestamp, parse_birth_date, parse_timestamp


@pytest.mark.parametrize(
    ("text", "instant", "precision"),
    [
        ("2021+0100", "2021-01-01T00:00:00+01:00", "year"),
        ("202104-0400", "2021-04-01T00:00:00-04:00", "month"),
        ("20210401+00", "2021-04-01T00:00:00+00:00", "day"),
        ("2021040117+1030", "2021-04-01T17:00:00+10:30", "hour"),
        ("202104011710+0100", "2021-04-01T17:10:00+01:00", "minute"),
        ("20210401171005+0100", "2021-04-01T17:10:05+01:00", "second"),
        ("20210401171005.5+0100", "2021-04-01T17:10:05.500000+01:00", "fraction"),
        ("20210401171005.0625", "2021-04-01T17:10:05.062500+02:00", "fraction"),
        ("20210101", "2021-01-01T00:00:00+01:00", "day"),
    ],
)
def test_a_timestamp_of_any_length_is_exact(text: str, instant: str, precision: str) -> None:
    found = parse_timestamp(text)
    assert found.instant == datetime.fromisoformat(instant)
    assert found.instant.utcoffset() == datetime.fromisoformat(instant).utcoffset()
    assert found.precision == precision


@pytest.mark.parametrize(
    "text",
    ["", "2", "20211", "20210230", "2021040124", "202104011060", "20210401171060", "20210401171005.", "20210401+1500",
     "20210401+0160", "0000", "1799", "99991231", "２０２１", "2021-04-01", "20210401T10", "+0100", " 2021"],
)  # fmt: skip
def test_what_is_not_a_timestamp_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an HL7|no such|outside"):
        parse_timestamp(text)


offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instants = st.datetimes(
    datetime(1800, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(2200, 12, 31),  # noqa: DTZ001
    timezones=offsets,
)


@given(
    instants,
    st.sampled_from(
        [(4, "year"), (6, "month"), (8, "day"), (10, "hour"), (12, "minute"), (14, "second"), (21, "fraction")]
    ),
)
def test_what_is_written_is_read_back(instant: datetime, cut: tuple[int, str]) -> None:
    length, precision = cut
    written = instant.strftime("%Y%m%d%H%M%S.%f")[:length]
    found = parse_timestamp(written + instant.strftime("%z"))
    assert found.precision == precision
    assert found.instant.strftime("%Y%m%d%H%M%S.%f")[:length] == written
    assert found.instant.utcoffset() == instant.utcoffset()
    assert found.instant <= instant


@given(st.text(alphabet="0123456789+-. ", max_size=24))
def test_any_string_is_a_timestamp_or_a_value_error(text: str) -> None:
    try:
        found = parse_timestamp(text)
    except ValueError:
        return
    assert found.instant.tzinfo is not None


def test_formatting_is_the_inverse_of_parsing() -> None:
    assert parse_timestamp(format_timestamp(datetime(2024, 7, 1, 8, 30, 15, tzinfo=UTC))).instant == datetime(
        2024, 7, 1, 8, 30, 15, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("19790328", date(1979, 3, 28)),
        ("197903281530+0100", date(1979, 3, 28)),
        ("1979", "1979"),
        ("19790000", "1979"),
        ("197903", "1979-03"),
        ("19790300", "1979-03"),
    ],
)
def test_a_birth_date_may_be_partial(text: str, expected: date | str) -> None:
    assert parse_birth_date(text) == expected


@pytest.mark.parametrize(
    "text", ["", "79", "197913", "19790230", "19790012", "1979-03", "19790328x", "1700", "197900x"]
)
def test_what_is_not_a_birth_date_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a date|no such|outside|without"):
        parse_birth_date(text)
