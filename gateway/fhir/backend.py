"""What the FHIR front needs of the platform, as a protocol. Implemented over gRPC outside this package; fakes in tests.

Every method raises DmpError and nothing else; the endpoints turn it into an OperationOutcome.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from starlette.requests import Request

from dmp.consent.v1.consent_pb2 import GetDossierRequest, GetDossierResponse
from dmp.document.v1.document_pb2 import (
    GetDocumentRequest,
    GetDocumentResponse,
    ReadDocumentRequest,
    ReadDocumentResponse,
    SearchDocumentsRequest,
    SearchDocumentsResponse,
    SubmitDocumentsRequest,
    SubmitDocumentsResponse,
)
from gateway.callers import Caller
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

    async def get_dossier(self, caller: Caller, request: GetDossierRequest) -> GetDossierResponse:
        """TD0.2; DOSSIER_NOT_FOUND when the person has none."""
        ...

    async def submit(self, caller: Caller, request: SubmitDocumentsRequest) -> SubmitDocumentsResponse:
        """TD2.1: all or nothing."""
        ...

    async def search(self, caller: Caller, request: SearchDocumentsRequest) -> SearchDocumentsResponse:
        """TD3.1: a page of what matches and may be known of."""
        ...

    async def get_document(self, caller: Caller, request: GetDocumentRequest) -> GetDocumentResponse:
        """The metadata of one document."""
        ...

    def read(self, caller: Caller, request: ReadDocumentRequest) -> AsyncIterator[ReadDocumentResponse]:
        """TD3.2: the metadata first, then chunks. Usually an async generator; refusals raise at the first item."""
        ...
