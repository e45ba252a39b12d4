"""Who calls the gateway: a verified token of a client that is active now and within its quota. FHIR, relay and
reflection all come through here.

The order: the token; the client's registration, with what was suspended or revoked since; the quota; then refusals,
each in the trail before it is answered. The quota comes before them because recording a refusal costs as much as
serving a read: a client that floods the platform with calls that are refused is stopped as any other is. A call beyond
the quota is no decision about anybody's record, and says nothing of one: it is counted, and the first of each minute
of a client is in the trail.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from gateway.clients import Clients, Found
from gateway.quotas import Quotas, Verdict
from gateway.registration import Registration
from gateway.waves import Waves
from services.runtime.access import MethodAccess
from services.runtime.addresses import ADDRESS_HEADER
from services.runtime.context import Call, go_on_as
from services.runtime.errors import DmpError
from services.runtime.limits import BATCH, CARE, EMERGENCY, NAMES, TRAFFIC_HEADER, is_lowered, traffic_of
from services.runtime.tokens import TokenVerifier, VerifiedToken
from services.runtime.trail import Trail, build_event

_SERVED = frozenset({access_pb2.CALLER_KIND_PARTNER, access_pb2.CALLER_KIND_PATIENT})
_LONGEST_ID = 128
_UNTRACED = frozenset(
    {
        reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE,
        reasons.ERROR_REASON_OVERLOADED,
        reasons.ERROR_REASON_DEADLINE_EXCEEDED,
        reasons.ERROR_REASON_QUOTA_EXCEEDED,
    }
)
_OVER_QUOTA_EVERY = 60.0
_MOST_CLIENTS = 10_000
_ANY_CALL = MethodAccess(
    path="gateway",
    callers=_SERVED,
    transaction="",
    scopes=frozenset(),
    audit_action="gateway.call",
    dossier_field="",
    traffic=access_pb2.TRAFFIC_CLASS_CARE,
    mutation=False,
    states_actor=False,
    server_streaming=False,
    request=audit_pb2.AuditEvent,
    response=audit_pb2.AuditEvent,
)


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller of one request. `timeout` is in seconds."""

    actor: ActingContext
    scopes: frozenset[str]
    token: str
    request_id: str
    timeout: float
    traceparent: str = ""
    lowered: bool = False
    """Whether the caller said that this is batch work."""
    at_best: int = EMERGENCY
    """The best class that its client's quota lets it be served in."""
    registration: Registration | None = None
    address: str = ""
    """The network address from which the request came; empty when it is not known."""

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What accompanies the caller's request to a service, which verifies the token itself."""
        pairs: tuple[tuple[str, str], ...] = (
            ("authorization", f"Bearer {self.token}"),
            ("x-request-id", self.request_id),
        )
        if self.traceparent:
            pairs = (*pairs, ("traceparent", self.traceparent))
        if self.address:
            pairs = (*pairs, (ADDRESS_HEADER, self.address))
        return (*pairs, (TRAFFIC_HEADER, NAMES[BATCH])) if self.can_wait else pairs

    @property
    def can_wait(self) -> bool:
        """Whether the services are told that this is batch work."""
        return self.lowered or self.presses

    @property
    def presses(self) -> bool:
        """Whether its client asks for more than its quota."""
        return self.at_best == BATCH

    @property
    def traffic(self) -> int:
        """The class of everyday work, raised or lowered for this caller."""
        return self.traffic_of(CARE)

    def traffic_of(self, own: int) -> int:
        """The class of a call whose method has the class `own`."""
        return max(self.at_best, self.asked_as(own))

    def asked_as(self, own: int) -> int:
        """The class in which such a call counts in its client's quota."""
        return traffic_of(own, self.actor, self.actor.caller, lowered=self.lowered)


class Stated(NamedTuple):
    """A caller by the token alone, and the time.monotonic() at which its call ends."""

    caller: Caller
    verified: VerifiedToken
    ends: float


