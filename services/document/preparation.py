"""From a submitted document to one that may be stored: measured, its header read, its metadata complete and checked.

Lives here: everything about one submission that needs no database, no key and no other service. Work on many bytes
leaves the event loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from dmp.identity.v1 import identity_pb2
from services.document import codes
from services.document.cda import CdaError, CdaHeader, read_header
from services.document.cda_metadata import claim_of, claim_of_info
from services.document.codes import Violation
from services.document.envelope import Packed, off_loop, pack
from services.document.formats import Finding, FormatRefused, examine
from services.document.metadata import MetadataRules, complete, mime_type_of
from services.document.succession import taken
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.text import control_characters
from services.runtime.validation import validate

_MOST_SHOWN: Final = 32


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document ready to be stored, once identity has verified its claims."""

    document: document_pb2.Document
    packed: Packed
    claims: tuple[identity_pb2.PatientClaim, ...]
    header: CdaHeader | None


@dataclass(frozen=True, slots=True)
class _Read:
    """What the bytes say: their measures, and the header of a CDA or why it cannot be read."""

    packed: Packed
    mime_type: str
    header: CdaHeader | None
    refusal: Violation | None
    findings: tuple[Finding, ...] = ()
    mismatch: Violation | None = None


def check_sizes(contents: Sequence[bytes], max_bytes: int) -> None:
    """MISSING_DOCUMENT or REQUEST_TOO_LARGE naming each content that is empty, or longer than `max_bytes`."""
    empty = [index for index, content in enumerate(contents) if not content]
    if empty:
        raise _contents(reasons.ERROR_REASON_MISSING_DOCUMENT, empty, "required", "the document has no content")
    large = [index for index, content in enumerate(contents) if len(content) > max_bytes]
    if large:
        what = f"a content is at most {max_bytes} bytes"
        raise _contents(reasons.ERROR_REASON_REQUEST_TOO_LARGE, large, "max_bytes", what)


async def prepare(
    request: document_pb2.SubmitDocumentsRequest, contents: Sequence[bytes], rules: MetadataRules
) -> list[Prepared]:
    """Every document of a submission, in order; `contents` are theirs.

    Raises METADATA_ERROR naming every field at fault in all of them; HASH_MISMATCH or SIZE_MISMATCH for what is given
    and not so; CONTENT_REFUSED for bytes that are not what they are said to be; ON_DEMAND_NOT_SUPPORTED;
    DUPLICATE_UNIQUE_ID when two of them have the same identifier.
    """
    _refuse_on_demand(request)
    violations = [
        FieldViolation(f"documents[{index}].relationships[{place}]", "required", "a target, or its uniqueId")
        for index, submitted in enumerate(request.documents)
        for place, relationship in enumerate(submitted.relationships)
        if not (relationship.target or relationship.target_unique_id)
    ]
    violations += [
        FieldViolation(f"{part}.{path}", "no_control_characters", "not accepted")
        for part, message in (
            ("submission_set", request.submission_set),
            *((f"folders[{index}]", folder) for index, folder in enumerate(request.folders)),
        )
        for path in control_characters(message)
    ]
    prepared: list[Prepared] = []
    for index, (submitted, content) in enumerate(zip(request.documents, contents, strict=True)):
        read = await off_loop(len(content), _read, submitted.document.mime_type, content)
        _check_given(submitted.document, read.packed, f"documents[{index}].document")
        if read.mismatch is not None:
            raise DmpError(reasons.ERROR_REASON_CONTENT_REFUSED, fields=(_at(index, read.mismatch),))
        found = _prepared(submitted.document, read, rules)
        if isinstance(found, Prepared):
            prepared.append(found)
        else:
            violations += [_at(index, violation) for violation in found]
    if violations:
        raise DmpError(reasons.ERROR_REASON_METADATA_ERROR, fields=violations[:_MOST_SHOWN])
    _check_distinct(prepared)
    return prepared


