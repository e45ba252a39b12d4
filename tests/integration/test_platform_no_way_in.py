"""No way in without authorisation: each refusal with its own reason and code; those with a valid token are traced.

One table of attempts, each made in the dossier of one patient by every way that it concerns (design §1, promise 1).
What the patient's own will refuses is in test_platform_shut_dossiers.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from dmp.identity.v1 import identity_pb2
from ops.local.registrations import INTERNAL, OPERATOR
from ops.session import Statement
from services.runtime.access import MethodAccess
from services.runtime.errors import DmpError
from services.runtime.identifiers import new_health_id, uuid7
from tests.platform_calls import (
    altered,
    attempt,
    bearer,
    claims_of,
    invoke,
    outcome_reason,
    scopes_of,
    signed,
    signed_by_a_stranger,
    unsigned,
)
from tests.platform_fixture import Patient, Platform, method, service_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

WAYS: Final = ("relay", "direct")
GET: Final = method("GetDocument")
READ: Final = method("ReadDocument")


@dataclass(frozen=True, slots=True)
class Scene:
    """A patient with a document, a physician authorised on the dossier, and his good tokens by way in."""

    platform: Platform
    patient: Patient
    document: str
    tokens: dict[str, str]

    @property
    def request(self) -> Message:
        return document_pb2.GetDocumentRequest(name=self.document)

    def fresh(self, way: str, *, age: float = 0, audience: str = "dmp") -> str:
        """The physician's token, signed anew by the platform's key."""
        token = self.tokens[way]
        now = time.time() - age
        return signed(self.platform.state, claims_of(token), scopes_of(token), now=now, audience=audience)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scene(platform: Platform) -> AsyncIterator[Scene]:
    patient, document = await platform.patient_with_document()
    tokens = {way: await platform.token(way, patient.caregiver.statement()) for way in WAYS}
    yield Scene(platform, patient, document.name, tokens)


async def recorded(platform: Platform, place: int, request_id: str) -> list[audit_pb2.AuditEvent]:
    """The events of one call among those from a place on."""
    return [event for event in await platform.log_since(place) if event.request_id == request_id]


async def test_the_good_tokens_are_served_by_both_ways(scene: Scene) -> None:
    for way in WAYS:
        channel = scene.platform.channel(way, GET)
        assert await attempt(channel, GET, scene.request, bearer(scene.tokens[way])) is None
        assert await attempt(channel, GET, scene.request, bearer(scene.fresh(way))) is None


async def test_calls_that_come_together_are_decided_and_recorded_one_by_one(scene: Scene) -> None:
    """The gateway relays them in batches: each keeps its caller, its decision, its answer and its event."""
    stranger = await scene.platform.token("relay", scene.platform.caregiver().statement())
    channel = scene.platform.channel("relay", GET)
    own = scene.request.SerializeToString()
    absent = document_pb2.GetDocumentRequest(name=f"{scene.document[:-36]}{uuid7()}").SerializeToString()
    calls = [
        (token, request, f"together-{at}-{uuid.uuid4()}")
        for at, (token, request) in enumerate(
            [(scene.tokens["relay"], own), (stranger, own), (scene.tokens["relay"], absent)] * 12
        )
    ]
    place = await scene.platform.log_size()
    refusals = await asyncio.gather(
        *(attempt(channel, GET, request, bearer(token, request_id)) for token, request, request_id in calls)
    )
    wanted = [None, reasons.ERROR_REASON_AUTHORIZATION_MISSING, reasons.ERROR_REASON_DOCUMENT_NOT_FOUND] * 12
    assert [refused and refused.reason for refused in refusals] == wanted
    events = [event for event in await scene.platform.log_since(place) if event.request_id.startswith("together-")]
    assert sorted(event.request_id for event in events) == sorted(request_id for _, _, request_id in calls)
    for event in events:
        number = int(event.request_id.split("-")[1])
        assert event.reason == (wanted[number] or 0)
        assert (event.outcome == audit_pb2.OUTCOME_SUCCESS) == (wanted[number] is None)
        assert event.actor.client_id == claims_of(calls[number][0]).client_id
        assert event.actor.subject == claims_of(calls[number][0]).subject


# --- without a valid token: refused, counted, and not in the trail ----------------------------------------------------

TOKENLESS: Final[dict[str, tuple[Callable[[Scene, str], list[tuple[str, str]]], int]]] = {
    "no token": (lambda scene, way: [], reasons.ERROR_REASON_TOKEN_MISSING),
    "another scheme": (
        lambda scene, way: [("authorization", f"Basic {scene.tokens[way]}")],
        reasons.ERROR_REASON_TOKEN_MISSING,
    ),
    "two tokens": (
        lambda scene, way: [*bearer(scene.tokens[way]), *bearer(scene.tokens[way])],
        reasons.ERROR_REASON_TOKEN_MISSING,
    ),
    "not a token": (lambda scene, way: bearer("a.b.c"), reasons.ERROR_REASON_TOKEN_INVALID),
    "expired": (lambda scene, way: bearer(scene.fresh(way, age=400)), reasons.ERROR_REASON_TOKEN_EXPIRED),
    "not begun": (lambda scene, way: bearer(scene.fresh(way, age=-60)), reasons.ERROR_REASON_TOKEN_EXPIRED),
    "another audience": (
        lambda scene, way: bearer(scene.fresh(way, audience="dmp-test")),
        reasons.ERROR_REASON_TOKEN_AUDIENCE,
    ),
    "another key": (
        lambda scene, way: bearer(
            signed_by_a_stranger(
                scene.platform.state, claims_of(scene.tokens[way]), scopes_of(scene.tokens[way]), now=time.time()
            )
        ),
        reasons.ERROR_REASON_TOKEN_INVALID,
    ),
    "algorithm none": (lambda scene, way: bearer(unsigned(scene.tokens[way])), reasons.ERROR_REASON_TOKEN_INVALID),
    "altered scope": (
        lambda scene, way: bearer(altered(scene.tokens[way], scope="ITI-67 ITI-68 TD1.1")),
        reasons.ERROR_REASON_TOKEN_INVALID,
    ),
    "prolonged": (
        lambda scene, way: bearer(altered(scene.tokens[way], exp=int(time.time()) + 100_000)),
        reasons.ERROR_REASON_TOKEN_INVALID,
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TOKENLESS)
async def test_without_a_valid_token_nobody_gets_in_and_the_trail_stays_as_it_is(
    scene: Scene, name: str, way: str
) -> None:
    metadata, reason = TOKENLESS[name]
    place = await scene.platform.log_size()
    for access in (GET, READ):
        channel = scene.platform.channel(way, access)
        refusal = await attempt(channel, access, scene.request, metadata(scene, way))
        assert refusal is not None
        assert (refusal.reason, refusal.code) == (reason, grpc.StatusCode.UNAUTHENTICATED)
    assert await scene.platform.log_size() == place


@pytest.mark.parametrize("name", [name for name in TOKENLESS if name != "two tokens"])
async def test_over_http_the_same_tokens_are_refused_with_401(scene: Scene, name: str) -> None:
    metadata, reason = TOKENLESS[name]
    place = await scene.platform.log_size()
    response = await scene.platform.session.http.get(
        "/DocumentReference",
        params={"patient.identifier": scene.patient.identifier},
        headers=dict(metadata(scene, "relay")),
    )
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert outcome_reason(response.json()) == DmpError(reason).reason_name
    assert await scene.platform.log_size() == place


async def test_without_a_client_certificate_no_service_answers(scene: Scene) -> None:
    place = await scene.platform.log_size()
    authority = (scene.platform.state.pki / "ca.pem").read_bytes()
    for access in (GET, method("BatchCheckAccess"), method("BatchAppendEvents"), method("BatchVerifyPatients")):
        address = scene.platform.stack.address(service_of(access))
        async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authority)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await invoke(channel, access.path, b"", bearer(scene.tokens["direct"]), timeout=5)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        async with grpc.aio.insecure_channel(address) as plain:
            with pytest.raises(grpc.aio.AioRpcError):
                await invoke(plain, access.path, b"", bearer(scene.tokens["direct"]), timeout=5)
    assert await scene.platform.log_size() == place


async def test_a_certificate_alone_is_no_token(scene: Scene) -> None:
    place = await scene.platform.log_size()
    for access in (method("BatchCheckAccess"), method("BatchAppendEvents"), method("BatchVerifyPatients"), GET):
        refusal = await attempt(scene.platform.channel("direct", access), access, b"")
        assert refusal is not None
        assert refusal.reason == reasons.ERROR_REASON_TOKEN_MISSING
    assert await scene.platform.log_size() == place


# --- with a valid token: refused, and in the trail --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forbidden:
    """An attempt with a valid token: who, by which way and on whose connection, what, and how it must end.

    `client_id` is whose certificate the connection shows, `token_way` the way that the token was made for where it is
    another. `action` is the trail's word where it is not the method's own: the relay records what it does not forward.
    """

    access: MethodAccess
    request: Callable[[Scene], Message]
    statement: Callable[[Scene], Statement]
    way: str
    reason: int
    code: grpc.StatusCode = grpc.StatusCode.PERMISSION_DENIED
    scope: str = ""
    client_id: str = INTERNAL
    token_way: str = ""
    action: str = ""


def forged(scene: Scene) -> context_pb2.ItemContext:
    """The patient's own acting context, as somebody else would state it."""
    actor = context_pb2.ActingContext(
        actor_kind=context_pb2.ACTOR_KIND_PATIENT,
        subject=scene.patient.dossier.removeprefix("dossiers/"),
        patient_health_id=scene.patient.health_id,
        client_id="demo-portal",
    )
    return context_pb2.ItemContext(actor=actor, request_id="forged-request")


