"""Telling the other services to destroy what they keep of a dossier. Which dossiers, and when, is `duties`' matter."""

from __future__ import annotations

from typing import Final

from dmp.audit.v1 import audit_pb2
from dmp.document.v1 import document_pb2
from services.consent.duties import Destroy
from services.runtime.channels import Peer

_DOCUMENTS: Final = "/dmp.document.v1.DocumentService/DestroyDossier"
_TRAIL: Final = "/dmp.audit.v1.AuditService/DestroyDossier"
_SECONDS: Final = 60.0


def destroy_documents(document: Peer) -> Destroy:
    """Returns when the documents' key is destroyed. Raises DmpError."""
    call = document.unary(_DOCUMENTS, document_pb2.DestroyDossierRequest, document_pb2.DestroyDossierResponse)

    async def destroy(health_id: int, request_id: str) -> None:
        await call(document_pb2.DestroyDossierRequest(health_id=health_id, request_id=request_id), timeout=_SECONDS)

    return destroy


def destroy_trail(audit: Peer) -> Destroy:
    """Returns when the clear parts of the dossier's events are destroyed; the log stays whole. Raises DmpError."""
    call = audit.unary(_TRAIL, audit_pb2.DestroyDossierRequest, audit_pb2.DestroyDossierResponse)

    async def destroy(health_id: int, request_id: str) -> None:
        await call(audit_pb2.DestroyDossierRequest(health_id=health_id, request_id=request_id), timeout=_SECONDS)

    return destroy
