"""The consent service as a process of its own: mutual TLS, tokens, its trail, kill -9."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.mapping import write_time
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, new_health_id
from tests.consent_service import METHODS, check_request, grantee_of, patient, professional
from tests.service_process import AuditLog, ServiceProcess, running, service_process

CONSENTED = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
Started = tuple[ServiceProcess, AuditLog]


@pytest.fixture
async def consent(postgres_url: Callable[[], str], tmp_path: Path) -> AsyncIterator[Started]:
    async with service_process("consent", postgres_url(), tmp_path) as started:
        yield started


def of(name: str) -> str:
    return f"/dmp.consent.v1.ConsentService/{name}"


def opening(health_id: int) -> pb.OpenDossierRequest:
    return pb.OpenDossierRequest(
        name=dossier_name(health_id),
        consent=pb.ConsentRecord(
            collect_time=write_time(CONSENTED),
            method=pb.CONSENT_METHOD_ORAL,
            given_by=pb.CONSENT_GIVER_PATIENT,
        ),
        request_id="open-request",
    )


async def until_open(service: ServiceProcess, health_id: int) -> pb.OpenDossierResponse:
    """Opens as soon as the service answers, with the same request_id each time."""
    async with asyncio.timeout(20):
        while True:
            try:
                response: pb.OpenDossierResponse = await service.ask(
                    METHODS[of("OpenDossier")], opening(health_id), professional()
                )
            except DmpError as error:
                if error.reason != reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)
            else:
                return response


async def grant(service: ServiceProcess, health_id: int) -> pb.GrantAuthorizationResponse:
    request = pb.GrantAuthorizationRequest(
        parent=dossier_name(health_id), patient_consented=True, request_id="grant-request"
    )
    response: pb.GrantAuthorizationResponse = await service.ask(
        METHODS[of("GrantAuthorization")], request, professional()
    )
    return response


async def check(service: ServiceProcess, health_id: int) -> pb.Decision:
    request = pb.BatchCheckAccessRequest(requests=[check_request(health_id, professional())])
    response: pb.BatchCheckAccessResponse = await service.ask_as_service(METHODS[of("BatchCheckAccess")], request)
    return response.results[0].decision


async def refusal(attempt: Awaitable[object]) -> int:
    with pytest.raises(DmpError) as caught:
        await attempt
    return caught.value.reason


async def test_a_dossier_is_opened_authorised_blocked_and_closed_and_all_of_it_is_traced(consent: Started) -> None:
    service, log = consent
    dossier = new_health_id()
    async with running(service) as process:
        opened = await until_open(service, dossier)
        assert opened.dossier.state == pb.DOSSIER_STATE_OPEN
        assert not (await check(service, dossier)).permitted
        await grant(service, dossier)
        assert (await check(service, dossier)).permitted
        block = pb.BlockProfessionalRequest(
            parent=dossier_name(dossier), grantee=grantee_of(), request_id="block-request"
        )
        await service.ask(METHODS[of("BlockProfessional")], block, patient(dossier))
        assert (await check(service, dossier)).reason == reasons.ERROR_REASON_BLOCKED
        assert await refusal(grant(service, dossier)) == reasons.ERROR_REASON_BLOCKED
        close = pb.CloseDossierRequest(
            name=dossier_name(dossier), reason=pb.CLOSE_REASON_PATIENT_REQUEST, request_id="close-request"
        )
        await service.ask(METHODS[of("CloseDossier")], close, patient(dossier))
        async with asyncio.timeout(5):
            while len(log.events) < 5:
                await asyncio.sleep(0.02)
        assert sorted(log.actions) == [
            "authorization.block",
            "authorization.grant",
            "authorization.grant",
            "dossier.close",
            "dossier.open",
        ]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0


async def test_nobody_gets_in_without_a_token_and_no_system_states_who_acts(consent: Started) -> None:
    service, log = consent
    dossier = new_health_id()
    async with running(service):
        await until_open(service, dossier)
        get = pb.GetDossierRequest(name=dossier_name(dossier))
        assert (
            await refusal(service.ask_as_nobody(METHODS[of("GetDossier")], get)) == reasons.ERROR_REASON_TOKEN_MISSING
        )
        batch = pb.BatchCheckAccessRequest(requests=[check_request(dossier, professional())])
        forged = service.ask(METHODS[of("BatchCheckAccess")], batch, professional())
        assert await refusal(forged) == reasons.ERROR_REASON_ACTING_CONTEXT_NOT_ALLOWED
        stranger = service.ask(METHODS[of("GetDossier")], get, patient(new_health_id()))
        assert await refusal(stranger) == reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH
        malformed = pb.GetDossierRequest(name="dossiers/1")
        assert await refusal(service.ask(METHODS[of("GetDossier")], malformed, professional())) == (
            reasons.ERROR_REASON_INVALID_FIELD
        )
        assert reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH in {event.reason for event in log.events.values()}


async def test_with_the_log_down_a_dossier_is_not_shown_and_what_was_acknowledged_is_traced_later(
    consent: Started,
) -> None:
    service, log = consent
    dossier = new_health_id()
    async with running(service):
        await until_open(service, dossier)
        log.down = True
        get = pb.GetDossierRequest(name=dossier_name(dossier))
        asked = service.ask(METHODS[of("GetDossier")], get, professional())
        assert await refusal(asked) == reasons.ERROR_REASON_AUDIT_UNAVAILABLE
        await grant(service, dossier)
        log.down = False
        async with asyncio.timeout(5):
            while "authorization.grant" not in log.actions:
                await asyncio.sleep(0.02)


async def test_what_was_acknowledged_survives_a_kill_exactly_once(consent: Started) -> None:
    service, log = consent
    dossier = new_health_id()
    async with running(service) as process:
        first = await until_open(service, dossier)
        granted = await grant(service, dossier)
        process.kill()
        await process.wait()
    async with running(service):
        assert await until_open(service, dossier) == first
        assert await grant(service, dossier) == granted
        async with asyncio.timeout(10):
            while len(log.events) < 2:
                await asyncio.sleep(0.02)
    assert sorted(log.actions) == ["authorization.grant", "dossier.open"]
