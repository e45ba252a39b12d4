"""What the request path writes field by field is the message that the generated classes would write."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1.context_pb2 import ActingContext, ItemContext
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.runtime import checks, wire
from services.runtime.access import methods_of
from services.runtime.context import Call
from services.runtime.trail import build_event, served_event

METHODS: Final = methods_of([document_pb2.DESCRIPTOR.services_by_name["DocumentService"]])

numbers = st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1))
texts = st.text(max_size=300)
actors = st.builds(
    ActingContext,
    actor_kind=st.sampled_from(list(context_pb2.ActorKind.values())),
    subject=st.text(min_size=1, max_size=60),
    subject_name=texts,
    patient_health_id=numbers,
    secret_connection=st.booleans(),
)
calls = st.builds(
    Call,
    actor=actors,
    caller=st.just(access_pb2.CALLER_KIND_INTERNAL),
    client_id=texts,
    peer=texts,
    request_id=texts,
    deadline=st.one_of(st.none(), st.integers(-5, 100_000).map(lambda left: time.monotonic() + left)),
    traceparent=st.sampled_from(["", f"00-{'ab' * 16}-{'cd' * 8}-01", f"01-{'0a' * 16}-{'cd' * 8}-01-{'x' * 200}"]),
    method=st.sampled_from(list(METHODS.values())),
    health_id=numbers.filter(bool),
    address=st.sampled_from(["", "192.0.2.7", "2001:db8::1"]),
)


@given(numbers, st.binary(max_size=20_000))
def test_numbers_bytes_and_texts(number: int, data: bytes) -> None:
    assert audit_pb2.AuditEvent.FromString(b"\x18" + wire.varint(number)).health_id == number
    assert audit_pb2.AuditEvent.FromString(wire.embedded(b"\x0a", data)).event_id == data
    assert audit_pb2.AuditEvent.FromString(wire.text(b"\x22", data.hex())).action == data.hex()


@given(st.integers(0, 4_000_000_000_000_000))
def test_times(microseconds: int) -> None:
    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    assert audit_pb2.AuditEvent.FromString(wire.time(b"\x12", instant)).event_time == stamp


@given(calls)
def test_the_context_of_an_item(call: Call) -> None:
    written, built = ItemContext.FromString(call.item_bytes()), call.item()
    assert abs(written.timeout_ms - built.timeout_ms) < 10_000
    written.timeout_ms = built.timeout_ms
    assert written == built
    assert bool(call.deadline) == bool(built.timeout_ms)


@given(calls, st.sampled_from(list(consent_pb2.Action.values())))
def test_a_check(call: Call, action: consent_pb2.Action.ValueType) -> None:
    written = consent_pb2.CheckAccessRequest.FromString(checks.check_bytes(call, action))
    assert (written.health_id, written.action) == (call.health_id, action)
    assert written.context.actor == call.actor
    assert not written.HasField("document")


@given(calls, st.lists(texts, max_size=3), numbers, st.sampled_from(list(audit_pb2.AccessBasis.values())))
def test_the_event_of_a_permitted_access(
    call: Call, objects: list[str], epoch: int, basis: audit_pb2.AccessBasis.ValueType
) -> None:
    written = audit_pb2.AuditEvent.FromString(served_event(call, objects, epoch, basis))
    built = build_event(call, outcome=audit_pb2.OUTCOME_SUCCESS, objects=objects, epoch=epoch, basis=basis)
    assert len(written.event_id) == len(built.event_id)
    assert written.event_id != built.event_id
    assert abs(written.event_time.seconds - built.event_time.seconds) < 60
    written.event_id, written.event_time.nanos = built.event_id, built.event_time.nanos
    written.event_time.seconds = built.event_time.seconds
    assert written == built
    assert written.SerializeToString(deterministic=True) == built.SerializeToString(deterministic=True)
