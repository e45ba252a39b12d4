"""The platform as the FHIR front calls it: the caller's own token forwarded, identifiers resolved in batches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request as HttpRequest

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.coding_pb2 import Identifier
from dmp.identity.v1 import identity_pb2
from gateway.admission import admitted, counts_for
from gateway.callers import Caller, Callers, Refused
from gateway.early_refusals import OverQuota
from gateway.fhir.rpcs import Request, Response, Rpc
from gateway.forwarding import IN_WAVES, Together
from services.runtime.addresses import read_address
from services.runtime.channels import Peer, Stream, Unary
from services.runtime.coalescer import Coalescer
from services.runtime.errors import DmpError, from_status
from services.runtime.identifiers import is_fictitious
from services.runtime.limits import TRAFFIC_HEADER
from services.runtime.observation import SecurityLog

_TIMEOUT = 30.0
_IDENTITY = "/dmp.identity.v1.IdentityService"


class PlatformBackend:
    """Calls the services for the FHIR front. A refusal is the service's own, and recorded there."""

    def __init__(
        self, callers: Callers, peers: Mapping[str, Peer], security: SecurityLog, over_quota: OverQuota
    ) -> None:
        """`peers` are the services by name; `over_quota` is told of tokens whose clients have used their quotas."""
        self._callers = callers
        self._over_quota = over_quota
        self._security = security
        self._peers = peers
        self._methods: dict[str, Any] = {}
        self._together: dict[str, Together] = {}
        self._resolve: Coalescer[Identifier, int | None] = Coalescer("identity", self._resolve_batch)
        self._resolve_all = peers["identity"].unary(
            f"{_IDENTITY}/BatchResolveIdentifiers",
            identity_pb2.BatchResolveIdentifiersRequest,
            identity_pb2.BatchResolveIdentifiersResponse,
        )

    async def caller(self, request: HttpRequest) -> Caller:
        """The caller of an HTTP request, which has its place then; one without valid token is in the security log."""
        headers = {
            "authorization": _single(request, "authorization"),
            "x-request-id": request.state.request_id,
            TRAFFIC_HEADER: _single(request, TRAFFIC_HEADER),
        }
        try:
            address = read_address(request.client.host) if request.client else ""
            caller = await self._callers.verify(headers, request.state.traceparent, _TIMEOUT, address=address)
        except Refused as error:
            counts_for(request, error.client_id)
            if error.reason == reasons.ERROR_REASON_QUOTA_EXCEEDED:
                self._over_quota.note(request.scope["headers"], error.client_id, error.traffic)
            raise
        except DmpError as error:
            self._security.refused("fhir", error.reason_name, "")
            raise
        counts_for(request, caller.actor.client_id)
        await admitted(request, caller.traffic, caller.timeout)
        return caller

    async def require_scope(self, caller: Caller, scopes: frozenset[str], audit_action: str, transaction: str) -> None:
        """SCOPE_MISSING, recorded, unless the caller's token holds one of `scopes`."""
        if scopes & caller.scopes:
            return
        error = DmpError(reasons.ERROR_REASON_SCOPE_MISSING)
        await self.record_refusal(caller, error, audit_action=audit_action, transaction=transaction)
        raise error

    async def record_refusal(self, caller: Caller, error: DmpError, *, audit_action: str, transaction: str) -> None:
        """Return when a refusal that the front itself decided is durable in the trail."""
        await self._callers.record_refusal(caller, error, audit_action=audit_action, transaction=transaction)

    async def resolve(self, caller: Caller, identifier: tuple[str, str]) -> int | None:
        """The health id behind an identifier (OID, value), None if it is nobody's."""
        system, value = identifier
        found = await self._resolve.submit(Identifier(system=system, value=value), timeout=caller.timeout)
        # To software on trial real people are nobody: not even that they have a dossier is told.
        return None if found is not None and caller.actor.sandbox and not is_fictitious(found) else found

    async def call(self, caller: Caller, rpc: Rpc[Request, Response], request: Request) -> Response:
        """One unary call with the caller's own token; together with others of its wave if its client presses."""
        if caller.presses and rpc.path in IN_WAVES:
            return rpc.response.FromString(await self._in_waves(rpc)(request.SerializeToString(), caller))
        method: Unary[Request, Response] | None = self._methods.get(rpc.path)
        if method is None:
            method = self._methods[rpc.path] = self._peers[rpc.service].unary(rpc.path, rpc.request, rpc.response)
        return await method(request, timeout=caller.timeout, metadata=caller.metadata())

    def stream(self, caller: Caller, rpc: Rpc[Request, Response], request: Request) -> AsyncIterator[Response]:
        """One server-streaming call with the caller's own token."""
        method: Stream[Request, Response] | None = self._methods.get(rpc.path)
        if method is None:
            method = self._methods[rpc.path] = self._peers[rpc.service].stream(rpc.path, rpc.request, rpc.response)
        return method(request, timeout=caller.timeout, metadata=caller.metadata())

    async def close(self) -> None:
        """Finish what is under way."""
        await self._resolve.close()
        for together in self._together.values():
            await together.close()

    def _in_waves(self, rpc: Rpc[Request, Response]) -> Together:
        together = self._together.get(rpc.path)
        if together is None:
            together = self._together[rpc.path] = Together(self._peers[rpc.service], rpc.path)
        return together

    async def _resolve_batch(self, identifiers: list[Identifier]) -> list[int | DmpError | None]:
        answer = await self._resolve_all(identity_pb2.BatchResolveIdentifiersRequest(identifiers=identifiers))
        return [_resolved(result) for result in answer.results]


def _resolved(result: identity_pb2.ResolveIdentifierResult) -> int | DmpError | None:
    if result.WhichOneof("outcome") == "health_id":
        return result.health_id
    error = from_status(result.status)
    return None if error.reason == reasons.ERROR_REASON_UNKNOWN_PATIENT else error


def _single(request: HttpRequest, name: str) -> str:
    """A header that may be sent once; sent twice it is as if it were not there."""
    values = request.headers.getlist(name)
    return values[0] if len(values) == 1 else ""
