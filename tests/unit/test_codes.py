"""The code tables, and which codes go together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.document import codes
from services.document.cda import read_header
from services.document.codes import Coded, Coding, check_coding, class_of, format_of_cda

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"

CONSULTATION = Coding(
    type_code=Coded("11488-4", codes.LOINC),
    class_code=Coded("10", codes.DOCUMENT_CLASSES),
    format_code=Coded("urn:ihe:iti:xds-sd:pdf:2008", "1.3.6.1.4.1.19376.1.2.3"),
    mime_type="text/xml",
    facility_type=Coded("SA07", "1.2.250.1.71.4.2.4"),
    practice_setting=Coded("AMBULATOIRE", "1.2.250.1.213.1.1.4.9"),
    confidentiality=(Coded("N", codes.CONFIDENTIALITY),),
)
NORMAL = Coded("N", codes.CONFIDENTIALITY)
INVISIBLE = Coded("INVISIBLE_PATIENT", codes.VISIBILITY)
MASKED = Coded("MASQUE_PS", codes.VISIBILITY)
HIDDEN = Coded("INVISIBLE_REPRESENTANTS_LEGAUX", codes.VISIBILITY)


def broken(coding: Coding) -> set[tuple[str, str]]:
    return {(violation.field, violation.rule) for violation in check_coding(coding)}


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent: nothing to compare the tables with")
@pytest.mark.parametrize(
    ("ours", "theirs"), [("services/document/codes", "codes"), ("services/consent/rights", "rights")]
)
def test_the_tables_are_those_that_were_handed_over(ours: str, theirs: str) -> None:
    root = Path(__file__).resolve().parents[2]
    for path in (SHARED / theirs).glob("*.csv"):
        assert (root / ours / path.name).read_bytes() == path.read_bytes()


def test_the_tables_are_whole() -> None:
    assert len(codes.DOCUMENT_TYPES) == 114
    assert len(codes.SPECIALTIES) == 396
    assert len(codes.FACILITY_TYPES) == 69
    assert len(codes.PRACTICE_SETTINGS) == 12
    assert len(codes.CONFIDENTIALITY_CODES) == 6


def test_a_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        codes.DOCUMENT_TYPES[Coded("x", "y")] = None  # type: ignore[index]


def test_the_class_follows_from_the_type() -> None:
    assert class_of(Coded("11502-2", codes.LOINC)) == Coded("10", codes.DOCUMENT_CLASSES)
    assert class_of(Coded("SYNTH", "1.2.250.1.213.1.1.4.12")) == Coded("11", codes.DOCUMENT_CLASSES)
    assert class_of(Coded("11502-2", "1.2.3")) is None


def test_a_consultation_is_well_coded() -> None:
    assert check_coding(CONSULTATION) == ()
    assert check_coding(replace(CONSULTATION, class_code=None)) == ()


def test_seven_types_take_any_class_but_need_one() -> None:
    without = [coded for coded, found in codes.DOCUMENT_TYPES.items() if found.class_code is None]
    assert len(without) == 7
    for type_code in without:
        for class_code in codes.CLASSES:
            given_class = Coded(class_code, codes.DOCUMENT_CLASSES)
            assert not broken(replace(CONSULTATION, type_code=type_code, class_code=given_class))
        assert broken(replace(CONSULTATION, type_code=type_code, class_code=None)) == {("class_code", "required")}


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("type_code", Coded("11488-4", "1.2.3"), "unknown_code"),
        ("type_code", Coded("", ""), "unknown_code"),
        ("class_code", Coded("11", codes.DOCUMENT_CLASSES), "class_of_type"),
        ("class_code", Coded("10", "1.2.3"), "unknown_code"),
        ("class_code", Coded("77", codes.DOCUMENT_CLASSES), "unknown_code"),
        ("facility_type", Coded("22232009", "2.16.840.1.113883.6.96"), "unknown_code"),
        ("practice_setting", Coded("394802001", "2.16.840.1.113883.6.96"), "unknown_code"),
        ("mime_type", "text/html", "unsupported"),
        ("mime_type", "TEXT/XML", "unsupported"),
        ("format_code", Coded("", ""), "length"),
        ("format_code", Coded("x" * 129, ""), "length"),
        ("format_code", Coded("urn:ihe:pharm:dis:2010", ""), None),
    ],
)
def test_a_wrong_code_is_named(field: str, value: Any, rule: str | None) -> None:
    assert broken(replace(CONSULTATION, **{field: value})) == ({(field, rule)} if rule else set())


def test_the_class_that_was_expected_is_said() -> None:
    wrong = replace(CONSULTATION, class_code=Coded("11", codes.DOCUMENT_CLASSES))
    assert "10" in check_coding(wrong)[0].description


@pytest.mark.parametrize(
    ("mime_type", "format_code"),
    [
        ("text/xml", "urn:ihe:iti:xds-sd:pdf:2008"),
        ("application/xml", "urn:ihe:lab:xd-lab:2008"),
        ("application/pdf", "urn:ihe:iti:xds-sd:pdf:2008"),
        ("text/plain", "urn:ihe:iti:xds-sd:text:2008"),
        ("text/rtf", "urn:ihe:iti-fr:xds-sd:rtf:2010"),
        ("application/rtf", "urn:ihe:iti-fr:xds-sd:rtf:2010"),
        ("image/jpeg", "urn:ihe:iti-fr:xds-sd:jpeg:2010"),
        ("image/tiff", "urn:ihe:iti-fr:xds-sd:tiff:2010"),
        ("image/tiff", "urn:ihe:iti:xds:2017:mimeTypeSufficient"),
        ("application/dicom", "1.2.840.10008.5.1.4.1.1.88.59"),
        ("application/pdf", "urn:something:new:2031"),
    ],
)
def test_a_format_goes_with_its_mime_types(mime_type: str, format_code: str) -> None:
    assert not broken(replace(CONSULTATION, mime_type=mime_type, format_code=Coded(format_code, "")))


@pytest.mark.parametrize(
    ("mime_type", "format_code"),
    [
        ("application/pdf", "urn:ihe:lab:xd-lab:2008"),
        ("application/pdf", "urn:ihe:iti:xds-sd:text:2008"),
        ("text/plain", "urn:asip:ci-sis:vsm:2012"),
        ("image/jpeg", "urn:ihe:iti-fr:xds-sd:tiff:2010"),
        ("text/xml", "1.2.840.10008.5.1.4.1.1.88.59"),
    ],
)
def test_a_format_goes_with_no_other_mime_type(mime_type: str, format_code: str) -> None:
    coding = replace(CONSULTATION, mime_type=mime_type, format_code=Coded(format_code, ""))
    assert broken(coding) == {("format_code", "format_of_mime_type")}


@pytest.mark.parametrize(
    ("confidentiality", "rules"),
    [
        ((NORMAL, MASKED), set()),
        ((NORMAL, INVISIBLE, HIDDEN), set()),
        ((NORMAL, INVISIBLE, MASKED), {"masked_and_invisible"}),
        ((), {"count"}),
        ((NORMAL,) * 5, {"count"}),
        ((NORMAL, NORMAL), {"unique", "one_level"}),
        ((NORMAL, MASKED, MASKED), {"unique"}),
        ((MASKED,), {"one_level"}),
        ((NORMAL, Coded("R", codes.CONFIDENTIALITY)), {"one_level"}),
        ((Coded("U", codes.CONFIDENTIALITY),), {"unknown_code"}),
    ],
)
def test_confidentiality_is_one_level_and_flags(confidentiality: tuple[Coded, ...], rules: set[str]) -> None:
    assert broken(replace(CONSULTATION, confidentiality=confidentiality)) == {("confidentiality", r) for r in rules}


def test_a_server_may_allow_masked_and_invisible_together() -> None:
    coding = replace(CONSULTATION, confidentiality=(NORMAL, INVISIBLE, MASKED))
    assert check_coding(coding, allow_masked_and_invisible=True) == ()


def test_the_format_of_a_cda_comes_from_what_it_wraps_or_declares() -> None:
    assert format_of_cda(["1.2.250.1.213.1.1.1.1", "1.2.250.1.213.1.1.1.55"]).code == "urn:ihe:lab:xd-lab:2008"
    assert format_of_cda(["1.2.250.1.213.1.1.1.55"], "application/pdf").code == "urn:ihe:iti:xds-sd:pdf:2008"
    assert format_of_cda(["1.2.250.1.213.1.1.1.1"]).code == codes.UNPROFILED_FORMAT
    assert format_of_cda([], "video/mp4").code == codes.UNPROFILED_FORMAT


REAL_FILES = sorted((SHARED / "cda").glob("*.xml"))


@pytest.mark.skipif(not REAL_FILES, reason="../shared/data/cda is absent: the real CDA files are not copied")
@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: path.name)
def test_a_real_document_is_well_coded(path: Path) -> None:
    header = read_header(path.read_bytes())
    assert header.facility_type is not None
    assert header.practice_setting is not None
    assert header.confidentiality is not None
    assert header.body is not None
    coding = Coding(
        type_code=Coded(header.type_code.code, header.type_code.system),
        class_code=None,
        format_code=format_of_cda([template.root for template in header.template_ids], header.body.media_type),
        mime_type="text/xml",
        facility_type=Coded(header.facility_type.code, header.facility_type.system),
        practice_setting=Coded(header.practice_setting.code, header.practice_setting.system),
        confidentiality=(Coded(header.confidentiality.code, header.confidentiality.system),),
    )
    assert check_coding(coding) == ()
    assert coding.format_code.code != codes.UNPROFILED_FORMAT


secret = st.text(alphabet="abcdef0123456789", min_size=8, max_size=140).map("secret-{}".format)
coded = st.builds(Coded, secret, secret)


@given(st.builds(Coding, coded, st.none() | coded, coded, secret, coded, coded, st.lists(coded, max_size=6)))
def test_a_violation_never_repeats_what_was_sent(coding: Coding) -> None:
    found = check_coding(coding)
    assert {"type_code", "mime_type", "facility_type", "practice_setting", "confidentiality"} <= {
        v.field for v in found
    }
    assert "secret-" not in str(found)
