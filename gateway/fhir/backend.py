"""What the FHIR front needs of the platform, as a protocol. Implemented over gRPC outside this package; fakes in tests.

Every method raises DmpError and nothing else; the endpoints turn it into an OperationOutcome.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from starlette.requests import Request

from gateway.callers import Caller
from gateway.fhir import rpcs
from services.runtime.errors import DmpError

__all__ = ["Backend", "Caller"]


class Backend(Protocol):
    """The platform behind the FHIR front."""

    async def caller(self, request: Request) -> Caller:
        """The caller of a request: TOKEN_* or CLIENT_SUSPENDED when its token is not good.

        `request.state.request_id` and `request.state.traceparent` (empty without one) have been set.
        """
        ...

    async def require_scope(self, caller: Caller, scopes: frozenset[str], audit_action: str, transaction: str) -> None:
        """Return if the caller holds one of the scopes; else record the refusal and raise SCOPE_MISSING."""
        ...

    async def record_refusal(self, caller: Caller, error: DmpError, *, audit_action: str, transaction: str) -> None:
        """Return when a refusal that the front itself decided is durable in the trail."""
        ...

    async def resolve(self, caller: Caller, identifier: tuple[str, str]) -> int | None:
        """The health id of an identifier (OID, value); None when it is nobody's."""
        ...

    async def call(
        self, caller: Caller, rpc: rpcs.Rpc[rpcs.Request, rpcs.Response], request: rpcs.Request
    ) -> rpcs.Response:
        """One unary call with the caller's own token."""
        ...

    def stream(
        self, caller: Caller, rpc: rpcs.Rpc[rpcs.Request, rpcs.Response], request: rpcs.Request
    ) -> AsyncIterator[rpcs.Response]:
        """One server-streaming call. Usually an async generator; refusals raise at the first item."""
        ...
