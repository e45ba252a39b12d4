"""What is shown of an event: to the patient why it was allowed and from where, to software the same as BALP."""

from __future__ import annotations

import uuid

from dmp.audit.v1 import audit_pb2
from gateway.fhir.document_out import Links
from gateway.fhir.traces import write_event
from services.audit.french import BASES, summarize
from services.runtime.identifiers import event_name
from tests.audit_log import DOSSIER, event
from tests.conformance.fhir_platform import external_ids

LINKS = Links("https://dmp.test/fhir", external_ids())


def allowed(basis: int, address: str = "") -> audit_pb2.TrailEvent:
    made = event()
    made.basis, made.network_address = basis, address  # type: ignore[assignment]
    return audit_pb2.TrailEvent(name=event_name(DOSSIER, uuid.UUID(bytes=made.event_id)), event=made)


def test_each_ground_that_an_event_may_have_has_words_for_the_patient() -> None:
    grounds = set(audit_pb2.AccessBasis.values()) - {audit_pb2.ACCESS_BASIS_UNSPECIFIED}
    assert set(BASES) == grounds
    for ground in grounds:
        [summary] = summarize([allowed(ground)])
        assert summary.why == BASES[ground]
        assert summary.why in summary.sentence


def test_accesses_on_two_grounds_are_told_apart_with_the_addresses_they_came_from() -> None:
    attending, granted = audit_pb2.ACCESS_BASIS_ATTENDING_PHYSICIAN, audit_pb2.ACCESS_BASIS_AUTHORIZATION
    told = summarize(
        [
            allowed(attending, "192.0.2.7"), allowed(granted, "2001:db8::1"), allowed(attending, "192.0.2.9"),
            allowed(attending, "192.0.2.7"),
        ]
    )  # fmt: skip
    assert [(each.why, each.event_count, list(each.network_addresses)) for each in told] == [
        (BASES[attending], 3, ["192.0.2.7", "192.0.2.9"]),
        (BASES[granted], 1, ["2001:db8::1"]),
    ]


def test_software_reads_the_ground_as_policy_and_the_address_as_network() -> None:
    shown = allowed(audit_pb2.ACCESS_BASIS_ATTENDING_PHYSICIAN, "192.0.2.7")
    who, software = write_event(shown.name, shown.event, LINKS)["agent"]
    assert who["policy"] == ["https://dmp.sante.fr/fhir/access-basis/attending-physician"]
    assert software["network"] == {"address": "192.0.2.7", "type": "2"}
    plain = allowed(audit_pb2.ACCESS_BASIS_UNSPECIFIED)
    agents = write_event(plain.name, plain.event, LINKS)["agent"]
    assert not any("policy" in agent or "network" in agent for agent in agents)
