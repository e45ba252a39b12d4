"""The errors that reading FHIR raises, each naming a FHIR path. Never a value of the request.

DmpError
└── ProtocolRefusal     HTTP itself refuses (405, 406, 412, 415, 416): the status is not that of the reason's table
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DmpError, FieldViolation, invalid

__all__ = ["ProtocolRefusal", "incomplete", "invalid", "malformed", "metadata", "too_large", "unsupported"]


_REASONS: Final = {
    405: reasons.ERROR_REASON_METHOD_NOT_FOUND,
    412: reasons.ERROR_REASON_CONCURRENT_CHANGE,
}


class ProtocolRefusal(DmpError):
    """A refusal whose HTTP status HTTP fixes: 405, 406, 412, 415 or 416; `headers` go with it."""

    def __init__(
        self,
        status: int,
        field: str,
        description: str,
        *,
        reason: int = 0,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        reason = reason or _REASONS.get(status, reasons.ERROR_REASON_MALFORMED_REQUEST)
        rule = "precondition" if status == 412 else "not_supported"
        if status == 404:
            rule = "not_found"
        super().__init__(reason, description, fields=[FieldViolation(field, rule, description)])
        self.status = status
        self.headers = headers


def malformed(field: str, rule: str, description: str) -> DmpError:
    """A body that is not a FHIR JSON object at all (400)."""
    return DmpError(reasons.ERROR_REASON_MALFORMED_REQUEST, fields=[FieldViolation(field, rule, description)])


def too_large(field: str, rule: str, description: str) -> DmpError:
    """A body beyond a limit (413)."""
    return DmpError(reasons.ERROR_REASON_REQUEST_TOO_LARGE, fields=[FieldViolation(field, rule, description)])


def metadata(field: str, rule: str, description: str) -> DmpError:
    """Well-formed FHIR that breaks a rule of PDSm (422, XDSRepositoryMetadataError)."""
    return DmpError(reasons.ERROR_REASON_METADATA_ERROR, fields=[FieldViolation(field, rule, description)])


def unsupported(field: str, description: str) -> DmpError:
    """Something that FHIR allows and that is not served here (422); never silently ignored."""
    return metadata(field, "not_supported", description)


def incomplete(violations: Sequence[FieldViolation]) -> DmpError:
    """Required elements that are missing, all of them at once (422)."""
    return DmpError(reasons.ERROR_REASON_METADATA_ERROR, fields=violations)