def check_access(scene: Scene) -> Message:
    request = consent_pb2.BatchCheckAccessRequest()
    item = request.requests.add(health_id=scene.patient.health_id, action=consent_pb2.ACTION_READ)
    item.context.CopyFrom(forged(scene))
    return request


def append_events(scene: Scene) -> Message:
    event = audit_pb2.AuditEvent(
        event_id=uuid7().bytes,
        health_id=scene.patient.health_id,
        action="document.read",
        actor=forged(scene).actor,
        outcome=audit_pb2.OUTCOME_SUCCESS,
    )
    event.event_time.GetCurrentTime()
    return audit_pb2.BatchAppendEventsRequest(events=[event])


def verify_patients(scene: Scene) -> Message:
    request = identity_pb2.BatchVerifyPatientsRequest()
    item = request.requests.add(health_id=scene.patient.health_id)
    item.context.CopyFrom(forged(scene))
    item.claim.family_names.append(scene.patient.person.birth_family)
    return request


def the_document(scene: Scene) -> Message:
    return scene.request


def somebody(scene: Scene) -> Message:
    person = scene.patient.person
    request = identity_pb2.BatchResolveIdentifiersRequest()
    request.identifiers.add(system=person.nir_oid, value=person.nir)
    return request


def physician(scene: Scene) -> Statement:
    return scene.patient.caregiver.statement()


