"""The one table of reasons: what each is in gRPC, HTTP, FHIR and XDS. Data only.

The XDS codes are those of IHE ITI TF-3, table 4.2.4.1-2; the FHIR issue types those of R4's IssueType.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import grpc

from dmp.common.v1 import error_reason_pb2 as reasons

_Code = grpc.StatusCode


@dataclass(frozen=True, slots=True)
class ReasonSpec:
    """What one reason is in each protocol."""

    code: grpc.StatusCode
    http: int
    issue: str
    xds: str | None
    message: str


# fmt: off
_SPECS: dict[int, ReasonSpec] = {
    reasons.ERROR_REASON_INVALID_FIELD: ReasonSpec(
        _Code.INVALID_ARGUMENT, 400, "value", "XDSRepositoryMetadataError", "A field of the request breaks a rule."),
    reasons.ERROR_REASON_MALFORMED_REQUEST: ReasonSpec(
        _Code.INVALID_ARGUMENT, 400, "structure", None, "The request cannot be decoded."),
    reasons.ERROR_REASON_INVALID_PAGE_TOKEN: ReasonSpec(
        _Code.INVALID_ARGUMENT, 400, "value", None, "The page token does not belong to this search."),
    reasons.ERROR_REASON_REQUEST_TOO_LARGE: ReasonSpec(
        _Code.RESOURCE_EXHAUSTED, 413, "too-long", None, "The request is larger than the limit."),
    reasons.ERROR_REASON_METHOD_NOT_FOUND: ReasonSpec(
        _Code.UNIMPLEMENTED, 404, "not-supported", None, "No such method."),
    reasons.ERROR_REASON_TOKEN_MISSING: ReasonSpec(
        _Code.UNAUTHENTICATED, 401, "login", None, "A platform token is needed."),
    reasons.ERROR_REASON_TOKEN_INVALID: ReasonSpec(
        _Code.UNAUTHENTICATED, 401, "login", None, "The token is not valid."),
    reasons.ERROR_REASON_TOKEN_EXPIRED: ReasonSpec(
        _Code.UNAUTHENTICATED, 401, "expired", None, "The token has expired."),
    reasons.ERROR_REASON_TOKEN_AUDIENCE: ReasonSpec(
        _Code.UNAUTHENTICATED, 401, "login", None, "The token is for another audience."),
    reasons.ERROR_REASON_CLIENT_CERTIFICATE: ReasonSpec(
        _Code.UNAUTHENTICATED, 401, "security", None, "The connection's certificate may not make this call."),
    reasons.ERROR_REASON_CALLER_NOT_ALLOWED: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "This method is not for this kind of caller."),
    reasons.ERROR_REASON_SCOPE_MISSING: ReasonSpec(
        _Code.PERMISSION_DENIED, 401, "forbidden", None, "The token lacks the scope of this transaction."),
    reasons.ERROR_REASON_ACTING_CONTEXT_NOT_ALLOWED: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "Only the platform's services may state who acts."),
    reasons.ERROR_REASON_ACTING_CONTEXT_INVALID: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "The acting context lacks something that this call needs."),
    reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "The token is bound to another patient."),
    reasons.ERROR_REASON_CLIENT_SUSPENDED: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "suppressed", None, "The client is suspended."),
    reasons.ERROR_REASON_CLIENT_INVALID: ReasonSpec(
        _Code.UNAUTHENTICATED, 401, "login", None, "The client could not be authenticated."),
    reasons.ERROR_REASON_GRANT_NOT_ALLOWED: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "The client's registration does not allow this."),
    reasons.ERROR_REASON_DOSSIER_NOT_FOUND: ReasonSpec(
        _Code.NOT_FOUND, 404, "not-found", "XDSUnknownPatientId", "The person has no dossier."),
    reasons.ERROR_REASON_DOSSIER_ALREADY_EXISTS: ReasonSpec(
        _Code.ALREADY_EXISTS, 409, "duplicate", None, "The dossier exists already."),
    reasons.ERROR_REASON_DOSSIER_CLOSED: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "business-rule", None, "The dossier is closed."),
    reasons.ERROR_REASON_DOSSIER_ALREADY_CLOSED: ReasonSpec(
        _Code.FAILED_PRECONDITION, 422, "business-rule", None, "The dossier is closed already."),
    reasons.ERROR_REASON_AUTHORIZATION_MISSING: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "The caller has no authorisation on this dossier."),
    reasons.ERROR_REASON_AUTHORIZATION_EXPIRED: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "The caller's authorisation has expired."),
    reasons.ERROR_REASON_AUTHORIZATION_EXISTS: ReasonSpec(
        _Code.ALREADY_EXISTS, 409, "duplicate", None, "The authorisation is valid already."),
    reasons.ERROR_REASON_BLOCKED: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "The patient has blocked the caller."),
    reasons.ERROR_REASON_EMERGENCY_OPPOSED: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "The patient opposed this emergency mode."),
    reasons.ERROR_REASON_RIGHT_DENIED: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "The functional rights do not allow this."),
    reasons.ERROR_REASON_TYPE_DENIED: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "The caller's profession may not read this type of document."),
    reasons.ERROR_REASON_DOCUMENT_NOT_FOUND: ReasonSpec(
        _Code.NOT_FOUND, 404, "not-found", None, "No such document."),
    reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID: ReasonSpec(
        _Code.ALREADY_EXISTS, 409, "duplicate", "XDSDuplicateUniqueIdInRegistry",
        "The dossier holds a document with this uniqueId."),
    reasons.ERROR_REASON_UNKNOWN_PATIENT: ReasonSpec(
        _Code.NOT_FOUND, 404, "not-found", "XDSUnknownPatientId", "The patient identifier is not known."),
    reasons.ERROR_REASON_PATIENT_MISMATCH: ReasonSpec(
        _Code.FAILED_PRECONDITION, 422, "business-rule", "XDSPatientIdDoesNotMatch",
        "The document names another patient."),
    reasons.ERROR_REASON_HASH_MISMATCH: ReasonSpec(
        _Code.INVALID_ARGUMENT, 422, "value", "XDSNonIdenticalHash", "The hash is not that of the decoded bytes."),
    reasons.ERROR_REASON_SIZE_MISMATCH: ReasonSpec(
        _Code.INVALID_ARGUMENT, 422, "value", "XDSRepositoryMetadataError",
        "The size is not that of the decoded bytes."),
    reasons.ERROR_REASON_MISSING_DOCUMENT: ReasonSpec(
        _Code.INVALID_ARGUMENT, 422, "required", "XDSMissingDocument", "An entry has no content."),
    reasons.ERROR_REASON_METADATA_ERROR: ReasonSpec(
        _Code.INVALID_ARGUMENT, 422, "value", "XDSRepositoryMetadataError",
        "The metadata break a rule of the document model."),
    reasons.ERROR_REASON_CONTENT_DESTROYED: ReasonSpec(
        _Code.NOT_FOUND, 410, "deleted", None, "The content was destroyed."),
    reasons.ERROR_REASON_CONTENT_CORRUPTED: ReasonSpec(
        _Code.DATA_LOSS, 500, "exception", None, "The stored content fails its integrity check."),
    reasons.ERROR_REASON_PERSON_NOT_FOUND: ReasonSpec(
        _Code.NOT_FOUND, 404, "not-found", "XDSUnknownPatientId", "No such person."),
    reasons.ERROR_REASON_PERSON_CONFLICT: ReasonSpec(
        _Code.FAILED_PRECONDITION, 409, "conflict", None, "The identifier belongs to a person with other traits."),
    reasons.ERROR_REASON_PERSON_POSSIBLE_DUPLICATE: ReasonSpec(
        _Code.FAILED_PRECONDITION, 409, "multiple-matches", None,
        "A person with the same traits exists under another identifier."),
    reasons.ERROR_REASON_REQUEST_ID_REUSED: ReasonSpec(
        _Code.ALREADY_EXISTS, 409, "conflict", None, "The request_id was used with another body."),
    reasons.ERROR_REASON_CONCURRENT_CHANGE: ReasonSpec(
        _Code.ABORTED, 409, "conflict", None, "The resource changed meanwhile."),
    reasons.ERROR_REASON_OVERLOADED: ReasonSpec(
        _Code.UNAVAILABLE, 503, "throttled", None, "The platform is short of capacity; nothing was done."),
    reasons.ERROR_REASON_QUOTA_EXCEEDED: ReasonSpec(
        _Code.RESOURCE_EXHAUSTED, 429, "throttled", None, "The quota is used up; nothing was done."),
    reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE: ReasonSpec(
        _Code.UNAVAILABLE, 503, "transient", None, "The platform cannot decide or store right now."),
    reasons.ERROR_REASON_AUDIT_UNAVAILABLE: ReasonSpec(
        _Code.UNAVAILABLE, 503, "transient", None, "The access cannot be recorded right now, so nothing is served."),
    reasons.ERROR_REASON_DEADLINE_EXCEEDED: ReasonSpec(
        _Code.DEADLINE_EXCEEDED, 504, "timeout", None, "The deadline passed before an answer."),
    reasons.ERROR_REASON_INTERNAL: ReasonSpec(
        _Code.INTERNAL, 500, "exception", None, "A defect of the platform; quote the request id."),
    reasons.ERROR_REASON_EVENT_CONFLICT: ReasonSpec(
        _Code.ALREADY_EXISTS, 409, "conflict", None, "The event id stands for another event."),
    reasons.ERROR_REASON_SEARCH_TOO_BROAD: ReasonSpec(
        _Code.FAILED_PRECONDITION, 403, "too-costly", "XDSTooManyResults", "Too many results; narrow the search."),
    reasons.ERROR_REASON_TOKEN_REVOKED: ReasonSpec(
        _Code.UNAUTHENTICATED, 401, "login", None, "The token was revoked."),
    reasons.ERROR_REASON_SANDBOX_ONLY: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "This client may reach fictitious people only."),
    reasons.ERROR_REASON_PARTNER_NOT_FOUND: ReasonSpec(
        _Code.NOT_FOUND, 404, "not-found", None, "No client is registered under this id."),
    reasons.ERROR_REASON_PARTNER_ALREADY_EXISTS: ReasonSpec(
        _Code.ALREADY_EXISTS, 409, "duplicate", None, "A client is registered under this id."),
    reasons.ERROR_REASON_PARTNER_DECLARED: ReasonSpec(
        _Code.FAILED_PRECONDITION, 409, "business-rule", None, "The gateway's file declares this client."),
    reasons.ERROR_REASON_RECEIPT_NOT_READY: ReasonSpec(
        _Code.FAILED_PRECONDITION, 409, "incomplete", None, "No checkpoint covers the event yet; ask again."),
    reasons.ERROR_REASON_EVENT_NOT_FOUND: ReasonSpec(
        _Code.NOT_FOUND, 404, "not-found", None, "No such event."),
    reasons.ERROR_REASON_UNUSUAL_ACCESS_NOT_FOUND: ReasonSpec(
        _Code.NOT_FOUND, 404, "not-found", None, "No such item in the work list."),
    reasons.ERROR_REASON_REPLACE_FAILED: ReasonSpec(
        _Code.FAILED_PRECONDITION, 422, "business-rule", "XDSReplaceFailed",
        "The document cannot be related to the other like this."),
    reasons.ERROR_REASON_CHANGE_NOT_APPLICABLE: ReasonSpec(
        _Code.FAILED_PRECONDITION, 422, "business-rule", None, "The document cannot be changed like this any more."),
    reasons.ERROR_REASON_CONTENT_REFUSED: ReasonSpec(
        _Code.INVALID_ARGUMENT, 422, "value", "XDSRepositoryMetadataError", "The content is not what its type says."),
    reasons.ERROR_REASON_CONTENT_INFECTED: ReasonSpec(
        _Code.INVALID_ARGUMENT, 422, "security", "XDSRepositoryError", "The virus scanner refused the content."),
    reasons.ERROR_REASON_UPLOAD_OUT_OF_STEP: ReasonSpec(
        _Code.FAILED_PRECONDITION, 409, "conflict", None, "The chunk does not continue the upload."),
    reasons.ERROR_REASON_UPLOAD_NOT_FOUND: ReasonSpec(
        _Code.NOT_FOUND, 404, "not-found", None, "No such upload."),
    reasons.ERROR_REASON_ON_DEMAND_NOT_SUPPORTED: ReasonSpec(
        _Code.INVALID_ARGUMENT, 422, "not-supported", "XDSRepositoryMetadataError",
        "On-demand entries are not supported."),
    reasons.ERROR_REASON_UNKNOWN_DOMAIN: ReasonSpec(
        _Code.INVALID_ARGUMENT, 400, "code-invalid", None, "The assigning authority is not registered."),
    reasons.ERROR_REASON_UNKNOWN_TARGET_DOMAIN: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "code-invalid", None, "The target domain is not registered."),
    reasons.ERROR_REASON_FOREIGN_DOMAIN: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "The domain belongs to another source."),
    reasons.ERROR_REASON_STATUS_TRANSITION: ReasonSpec(
        _Code.FAILED_PRECONDITION, 422, "business-rule", None, "The identity status does not go there from here."),
    reasons.ERROR_REASON_PERSON_MERGED: ReasonSpec(
        _Code.FAILED_PRECONDITION, 409, "business-rule", None, "The person was merged into another."),
    reasons.ERROR_REASON_PERSON_NOT_LINKED: ReasonSpec(
        _Code.FAILED_PRECONDITION, 409, "business-rule", None, "The person is merged into nobody."),
    reasons.ERROR_REASON_DUPLICATE_NOT_FOUND: ReasonSpec(
        _Code.NOT_FOUND, 404, "not-found", None, "No such pair of possible duplicates."),
    reasons.ERROR_REASON_DUPLICATE_DECIDED: ReasonSpec(
        _Code.FAILED_PRECONDITION, 409, "business-rule", None, "The pair was decided already."),
    reasons.ERROR_REASON_IDENTIFIER_NOT_HELD: ReasonSpec(
        _Code.FAILED_PRECONDITION, 422, "business-rule", None, "The person has no such identifier in use."),
    reasons.ERROR_REASON_DOSSIER_MERGED: ReasonSpec(
        _Code.FAILED_PRECONDITION, 409, "business-rule", None, "The dossier's person was merged into another."),
    reasons.ERROR_REASON_REGULATION_ONLY: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "The call is for the access mode regulation."),
    reasons.ERROR_REASON_OPENING_OPPOSED: ReasonSpec(
        _Code.FAILED_PRECONDITION, 422, "business-rule", None, "The person wants no dossier."),
    reasons.ERROR_REASON_DOSSIER_DESTROYED: ReasonSpec(
        _Code.NOT_FOUND, 410, "deleted", "XDSUnknownPatientId", "The dossier was destroyed."),
    reasons.ERROR_REASON_REPRESENTATION_MISSING: ReasonSpec(
        _Code.PERMISSION_DENIED, 403, "forbidden", None, "The caller does not represent the patient."),
    reasons.ERROR_REASON_DOSSIER_NOT_CLOSED: ReasonSpec(
        _Code.FAILED_PRECONDITION, 422, "business-rule", None, "The dossier is not closed."),
    reasons.ERROR_REASON_RIGHTS_TABLE_INVALID: ReasonSpec(
        _Code.INVALID_ARGUMENT, 400, "value", None, "The rights tables break a rule."),
    reasons.ERROR_REASON_NOTHING_TO_WITHDRAW: ReasonSpec(
        _Code.NOT_FOUND, 404, "not-found", None, "There is nothing of this kind to withdraw or to read."),
    reasons.ERROR_REASON_EPOCH_UNKNOWN: ReasonSpec(
        _Code.NOT_FOUND, 404, "not-found", None, "The dossier has no history at that epoch."),
}
# fmt: on

REASONS: Mapping[int, ReasonSpec] = MappingProxyType(_SPECS)
