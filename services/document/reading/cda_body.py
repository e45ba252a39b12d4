"""From a CDA's tree to its projections: each entry to the reader of what it is. Everything of an entry that cannot be
read is counted and the others go on; nothing here raises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import structlog
from lxml import etree

from dmp.document.v1 import clinical_pb2, document_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from services.document.cda_element import HL7
from services.document.reading import acts, imaging, medications, results, statements, vaccinations
from services.document.reading.datatypes import period
from services.document.reading.events import summary_kind
from services.document.reading.model import Findings, Kind, Projection
from services.document.reading.node import Element, Page, attribute, every, first
from services.document.reading.sections import ATTACHED, ReportText, Section, sections

_log = structlog.get_logger("document")

DOCUMENT: Final = f"{HL7}ClinicalDocument"
_UNSTRUCTURED: Final = clinical_pb2.UNREAD_REASON_UNSTRUCTURED
_MAX_STATEMENTS: Final = 2_000
_MEDICINES: Final = (f"{HL7}substanceAdministration", f"{HL7}supply")


def tree_of(text: bytes) -> Element | None:
    """The ClinicalDocument in `text` (from `xml_safety.to_utf8`), alone or inside a stylesheet; None without one.

    Only for text that `xml_safety.walk` has accepted: it bounds depth, names and markup before lxml sees them. Raises
    lxml's XMLSyntaxError.
    """
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        huge_tree=True,  # a wrapped PDF is one text of several megabytes; what comes in is bounded already
        recover=False,
        remove_comments=True,
        remove_pis=True,
        collect_ids=False,
    )
    root: Element = etree.fromstring(text, parser)
    return root if root.tag == DOCUMENT else root.find(f".//{DOCUMENT}")


class BodyReader:
    """Reads one document."""

    def __init__(self, document: Element, metadata: document_pb2.Document, findings: Findings) -> None:
        self._document = document
        self._metadata = metadata
        self._findings = findings
        self._type = metadata.type_code.code
        body = first(document, "component", "structuredBody")
        self._body = body
        self._page = Page(body if body is not None else document)
        self._statements: list[values.Statement] = []
        self._stating: set[Element] = set()

    def read(self) -> values.Period | None:
        """Put all projections into the findings; gives the hospital stay that the header states."""
        found: list[Section] = list(sections(self._page, self._body)) if self._body is not None else []
        for section in found:
            if section.code in ATTACHED:
                continue
            for entry in every(section.element, "entry"):
                self._guarded(self._entry, entry, section)
        self._guarded(self._whole, found)
        self._findings.left_out += self._page.left_out
        return self._stay()

    def _stay(self) -> values.Period | None:
        return period(self._page, first(self._document, "componentOf", "encompassingEncounter", "effectiveTime"))

    def _guarded(self, work: Callable[..., None], *given: object) -> None:
        """Run one part of the reading; a defect in it costs that part alone."""
        try:
            work(*given)
        except Exception as error:  # noqa: BLE001 (a boundary: what strangers write must never stop a reading)
            _log.warning("entry_not_read", error_type=type(error).__name__)
            self._page.leave_out()

    def _entry(self, entry: Element, section: Section) -> None:
        for name, act in acts.statements(entry):
            if name == "substanceAdministration":
                self._substance(act, section)
            elif name == "supply" and not self._held(act, section):
                self._medicines(act, section)
            elif results.is_attachment(act):
                continue
            else:
                self._inside(act, section)
                if name in {"observation", "organizer", "act"} and self._results(entry, name, act, section):
                    continue
                if not self._is_imaging():
                    self._state(name, act, section)

    def _inside(self, act: Element, section: Section) -> None:
        """The medicines and vaccinations inside an act of another kind, at any depth; those inside a medicine are its
        own reader's."""
        for inner in act.iter(*_MEDICINES):
            around = inner.getparent()
            while around is not None and around is not act and around.tag not in _MEDICINES:
                around = around.getparent()
            if around is not act:
                continue
            if inner.tag == _MEDICINES[0]:
                self._substance(inner, section)
            elif not self._held(inner, section):
                self._medicines(inner, section)

    def _held(self, act: Element, section: Section) -> bool:
        return medications.is_device_held(act, section) or (
            statements.is_device(act) and attribute(act, "moodCode") == "EVN" and self._type != "60593-1"
        )

    def _substance(self, act: Element, section: Section) -> None:
        if vaccinations.is_vaccination(act, section):
            self._findings.add(vaccinations.projection(vaccinations.vaccination(self._page, act)))
        else:
            self._medicines(act, section)

    def _medicines(self, act: Element, section: Section) -> None:
        for read in medications.medications(self._page, act, section, self._type):
            self._findings.add(medications.projection(read))

    def _results(self, entry: Element, name: str, act: Element, section: Section) -> bool:
        """Whether the entry holds results; then they are taken."""
        if self._is_imaging() or acts.planned(act):
            return False
        if not results.are_results(section, self._type) and not results.is_laboratory(entry, act):
            return False
        for read in results.results(self._page, name, act, section):
            self._findings.add(results.projection(read))
        return True

    def _state(self, name: str, act: Element, section: Section) -> None:
        for statement in statements.statements(self._page, name, act, section):
            if len(self._statements) < _MAX_STATEMENTS:
                self._statements.append(statement)
                self._stating.add(section.element)
            else:
                self._page.leave_out()

    def _is_imaging(self) -> bool:
        return self._type in imaging.IMAGING_TYPES or (
            self._metadata.class_code.code == imaging.IMAGING_CLASS and self._type not in imaging.REFERENCE_TYPES
        )

    def _whole(self, found: Sequence[Section]) -> None:
        """What the document is as a whole: a report, a summary, or nothing more than its entries."""
        if self._is_imaging():
            shown = [section for section in found if section.code not in ATTACHED]
            report = imaging.report(self._page, self._document, shown)
            self._findings.add(imaging.projection(report, self._metadata.reference_ids))
        elif self._type in NOT_SUMMARIES:
            if self._statements:  # more than the list that the document is: said apart, so that none is lost
                self._summarize([section for section in found if section.element in self._stating])
        elif self._type not in imaging.REFERENCE_TYPES:
            self._summarize(found)

    def _summarize(self, found: Sequence[Section]) -> None:
        summary = values.Summary(kind=summary_kind(self._metadata), statements=self._statements)
        text = ReportText(self._page)
        for section in found:
            if section.code not in ATTACHED and (shown := text.of(section)) is not None:
                summary.sections.append(shown)
        stay = self._stay()
        if stay is not None and summary.kind == values.SUMMARY_KIND_HOSPITAL:
            summary.stay.CopyFrom(stay)
        unread = clinical_pb2.UNREAD_REASON_UNSPECIFIED if summary.sections or summary.statements else _UNSTRUCTURED
        self._findings.add(
            Projection(
                Kind.SUMMARY,
                None if unread else summary,
                acts.occurred(acts.start_of(summary.stay)),
                subkind=summary.kind,
                unread=unread,
            )
        )


NOT_SUMMARIES: Final = (
    medications.PRESCRIPTION_TYPES
    | medications.DISPENSATION_TYPES
    | results.RESULT_TYPES
    | vaccinations.VACCINATION_TYPES
)
"""Types whose documents are lists of one kind: their entries say all."""
