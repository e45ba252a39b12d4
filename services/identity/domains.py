"""Domains of local identifiers: which are registered, and who may touch them (PIX: a source touches its own only)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.identity.civil_identity import PatientIdentifier
from services.identity.store.people import Domain
from services.runtime.context import Call
from services.runtime.errors import DmpError, FieldViolation


def local_ones(identifiers: Iterable[PatientIdentifier]) -> list[PatientIdentifier]:
    """Those that are no national number."""
    return [identifier for identifier in identifiers if not identifier.is_ins]


def check_own(call: Call, identifiers: Iterable[PatientIdentifier], domains: Mapping[str, Domain], field: str) -> None:
    """UNKNOWN_DOMAIN or FOREIGN_DOMAIN, naming `field`, unless the caller feeds the domain of each local identifier.

    Operators may correct every registered domain.
    """
    for identifier in local_ones(identifiers):
        domain = domains.get(identifier.system)
        if domain is None:
            raise _refused(reasons.ERROR_REASON_UNKNOWN_DOMAIN, field, "domain.known", "the domain is registered first")
        if domain.client_id != call.client_id and call.caller != access_pb2.CALLER_KIND_OPERATOR:
            raise _refused(
                reasons.ERROR_REASON_FOREIGN_DOMAIN, field, "domain.own", "a source touches its own domain only"
            )


def check_source(system: str, domains: Mapping[str, Domain], known: frozenset[str], field: str) -> None:
    """UNKNOWN_DOMAIN unless the system is a registered domain or one of `known`."""
    if system not in domains and system not in known:
        raise _refused(reasons.ERROR_REASON_UNKNOWN_DOMAIN, field, "domain.known", "the domain is not registered")


def check_target(system: str, domains: Mapping[str, Domain], known: frozenset[str], field: str) -> None:
    """UNKNOWN_TARGET_DOMAIN unless the system is a registered domain or one of `known`."""
    if system not in domains and system not in known:
        raise _refused(
            reasons.ERROR_REASON_UNKNOWN_TARGET_DOMAIN, field, "domain.known", "the target domain is not registered"
        )


def _refused(reason: int, field: str, rule: str, description: str) -> DmpError:
    return DmpError(reason, fields=(FieldViolation(field, rule, description),))
