"""The Parameters of a dossier that is taken over: read whole, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from dmp.consent.v1 import consent_pb2 as pb
from gateway.fhir.node import JsonObject, Node
from gateway.fhir.taken_in import read_taken
from services.runtime.errors import DmpError

BASE = "https://dmp.test"


def entry(idnps: str) -> JsonObject:
    actor = {"name": "actor", "valueIdentifier": {"system": "urn:oid:1.2.250.1.71.4.2.1", "value": idnps}}
    return {"name": "entry", "part": [actor, {"name": "start", "valueDateTime": "2026-01-01T00:00:00Z"}]}


def parameters(*more: JsonObject) -> Node:
    ins = {"system": "urn:oid:1.2.250.1.213.1.4.10", "value": "279035121518989"}
    said: list[Any] = [
        {"name": "patient", "valueIdentifier": ins},
        {"name": "state", "valueCode": "OPEN"},
        {"name": "blocked", "part": [entry("899700245667")]},
        *more,
    ]
    return Node("Parameters", {"resourceType": "Parameters", "parameter": said})


def test_who_is_shut_out_is_read() -> None:
    (standing,) = read_taken(parameters(), BASE).host.standings
    assert (standing.grantee.id, standing.state) == ("899700245667", pb.AUTHORIZATION_STATE_FORBIDDEN)


@pytest.mark.parametrize(
    ("more", "field", "rule"),
    [
        ({"name": "blocked", "part": [entry("899700245675")]}, "Parameters.parameter[3].name", "unique"),
        ({"name": "block", "part": [entry("899700245675")]}, "Parameters.parameter[3].name", "known"),
        (
            {"name": "authorized", "part": [{**entry("899700245675"), "part": [{"name": "until"}]}]},
            "Parameters.parameter[3].part[0].part[0].name",
            "known",
        ),
        (
            {"name": "authorized", "part": [{"name": "entry", "part": entry("899700245675")["part"] * 2}]},
            "Parameters.parameter[3].part[0].part[2].name",
            "unique",
        ),
    ],
    ids=["blocks twice", "another word for blocks", "another word of an entry", "an entry's word twice"],
)
def test_what_is_said_twice_or_in_words_unknown_here_is_refused(more: JsonObject, field: str, rule: str) -> None:
    with pytest.raises(DmpError) as refused:
        read_taken(parameters(more), BASE)
    assert [(each.field, each.rule) for each in refused.value.fields] == [(field, rule)]
