"""DocumentReferences: what comes in as a Document, what goes out, and what is refused by name."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmp.common.v1.coding_pb2 import Author, Coding, Identifier
from dmp.document.v1 import document_pb2
from dmp.document.v1.document_pb2 import Document
from gateway.fhir.document_in import COMPREHENSIVE, read_document
from gateway.fhir.document_out import Links, write_document
from gateway.fhir.node import Node
from services.runtime.errors import DmpError
from services.runtime.identifiers import document_name
from tests.conformance.fhir_platform import external_ids, parsed
from tests.conformance.fhir_samples import CDA, HEALTH_ID, INS, INS_OID, Json, document_reference

BASE = "https://dmp.test/fhir"
LINKS = Links(BASE, external_ids())


def root(resource: Json) -> Node:
    return Node(resource["resourceType"], resource)


def error_of(read: Callable[[], object]) -> tuple[list[str], str]:
    with pytest.raises(DmpError) as error:
        read()
    return [field.field for field in error.value.fields], error.value.reason_name


def coding(system: str, code: str) -> Coding:
    return Coding(system=system, code=code, display="libellé")


class TestDocumentIn:
    def test_reads_what_the_resource_says(self) -> None:
        document = read_document(root(document_reference(7)), COMPREHENSIVE)
        assert document.unique_id == "1.2.250.1.999.7"
        assert (document.mime_type, document.language, document.size) == ("text/xml", "fr-FR", len(CDA))
        assert len(document.hash) == 20
        assert (document.class_code.system, document.class_code.code) == ("1.2.250.1.213.1.1.4.1", "10")
        assert document.facility_type.system == "1.2.250.1.71.4.2.4"
        assert document.practice_setting.system == "1.2.250.1.213.1.1.4.9"
        assert [c.code for c in document.confidentiality] == ["N"]
        assert document.authors[0].id == Identifier(system="1.2.250.1.71.4.2.1", value="899700218896")
        assert document.legal_authenticator.name == "Anne MARTIN"
        assert document.source_patient_id == Identifier(system=INS_OID, value=INS)
        assert document.source_patient_info.sex == "F"
        assert document.create_time.seconds == 1_781_251_200

    @pytest.mark.parametrize(
        ("end", "written"),
        [
            ("2026-06-12", "2026-06-12T21:59:59Z"),
            ("2026-06", "2026-06-30T21:59:59Z"),
            ("2026", "2026-12-31T22:59:59Z"),
            ("2026-06-12T11:00:00+02:00", "2026-06-12T09:00:00Z"),
        ],
    )
    def test_a_period_ends_with_the_last_of_its_day(self, end: str, written: str) -> None:
        """An act of a morning whose end is its day is not one that ends before it begins."""
        reference = document_reference(1)
        reference["context"]["period"] = {"start": "2026-06-12T09:00:00+02:00", "end": end}
        document = read_document(root(reference), COMPREHENSIVE)
        assert document.service_stop_time.ToJsonString() == written

    def test_no_flag_is_lost_whether_in_one_concept_or_in_several(self) -> None:
        flag = {
            "system": "https://mos.esante.gouv.fr/NOS/TRE_A07-StatutVisibiliteDocument/FHIR/TRE-A07-StatutVisibiliteDocument",
            "code": "MASQUE_PS",
        }
        together, apart = document_reference(1), document_reference(1)
        together["securityLabel"][0]["coding"].append(flag)
        apart["securityLabel"].append({"coding": [flag]})
        read = [read_document(root(resource), COMPREHENSIVE).confidentiality for resource in (together, apart)]
        assert [c.code for c in read[0]] == ["N", "MASQUE_PS"]
        assert list(read[0]) == list(read[1])

    def test_names_every_missing_element_at_once(self) -> None:
        resource = document_reference(1)
        for name in ("type", "author", "securityLabel"):
            del resource[name]
        del resource["content"][0]["format"], resource["context"]["facilityType"]
        paths, reason = error_of(lambda: read_document(root(resource), COMPREHENSIVE))
        assert reason == "METADATA_ERROR"
        assert paths == [
            "DocumentReference.type",
            "DocumentReference.author",
            "DocumentReference.securityLabel",
            "DocumentReference.content[0].format",
            "DocumentReference.context.facilityType",
        ]

    def test_the_unique_id_may_be_an_identifier_that_says_so(self) -> None:
        resource = document_reference(1)
        master = resource.pop("masterIdentifier")
        resource["identifier"] = [{"use": "official", "system": "x", "value": "y"}, {"use": "usual", **master}]
        assert read_document(root(resource), COMPREHENSIVE).unique_id == "1.2.250.1.999.1"

    @pytest.mark.parametrize(
        ("change", "path"),
        [
            ({"status": "superseded"}, "status"),
            ({"modifierExtension": [{"url": "x"}]}, "modifierExtension"),
            ({"implicitRules": "http://x"}, "implicitRules"),
            ({"type": {"coding": [{"system": "http://x", "code": "1"}]}}, "type.coding[0].system"),
            ({"type": {"coding": []}}, "type.coding"),
            ({"type": {"text": "only words"}}, "type.coding"),
            ({"type": "11488-4"}, "type"),
            ({"author": {"reference": "#author"}}, "author"),
            ({"author": [{"reference": "#nobody"}]}, "author[0].reference"),
            ({"author": [{"reference": "Practitioner/1"}]}, "author[0].reference"),
            ({"author": [{}]}, "author[0]"),
            ({"author": ["x"]}, "author[0]"),
            ({"content": []}, "content"),
            ({"content": [{}]}, "content[0].attachment"),
            ({"contained": "x"}, "contained"),
            ({"masterIdentifier": {"value": "x"}}, "masterIdentifier.system"),
            ({"context": []}, "context"),
        ],
    )
    def test_what_is_wrong_is_named(self, change: Json, path: str) -> None:
        paths, _ = error_of(lambda: read_document(root(document_reference(1) | change), COMPREHENSIVE))
        assert paths == [f"DocumentReference.{path}"]

    @pytest.mark.parametrize(
        ("name", "value", "path"),
        [
            ("hash", "AAAA", "hash"),
            ("hash", "not base64!", "hash"),
            ("size", -1, "size"),
            ("size", "80", "size"),
            ("size", 2**40, "size"),
            ("contentType", "text/xml; charset=utf-8", "contentType"),
            ("contentType", "xml\r\nSet-Cookie", "contentType"),
            ("language", "x" * 36, "language"),
            ("title", "x" * 513, "title"),
            ("creation", "12/06/2026", "creation"),
        ],
    )
    def test_the_attachment_is_checked(self, name: str, value: object, path: str) -> None:
        resource = document_reference(1)
        resource["content"][0]["attachment"][name] = value
        paths, reason = error_of(lambda: read_document(root(resource), COMPREHENSIVE))
        assert (paths, reason) == ([f"DocumentReference.content[0].attachment.{path}"], "INVALID_FIELD")

    def test_a_role_brings_person_structure_and_speciality(self) -> None:
        resource = document_reference(1)
        resource["contained"] += [
            {
                "resourceType": "PractitionerRole",
                "id": "role",
                "practitioner": {"reference": "#author"},
                "organization": {"identifier": {"system": "https://finess.esante.gouv.fr", "value": "750000018"}},
                "specialty": [{"coding": [{"system": "urn:oid:1.2.250.1.213.1.1.4.5", "code": "G15_10/SM26"}]}],
            }
        ]
        resource["author"] = [{"reference": "#role"}]
        (author,) = read_document(root(resource), COMPREHENSIVE).authors
        assert author.name == "Anne MARTIN"
        assert author.institution_id == Identifier(system="1.2.250.1.71.4.2.2", value="1750000018")
        assert author.specialty.code == "G15_10/SM26"

    def test_a_patient_author_is_refused_so_that_no_ins_is_kept_as_an_author(self) -> None:
        resource = document_reference(1)
        resource["author"] = [{"reference": "#patient"}]
        paths, _ = error_of(lambda: read_document(root(resource), COMPREHENSIVE))
        assert paths == ["DocumentReference.contained[0].resourceType"]


class TestDocumentOut:
    def full_document(self) -> Document:
        document = read_document(root(document_reference(1)), COMPREHENSIVE)
        document.name = document_name(HEALTH_ID, uuid.UUID(int=5))
        document.version = 3
        document.status = document_pb2.DOCUMENT_STATUS_DEPRECATED
        document.submit_time.FromSeconds(1_750_000_000)
        document.comments = "remarque"
        document.event_codes.append(coding("1.2.250.1.213.2.5", "HJQC001"))
        document.reference_ids.append(Identifier(system="1.2.3", value="dossier-1"))
        document.authors.append(Author(institution_name="Clinique"))
        document.custodian.institution_name = "CHU"
        return document

    def test_is_valid_fhir_and_says_all(self) -> None:
        resource = write_document(self.full_document(), LINKS, (INS_OID, INS))
        parsed(resource)
        assert resource["status"] == "superseded"
        assert resource["meta"]["versionId"] == "3"
        assert resource["date"] == "2025-06-15T15:06:40Z"
        assert resource["masterIdentifier"]["use"] == "usual"
        assert resource["identifier"][0]["use"] == "official"
        assert {item["resourceType"] for item in resource["contained"]} == {
            "Patient",
            "PractitionerRole",
            "Practitioner",
            "Organization",
        }
        assert resource["content"][0]["attachment"]["url"].startswith(f"{BASE}/Binary/")

    def test_never_names_the_patient_but_as_asked(self) -> None:
        document = self.full_document()
        document.ClearField("source_patient_info")
        assert INS not in orjson.dumps(write_document(document, LINKS)).decode()
        assert "identifier" not in write_document(document, LINKS)["subject"]

    def test_what_goes_out_reads_back_the_same(self) -> None:
        document = self.full_document()
        written = write_document(document, LINKS, (INS_OID, INS)) | {"status": "current"}
        again = read_document(root(written), COMPREHENSIVE)
        for name in ("name", "version", "status", "submit_time"):
            document.ClearField(name)
        assert again == document

    @given(
        st.builds(
            Document,
            unique_id=st.sampled_from(["1.2.3", "1.2.3^x", "8b8d2a3e-5b5e-4f5c-9b0a-0d8a6a1f0c11"]),
            mime_type=st.sampled_from(["text/xml", "application/pdf"]),
            title=st.sampled_from(["", "CR"]),
            language=st.sampled_from(["", "fr-FR"]),
            size=st.integers(0, 2**31 - 1),
            status=st.sampled_from(document_pb2.DocumentStatus.values()),
            authors=st.lists(
                st.builds(Author, name=st.sampled_from(["", "M"]), institution_name=st.sampled_from(["", "C"])),
                max_size=2,
            ),
        )
    )
    @settings(max_examples=60)
    def test_whatever_is_left_out_it_stays_valid_fhir(self, document: Document) -> None:
        document.name = document_name(HEALTH_ID, uuid.UUID(int=5))
        parsed(write_document(document, LINKS))
