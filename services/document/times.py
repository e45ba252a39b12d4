"""Times between messages and aware datetimes, to the microsecond. Pure, and cheap: each read converts one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

Clock: TypeAlias = Callable[[], datetime]
"""Gives the time, aware."""
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST: Final = -62135596800
_LATEST: Final = 253402300799


def timestamp(instant: datetime) -> Timestamp:
    """An aware instant as a message."""
    since = instant - EPOCH
    return Timestamp(seconds=since.days * 86400 + since.seconds, nanos=since.microseconds * 1000)


def instant(given: Timestamp) -> datetime:
    """The instant of a message that `is_valid`, in UTC; what is finer than a microsecond is cut off."""
    return EPOCH + timedelta(seconds=given.seconds, microseconds=given.nanos // 1000)


def is_valid(given: Timestamp) -> bool:
    """Whether the message is a time of the years 1 to 9999."""
    return _EARLIEST <= given.seconds <= _LATEST and 0 <= given.nanos < 1_000_000_000
