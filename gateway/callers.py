"""Who calls the gateway: a verified token of a client that is active now. FHIR and relay both come through here."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from gateway.clients import Clients
from services.runtime.access import MethodAccess
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.limits import BATCH, CARE, NAMES, TRAFFIC_HEADER, is_lowered, traffic_of
from services.runtime.tokens import TokenVerifier
from services.runtime.trail import Trail, build_event

_SERVED = frozenset({access_pb2.CALLER_KIND_PARTNER, access_pb2.CALLER_KIND_PATIENT})
_LONGEST_ID = 128
_UNTRACED = frozenset({reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE, reasons.ERROR_REASON_OVERLOADED})
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

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What accompanies the caller's request to a service, which verifies the token itself."""
        pairs: tuple[tuple[str, str], ...] = (
            ("authorization", f"Bearer {self.token}"),
            ("x-request-id", self.request_id),
        )
        if self.traceparent:
            pairs = (*pairs, ("traceparent", self.traceparent))
        return (*pairs, (TRAFFIC_HEADER, NAMES[BATCH])) if self.lowered else pairs

    @property
    def traffic(self) -> int:
        """The class of everyday work, raised or lowered for this caller."""
        return traffic_of(CARE, self.actor, self.actor.caller, lowered=self.lowered)


class Callers:
    """Verifies callers. Refusals of those whose token is valid are in the trail before they are answered."""

    def __init__(self, verifier: TokenVerifier, clients: Clients, trail: Trail) -> None:
        self._verifier = verifier
        self._clients = clients
        self._trail = trail

    async def verify(self, headers: Mapping[str, str], traceparent: str, timeout: float) -> Caller:
        """The caller behind `headers` (lower-case keys).

        TOKEN_* without a valid token; CLIENT_SUSPENDED, CLIENT_INVALID or CALLER_NOT_ALLOWED with one, recorded.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise DmpError(reasons.ERROR_REASON_TOKEN_MISSING)
        verified = self._verifier.verify(token, time.time())
        request_id = headers.get("x-request-id", "")[:_LONGEST_ID] or secrets.token_hex(8)
        caller = Caller(verified.claims, verified.scopes, token, request_id, timeout, traceparent, is_lowered(headers))
        try:
            if verified.caller not in _SERVED:
                raise DmpError(reasons.ERROR_REASON_CALLER_NOT_ALLOWED)
            await self._clients.get(verified.client_id, timeout=timeout)
        except DmpError as error:
            if error.reason not in _UNTRACED:
                await self.record_refusal(caller, error)
            raise
        return caller

    async def record_refusal(
        self, caller: Caller, error: DmpError, *, audit_action: str = "", transaction: str = ""
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
        )
        event = build_event(call, outcome=audit_pb2.OUTCOME_DENIED, reason=error.reason, action=audit_action)
        await self._trail.record(event, caller.timeout)
