"""Clients of the platform under faults: who acts, one call by one way in, and a dossier to act on.

Lives here: tokens (signed with the stack's own key, so that no client depends on the gateway being up), channels to
each replica, single calls. No retry and no judgement: those are in `load` and `history`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Final, NamedTuple, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2
from dmp.identity.v1 import identity_pb2
from ops.demo.people import DemoPerson
from ops.demo_platform import person_message
from ops.local.registrations import ALL_SCOPES, INTERNAL, PARTNER, PORTAL
from ops.local.state import LOOPBACK, ServiceName
from ops.session import client_credentials
from services.runtime.access import MethodAccess
from services.runtime.errors import from_rpc_error
from services.runtime.identifiers import dossier_name, dossier_of, format_health_id
from services.runtime.settings import UNIX
from services.runtime.terminator import FORWARDED_CERTIFICATE
from services.runtime.tokens import TokenIssuer
from tests.faults.fleet import REPLICAS, Fleet
from tests.platform_calls import AUDIENCE, ISSUER
from tests.platform_fixture import method, service_of, until_acknowledged
from tests.platform_people import Caregiver, caregivers, unmistakable_people

Response = TypeVar("Response", bound=Message)

_TOKEN_SECONDS: Final = 300
_RENEW_AFTER: Final = 200.0
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 30),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.ssl_target_name_override", LOOPBACK),
)
_STATED: Final = (FORWARDED_CERTIFICATE, f"Hash={'0' * 64};URI=spiffe://dmp.local/internal/{INTERNAL}")
"""What a terminator says of the internal system, at whose socket these clients are in its place."""
_PATIENTS: Final = (context_pb2.ACTOR_KIND_PATIENT, context_pb2.ACTOR_KIND_REPRESENTATIVE)


class Way(NamedTuple):
    """Which process is called: a replica of the service itself, or one of the gateway, which passes the call on.

    `number` may be ANY: then the channel goes round those that answer, as a client's in production does.
    """

    entry: ServiceName
    number: int


ANY: Final = -1


def ways(access: MethodAccess, *, relayed: bool) -> tuple[Way, ...]:
    """The ways of one client to a method: an internal system's, directly, or a partner's, through the gateway."""
    entry = "gateway" if relayed else service_of(access)
    return tuple(Way(entry, number) for number in range(REPLICAS))


@dataclass(frozen=True, slots=True)
class Dossier:
    """An open dossier. `author` is authorised all along, `colleague` now and then."""

    health_id: int
    person: DemoPerson
    author: Caregiver
    colleague: Caregiver

    @property
    def name(self) -> str:
        """The resource name."""
        return dossier_name(self.health_id)

    @property
    def patient(self) -> ActingContext:
        """The patient, at the portal."""
        return ActingContext(
            actor_kind=context_pb2.ACTOR_KIND_PATIENT,
            subject=format_health_id(self.health_id),
            patient_health_id=self.health_id,
        )


def professional(caregiver: Caregiver) -> ActingContext:
    """A physician with a card of his own, in a structure."""
    known, structure = caregiver
    return ActingContext(
        actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
        subject=known.idnps,
        subject_name=f"{known.given} {known.family}",
        profession=known.profession_code,
        specialty=known.specialty.code,
        structure=structure.idnst,
        structure_name=structure.name,
        authentication_mode=context_pb2.AUTHENTICATION_MODE_DIRECT,
        access_mode=context_pb2.ACCESS_MODE_NORMAL,
        purpose_of_use="TREAT",
    )


class Clients:
    """Channels to every replica and tokens for whoever acts. Use as an async context manager."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        stack = fleet.stack
        self._issuer = TokenIssuer(stack.tokens.signing_key, stack.tokens.kid, ISSUER)
        self._system = client_credentials(stack.internal(INTERNAL))
        self._public = grpc.ssl_channel_credentials(stack.authority.certificate_path.read_bytes())
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._tokens: dict[tuple[bytes, bool], tuple[str, float]] = {}
        self._people: Iterator[DemoPerson] = unmistakable_people()
        self._caregivers: Iterator[Caregiver] = caregivers()

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def ask(
        self,
        way: Way,
        access: MethodAccess,
        request: Message,
        response: type[Response],
        actor: ActingContext,
        *,
        request_id: str = "",
        timeout: float = 3.0,
    ) -> Response:
        """One unary call. `request_id` correlates a read; a mutation carries its own. Raises DmpError."""
        call: Any = self._channel(way).unary_unary(access.path)
        try:
            data = await call(
                request.SerializeToString(), metadata=self._metadata(way, actor, request_id), timeout=timeout
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return response.FromString(data)

    async def stream(
        self,
        way: Way,
        access: MethodAccess,
        request: Message,
        response: type[Response],
        actor: ActingContext,
        *,
        request_id: str = "",
        timeout: float = 3.0,
    ) -> list[Response]:
        """One server-streaming call, whole. Raises DmpError."""
        call: Any = self._channel(way).unary_stream(access.path)
        metadata = self._metadata(way, actor, request_id)
        try:
            return [
                response.FromString(data)
                async for data in call(request.SerializeToString(), metadata=metadata, timeout=timeout)
            ]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def new_dossier(self) -> Dossier:
        """A person registered, the dossier opened by the author, who authorises himself. Everything must be up."""
        person, author, colleague = next(self._people), next(self._caregivers), next(self._caregivers)
        acting = professional(author)
        registered = await self.set_up(
            "CreatePerson",
            identity_pb2.CreatePersonRequest(person=person_message(person), request_id=f"person-{person.nir}"),
            identity_pb2.CreatePersonResponse,
            acting,
        )
        health_id = dossier_of(registered.person.name, "person.name")
        now = Timestamp()
        now.GetCurrentTime()
        consent = consent_pb2.ConsentRecord(
            collect_time=now, method=consent_pb2.CONSENT_METHOD_ORAL, given_by=consent_pb2.CONSENT_GIVER_PATIENT
        )
        dossier = Dossier(health_id, person, author, colleague)
        opening = consent_pb2.OpenDossierRequest(name=dossier.name, consent=consent, request_id=f"open-{health_id}")
        await self.set_up("OpenDossier", opening, consent_pb2.OpenDossierResponse, acting)
        grant = consent_pb2.GrantAuthorizationRequest(
            parent=dossier.name, patient_consented=True, request_id=f"author-{health_id}"
        )
        await self.set_up("GrantAuthorization", grant, consent_pb2.GrantAuthorizationResponse, acting)
        return dossier

    async def set_up(self, name: str, request: Message, response: type[Response], actor: ActingContext) -> Response:
        """A call that must succeed, tried again for a while: connections to restarted replicas come back by and by."""
        access, replicas = method(name), cycle(range(REPLICAS))
        return await until_acknowledged(
            lambda: self.ask(Way(service_of(access), next(replicas)), access, request, response, actor)
        )

    def _channel(self, way: Way) -> grpc.aio.Channel:
        stack, socket = self.fleet.stack, self.fleet.socket(*way)
        if socket is not None:
            address = f"{UNIX}{socket}"
        else:
            address = stack.target(way.entry) if way.number == ANY else stack.address(way.entry, way.number)
        channel = self._channels.get(address)
        if channel is None:
            if socket is not None:
                channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
            else:
                credentials = self._public if way.entry == "gateway" else self._system
                channel = grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
            self._channels[address] = channel
        return channel

    def _metadata(self, way: Way, actor: ActingContext, request_id: str) -> tuple[tuple[str, str], ...]:
        bearer = ("authorization", f"Bearer {self._token(actor, relayed=way.entry == 'gateway')}")
        stated = () if way.entry == "gateway" or self.fleet.socket(*way) is None else (_STATED,)
        return (bearer, ("x-request-id", request_id), *stated) if request_id else (bearer, *stated)

    def _token(self, actor: ActingContext, *, relayed: bool) -> str:
        key = (actor.SerializeToString(), relayed)
        known = self._tokens.get(key)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        claims = ActingContext()
        claims.CopyFrom(actor)
        if actor.actor_kind in _PATIENTS:
            claims.client_id, claims.caller = PORTAL, access_pb2.CALLER_KIND_PATIENT
        elif relayed:
            claims.client_id, claims.caller = PARTNER, access_pb2.CALLER_KIND_PARTNER
        else:
            claims.client_id, claims.caller = INTERNAL, access_pb2.CALLER_KIND_INTERNAL
        token = self._issuer.issue(claims, AUDIENCE, _TOKEN_SECONDS, scopes=ALL_SCOPES)
        self._tokens[key] = (token, time.monotonic() + _RENEW_AFTER)
        return token
