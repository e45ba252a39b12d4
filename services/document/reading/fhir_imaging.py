"""FHIR's imaging: ImagingStudy and DiagnosticReport, as a report or as references to objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dmp.common.v1 import coding_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from services.document.reading.acts import start_of
from services.document.reading.datatypes import integer
from services.document.reading.fhir_tree import Node, node, nodes, text
from services.document.reading.fhir_values import (
    Bundle,
    coded,
    coded_all,
    identifiers,
    moment,
    valued,
    when,
)

_ACCESSION: Final = "ACSN"


def report_of(bundle: Bundle, sections: Iterable[values.ReportSection]) -> values.ImagingReport:
    """The report of a Bundle: its studies, else what its DiagnosticReport is about."""
    read = values.ImagingReport(sections=sections)
    for study in bundle.of("ImagingStudy"):
        numbers, uid = _numbers(study)
        read.accession_numbers.extend(numbers)
        read.studies.append(_study(study, uid))
        act = read.acts.add(study_uid=uid, modalities=_modalities(study))
        for procedure in coded_all(study, "procedureCode")[:1]:
            act.code.CopyFrom(procedure)
        if (at := moment(text(study, "started"))) is not None:
            act.period.start.CopyFrom(at)
    for report in bundle.of("DiagnosticReport"):
        if not read.acts and (code := coded(node(report, "code"))) is not None:
            read.acts.add(code=code, period=when(report, "effectiveDateTime", "effectivePeriod"))
        if conclusion := text(report, "conclusion"):
            read.sections.add(title="Conclusion", text=conclusion)
    for observed in bundle.of("Observation"):
        read.observations.add(
            code=coded(node(observed, "code")),
            values=valued(observed),
            time=moment(text(observed, "effectiveDateTime")),
        )
    first = next((start for act in read.acts if (start := start_of(act.period)) is not None), None)
    if first is not None:
        read.time.CopyFrom(first)
    return read


def reference_of(study: Node) -> values.ImagingReference:
    """An ImagingStudy as a reference to its objects."""
    numbers, uid = _numbers(study)
    return values.ImagingReference(
        accession_numbers=numbers,
        studies=[_study(study, uid)],
        time=moment(text(study, "started")),
        description=text(study, "description"),
    )


def _numbers(study: Node) -> tuple[list[coding_pb2.Identifier], str]:
    """The accession numbers and the study UID among a study's identifiers."""
    numbers: list[coding_pb2.Identifier] = []
    uid = ""
    for item in nodes(study, "identifier"):
        found = identifiers({"identifier": item})
        if not found:
            continue
        named = found[0]
        kinds = {text(coding, "code") for coding in nodes(item, "type", "coding")}
        if _ACCESSION in kinds:
            numbers.append(named)
        elif text(item, "system") == "urn:dicom:uid" or not named.system:
            uid = uid or named.value
    for based_on in nodes(study, "basedOn"):
        numbers.extend(identifiers(based_on))
    return numbers, uid


def _study(study: Node, uid: str) -> values.ImagingStudy:
    read = values.ImagingStudy(study_uid=uid)
    for series in nodes(study, "series"):
        count = integer(text(series, "numberOfInstances"))
        read.series.add(
            series_uid=text(series, "uid"),
            modality=text(series, "modality", "code"),
            instances=count if count is not None and 0 <= count < 2**31 else len(nodes(series, "instance")),
        )
    return read


def _modalities(study: Node) -> list[values.CodedText]:
    found = [coded({"coding": item}) for item in nodes(study, "modality")]
    return [read for read in found if read is not None]
