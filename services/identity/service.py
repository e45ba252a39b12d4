"""The RPCs of identity: who calls, which use case, what is answered. Refusals are recorded before they are answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.civil_identity import PatientIdentifier, sought
from services.identity.lookup import Lookups, Verification, Verified
from services.identity.registration import Registration
from services.identity.registration_rules import RegistrationRefused
from services.runtime.context import Call
from services.runtime.errors import DmpError, invalid, to_status
from services.runtime.identifiers import person_name
from services.runtime.postgres import translate
from services.runtime.trail import Trail, build_event
from services.runtime.validation import validate

_MOST_RESOLVED: Final = 1024
_MOST_VERIFIED: Final = 256


class IdentityServicer:
    """dmp.identity.v1.IdentityService."""

    def __init__(self, registration: Registration, lookups: Lookups, trail: Trail) -> None:
        self._registration = registration
        self._lookups = lookups
        self._trail = trail

    async def CreatePerson(self, request: pb.CreatePersonRequest, call: Call) -> pb.CreatePersonResponse:
        """Registers, or finds who is registered."""
        async with self._recording(call):
            validate(request)
            return await self._registration.register(call, request)

    async def BatchResolveIdentifiers(
        self, request: pb.BatchResolveIdentifiersRequest, call: Call
    ) -> pb.BatchResolveIdentifiersResponse:
        """The health ids of identifiers. The platform's services record what they do with it; others are recorded."""
        _require_between(len(request.identifiers), _MOST_RESOLVED, "identifiers")
        identifiers: list[PatientIdentifier | None] = []
        faults: dict[int, DmpError] = {}
        for index, stated in enumerate(request.identifiers):
            try:
                identifiers.append(sought(stated.system, stated.value))
            except DmpError as error:
                faults[index] = error
                identifiers.append(None)
        async with self._recording(call):
            owners = await self._lookups.resolve(identifiers, call.remaining())
        if call.caller != access_pb2.CALLER_KIND_SERVICE:
            await self._record_resolution(call, owners)
        only = call.actor.patient_health_id
        return pb.BatchResolveIdentifiersResponse(
            results=[_resolved(owner, faults.get(index), only) for index, owner in enumerate(owners)]
        )

    async def BatchVerifyPatients(
        self, request: pb.BatchVerifyPatientsRequest, call: Call
    ) -> pb.BatchVerifyPatientsResponse:
        """Whether documents are about the people of their dossiers. The caller records what it does with it."""
        _require_between(len(request.requests), _MOST_VERIFIED, "requests")
        verifications: list[Verification] = []
        faults: dict[int, DmpError] = {}
        for index, asked in enumerate(request.requests):
            try:
                verifications.append(self._lookups.read(asked))
            except DmpError as error:
                faults[index] = error
        verified = iter(await self._lookups.verify(verifications, call.remaining()))
        return pb.BatchVerifyPatientsResponse(
            results=[
                _verified(faults[index] if index in faults else next(verified))
                for index in range(len(request.requests))
            ]
        )

    async def _record_resolution(self, call: Call, owners: Sequence[int | None]) -> None:
        found = {owner for owner in owners if owner is not None}
        event = build_event(
            call,
            outcome=audit_pb2.OUTCOME_SUCCESS,
            objects=[person_name(health_id) for health_id in sorted(found)],
            result_count=len(found),
        )
        await self._trail.record(event, call.remaining())

    @asynccontextmanager
    async def _recording(self, call: Call) -> AsyncIterator[None]:
        """Records a refusal before it is answered; what could not be decided is no refusal."""
        try:
            yield
        except DmpError as error:
            health_id = error.health_id if isinstance(error, RegistrationRefused) else 0
            await self._trail.refuse(call, error, health_id=health_id)
            raise
        except Exception as error:  # a boundary: a fault of the database becomes UNAVAILABLE or INTERNAL
            raise translate(error) from error


def _require_between(count: int, most: int, field: str) -> None:
    if not 1 <= count <= most:
        raise invalid(field, "repeated.items", f"between 1 and {most} items")


def _resolved(owner: int | None, fault: DmpError | None, only: int) -> pb.ResolveIdentifierResult:
    if fault is not None:
        return pb.ResolveIdentifierResult(status=to_status(fault))
    if owner is None:
        return pb.ResolveIdentifierResult(status=to_status(DmpError(reasons.ERROR_REASON_UNKNOWN_PATIENT)))
    if only not in (0, owner):
        return pb.ResolveIdentifierResult(status=to_status(DmpError(reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH)))
    return pb.ResolveIdentifierResult(health_id=owner)


def _verified(result: Verified) -> pb.VerifyPatientResult:
    if result is True:
        return pb.VerifyPatientResult(verified=True)
    error = result if isinstance(result, DmpError) else DmpError(reasons.ERROR_REASON_PATIENT_MISMATCH)
    return pb.VerifyPatientResult(status=to_status(error))
