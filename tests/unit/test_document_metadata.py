"""Which metadata a document must have, what is filled in, and what disagrees with the document itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp.common.v1 import coding_pb2
from dmp.document.v1 import document_pb2
from services.document.cda import InstanceId, read_header
from services.document.cda_metadata import claim_of, within
from services.document.envelope import pack
from services.document.hl7_time import Precision
from services.document.metadata import Completed, MetadataRules, complete, mime_type_of
from services.document.times import instant, timestamp
from services.document.unique_ids import canonical, spellings
from services.runtime.text import control_characters
from tests.documents import AUTHOR, OTHER, cda, plain_metadata

REAL_FILES = sorted((Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cda").glob("*.xml"))
PROFESSIONAL = MetadataRules(by_patient=False)
LEVELS = "2.16.840.1.113883.5.25"
FLAGS = "1.2.250.1.213.1.1.4.13"
Document = document_pb2.Document
Coding = coding_pb2.Coding


def of_cda(given: Document | None = None, content: bytes | None = None) -> Completed:
    """The metadata of a CDA beside which `given` came."""
    content = content or cda("1.2.3")
    return complete(given or Document(), "text/xml", read_header(content), pack(content), PROFESSIONAL)


def of_plain(change: Callable[[Document], object], rules: MetadataRules = PROFESSIONAL) -> Completed:
    """The metadata of a PDF after a change."""
    document = plain_metadata("1.2.3")
    change(document)
    return complete(document, "application/pdf", None, pack(b"%PDF"), rules)


def broken(completed: Completed) -> set[str]:
    return {violation.field for violation in completed.violations}


@pytest.mark.skipif(not REAL_FILES, reason="../shared/data/cda is absent: the real CDA files are not copied")
@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: path.name)
def test_a_real_cda_needs_no_metadata_beside_it(path: Path) -> None:
    content = path.read_bytes()
    header = read_header(content)
    completed = complete(Document(), "text/xml", header, pack(content), PROFESSIONAL)
    assert completed.violations == ()
    document = completed.document
    assert document.unique_id == header.document_id.unique_id
    assert document.type_code.code == header.type_code.code
    assert document.class_code.code
    assert document.format_code.code
    again = complete(document, "text/xml", header, pack(content), PROFESSIONAL)
    assert again == completed


def test_a_cda_says_everything_itself() -> None:
    content = cda("1.2.3")
    completed = of_cda(content=content)
    assert completed.violations == ()
    document = completed.document
    assert (document.unique_id, document.title, document.language) == ("1.2.3", "Consultation du 2 janvier", "fr-FR")
    assert (document.type_code.code, document.class_code.code) == ("11488-4", "10")
    assert (document.facility_type.code, document.practice_setting.code) == ("SA07", "AMBULATOIRE")
    assert [code.code for code in document.confidentiality] == ["N"]
    assert document.authors[0].name == "Anne MARTIN"
    assert document.legal_authenticator.id.value == AUTHOR
    assert (document.source_patient_id.system, document.source_patient_id.value) == ("1.2.3.4.5", "LOCAL-1")
    info = document.source_patient_info
    assert (list(info.family_names), list(info.given_names)) == (["PATIENTE"], ["DOMINIQUE"])
    assert (info.sex, info.birth_date) == ("F", "1979-03-28")
    assert instant(document.create_time) == datetime(2024, 1, 2, 9, 15, tzinfo=UTC)
    assert instant(document.service_start_time) == datetime(2024, 1, 2, 9, 0, tzinfo=UTC)
    assert (document.size, len(document.hash)) == (len(content), 20)


def test_a_title_of_ones_own_is_kept() -> None:
    completed = of_cda(Document(title="Mon titre", comments="remarque"))
    assert completed.violations == ()
    assert (completed.document.title, completed.document.comments) == ("Mon titre", "remarque")


def test_what_only_the_service_says_is_dropped() -> None:
    claimed = Document(name="dossiers/1", logical_id="x", version=9, status=document_pb2.DOCUMENT_STATUS_DELETED)
    document = of_cda(claimed).document
    assert (document.name, document.logical_id, document.version, document.status) == ("", "", 0, 0)


def author(subject: str) -> coding_pb2.Author:
    return coding_pb2.Author(id=coding_pb2.Identifier(system="1.2.250.1.71.4.2.1", value=subject))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (Document(unique_id="1.2.4"), "unique_id"),
        (Document(type_code=Coding(code="11502-2")), "type_code"),
        (Document(type_code=Coding(code="11488-4", system="1.2.3")), "type_code"),
        (Document(class_code=Coding(code="31")), "class_code"),
        (Document(language="en-GB"), "language"),
        (Document(confidentiality=[Coding(code="R", system=LEVELS)]), "confidentiality"),
        (Document(create_time=timestamp(datetime(2024, 1, 3, tzinfo=UTC))), "create_time"),
        (Document(service_start_time=timestamp(datetime(2024, 1, 3, tzinfo=UTC))), "service_start_time"),
        (Document(authors=[author(OTHER)]), "authors[0].id"),
        (Document(legal_authenticator=author(OTHER)), "legal_authenticator.id"),
        (Document(source_patient_id=coding_pb2.Identifier(system="1.2", value="1")), "source_patient_id"),
        (Document(facility_type=Coding(code="SA08")), "facility_type"),
        (Document(practice_setting=Coding(code="HAD")), "practice_setting"),
        (Document(format_code=Coding(code="urn:ihe:iti:dicom:2010\0")), "format_code.code"),
    ],
)
def test_what_disagrees_with_the_document_is_named(given: Document, field: str) -> None:
    completed = of_cda(given)
    assert field in broken(completed)
    assert all(given.unique_id not in v.description for v in completed.violations if given.unique_id)


@pytest.mark.parametrize(
    "given",
    [
        Document(unique_id="urn:oid:1.2.3"),
        Document(type_code=Coding(code="11488-4")),
        Document(class_code=Coding(code="10")),
        Document(language="FR-fr"),
        Document(create_time=timestamp(datetime(2024, 1, 2, 9, 15, 0, 500_000, UTC))),
        Document(authors=[author(AUTHOR)]),
        Document(source_patient_id=coding_pb2.Identifier(system="1.2.250.1.213.1.4.11", value="279035121518989")),
    ],
)
def test_what_agrees_is_accepted(given: Document) -> None:
    assert of_cda(given).violations == ()


def test_flags_join_the_level_of_the_document() -> None:
    flags = [Coding(code="MASQUE_PS"), Coding(code="INVISIBLE_REPRESENTANTS_LEGAUX", system=FLAGS)]
    completed = of_cda(Document(confidentiality=flags))
    assert completed.violations == ()
    assert {(code.code, code.system) for code in completed.document.confidentiality} == {
        ("MASQUE_PS", FLAGS),
        ("INVISIBLE_REPRESENTANTS_LEGAUX", FLAGS),
        ("N", LEVELS),
    }


def test_masked_and_invisible_exclude_each_other_unless_the_setting_allows_it() -> None:
    both = Document(confidentiality=[Coding(code="MASQUE_PS"), Coding(code="INVISIBLE_PATIENT")])
    assert broken(of_cda(both)) == {"confidentiality"}
    content = cda("1.2.3")
    rules = MetadataRules(by_patient=False, allow_masked_and_invisible=True)
    assert complete(both, "text/xml", read_header(content), pack(content), rules).violations == ()


@pytest.mark.parametrize(
    "field",
    [
        "unique_id",
        "authors",
        "type_code",
        "facility_type",
        "practice_setting",
        "create_time",
        "source_patient_id",
        "source_patient_info",
    ],
)
def test_what_follows_from_nothing_else_is_required(field: str) -> None:
    assert field in broken(of_plain(lambda document: document.ClearField(field)))  # type: ignore[arg-type]


def test_what_follows_from_the_rest_is_filled() -> None:
    completed = of_plain(lambda document: document.ClearField("title"))
    assert completed.violations == ()
    document = completed.document
    assert document.title == "Prescription de produits de santé"
    assert document.class_code.code == "42"
    assert document.format_code.code == "urn:ihe:iti:xds-sd:pdf:2008"
    assert document.language == "fr-FR"
    assert document.legal_authenticator == document.authors[0]
    assert document.service_start_time == document.create_time
    assert [code.code for code in document.confidentiality] == ["N"]


def test_of_two_authors_none_is_taken_for_the_legal_authenticator() -> None:
    assert broken(of_plain(lambda document: document.authors.append(author(OTHER)))) == {"legal_authenticator"}


def test_flags_without_a_level_are_refused() -> None:
    assert broken(of_plain(lambda d: d.confidentiality.append(Coding(code="MASQUE_PS")))) == {"confidentiality"}


def test_unknown_codes_times_out_of_order_and_foreign_formats_are_named() -> None:
    def spoil(document: Document) -> None:
        document.type_code.code = "no-such"
        document.facility_type.code = "SA99"
        document.format_code.code = "urn:ihe:iti-fr:xds-sd:jpeg:2010"
        document.service_start_time.seconds, document.service_stop_time.seconds = 20, 10

    assert broken(of_plain(spoil)) >= {"type_code", "facility_type", "format_code", "service_stop_time"}


def test_a_type_without_class_takes_any_but_needs_one() -> None:
    def without_class(document: Document) -> None:
        document.type_code.CopyFrom(Coding(code="101881-1"))

    def with_class(document: Document) -> None:
        without_class(document)
        document.class_code.CopyFrom(Coding(code="31"))

    assert broken(of_plain(without_class)) == {"class_code"}
    assert of_plain(with_class).violations == ()


def test_types_that_patients_deposit_are_theirs() -> None:
    def deposit(document: Document) -> None:
        document.type_code.CopyFrom(Coding(code="EXPPAT_2"))

    assert broken(of_plain(deposit)) == {"type_code"}
    assert of_plain(deposit, MetadataRules(by_patient=True)).violations == ()


def test_a_patient_must_be_named_well_enough_to_be_verified() -> None:
    def first_name_only(document: Document) -> None:
        document.source_patient_info.CopyFrom(document_pb2.SourcePatientInfo(given_names=["DOMINIQUE"]))

    assert broken(of_plain(first_name_only)) == {"source_patient_info"}


@pytest.mark.parametrize(
    ("stated", "content", "expected"),
    [
        ("text/xml; charset=UTF-8", b"<a/>", "text/xml"),
        ("Application/PDF", b"%PDF", "application/pdf"),
        ("", b"\xef\xbb\xbf <?xml version='1.0'?>", "text/xml"),
        ("", "<a/>".encode("utf-16"), "text/xml"),
        ("", "<a/>".encode("utf-16-le"), "text/xml"),
        ("", "<a/>".encode("utf-16-be"), "text/xml"),
        ("", b"%PDF", ""),
    ],
)
def test_the_mime_type(stated: str, content: bytes, expected: str) -> None:
    assert mime_type_of(stated, content) == expected


# --- identifiers -----------------------------------------------------------------------------------------------------


def test_an_identifier_has_one_spelling() -> None:
    capital = "90E1C8EC-F951-4B26-A305-A34848818DD6"
    assert canonical("urn:oid:1.2.3") == canonical("1.2.3") == "1.2.3"
    assert canonical(f"urn:uuid:{capital}") == canonical(capital.lower()) == capital.lower()
    assert canonical(f"{capital}^Ext") == f"{capital.lower()}^Ext"


def test_the_id_of_a_cda_is_root_and_extension() -> None:
    content = cda(identifier='<id root="1.2.3" extension="42"/>')
    assert spellings(InstanceId("1.2.3", "42")) == {"1.2.3^42", "1.2.3.42"}
    for spelling in ("", "1.2.3^42", "1.2.3.42"):
        completed = of_cda(Document(unique_id=spelling), content)
        assert completed.violations == ()
        assert completed.document.unique_id == "1.2.3^42"
    assert broken(of_cda(Document(unique_id="1.2.3"), content)) == {"unique_id"}


def test_a_version_is_that_of_a_set() -> None:
    def stated(extra: str) -> tuple[str, int]:
        document = of_cda(Document(), cda("1.2.3", extra=extra)).document
        return document.set_id, document.set_version

    assert stated("") == ("", 0)
    assert stated('<setId root="1.2"/>') == ("", 0)
    assert stated('<setId root="1.2" extension="a"/><versionNumber value="3"/>') == ("1.2^a", 3)


def test_the_claim_is_all_that_the_document_says_of_the_patient() -> None:
    claim = claim_of(read_header(cda("1.2.3")).patient)
    assert [identifier.value for identifier in claim.identifiers] == ["279035121518989", "LOCAL-1"]
    assert (list(claim.family_names), claim.birth_date) == (["PATIENTE"], "1979-03-28")


# --- times and text --------------------------------------------------------------------------------------------------

PARIS_WINTER = timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("moment", "precision", "expected"),
    [
        (datetime(2023, 12, 31, 23, 30, tzinfo=UTC), Precision.YEAR, True),
        (datetime(2024, 1, 31, 23, 30, tzinfo=UTC), Precision.MONTH, False),
        (datetime(2024, 1, 1, 22, 59, tzinfo=UTC), Precision.DAY, True),
        (datetime(2024, 1, 1, 23, 0, tzinfo=UTC), Precision.DAY, False),
        (datetime(2023, 12, 31, 23, 0, 0, 1, UTC), Precision.SECOND, True),
        (datetime(2023, 12, 31, 22, 59, 59, tzinfo=UTC), Precision.SECOND, False),
    ],
)
def test_a_time_agrees_as_far_as_it_was_stated(moment: datetime, precision: Precision, expected: bool) -> None:
    assert within(timestamp(moment), datetime(2024, 1, 1, tzinfo=PARIS_WINTER), precision) is expected


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_time_survives_its_message(moment: datetime) -> None:
    assert instant(timestamp(moment)) == moment


def test_control_characters_are_found_at_any_depth() -> None:
    document = Document(comments="one\ntwo\tthree", title="a\x00")
    document.authors.add(name="b\x1b")
    document.source_patient_info.given_names.extend(["fine", "c\x7f"])
    assert set(control_characters(document)) == {"title", "authors[0].name", "source_patient_info.given_names"}
