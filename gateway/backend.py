"""The platform as the FHIR front calls it: the caller's own token forwarded, identifiers resolved in batches."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.coding_pb2 import Identifier
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from dmp.identity.v1 import identity_pb2
from gateway.admission import admitted
from gateway.callers import Caller, Callers
from services.runtime.channels import Peer
from services.runtime.coalescer import Coalescer
from services.runtime.errors import DmpError, from_status
from services.runtime.limits import TRAFFIC_HEADER
from services.runtime.observation import SecurityLog

_TIMEOUT = 30.0
_IDENTITY = "/dmp.identity.v1.IdentityService"
_CONSENT = "/dmp.consent.v1.ConsentService"
_DOCUMENT = "/dmp.document.v1.DocumentService"


class PlatformBackend:
    """Calls the services for the FHIR front. A refusal is the service's own, and recorded there."""

    def __init__(self, callers: Callers, identity: Peer, consent: Peer, document: Peer, security: SecurityLog) -> None:
        self._callers = callers
        self._security = security
        self._resolve: Coalescer[Identifier, int | None] = Coalescer("identity", self._resolve_batch)
        self._resolve_all = identity.unary(
            f"{_IDENTITY}/BatchResolveIdentifiers",
            identity_pb2.BatchResolveIdentifiersRequest,
            identity_pb2.BatchResolveIdentifiersResponse,
        )
        self._get_dossier = consent.unary(
            f"{_CONSENT}/GetDossier", consent_pb2.GetDossierRequest, consent_pb2.GetDossierResponse
        )
        self._submit = document.unary(
            f"{_DOCUMENT}/SubmitDocuments", document_pb2.SubmitDocumentsRequest, document_pb2.SubmitDocumentsResponse
        )
        self._search = document.unary(
            f"{_DOCUMENT}/SearchDocuments", document_pb2.SearchDocumentsRequest, document_pb2.SearchDocumentsResponse
        )
        self._get_document = document.unary(
            f"{_DOCUMENT}/GetDocument", document_pb2.GetDocumentRequest, document_pb2.GetDocumentResponse
        )
        self._read = document.stream(
            f"{_DOCUMENT}/ReadDocument", document_pb2.ReadDocumentRequest, document_pb2.ReadDocumentResponse
        )

    async def caller(self, request: Request) -> Caller:
        """The caller of an HTTP request, which has its place then; one without valid token is in the security log."""
        headers = {
            "authorization": _single(request, "authorization"),
            "x-request-id": request.state.request_id,
            TRAFFIC_HEADER: _single(request, TRAFFIC_HEADER),
        }
        try:
            caller = await self._callers.verify(headers, request.state.traceparent, _TIMEOUT)
        except DmpError as error:
            self._security.refused("fhir", error.reason_name, "")
            raise
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
        return await self._resolve.submit(Identifier(system=system, value=value), timeout=caller.timeout)

    async def get_dossier(
        self, caller: Caller, request: consent_pb2.GetDossierRequest
    ) -> consent_pb2.GetDossierResponse:
        """TD0.2."""
        return await self._get_dossier(request, timeout=caller.timeout, metadata=caller.metadata())

    async def submit(
        self, caller: Caller, request: document_pb2.SubmitDocumentsRequest
    ) -> document_pb2.SubmitDocumentsResponse:
        """TD2.1."""
        return await self._submit(request, timeout=caller.timeout, metadata=caller.metadata())

    async def search(
        self, caller: Caller, request: document_pb2.SearchDocumentsRequest
    ) -> document_pb2.SearchDocumentsResponse:
        """TD3.1."""
        return await self._search(request, timeout=caller.timeout, metadata=caller.metadata())

    async def get_document(
        self, caller: Caller, request: document_pb2.GetDocumentRequest
    ) -> document_pb2.GetDocumentResponse:
        """A document's metadata."""
        return await self._get_document(request, timeout=caller.timeout, metadata=caller.metadata())

    def read(
        self, caller: Caller, request: document_pb2.ReadDocumentRequest
    ) -> AsyncIterator[document_pb2.ReadDocumentResponse]:
        """TD3.2."""
        return self._read(request, timeout=caller.timeout, metadata=caller.metadata())

    async def close(self) -> None:
        """Finish what is under way."""
        await self._resolve.close()

    async def _resolve_batch(self, identifiers: list[Identifier]) -> list[int | DmpError | None]:
        answer = await self._resolve_all(identity_pb2.BatchResolveIdentifiersRequest(identifiers=identifiers))
        return [_resolved(result) for result in answer.results]


def _resolved(result: identity_pb2.ResolveIdentifierResult) -> int | DmpError | None:
    if result.WhichOneof("outcome") == "health_id":
        return result.health_id
    error = from_status(result.status)
    return None if error.reason == reasons.ERROR_REASON_UNKNOWN_PATIENT else error


def _single(request: Request, name: str) -> str:
    """A header that may be sent once; sent twice it is as if it were not there."""
    values = request.headers.getlist(name)
    return values[0] if len(values) == 1 else ""
