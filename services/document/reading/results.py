"""Results of examinations: IHE PaLM and CI-SIS laboratory reports, result sections and vital signs of other documents.

Batteries may lie in batteries, isolates in specimens, at any depth. What a result inherits from around it (groups,
specimen, performer, time) is handed down in `Around`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from dmp.common.v1 import coding_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from services.document.reading import acts
from services.document.reading.datatypes import author, concept, identifiers, says_something, value
from services.document.reading.model import Kind, Projection, codes_of, label_of, same_code
from services.document.reading.node import Element, Page, attribute, every, first, templates
from services.document.reading.sections import Section

RESULT_TYPES: Final = frozenset({"11502-2", "96173-0"})
_SECTIONS: Final = frozenset({"30954-2", "8716-3", "26436-6"})
_SECTION_TEMPLATES: Final = ("1.3.6.1.4.1.19376.1.3.3.2.",)
_ENTRY_TEMPLATES: Final = ("1.3.6.1.4.1.19376.1.3.1",)
_ATTACHED: Final = frozenset({"55107-7", "69764-9"})
_SPECIMEN_TEMPLATES: Final = frozenset({"1.3.6.1.4.1.19376.1.3.1.2", "1.3.6.1.4.1.19376.1.3.1.2.1"})


@dataclass(frozen=True, slots=True)
class Around:
    """What a result has from the acts that it lies in."""

    groups: tuple[values.CodedText, ...]
    specimen: values.Specimen | None = None
    performer: coding_pb2.Author | None = None
    time: values.PartialTime | None = None
    subject: values.CodedText | None = None


def are_results(section: Section, type_code: str) -> bool:
    """Whether the observations of a section are results."""
    return (
        type_code in RESULT_TYPES
        or section.code in _SECTIONS
        or any(root.startswith(_SECTION_TEMPLATES) for root in section.templates)
    )


def is_laboratory(entry: Element, act: Element) -> bool:
    """Whether an entry is a laboratory's, wherever it lies."""
    roots = templates(entry) | templates(act)
    return any(root.startswith(_ENTRY_TEMPLATES) for root in roots)


def is_attachment(act: Element) -> bool:
    """Whether an act only holds the document once more as a file."""
    return attribute(first(act, "code"), "code") in _ATTACHED


def results(page: Page, name: str, act: Element, section: Section) -> Iterator[values.Result]:
    """All results in one entry, in the document's order."""
    yield from _within(page, name, act, Around(section.concepts))


def projection(read: values.Result) -> Projection:
    """A result as it is kept."""
    when = read.time if read.HasField("time") else None
    codes = codes_of(read.code)
    return Projection(
        Kind.RESULT,
        read,
        acts.occurred(when),
        codes=codes,
        series=series_of(read),
    )


def series_of(read: values.Result) -> str:
    """What results of one series have in common: code, unit and subject."""
    codes = codes_of(read.code)
    return "\x1f".join((codes[0] if codes else label_of(read.code), unit_of(read), label_of(read.subject)))


def unit_of(read: values.Result) -> str:
    """The unit of a result's number; empty when it has none."""
    for found in read.values:
        if found.HasField("quantity"):
            return found.quantity.unit
        if found.HasField("range"):
            return found.range.low.unit or found.range.high.unit
    return ""


def _within(page: Page, name: str, act: Element, around: Around) -> Iterator[values.Result]:
    if is_attachment(act):
        return
    if name == "observation":
        if acts.planned(act):
            page.leave_out()
            return
        read = _result(page, act, around)
        if read is not None:
            yield read
            around = replace(around, subject=read.subject if read.HasField("subject") else None)
            around = replace(around, groups=(*around.groups, read.code) if read.code.ByteSize() else around.groups)
    elif name in {"act", "organizer"}:
        around = _deeper(page, act, around)
    else:
        return  # a specimen's collection is read with the act around it; a procedure is no result
    for _, inner_name, inner in acts.related(act):
        if not (inner_name == "act" and acts.is_comment(inner)):
            yield from _within(page, inner_name, inner, around)


