"""The nine published examples, read and compared with what an XPath of its own finds in the XML.

None of them is copied: without ../shared/data/cda these tests are skipped.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
from lxml import etree

from dmp.document.v1 import clinical_values_pb2 as values
from services.document.reading.model import Kind
from tests.readings import messages, reading_of

EXAMPLES: Final = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cda"
NAMES: Final = {"c": "urn:hl7-org:v3", "p": "urn:ihe:pharm:medication", "d": "urn:dicom-org:ps3-20"}
_XSI: Final = "@*[namespace-uri()='http://www.w3.org/2001/XMLSchema-instance' and local-name()='type']"

pytestmark = pytest.mark.skipif(
    not EXAMPLES.is_dir(), reason="../shared/data/cda is absent: the real CDA files are not copied"
)


def load(name: str) -> tuple[bytes, Any]:
    """A file's bytes, and its tree by a parser of this test's own."""
    content = (EXAMPLES / name).read_bytes()
    return content, etree.fromstring(content)


def typed(name: str) -> str:
    """The predicate of elements of a data type, whatever the prefix."""
    return f"[{_XSI}='{name}' or substring-after({_XSI}, ':')='{name}']"


def found(tree: Any, path: str) -> list[str]:
    return [str(each) for each in tree.xpath(path, namespaces=NAMES)]


def instant(text: str) -> datetime:
    """An HL7 time, read here once more and otherwise: as the shortest of the forms that the files have."""
    digits, sign, zone = text[:14], "", ""
    for mark in "+-":
        if mark in text:
            digits, sign, zone = text.partition(mark)[0], mark, text.partition(mark)[2]
    form = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}[len(digits)]
    if sign:
        return datetime.strptime(f"{digits}{sign}{zone}", f"{form}%z").astimezone(UTC)
    return datetime.strptime(digits, form).replace(tzinfo=ZoneInfo("Europe/Paris")).astimezone(UTC)


def stated(time: values.PartialTime) -> datetime:
    return time.time.ToDatetime(tzinfo=UTC)


@pytest.mark.parametrize("name", ["BIO-CR-BIO_2021.01_Auto-Presentable.xml", "BIO-CR-BIO_2024.01_TSH_1.xml"])
def test_results_are_those_of_the_laboratory(name: str) -> None:
    content, tree = load(name)
    observations = tree.xpath("//c:observation[c:templateId/@root='1.3.6.1.4.1.19376.1.3.1.6']", namespaces=NAMES)
    results = messages(reading_of(content), Kind.RESULT)
    assert len(results) == len(observations) > 1
    for result, observation in zip(results, observations, strict=True):
        assert [result.code.code.code] == found(observation, "c:code/@code")
        assert [result.code.code.system] == found(observation, "c:code/@codeSystem")
        assert stated(result.time) == instant(found(observation, "c:effectiveTime/@value")[0])
        numbers = [(v.quantity.value, v.quantity.unit) for v in result.values if v.HasField("quantity")]
        assert numbers == [
            (str(v.get("value")), str(v.get("unit") or ""))
            for v in observation.xpath(f"c:value{typed('PQ')}", namespaces=NAMES)
        ]
        bounds = [(r.range.low.value, r.range.low.unit, r.range.high.value) for r in result.reference_ranges]
        ends = ("c:low/@value", "c:low/@unit", "c:high/@value")
        ranges = observation.xpath(f"c:referenceRange/c:observationRange/c:value{typed('IVL_PQ')}", namespaces=NAMES)
        compared = [tuple(str(r.xpath(f"string({end})", namespaces=NAMES)) for end in ends) for r in ranges]
        assert [b for b in bounds if any(b)] == compared
        meanings = [i.code.code for i in result.interpretations if i.HasField("code")]
        assert meanings == found(observation, "c:interpretationCode/@code")


def test_a_prescription_holds_each_line_with_its_posology() -> None:
    content, tree = load("eP-MED-DM_2022.01_PosoStruct.xml")
    lines = tree.xpath("//c:section[c:code/@code='57828-6']/c:entry/c:substanceAdministration", namespaces=NAMES)
    read = messages(reading_of(content), Kind.MEDICATION)
    medicines = [medication for medication in read if not medication.device]
    assert len(medicines) == len(lines) == 2
    material = "c:consumable/c:manufacturedProduct/c:manufacturedMaterial"
    for medication, line in zip(medicines, lines, strict=True):
        assert medication.kind == values.MEDICATION_KIND_PRESCRIBED
        assert [medication.product.code.code.code] == (found(line, f"{material}/c:code/@code") or [""])
        assert [t.code for t in medication.product.code.translations] == found(
            line, f"{material}/c:code/c:translation/@code"
        )
        assert [medication.product.form.code.code] == found(line, f"{material}/p:formCode/@code")
        assert stated(medication.period.start) == instant(found(line, "c:effectiveTime/c:low/@value")[0])
        assert stated(medication.period.end) == instant(found(line, "c:effectiveTime/c:high/@value")[0])
        assert [str(medication.renewals)] == found(line, "c:repeatNumber/@value")
        assert [(medication.quantity.value, medication.quantity.unit)] == [
            (q.get("value"), q.get("unit")) for q in line.xpath(".//c:supply/c:quantity", namespaces=NAMES)
        ]
        assert [medication.dosages[0].route.code.code] == found(line, "c:routeCode/@code")
        steps = line.xpath("c:entryRelationship[c:sequenceNumber]/c:substanceAdministration", namespaces=NAMES)
        taken = [dosage for dosage in medication.dosages if dosage.sequence]
        assert [(d.dose.low.value, d.dose.low.unit) for d in taken] == [
            (*found(s, "c:doseQuantity/c:low/@value"), *found(s, "c:doseQuantity/c:low/@unit")) for s in steps
        ]
        assert [f.period.value for d in taken for f in d.frequencies] == found(
            line, "c:entryRelationship/c:substanceAdministration/c:effectiveTime/c:comp/c:period/@value"
        )
        details = [fact.code.code.code for fact in medication.details]
        assert details == found(line, "c:entryRelationship/c:observation/c:code/@code")
    [device] = [medication for medication in read if medication.device]
    assert device.product.code.code.code in found(
        tree, "//c:participant[@typeCode='DEV']//c:playingDevice/c:code/@code"
    )


def test_a_dispensation_holds_each_product_and_the_prescription_that_it_answers() -> None:
    content, tree = load("eDISP-MED_2024.01.xml")
    supplies = tree.xpath("//c:section[c:code/@code='60590-7']/c:entry/c:supply", namespaces=NAMES)
    medicines = messages(reading_of(content), Kind.MEDICATION)
    assert len(medicines) == len(supplies) == 2
    for medication, supply in zip(medicines, supplies, strict=True):
        assert medication.kind == values.MEDICATION_KIND_DISPENSED
        assert [medication.quantity.value] == found(supply, "c:quantity/@value")
        assert [item.value for item in medication.item_ids] == found(supply, "c:id/@root")
        prescribed = "c:entryRelationship/c:substanceAdministration[c:code/@code='PREItem']"
        assert [item.value for item in medication.prescription_item_ids] == found(supply, f"{prescribed}/c:id/@root")
        assert list(medication.prescription_unique_ids) == found(supply, f"{prescribed}//c:externalDocument/c:id/@root")
        material = "c:product/c:manufacturedProduct/c:manufacturedMaterial"
        assert [t.code for t in medication.product.code.translations] == found(
            supply, f"{material}/c:code/c:translation/@code"
        )
        assert [medication.product.lot_number] == (found(supply, f"{material}/c:lotNumberText/text()") or [""])


@pytest.mark.parametrize("name", ["VAC_2023.01.xml", "VAC-NOTE_2023.01.xml"])
def test_vaccinations_are_those_of_the_record(name: str) -> None:
    content, tree = load(name)
    acts = tree.xpath("//c:section[c:code/@code='11369-6']/c:entry/c:substanceAdministration", namespaces=NAMES)
    read = messages(reading_of(content), Kind.VACCINATION)
    assert len(read) == len(acts) >= 1
    material = "c:consumable/c:manufacturedProduct/c:manufacturedMaterial"
    for vaccination, act in zip(read, acts, strict=True):
        assert stated(vaccination.time) == instant(found(act, "c:effectiveTime/@value")[0])
        assert [vaccination.product.code.code.code] == found(act, f"{material}/c:code/@code")
        assert [t.code for t in vaccination.product.code.translations] == found(
            act, f"{material}/c:code/c:translation/@code"
        )
        assert [vaccination.product.lot_number] == found(act, f"{material}/c:lotNumberText/text()")
        ranks = found(act, "c:entryRelationship/c:observation[c:code/@code='30973-2']/c:value/@value")
        assert [str(vaccination.dose_number)] == (ranks or ["0"])
        reactions = found(act, "c:entryRelationship[@typeCode='CAUS']/c:observation/c:value/@code")
        assert [
            v.coded.code.code for r in vaccination.reactions for v in r.values if v.coded.HasField("code")
        ] == reactions
        assert [vaccination.performer.id.value] == found(act, "c:performer/c:assignedEntity/c:id/@extension")


def test_an_imaging_report_that_wraps_a_pdf_has_its_examinations() -> None:
    content, tree = load("IMG_CR_IMG_2024.01_CDA-R2-Niveau-1.xml")
    [report] = messages(reading_of(content), Kind.IMAGING_REPORT)
    events = tree.xpath("//c:documentationOf/c:serviceEvent[c:id or c:code]", namespaces=NAMES)
    assert [act.code.code.code for act in report.acts] == [found(e, "c:code/@code")[0] for e in events]
    assert [act.study_uid for act in report.acts] == [*(u for e in events for u in found(e, "c:id/@root")), ""]
    assert [m.code.code for act in report.acts for m in act.modalities] == found(
        tree, "//c:serviceEvent/c:code/c:translation[c:qualifier/c:name/@code='121139']/@code"
    )
    assert [n.value for n in report.accession_numbers] == found(tree, "//d:accessionNumber/@extension")
    assert [n.value for n in report.order_ids] == found(tree, "//c:inFulfillmentOf/c:order/c:id/@extension")
    assert [report.media.media_type] == found(tree, "//c:nonXMLBody/c:text/@mediaType")
    assert report.media.size > 10_000


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("VSM_1.4_2022.01.xml", values.SUMMARY_KIND_MEDICAL),
        ("LDL-SES_2022.01.xml", values.SUMMARY_KIND_HOSPITAL),
    ],
)
def test_summaries_and_letters_have_their_sections_and_what_they_state(name: str, kind: int) -> None:
    content, tree = load(name)
    reading = reading_of(content)
    [summary] = messages(reading, Kind.SUMMARY)
    assert summary.kind == kind
    shown = [s.code.code.code for s in summary.sections]
    assert shown == found(tree, "//c:section[normalize-space(c:title) or normalize-space(c:text)]/c:code/@code")
    concern = "//c:section[c:code/@code='11450-4' or c:code/@code='11348-0']//c:observation/c:value/@code"
    problems = [s.code.code.code for s in summary.statements if s.kind == values.STATEMENT_KIND_PROBLEM]
    assert problems == found(tree, concern)
    procedures = [s.code.code.code for s in summary.statements if s.kind == values.STATEMENT_KIND_PROCEDURE]
    assert procedures == found(tree, "//c:entry/c:procedure[@moodCode='EVN']/c:code/@code")
    medicines = messages(reading, Kind.MEDICATION)
    assert [m.product.code.code.code for m in medicines] == found(
        tree, "//c:entry/c:substanceAdministration/c:consumable//c:manufacturedMaterial/c:code/@code"
    )


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.xml")), ids=lambda path: path.name)
def test_each_example_is_an_event_with_nothing_left_out_but_a_reference_that_leads_nowhere(path: Path) -> None:
    reading = reading_of(path.read_bytes())
    [own] = [p for p in reading.projections if p.kind == Kind.EVENT][:1]
    assert own.message is not None
    assert reading.unread == 0
    # The second product of the dispensation is named by a reference to a text that the file does not have.
    assert reading.left_out == (1 if path.name == "eDISP-MED_2024.01.xml" else 0)
