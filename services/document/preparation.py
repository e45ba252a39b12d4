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
from services.document.cda_metadata import claim_of, claim_of_info, set_version
from services.document.codes import Violation
from services.document.envelope import Packed, off_loop, pack
from services.document.metadata import MetadataRules, complete, mime_type_of
from services.document.text import control_characters
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.validation import validate

_MOST_SHOWN: Final = 32


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document ready to be stored, once identity has verified its claims."""

    document: document_pb2.Document
    packed: Packed
    claims: tuple[identity_pb2.PatientClaim, ...]
    set_version: str | None


@dataclass(frozen=True, slots=True)
class _Read:
    """What the bytes say: their measures, and the header of a CDA or why it cannot be read."""

    packed: Packed
    mime_type: str
    header: CdaHeader | None
    refusal: CdaError | None


def check_sizes(documents: Sequence[document_pb2.SubmittedDocument], max_bytes: int) -> None:
    """MISSING_DOCUMENT or REQUEST_TOO_LARGE naming each content that is empty, or longer than `max_bytes`."""
    empty = [index for index, submitted in enumerate(documents) if not submitted.content]
    if empty:
        raise _contents(reasons.ERROR_REASON_MISSING_DOCUMENT, empty, "required", "the document has no content")
    large = [index for index, submitted in enumerate(documents) if len(submitted.content) > max_bytes]
    if large:
        what = f"a content is at most {max_bytes} bytes"
        raise _contents(reasons.ERROR_REASON_REQUEST_TOO_LARGE, large, "max_bytes", what)


async def prepare(request: document_pb2.SubmitDocumentsRequest, rules: MetadataRules) -> list[Prepared]:
    """Every document of a submission, in order.

    Raises METADATA_ERROR naming every field at fault in all of them; HASH_MISMATCH or SIZE_MISMATCH for what is given
    and not so; DUPLICATE_UNIQUE_ID when two of them have the same identifier.
    """
    violations = [
        FieldViolation(f"submission_set.{path}", "no_control_characters", "not accepted")
        for path in control_characters(request.submission_set)
    ]
    prepared: list[Prepared] = []
    for index, submitted in enumerate(request.documents):
        read = await off_loop(len(submitted.content), _read, submitted.document.mime_type, submitted.content)
        _check_given(submitted.document, read.packed, f"documents[{index}].document")
        found = _prepared(submitted.document, read, rules)
        if isinstance(found, Prepared):
            prepared.append(found)
        else:
            violations += [_at(index, violation) for violation in found]
    if violations:
        raise DmpError(reasons.ERROR_REASON_METADATA_ERROR, fields=violations[:_MOST_SHOWN])
    _check_distinct(prepared)
    return prepared


def body_digest(request: document_pb2.SubmitDocumentsRequest, prepared: Sequence[Prepared]) -> bytes:
    """The SHA-256 of all that a request says but its request_id, contents by their own digests."""
    body = document_pb2.SubmitDocumentsRequest(
        parent=request.parent,
        submission_set=request.submission_set,
        documents=[document_pb2.SubmittedDocument(document=submitted.document) for submitted in request.documents],
    )
    digest = hashlib.sha256(body.SerializeToString(deterministic=True))
    for document in prepared:
        digest.update(document.packed.sha256)
    return digest.digest()


def taken(indices: Sequence[int]) -> DmpError:
    """The error of documents whose uniqueId the dossier (or the submission) holds already."""
    fields = [
        FieldViolation(f"documents[{index}].document.unique_id", "unique", "the dossier holds a document with it")
        for index in indices
    ]
    return DmpError(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID, fields=fields)


def _read(given_mime_type: str, content: bytes) -> _Read:
    packed = pack(content)
    mime_type = mime_type_of(given_mime_type, content)
    if mime_type not in codes.CDA_MIME_TYPES:
        return _Read(packed, mime_type, None, None)
    try:
        return _Read(packed, mime_type, read_header(content), None)
    except CdaError as error:
        return _Read(packed, mime_type, None, error)


def _prepared(given: document_pb2.Document, read: _Read, rules: MetadataRules) -> Prepared | tuple[Violation, ...]:
    """The document, or every rule that it breaks."""
    if read.refusal is not None:
        refusal = read.refusal
        return (Violation("content", refusal.rule, f"{refusal.field}: {refusal.description}"),)
    completed = complete(given, read.mime_type, read.header, read.packed, rules)
    if completed.violations:
        return completed.violations
    claims = _claims(given, completed.document, read.header)
    try:
        validate(completed.document)
        for claim in claims:
            validate(claim)
    except DmpError as error:  # a header may hold what a request may not: a title of a thousand characters
        return tuple(Violation(field.field, field.rule, field.description) for field in error.fields)
    return Prepared(completed.document, read.packed, claims, set_version(read.header) if read.header else None)


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