def patient_self(scene: Scene) -> Statement:
    return Statement.patient(scene.patient.health_id)


def another_patient(scene: Scene) -> Statement:
    return Statement.patient(new_health_id())


def bound_to_another(scene: Scene) -> Statement:
    return scene.patient.caregiver.statement(patient_health_id=new_health_id())


def operator(scene: Scene) -> Statement:
    return Statement.of(OPERATOR, actor="operator", subject="operator-1")


_FORGED: Final = reasons.ERROR_REASON_ACTING_CONTEXT_NOT_ALLOWED
_KIND: Final = reasons.ERROR_REASON_CALLER_NOT_ALLOWED
_PEER: Final = reasons.ERROR_REASON_CLIENT_CERTIFICATE
_PATIENT: Final = reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH
_SCOPE: Final = reasons.ERROR_REASON_SCOPE_MISSING

FORBIDDEN: Final[dict[str, Forbidden]] = {
    "an internal system states who acts, to consent": Forbidden(
        method("BatchCheckAccess"), check_access, physician, "direct", _FORGED
    ),
    "an internal system states who acts, to audit": Forbidden(
        method("BatchAppendEvents"), append_events, physician, "direct", _FORGED
    ),
    "an internal system states who acts, to identity": Forbidden(
        method("BatchVerifyPatients"), verify_patients, physician, "direct", _FORGED
    ),
    "a partner states who acts": Forbidden(method("BatchCheckAccess"), check_access, physician, "relay", _FORGED),
    "a partner appends events": Forbidden(method("BatchAppendEvents"), append_events, physician, "relay", _FORGED),
    "a partner resolves identifiers": Forbidden(method("BatchResolveIdentifiers"), somebody, physician, "relay", _KIND),
    "a partner blocks a colleague": Forbidden(
        method("BlockProfessional"),
        lambda scene: consent_pb2.BlockProfessionalRequest(parent=scene.patient.dossier, request_id=str(uuid.uuid4())),
        physician,
        "relay",
        _KIND,
    ),
    "a patient opens a dossier": Forbidden(
        method("OpenDossier"),
        lambda scene: consent_pb2.OpenDossierRequest(name=scene.patient.dossier, request_id=str(uuid.uuid4())),
        patient_self,
        "relay",
        _KIND,
    ),
    "an operator reads a document": Forbidden(GET, the_document, operator, "direct", _KIND, client_id=OPERATOR),
    "an internal system's token at the relay": Forbidden(
        GET, the_document, physician, "relay", _KIND, token_way="direct", action="gateway.call"
    ),
    "feeding scopes only": Forbidden(GET, the_document, physician, "relay", _SCOPE, scope="ITI-65 ITI-105"),
    "feeding scopes only, directly": Forbidden(GET, the_document, physician, "direct", _SCOPE, scope="ITI-65"),
    "search scope only, for a content": Forbidden(READ, the_document, physician, "relay", _SCOPE, scope="ITI-67"),
    "an internal system's token on another's connection": Forbidden(
        GET,
        the_document,
        physician,
        "direct",
        _PEER,
        grpc.StatusCode.UNAUTHENTICATED,
        client_id="other-registry",
    ),
    "a partner's token on an internal connection": Forbidden(
        GET, the_document, physician, "direct", _PEER, grpc.StatusCode.UNAUTHENTICATED, token_way="relay"
    ),
    "a patient's token for another's dossier": Forbidden(GET, the_document, another_patient, "relay", _PATIENT),
    "a physician's token bound to another patient": Forbidden(GET, the_document, bound_to_another, "relay", _PATIENT),
    "a physician's token bound to another patient, directly": Forbidden(
        READ, the_document, bound_to_another, "direct", _PATIENT
    ),
}