def _deeper(page: Page, act: Element, around: Around) -> Around:
    groups, specimen, performer = around.groups, around.specimen, around.performer
    coded = concept(page, first(act, "code"))
    if coded is not None and says_something(coded) and not (groups and same_code(groups[-1], coded)):
        groups = (*groups, coded)
    collected = [
        found
        for _, name, inner in acts.related(act)
        if name == "procedure" and (found := _collection(page, inner)) is not None
    ]
    if len(collected) == 1:
        specimen = collected[0]
    elif collected:
        specimen = None  # which of them a result is of, the document does not say here
    for participation in every(act, "specimen"):
        role = first(participation, "specimenRole")
        entity = first(role, "specimenPlayingEntity")
        what = concept(page, first(entity, "code"))
        if what is not None and says_something(what):
            if attribute(entity, "classCode") == "MIC":  # an isolate: what was found, not what was taken
                groups = (*groups, what)
            else:
                specimen = values.Specimen(type=what)
    for performed in every(act, "performer")[:1]:
        performer = author(page, performed) or performer
    time = acts.happened(page, act) or around.time
    return Around(groups, specimen, performer, time, acts.subject(page, act) or around.subject)


def _collection(page: Page, act: Element) -> values.Specimen | None:
    """The specimen that a procedure collects."""
    read = values.Specimen()
    for participant in every(act, "participant"):
        role = first(participant, "participantRole")
        what = concept(page, first(role, "playingEntity", "code"))
        if what is not None and says_something(what):
            read.type.CopyFrom(what)
        if role is not None and (named := identifiers(role)):
            read.id.CopyFrom(named[0])
    how = concept(page, first(act, "code"))
    if how is not None and says_something(how):
        read.collection.CopyFrom(how)
    site = concept(page, first(act, "targetSiteCode"))
    if site is not None and says_something(site):
        read.site.CopyFrom(site)
    when = acts.lasted(page, act)
    if when is not None:
        read.time.CopyFrom(when)
    if not read.HasField("type") and not templates(act) & _SPECIMEN_TEMPLATES:
        return None
    return read if read.ByteSize() else None


def _result(page: Page, act: Element, around: Around) -> values.Result | None:
    read = values.Result(
        status=acts.status(act),
        negated=acts.negated(act),
        groups=around.groups,
        text=acts.words(page, act),
        comments=acts.comments(page, act),
        item_ids=identifiers(act),
        values=acts.values_of(page, act),
        sites=acts.sites(page, act),
        subject=acts.subject(page, act) or around.subject,
    )
    coded = concept(page, first(act, "code"))
    if coded is not None:
        read.code.CopyFrom(coded)
    if not read.values:
        read.null_flavor = attribute(first(act, "value"), "nullFlavor")
    for name, target in (("interpretationCode", read.interpretations), ("methodCode", read.methods)):
        for element in every(act, name):
            meaning = concept(page, element)
            if meaning is not None and says_something(meaning):
                target.append(meaning)
    read.reference_ranges.extend(
        found for element in every(act, "referenceRange") if (found := _reference_range(page, element)) is not None
    )
    when = acts.happened(page, act) or around.time or _collected(around.specimen)
    if when is not None:
        read.time.CopyFrom(when)
    specimen = _own_specimen(page, act) or around.specimen
    if specimen is not None:
        read.specimen.CopyFrom(specimen)
    for performed in every(act, "performer")[:1]:
        around = replace(around, performer=author(page, performed) or around.performer)
    if around.performer is not None:
        read.performer.CopyFrom(around.performer)
    if says_something(coded) or read.values or read.text:
        return read
    page.leave_out()
    return None


def _collected(specimen: values.Specimen | None) -> values.PartialTime | None:
    return acts.start_of(specimen.time) if specimen is not None and specimen.HasField("time") else None


def _own_specimen(page: Page, act: Element) -> values.Specimen | None:
    for participation in every(act, "specimen"):
        what = concept(page, first(participation, "specimenRole", "specimenPlayingEntity", "code"))
        if what is not None and says_something(what):
            return values.Specimen(type=what)
    return None


def _reference_range(page: Page, element: Element) -> values.ReferenceRange | None:
    observed = first(element, "observationRange")
    if observed is None:
        return None
    read = values.ReferenceRange(text=acts.words(page, observed))
    bounds = first(observed, "value")
    found = value(page, bounds) if bounds is not None else None
    if found is not None and found.HasField("range"):
        read.range.CopyFrom(found.range)
    elif found is not None and found.HasField("quantity"):
        read.range.low.CopyFrom(found.quantity)
        read.range.high.CopyFrom(found.quantity)
    elif found is not None and not read.text:
        read.text = found.text or label_of(found.coded)
    meaning = concept(page, first(observed, "interpretationCode"))
    if meaning is not None and says_something(meaning):
        read.interpretation.CopyFrom(meaning)
    for condition in every(observed, "precondition"):
        coded = concept(page, first(condition, "criterion", "value"))
        text = page.words(first(condition, "criterion", "text")) or (label_of(coded) if coded is not None else "")
        if text:
            read.conditions.append(text)
    return read if read.HasField("range") or read.text else None
