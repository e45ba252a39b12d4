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
    assert summary.statements[1].subject.code.code == "MTH"


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


def test_a_problem_is_as_active_as_its_concern() -> None:
    active, past = bodies.problem(status="active"), bodies.problem("N10", status="completed")
    body = bodies.section("11450-4", bodies.entry(active) + bodies.entry(past))
    [summary] = messages(read_body(body, type_code="SYNTH"), Kind.SUMMARY)
    assert [(s.code.code.code, s.status) for s in summary.statements] == [
        ("I20.0", values.ENTRY_STATUS_ACTIVE),
        ("N10", values.ENTRY_STATUS_COMPLETED),
    ]


def test_what_is_about_somebody_else_says_so() -> None:
    subject = '<subject><relatedSubject><code code="CHILD" codeSystem="1.2"/></relatedSubject></subject>'
    observed = bodies.result("29463-7").replace("<statusCode", f"{subject}<statusCode", 1)
    other = f'<observation classCode="OBS" moodCode="EVN">{subject}<code code="X" codeSystem="1.2"/></observation>'
    body = bodies.section("8716-3", bodies.entry(observed)) + bodies.section("11450-4", bodies.entry(other))
    reading = read_body(body, type_code="SYNTH")
    [result], [summary] = messages(reading, Kind.RESULT), messages(reading, Kind.SUMMARY)
    assert result.subject.code.code == summary.statements[0].subject.code.code == "CHILD"
    own = read_body(bodies.section("8716-3", bodies.entry(bodies.result("29463-7"))), type_code="SYNTH")
    assert own.projections[0].series != reading.projections[0].series


def test_side_and_site_are_kept() -> None:
    side = (
        '<qualifier><name code="20228-3" codeSystem="1.2"/>'
        '<value code="7771000" codeSystem="1.2" displayName="gauche"/></qualifier>'
    )
    act = (
        f'<procedure moodCode="EVN"><code code="P1" codeSystem="1.2">{side}</code>'
        '<targetSiteCode code="302548004" codeSystem="1.2"/></procedure>'
    )
    [summary] = messages(read_body(bodies.section("47519-4", bodies.entry(act)), type_code="SYNTH"), Kind.SUMMARY)
    [statement] = summary.statements
    assert [q.value.display for q in statement.code.qualifiers] == ["gauche"]
    assert [site.code.code for site in statement.sites] == ["302548004"]


def test_medicines_inside_other_acts_are_found() -> None:
    act = (
        f'<act moodCode="EVN"><code code="X" codeSystem="1.2"/><entryRelationship typeCode="COMP">{bodies.prescribed()}'
        "</entryRelationship></act>"
    )
    reading = read_body(bodies.section("18776-5", bodies.entry(act)), type_code="SYNTH")
    assert [m.product.name for m in messages(reading, Kind.MEDICATION)] == ["PARACÉTAMOL 500 mg"]


def test_what_a_prescription_states_beside_its_lines_is_not_lost() -> None:
    pregnancy = (
        '<observation classCode="OBS" moodCode="EVN"><code code="11449-6" codeSystem="1.2"/>'
        '<value xsi:type="CD" code="77386006" codeSystem="1.2"/></observation>'
    )
    body = bodies.prescription(bodies.prescribed()) + bodies.section(
        "10162-6", bodies.entry(pregnancy), title="Grossesse"
    )
    reading = read_body(body, type_code="57833-6")
    [summary] = messages(reading, Kind.SUMMARY)
    assert [s.code.code.code for s in summary.statements] == ["11449-6"]
    assert [s.title for s in summary.sections] == ["Grossesse"]
    assert len(messages(reading, Kind.MEDICATION)) == 1
