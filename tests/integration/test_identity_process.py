"""The identity service as a process of its own: mutual TLS, tokens, its trail, nothing personal in its logs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import identity_pb2 as pb
from services.runtime.errors import DmpError, from_status
from tests.identity_service import DOMINIQUE, METHODS, RUTH, SOFTWARE, claim, health_id_of, ins, traits
from tests.service_process import AuditLog, ServiceProcess, running, service_process

CREATE = METHODS["/dmp.identity.v1.IdentityService/CreatePerson"]
RESOLVE = METHODS["/dmp.identity.v1.IdentityService/BatchResolveIdentifiers"]
VERIFY = METHODS["/dmp.identity.v1.IdentityService/BatchVerifyPatients"]
Started = tuple[ServiceProcess, AuditLog]


@pytest.fixture
async def identity(postgres_url: Callable[[], str], tmp_path: Path) -> AsyncIterator[Started]:
    async with service_process("identity", postgres_url(), tmp_path) as started:
        yield started


async def until_registered(service: ServiceProcess) -> pb.CreatePersonResponse:
    """Registers as soon as the service answers, with the same request_id each time."""
    request = pb.CreatePersonRequest(
        person=pb.Person(traits=traits(), identifiers=[DOMINIQUE]), request_id="create-request"
    )
    async with asyncio.timeout(20):
        while True:
            try:
                response: pb.CreatePersonResponse = await service.ask(CREATE, request, SOFTWARE)
            except DmpError as error:
                if error.reason != reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)
            else:
                return response


async def test_a_person_is_registered_resolved_and_verified_over_the_wire_and_no_log_names_him(
    identity: Started,
) -> None:
    service, log = identity
    async with running(service) as process:
        registered = await until_registered(service)
        health_id = health_id_of(registered.person)
        resolve = pb.BatchResolveIdentifiersRequest(identifiers=[DOMINIQUE, RUTH])
        resolved = await service.ask_as_service(RESOLVE, resolve)
        assert resolved.results[0].health_id == health_id
        assert from_status(resolved.results[1].status).reason == reasons.ERROR_REASON_UNKNOWN_PATIENT
        verify = pb.BatchVerifyPatientsRequest(
            requests=[
                pb.VerifyPatientRequest(
                    context=context_pb2.ItemContext(actor=SOFTWARE), health_id=health_id, claim=stated
                )
                for stated in (claim(DOMINIQUE), claim(RUTH))
            ]
        )
        verified = await service.ask_as_service(VERIFY, verify)
        assert verified.results[0].verified
        assert from_status(verified.results[1].status).reason == reasons.ERROR_REASON_PATIENT_MISMATCH
        conflict = pb.CreatePersonRequest(
            person=pb.Person(traits=traits("Autrement"), identifiers=[DOMINIQUE]), request_id="other-request"
        )
        with pytest.raises(DmpError) as caught:
            await service.ask(CREATE, conflict, SOFTWARE)
        assert caught.value.reason == reasons.ERROR_REASON_PERSON_CONFLICT
        async with asyncio.timeout(5):
            while len(log.events) < 2:
                await asyncio.sleep(0.02)
        process.terminate()
        _, lines = await process.communicate()
        assert process.returncode == 0
    told = b"".join([lines, *(event.SerializeToString() for event in log.events.values())])
    for secret in (DOMINIQUE.value, RUTH.value, "Pat-Trois", "Dominique", "1979-03-28", "Autrement"):
        assert secret.encode() not in told


async def test_a_wrong_number_is_refused_by_field_and_rule_and_never_repeated(identity: Started) -> None:
    service, _ = identity
    wrong = ins("2790351215189")
    wrong.value = wrong.value[:-2] + "01"
    async with running(service):
        await until_registered(service)
        request = pb.CreatePersonRequest(
            person=pb.Person(traits=traits(), identifiers=[wrong]), request_id="wrong-request"
        )
        with pytest.raises(DmpError) as caught:
            await service.ask(CREATE, request, SOFTWARE)
    error = caught.value
    assert [(fault.field, fault.rule) for fault in error.fields] == [("person.identifiers[0].value", "nir.key")]
    assert wrong.value not in f"{error.message}{error.fields}{error.metadata}"


async def test_a_partners_system_may_not_ask_who_a_document_is_about(identity: Started) -> None:
    service, _ = identity
    async with running(service):
        registered = await until_registered(service)
        request = pb.BatchVerifyPatientsRequest(
            requests=[pb.VerifyPatientRequest(health_id=health_id_of(registered.person), claim=claim(DOMINIQUE))]
        )
        with pytest.raises(DmpError) as caught:
            await service.ask(VERIFY, request, SOFTWARE)
    assert caught.value.reason == reasons.ERROR_REASON_ACTING_CONTEXT_NOT_ALLOWED


async def test_a_registration_acknowledged_survives_a_kill_exactly_once(identity: Started) -> None:
    service, log = identity
    async with running(service) as process:
        first = await until_registered(service)
        process.kill()
        await process.wait()
    async with running(service):
        assert await until_registered(service) == first
        async with asyncio.timeout(10):
            while not log.events:
                await asyncio.sleep(0.02)
    assert log.actions == ["person.create"]
