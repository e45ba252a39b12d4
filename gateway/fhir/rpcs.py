"""An RPC behind the FHIR front, typed: what `Backend.call` and `Backend.stream` take. The tables have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

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


AUDIT: Final = "/dmp.audit.v1.AuditService"
CONSENT: Final = "/dmp.consent.v1.ConsentService"
DOCUMENT: Final = "/dmp.document.v1.DocumentService"
IDENTITY: Final = "/dmp.identity.v1.IdentityService"
