"""Which documents a permitted caller may know of. Pure: no I/O, no clock.

Consent decides whether the dossier may be entered, and bounds by a filter what may be known of in it. Here the filter
becomes a `View`, which `hidden_because` applies to one row and the search statement of `store` to many: both apply
the same rules, in the same order, and a test holds them together (R.1111-53; domain.md §3).
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2

PATIENT_DEPOSITED: Final = ("DOCPAT", "EXPPAT")
"""Types of documents that patients deposit begin so (domain.md §4)."""
_NO_TIME: Final = datetime(1970, 1, 2, tzinfo=UTC)
VISIBLE: int = reasons.ERROR_REASON_UNSPECIFIED


class View(NamedTuple):
    """What a caller may know of.

    `sees_masked` goes for every masked document, `masked_own_digest` for those of the author with that digest (None:
    none). `patient_cutoff`, for the patient, is the submission time after which INVISIBLE_PATIENT still hides; else
    None. `restriction` (consent's DocumentRestriction) leaves only those of `own_digest`, of `structure_digest`, or of
    the types that patients deposit.
    """

    denied_types: frozenset[str]
    sees_masked: bool
    masked_own_digest: bytes | None
    patient_cutoff: datetime | None
    as_representative: bool
    hidden_statuses: frozenset[int]
    restriction: int = consent_pb2.DOCUMENT_RESTRICTION_UNSPECIFIED
    own_digest: bytes | None = None
    structure_digest: bytes | None = None


class Caller(NamedTuple):
    """The digests by which the documents of a caller, and of the caller's structure, are known."""

    own: bytes | None = None
    structure: bytes | None = None


class Visibility(Protocol):
    """The columns of a document that decide who may know of it."""

    @property
    def status(self) -> int: ...
    @property
    def type_code(self) -> str: ...
    @property
    def submitted_at(self) -> datetime: ...
    @property
    def masked(self) -> bool: ...
    @property
    def invisible_patient(self) -> bool: ...
    @property
    def invisible_representatives(self) -> bool: ...
    @property
    def author_digests(self) -> list[bytes]: ...
    @property
    def institution_digests(self) -> list[bytes]: ...


def view_of(allowed: consent_pb2.Filter, caller: Caller, now: datetime) -> View:
    """The view that consent's filter gives to a caller."""
    hidden = {
        document_pb2.DOCUMENT_STATUS_DELETED: not allowed.deleted_traces,
        document_pb2.DOCUMENT_STATUS_ARCHIVED: allowed.without_archived,
        document_pb2.DOCUMENT_STATUS_DEPRECATED: allowed.without_deprecated,
    }
    return View(
        denied_types=frozenset(allowed.denied_type_codes),
        sees_masked=allowed.masked == consent_pb2.MASKED_VIEW_ALL,
        masked_own_digest=caller.own if allowed.masked == consent_pb2.MASKED_VIEW_OWN else None,
        patient_cutoff=month_before(now) if allowed.patient_view else None,
        as_representative=allowed.representative_view,
        hidden_statuses=frozenset(status for status, hides in hidden.items() if hides),
        restriction=allowed.restriction,
        own_digest=caller.own,
        structure_digest=caller.structure,
    )


@lru_cache(maxsize=8192)
def _view_at_no_time(allowed: bytes, caller: Caller) -> View:
    """As `view_of`, of a serialized filter, for those whose view no time changes. There are few filters, and callers
    repeat."""
    return view_of(consent_pb2.Filter.FromString(allowed), caller, _NO_TIME)


def view_of_many(allowed: consent_pb2.Filter, caller: Caller, now: datetime) -> View:
    """`view_of`, for many calls a second."""
    if allowed.patient_view:
        return view_of(allowed, caller, now)
    return _view_at_no_time(allowed.SerializeToString(), caller)


def hidden_because(row: Visibility, view: View) -> int:
    """VISIBLE, or the ErrorReason that goes into the trail; the caller is told DOCUMENT_NOT_FOUND whatever it is."""
    if row.status in view.hidden_statuses:
        deleted = row.status == document_pb2.DOCUMENT_STATUS_DELETED
        return reasons.ERROR_REASON_DOCUMENT_NOT_FOUND if deleted else reasons.ERROR_REASON_RIGHT_DENIED
    if row.type_code in view.denied_types:
        return reasons.ERROR_REASON_TYPE_DENIED
    if row.masked and not view.sees_masked and view.masked_own_digest not in row.author_digests:
        return reasons.ERROR_REASON_RIGHT_DENIED
    if row.invisible_patient and view.patient_cutoff is not None and row.submitted_at > view.patient_cutoff:
        return reasons.ERROR_REASON_RIGHT_DENIED
    if row.invisible_representatives and view.as_representative:
        return reasons.ERROR_REASON_RIGHT_DENIED
    return VISIBLE if _within(row, view) else reasons.ERROR_REASON_RIGHT_DENIED


def _within(row: Visibility, view: View) -> bool:
    """Whether the document is among those that a restriction leaves."""
    if view.restriction == consent_pb2.DOCUMENT_RESTRICTION_UNSPECIFIED:
        return True
    if view.restriction == consent_pb2.DOCUMENT_RESTRICTION_OWN:
        return view.own_digest in row.author_digests
    if view.restriction == consent_pb2.DOCUMENT_RESTRICTION_STRUCTURE:
        return view.structure_digest in row.author_digests or view.structure_digest in row.institution_digests
    if view.restriction == consent_pb2.DOCUMENT_RESTRICTION_PATIENT_TYPES:
        return row.type_code.startswith(PATIENT_DEPOSITED)
    return False


def takes_back(row: Visibility, view: View) -> bool:
    """Whether a document is the caller's own, or of the caller's structure, where a change is bound to those. Nothing
    hides from its author what he takes back: neither a mask, nor a type that his profession may feed and not read."""
    own = view.restriction in (consent_pb2.DOCUMENT_RESTRICTION_OWN, consent_pb2.DOCUMENT_RESTRICTION_STRUCTURE)
    return own and _within(row, view)


def fed_by(row: Visibility, handed_in_by: Sequence[bytes], caller: Caller) -> bool:
    """Whether the caller, or the caller's structure, is among those who wrote the document or handed it in."""
    digests = {caller.own, caller.structure} - {None}
    return not digests.isdisjoint((*row.author_digests, *row.institution_digests, *handed_in_by))


def month_before(now: datetime) -> datetime:
    """One calendar month earlier, at most the last day of that month: how long an announcement waits (domain.md §3)."""
    year, month = (now.year, now.month - 1) if now.month > 1 else (now.year - 1, 12)
    return now.replace(year=year, month=month, day=min(now.day, calendar.monthrange(year, month)[1]))
