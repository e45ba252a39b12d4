"""Who makes a call: the connection's certificate, the platform token, and the method's access option. No I/O.

Four rules, in this order:

1. Every connection carries a certificate of the platform's CA; it says what kind of party is connected.
2. A call without token is a call between services: only a service's own certificate, and only to methods for services.
3. A token of a partner or a patient is believed on the gateway's connection alone; a token of an internal system or
   an operator only on a connection with the certificate of that very client.
4. The method says which kinds of caller, which scopes; a token bound to a patient reaches that dossier alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.message import Message

from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from services.runtime.access import MethodAccess
from services.runtime.addresses import ADDRESS_HEADER, read_address
from services.runtime.context import Call
from services.runtime.errors import DmpError, invalid
from services.runtime.identifiers import dossier_of, is_fictitious
from services.runtime.tls import PeerIdentity
from services.runtime.tokens import TokenVerifier, VerifiedToken

_NOBODY = ActingContext()
_VIA_GATEWAY = frozenset({access_pb2.CALLER_KIND_PARTNER, access_pb2.CALLER_KIND_PATIENT})
GATEWAY = PeerIdentity("service", "gateway")
"""The only peer that is believed about partners and patients."""
_OWN_CERTIFICATE: dict[int, str] = {
    access_pb2.CALLER_KIND_INTERNAL: "internal",
    access_pb2.CALLER_KIND_OPERATOR: "operator",
}
_LONGEST_ID = 128


class Identified(Exception):
    """A refusal of someone whose token is valid: it goes to the trail. Holds the call and the error."""

    def __init__(self, call: Call, error: DmpError) -> None:
        self.call = call
        self.error = error
        super().__init__(error.message)


class Denials(Protocol):
    """The ids of clients suspended, and of tokens revoked, since the tokens were issued."""

    def __contains__(self, id_: object) -> bool: ...


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Turns a connection and its metadata into a Call."""

    verifier: TokenVerifier
    suspended: Denials = frozenset()

    def authenticate(
        self,
        method: MethodAccess,
        peer: PeerIdentity | None,
        metadata: Mapping[str, str],
        time_remaining: float | None,
        traceparent: str,
        address: str = "",
    ) -> Call:
        """The call, before its request is read. DmpError without a valid token, Identified with one.

        `address` is the other end of the connection; of the gateway's own callers, the gateway says it.
        """
        if peer is None:
            raise DmpError(reasons.ERROR_REASON_CLIENT_CERTIFICATE)
        authorization = metadata.get("authorization")
        if authorization is not None:
            verified = self._verified(authorization)
            actor, caller, client_id = verified.claims, verified.caller, verified.client_id
        elif peer.kind == "service" and access_pb2.CALLER_KIND_SERVICE in method.callers:
            verified, actor, caller, client_id = None, _NOBODY, access_pb2.CALLER_KIND_SERVICE, peer.name
        else:
            raise DmpError(reasons.ERROR_REASON_TOKEN_MISSING)
        call = Call(
            actor,
            caller,
            client_id,
            peer.name,
            metadata.get("x-request-id", "")[:_LONGEST_ID] or os.urandom(8).hex(),
            None if time_remaining is None else time.monotonic() + time_remaining,
            traceparent,
            method,
            address=read_address(metadata.get(ADDRESS_HEADER, "")) if peer == GATEWAY else address,
        )
        if verified is not None:
            self._allowed(call, peer, verified)
        return call

    def _verified(self, authorization: str) -> VerifiedToken:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise DmpError(reasons.ERROR_REASON_TOKEN_MISSING)
        return self.verifier.verify(token, time.time())

    def _allowed(self, call: Call, peer: PeerIdentity, verified: VerifiedToken) -> None:
        """Identified unless the token may come on this connection, is not suspended, and reaches the method."""
        if not _bound(verified.caller, verified.client_id, peer):
            raise Identified(call, DmpError(reasons.ERROR_REASON_CLIENT_CERTIFICATE))
        if verified.client_id in self.suspended:
            raise Identified(call, DmpError(reasons.ERROR_REASON_CLIENT_SUSPENDED))
        if verified.jti in self.suspended:
            raise Identified(call, DmpError(reasons.ERROR_REASON_TOKEN_REVOKED))
        method = call.method
        if method.states_actor:
            raise Identified(call, DmpError(reasons.ERROR_REASON_ACTING_CONTEXT_NOT_ALLOWED))
        if verified.caller not in method.callers:
            raise Identified(call, DmpError(reasons.ERROR_REASON_CALLER_NOT_ALLOWED))
        if method.scopes and not (method.scopes & verified.scopes):
            raise Identified(call, DmpError(reasons.ERROR_REASON_SCOPE_MISSING))
        if verified.claims.sandbox and not method.sandbox:
            raise Identified(call, DmpError(reasons.ERROR_REASON_SANDBOX_ONLY))


def route(call: Call, request: Message) -> Call:
    """The call with its dossier and request id, read from the routing fields. Identified when they are wrong."""
    method = call.method
    if method.mutation:
        request_id: str = request.request_id  # type: ignore[attr-defined]
        if not request_id or "\0" in request_id:
            raise Identified(call, invalid("request_id", "required", "a mutation needs a request_id"))
        call = call.routed(request_id[:_LONGEST_ID], call.health_id)
    if method.dossier_field:
        named = getattr(request, method.dossier_field)
        if not named and method.dossier_optional and not (call.actor.patient_health_id or call.actor.sandbox):
            return call
        try:
            health_id = dossier_of(named, method.dossier_field)
        except DmpError as error:
            raise Identified(call, error) from None
        call = call.routed(call.request_id, health_id)
        if call.actor.patient_health_id not in (0, health_id):
            raise Identified(call, DmpError(reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH))
        if call.actor.sandbox and not is_fictitious(health_id):
            raise Identified(call, DmpError(reasons.ERROR_REASON_SANDBOX_ONLY))
    return call


def about(call: Call, request: Message) -> Call:
    """The call with the dossier that its request names, if any: a refusal belongs in that dossier's trail."""
    field = call.method.dossier_field
    if not field or call.health_id:
        return call
    try:
        return call.routed(call.request_id, dossier_of(getattr(request, field), field))
    except DmpError:
        return call


def _bound(caller: int, client_id: str, peer: PeerIdentity) -> bool:
    """Whether a token of this kind of caller may arrive on this connection."""
    if caller in _VIA_GATEWAY:
        return peer == GATEWAY
    return peer.kind == _OWN_CERTIFICATE.get(caller) and peer.name == client_id
