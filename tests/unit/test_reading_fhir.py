"""FHIR documents, in JSON and in XML, read into the same projections as a CDA's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmp.document.v1 import clinical_pb2, document_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from services.document.reading import reader
from services.document.reading.model import Kind, Reading
from tests import fhir_bundles as fhir
from tests.readings import messages


def read(bundle: dict[str, Any], *, type_code: str = "11502-2", form: str = "json", class_code: str = "") -> Reading:
    """A Bundle with the metadata that its producer gave."""
    metadata = document_pb2.Document(mime_type=f"application/fhir+{form}")
    metadata.type_code.code = type_code
    if class_code:
        metadata.class_code.code = class_code
    metadata.service_start_time.FromJsonString("2024-01-02T09:00:00Z")
    content = json.dumps(bundle, ensure_ascii=False) if form == "json" else fhir.as_xml(bundle)
    return reader.read(fhir.written(content), metadata)


@pytest.fixture(params=["json", "xml"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_result_keeps_the_digits_that_were_written(form: str) -> None:
    reading = read(fhir.bundle(fhir.observation()), form=form)
    [result] = messages(reading, Kind.RESULT)
    assert (result.code.code.system, result.code.code.code) == ("2.16.840.1.113883.6.1", "3016-3")
    assert (result.values[0].quantity.value, result.values[0].quantity.unit) == ("1.950", "m[IU]/L")
    [bounds] = result.reference_ranges
    assert (bounds.range.low.value, bounds.range.high.value) == ("0.27", "4.20")
    assert result.time.precision == values.TIME_PRECISION_DAY
    assert (result.performer.name, result.performer.id.value) == ("Anne MARTIN", "801234567897")
    assert (reading.unread, reading.left_out) == (0, 0)


def test_panels_and_components_are_groups(form: str) -> None:
    pressure = fhir.observation("85354-9", category=[{"coding": [{"code": "vital-signs"}]}])
    del pressure["valueQuantity"]
    pressure["component"] = [
        {"code": fhir.concept(code), "valueQuantity": {"value": "§120§", "unit": "mm[Hg]"}}
        for code in ("8480-6", "8462-4")
    ]
    report = {
        "resourceType": "DiagnosticReport",
        "id": "report",
        "status": "final",
        "code": fhir.concept("18719-5"),
        "result": [{"reference": "Observation/observation-3016-3"}],
    }
    found = messages(read(fhir.bundle(fhir.observation(), pressure, report), form=form), Kind.RESULT)
    assert [(r.code.code.code, [g.code.code for g in r.groups]) for r in found] == [
        ("3016-3", ["18719-5"]),
        ("8480-6", ["85354-9"]),
        ("8462-4", ["85354-9"]),
    ]


def test_prescription_and_dispensation(form: str) -> None:
    bundle = fhir.bundle(fhir.medication_request(), fhir.medication_dispense())
    prescribed, dispensed = messages(read(bundle, type_code="57833-6", form=form), Kind.MEDICATION)
    assert (prescribed.kind, dispensed.kind) == (values.MEDICATION_KIND_PRESCRIBED, values.MEDICATION_KIND_DISPENSED)
    assert prescribed.product.name == "PARACÉTAMOL 500 mg"
    assert prescribed.product.ingredients[0].strength.numerator.value == "500"
    [dosage] = prescribed.dosages
    assert (dosage.sequence, dosage.dose.low.value, dosage.dose.high.value) == (1, "1", "2")
    assert (dosage.frequencies[0].period.value, dosage.frequencies[0].period.unit) == ("8", "h")
    assert dosage.route.code.system == "0.4.0.127.0.16.1.1.2.1"
    assert (prescribed.renewals, prescribed.quantity.value, prescribed.substitution.text) == (3, "2", "allowed")
    assert list(prescribed.patient_instructions) == ["au repas"]
    assert [item.value for item in dispensed.prescription_item_ids] == ["item-1"]
    assert dispensed.prescriber.name == dispensed.performer.name == "Anne MARTIN"


def test_vaccinations_done_and_not_done(form: str) -> None:
    refused = fhir.immunization(id="refused", status="not-done", statusReason=fhir.concept("PATOBJ", "urn:oid:1.2"))
    done, other = messages(
        read(fhir.bundle(fhir.immunization(), refused), type_code="11369-6", form=form), Kind.VACCINATION
    )
    assert (done.dose_number, done.product.lot_number, done.not_done) == (3, "4456668", False)
    assert done.time.precision == values.TIME_PRECISION_YEAR
    assert [t.code.code for t in done.targets] == ["A35"]
    assert other.not_done
    assert [r.code.code for r in other.reasons] == ["PATOBJ"]


def test_an_imaging_study_in_a_report_and_as_a_reference(form: str) -> None:
    bundle = fhir.bundle(fhir.imaging_study())
    [report] = messages(read(bundle, type_code="18748-4", form=form, class_code="31"), Kind.IMAGING_REPORT)
    assert [(a.study_uid, a.code.code.code) for a in report.acts] == [("1.2.3.4.5", "24727-0")]
    assert [(n.system, n.value) for n in report.accession_numbers] == [("1.2.250.1.9", "A-1")]
    assert report.studies[0].series[0].instances == 120
    [reference] = messages(read(bundle, type_code="IMG-KOS", form=form, class_code="31"), Kind.IMAGING_REFERENCE)
    assert reference.studies == report.studies


def test_a_summary_has_sections_and_statements(form: str) -> None:
    items = "<ul><li>Angine &amp; toux</li><li>Asthme</li></ul>"
    sections = [
        {
            "title": "Problèmes",
            "code": fhir.concept("11450-4"),
            "text": {
                "status": "generated",
                "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{items}</div>',
            },
            "section": [{"title": "Sous-titre"}],
        }
    ]
    condition = {
        "resourceType": "Condition",
        "id": "condition",
        "clinicalStatus": fhir.concept("active", "urn:oid:1.2"),
        "code": fhir.concept("I20.0", "http://hl7.org/fhir/sid/icd-10"),
        "onsetDateTime": "2019-08-11",
    }
    smoking = fhir.observation("72166-2", category=[{"coding": [{"code": "social-history"}]}])
    reading = read(fhir.bundle(condition, smoking, sections=sections), type_code="60591-5", form=form)
    [summary] = messages(reading, Kind.SUMMARY)
    assert [(s.title, s.text, s.depth) for s in summary.sections] == [
        ("Problèmes", "Angine & toux\nAsthme", 0),
        ("Sous-titre", "", 1),
    ]
    assert [(s.kind, s.code.code.code) for s in summary.statements] == [
        (values.STATEMENT_KIND_PROBLEM, "I20.0"),
        (values.STATEMENT_KIND_RISK, "72166-2"),
    ]
    assert summary.statements[0].period.start.precision == values.TIME_PRECISION_DAY


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", clinical_pb2.UNREAD_REASON_MALFORMED),
        (b'{"resourceType":"Patient"}', clinical_pb2.UNREAD_REASON_MALFORMED),
        (b"[" * 100_000, clinical_pb2.UNREAD_REASON_TOO_LARGE),
        (b"\xff\xfe", clinical_pb2.UNREAD_REASON_MALFORMED),
        (b'{"resourceType":"Bundle","entry":' + b"[" * 2_000_000, clinical_pb2.UNREAD_REASON_TOO_LARGE),
    ],
)
def test_what_is_no_bundle_stands_in_its_list_unread(content: bytes, reason: int) -> None:
    metadata = document_pb2.Document(mime_type="application/fhir+json")
    metadata.type_code.code = "11502-2"
    reading = reader.read(content, metadata)
    first = reading.projections[0]
    assert (first.kind, first.unread) == (Kind.RESULT, reason)
