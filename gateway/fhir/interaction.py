"""One FHIR interaction as a row of a table: method, path, DMP transaction, and the RPC behind it.

Scopes and audit actions are not in a row: they are those of the RPC, from its access option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from dmp.audit.v1 import audit_pb2
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from dmp.identity.v1 import identity_pb2
from gateway.fhir.parameters import SearchParameter
from gateway.fhir.rpcs import Rpc
from services.runtime.access import MethodAccess, methods_of

Code = Literal[
    "capabilities",
    "transaction",
    "create",
    "read",
    "vread",
    "history-instance",
    "update",
    "patch",
    "search-type",
    "operation",
    "",
]
Body = Literal["", "resource", "form", "patch", "ndjson"]
AnswerKind = Literal["FHIR", "bytes"]

_RPCS: Final[Mapping[str, MethodAccess]] = methods_of(
    [
        audit_pb2.DESCRIPTOR.services_by_name["AuditService"],
        consent_pb2.DESCRIPTOR.services_by_name["ConsentService"],
        document_pb2.DESCRIPTOR.services_by_name["DocumentService"],
        identity_pb2.DESCRIPTOR.services_by_name["IdentityService"],
    ]
)


@dataclass(frozen=True, slots=True)
class Interaction:
    """One interaction. `rpc` is None for what needs no caller; `transaction` is the name that partners know.

    `resource` is the type that it is about ('' for the whole system), `accepts` the types of resource that a body may
    have. `also` are further transactions that share the path, with the RPC of each; the handler asks for the scope of
    the one that it serves. `conditional` marks an update or patch that finds its resource by search parameters.
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
    also: Sequence[tuple[str, Rpc[Any, Any]]] = ()

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
        own = frozenset({self.transaction}) if self.transaction in scopes else scopes
        return own.union(transaction for transaction, _ in self.also)


def search_by_get_and_post(
    name: str,
    resource: str,
    transaction: str,
    rpc: Rpc[Any, Any],
    documentation: str,
    parameters: Sequence[SearchParameter],
    *,
    also: Sequence[tuple[str, Rpc[Any, Any]]] = (),
) -> tuple[Interaction, Interaction]:
    """A search by GET and by POST _search."""
    by_get = Interaction(
        name, "GET", f"/{resource}", resource, "search-type", transaction, rpc, documentation, parameters, also=also
    )
    return by_get, replace(by_get, method="POST", path=f"/{resource}/_search", body="form")


def access_of(rpc: Rpc[Any, Any]) -> MethodAccess:
    """The access rule of an RPC."""
    return _RPCS[rpc.path]
