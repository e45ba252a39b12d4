"""The RPCs of consent: who calls, which use case, what is answered. Refusals are recorded before they are answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.acting import read_actor
from services.consent.authorizations import GrantAuthorization, RevokeAuthorization
from services.consent.blocks import BlockProfessional, UnblockProfessional
from services.consent.changes import Changes, Clock
from services.consent.checking import AccessChecks, BatchAnswers
from services.consent.decision import CHECK_DOSSIER, context_of, refuse_entry, refuse_without_reason, standing
from services.consent.functional_rights import FunctionalRights, Right
from services.consent.mapping import write_dossier, write_time
from services.consent.opening import CloseDossier, OpenDossier
from services.consent.values import Refused
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name
from services.runtime.postgres import translate
from services.runtime.trail import Trail, build_event
from services.runtime.validation import validate


@dataclass(frozen=True, slots=True)
class ConsentTerms:
    """What the rules leave to the operator: how long an authorisation is valid, and which host this is."""

    authorization_validity: timedelta
    home_host: str


class ConsentServicer:
    """dmp.consent.v1.ConsentService."""

    def __init__(
        self,
        changes: Changes,
        checks: AccessChecks,
        trail: Trail,
        rights: FunctionalRights,
        terms: ConsentTerms,
        clock: Clock,
    ) -> None:
        self._changes = changes
        self._checks = checks
        self._batches = BatchAnswers(checks)
        self._trail = trail
        self._rights = rights
        self._terms = terms
        self._clock = clock

    async def OpenDossier(self, request: pb.OpenDossierRequest, call: Call) -> pb.OpenDossierResponse:
        """TD1.1."""
        actor = read_actor(call.actor)
        act = OpenDossier(actor, call.health_id, request, self._rights, self._terms.home_host)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.OpenDossierResponse)

    async def CloseDossier(self, request: pb.CloseDossierRequest, call: Call) -> pb.CloseDossierResponse:
        """TD1.4."""
        act = CloseDossier(read_actor(call.actor), call.health_id, request, self._rights)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.CloseDossierResponse)

    async def GrantAuthorization(
        self, request: pb.GrantAuthorizationRequest, call: Call
    ) -> pb.GrantAuthorizationResponse:
        """TD0.3."""
        actor = read_actor(call.actor)
        validity = self._terms.authorization_validity
        act = GrantAuthorization(actor, call.health_id, request, self._rights, validity)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.GrantAuthorizationResponse)

    async def RevokeAuthorization(
        self, request: pb.RevokeAuthorizationRequest, call: Call
    ) -> pb.RevokeAuthorizationResponse:
        """TD0.3."""
        act = RevokeAuthorization(read_actor(call.actor), call.health_id, request, self._rights)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.RevokeAuthorizationResponse)

    async def BlockProfessional(self, request: pb.BlockProfessionalRequest, call: Call) -> pb.BlockProfessionalResponse:
        """Shuts out, whatever the mode."""
        act = BlockProfessional(read_actor(call.actor), call.health_id, request, self._rights)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.BlockProfessionalResponse)

    async def UnblockProfessional(
        self, request: pb.UnblockProfessionalRequest, call: Call
    ) -> pb.UnblockProfessionalResponse:
        """Lifts a block."""
        act = UnblockProfessional(read_actor(call.actor), call.health_id, request, self._rights)
        async with self._recording(call):
            return await self._changes.make(call, request, act, pb.UnblockProfessionalResponse)

    async def GetDossier(self, request: pb.GetDossierRequest, call: Call) -> pb.GetDossierResponse:
        """TD0.2. A blocked caller is told FORBIDDEN; that much the transaction is for."""
        async with self._recording(call):
            response = await self._standing(request, call)
        event = build_event(
            call,
            outcome=audit_pb2.OUTCOME_SUCCESS,
            objects=(dossier_name(call.health_id),),
            epoch=response.dossier.epoch,
            result_count=1,
        )
        await self._trail.record(event, call.remaining())
        return response

    async def BatchCheckAccess(self, request: pb.BatchCheckAccessRequest, call: Call) -> pb.BatchCheckAccessResponse:
        """Decides for the platform's own services, who record what they then do."""
        return await self._batches.answer(request.requests, call.remaining())

    async def _standing(self, request: pb.GetDossierRequest, call: Call) -> pb.GetDossierResponse:
        actor = read_actor(call.actor)
        found = await self._checks.find(actor, call.health_id, call.remaining())
        facts = found[1] if found else None
        epoch = facts.epoch if facts else 0
        refusal = refuse_entry(actor, call.health_id, facts)
        if refusal is not None and refusal not in (
            reasons.ERROR_REASON_BLOCKED,
            reasons.ERROR_REASON_DOSSIER_NOT_FOUND,
        ):
            raise Refused(refusal, epoch)
        now = self._clock()
        reasonless = refuse_without_reason(actor)
        if reasonless is not None:
            raise Refused(reasonless, epoch)
        if self._rights.right(CHECK_DOSSIER, context_of(actor, facts, now)) is not Right.YES:
            raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, epoch)
        validate(request)
        if found is None:
            raise Refused(reasons.ERROR_REASON_DOSSIER_NOT_FOUND)
        dossier, facts = found
        own = standing(actor, facts, now)
        response = pb.GetDossierResponse(
            dossier=write_dossier(dossier),
            caller_authorization=own.state,  # type: ignore[arg-type]
            caller_is_attending_physician=own.attending_physician,
        )
        if own.expires_at is not None:
            response.caller_authorization_expire_time.CopyFrom(write_time(own.expires_at))
        return response

    @asynccontextmanager
    async def _recording(self, call: Call) -> AsyncIterator[None]:
        """Records a refusal before it is answered; what could not be decided is no refusal."""
        try:
            yield
        except DmpError as error:
            epoch = error.epoch if isinstance(error, Refused) else 0
            await self._trail.refuse(call, error, objects=(dossier_name(call.health_id),), epoch=epoch)
            raise
        except Exception as error:  # a boundary: a fault of the database becomes UNAVAILABLE or INTERNAL
            raise translate(error) from error
