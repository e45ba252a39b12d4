"""Errors as FHIR says them: an OperationOutcome, the HTTP status and its headers. Pure; the table is the runtime's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.fhir.node import JsonObject
from gateway.fhir.refusals import ProtocolRefusal
from services.runtime.errors import DmpError, FieldViolation

REASON_SYSTEM: Final = "https://dmp.sante.fr/fhir/CodeSystem/error-reason"
XDS_SYSTEM: Final = "https://dmp.sante.fr/fhir/CodeSystem/xds-error"
"""The error codes of IHE ITI TF-3 table 4.2.4.1-2, for which IHE has published no CodeSystem."""

MERGED_INTO: Final = "merged_into"
"""The metadata of DOSSIER_MERGED and PERSON_MERGED: where it went."""

_MOST_ISSUES: Final = 32
_RETRY_STATUSES: Final = frozenset({429, 503, 504})
_RETRY_SECONDS: Final = 2.0
_ISSUE_OF_RULE: Final[Mapping[str, str]] = {"required": "required", "not_supported": "not-supported"}
_FORBIDDEN_IN_QUOTES: Final = str.maketrans({'"': "'", "\\": "/"})


def status_of(error: DmpError) -> int:
    """The HTTP status of an error."""
    return error.status if isinstance(error, ProtocolRefusal) else error.spec.http


def outcome(error: DmpError) -> JsonObject:
    """The OperationOutcome of an error: one issue a field, else one in all."""
    fields = error.fields[:_MOST_ISSUES]
    issues = [_issue(error, field) for field in fields] or [_issue(error, None)]
    return {"resourceType": "OperationOutcome", "issue": issues}


def success() -> JsonObject:
    """The OperationOutcome of what went well, for `Prefer: return=OperationOutcome`."""
    return {"resourceType": "OperationOutcome", "issue": [{"severity": "information", "code": "informational"}]}


def ignored_parameters(names: Sequence[str]) -> JsonObject:
    """The OperationOutcome that tells of parameters that a search did not use (`Prefer: handling=lenient`)."""
    text = "this parameter is not known here and was not used"
    issues = [
        {"severity": "warning", "code": "not-supported", "diagnostics": f"unknown: {text}", "expression": [name]}
        for name in names[:_MOST_ISSUES]
    ]
    return {"resourceType": "OperationOutcome", "issue": issues}


def headers_of(error: DmpError) -> dict[str, str]:
    """Retry-After where trying again makes sense, WWW-Authenticate on 401 (RFC 6750)."""
    headers = dict(error.headers) if isinstance(error, ProtocolRefusal) else {}
    status = status_of(error)
    if error.retry_after is not None or status in _RETRY_STATUSES:
        seconds = _RETRY_SECONDS if error.retry_after is None else error.retry_after
        headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    if status == 401:
        headers["WWW-Authenticate"] = _challenge(error)
    return headers


def _issue(error: DmpError, field: FieldViolation | None) -> JsonObject:
    codings = [{"system": REASON_SYSTEM, "code": error.reason_name}]
    if error.spec.xds is not None:
        codings.append({"system": XDS_SYSTEM, "code": error.spec.xds})
    issue: JsonObject = {
        "severity": "error",
        "code": error.spec.issue if field is None else _ISSUE_OF_RULE.get(field.rule, error.spec.issue),
        "details": {"coding": codings, "text": error.message},
    }
    if MERGED_INTO in error.metadata:
        issue["diagnostics"] = f"merged into {error.metadata[MERGED_INTO]}"
    if field is not None:
        words = ": ".join(part for part in (field.rule, field.description) if part)
        if words:
            issue["diagnostics"] = words
        if field.field:
            issue["expression"] = [field.field]
    return issue


def _challenge(error: DmpError) -> str:
    challenge = 'Bearer realm="dmp"'
    if error.reason == reasons.ERROR_REASON_TOKEN_MISSING:
        return challenge
    code = "insufficient_scope" if error.reason == reasons.ERROR_REASON_SCOPE_MISSING else "invalid_token"
    description = error.message.translate(_FORBIDDEN_IN_QUOTES)
    description = description.encode("ascii", "replace").decode()
    return f'{challenge}, error="{code}", error_description="{description}"'
