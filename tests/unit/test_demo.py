"""The demo data: deterministic, checkable, nobody's, and read by the platform's own reader."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice

import pytest
import zstandard
from lxml import etree

from ops.demo.cda_document import DocumentKind, cda_document
from ops.demo.directory import professionals, structures
from ops.demo.people import iter_people, people
from services.document.cda import read_header
from services.document.codes import CDA_TEMPLATES, Coded, Coding, check_coding, format_of_cda
from services.identity.nir import DEMO_NIR_OID, parse_nir
from services.identity.professional_ids import is_finess, is_rpps, parse_idnps, parse_idnst

PEOPLE = people(2_000, seed=7)
PROFESSIONALS = professionals(40, seed=7)
STRUCTURES = structures(40, seed=7)
NS = {"c": "urn:hl7-org:v3"}


def test_people_are_the_same_every_time_and_first_ones_stay() -> None:
    assert people(2_000, seed=7) == PEOPLE
    assert people(10, seed=7) == PEOPLE[:10]
    assert tuple(islice(iter_people(7), 10)) == PEOPLE[:10]
    assert people(10, seed=8) != PEOPLE[:10]
    assert people(0, seed=7) == ()


def test_every_person_has_a_right_nir_of_their_own() -> None:
    assert len({person.nir for person in PEOPLE}) == len(PEOPLE)
    for person in PEOPLE:
        number = parse_nir(person.nir).number
        assert number[0] == ("1" if person.sex == "M" else "2")
        assert number[1:5] == person.birth_date.strftime("%y%m")
        assert number[5:10] == person.birth_place.code
        assert person.first_given == person.given[0]


def test_no_nir_can_be_somebody_s() -> None:
    assert all(int(person.nir[10:13]) >= 900 for person in PEOPLE)
    assert {person.nir_oid for person in PEOPLE} == {DEMO_NIR_OID}


def test_corsica_and_overseas_are_there() -> None:
    departments = {person.nir[5:7] for person in PEOPLE}
    assert {"2A", "2B", "97"} <= departments
    assert all(person.birth_date.year >= 1976 for person in PEOPLE if person.nir[5:7] in {"2A", "2B"})


def test_professionals_have_right_and_fictitious_numbers() -> None:
    assert professionals(40, seed=7) == PROFESSIONALS
    assert len({one.rpps for one in PROFESSIONALS}) == 40
    for one in PROFESSIONALS:
        assert is_rpps(one.rpps)
        assert one.rpps.startswith("99")
        assert parse_idnps(one.idnps).luhn_valid
        assert one.specialty.code.startswith(f"G15_{one.profession_code}")


def test_structures_have_right_and_fictitious_numbers() -> None:
    assert structures(40, seed=7) == STRUCTURES
    assert len({one.finess for one in STRUCTURES}) == 40
    for one in STRUCTURES:
        assert is_finess(one.finess)
        assert one.finess.startswith("99")
        assert parse_idnst(one.idnst).luhn_valid


@pytest.mark.parametrize("kind", DocumentKind, ids=lambda kind: kind.name)
def test_a_document_says_who_it_is_about_and_is_well_coded(kind: DocumentKind) -> None:
    for index in range(12):
        person, author, structure = PEOPLE[index], PROFESSIONALS[index], STRUCTURES[index]
        header = read_header(cda_document(person, author, structure, kind, index))

        assert [(i.root, i.extension) for i in header.patient.identifiers] == [(person.nir_oid, person.nir)]
        assert header.patient.birth_family == person.birth_family
        assert header.patient.used_family == person.used_family
        assert header.patient.given == (" ".join(person.given),)
        assert header.patient.birth_given == person.first_given
        assert header.patient.used_given == person.used_given
        assert header.patient.sex == person.sex
        assert header.patient.birth_date == person.birth_date
        assert header.patient.birth_place_code == person.birth_place.code
        written_by = header.authors[0].identifier
        assert written_by is not None
        assert written_by.extension == author.idnps
        assert header.legal_authenticator is not None
        assert header.facility_type is not None
        assert header.practice_setting is not None
        assert header.service_start is not None
        assert header.service_start < header.effective_time
        coding = Coding(
            type_code=Coded(header.type_code.code, header.type_code.system),
            class_code=None,
            format_code=format_of_cda([template.root for template in header.template_ids]),
            mime_type="text/xml",
            facility_type=Coded(header.facility_type.code, header.facility_type.system),
            practice_setting=Coded(header.practice_setting.code, header.practice_setting.system),
            confidentiality=(Coded("N", "2.16.840.1.113883.5.25"),),
        )
        assert coding.type_code == kind.type_code
        assert check_coding(coding) == ()
        assert kind.template is None or kind.template in CDA_TEMPLATES


def test_the_same_arguments_give_the_same_bytes_and_others_do_not() -> None:
    arguments = (PEOPLE[0], PROFESSIONALS[0], STRUCTURES[0], DocumentKind.BIOLOGY)
    assert cda_document(*arguments, 1) == cda_document(*arguments, 1)
    documents = [cda_document(*arguments, seed) for seed in range(50)]
    assert len({read_header(document).document_id for document in documents}) == 50


def test_a_version_replaces_the_one_before() -> None:
    arguments = (PEOPLE[0], PROFESSIONALS[0], STRUCTURES[0], DocumentKind.CONSULTATION, 3)
    first, second = (read_header(cda_document(*arguments, version=version)) for version in (1, 2))
    assert first.parents == ()
    assert first.set_id == second.set_id
    assert first.document_id != second.document_id
    assert [parent.relation for parent in second.parents] == ["RPLC"]
    assert second.parents[0].document_id == first.document_id
    assert second.parents[0].version_number == 1
    with pytest.raises(ValueError, match="versions start"):
        cda_document(*arguments, version=0)


def test_a_document_is_written_when_it_is_told() -> None:
    at = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
    document = cda_document(PEOPLE[0], PROFESSIONALS[0], STRUCTURES[0], DocumentKind.SYNTHESIS, 1, at=at)
    assert read_header(document).effective_time == at


@pytest.mark.parametrize("target", [30_000, 100_000, 1_000_000])
def test_a_document_has_the_size_asked_for_and_compresses_as_real_ones_do(target: int) -> None:
    document = cda_document(
        PEOPLE[1], PROFESSIONALS[1], STRUCTURES[1], DocumentKind.DISPENSATION, 1, target_bytes=target
    )
    assert target <= len(document) < target + 1_000
    assert 5 < len(document) / len(zstandard.compress(document, 3)) < 15
    assert read_header(document).patient.birth_date == PEOPLE[1].birth_date


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (DocumentKind.BIOLOGY, "//c:observation[c:code/@codeSystem='2.16.840.1.113883.6.1']/c:value/@value"),
        (
            DocumentKind.PRESCRIPTION,
            "//c:substanceAdministration[@moodCode='INT']//c:manufacturedMaterial/c:code/@code",
        ),
        (DocumentKind.DISPENSATION, "//c:supply/c:product//c:manufacturedMaterial/c:code/@code"),
        (DocumentKind.VACCINATION_HISTORY, "//c:substanceAdministration[@moodCode='EVN']//c:lotNumberText/text()"),
        (DocumentKind.VACCINATION_NOTE, "//c:substanceAdministration[@moodCode='EVN']//c:lotNumberText/text()"),
    ],
)
def test_structured_documents_have_their_entries(kind: DocumentKind, path: str) -> None:
    document = etree.fromstring(cda_document(PEOPLE[2], PROFESSIONALS[2], STRUCTURES[2], kind, 5))
    assert document.xpath(path, namespaces=NS)
    references = document.xpath("//c:reference/@value", namespaces=NS)
    identifiers = document.xpath("//c:text//@ID", namespaces=NS)
    assert isinstance(references, list)
    assert isinstance(identifiers, list)
    assert {str(value).removeprefix("#") for value in references} <= {str(value) for value in identifiers}


def test_names_are_escaped() -> None:
    person = replace(PEOPLE[0], birth_family='D\'<A> & "B"')
    document = cda_document(person, PROFESSIONALS[0], STRUCTURES[0], DocumentKind.CONSULTATION, 1)
    assert read_header(document).patient.birth_family == 'D\'<A> & "B"'