class Callers:
    """Verifies callers. Refusals of those whose token is valid are in the trail before they are answered."""

    def __init__(
        self, verifier: TokenVerifier, clients: Clients, trail: Trail, quotas: Quotas, waves: Waves | None = None
    ) -> None:
        self._verifier = verifier
        self._clients = clients
        self._trail = trail
        self._quotas = quotas
        self._waves = waves or Waves()
        self._told: dict[str, float] = {}

    async def verify(
        self, headers: Mapping[str, str], traceparent: str, timeout: float, own: int = CARE, address: str = ""
    ) -> Caller:
        """The caller behind `headers` (lower-case keys) at a network address, of a call whose class is `own`.

        TOKEN_* without a valid token. With one: QUOTA_EXCEEDED; CLIENT_SUSPENDED, CLIENT_INVALID, TOKEN_REVOKED or
        CALLER_NOT_ALLOWED, recorded. `Refused` names the client where it is known.
        """
        stated = self.stated(headers, traceparent, timeout, address)
        client_id, traffic = stated.verified.client_id, stated.caller.asked_as(own)
        caller = stated.caller
        try:
            verdict, found = await self._looked_up(stated, traffic)
            caller = replace(caller, registration=found.registration, at_best=_at_best(verdict, traffic))
            if found.refusal is not None:
                raise DmpError(found.refusal)
            if stated.verified.caller not in _SERVED:
                raise DmpError(reasons.ERROR_REASON_CALLER_NOT_ALLOWED)
        except DmpError as error:
            if error.reason not in _UNTRACED:
                await self.record_refusal(caller, error)
            raise Refused(client_id, error, caller.asked_as(own)) from None
        return caller

    async def _looked_up(self, stated: Stated, traffic: int) -> tuple[Verdict, Found]:
        """What the quota says of a call, and the client as it is now; QUOTA_EXCEEDED, CLIENT_INVALID.

        A client whose quota is known is counted before it is looked up: what comes meanwhile finds its token gone.
        """
        caller, verified, client_id = stated.caller, stated.verified, stated.verified.client_id
        verdict = await self._quotas.take_known(client_id, traffic)
        if verdict is not None:
            await self._check_quota(caller, client_id, verdict)
            if verdict.traffic == BATCH != traffic:
                go_on_as(BATCH)
                await self._waves.join(caller.timeout)
            found = await self._clients.find(client_id, verified.jti, timeout=caller.timeout)
            self._quotas.learn(client_id, traffic, found.registration.quota)
            return verdict, found
        found = await self._clients.find(client_id, verified.jti, timeout=caller.timeout)
        verdict = await self._quotas.take(client_id, found.registration.quota, traffic)
        await self._check_quota(caller, client_id, verdict)
        return verdict, found

    def stated(self, headers: Mapping[str, str], traceparent: str, timeout: float, address: str = "") -> Stated:
        """Who the token says calls: no more than that is known yet. TOKEN_* without a valid one."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise DmpError(reasons.ERROR_REASON_TOKEN_MISSING)
        verified = self._verifier.verify(token, time.time())
        request_id = headers.get("x-request-id", "")[:_LONGEST_ID] or secrets.token_hex(8)
        caller = Caller(
            verified.claims,
            verified.scopes,
            token,
            request_id,
            timeout,
            traceparent,
            is_lowered(headers),
            address=address,
        )
        return Stated(caller, verified, time.monotonic() + timeout)

    def surely_refused(self, stated: Stated, own: int) -> bool:
        """Whether `verify` would refuse without asking anybody."""
        caller, verified, _ = stated
        over = self._quotas.refused_for(verified.client_id, caller.asked_as(own)) is not None
        return over or verified.caller not in _SERVED

    def pressing(self, stated: Stated, own: int) -> Stated:
        """The same, as the calls of a client that presses beyond its quota are served."""
        caller = stated.caller
        if not self._quotas.presses(stated.verified.client_id, caller.asked_as(own)):
            return stated
        return stated._replace(caller=replace(caller, at_best=BATCH))

    async def may_call(self, stated: Sequence[Stated], own: int) -> list[bool]:
        """Whether each of many may call, looked up at once, now; those who may are counted in their clients' quotas.

        Nothing is recorded of the others: `verify` says why not. No emergencies.
        """
        found = await self._clients.find_all([(verified.client_id, verified.jti) for _, verified, _ in stated])
        may = [isinstance(each, Found) and each.refusal is None for each in found]
        asking: list[tuple[int, Awaitable[Verdict]]] = []
        for place, ((caller, verified, _), each) in enumerate(zip(stated, found, strict=True)):
            traffic = caller.asked_as(own)
            if may[place] and isinstance(each, Found) and not self._quotas.take_leased(verified.client_id, traffic):
                asking.append((place, self._quotas.take(verified.client_id, each.registration.quota, traffic)))
        for (place, _), verdict in zip(asking, await asyncio.gather(*(take for _, take in asking)), strict=True):
            may[place] = verdict.retry_after is None
        return may

    async def _check_quota(self, caller: Caller, client_id: str, verdict: Verdict) -> None:
        if verdict.retry_after is not None:
            raise await self._over_quota(caller, client_id, verdict.retry_after)

    async def _over_quota(self, caller: Caller, client_id: str, wait: float) -> DmpError:
        """The refusal; one in a while is in the trail."""
        error = DmpError(reasons.ERROR_REASON_QUOTA_EXCEEDED, retry_after=_in_steps(wait))
        now = time.monotonic()
        if now >= self._told.get(client_id, 0.0):
            if len(self._told) >= _MOST_CLIENTS:
                self._told.clear()
            self._told[client_id] = now + _OVER_QUOTA_EVERY
            await self.record_refusal(caller, error)
        return error

    async def record_refusal(
        self, caller: Caller, error: DmpError, *, audit_action: str = "", transaction: str = "", health_id: int = 0
    ) -> None:
        """Return when the gateway's own refusal is durable in the trail."""
        call = Call(
            actor=caller.actor,
            caller=caller.actor.caller,
            client_id=caller.actor.client_id,
            peer="",
            request_id=caller.request_id,
            deadline=None,
            traceparent=caller.traceparent,
            method=replace(_ANY_CALL, transaction=transaction),
            address=caller.address,
        )
        event = build_event(
            call, outcome=audit_pb2.OUTCOME_DENIED, reason=error.reason, action=audit_action, health_id=health_id
        )
        await self._trail.record(event, caller.timeout)


def _at_best(verdict: Verdict, asked: int) -> int:
    return verdict.traffic if verdict.traffic != asked else EMERGENCY


class Refused(DmpError):
    """A refusal of a client that is known, so that it counts in that client's usage, of a call of a class."""

    def __init__(self, client_id: str, error: DmpError, traffic: int) -> None:
        super().__init__(
            error.reason, error.message, fields=error.fields, metadata=error.metadata, retry_after=error.retry_after
        )
        self.client_id = client_id
        self.traffic = traffic


def _in_steps(seconds: float) -> float:
    """Rounded up to sixteenths, so that the wire form of a refusal is found and not made."""
    return max(1, math.ceil(seconds * 16)) / 16
