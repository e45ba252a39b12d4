"""How much a permitted actor may see: the filter that goes with a yes, and what it says of one document. Pure.

The document service turns a `Filter` into conditions of its queries, before paging; `hidden` is the same for one
document whose attributes are known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.functional_rights import Function, FunctionalRights, Right
from services.consent.values import Document

_READ_CONTENT: Final = Function("TD3.2", "read_not_masked")
_READ_MASKED: Final = Function("TD3.2", "read_masked_ps")
_READ_INVISIBLE: Final = Function("TD3.2", "read_invisible_patient_or_rep")
_READ_ARCHIVED: Final = Function("TD3.2", "read_archived")
_READ_OBSOLETE: Final = Function("TD3.2", "read_obsolete")
_READ_DELETED: Final = Function("TD3.2", "read_deleted")
_READ_TRACES: Final = Function("TRACE", "read_traces")
_TRACES: Final = {
    Right.YES: pb.TRACE_VIEW_ALL,
    Right.WITHOUT_SECRET_CONNECTIONS: pb.TRACE_VIEW_WITHOUT_SECRET,
    Right.OWN_ACTIONS_ONLY: pb.TRACE_VIEW_OWN,
}
PATIENT_TYPES: Final = ("DOCPAT", "EXPPAT")
"""How the types of documents that patients deposit begin (domain §4)."""
_OF_DOCUMENTS: Final = frozenset(
    {
        pb.ACTION_SEARCH,
        pb.ACTION_SEARCH_HELD,
        pb.ACTION_READ,
        pb.ACTION_MASK,
        pb.ACTION_UNMASK,
        pb.ACTION_MAKE_VISIBLE,
        pb.ACTION_ARCHIVE,
        pb.ACTION_UNARCHIVE,
    }
)
"""What is done to a document that the actor must be able to see. (What one feeds, looks up by its uniqueId or takes
back is one's own.)"""


@dataclass(frozen=True, slots=True)
class Filter:
    """What a permitted actor may know of (dmp.consent.v1.Filter, field by field)."""

    denied_type_codes: tuple[str, ...]
    masked: int
    content_readable: bool
    patient_view: bool
    representative_view: bool
    traces: int
    imputed_structure: str
    restriction: int
    without_archived: bool
    without_deprecated: bool
    deleted_traces: bool
    secret: bool

    def imputed_to(self, structure: str) -> Filter:
        """The same, for an act that is imputed to a structure."""
        return replace(self, imputed_structure=structure)


@lru_cache(maxsize=4096)
def sight(
    rights: FunctionalRights,
    row: str,
    profession: str,
    restriction: int,
    traces: bool,
    masked_in_emergency: bool,
    secret: bool,
) -> Filter:
    """The filter of everyone in the same row and profession; there are few, so each is made once.

    `profession` is empty for those who have none, `traces` is whether the action reads them.
    """
    hides_invisible = rights.right(_READ_INVISIBLE, row) is not Right.YES
    of_the_patient = row.startswith("patient/")
    return Filter(
        denied_type_codes=rights.denied_types(profession) if profession else (),
        masked=_masked(rights.right(_READ_MASKED, row), masked_in_emergency),
        content_readable=rights.right(_READ_CONTENT, row) is Right.YES,
        patient_view=hides_invisible,
        representative_view=hides_invisible and not of_the_patient,
        traces=_TRACES.get(rights.right(_READ_TRACES, row), pb.TRACE_VIEW_UNSPECIFIED)
        if traces
        else pb.TRACE_VIEW_UNSPECIFIED,
        imputed_structure="",
        restriction=restriction,
        without_archived=rights.right(_READ_ARCHIVED, row) is not Right.YES,
        without_deprecated=rights.right(_READ_OBSOLETE, row) is not Right.YES,
        deleted_traces=rights.right(_READ_DELETED, row) is Right.YES,
        secret=secret,
    )


def hidden(bounds: Filter, action: int, document: Document) -> int | None:
    """Why an action on this document is refused under a filter, an ErrorReason; None if it is not.

    Whether a document may be known of, in the order of `services.document.access.hidden_because`; then the documents
    that the action is bound to.
    """
    reason = _unseen(bounds, action, document) if action in _OF_DOCUMENTS else None
    if reason is None and not _within(bounds.restriction, document):
        reason = reasons.ERROR_REASON_RIGHT_DENIED
    if reason is None and action == pb.ACTION_READ and not bounds.content_readable:
        reason = reasons.ERROR_REASON_RIGHT_DENIED
    return reason


def _unseen(bounds: Filter, action: int, document: Document) -> int | None:
    if document.deleted and not (action == pb.ACTION_SEARCH and bounds.deleted_traces):
        return reasons.ERROR_REASON_DOCUMENT_NOT_FOUND
    if document.type_code in bounds.denied_type_codes:
        return reasons.ERROR_REASON_TYPE_DENIED
    hides = (
        (document.masked and not _sees_masked(bounds.masked, document))
        or (document.invisible_to_patient and bounds.patient_view)
        or (document.hidden_from_representatives and bounds.representative_view)
        or (document.archived and bounds.without_archived)
        or (document.deprecated and bounds.without_deprecated)
    )
    return reasons.ERROR_REASON_RIGHT_DENIED if hides else None


def _sees_masked(view: int, document: Document) -> bool:
    return view == pb.MASKED_VIEW_ALL or (view == pb.MASKED_VIEW_OWN and document.authored_by_caller)


def _within(restriction: int, document: Document) -> bool:
    if restriction == pb.DOCUMENT_RESTRICTION_OWN:
        return document.authored_by_caller
    if restriction == pb.DOCUMENT_RESTRICTION_STRUCTURE:
        return document.authored_by_structure
    if restriction == pb.DOCUMENT_RESTRICTION_PATIENT_TYPES:
        return document.type_code.startswith(PATIENT_TYPES)
    return True


def _masked(right: Right, allowed_in_emergency: bool) -> int:
    if right is Right.YES or (right is Right.IF_PATIENT_ALLOWED and allowed_in_emergency):
        return pb.MASKED_VIEW_ALL
    return pb.MASKED_VIEW_OWN if right is Right.OWN_DOCUMENTS_ONLY else pb.MASKED_VIEW_NONE
