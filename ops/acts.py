"""What the commands do on the platform, each a few RPCs: register, open, authorise, submit, read, list the trail.

Every act is idempotent: a command that is run again changes nothing.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import coding_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from dmp.identity.v1 import identity_pb2
from ops.local.registrations import INTERNAL
from ops.session import Session, Statement
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, dossier_of

DEMO_SOURCE = "1.2.250.1.213.4.99"
"""The producing system named in submissions of this command."""
_FORMAT = coding_pb2.Coding(system="1.3.6.1.4.1.19376.1.2.3", code="urn:ihe:iti:xds:2017:mimeTypeSufficient")
_MIME_TYPES = {
    ".xml": "text/xml",
    ".pdf": "application/pdf",
    ".txt": "text/plain",
    ".rtf": "application/rtf",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}


@dataclass(frozen=True, slots=True)
class Acts:
    """Acts of one professional, through one session."""

    session: Session
    professional: Statement

    @property
    def _direct(self) -> Statement:
        """The same professional, at an internal system."""
        return Statement(INTERNAL, self.professional.fields)

    async def register(self, person: identity_pb2.Person) -> int:
        """Register a person, or find the one registered before; the health id."""
        request = identity_pb2.CreatePersonRequest(person=person, request_id=_request_id("person", person))
        answer = await self.session.call(
            "identity", "CreatePerson", request, identity_pb2.CreatePersonResponse, self._direct
        )
        return dossier_of(answer.person.name, "person.name")

    async def resolve(self, identifier: coding_pb2.Identifier) -> int | None:
        """The health id behind an identifier, None if it is nobody's."""
        answer = await self.session.call(
            "identity",
            "BatchResolveIdentifiers",
            identity_pb2.BatchResolveIdentifiersRequest(identifiers=[identifier]),
            identity_pb2.BatchResolveIdentifiersResponse,
            self._direct,
        )
        return answer.results[0].health_id or None

    async def open(self, health_id: int) -> None:
        """Open a dossier with the patient's recorded consent; nothing if it is open."""
        now = Timestamp()
        now.GetCurrentTime()
        consent = consent_pb2.ConsentRecord(
            collect_time=now,
            method=consent_pb2.CONSENT_METHOD_ORAL,
            given_by=consent_pb2.CONSENT_GIVER_PATIENT,
        )
        request = consent_pb2.OpenDossierRequest(
            name=dossier_name(health_id), consent=consent, request_id=str(uuid.uuid4())
        )
        try:
            await self.session.call(
                "consent", "OpenDossier", request, consent_pb2.OpenDossierResponse, self.professional
            )
        except DmpError as error:
            if error.reason != reasons.ERROR_REASON_DOSSIER_ALREADY_EXISTS:
                raise

    async def authorise(self, health_id: int, *, attending_physician: bool = False) -> None:
        """Declare the professional's own authorisation; nothing if it is valid."""
        request = consent_pb2.GrantAuthorizationRequest(
            parent=dossier_name(health_id),
            attending_physician=attending_physician,
            patient_consented=True,
            request_id=str(uuid.uuid4()),
        )
        try:
            await self.session.call(
                "consent", "GrantAuthorization", request, consent_pb2.GrantAuthorizationResponse, self.professional
            )
        except DmpError as error:
            if error.reason != reasons.ERROR_REASON_AUTHORIZATION_EXISTS:
                raise

    async def submit(self, health_id: int, content: bytes, file_name: str) -> document_pb2.Document:
        """Feed one document; what its CDA header says need not be said again."""
        mime_type = _MIME_TYPES.get(Path(file_name).suffix.lower(), "application/octet-stream")
        digest = hashlib.sha1(content, usedforsecurity=False).digest()
        document = document_pb2.Document(mime_type=mime_type, hash=digest, size=len(content), format_code=_FORMAT)
        submission = document_pb2.SubmissionSet(
            unique_id=f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{health_id}/{digest.hex()}').int}", source_id=DEMO_SOURCE
        )
        request = document_pb2.SubmitDocumentsRequest(
            parent=dossier_name(health_id),
            submission_set=submission,
            documents=[document_pb2.SubmittedDocument(document=document, content=content)],
        )
        request.request_id = _request_id("submit", request)
        answer = await self.session.call(
            "document", "SubmitDocuments", request, document_pb2.SubmitDocumentsResponse, self.professional
        )
        return answer.documents[0]

    async def search(self, health_id: int, page_token: str = "") -> document_pb2.SearchDocumentsResponse:
        """A page of the dossier's documents, newest first."""
        request = document_pb2.SearchDocumentsRequest(
            parent=dossier_name(health_id), page_size=50, page_token=page_token
        )
        return await self.session.call(
            "document", "SearchDocuments", request, document_pb2.SearchDocumentsResponse, self.professional
        )

    async def read(self, name: str) -> tuple[document_pb2.Document, bytes]:
        """A document and its very bytes."""
        document = document_pb2.Document()
        content = bytearray()
        request = document_pb2.ReadDocumentRequest(name=name)
        async for part in self.session.stream(
            "document", "ReadDocument", request, document_pb2.ReadDocumentResponse, self.professional
        ):
            if part.WhichOneof("part") == "document":
                document = part.document
            else:
                content += part.chunk
        return document, bytes(content)

    async def trail(self, health_id: int, page_token: str = "") -> audit_pb2.ListEventsResponse:
        """A page of the dossier's trail, newest first, as the patient sees it."""
        request = audit_pb2.ListEventsRequest(parent=dossier_name(health_id), page_size=50, page_token=page_token)
        return await self.session.call(
            "audit", "ListEvents", request, audit_pb2.ListEventsResponse, Statement.patient(health_id)
        )


def _request_id(act: str, request: identity_pb2.Person | document_pb2.SubmitDocumentsRequest) -> str:
    digest = hashlib.sha256(act.encode() + request.SerializeToString(deterministic=True)).hexdigest()
    return f"{act}-{digest[:32]}"
