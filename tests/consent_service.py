"""A consent service in a database of its own, and the people who call it: what the tests of consent share."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from dmp.consent.v1 import rights_pb2
from services.consent.__main__ import ConsentService
from services.consent.checking import AccessChecks
from services.consent.functional_rights import load_rights
from services.consent.mapping import write_time
from services.consent.rights_service import RightsServicer
from services.consent.service import ConsentServicer
from services.consent.terms import ConsentTerms
from services.runtime import postgres
from services.runtime.access import methods_of
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, format_health_id, new_health_id
from services.runtime.keyring import Keyring
from services.runtime.paging import PageTokens
from services.runtime.trail import Trail

MIGRATIONS = Path("services/consent/migrations")
KEYRING = Keyring({1: bytes(range(32))}, current=1, digests=[1])
RIGHTS = load_rights()
TABLES = (
    "dossier, access_grant, access_block, representation, grantee_dossier, represented, deadline, consent_event,"
    " rights_version, idempotency, outbox, outbox_parked"
)
METHODS = methods_of(
    [pb.DESCRIPTOR.services_by_name["ConsentService"], rights_pb2.DESCRIPTOR.services_by_name["RightsService"]]
)
NOW = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)
YEAR = timedelta(days=365)

PHYSICIAN = "899700245667"
NURSE = "899700000123"
STRUCTURE = "1750000001"
OTHER_STRUCTURE = "1690000002"
BREAK_GLASS = context_pb2.ACCESS_MODE_BREAK_GLASS
REGULATION = context_pb2.ACCESS_MODE_REGULATION


def professional(
    subject: str = PHYSICIAN,
    profession: str = "10",
    *,
    mode: context_pb2.AccessMode.ValueType = context_pb2.ACCESS_MODE_NORMAL,
    authentication: context_pb2.AuthenticationMode.ValueType = context_pb2.AUTHENTICATION_MODE_DIRECT,
    structure: str = STRUCTURE,
    reason: str | None = None,
    occupational: bool = False,
    patient: int = 0,
) -> ActingContext:
    """A professional; in break-glass mode with a reason, unless another is given."""
    broke_glass = mode == context_pb2.ACCESS_MODE_BREAK_GLASS
    return ActingContext(
        actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
        subject=subject,
        profession=profession,
        structure=structure,
        authentication_mode=authentication,
        access_mode=mode,
        break_glass_reason=("unconscious" if broke_glass else "") if reason is None else reason,
        occupational_physician=occupational,
        patient_health_id=patient,
    )


def patient(health_id: int) -> ActingContext:
    """The patient of a dossier."""
    kind = context_pb2.ACTOR_KIND_PATIENT
    return ActingContext(actor_kind=kind, subject=format_health_id(health_id), patient_health_id=health_id)


def representative(person: int, health_id: int) -> ActingContext:
    """Another person, who says that he acts for the patient of a dossier."""
    kind = context_pb2.ACTOR_KIND_REPRESENTATIVE
    return ActingContext(actor_kind=kind, subject=format_health_id(person), patient_health_id=health_id)


def operator() -> ActingContext:
    """A person who runs the platform."""
    return ActingContext(actor_kind=context_pb2.ACTOR_KIND_OPERATOR, subject="operator-1")


def taking_over(host: str, **more: Any) -> ActingContext:
    """A system that takes over the dossiers of a home host."""
    kind = context_pb2.ACTOR_KIND_SYSTEM
    return ActingContext(**{"actor_kind": kind, "subject": "intake-1", "takes_over_host": host, **more})


def certificate(structure: str = STRUCTURE) -> ActingContext:
    """A structure with its certificate."""
    return ActingContext(actor_kind=context_pb2.ACTOR_KIND_STRUCTURE, subject=structure, structure=structure)


def staff(structure: str = STRUCTURE) -> ActingContext:
    """A staff card."""
    return ActingContext(
        actor_kind=context_pb2.ACTOR_KIND_STRUCTURE_STAFF,
        subject="staff-7",
        structure=structure,
        authentication_mode=context_pb2.AUTHENTICATION_MODE_DIRECT,
        access_mode=context_pb2.ACCESS_MODE_NORMAL,
    )


class Events:
    """The trail as a list; `down` makes it unreachable."""

    def __init__(self) -> None:
        self.recorded: list[audit_pb2.AuditEvent] = []
        self.down = False

    async def append(self, events: list[audit_pb2.AuditEvent]) -> Sequence[audit_pb2.AppendReceipt | DmpError]:
        if self.down:
            raise ConnectionError("the audit service is down")
        self.recorded += events
        return [audit_pb2.AppendReceipt(leaf_index=index) for index, _ in enumerate(events)]


@dataclass
class Consent:
    """The service, its trail, its clock, and calls to it."""

    pool: postgres.Pool
    servicer: ConsentServicer
    rights: RightsServicer
    checks: AccessChecks
    terms: ConsentTerms
    events: Events
    now: list[datetime]
    kicks: list[int]
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def call(
        self, method: str, actor: ActingContext, health_id: int, request_id: str = "", service: str = "ConsentService"
    ) -> Call:
        """A call as the dispatcher hands it over."""
        return Call(
            actor=actor,
            caller=access_pb2.CALLER_KIND_PARTNER,
            client_id="software-1",
            peer="gateway",
            request_id=request_id or f"request-{next(self.numbers)}",
            deadline=None,
            traceparent="",
            method=METHODS[f"/dmp.consent.v1.{service}/{method}"],
            health_id=health_id,
        )

    async def open(
        self,
        health_id: int = 0,
        actor: ActingContext | None = None,
        *,
        request_id: str = "",
        collected: datetime = NOW,
        break_glass_opposed: bool = False,
        regulation_opposed: bool = False,
    ) -> int:
        """Opens a dossier; returns its health id."""
        health_id = health_id or new_health_id()
        call = self.call("OpenDossier", actor or professional(), health_id, request_id)
        request = pb.OpenDossierRequest(
            name=dossier_name(health_id),
            consent=pb.ConsentRecord(
                method=pb.CONSENT_METHOD_ORAL, given_by=pb.CONSENT_GIVER_PATIENT, collect_time=write_time(collected)
            ),
            break_glass_opposed=break_glass_opposed,
            regulation_opposed=regulation_opposed,
            request_id=call.request_id,
        )
        await self.servicer.OpenDossier(request, call)
        return health_id

    async def close(
        self,
        health_id: int,
        actor: ActingContext | None = None,
        *,
        reason: pb.CloseReason.ValueType = pb.CLOSE_REASON_PATIENT_REQUEST,
        request_id: str = "",
    ) -> pb.Dossier:
        call = self.call("CloseDossier", actor or patient(health_id), health_id, request_id)
        request = pb.CloseDossierRequest(name=dossier_name(health_id), reason=reason, request_id=call.request_id)
        return (await self.servicer.CloseDossier(request, call)).dossier

    async def grant(
        self,
        health_id: int,
        actor: ActingContext | None = None,
        *,
        grantee: pb.Grantee | None = None,
        attending: bool = False,
        consented: bool = True,
        term: pb.AuthorizationTerm.ValueType = pb.AUTHORIZATION_TERM_UNSPECIFIED,
        care_team: bool = False,
        request_id: str = "",
    ) -> pb.GrantAuthorizationResponse:
        call = self.call("GrantAuthorization", actor or professional(), health_id, request_id)
        request = pb.GrantAuthorizationRequest(
            parent=dossier_name(health_id),
            grantee=grantee,
            attending_physician=attending,
            patient_consented=consented,
            term=term,
            care_team=care_team,
            request_id=call.request_id,
        )
        return await self.servicer.GrantAuthorization(request, call)

    async def revoke(
        self, health_id: int, actor: ActingContext | None = None, *, grantee: pb.Grantee | None = None
    ) -> int:
        call = self.call("RevokeAuthorization", actor or professional(), health_id)
        request = pb.RevokeAuthorizationRequest(
            parent=dossier_name(health_id), grantee=grantee, request_id=call.request_id
        )
        return (await self.servicer.RevokeAuthorization(request, call)).epoch

    async def block(self, health_id: int, grantee: pb.Grantee, actor: ActingContext | None = None) -> int:
        call = self.call("BlockProfessional", actor or patient(health_id), health_id)
        request = pb.BlockProfessionalRequest(
            parent=dossier_name(health_id), grantee=grantee, request_id=call.request_id
        )
        return (await self.servicer.BlockProfessional(request, call)).epoch

    async def unblock(self, health_id: int, grantee: pb.Grantee, actor: ActingContext | None = None) -> int:
        call = self.call("UnblockProfessional", actor or patient(health_id), health_id)
        request = pb.UnblockProfessionalRequest(
            parent=dossier_name(health_id), grantee=grantee, request_id=call.request_id
        )
        return (await self.servicer.UnblockProfessional(request, call)).epoch

    async def get(self, health_id: int, actor: ActingContext | None = None) -> pb.GetDossierResponse:
        call = self.call("GetDossier", actor or professional(), health_id)
        return await self.servicer.GetDossier(pb.GetDossierRequest(name=dossier_name(health_id)), call)

    async def check(
        self,
        health_id: int,
        actor: ActingContext | None = None,
        action: pb.Action.ValueType = pb.ACTION_READ,
    ) -> pb.Decision:
        """One decision."""
        response = await self.batch([check_request(health_id, actor or professional(), action)])
        return response.results[0].decision

    async def batch(self, requests: Sequence[pb.CheckAccessRequest]) -> pb.BatchCheckAccessResponse:
        call = self.call("BatchCheckAccess", ActingContext(), 0)
        return await self.servicer.BatchCheckAccess(pb.BatchCheckAccessRequest(requests=requests), call)

    async def do(self, method: str, request: Any, actor: ActingContext, health_id: int) -> Any:
        """Any RPC, by name; a mutation gets a request_id of its own if it has none."""
        of_rights = f"/dmp.consent.v1.RightsService/{method}" in METHODS
        service = "RightsService" if of_rights else "ConsentService"
        call = self.call(method, actor, health_id, getattr(request, "request_id", ""), service)
        if call.method.mutation:
            request.request_id = call.request_id
        return await getattr(self.rights if of_rights else self.servicer, method)(request, call)

    async def told(self) -> list[audit_pb2.AuditEvent]:
        """The events in the outbox, oldest first."""
        rows = await self.pool.fetch("SELECT payload FROM outbox ORDER BY created_at, event_id")
        return [audit_pb2.AuditEvent.FromString(row["payload"]) for row in rows]


def check_request(
    health_id: int, actor: ActingContext, action: pb.Action.ValueType = pb.ACTION_READ
) -> pb.CheckAccessRequest:
    """One item of a batch."""
    context = context_pb2.ItemContext(actor=actor, request_id="request-x")
    return pb.CheckAccessRequest(context=context, health_id=health_id, action=action)


def consent_record(
    collected: datetime = NOW, given_by: pb.ConsentGiver.ValueType = pb.CONSENT_GIVER_PATIENT
) -> pb.ConsentRecord:
    """A proof of consent."""
    return pb.ConsentRecord(method=pb.CONSENT_METHOD_ORAL, given_by=given_by, collect_time=write_time(collected))


def grantee_of(subject: str = PHYSICIAN) -> pb.Grantee:
    """A professional as grantee."""
    return pb.Grantee(kind=pb.GRANTEE_KIND_PROFESSIONAL, id=subject)


def structure_grantee(structure: str = STRUCTURE) -> pb.Grantee:
    """A structure as grantee."""
    return pb.Grantee(kind=pb.GRANTEE_KIND_STRUCTURE, id=structure)


def message_bytes(message: Message) -> bytes:
    """For comparing answers."""
    return message.SerializeToString(deterministic=True)


def migrated(dsn: str) -> str:
    """The DSN of a database once it has this service's migrations; for fixtures outside of an event loop."""
    asyncio.run(postgres.migrate(dsn, MIGRATIONS, service="consent"))
    return dsn


def consent_on(pool: postgres.Pool, now: list[datetime]) -> tuple[Consent, ConsentService]:
    """The service over a pool, at the time `now[0]`, as the tests drive it; and itself, to be closed."""
    events, kicks, terms = Events(), list[int](), ConsentTerms(YEAR, "national")
    service = ConsentService(
        pool,
        RIGHTS,
        PageTokens(KEYRING),
        Trail(events.append),
        terms,
        clock=lambda: now[0],
        kick=lambda: kicks.append(1),
    )
    return Consent(pool, service.servicer, service.rights_servicer, service.checks, terms, events, now, kicks), service


@asynccontextmanager
async def consent_service(dsn: str) -> AsyncIterator[Consent]:
    """The service on a migrated database, which is emptied first."""
    pool = await postgres.connect(dsn, max_size=6, name="test-consent")
    await pool.execute(f"TRUNCATE {TABLES}, linked_set")
    await pool.execute("UPDATE rights_in_force SET version = 0")
    made, service = consent_on(pool, [NOW])
    try:
        yield made
    finally:
        await service.close()
        await pool.close()


@pytest.fixture(scope="module")
def consent_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def consent(consent_database: str) -> AsyncIterator[Consent]:
    async with consent_service(consent_database) as service:
        yield service
