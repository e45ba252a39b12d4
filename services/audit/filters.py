"""Whether an event is one that was asked for. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from dmp.audit.v1 import audit_pb2
from services.runtime.errors import invalid

_EVER: Final = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))


def period(asked: audit_pb2.EventFilter) -> tuple[datetime, datetime] | None:
    """From when, inclusive, until when, exclusive; None for always. INVALID_FIELD for a time that is none."""
    since = _instant(asked.start_time, "filter.start_time") if asked.HasField("start_time") else _EVER[0]
    until = _instant(asked.end_time, "filter.end_time") if asked.HasField("end_time") else _EVER[1]
    return None if (since, until) == _EVER else (since, until)


def narrows(asked: audit_pb2.EventFilter) -> bool:
    """Whether it asks for more than the database can tell without opening events (period, actor)."""
    return bool(asked.structure or asked.actions or asked.outcome or asked.object or asked.access_mode)


def matches(event: audit_pb2.AuditEvent, asked: audit_pb2.EventFilter) -> bool:
    """Whether the event is asked for, as far as its content tells; the period and `own_only` are not looked at."""
    actor = event.actor
    return (
        (not asked.actor or actor.subject == asked.actor)
        and (not asked.structure or actor.structure == asked.structure)
        and (not asked.actions or event.action in asked.actions)
        and (not asked.outcome or event.outcome == asked.outcome)
        and (not asked.access_mode or actor.access_mode == asked.access_mode)
        and (not asked.object or asked.object in event.objects)
    )


def _instant(time: Timestamp, field: str) -> datetime:
    try:
        return time.ToDatetime(tzinfo=UTC)
    except ValueError:
        raise invalid(field, "timestamp", "a time from year 1 to 9999") from None
