"""The event that a document is in the patient's way through care, and the dated ones that it tells of afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from dmp.document.v1 import clinical_pb2, document_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from services.document.hl7_time import PARIS
from services.document.reading import acts
from services.document.reading.imaging import IMAGING_CLASS, IMAGING_TYPES, REFERENCE_TYPES
from services.document.reading.medications import DISPENSATION_TYPES
from services.document.reading.model import Kind, Projection, label_of
from services.document.reading.results import RESULT_TYPES
from services.document.reading.vaccinations import VACCINATION_TYPES
from services.document.times import instant

MEDICAL_SUMMARY_TYPES: Final = frozenset({"SYNTH", "60591-5", "DOCPAT08"})
HOSPITAL_TYPES: Final = frozenset({"34112-3", "11490-0", "18761-7", "15507-7", "67851-6", "60280-5"})
LETTER_TYPES: Final = frozenset({"11488-4", "96349-6", "34749-2", "78513-9", "85208-7", "93024-8", "11506-3"})
_PRESCRIPTION_CLASS: Final = "42"
_DISPENSATION_CLASS: Final = "43"
_SUMMARY_CLASS: Final = "11"
_ACT_TYPES: Final = frozenset({"34874-8", "11505-5", "70004-7", "77436-4", "75482-0", "75492-9", "15508-5"})
_MAX_HIGHLIGHTS: Final = 8
_MAX_HIGHLIGHT: Final = 200

_COUNTED: Final = {
    Kind.RESULT: values.PATHWAY_CATEGORY_BIOLOGY,
    Kind.VACCINATION: values.PATHWAY_CATEGORY_VACCINATION,
    Kind.IMAGING_REPORT: values.PATHWAY_CATEGORY_IMAGING,
    Kind.IMAGING_REFERENCE: values.PATHWAY_CATEGORY_IMAGING,
}
_ABNORMAL: Final = frozenset({"H", "L", "HH", "LL", "A", "AA", "R", "POS", "DET"})
_DATED: Final = {
    values.STATEMENT_KIND_PROCEDURE: values.PATHWAY_CATEGORY_PROCEDURE,
    values.STATEMENT_KIND_PROBLEM: values.PATHWAY_CATEGORY_PROBLEM,
    values.STATEMENT_KIND_ENCOUNTER: values.PATHWAY_CATEGORY_CONSULTATION,
}


def summary_kind(document: document_pb2.Document) -> values.SummaryKind.ValueType:
    """What kind of summary or letter a document of this type is."""
    code = document.type_code.code
    if code in MEDICAL_SUMMARY_TYPES:
        return values.SUMMARY_KIND_MEDICAL
    if code in HOSPITAL_TYPES:
        return values.SUMMARY_KIND_HOSPITAL
    return values.SUMMARY_KIND_LETTER if code in LETTER_TYPES else values.SUMMARY_KIND_REPORT


def category_of(document: document_pb2.Document) -> values.PathwayCategory.ValueType:
    """What kind of event a document of this type and class is."""
    code, group = document.type_code.code, document.class_code.code
    if code in DISPENSATION_TYPES or group == _DISPENSATION_CLASS:
        return values.PATHWAY_CATEGORY_DISPENSATION
    if group == _PRESCRIPTION_CLASS:
        return values.PATHWAY_CATEGORY_PRESCRIPTION
    if code in RESULT_TYPES:
        return values.PATHWAY_CATEGORY_BIOLOGY
    if code in IMAGING_TYPES | REFERENCE_TYPES or group == IMAGING_CLASS:
        return values.PATHWAY_CATEGORY_IMAGING
    if code in VACCINATION_TYPES:
        return values.PATHWAY_CATEGORY_VACCINATION
    if code in HOSPITAL_TYPES:
        return values.PATHWAY_CATEGORY_HOSPITAL
    if code in LETTER_TYPES:
        return values.PATHWAY_CATEGORY_CONSULTATION
    if code in _ACT_TYPES:
        return values.PATHWAY_CATEGORY_PROCEDURE
    return values.PATHWAY_CATEGORY_SUMMARY if group == _SUMMARY_CLASS else values.PATHWAY_CATEGORY_DOCUMENT


def event_of(
    document: document_pb2.Document,
    found: Sequence[Projection],
    unread: clinical_pb2.UnreadReason.ValueType,
    stay: values.Period | None = None,
) -> Projection:
    """The document's own event: at the act it is about, with the first things that it brought."""
    event = values.PathwayEvent(category=category_of(document))
    if stay is not None and event.category == values.PATHWAY_CATEGORY_HOSPITAL:
        event.period.CopyFrom(stay)
    if document.event_codes:
        event.label.code.CopyFrom(document.event_codes[0])
    if document.authors:
        event.performer.CopyFrom(document.authors[0])
    event.highlights.extend(_highlights(found))
    _count(event, found)
    happened = acts.occurred(acts.start_of(event.period)) or _service_start(document)
    return Projection(Kind.EVENT, event, happened, subkind=event.category, unread=unread)


