"""Summaries, letters and imaging reports: sections, statements, the catalogue of objects, in documents of our own."""

from __future__ import annotations

from dmp.document.v1 import clinical_values_pb2 as values
from services.document.reading.model import Kind
from tests import clinical_documents as bodies
from tests.readings import messages, read_body


def test_a_summary_states_problems_with_what_is_said_of_them() -> None:
    inner = (
        '<entryRelationship typeCode="REFR"><observation><code code="33999-4"/><value xsi:type="CE" code="resolved"'
        ' codeSystem="1.2"/></observation></entryRelationship>'
    )
    body = bodies.section("11450-4", bodies.entry(bodies.problem(inner=inner)), title="Problèmes",
                          text="<list><item>Angine</item><item>Asthme</item></list>")  # fmt: skip
    [summary] = messages(read_body(body, type_code="SYNTH"), Kind.SUMMARY)
    assert summary.kind == values.SUMMARY_KIND_MEDICAL
    [statement] = summary.statements
    assert (statement.kind, statement.code.code.code) == (values.STATEMENT_KIND_PROBLEM, "I20.0")
    assert [d.values[0].coded.code.code for d in statement.details] == ["resolved"]
    [section] = summary.sections
    assert (section.title, section.text) == ("Problèmes", "Angine\nAsthme")


def test_a_table_is_read_row_by_row() -> None:
    rows = "<tr><td>A</td><td>1 <br/>2</td></tr>"
    text = f"<table><thead><tr><th>Nom</th><th>Dose</th></tr></thead><tbody>{rows}</tbody></table>"
    [summary] = messages(read_body(bodies.section("11450-4", title="T", text=text), type_code="SYNTH"), Kind.SUMMARY)
    assert summary.sections[0].text.splitlines()[0] == "Nom | Dose"


def test_allergy_relative_device_and_plan_are_told_apart() -> None:
    allergy = (
        '<act><templateId root="1.3.6.1.4.1.19376.1.5.3.1.4.5.3"/><entryRelationship typeCode="SUBJ"><observation>'
        '<code code="416098002" codeSystem="1.2"/><participant typeCode="CSM"><participantRole><playingEntity>'
        '<code code="60234100" codeSystem="1.2" displayName="PARACETAMOL"/></playingEntity>'
        "</participantRole></participant>"
        "</observation></entryRelationship></act>"
    )
    family = (
        '<organizer classCode="CLUSTER" moodCode="EVN"><subject><relatedSubject><code code="MTH" codeSystem="1.2"/>'
        '</relatedSubject></subject><component><observation><code code="282291009"/><value xsi:type="CD" code="D57.1"'
        ' codeSystem="1.2"/></observation></component></organizer>'
    )
    device = (
        '<supply moodCode="EVN"><participant typeCode="DEV"><participantRole><playingDevice><code code="J010104"'
        ' codeSystem="1.2"/></playingDevice></participantRole></participant></supply>'
    )
    plan = '<procedure moodCode="INT"><code code="ECQH010" codeSystem="1.2"/></procedure>'
    body = (
        bodies.section("48765-2", bodies.entry(allergy))
        + bodies.section("10157-6", bodies.entry(family))
        + bodies.section("46264-8", bodies.entry(device))
        + bodies.section("18776-5", bodies.entry(plan))
    )
    [summary] = messages(read_body(body, type_code="11490-0"), Kind.SUMMARY)
    assert [(s.kind, s.code.code.code) for s in summary.statements] == [
        (values.STATEMENT_KIND_ALLERGY, "60234100"),
        (values.STATEMENT_KIND_FAMILY_HISTORY, "D57.1"),
        (values.STATEMENT_KIND_DEVICE, "J010104"),
        (values.STATEMENT_KIND_PLAN, "ECQH010"),
    ]
    assert summary.statements[1].details[0].code.code.code == "MTH"


def test_an_imaging_report_has_acts_numbers_and_the_catalogue_of_objects() -> None:
    catalogue = (
        '<act classCode="ACT" moodCode="EVN"><id root="1.2.3.4.5"/>'
        '<code code="113014" codeSystem="1.2.840.10008.2.16.4"/>'
        '<entryRelationship><act><id root="1.2.3.4.5.1"/><code code="113015"><qualifier><name code="121139"/>'
        '<value code="CT"/></qualifier></code><entryRelationship><observation classCode="DGIMG">'
        '<id root="1.2.3.4.5.1.1"/>'
        '<text><reference value="http://pacs.invalid/wado?studyUID=1"/></text></observation></entryRelationship></act>'
        "</entryRelationship></act>"
    )
    body = bodies.section("121181", bodies.entry(catalogue)) + bodies.section("19005-8", title="Conclusion", text="RAS")
    reading = read_body(body, type_code="18748-4", extra=bodies.imaging_header())
    [report] = messages(reading, Kind.IMAGING_REPORT)
    assert [(a.study_uid, a.code.code.code, a.modalities[0].code.code) for a in report.acts][:1] == [
        ("1.2.3.4.5", "24727-0", "CT")
    ]
    assert [(n.system, n.value) for n in report.accession_numbers] == [("1.2.250.1.9", "A-1")]
    [study] = report.studies
    assert (study.study_uid, study.series[0].series_uid, study.series[0].modality) == ("1.2.3.4.5", "1.2.3.4.5.1", "CT")
    assert list(study.series[0].locations) == ["http://pacs.invalid/wado"]
    assert "RAS" in [section.text for section in report.sections]
