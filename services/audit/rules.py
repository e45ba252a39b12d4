"""Which log an event belongs to, and which events of a trail a caller may see. Pure decisions, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dmp.consent.v1 import consent_pb2

PRODUCER = "audit"
"""The producer of this service's own events, which no certificate states."""
SYSTEM_HEALTH_ID = 0
"""The health id of events about no dossier; their clear parts are sealed under a key row of this id."""


@dataclass(frozen=True, slots=True)
class TrailFilter:
    """The part of a trail that may be seen: only the caller's own acts, and secret connections or not; and the other
    dossiers of the person, whose trails are read with it (health ids)."""

    own_only: bool
    with_secret: bool
    linked: tuple[int, ...] = ()


_FILTERS: dict[int, TrailFilter] = {
    consent_pb2.TRACE_VIEW_OWN: TrailFilter(own_only=True, with_secret=True),
    consent_pb2.TRACE_VIEW_WITHOUT_SECRET: TrailFilter(own_only=False, with_secret=False),
    consent_pb2.TRACE_VIEW_ALL: TrailFilter(own_only=False, with_secret=True),
}


def trail_filter(view: int, linked: Sequence[int] = ()) -> TrailFilter | None:
    """The filter of a consent decision's `TraceView`; None (nothing may be seen) for what is not set or not known.

    Source: domain, rules of access: the patient reads all but, seen as representative, secret connections; the
    attending physician reads all; a professional reads his own.
    """
    found = _FILTERS.get(view)
    return replace(found, linked=tuple(linked)) if found is not None and linked else found


def log_of(health_id: int, event_id: bytes, log_count: int) -> int:
    """The log of an event, from 0: by its dossier, so that a dossier's events all lie in one; else by its own id.

    A retry of an event carries both again, and so finds the same log. The last 8 bytes of a UUIDv7 are random.
    """
    return (health_id or int.from_bytes(event_id[8:], "big")) % log_count
