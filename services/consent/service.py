"""The RPCs of consent: who calls, which use case, what is answered. Refusals are recorded before they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.acting import read_actor
from services.consent.attending import READER, AttendingPhysicians
from services.consent.authorizations import GrantAuthorization, RemoveAttendingPhysician, RevokeAuthorization
from services.consent.blocks import BlockProfessional, UnblockProfessional
from services.consent.changes import Changes
from services.consent.checking import AccessChecks, BatchAnswers
from services.consent.closing import CloseDossier, RecordDeath, RequestDestruction, WithdrawDestruction
from services.consent.held import HeldDossiers
from services.consent.hosts import HostDossiers
from services.consent.opening import OpenDossier, OpposeOpening, ReopenDossier, WithdrawOpposition
from services.consent.preferences import MoveDossier, UpdatePreferences
from services.consent.reading import Readings, Told
from services.consent.representatives import EndRepresentation, RegisterRepresentative
from services.consent.taking_in import TakeInDossier
from services.consent.terms import ConsentTerms
from services.consent.values import Refused
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name
from services.runtime.postgres import translate
from services.runtime.trail import Trail, build_event
from services.runtime.validation import validate


class ConsentServicer:
    """dmp.consent.v1.ConsentService."""

    def __init__(
        self,
        changes: Changes,
        checks: AccessChecks,
        readings: Readings,
        held: HeldDossiers,
        hosts: HostDossiers,
        attending: AttendingPhysicians,
        trail: Trail,
        terms: ConsentTerms,
    ) -> None:
        self._changes = changes
        self._batches = BatchAnswers(checks)
        self._readings = readings
        self._held = held
        self._hosts = hosts
        self._attending = attending
        self._trail = trail
        self._terms = terms

    # --- the life of a dossier ---------------------------------------------------------------------------------------

    async def OpenDossier(self, request: pb.OpenDossierRequest, call: Call) -> pb.OpenDossierResponse:
        """TD1.1."""
        act = OpenDossier(read_actor(call.actor), call.health_id, request, self._terms)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.OpenDossierResponse)

    async def ReopenDossier(self, request: pb.ReopenDossierRequest, call: Call) -> pb.ReopenDossierResponse:
        """TD1.2."""
        act = ReopenDossier(read_actor(call.actor), call.health_id, request)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.ReopenDossierResponse)

    async def OpposeOpening(self, request: pb.OpposeOpeningRequest, call: Call) -> pb.OpposeOpeningResponse:
        """No dossier, please."""
        act = OpposeOpening(read_actor(call.actor), call.health_id, request, self._terms)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.OpposeOpeningResponse)

    async def WithdrawOpposition(
        self, request: pb.WithdrawOppositionRequest, call: Call
    ) -> pb.WithdrawOppositionResponse:
        """A dossier may be opened again."""
        act = WithdrawOpposition(read_actor(call.actor), call.health_id, request)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.WithdrawOppositionResponse)

    async def CloseDossier(self, request: pb.CloseDossierRequest, call: Call) -> pb.CloseDossierResponse:
        """TD1.4."""
        act = CloseDossier(read_actor(call.actor), call.health_id, request, self._terms)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.CloseDossierResponse)

    async def RecordDeath(self, request: pb.RecordDeathRequest, call: Call) -> pb.RecordDeathResponse:
        """Closes for good."""
        act = RecordDeath(read_actor(call.actor), call.health_id, request, self._terms)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.RecordDeathResponse)

    async def RequestDestruction(
        self, request: pb.RequestDestructionRequest, call: Call
    ) -> pb.RequestDestructionResponse:
        """No archive, please."""
        act = RequestDestruction(read_actor(call.actor), call.health_id, request, self._terms)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.RequestDestructionResponse)

    async def WithdrawDestruction(
        self, request: pb.WithdrawDestructionRequest, call: Call
    ) -> pb.WithdrawDestructionResponse:
        """An archive after all."""
        act = WithdrawDestruction(read_actor(call.actor), call.health_id, request, self._terms)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.WithdrawDestructionResponse)

    async def MoveDossier(self, request: pb.MoveDossierRequest, call: Call) -> pb.MoveDossierResponse:
        """Another home."""
        act = MoveDossier(read_actor(call.actor), call.health_id, request)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.MoveDossierResponse)

    async def UpdatePreferences(self, request: pb.UpdatePreferencesRequest, call: Call) -> pb.UpdatePreferencesResponse:
        """Emergencies."""
        act = UpdatePreferences(read_actor(call.actor), call.health_id, request)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.UpdatePreferencesResponse)

    async def TakeInDossier(self, request: pb.TakeInDossierRequest, call: Call) -> pb.TakeInDossierResponse:
        """From another host, whole."""
        act = TakeInDossier(read_actor(call.actor), call.health_id, request, self._terms)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.TakeInDossierResponse)

    # --- who may enter -----------------------------------------------------------------------------------------------

    async def GrantAuthorization(
        self, request: pb.GrantAuthorizationRequest, call: Call
    ) -> pb.GrantAuthorizationResponse:
        """TD0.3."""
        act = GrantAuthorization(read_actor(call.actor), call.health_id, request, self._terms)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.GrantAuthorizationResponse)

    async def RevokeAuthorization(
        self, request: pb.RevokeAuthorizationRequest, call: Call
    ) -> pb.RevokeAuthorizationResponse:
        """TD0.3."""
        act = RevokeAuthorization(read_actor(call.actor), call.health_id, request)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.RevokeAuthorizationResponse)

    async def RemoveAttendingPhysician(
        self, request: pb.RemoveAttendingPhysicianRequest, call: Call
    ) -> pb.RemoveAttendingPhysicianResponse:
        """TD0.3."""
        act = RemoveAttendingPhysician(read_actor(call.actor), call.health_id, request)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.RemoveAttendingPhysicianResponse)

    async def BlockProfessional(self, request: pb.BlockProfessionalRequest, call: Call) -> pb.BlockProfessionalResponse:
        """Shuts out, whatever the mode."""
        act = BlockProfessional(read_actor(call.actor), call.health_id, request)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.BlockProfessionalResponse)

    async def UnblockProfessional(
        self, request: pb.UnblockProfessionalRequest, call: Call
    ) -> pb.UnblockProfessionalResponse:
        """Lifts a block."""
        act = UnblockProfessional(read_actor(call.actor), call.health_id, request)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.UnblockProfessionalResponse)

    async def RegisterRepresentative(
        self, request: pb.RegisterRepresentativeRequest, call: Call
    ) -> pb.RegisterRepresentativeResponse:
        """Who acts for the patient."""
        act = RegisterRepresentative(read_actor(call.actor), call.health_id, request, self._terms)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.RegisterRepresentativeResponse)

    async def EndRepresentation(self, request: pb.EndRepresentationRequest, call: Call) -> pb.EndRepresentationResponse:
        """Who no longer does."""
        act = EndRepresentation(read_actor(call.actor), call.health_id, request)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.EndRepresentationResponse)

    # --- what is told ------------------------------------------------------------------------------------------------

    async def GetDossier(self, request: pb.GetDossierRequest, call: Call) -> pb.GetDossierResponse:
        """TD0.2."""
        async with self._recording(call):
            response, told = await self._readings.standing(request, call)
        await self._record(call, told)
        return response

    async def ListAuthorizations(
        self, request: pb.ListAuthorizationsRequest, call: Call
    ) -> pb.ListAuthorizationsResponse:
        """TD1.6."""
        async with self._recording(call):
            response, told = await self._readings.authorizations(request, call)
        await self._record(call, told)
        return response

    async def ListAccessible(self, request: pb.ListAccessibleRequest, call: Call) -> pb.ListAccessibleResponse:
        """TD0.4. Recorded in the trail of each dossier listed; an empty list, among the events about none."""
        async with self._recording(call):
            response, epochs = await self._readings.accessible(request, call)
        if not epochs:
            await self._record(call, Told(0, 0))
        await asyncio.gather(
            *(
                self._record(call, Told(epoch, 1, audit_pb2.ACCESS_BASIS_AUTHORIZATION), health_id=health_id)
                for health_id, epoch in epochs.items()
            )
        )
        return response

    async def ListHostDossiers(self, request: pb.ListHostDossiersRequest, call: Call) -> pb.ListHostDossiersResponse:
        """Those of a home host. Recorded in the trail of each dossier listed; an empty page, among the events about
        none."""
        async with self._recording(call):
            response, listed = await self._hosts.list(request, call)
        if not listed:
            await self._record(call, Told(0, 0))
        basis = audit_pb2.ACCESS_BASIS_TAKEOVER if call.actor.takes_over_host else audit_pb2.ACCESS_BASIS_LAW
        await asyncio.gather(
            *(self._record(call, Told(each.epoch, 1, basis), health_id=each.health_id) for each in listed)
        )
        return response

    async def ListRepresentatives(
        self, request: pb.ListRepresentativesRequest, call: Call
    ) -> pb.ListRepresentativesResponse:
        """Who represents the patient."""
        async with self._recording(call):
            response, told = await self._readings.representatives(call)
        await self._record(call, told)
        return response

    async def ListRepresented(self, request: pb.ListRepresentedRequest, call: Call) -> pb.ListRepresentedResponse:
        """Whom a person represents. Recorded unless a service asks, which records what it then does."""
        async with self._recording(call):
            response = await self._readings.represented(call)
        if call.actor.subject:
            await self._record(call, Told(0, len(response.dossiers)))
        return response

    async def ExplainAccess(self, request: pb.ExplainAccessRequest, call: Call) -> pb.ExplainAccessResponse:
        """Why, or why not."""
        async with self._recording(call):
            response, told = await self._readings.explain(request, call)
        await self._record(call, told)
        return response

    async def ListConsentEvents(self, request: pb.ListConsentEventsRequest, call: Call) -> pb.ListConsentEventsResponse:
        """What changed."""
        async with self._recording(call):
            response, told = await self._readings.events(request, call)
        await self._record(call, told)
        return response

    async def BatchCheckAccess(self, request: pb.BatchCheckAccessRequest, call: Call) -> pb.BatchCheckAccessResponse:
        """Decides for the platform's own services, who record what they then do."""
        return await self._batches.answer(request.requests, call.remaining())

    async def ListHeldDossiers(self, request: pb.ListHeldDossiersRequest, call: Call) -> pb.ListHeldDossiersResponse:
        """Says where document has to look, which asks for each dossier and records what it then tells."""
        return await self._held.name(request, call.remaining())

    async def BatchListAttendingPhysicians(
        self, request: pb.BatchListAttendingPhysiciansRequest, call: Call
    ) -> pb.BatchListAttendingPhysiciansResponse:
        """Names them to the one service that has a notice for them; it records each notice itself."""
        validate(request)
        if call.peer != READER:
            raise DmpError(reasons.ERROR_REASON_CALLER_NOT_ALLOWED)
        return await self._attending.list(request)

    async def _record(self, call: Call, told: Told, *, health_id: int = 0) -> None:
        """Return when what is about to be told is in the trail."""
        about = health_id or call.health_id
        event = build_event(
            call,
            outcome=audit_pb2.OUTCOME_SUCCESS,
            health_id=about,
            objects=(dossier_name(about),) if about else (),
            epoch=told.epoch,
            result_count=told.count,
            basis=told.basis,
        )
        await self._trail.record(event, call.remaining())

    @asynccontextmanager
    async def _recording(self, call: Call) -> AsyncIterator[None]:
        """Records a refusal before it is answered; what could not be decided is no refusal."""
        try:
            yield
        except DmpError as error:
            await refused(self._trail, call, error)
            raise
        except Exception as error:  # a boundary: a fault of the database becomes UNAVAILABLE or INTERNAL
            raise translate(error) from error


async def refused(trail: Trail, call: Call, error: DmpError) -> None:
    """Record a refusal, with the epoch at which it was made."""
    epoch = error.epoch if isinstance(error, Refused) else 0
    objects = (dossier_name(call.health_id),) if call.health_id else ()
    await trail.refuse(call, error, objects=objects, epoch=epoch)
