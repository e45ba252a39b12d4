"""The FHIR interactions that are served, as a table: method, path, DMP transaction and the RPC behind each.

Scopes and audit actions are not here: they are those of the RPC, from its access option. The routes, the
CapabilityStatement and the OpenAPI description are made from this table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from gateway.fhir import dossier, rpcs, search
from gateway.fhir.parameters import SearchParameter
from gateway.fhir.rpcs import Rpc
from services.runtime.access import MethodAccess, methods_of

Code = Literal[
    "capabilities", "transaction", "create", "read", "vread", "update", "patch", "search-type", "operation", ""
]
Body = Literal["", "resource", "form", "patch"]
AnswerKind = Literal["FHIR", "bytes"]

_RPCS: Final[Mapping[str, MethodAccess]] = methods_of(
    [
        consent_pb2.DESCRIPTOR.services_by_name["ConsentService"],
        document_pb2.DESCRIPTOR.services_by_name["DocumentService"],
    ]
)


@dataclass(frozen=True, slots=True)
class Interaction:
    """One interaction. `rpc` is None for what needs no caller; `transaction` is the name that partners know.

    `resource` is the type that it is about ('' for the whole system), `accepts` the types of resource that a body may
    have. `conditional` marks an update or patch that finds its resource by search parameters.
    """

    name: str
    method: str
    path: str
    resource: str
    code: Code
    transaction: str
    rpc: Rpc[Any, Any] | None
    documentation: str
    parameters: Sequence[SearchParameter] = ()
    body: Body = ""
    accepts: Sequence[str] = ()
    answer: AnswerKind = "FHIR"
    conditional: bool = False

    @property
    def access(self) -> MethodAccess:
        """The access rule of the RPC behind; TypeError for what needs no caller."""
        if self.rpc is None:
            raise TypeError(f"{self.name} needs no caller")
        return _RPCS[self.rpc.path]

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes of which one is needed: the transaction's own, else all those of the RPC."""
        scopes = self.access.scopes
        return frozenset({self.transaction}) if self.transaction in scopes else scopes


def _search(
    name: str,
    resource: str,
    transaction: str,
    rpc: Rpc[Any, Any],
    documentation: str,
    parameters: Sequence[SearchParameter],
) -> tuple[Interaction, Interaction]:
    """A search by GET and by POST _search."""
    by_get = Interaction(
        name, "GET", f"/{resource}", resource, "search-type", transaction, rpc, documentation, parameters
    )
    by_post = Interaction(
        name,
        "POST",
        f"/{resource}/_search",
        resource,
        "search-type",
        transaction,
        rpc,
        documentation,
        parameters,
        "form",
    )
    return by_get, by_post


_SYSTEM: Final = (
    Interaction(
        "capabilities", "GET", "/metadata", "", "capabilities", "", None, "The CapabilityStatement; no token needed."
    ),
    Interaction(
        "openapi", "GET", "/openapi.json", "", "", "", None, "The OpenAPI description; no token needed.", answer="bytes"
    ),
    Interaction(
        "documentation", "GET", "/docs", "", "", "", None, "This interface as a page; no token needed.", answer="bytes"
    ),
)
_DOSSIERS: Final = (
    *_search(
        "patient-search",
        "Patient",
        "TD0.2",
        rpcs.GET_DOSSIER,
        "TD0.2: does the person have a dossier, is it open, may the caller read it.",
        dossier.PARAMETERS,
    ),
    Interaction(
        "patient-read", "GET", "/Patient/{id}", "Patient", "read", "TD0.2", rpcs.GET_DOSSIER, "TD0.2 by our own id."
    ),
)
_DOCUMENTS: Final = (
    Interaction(
        "provide-bundle",
        "POST",
        "/",
        "",
        "transaction",
        "ITI-65",
        rpcs.SUBMIT_DOCUMENTS,
        "TD2.1: a SubmissionSet List, DocumentReferences and their Binaries, all or nothing.",
        body="resource",
        accepts=("Bundle",),
    ),
    Interaction(
        "simplified-publish",
        "POST",
        "/DocumentReference",
        "DocumentReference",
        "create",
        "ITI-105",
        rpcs.SUBMIT_DOCUMENTS,
        "TD2.1: one document, its content in attachment.data.",
        body="resource",
        accepts=("DocumentReference",),
    ),
    *_search(
        "document-search",
        "DocumentReference",
        "ITI-67",
        rpcs.SEARCH_DOCUMENTS,
        "TD3.1: the documents that match and that the caller may know of.",
        search.PARAMETERS,
    ),
    Interaction(
        "document-read",
        "GET",
        "/DocumentReference/{id}",
        "DocumentReference",
        "read",
        "",
        rpcs.GET_DOCUMENT,
        "The metadata of one document.",
    ),
    Interaction(
        "binary-read",
        "GET",
        "/Binary/{id}",
        "Binary",
        "read",
        "ITI-68",
        rpcs.READ_DOCUMENT,
        "TD3.2: the very bytes that were submitted, with their media type.",
        answer="bytes",
    ),
)

INTERACTIONS: Final = (*_SYSTEM, *_DOSSIERS, *_DOCUMENTS)