def body_digest(request: document_pb2.SubmitDocumentsRequest, sha256: Sequence[bytes]) -> bytes:
    """The SHA-256 of all that a request says but its request_id. Contents given in it count by their own digests (in
    order, empty for the others), those uploaded by the upload's name."""
    body = document_pb2.SubmitDocumentsRequest(
        parent=request.parent,
        submission_set=request.submission_set,
        documents=[
            document_pb2.SubmittedDocument(
                document=submitted.document,
                upload=submitted.upload,
                relationships=submitted.relationships,
                folders=submitted.folders,
            )
            for submitted in request.documents
        ],
        folders=request.folders,
    )
    digest = hashlib.sha256(body.SerializeToString(deterministic=True))
    for submitted, content in zip(request.documents, sha256, strict=True):
        if not submitted.upload:
            digest.update(content)
    return digest.digest()


def _read(given_mime_type: str, content: bytes) -> _Read:
    packed = pack(content)
    mime_type = mime_type_of(given_mime_type, content)
    header: CdaHeader | None = None
    if mime_type in codes.CDA_MIME_TYPES:
        try:
            header = read_header(content)
        except CdaError as error:
            refusal = Violation("content", error.rule, f"{error.field}: {error.description}")
            return _Read(packed, mime_type, None, refusal)
    try:
        wrapped = header is not None and header.wrapped
        structured = header is None or header.body is None or header.body.structured
        findings = examine(mime_type, content, wrapped=wrapped, structured=structured)
    except FormatRefused as error:
        return _Read(packed, mime_type, header, None, mismatch=error.violation)
    return _Read(packed, mime_type, header, None, findings)


def _prepared(given: document_pb2.Document, read: _Read, rules: MetadataRules) -> Prepared | tuple[Violation, ...]:
    """The document, or every rule that it breaks."""
    if read.refusal is not None:
        return (read.refusal,)
    completed = complete(given, read.mime_type, read.header, read.packed, rules)
    if completed.violations:
        return completed.violations
    completed.document.findings.extend(read.findings)
    claims = _claims(given, completed.document, read.header)
    try:
        validate(completed.document)
        for claim in claims:
            validate(claim)
    except DmpError as error:  # a header may hold what a request may not: a title of a thousand characters
        return tuple(Violation(field.field, field.rule, field.description) for field in error.fields)
    return Prepared(completed.document, read.packed, claims, read.header)


def _claims(
    given: document_pb2.Document, document: document_pb2.Document, header: CdaHeader | None
) -> tuple[identity_pb2.PatientClaim, ...]:
    """All that is said of the patient: by the document itself, and by the metadata given with it."""
    claims = [] if header is None else [claim_of(header.patient)]
    if header is None or given.HasField("source_patient_info"):
        claim = claim_of_info(document.source_patient_info)
        if document.source_patient_id not in claim.identifiers:
            claim.identifiers.append(document.source_patient_id)
        claims.append(claim)
    return tuple(claim for index, claim in enumerate(claims) if claim not in claims[:index])


def _refuse_on_demand(request: document_pb2.SubmitDocumentsRequest) -> None:
    asked = [index for index, submitted in enumerate(request.documents) if submitted.document.on_demand]
    if asked:
        fields = [
            FieldViolation(f"documents[{i}].document.on_demand", "stable", "only entries with a content of their own")
            for i in asked
        ]
        raise DmpError(reasons.ERROR_REASON_ON_DEMAND_NOT_SUPPORTED, fields=fields)


def _check_given(given: document_pb2.Document, packed: Packed, path: str) -> None:
    if given.hash and given.hash != packed.sha1:
        field = FieldViolation(f"{path}.hash", "sha1", "is not the SHA-1 of the content's decoded bytes")
        raise DmpError(reasons.ERROR_REASON_HASH_MISMATCH, fields=(field,))
    if given.size and given.size != packed.size:
        field = FieldViolation(f"{path}.size", "size", "is not the number of the content's decoded bytes")
        raise DmpError(reasons.ERROR_REASON_SIZE_MISMATCH, fields=(field,))


def _check_distinct(prepared: Sequence[Prepared]) -> None:
    identifiers = [document.document.unique_id for document in prepared]
    repeated = [index for index, identifier in enumerate(identifiers) if identifier in identifiers[:index]]
    if repeated:
        raise taken(repeated)


def _at(index: int, violation: Violation) -> FieldViolation:
    part = "content" if violation.field == "content" else f"document.{violation.field}"
    return FieldViolation(f"documents[{index}].{part}", violation.rule, violation.description)


def _contents(reason: int, indices: Sequence[int], rule: str, description: str) -> DmpError:
    return DmpError(reason, fields=[FieldViolation(f"documents[{i}].content", rule, description) for i in indices])
