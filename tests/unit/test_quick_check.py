"""The quick check says yes of nothing that the contract refuses, and of what is ordinary it does say yes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp.audit.v1 import audit_pb2
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name
from services.runtime.quick_check import quick_check
from services.runtime.validation import validate
from tests.audit_log import DOSSIER, event
from tests.hostile_messages import spoilt

CHECK = quick_check(audit_pb2.BatchAppendEventsRequest, "actor")
Spoil = Callable[[audit_pb2.AuditEvent], None]


def full() -> audit_pb2.AuditEvent:
    """An event with every field, at the limits of the contract."""
    made = event()
    made.action, made.transaction, made.request_id = "a" * 64, "é" * 16, "r" * 128
    made.trace_id, made.network_address = "0" * 32, "n" * 64
    made.objects.extend(["o" * 256] * 1024)
    made.changes.add(attribute="a" * 64, before="b" * 256, after="c" * 256)
    made.reported.type, made.reported.source = "t" * 64, "s" * 128
    made.reported.agents.extend(["g" * 128] * 32)
    made.actor.subject_name, made.actor.software.id = "n" * 200, "i" * 128
    return made


def request(*events: audit_pb2.AuditEvent) -> audit_pb2.BatchAppendEventsRequest:
    return audit_pb2.BatchAppendEventsRequest(events=events)


def is_valid(asked: audit_pb2.BatchAppendEventsRequest) -> bool:
    try:
        validate(asked)
    except DmpError:
        return False
    return True


def test_what_keeps_every_rule_to_the_last_character_passes() -> None:
    asked = request(*(full() for _ in range(1024)))
    assert is_valid(asked)
    assert CHECK([asked])


def _set(path: str, value: object) -> Spoil:
    *parts, name = path.split(".")

    def spoil(made: audit_pb2.AuditEvent) -> None:
        target: object = made
        for part in parts:
            target = getattr(target, part)
        setattr(target, name, value)

    return spoil


def _clear(name: Any) -> Spoil:
    return lambda made: made.ClearField(name)


def _add(name: str, *items: Any) -> Spoil:
    def spoil(made: audit_pb2.AuditEvent) -> None:
        target: Any = made.reported.agents if name == "agents" else getattr(made, name)
        target.extend(items)

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        _set("event_id", b"0" * 15),
        _set("event_id", b"0" * 17),
        _clear("event_time"),
        _set("health_id", -1),
        _set("action", ""),
        _set("action", "é" * 65),
        _set("transaction", "t" * 17),
        _clear("actor"),
        _set("actor.actor_kind", 0),
        _set("actor.actor_kind", 99),
        _set("actor.subject", ""),
        _set("actor.subject", "s" * 65),
        _set("actor.access_mode", -1),
        _set("actor.patient_health_id", -1),
        _set("actor.software.version", "v" * 65),
        _add("objects", "o" * 257),
        _add("objects", *["o"] * 1025),
        _set("outcome", 0),
        _set("outcome", 4),
        _set("request_id", "r" * 129),
        _set("trace_id", "0" * 33),
        _add("changes", audit_pb2.AttributeChange(before="b" * 257)),
        _add("changes", *[audit_pb2.AttributeChange()] * 65),
        _set("producer", "p" * 65),
        _set("network_address", "n" * 65),
        _set("reported.subtype", "s" * 65),
        _add("agents", "g" * 129),
        _add("agents", *["g"] * 33),
    ],
)
def test_one_event_that_breaks_one_rule_is_seen_among_sound_ones(spoil: Spoil) -> None:
    wrong = event()
    spoil(wrong)
    asked = request(event(), event(), wrong, event())
    assert not is_valid(asked)
    assert not CHECK([asked])


def test_no_events_and_too_many_are_seen() -> None:
    assert not CHECK([request()])
    assert not CHECK([request(*(event() for _ in range(1025)))])


@given(st.lists(spoilt(request(full(), event())), min_size=1, max_size=3))
def test_what_passes_the_quick_check_passes_the_contract(asked: list[audit_pb2.BatchAppendEventsRequest]) -> None:
    if CHECK(asked):
        assert all(is_valid(each) for each in asked)


def test_an_actor_is_remembered_by_every_byte_of_it() -> None:
    asked = request(event(), event())
    assert CHECK([asked])
    asked.events[1].actor.subject_name = "n" * 201
    assert not CHECK([asked])
    asked.events[1].actor.subject_name = "n" * 200
    assert CHECK([asked])


def test_a_thousand_actors_more_than_are_remembered_change_no_answer() -> None:
    for start in range(0, 6000, 1000):
        assert CHECK([request(*(event(subject=str(number)) for number in range(start, start + 1000)))])
    wrong = event(subject="x" * 65)
    assert not CHECK([request(wrong)])


def test_messages_of_a_kind_with_other_rules_are_validated_in_full() -> None:
    check = quick_check(audit_pb2.ListEventsRequest)
    good = audit_pb2.ListEventsRequest(parent=dossier_name(DOSSIER))
    assert check([good, good])
    assert not check([good, audit_pb2.ListEventsRequest(parent="dossiers/1")])
