"""The RPCs behind the FHIR front, typed: what `Backend.call` and `Backend.stream` take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from dmp.consent.v1 import consent_pb2 as consent
from dmp.document.v1 import document_pb2 as document

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Rpc(Generic[Request, Response]):
    """A method by its path, with its message types."""

    path: str
    request: type[Request]
    response: type[Response]

    @property
    def service(self) -> str:
        """The service that has it, such as `document`."""
        return self.path.split(".")[1]


_CONSENT: Final = "/dmp.consent.v1.ConsentService"
_DOCUMENT: Final = "/dmp.document.v1.DocumentService"

GET_DOSSIER: Final = Rpc(f"{_CONSENT}/GetDossier", consent.GetDossierRequest, consent.GetDossierResponse)

SUBMIT_DOCUMENTS: Final = Rpc(
    f"{_DOCUMENT}/SubmitDocuments", document.SubmitDocumentsRequest, document.SubmitDocumentsResponse
)
SEARCH_DOCUMENTS: Final = Rpc(
    f"{_DOCUMENT}/SearchDocuments", document.SearchDocumentsRequest, document.SearchDocumentsResponse
)
GET_DOCUMENT: Final = Rpc(f"{_DOCUMENT}/GetDocument", document.GetDocumentRequest, document.GetDocumentResponse)
READ_DOCUMENT: Final = Rpc(f"{_DOCUMENT}/ReadDocument", document.ReadDocumentRequest, document.ReadDocumentResponse)
