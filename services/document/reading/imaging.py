"""Imaging reports, from a CDA's header (acts, accession and order numbers, study UIDs) and body (text, measures, the
catalogue of DICOM objects: DICOM PS3.20, CI-SIS CR-IMG). A report that wraps a PDF still has its header.

Here lives too what joins a report to key-object references: `links`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

from dmp.common.v1 import coding_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from services.document.reading import acts
from services.document.reading.datatypes import concept, identifier, identifiers, media, says_something
from services.document.reading.model import Kind, Projection, codes_of
from services.document.reading.node import Element, Page, any_of, attribute, every, first
from services.document.reading.sections import ReportText, Section

IMAGING_TYPES: Final = frozenset({"18748-4"})
REFERENCE_TYPES: Final = frozenset({"IMG-KOS"})
IMAGING_CLASS: Final = "31"
"""The class of imaging documents (domain.md §4)."""

_DCM: Final = frozenset({"1.2.840.10008.2.16.4", "1.2.840.10008.2.6.1"})
_MODALITY: Final = "121139"
_REGION: Final = "39111-0"
_STUDY: Final = "113014"
_SERIES: Final = "113015"
_CATALOGUE: Final = "121181"
_UID: Final = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]*))+", re.ASCII)
_MAX_OBSERVATIONS: Final = 500

Side = Literal["report", "reference"]


def report(page: Page, document: Element, sections: Sequence[Section]) -> values.ImagingReport:
    """What the report says; its sections are those of the body, none where it wraps a file."""
    read = values.ImagingReport()
    for order in [order for link in every(document, "inFulfillmentOf") for order in every(link, "order")]:
        read.order_ids.extend(identifiers(order))
        for number in any_of(order, "accessionNumber"):
            if (named := identifier(number)) is not None:
                read.accession_numbers.append(named)
    for documented in every(document, "documentationOf"):
        event = first(documented, "serviceEvent")
        if event is not None and (act := _act(page, event)) is not None:
            read.acts.append(act)
    text = ReportText(page)
    for section in sections:
        if (shown := text.of(section)) is not None:
            read.sections.append(shown)
        _entries(page, section, read)
    wrapped = first(document, "component", "nonXMLBody", "text")
    if wrapped is not None:
        read.media.CopyFrom(media(page, wrapped))
    when = next((start for act in read.acts if (start := acts.start_of(act.period)) is not None), None)
    if when is not None:
        read.time.CopyFrom(when)
    return read


def projection(read: values.ImagingReport, reference_ids: Iterable[coding_pb2.Identifier]) -> Projection:
    """A report as it is kept."""
    when = read.time if read.HasField("time") else None
    return Projection(
        Kind.IMAGING_REPORT,
        read,
        acts.occurred(when),
        codes=codes_of(*(act.code for act in read.acts)),
        links=links_of(read, reference_ids),
    )


def links_of(
    read: values.ImagingReport | values.ImagingReference, reference_ids: Iterable[coding_pb2.Identifier]
) -> tuple[str, ...]:
    """The `links` of what was read in a document with these reference ids."""
    uids = [study.study_uid for study in read.studies]
    side: Side = "reference"
    if isinstance(read, values.ImagingReport):
        side, uids = "report", [*(act.study_uid for act in read.acts if act.study_uid), *uids]
    return links(side, uids, read.accession_numbers, read.order_ids, reference_ids)


def links(
    side: Side,
    study_uids: Iterable[str],
    accession_numbers: Iterable[coding_pb2.Identifier],
    order_ids: Iterable[coding_pb2.Identifier],
    reference_ids: Iterable[coding_pb2.Identifier],
) -> tuple[str, ...]:
    """What a report and a reference of the same examination have in common, whichever side says it.

    A number of a known authority meets the same number of that authority, or of one that is not stated; never that of
    another. So each side also offers what the other, without an authority, would ask for. A reference id meets whatever
    it names: the same reference id, a number of the same authority, a study.
    """
    found = [f"study|{uid}" for uid in study_uids if uid]
    for sort, numbers in (("accession", accession_numbers), ("order", order_ids)):
        for number in numbers:
            if number.system:
                found.append(f"number|{number.system}|{number.value}")
                found.append(f"{sort}|{'offered' if side == 'report' else 'asked'}|{number.value}")
            else:
                found.append(f"{sort}|offered|{number.value}")
                if side == "report":
                    found.append(f"{sort}|asked|{number.value}")
    for number in reference_ids:
        found.append(f"number|{number.system}|{number.value}")
        if _UID.fullmatch(number.value):
            found.append(f"study|{number.value}")
    return tuple(dict.fromkeys(found))


def _act(page: Page, event: Element) -> values.ImagingAct | None:
    read = values.ImagingAct()
    coded = first(event, "code")
    if coded is not None and (what := concept(page, coded)) is not None:
        read.code.CopyFrom(what)
        del read.code.translations[:]
        for translation in every(coded, "translation"):
            _translated(page, translation, read)
    during = acts.lasted(page, event)
    if during is not None:
        read.period.CopyFrom(during)
    for named in identifiers(event):
        uid = named.value if not named.system else ""
        if _UID.fullmatch(uid):
            read.study_uid = uid
            break
    return read if says_something(read.code) or read.study_uid else None


def _translated(page: Page, translation: Element, read: values.ImagingAct) -> None:
    """A translation of an act's code: the technique, the part of the body, or the act in another system."""
    qualifier = attribute(first(translation, "qualifier", "name"), "code")
    found = concept(page, translation)
    if found is None or not says_something(found):
        return
    if qualifier == _MODALITY or (not qualifier and found.code.system in _DCM):
        read.modalities.append(found)
    elif qualifier == _REGION:
        read.regions.append(found)
    else:
        read.code.translations.append(found.code)


def _entries(page: Page, section: Section, read: values.ImagingReport) -> None:
    for entry in every(section.element, "entry"):
        for name, act in acts.statements(entry):
            if section.code == _CATALOGUE or attribute(first(act, "code"), "code") == _STUDY:
                if (study := _study(act)) is not None:
                    read.studies.append(study)
                continue
            if name in {"substanceAdministration", "supply"}:
                continue  # among the medicines
            for observed in _observations(page, name, act):
                if len(read.observations) < _MAX_OBSERVATIONS:
                    read.observations.append(observed)
                else:
                    page.leave_out()


def _observations(page: Page, name: str, act: Element) -> Iterator[values.Observation]:
    if name != "organizer" and (own := acts.observation(page, act)) is not None:
        yield own
    yield from acts.facts(page, act)
    for _, inner_name, inner in acts.related(act):
        if inner_name == "organizer":
            yield from acts.facts(page, inner)


def _study(act: Element) -> values.ImagingStudy | None:
    named = identifiers(act)
    if not named:
        return None
    read = values.ImagingStudy(study_uid=named[0].value)
    for _, name, inner in acts.related(act):
        if name != "act" or attribute(first(inner, "code"), "code") not in {_SERIES, ""}:
            continue
        series_ids = identifiers(inner)
        series = read.series.add(
            series_uid=series_ids[0].value if series_ids else "",
            modality=attribute(first(inner, "code", "qualifier", "value"), "code"),
        )
        places: list[str] = []
        for _, object_name, instance in acts.related(inner):
            if object_name == "observation":
                series.instances += 1
                url = attribute(first(instance, "text", "reference"), "value").partition("?")[0].strip()
                if url:
                    places.append(url)
        series.locations.extend(list(dict.fromkeys(places))[:16])
    return read
