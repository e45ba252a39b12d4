"""Who may call what: the access option of each method says it, and the running platform does what the option says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from google.protobuf.descriptor import FieldDescriptor

from dmp.common.v1 import access_pb2, links_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.gateway.v1 import denial_pb2, partner_pb2, relay_pb2
from ops.local.registrations import ALL_SCOPES, INTERNAL, OPERATOR
from ops.session import Statement
from services.runtime.access import methods_of
from services.runtime.names import AUDIT_ACTIONS, RPC_METHODS
from tests.hostile_messages import well_formed
from tests.platform_calls import attempt, bearer
from tests.platform_fixture import METHODS, Patient, Platform

NAMES: Final = {path.rpartition("/")[2]: access for path, access in METHODS.items()}
SHUT: Final = frozenset(
    {
        reasons.ERROR_REASON_CALLER_NOT_ALLOWED,
        reasons.ERROR_REASON_ACTING_CONTEXT_NOT_ALLOWED,
        reasons.ERROR_REASON_CLIENT_CERTIFICATE,
        reasons.ERROR_REASON_SCOPE_MISSING,
    }
)
KINDS: Final = {
    "internal": access_pb2.CALLER_KIND_INTERNAL,
    "partner": access_pb2.CALLER_KIND_PARTNER,
    "patient": access_pb2.CALLER_KIND_PATIENT,
    "operator": access_pb2.CALLER_KIND_OPERATOR,
}


def test_every_method_has_its_rule() -> None:
    own = methods_of(
        service
        for file in (partner_pb2, denial_pb2, relay_pb2, links_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
    )
    assert {*METHODS, *own} == set(RPC_METHODS)
    for access in own.values():
        assert access.callers
        assert access.audit_action in AUDIT_ACTIONS
        assert access.mutation == ("request_id" in {field.name for field in access.request.DESCRIPTOR.fields})
        assert access.scopes <= set(ALL_SCOPES)


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_is_whole(name: str) -> None:
    access = NAMES[name]
    fields = {field.name: field for field in access.request.DESCRIPTOR.fields}
    assert access.callers
    assert access.callers <= set(access_pb2.CallerKind.values()) - {access_pb2.CALLER_KIND_UNSPECIFIED}
    assert access.audit_action in AUDIT_ACTIONS
    assert access.mutation == ("request_id" in fields)
    if access.dossier_field:
        assert fields[access.dossier_field].type == FieldDescriptor.TYPE_STRING
    with_token = access.callers - {access_pb2.CALLER_KIND_SERVICE}
    assert bool(access.scopes) == bool(with_token), "scopes are for those who come with a token, and needed there"
    assert access.scopes <= set(ALL_SCOPES)


@pytest.mark.parametrize("name", [name for name, access in NAMES.items() if access.states_actor])
def test_only_services_may_state_who_acts(name: str) -> None:
    assert NAMES[name].callers == {access_pb2.CALLER_KIND_SERVICE}


def test_patients_call_only_what_is_about_one_dossier() -> None:
    theirs = [access for access in METHODS.values() if access_pb2.CALLER_KIND_PATIENT in access.callers]
    assert theirs
    assert all(access.dossier_field for access in theirs)


def statement(kind: str, patient: Patient) -> Statement:
    """A caller of this kind, who may do what its kind may."""
    professional = patient.caregiver.statement()
    return {
        "internal": Statement(INTERNAL, professional.fields),
        "partner": professional,
        "patient": Statement.patient(patient.health_id),
        "operator": Statement.of(OPERATOR, actor="operator", subject="operator-1"),
    }[kind]


def callers_by_method() -> Iterator[tuple[str, str]]:
    return ((name, kind) for name in NAMES for kind in KINDS)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(("name", "kind"), list(callers_by_method()))
async def test_a_method_lets_in_the_kinds_of_caller_that_its_option_lists_and_no_others(
    platform: Platform, name: str, kind: str
) -> None:
    access = NAMES[name]
    patient = await _shared(platform)
    who = statement(kind, patient)
    way = "relay" if kind in ("partner", "patient") else "direct"
    channel = platform.channel(way, access, who.client_id if way == "direct" else INTERNAL)
    token = await platform.session.token(who)
    request = well_formed(patient.health_id)[name]
    if access.mutation:
        request.request_id = ""  # type: ignore[attr-defined]  # so that nothing is changed: refused once let in
    refusal = await attempt(channel, access, request, bearer(token))
    let_in = refusal is None or refusal.reason not in SHUT
    assert let_in == (KINDS[kind] in access.callers), refusal and refusal.reason_name


_patients: dict[int, Patient] = {}


async def _shared(platform: Platform) -> Patient:
    """One patient for all these calls."""
    if id(platform) not in _patients:
        _patients[id(platform)] = await platform.patient()
    return _patients[id(platform)]
