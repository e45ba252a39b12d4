"""Each construct of CDA that readers know, in documents of our own, one at a time."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dmp.document.v1 import clinical_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from services.document.reading.model import Kind
from tests import clinical_documents as bodies
from tests.readings import messages, read_body

XSI = bodies.XSI


def results(*observations: str, around: str = "") -> list[values.Result]:
    return messages(read_body(bodies.laboratory(*observations, around=around)), Kind.RESULT)


def one_value(value: str) -> list[values.Value]:
    [result] = results(bodies.result(value=value))
    return list(result.values)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('<value xsi:type="PQ" value="1.950" unit="g/L"/>', {"quantity": {"value": "1.950", "unit": "g/L"}}),
        ('<value xsi:type="PQ" value="1,95" unit="g/L"/>', {"quantity": {"value": "1.95", "unit": "g/L"}}),
        ('<value xsi:type="PQ" value="&lt; 5" unit="g/L"/>',
         {"quantity": {"value": "5", "unit": "g/L", "comparator": "<"}}),
        ('<value xsi:type="PQ" nullFlavor="OTH"><translation value="3" displayName="croix"/></value>',
         {"quantity": {"value": "3", "unit": "croix"}}),
        ('<value xsi:type="hl7:REAL" value="0.5"/>', {"quantity": {"value": "0.5"}}),
        ('<value xsi:type="INT" value="42"/>', {"integer": 42}),
        ('<value xsi:type="INT" value="quarante"/>', {"text": "quarante"}),
        ('<value xsi:type="BL" value="false"/>', {"truth": False}),
        ('<value xsi:type="ST">Absence de germe</value>', {"text": "Absence de germe"}),
        ('<value xsi:type="IVL_PQ"><low value="0.5" unit="g/L"/></value>',
         {"range": {"low": {"value": "0.5", "unit": "g/L"}}}),
        ('<value xsi:type="IVL_PQ"><high value="2" unit="g/L" inclusive="false"/></value>',
         {"range": {"high": {"value": "2", "unit": "g/L"}, "high_open": True}}),
        ('<value xsi:type="RTO"><numerator xsi:type="INT" value="1"/><denominator xsi:type="INT" value="128"/></value>',
         {"ratio": {"numerator": {"value": "1"}, "denominator": {"value": "128"}}}),
        ('<value xsi:type="CE" code="POS" codeSystem="1.2.3" displayName="Positif"/>',
         {"coded": {"code": {"system": "1.2.3", "code": "POS", "display": "Positif"}}}),
        ('<value xsi:type="CO" code="2" codeSystem="1.2.3"/>', {"coded": {"code": {"system": "1.2.3", "code": "2"}}}),
        ('<value xsi:type="ED" mediaType="image/png" representation="B64">aGVsbG8=</value>',
         {"media": {"media_type": "image/png", "size": 5}}),
        ('<value xsi:type="ED"><reference value="https://pacs.invalid/i?patient=1"/></value>',
         {"media": {"uri": "https://pacs.invalid/i"}}),
        ('<value value="7" unit="mmol/L"/>', {"quantity": {"value": "7", "unit": "mmol/L"}}),
        ('<value code="X" codeSystem="1.2.3"/>', {"coded": {"code": {"system": "1.2.3", "code": "X"}}}),
        ('<value xsi:type="UNHEARD_OF">quelque chose</value>', {"text": "quelque chose"}),
    ],
)  # fmt: skip
def test_a_value_of_each_type(value: str, expected: dict[str, object]) -> None:
    [read] = one_value(value)
    assert read == values.Value(**expected)  # type: ignore[arg-type]


def test_a_point_in_time_and_a_period_are_as_precise_as_stated() -> None:
    [at] = one_value('<value xsi:type="TS" value="2024"/>')
    assert at.time.precision == values.TIME_PRECISION_YEAR
    [during] = one_value('<value xsi:type="IVL_TS"><low value="202401"/><width value="3" unit="d"/></value>')
    assert during.period.start.precision == values.TIME_PRECISION_MONTH
    assert (during.period.duration.value, during.period.HasField("end")) == ("3", False)


def test_several_values_are_all_kept() -> None:
    both = '<value xsi:type="PQ" value="5" unit="mmol/L"/><value xsi:type="PQ" value="0.9" unit="g/L"/>'
    assert [v.quantity.unit for v in one_value(both)] == ["mmol/L", "g/L"]


def test_an_analysis_that_was_not_made_says_why() -> None:
    [result] = results(bodies.result(value='<value xsi:type="PQ" nullFlavor="NAV"/>'))
    assert (list(result.values), result.null_flavor) == ([], "NAV")
    [negated] = results(bodies.result(negated=True))
    assert negated.negated


def test_a_code_that_is_only_words_is_found_in_the_narrative() -> None:
    narrative = '<content ID="r1">Recherche de <content>germes</content><br/>au microscope</content>'
    observed = (
        '<observation classCode="OBS" moodCode="EVN"><code nullFlavor="UNK"><originalText><reference value="#r1"/>'
        '</originalText></code><value xsi:type="ST">négative</value></observation>'
    )
    body = bodies.section("18725-2", bodies.entry(observed), text=narrative, template="1.3.6.1.4.1.19376.1.3.3.2.1")
    [result] = messages(read_body(body), Kind.RESULT)
    assert result.code.text == "Recherche de germes\nau microscope"
    assert result.code.null_flavor == "UNK"


def test_batteries_in_batteries_and_isolates_are_groups() -> None:
    battery = (
        '<organizer classCode="CLUSTER" moodCode="EVN"><effectiveTime value="20240104"/>'
        '<specimen><specimenRole><specimenPlayingEntity classCode="MIC"><code code="112283007"'
        ' codeSystem="2.16.840.1.113883.6.96" displayName="E. coli"/></specimenPlayingEntity></specimenRole></specimen>'
        '<component><organizer classCode="BATTERY" moodCode="EVN"><code code="18769-0" codeSystem="1.2"'
        f' displayName="Antibiogramme"/><component>{bodies.result("20-8")}</component></organizer>'
        f"</component></organizer>"
    )
    [result] = results(battery)
    assert [group.code.code for group in result.groups] == ["18719-5", "112283007", "18769-0"]


def test_a_result_has_the_specimen_and_the_performer_of_its_act() -> None:
    around = (
        '<performer><assignedEntity><id root="1.2.250.1.71.4.2.2" extension="1750803447"/><representedOrganization>'
        "<name>Laboratoire</name></representedOrganization></assignedEntity></performer>"
        '<entryRelationship typeCode="COMP"><procedure classCode="PROC" moodCode="EVN">'
        '<effectiveTime><high value="202401040735+0100"/></effectiveTime><participant typeCode="PRD">'
        '<participantRole classCode="SPEC"><playingEntity><code code="BLD" codeSystem="1.2.3" displayName="Sang"/>'
        "</playingEntity></participantRole></participant></procedure></entryRelationship>"
    )
    [result] = results(bodies.result(time=""), around=around)
    assert result.specimen.type.code.code == "BLD"
    assert result.performer.institution_name == "Laboratoire"
    assert result.time.time.ToDatetime(tzinfo=UTC) == datetime(2024, 1, 4, 6, 35, tzinfo=UTC)


def test_a_reference_range_in_words_is_kept_as_words() -> None:
    words = (
        "<referenceRange><observationRange><text>Absence</text><precondition><criterion><text>Adulte</text></criterion>"
        "</precondition></observationRange></referenceRange>"
    )
    [result] = results(bodies.result(more=words))
    [bounds] = result.reference_ranges
    assert (bounds.text, list(bounds.conditions)) == ("Absence", ["Adulte"])


def test_a_file_attached_to_a_report_is_no_result() -> None:
    attached = bodies.result("69764-9", '<value xsi:type="CD" code="55108-5" codeSystem="1.2"/>')
    reading = read_body(
        bodies.laboratory(bodies.result()) + bodies.section("55108-5", bodies.entry(attached), title="Copie")
    )
    assert len(messages(reading, Kind.RESULT)) == 1
    assert reading.left_out == 0


def test_vital_signs_of_any_document_are_results() -> None:
    body = bodies.section("8716-3", bodies.entry(bodies.result("29463-7")), title="Signes vitaux")
    reading = read_body(body, type_code="11488-4")
    [result] = messages(reading, Kind.RESULT)
    assert result.code.code.code == "29463-7"


def medicines(*acts: str, type_code: str = "57833-6") -> list[values.Medication]:
    return messages(read_body(bodies.prescription(*acts), type_code=type_code), Kind.MEDICATION)


def test_a_scheme_in_steps_is_in_order_with_frequencies_and_bounds() -> None:
    def step(number: int, low: str, hours: str) -> str:
        return (
            f'<entryRelationship typeCode="COMP"><sequenceNumber value="{number}"/><substanceAdministration'
            ' classCode="SBADM" moodCode="INT"><effectiveTime xsi:type="SXPR_TS"><comp xsi:type="IVL_TS">'
            f'<low value="{low}"/><width value="2" unit="d"/></comp><comp xsi:type="PIVL_TS"><period value="{hours}"'
            ' unit="h"/></comp></effectiveTime><doseQuantity><low value="1" unit="{tablet}"/><high value="2"'
            ' unit="{tablet}"/></doseQuantity><consumable><manufacturedProduct><manufacturedMaterial>'
            '<code nullFlavor="NA"/></manufacturedMaterial></manufacturedProduct></consumable>'
            "</substanceAdministration></entryRelationship>"
        )

    limit = '<maxDoseQuantity><numerator value="4"/><denominator value="1" unit="d"/></maxDoseQuantity>'
    [medicine] = medicines(bodies.prescribed(limit + step(2, "20240103", "12") + step(1, "20240101", "8")))
    steps = [dosage for dosage in medicine.dosages if dosage.sequence]
    assert [dosage.sequence for dosage in steps] == [1, 2]
    assert [dosage.frequencies[0].period.value for dosage in steps] == ["8", "12"]
    assert [(dosage.dose.low.value, dosage.dose.high.value) for dosage in steps] == [("1", "2")] * 2
    assert [dosage.period.duration.value for dosage in steps] == ["2", "2"]
    assert (medicine.dosages[0].maximum.numerator.value, medicine.dosages[0].maximum.denominator.unit) == ("4", "d")


def test_a_dose_bound_to_a_meal_and_a_condition() -> None:
    inner = (
        '<effectiveTime xsi:type="EIVL_TS" operator="A"><event code="ACM"/><offset>'
        '<low value="-30" unit="min"/></offset>'
        '</effectiveTime><doseQuantity value="1" unit="{tbl}"/><precondition><criterion>'
        "<text>si douleur</text></criterion>"
        "</precondition>"
    )
    [medicine] = medicines(bodies.prescribed(inner))
    [dosage] = medicine.dosages
    assert (dosage.frequencies[0].event, dosage.frequencies[0].offset.low.value) == ("ACM", "-30")
    assert (dosage.dose.low.value, dosage.dose.high.value, list(dosage.conditions)) == ("1", "1", ["si douleur"])


def test_what_is_said_with_a_medicine_is_kept_apart() -> None:
    def related(how: str, act: str) -> str:
        return f'<entryRelationship typeCode="{how}">{act}</entryRelationship>'

    inner = (
        related("SUBJ", '<act><code code="PINSTRUCT"/><text>au repas</text></act>')
        + related("SUBJ", '<act><code code="FINSTRUCT"/><text>à délivrer en une fois</text></act>')
        + related("SUBJ", '<act><code code="48767-8"/><text>vu avec la patiente</text></act>')
        + related("RSON", '<act><code code="I20.0" codeSystem="1.2" displayName="Angine"/></act>')
        + related("COMP", '<act><code code="N" codeSystem="2.16.840.1.113883.5.1070"/></act>')
        + related("COMP", '<supply moodCode="RQO"><quantity value="2" unit="boîte"/></supply>')
        + related(
            "COMP",
            '<observation><code code="GEN-181" codeSystem="1.2"/><value xsi:type="BL" value="true"/></observation>',
        )
    )
    [medicine] = medicines(bodies.prescribed(inner))
    assert list(medicine.patient_instructions) == ["au repas"]
    assert list(medicine.fulfilment_instructions) == ["à délivrer en une fois"]
    assert list(medicine.comments) == ["vu avec la patiente"]
    assert [reason.code.code for reason in medicine.reasons] == ["I20.0"]
    assert medicine.substitution.code.code == "N"
    assert (medicine.quantity.value, medicine.quantity.unit) == ("2", "boîte")
    assert [(d.code.code.code, d.values[0].truth) for d in medicine.details] == [("GEN-181", True)]


def test_a_medicine_inside_another_stands_for_itself() -> None:
    other = bodies.prescribed(named=bodies.product("OMÉPRAZOL 20 mg", "60000001"))
    inside = f'<entryRelationship typeCode="COMP">{other}</entryRelationship>'
    read = medicines(bodies.prescribed(inside))
    assert [medicine.product.name for medicine in read] == ["PARACÉTAMOL 500 mg", "OMÉPRAZOL 20 mg"]


def test_the_extensions_of_pharmacy_are_read_in_any_namespace() -> None:
    more = (
        '<p:formCode xmlns:p="urn:ihe:pharm" code="10219000" codeSystem="1.2" displayName="Comprimé"/>'
        '<p:expirationTime xmlns:p="urn:ihe:pharm" value="20321231"/>'
        '<q:ingredient xmlns:q="urn:ihe:pharm:medication"><q:quantity><numerator value="500" unit="mg"/>'
        '<denominator value="1"/></q:quantity><q:ingredient><q:code code="S1" codeSystem="1.2"/>'
        "<q:name>Paracétamol</q:name>"
        "</q:ingredient></q:ingredient>"
    )
    [medicine] = medicines(bodies.prescribed(named=bodies.product(more=more)))
    product = medicine.product
    assert (product.form.code.code, product.expiry.precision) == ("10219000", values.TIME_PRECISION_DAY)
    [ingredient] = product.ingredients
    assert (ingredient.substance.text, ingredient.strength.numerator.value) == ("Paracétamol", "500")


@pytest.mark.parametrize(
    ("body", "type_code", "kind"),
    [
        (bodies.prescription(bodies.prescribed()), "57833-6", values.MEDICATION_KIND_PRESCRIBED),
        (bodies.dispensed(), "60593-1", values.MEDICATION_KIND_DISPENSED),
        (bodies.section("10160-0", bodies.entry(bodies.prescribed(mood="EVN"))), "SYNTH",
         values.MEDICATION_KIND_STATED),
        (bodies.section("10183-2", bodies.entry(bodies.prescribed())), "11490-0", values.MEDICATION_KIND_STATED),
        (bodies.section("18610-6", bodies.entry(bodies.prescribed(mood="EVN"))), "11490-0",
         values.MEDICATION_KIND_ADMINISTERED),
        (bodies.section("18776-5", bodies.entry(bodies.prescribed(mood="RQO"))), "11488-4",
         values.MEDICATION_KIND_PRESCRIBED),
    ],
)  # fmt: skip
def test_what_was_done_with_a_medicine_follows_from_mood_and_place(body: str, type_code: str, kind: int) -> None:
    [medicine] = messages(read_body(body, type_code=type_code), Kind.MEDICATION)
    assert medicine.kind == kind


def test_a_dispensation_names_the_prescription_that_it_answers() -> None:
    item = (
        '<entryRelationship typeCode="REFR"><substanceAdministration moodCode="INT">'
        '<id root="1.2.3" extension="item-1"/>'
        '<code code="PREItem"/><author><assignedAuthor><id root="1.2.250.1.71.4.2.1" extension="801234567897"/>'
        "<assignedPerson><name><given>Anne</given><family>MARTIN</family></name></assignedPerson>"
        "</assignedAuthor></author>"
        '<reference typeCode="XCRPT"><externalDocument><id root="1.2.9" extension="P1"/></externalDocument></reference>'
        "</substanceAdministration></entryRelationship>"
    )
    [medicine] = messages(read_body(bodies.dispensed(item), type_code="60593-1"), Kind.MEDICATION)
    assert [i.value for i in medicine.prescription_item_ids] == ["item-1"]
    assert list(medicine.prescription_unique_ids) == ["1.2.9^P1"]
    assert medicine.prescriber.name == "Anne MARTIN"


def vaccinations(*acts: str) -> list[values.Vaccination]:
    return messages(read_body(bodies.vaccinations(*acts), type_code="11369-6"), Kind.VACCINATION)


def test_a_vaccination_done_planned_or_refused() -> None:
    done, planned, refused = vaccinations(
        bodies.vaccinated(time="2009"),
        bodies.vaccinated(time="20300101", mood="INT"),
        bodies.vaccinated(negated=True, inner='<entryRelationship typeCode="RSON"><act><code code="PATOBJ"'
                          ' codeSystem="2.16.840.1.113883.5.8"/></act></entryRelationship>'),
    )  # fmt: skip
    assert (done.not_done, done.planned, done.time.precision) == (False, False, values.TIME_PRECISION_YEAR)
    assert planned.planned
    assert refused.not_done
    assert [reason.code.code for reason in refused.reasons] == ["PATOBJ"]


def test_rank_reaction_and_target_of_a_vaccination() -> None:
    inner = (
        '<entryRelationship typeCode="SUBJ"><observation><code code="30973-2"/><value xsi:type="INT" value="3"/>'
        '</observation></entryRelationship><entryRelationship typeCode="CAUS"><observation><code code="418799008"/>'
        '<value xsi:type="CD" code="R50.2" codeSystem="1.2"/></observation></entryRelationship>'
        '<entryRelationship typeCode="SUBJ"><observation><code code="75323-6"/><value xsi:type="CD" code="A35"'
        ' codeSystem="1.2"/></observation></entryRelationship>'
    )
    [vaccination] = vaccinations(bodies.vaccinated(inner=inner))
    assert vaccination.dose_number == 3
    assert [r.values[0].coded.code.code for r in vaccination.reactions] == ["R50.2"]
    assert [target.code.code for target in vaccination.targets] == ["A35"]


def test_every_document_is_an_event_and_tells_of_earlier_ones() -> None:
    body = bodies.vaccinations(bodies.vaccinated(time="20090928"), bodies.vaccinated(time="20240102", name="AUTRE"))
    reading = read_body(body, type_code="11369-6")
    own, *told = [p for p in reading.projections if p.kind == Kind.EVENT]
    assert own.subkind == values.PATHWAY_CATEGORY_VACCINATION
    assert own.occurred == datetime(2024, 1, 2, 9, 0, tzinfo=UTC)
    assert [(p.subkind, p.message.label.text) for p in told] == [  # type: ignore[union-attr]
        (values.PATHWAY_CATEGORY_VACCINATION, "VACCIN TÉTANIQUE")
    ]


@pytest.mark.parametrize("type_code", ["57833-6", "60593-1", "11502-2", "11369-6", "SYNTH", "11490-0"])
def test_a_document_without_structured_entries_stands_in_its_list_unread(type_code: str) -> None:
    reading = read_body("", type_code=type_code)
    listed = [p for p in reading.projections if p.kind != Kind.EVENT]
    assert [(p.message, p.unread) for p in listed] in (
        [(None, clinical_pb2.UNREAD_REASON_NOTHING_FOUND)],
        [(None, clinical_pb2.UNREAD_REASON_UNSTRUCTURED)],
    )


def test_a_time_that_is_none_costs_the_time_and_is_counted() -> None:
    reading = read_body(bodies.laboratory(bodies.result(time="20241399")))
    [result] = messages(reading, Kind.RESULT)
    assert not result.HasField("time")
    assert reading.left_out == 1
