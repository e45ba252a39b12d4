"""What a search request asks for, as the criteria of the one statement. Pure but for the digests' keys."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final, Literal, get_args

from google.protobuf.timestamp_pb2 import Timestamp

from dmp.document.v1 import document_pb2
from services.document import author_names, titles
from services.document.authorship import Authorship
from services.document.store.searching import Criteria, Order, Span
from services.document.times import instant, is_valid
from services.document.unique_ids import UniqueIds, entry_uuid
from services.runtime.errors import invalid

ORDERS: Final = {
    document_pb2.DOCUMENT_ORDER_UNSPECIFIED: Order("submitted_at", "DESC"),
    document_pb2.DOCUMENT_ORDER_SUBMIT_TIME_DESC: Order("submitted_at", "DESC"),
    document_pb2.DOCUMENT_ORDER_SUBMIT_TIME: Order("submitted_at", "ASC"),
    document_pb2.DOCUMENT_ORDER_SERVICE_TIME_DESC: Order("service_start", "DESC"),
    document_pb2.DOCUMENT_ORDER_SERVICE_TIME: Order("service_start", "ASC"),
    document_pb2.DOCUMENT_ORDER_CREATE_TIME_DESC: Order("created_at", "DESC"),
    document_pb2.DOCUMENT_ORDER_CREATE_TIME: Order("created_at", "ASC"),
}
_Bound = Literal["start_time", "end_time", "excluded_start_time", "excluded_end_time"]
_BOUNDS: Final[tuple[_Bound, ...]] = get_args(_Bound)


class CriteriaReader:
    """Reads search requests."""

    def __init__(self, authorship: Authorship, unique_ids: UniqueIds) -> None:
        self._authorship = authorship
        self._unique_ids = unique_ids

    def of(self, health_ids: Sequence[int], request: document_pb2.SearchDocumentsRequest) -> Criteria:
        """The criteria of a request about a person's dossiers; INVALID_FIELD for a time or a name that is none."""
        unique_ids = [*request.unique_ids, *([request.unique_id] if request.unique_id else [])]
        references = [self._unique_ids.of_reference(r.system, r.value) for r in request.reference_ids]
        title = list(self._title(health_ids, request.title)) if request.title else []
        return Criteria(
            statuses=list(request.statuses) or [document_pb2.DOCUMENT_STATUS_APPROVED],
            type_codes=list(request.type_codes) or None,
            class_codes=list(request.class_codes) or None,
            format_codes=list(request.format_codes) or None,
            facility_codes=list(request.facility_types) or None,
            setting_codes=list(request.practice_settings) or None,
            confidentiality=list(request.confidentiality_codes) or None,
            event_codes=list(request.event_codes) or None,
            author_digests=self._authorship.wanted(request.authors),
            institution_digests=self._authorship.wanted(request.author_institutions),
            reference_digests=references or None,
            unique_id_digests=[self._unique_ids.digest(one) for one in unique_ids] or None,
            ids=[child(name, "documents", "documents") for name in request.documents] or None,
            folder_id=child(request.folder, "folders", "folder") if request.folder else None,
            relations=_relations(request),
            title_digests=[digest for _, digest in title] or None,
            submission_set_id=(
                child(request.submission_set, "submissionSets", "submission_set") if request.submission_set else None
            ),
            author_families=self.names(health_ids, "family", request.author_family_names),
            author_givens=self.names(health_ids, "given", request.author_given_names),
            created=span(request.create_time, "create_time"),
            service=span(request.service_time, "service_time"),
            stopped=span(request.service_stop_time, "service_stop_time"),
            submitted=span(request.submit_time, "submit_time"),
            changed=span(request.change_time, "change_time"),
            title_dossiers=[health_id for health_id, _ in title] or None,
            entry_ids=[found for one in unique_ids if (found := entry_uuid(one)) is not None] or None,
        )

    def names(self, health_ids: Sequence[int], part: author_names.Part, names: Sequence[str]) -> list[int] | None:
        """The digests of which an author of a dossier must have one; None when no name is asked for. Those of one
        dossier are nobody's in another."""
        keys = (self._unique_ids.author_name_key(health_id) for health_id in health_ids)
        return [digest for key in keys for digest in author_names.wanted(key, part, names)] or None

    def _title(self, health_ids: Sequence[int], title: str) -> Iterator[tuple[int, int]]:
        for health_id in health_ids:
            for digest in titles.wanted(self._unique_ids.title_key(health_id), title) or ():
                yield health_id, digest


def span(given: document_pb2.TimeRange, field: str) -> Span:
    """The bounds of a range; INVALID_FIELD when they are none, or out of order."""
    found = Span(*(_bound(given, name, field) for name in _BOUNDS))
    if found.start is not None and found.end is not None and found.end < found.start:
        raise invalid(f"{field}.end_time", "order", "the end is not before the start")
    if (found.excluded_start is None) != (found.excluded_end is None):
        raise invalid(f"{field}.excluded_end_time", "required", "a span to leave out has both ends")
    return found


def child(name: str, collection: str, field: str) -> uuid.UUID:
    """The id at the end of a resource name, or alone. A name of another dossier finds nothing: ids are unique."""
    _, found, identifier = name.rpartition(f"/{collection}/")
    try:
        if found and not name.startswith("dossiers/"):
            raise ValueError
        return uuid.UUID(identifier)
    except ValueError:
        raise invalid(field, "resource_name", f"dossiers/{{dossier}}/{collection}/{{uuid}}") from None


def _relations(request: document_pb2.SearchDocumentsRequest) -> list[str] | None:
    kinds: Iterable[int] = request.relationship_types or (
        document_pb2.RELATIONSHIP_TYPE_REPLACES,
        document_pb2.RELATIONSHIP_TYPE_APPENDS,
        document_pb2.RELATIONSHIP_TYPE_TRANSFORMS,
    )
    if request.related_to:
        target = child(request.related_to, "documents", "related_to")
        return [f"{kind}:{target}" for kind in kinds]
    return [str(kind) for kind in kinds] if request.relationship_types else None


def _bound(given: document_pb2.TimeRange, name: _Bound, field: str) -> datetime | None:
    if not given.HasField(name):
        return None
    moment: Timestamp = getattr(given, name)
    if not is_valid(moment):
        raise invalid(f"{field}.{name}", "timestamp", "a time between the years 1 and 9999")
    return instant(moment)
