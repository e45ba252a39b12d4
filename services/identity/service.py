"""The RPCs of identity: who calls, which use case, what is answered. Refusals are recorded before they are answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.civil_identity import PatientIdentifier, sought
from services.identity.lookup import CONTACTS_READER, Lookups, Verification, Verified
from services.identity.registration import Registered, Registration, result_of
from services.identity.registration_rules import RegistrationRefused
from services.identity.rights import Rights
from services.identity.rpc_directory import DirectoryParts, DirectoryRpcs
from services.identity.rpc_people import PeopleParts, PeopleRpcs
from services.runtime.context import Call
from services.runtime.errors import DmpError, invalid, to_status
from services.runtime.identifiers import person_name
from services.runtime.trail import Trail, build_event
from services.runtime.validation import validate

_MOST_CREATED: Final = 256
_MOST_RESOLVED: Final = 1024
_MOST_VERIFIED: Final = 256


class IdentityServicer(PeopleRpcs, DirectoryRpcs):
    """dmp.identity.v1.IdentityService."""

    def __init__(
        self,
        registration: Registration,
        lookups: Lookups,
        trail: Trail,
        people: PeopleParts,
        directory: DirectoryParts,
        rights: Rights,
    ) -> None:
        PeopleRpcs.__init__(self, trail, people, rights)
        DirectoryRpcs.__init__(self, trail, directory)
        self._registration = registration
        self._lookups = lookups

    async def CreatePerson(self, request: pb.CreatePersonRequest, call: Call) -> pb.CreatePersonResponse:
        """Registers, or finds who is registered."""
        async with self._recording(call):
            validate(request)
            response = await self._registration.register(call, request)
            if call.actor.takes_over_host and response.existed:
                return pb.CreatePersonResponse(person=pb.Person(name=response.person.name), existed=True)
            return response

    async def BatchCreatePeople(self, request: pb.BatchCreatePeopleRequest, call: Call) -> pb.BatchCreatePeopleResponse:
        """Registers many, each in its own place."""
        async with self._recording(call):
            _require_between(len(request.requests), _MOST_CREATED, "requests")
            outcomes: list[Registered | None] = [None] * len(request.requests)
            for place, each in enumerate(request.requests):
                try:
                    validate(each)
                except DmpError as error:
                    outcomes[place] = error
            places = [place for place, outcome in enumerate(outcomes) if outcome is None]
            requests = [request.requests[place] for place in places]
            calls = [call._replace(request_id=each.request_id) for each in requests]
            settled = await self._registration.register_many(calls, requests)
        outcomes_by_place = dict(zip(places, zip(calls, settled, strict=True), strict=True))
        results = []
        for place, outcome in enumerate(outcomes):
            own, final = outcomes_by_place.get(place, (call, outcome))
            if isinstance(final, DmpError):
                health_id = final.health_id if isinstance(final, RegistrationRefused) else 0
                await self._trail.refuse(own, final, health_id=health_id)
            assert final is not None  # noqa: S101 (either refused before, or settled)
            results.append(result_of(final))
        return pb.BatchCreatePeopleResponse(results=results)

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

    async def BatchCompareNames(self, request: pb.BatchCompareNamesRequest, call: Call) -> pb.BatchCompareNamesResponse:
        """Whether names hold the family name of a dossier's person; the caller records what it finds."""
        validate(request)
        asked = [(each.health_id, each.name) for each in request.requests]
        same, unreadable = await self._lookups.same_family_names(asked)
        return pb.BatchCompareNamesResponse(same_family_names=same, unreadable=unreadable)

    async def BatchReadContacts(self, request: pb.BatchReadContactsRequest, call: Call) -> pb.BatchReadContactsResponse:
        """Mail addresses, for the one service that sends notices; it records each notice itself."""
        validate(request)
        if call.peer != CONTACTS_READER:
            raise DmpError(reasons.ERROR_REASON_CALLER_NOT_ALLOWED)
        emails, unreadable = await self._lookups.emails(request.health_ids)
        return pb.BatchReadContactsResponse(
            emails=emails,
            unreadable=unreadable,
            professional_emails=await self._lookups.professional_emails(request.idnps),
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
