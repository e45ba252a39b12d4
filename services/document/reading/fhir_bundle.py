"""FHIR document Bundles: Composition and what it lists, into the same projections as a CDA's.

Each resource is read by itself, and a defect in one costs that one alone. Results, medicines and vaccinations are taken
wherever they lie in the Bundle; statements and sections make up the summary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import structlog

from dmp.document.v1 import clinical_values_pb2 as values
from dmp.document.v1 import document_pb2
from services.document.reading import imaging, kos, medications, results, vaccinations
from services.document.reading.acts import start_of
from services.document.reading.cda_body import NOT_SUMMARIES
from services.document.reading.events import summary_kind
from services.document.reading.fhir_imaging import reference_of, report_of
from services.document.reading.fhir_medicines import medication_of
from services.document.reading.fhir_tree import (
    JSON_TYPES,
    XML_TYPES,
    FhirRefused,
    Node,
    bundle_of,
    narrative_lines,
    node,
    nodes,
    text,
)
from services.document.reading.fhir_values import (
    Bundle,
    coded,
    coded_all,
    identifiers,
    moment,
    period,
    quantity,
    same,
    span,
    status_of,
    value,
    valued,
    when,
)
from services.document.reading.model import Findings, Kind, Projection
from services.document.reading.sections import MAX_SECTION_TEXT, MAX_SECTIONS

__all__ = ["FhirRefused", "is_fhir", "read_bundle"]

_log = structlog.get_logger("document")

_MEDICINES: Final = ("MedicationRequest", "MedicationDispense", "MedicationStatement", "MedicationAdministration")
_STATED: Final = {
    "Condition": values.STATEMENT_KIND_PROBLEM,
    "AllergyIntolerance": values.STATEMENT_KIND_ALLERGY,
    "Procedure": values.STATEMENT_KIND_PROCEDURE,
    "FamilyMemberHistory": values.STATEMENT_KIND_FAMILY_HISTORY,
    "Encounter": values.STATEMENT_KIND_ENCOUNTER,
    "DeviceUseStatement": values.STATEMENT_KIND_DEVICE,
    "ServiceRequest": values.STATEMENT_KIND_PLAN,
    "Goal": values.STATEMENT_KIND_PLAN,
}
_RESULT_CATEGORIES: Final = frozenset({"laboratory", "vital-signs", "exam", "procedure"})
_RISK_CATEGORIES: Final = frozenset({"social-history"})


def is_fhir(content: bytes, mime_type: str) -> bool:
    """Whether this is FHIR: by what the metadata say, or a JSON resource by its beginning."""
    if mime_type in JSON_TYPES | XML_TYPES:
        return True
    return mime_type == "application/json" and b'"resourceType"' in content[:4096]


def read_bundle(content: bytes, metadata: document_pb2.Document, findings: Findings) -> values.Period | None:
    """Put the projections into the findings; gives the stay that the Composition tells of. Raises FhirRefused."""
    bundle = Bundle(bundle_of(content, metadata.mime_type))
    reader = _Reader(bundle, metadata, findings)
    for resource in bundle.resources:
        reader.guarded(reader.resource, resource)
    reader.guarded(reader.whole)
    findings.left_out += bundle.left_out
    composition = next(iter(bundle.of("Composition")), None)
    return period(node(bundle.resolve(node(composition, "encounter")), "period"))


class _Reader:
    def __init__(self, bundle: Bundle, metadata: document_pb2.Document, findings: Findings) -> None:
        self._bundle = bundle
        self._metadata = metadata
        self._findings = findings
        self._statements: list[values.Statement] = []
        self._imaging = (
            metadata.type_code.code in imaging.IMAGING_TYPES or metadata.class_code.code == imaging.IMAGING_CLASS
        )
        self._references = metadata.type_code.code in imaging.REFERENCE_TYPES
        self._groups = self._grouped()

    def guarded(self, work: Callable[..., None], *given: Node) -> None:
        """Run one part of the reading; a defect in it costs that part alone."""
        try:
            work(*given)
        except Exception as error:  # noqa: BLE001 (a boundary: what strangers write must never stop a reading)
            _log.warning("resource_not_read", error_type=type(error).__name__)
            self._bundle.left_out += 1

    def resource(self, resource: Node) -> None:
        """One resource, by its kind; those that only serve others are passed over."""
        kind = text(resource, "resourceType")
        if kind in _MEDICINES:
            self._findings.add(medications.projection(medication_of(self._bundle, kind, resource)))
        elif kind == "Observation" and not self._imaging:
            self._observed(resource)
        elif kind == "Immunization":
            self._findings.add(vaccinations.projection(self._vaccination(resource)))
        elif kind in _STATED and not self._imaging:
            self._state(kind, resource)

    def whole(self) -> None:
        """What the document is as a whole."""
        if self._references:
            for study in self._bundle.of("ImagingStudy"):
                self._findings.add(kos.projection(reference_of(study), self._metadata.reference_ids))
        elif self._imaging:
            self._findings.add(
                imaging.projection(report_of(self._bundle, self._sections()), self._metadata.reference_ids)
            )
        elif self._metadata.type_code.code not in NOT_SUMMARIES:
            summary = values.Summary(kind=summary_kind(self._metadata), statements=self._statements)
            summary.sections.extend(self._sections())
            if summary.sections or summary.statements:
                self._findings.add(Projection(Kind.SUMMARY, summary, subkind=summary.kind))

    def _observed(self, resource: Node) -> None:
        categories = {text(item, "code") for item in nodes(resource, "category", "coding")}
        if categories & _RISK_CATEGORIES:
            self._state("Observation", resource)
            return
        laboratory = self._metadata.type_code.code in results.RESULT_TYPES
        if categories & _RESULT_CATEGORIES or laboratory or id(resource) in self._groups:
            for read in self._results(resource):
                self._findings.add(results.projection(read))
        else:
            self._state("Observation", resource)

    def _results(self, resource: Node) -> Iterator[values.Result]:
        """An observation and its components, each a result; one that only groups others is a group."""
        groups = self._groups.get(id(resource), ())
        read = self._result(resource, resource, groups)
        parts = nodes(resource, "component")
        if read.values or read.null_flavor or not (parts or nodes(resource, "hasMember")):
            yield read
        inner = (*groups, read.code) if read.code.ByteSize() else groups
        for part in parts:
            yield self._result(part, resource, inner)

    def _result(self, part: Node, resource: Node, groups: tuple[values.CodedText, ...]) -> values.Result:
        read = values.Result(
            status=status_of(resource),
            groups=groups,
            interpretations=coded_all(part, "interpretation"),
            methods=coded_all(resource, "method"),
            sites=coded_all(resource, "bodySite"),
            comments=[stated for note in nodes(resource, "note") if (stated := text(note, "text"))],
            item_ids=identifiers(resource),
        )
        if (code := coded(node(part, "code"))) is not None:
            read.code.CopyFrom(code)
        if (found := value(part)) is not None:
            read.values.append(found)
        else:
            reason = coded(node(part, "dataAbsentReason"))
            read.null_flavor = reason.code.code or reason.text if reason is not None else ""
        for bounds in nodes(part, "referenceRange"):
            compared = span({"low": bounds.get("low"), "high": bounds.get("high")})
            meaning = coded(node(bounds, "type"))
            if compared is not None or text(bounds, "text"):
                read.reference_ranges.add(range=compared, text=text(bounds, "text"), interpretation=meaning)
        during = when(resource, "effectiveDateTime", "effectivePeriod", "effectiveInstant")
        specimen = self._specimen(resource)
        if specimen is not None:
            read.specimen.CopyFrom(specimen)
        at = start_of(during) if during is not None else start_of(read.specimen.time)
        if at is not None:
            read.time.CopyFrom(at)
        for performer in nodes(resource, "performer")[:1]:
            if (named := self._bundle.author(performer, resource)) is not None:
                read.performer.CopyFrom(named)
        return read

    def _specimen(self, resource: Node) -> values.Specimen | None:
        given = self._bundle.resolve(node(resource, "specimen"), resource)
        if given is None:
            return None
        read = values.Specimen(type=coded(node(given, "type")))
        during = when(node(given, "collection") or {}, "collectedDateTime", "collectedPeriod")
        if during is not None:
            read.time.CopyFrom(during)
        site = coded(node(given, "collection", "bodySite"))
        if site is not None:
            read.site.CopyFrom(site)
        return read if read.ByteSize() else None

    def _grouped(self) -> dict[int, tuple[values.CodedText, ...]]:
        """What groups the observations: the reports and panels that list them."""
        found: dict[int, tuple[values.CodedText, ...]] = {}
        for report in self._bundle.of("DiagnosticReport"):
            named = coded(node(report, "code"))
            for reference in nodes(report, "result"):
                if (target := self._bundle.resolve(reference, report)) is not None:
                    found.setdefault(id(target), (named,) if named is not None else ())
        for panel in self._bundle.of("Observation"):
            named = coded(node(panel, "code"))
            for reference in nodes(panel, "hasMember"):
                if (target := self._bundle.resolve(reference, panel)) is not None:
                    outer = found.get(id(panel), ())
                    found[id(target)] = (*outer, named) if named is not None else outer
        return found

    def _vaccination(self, resource: Node) -> values.Vaccination:
        read = values.Vaccination(
            status=status_of(resource),
            not_done=text(resource, "status") == "not-done",
            product=values.Product(
                code=coded(node(resource, "vaccineCode")),
                lot_number=text(resource, "lotNumber"),
                expiry=moment(text(resource, "expirationDate")),
            ),
            time=moment(text(resource, "occurrenceDateTime")),
            route=coded(node(resource, "route")),
            sites=coded_all(resource, "site"),
            dose=same(quantity(node(resource, "doseQuantity"))),
            reasons=[*coded_all(resource, "reasonCode"), *coded_all(resource, "statusReason")],
            comments=[stated for note in nodes(resource, "note") if (stated := text(note, "text"))],
            text=text(resource, "occurrenceString"),
            item_ids=identifiers(resource),
        )
        read.product.name = read.product.code.text or read.product.code.code.display
        for protocol in nodes(resource, "protocolApplied"):
            read.targets.extend(coded_all(protocol, "targetDisease"))
            rank = text(protocol, "doseNumberPositiveInt") or text(protocol, "doseNumberString")
            read.dose_number = int(rank) if rank.isascii() and rank.isdigit() and len(rank) < 4 else read.dose_number
            if series := text(protocol, "series"):
                read.type.text = series
        for reaction in nodes(resource, "reaction"):
            detail = self._bundle.resolve(node(reaction, "detail"), resource)
            read.reactions.add(
                code=coded(node(detail, "code")), time=moment(text(reaction, "date")), values=valued(detail)
            )
        for performer in nodes(resource, "performer", "actor")[:1]:
            if (named := self._bundle.author(performer, resource)) is not None:
                read.performer.CopyFrom(named)
        return read

    def _state(self, kind: str, resource: Node) -> None:
        read = values.Statement(
            kind=_STATED.get(kind, values.STATEMENT_KIND_OBSERVATION),
            status=status_of(resource),
            comments=[stated for note in nodes(resource, "note") if (stated := text(note, "text"))],
        )
        for name in ("code", "type", "description"):
            if (code := coded(node(resource, name))) is not None:
                read.code.CopyFrom(code)
                break
        read.sites.extend(coded_all(resource, "bodySite"))
        if (relative := coded(node(resource, "relationship"))) is not None:
            read.subject.CopyFrom(relative)
        if (found := value(resource)) is not None:
            read.values.append(found)
        during = when(
            resource, "onsetPeriod", "onsetDateTime", "performedPeriod", "performedDateTime", "period",
            "effectiveDateTime", "effectivePeriod", "recordedDate", "date", "authoredOn", "startDate",
        )  # fmt: skip
        if during is not None:
            read.period.CopyFrom(during)
            ended = moment(text(resource, "abatementDateTime"))
            if kind == "Condition" or ended is not None:
                read.period.ClearField("end")
            if ended is not None:
                read.period.end.CopyFrom(ended)
        verified = {text(item, "code") for item in nodes(resource, "verificationStatus", "coding")}
        read.negated = "refuted" in verified or text(resource, "status") == "not-done"
        if text(resource, "resourceType") == "Observation" and kind == "Observation":
            categories = {text(item, "code") for item in nodes(resource, "category", "coding")}
            read.kind = values.STATEMENT_KIND_RISK if categories & _RISK_CATEGORIES else read.kind
        self._detail(resource, read)
        if read.code.ByteSize() or read.values:
            self._statements.append(read)
        else:
            self._bundle.left_out += 1

    def _detail(self, resource: Node, read: values.Statement) -> None:
        for name in ("clinicalStatus", "verificationStatus", "severity", "criticality"):
            concept = coded(node(resource, name))
            stated = text(resource, name)
            if concept is not None:
                read.details.add(code=values.CodedText(text=name), values=[values.Value(coded=concept)])
            elif stated:
                read.details.add(code=values.CodedText(text=name), values=[values.Value(text=stated)])
        for manifestation in [m for r in nodes(resource, "reaction") for m in coded_all(r, "manifestation")]:
            read.details.add(code=manifestation)
        for condition in nodes(resource, "condition"):
            if (problem := coded(node(condition, "code"))) is not None:
                read.details.add(code=read.code, values=valued(None))
                read.code.CopyFrom(problem)

    def _sections(self) -> Iterator[values.ReportSection]:
        waiting = [(s, 0) for c in self._bundle.of("Composition") for s in reversed(nodes(c, "section"))]
        seen = 0
        while waiting:
            section, depth = waiting.pop()
            seen += 1
            if seen > MAX_SECTIONS or depth > 32:
                self._bundle.left_out += 1
                continue
            shown = "\n".join(narrative_lines(div)) if (div := _div(section)) else ""
            read = values.ReportSection(
                title=text(section, "title"),
                code=coded(node(section, "code")),
                text=shown[:MAX_SECTION_TEXT],
                truncated=len(shown) > MAX_SECTION_TEXT,
                depth=depth,
            )
            if read.title or read.text:
                yield read
            waiting += [(inner, depth + 1) for inner in reversed(nodes(section, "section"))]


def _div(section: Node) -> str:
    held = section.get("text")
    narrative = held[0] if isinstance(held, list) and held else held
    div = narrative.get("div") if isinstance(narrative, dict) else None
    return div if isinstance(div, str) else ""
