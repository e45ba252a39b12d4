"""What is decided without a database: who sees which events, which log, what is kept beside an event, when to start."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp.audit.v1 import audit_pb2
from dmp.consent.v1 import consent_pb2
from services.audit.append import LogDamaged, check_heads
from services.audit.entry import EntryDigests, prepare
from services.audit.retention import due
from services.audit.rules import TrailFilter, log_of, trail_filter
from services.audit.store import LogHead
from services.audit.tree_store import StoredRow
from services.runtime.errors import DmpError
from services.runtime.identifiers import uuid7
from tests.audit_log import DOSSIER, OTHER_DOSSIER, PHYSICIAN, copy, event, keyring

DIGESTS = EntryDigests(keyring())
ACTOR = "898434362310700f25c7c2c2027ca6f88ac005374452e16055ddbe92c0f82052"
CONTENT = "4c9542291ec6719830631a283984ed6095652c2ad0ce325617396c321df590ec"


@pytest.mark.parametrize(
    ("view", "visible"),
    [
        (consent_pb2.TRACE_VIEW_OWN, TrailFilter(own_only=True, with_secret=True)),
        (consent_pb2.TRACE_VIEW_WITHOUT_SECRET, TrailFilter(own_only=False, with_secret=False)),
        (consent_pb2.TRACE_VIEW_ALL, TrailFilter(own_only=False, with_secret=True)),
        (consent_pb2.TRACE_VIEW_UNSPECIFIED, None),
        (99, None),
    ],
)
def test_each_view_shows_what_the_rules_of_access_say_and_an_unknown_one_nothing(
    view: int, visible: TrailFilter | None
) -> None:
    assert trail_filter(view) == visible


def test_every_view_of_the_contract_is_decided() -> None:
    decided = [view for view in consent_pb2.TraceView.values() if trail_filter(view) is not None]
    assert len(decided) == len(consent_pb2.TraceView.values()) - 1


@given(st.integers(1, 2**63 - 1), st.integers(1, 1024), st.binary(min_size=16, max_size=16))
def test_a_dossiers_events_all_lie_in_one_log(health_id: int, log_count: int, event_id: bytes) -> None:
    assert log_of(health_id, event_id, log_count) == log_of(health_id, b"", log_count) < log_count


def test_events_about_no_dossier_spread_over_the_logs_and_each_keeps_its_own() -> None:
    ids = [uuid7().bytes for _ in range(400)]
    logs = [log_of(0, event_id, 4) for event_id in ids]
    assert set(logs) == {0, 1, 2, 3}
    assert logs == [log_of(0, event_id, 4) for event_id in ids]


def test_an_entry_is_the_serialized_event_with_its_producer() -> None:
    sent = event()
    entry = prepare(copy(sent), "document", DIGESTS)
    kept = audit_pb2.AuditEvent.FromString(entry.clear)
    assert kept.producer == entry.producer == "document"
    kept.ClearField("producer")
    assert kept == sent
    assert entry.event_time == dt.datetime(2026, 11, 22, 8, 30, tzinfo=dt.UTC)
    assert (entry.health_id, entry.event_id, entry.secret) == (DOSSIER, sent.event_id, False)


def test_the_digests_are_those_of_the_frozen_vectors() -> None:
    assert DIGESTS.actor(DOSSIER, PHYSICIAN).hex() == ACTOR
    assert DIGESTS.content(b"clear").hex() == CONTENT


def test_what_one_subject_does_in_two_dossiers_cannot_be_told_to_be_his() -> None:
    assert DIGESTS.actor(DOSSIER, PHYSICIAN) == DIGESTS.actor(DOSSIER, PHYSICIAN)
    assert DIGESTS.actor(DOSSIER, PHYSICIAN) != DIGESTS.actor(OTHER_DOSSIER, PHYSICIAN)


def test_a_retry_has_the_digest_of_the_first_and_a_change_of_one_field_another() -> None:
    sent = event()
    first = prepare(copy(sent), "document", DIGESTS)
    assert prepare(copy(sent), "document", DIGESTS).content_digest == first.content_digest
    changed = copy(sent)
    changed.epoch += 1
    assert prepare(changed, "document", DIGESTS).content_digest != first.content_digest


@pytest.mark.parametrize(("seconds", "nanos"), [(-1, 0), (1 << 62, 0), (0, -1), (0, 1_000_000_000)])
def test_a_time_that_is_no_date_is_refused_by_name(seconds: int, nanos: int) -> None:
    wrong = event()
    wrong.event_time.seconds, wrong.event_time.nanos = seconds, nanos
    with pytest.raises(DmpError) as refused:
        prepare(wrong, "document", DIGESTS)
    assert [violation.field for violation in refused.value.fields] == ["event_time"]


def test_heads_that_agree_with_their_events_start() -> None:
    check_heads([LogHead(0, 0, None)], 1)
    check_heads([LogHead(0, 3, 2), LogHead(1, 0, None)], 2)


@pytest.mark.parametrize(
    ("heads", "log_count"),
    [
        ([LogHead(0, 3, 3)], 1),
        ([LogHead(0, 3, 1)], 1),
        ([LogHead(0, 1, None)], 1),
        ([LogHead(0, 0, None)], 2),
        ([LogHead(1, 0, None)], 1),
        ([], 1),
    ],
    ids=["lost head", "lost event", "lost events", "fewer logs", "another log", "no log"],
)
def test_heads_that_do_not_are_refused(heads: list[LogHead], log_count: int) -> None:
    with pytest.raises(LogDamaged):
        check_heads(heads, log_count)


def test_a_time_that_is_none_neither_stops_nor_hastens_what_is_given_up() -> None:
    """As PostgreSQL's infinity is read, by whoever could write it there."""
    cutoff = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    old, never = cutoff - dt.timedelta(days=1), (dt.datetime.min, dt.datetime.max)  # noqa: DTZ901 (it has no zone)
    times = [old, *never, old, old]
    rows = [
        StoredRow(place, DOSSIER, uuid.UUID(int=place), "document", at, False, b"", b"", b"", b"")
        for place, at in enumerate(times)
    ]
    assert [len(due(rows[:size], cutoff)) for size in range(6)] == [0, 1, 1, 1, 1, 5]
