"""A dossier that is shut to a physician, by its life, by the patient or by time: refused by every way, each for its
own reason and into the trail; and a revocation is immediate (design §1, promises 1 to 3).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from ops.session import Statement
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name
from tests.platform_calls import attempt, bearer, outcome_reason
from tests.platform_fixture import Patient, Platform, grantee_of, method

pytestmark = pytest.mark.asyncio(loop_scope="session")

WAYS: Final = ("relay", "direct")
GET: Final = method("GetDocument")
READ: Final = method("ReadDocument")
BREAK_GLASS: Final = {"access_mode": "break_glass", "break_glass_reason": "inconscient"}


@dataclass(frozen=True, slots=True)
class Shut:
    """A dossier that is shut to a physician, a document name in it, and who tries."""

    health_id: int
    document: str
    statement: Statement
    identifier: str


async def unknown_dossier(platform: Platform) -> Shut:
    patient = await platform.registered()
    return shut(patient, f"{patient.dossier}/documents/{uuid.uuid4()}")


async def closed_dossier(platform: Platform) -> Shut:
    patient, document = await platform.patient_with_document()
    request = consent_pb2.CloseDossierRequest(
        name=patient.dossier, reason=consent_pb2.CLOSE_REASON_PATIENT_REQUEST, request_id=str(uuid.uuid4())
    )
    who = Statement.patient(patient.health_id)
    await platform.session.call("consent", "CloseDossier", request, consent_pb2.CloseDossierResponse, who)
    return shut(patient, document.name)


async def no_authorisation(platform: Platform) -> Shut:
    patient, document = await platform.patient_with_document()
    return Shut(patient.health_id, document.name, platform.caregiver().statement(), patient.identifier)


async def expired_authorisation(platform: Platform) -> Shut:
    patient, document = await platform.patient_with_document()
    async with platform.database("consent") as connection:
        changed = await connection.execute(
            "UPDATE access_grant SET granted_at = granted_at - interval '400 days', "
            "expires_at = expires_at - interval '400 days' WHERE health_id = $1",
            patient.health_id,
        )
    assert changed == "UPDATE 1"
    return shut(patient, document.name)


async def revoked(platform: Platform) -> Shut:
    patient, document = await platform.patient_with_document()
    await revoke(platform, patient)
    return shut(patient, document.name)


async def blocked(platform: Platform) -> Shut:
    patient, document = await platform.patient_with_document()
    await platform.block(patient.health_id, patient.caregiver)
    return shut(patient, document.name)


async def blocked_by_break_glass(platform: Platform) -> Shut:
    patient, document = await platform.patient_with_document()
    await platform.block(patient.health_id, patient.caregiver)
    return shut(patient, document.name, patient.caregiver.statement(**BREAK_GLASS))


async def opposed_to_break_glass(platform: Platform) -> Shut:
    patient = await platform.registered()
    request = consent_pb2.OpenDossierRequest(
        name=patient.dossier,
        consent=consent_pb2.ConsentRecord(
            method=consent_pb2.CONSENT_METHOD_WRITTEN, given_by=consent_pb2.CONSENT_GIVER_PATIENT
        ),
        break_glass_opposed=True,
        request_id=str(uuid.uuid4()),
    )
    request.consent.collect_time.GetCurrentTime()
    who = patient.acts.professional
    await platform.session.call("consent", "OpenDossier", request, consent_pb2.OpenDossierResponse, who)
    document = await patient.acts.submit(patient.health_id, patient.cda(), "consultation.xml")
    return shut(patient, document.name, patient.caregiver.statement(**BREAK_GLASS))


def shut(patient: Patient, document: str, statement: Statement | None = None) -> Shut:
    who = statement or patient.caregiver.statement()
    return Shut(patient.health_id, document, who, patient.identifier)


async def revoke(platform: Platform, patient: Patient) -> None:
    """The patient ends the physician's authorisation; returns once that is acknowledged."""
    request = consent_pb2.RevokeAuthorizationRequest(
        parent=patient.dossier, grantee=grantee_of(patient.caregiver), request_id=str(uuid.uuid4())
    )
    who = Statement.patient(patient.health_id)
    response = consent_pb2.RevokeAuthorizationResponse
    await platform.session.call("consent", "RevokeAuthorization", request, response, who)