def told_of(document: document_pb2.Document, found: Sequence[Projection]) -> Iterator[Projection]:
    """The dated acts, problems and vaccinations in a document that are of another day than the document."""
    own = _service_start(document)
    for projection in found:
        message = projection.message
        if isinstance(message, values.Vaccination):
            when = projection.occurred
            if message.not_done or message.planned or when is None or _same_day(when, own):
                continue
            event = values.PathwayEvent(category=values.PATHWAY_CATEGORY_VACCINATION)
            event.period.start.CopyFrom(message.time)
            event.label.CopyFrom(message.product.code)
            event.label.text = message.product.name or event.label.text
            if message.HasField("performer"):
                event.performer.CopyFrom(message.performer)
            yield Projection(Kind.EVENT, event, projection.occurred, subkind=event.category)
        elif isinstance(message, values.Summary):
            yield from _stated(message, own)


def _stated(summary: values.Summary, own: datetime | None) -> Iterator[Projection]:
    for statement in summary.statements:
        category = _DATED.get(statement.kind)
        when = acts.occurred(acts.start_of(statement.period))
        others = statement.HasField("subject")
        if category is None or others or statement.negated or when is None or _same_day(when, own):
            continue
        event = values.PathwayEvent(category=category, period=statement.period, label=statement.code)
        event.label.text = event.label.text or statement.text
        yield Projection(Kind.EVENT, event, when, subkind=category)


def _highlights(found: Sequence[Projection]) -> list[str]:
    texts = [text for projection in sorted(found, key=_weight) if (text := _named(projection))]
    return [text[:_MAX_HIGHLIGHT] for text in dict.fromkeys(texts)][:_MAX_HIGHLIGHTS]


def _weight(projection: Projection) -> int:
    """Abnormal results first; all else in the document's order (sorting is stable)."""
    message = projection.message
    if isinstance(message, values.Result) and any(i.code.code in _ABNORMAL for i in message.interpretations):
        return 0
    return 1


def _named(projection: Projection) -> str:
    message = projection.message
    if isinstance(message, values.Medication):
        return message.product.name or label_of(message.product.code) or message.text
    if isinstance(message, values.Result):
        return label_of(message.code)
    if isinstance(message, values.Vaccination):
        return message.product.name or label_of(message.product.code)
    if isinstance(message, values.ImagingReport):
        return next((label_of(act.code) for act in message.acts), "")
    if isinstance(message, values.ImagingReference):
        return message.description
    if isinstance(message, values.Summary):
        problems = [s for s in message.statements if s.kind == values.STATEMENT_KIND_PROBLEM and not s.negated]
        return next((label_of(problem.code) for problem in problems), "")
    return ""


def _count(event: values.PathwayEvent, found: Sequence[Projection]) -> None:
    counts: dict[values.PathwayCategory.ValueType, int] = {}
    for projection in found:
        if projection.message is None:
            continue
        category = _COUNTED.get(projection.kind)
        if projection.kind == Kind.MEDICATION:
            category = (
                values.PATHWAY_CATEGORY_DISPENSATION
                if projection.subkind == values.MEDICATION_KIND_DISPENSED
                else values.PATHWAY_CATEGORY_PRESCRIPTION
            )
        if category is not None:
            counts[category] = counts.get(category, 0) + 1
    for category, count in counts.items():
        event.counts.add(category=category, count=count)


def _service_start(document: document_pb2.Document) -> datetime | None:
    return instant(document.service_start_time) if document.HasField("service_start_time") else None


def _same_day(one: datetime, other: datetime | None) -> bool:
    """Whether both are of one day, in the zone in which days are meant where a document states none."""
    return other is not None and one.astimezone(PARIS).date() == other.astimezone(PARIS).date()