@pytest.mark.parametrize("name", FORBIDDEN)
async def test_a_valid_token_does_not_open_what_it_is_not_for_and_the_attempt_is_in_the_trail(
    scene: Scene, name: str
) -> None:
    case, platform = FORBIDDEN[name], scene.platform
    statement = case.statement(scene)
    token = (
        await platform.session.token(statement)
        if statement.client_id == OPERATOR
        else await platform.token(case.token_way or case.way, statement, case.scope)
    )
    request_id, place = platform.request_id(), await platform.log_size()
    request = case.request(scene)
    channel = platform.channel(case.way, case.access, case.client_id)
    refusal = await attempt(channel, case.access, request, bearer(token, request_id))
    assert refusal is not None, "it was served"
    assert (refusal.reason_name, refusal.code) == (DmpError(case.reason).reason_name, case.code)
    events = await recorded(platform, place, request_id)
    assert [(event.reason, event.outcome) for event in events] == [(case.reason, audit_pb2.OUTCOME_DENIED)]
    assert events[0].actor == claims_of(token)
    assert events[0].action == (case.action or case.access.audit_action)


async def test_over_http_a_scope_that_is_missing_is_401_and_in_the_trail(scene: Scene) -> None:
    token = await scene.platform.token("relay", physician(scene), "TD0.2")
    request_id, place = scene.platform.request_id(), await scene.platform.log_size()
    response = await scene.platform.session.http.get(
        "/DocumentReference",
        params={"patient.identifier": scene.patient.identifier},
        headers=dict(bearer(token, request_id)),
    )
    assert (response.status_code, outcome_reason(response.json())) == (401, "SCOPE_MISSING")
    events = await recorded(scene.platform, place, request_id)
    assert [event.reason for event in events] == [_SCOPE]