SHUT: Final[dict[str, tuple[Callable[[Platform], Awaitable[Shut]], int]]] = {
    "no dossier": (unknown_dossier, reasons.ERROR_REASON_DOSSIER_NOT_FOUND),
    "closed": (closed_dossier, reasons.ERROR_REASON_DOSSIER_CLOSED),
    "never authorised": (no_authorisation, reasons.ERROR_REASON_AUTHORIZATION_MISSING),
    "authorisation expired": (expired_authorisation, reasons.ERROR_REASON_AUTHORIZATION_EXPIRED),
    "revoked": (revoked, reasons.ERROR_REASON_AUTHORIZATION_MISSING),
    "blocked": (blocked, reasons.ERROR_REASON_BLOCKED),
    "blocked, even by break-glass": (blocked_by_break_glass, reasons.ERROR_REASON_BLOCKED),
    "break-glass opposed": (opposed_to_break_glass, reasons.ERROR_REASON_EMERGENCY_OPPOSED),
}


@pytest.mark.parametrize("name", SHUT)
async def test_a_shut_dossier_is_shut_by_every_way_and_each_attempt_is_in_its_trail(
    platform: Platform, name: str
) -> None:
    make, reason = SHUT[name]
    case = await make(platform)
    expected = DmpError(reason)
    place, request_ids = await platform.log_size(), []
    search = document_pb2.SearchDocumentsRequest(parent=dossier_name(case.health_id))
    for way in WAYS:
        token = await platform.token(way, case.statement)
        for access, request in (
            (GET, document_pb2.GetDocumentRequest(name=case.document)),
            (READ, document_pb2.GetDocumentRequest(name=case.document)),
            (method("SearchDocuments"), search),
        ):
            request_ids.append(platform.request_id())
            refusal = await attempt(platform.channel(way, access), access, request, bearer(token, request_ids[-1]))
            assert refusal is not None, f"{access.path} was served"
            assert (refusal.reason_name, refusal.code) == (expected.reason_name, expected.code)
    response = await platform.get("/DocumentReference", case.statement, **{"patient.identifier": case.identifier})
    assert (response.status_code, outcome_reason(response.json())) == (expected.spec.http, expected.reason_name)
    events = [
        event
        for event in await platform.log_since(place)
        if event.health_id == case.health_id and event.action in ("document.get", "document.read", "document.search")
    ]
    assert {event.reason for event in events} == {reason}
    assert {event.outcome for event in events} <= {audit_pb2.OUTCOME_DENIED, audit_pb2.OUTCOME_REJECTED}
    assert set(request_ids) <= {event.request_id for event in events}
    assert len(events) == len(request_ids) + 1


async def test_by_break_glass_a_physician_without_authorisation_gets_in_and_the_trail_says_how(
    platform: Platform,
) -> None:
    patient, document = await platform.patient_with_document()
    other = platform.acts(platform.caregiver().statement(**BREAK_GLASS))
    assert (await other.read(document.name))[1] == patient.cda()
    events = await platform.trail(patient.health_id)
    assert events[0].actor.access_mode == context_pb2.ACCESS_MODE_BREAK_GLASS
    assert events[0].actor.break_glass_reason == BREAK_GLASS["break_glass_reason"]


# --- no is immediate --------------------------------------------------------------------------------------------------

ROUNDS: Final = 100
READERS: Final = 3


async def test_no_read_that_began_after_a_revocation_was_acknowledged_got_anything(platform: Platform) -> None:
    patient, document = await platform.patient_with_document()
    request = document_pb2.GetDocumentRequest(name=document.name)
    tokens = {way: await platform.token(way, patient.caregiver.statement()) for way in WAYS}
    served_before = served_after = refused_after = 0

    async def read_on(way: str, began_and_served: list[tuple[float, bool]], stop: asyncio.Event) -> None:
        channel = platform.channel(way, GET)
        while not stop.is_set():
            began = time.monotonic()
            refusal = await attempt(channel, GET, request, bearer(tokens[way]))
            assert refusal is None or refusal.reason == reasons.ERROR_REASON_AUTHORIZATION_MISSING
            began_and_served.append((began, refusal is None))

    for _ in range(ROUNDS):
        reads: list[tuple[float, bool]] = []
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as readers:
            for number in range(READERS):
                readers.create_task(read_on(WAYS[number % 2], reads, stop))
            while not any(served for _, served in reads):
                await asyncio.sleep(0.001)
            await revoke(platform, patient)
            acknowledged = time.monotonic()
            while sum(began > acknowledged for began, _ in reads) < READERS:
                await asyncio.sleep(0.001)
            stop.set()
        served_before += sum(served for began, served in reads if began <= acknowledged)
        served_after += sum(served for began, served in reads if began > acknowledged)
        refused_after += sum(not served for began, served in reads if began > acknowledged)
        await patient.acts.authorise(patient.health_id)
    assert served_after == 0
    assert served_before >= ROUNDS
    assert refused_after >= ROUNDS * READERS
