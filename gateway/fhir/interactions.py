"""The FHIR interactions that are served, as a table: method, path, DMP transaction and the RPC behind each.

Scopes and audit actions are not here: they are those of the RPC, from its access option. The routes and the
CapabilityStatement are made from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.runtime.access import MethodAccess, methods_of

Name = Literal[
    "capabilities",
    "patient-search",
    "patient-read",
    "provide-bundle",
    "simplified-publish",
    "document-search",
    "document-read",
    "binary-read",
]
InteractionCode = Literal["capabilities", "transaction", "create", "read", "search-type"]

_RPCS: Final[Mapping[str, MethodAccess]] = methods_of(
    [
        consent_pb2.DESCRIPTOR.services_by_name["ConsentService"],
        document_pb2.DESCRIPTOR.services_by_name["DocumentService"],
    ]
)
_DOSSIER: Final = "/dmp.consent.v1.ConsentService/GetDossier"
_DOCUMENTS: Final = "/dmp.document.v1.DocumentService"


@dataclass(frozen=True, slots=True)
class Interaction:
    """One interaction. `rpc` is '' for what needs no caller; `transaction` is the name that partners know."""

    name: Name
    method: str
    path: str
    resource: str
    code: InteractionCode
    transaction: str
    rpc: str
    documentation: str

    @property
    def access(self) -> MethodAccess:
        """The access rule of the RPC behind; KeyError for what needs no caller."""
        return _RPCS[self.rpc]

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes of which one is needed: the transaction's own, else all those of the RPC."""
        scopes = self.access.scopes
        return frozenset({self.transaction}) if self.transaction in scopes else scopes


INTERACTIONS: Final = (
    Interaction("capabilities", "GET", "/metadata", "", "capabilities", "", "", "This statement; no token needed."),
    Interaction(
        "provide-bundle", "POST", "/", "", "transaction", "ITI-65", f"{_DOCUMENTS}/SubmitDocuments",
        "TD2.1: a SubmissionSet List, DocumentReferences and their Binaries, all or nothing.",
    ),
    Interaction(
        "patient-search", "GET", "/Patient", "Patient", "search-type", "TD0.2", _DOSSIER,
        "TD0.2: does the person have a dossier, is it open, may the caller read it.",
    ),
    Interaction("patient-search", "POST", "/Patient/_search", "Patient", "search-type", "TD0.2", _DOSSIER, "TD0.2."),
    Interaction("patient-read", "GET", "/Patient/{id}", "Patient", "read", "TD0.2", _DOSSIER, "TD0.2 by our own id."),
    Interaction(
        "simplified-publish", "POST", "/DocumentReference", "DocumentReference", "create", "ITI-105",
        f"{_DOCUMENTS}/SubmitDocuments", "TD2.1: one document, its content in attachment.data.",
    ),
    Interaction(
        "document-search", "GET", "/DocumentReference", "DocumentReference", "search-type", "ITI-67",
        f"{_DOCUMENTS}/SearchDocuments", "TD3.1: the documents that match and that the caller may know of.",
    ),
    Interaction(
        "document-search", "POST", "/DocumentReference/_search", "DocumentReference", "search-type", "ITI-67",
        f"{_DOCUMENTS}/SearchDocuments", "TD3.1.",
    ),
    Interaction(
        "document-read", "GET", "/DocumentReference/{id}", "DocumentReference", "read", "DocumentReference",
        f"{_DOCUMENTS}/GetDocument", "The metadata of one document.",
    ),
    Interaction(
        "binary-read", "GET", "/Binary/{id}", "Binary", "read", "ITI-68", f"{_DOCUMENTS}/ReadDocument",
        "TD3.2: the very bytes that were submitted, with their media type.",
    ),
)  # fmt: skip
