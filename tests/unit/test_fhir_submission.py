"""Submissions and searches: Bundles and links, hostile input, and what is refused by name."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmp.document.v1.document_pb2 import RELATIONSHIP_TYPE_REPLACES
from gateway.fhir.document_out import Links, write_document
from gateway.fhir.field_paths import search_field, submission_field
from gateway.fhir.json_body import check_resource, parse_json
from gateway.fhir.node import Node
from gateway.fhir.parameters import Parameters
from gateway.fhir.search import read_search
from gateway.fhir.submission import Entry, SubmissionKey, read_bundle, read_simplified
from services.runtime.errors import DmpError
from services.runtime.identifiers import document_name
from services.runtime.validation import validate
from tests.conformance.fhir_platform import external_ids, parsed
from tests.conformance.fhir_samples import (
    CDA,
    HEALTH_ID,
    INS,
    INS_OID,
    OTHER_INS,
    SUBJECT,
    Json,
    binary_url,
    bundle,
    simplified,
    source_patient,
)

BASE = "https://dmp.test/fhir"
T = TypeVar("T")
KEY = SubmissionKey("lps-1", "request-0001")
LINKS = Links(BASE, external_ids())
OLD = document_name(HEALTH_ID, uuid.UUID(int=7))


def root(resource: Json) -> Node:
    return Node(resource["resourceType"], resource)


def error_of(read: Callable[[], object]) -> tuple[list[str], str]:
    with pytest.raises(DmpError) as error:
        read()
    return [field.field for field in error.value.fields], error.value.reason_name


class TestSimplifiedPublish:
    def test_makes_a_set_of_one_that_the_contract_accepts(self) -> None:
        read = read_simplified(root(simplified()), LINKS, KEY)
        read.request.parent = f"dossiers/{HEALTH_ID:019d}{97 - HEALTH_ID % 97:02d}"
        validate(read.request)
        assert read.patient.identifier == (INS_OID, INS)
        assert read.request.submission_set.source_id.startswith("2.25.")
        assert read.request.submission_set.source_id == SubmissionKey("lps-1", "another").source_id
        assert read.request.submission_set.unique_id != SubmissionKey("lps-1", "another").unique_id

    def test_content_comes_in_data_alone(self) -> None:
        resource = simplified()
        resource["content"][0]["attachment"]["url"] = "https://elsewhere.test/1"
        paths, _ = error_of(lambda: read_simplified(root(resource), LINKS, KEY))
        assert paths == ["DocumentReference.content[0].attachment.url"]

    @pytest.mark.parametrize(
        ("subject", "path", "reason"),
        [
            (None, "subject", "METADATA_ERROR"),
            ({}, "subject", "METADATA_ERROR"),
            ({"reference": "Practitioner/1"}, "subject.reference", "INVALID_FIELD"),
            ({"reference": "Patient?name=x"}, "subject.reference", "INVALID_FIELD"),
            ({"reference": 1}, "subject.reference", "INVALID_FIELD"),
            ({"identifier": {"system": "http://x", "value": "1"}}, "subject.identifier", "INVALID_FIELD"),
            (
                {**SUBJECT, "identifier": {"system": f"urn:oid:{INS_OID}", "value": OTHER_INS}},
                "subject",
                "PATIENT_MISMATCH",
            ),
        ],
    )
    def test_the_patient_link_is_named(self, subject: Any, path: str, reason: str) -> None:
        found = error_of(lambda: read_simplified(root(simplified(subject=subject)), LINKS, KEY))
        assert found == ([f"DocumentReference.{path}"], reason)


def set_of(sent: Json) -> Json:
    resource: Json = sent["entry"][0]["resource"]
    return resource


def reference_of(sent: Json, index: int = 0) -> Json:
    resource: Json = sent["entry"][1 + 2 * index]["resource"]
    return resource


def attachment_of(sent: Json, index: int = 0) -> Json:
    attachment: Json = reference_of(sent, index)["content"][0]["attachment"]
    return attachment


def _without(holder: Json, *names: str) -> None:
    for name in names:
        del holder[name]


SET, FIRST, CONTENT, SECOND = (f"Bundle.entry[{index}].resource" for index in range(4))
ATTACHMENT = ".content[0].attachment"


def relate(sent: Json, reference: str, code: str = "replaces") -> None:
    reference_of(sent)["relatesTo"] = [{"code": code, "target": {"reference": reference}}]


def patch_entry(sent: Json, value: str = "superseded") -> None:
    """A PATCH entry that supersedes the document of OLD."""
    parts = [
        {"name": "type", "valueCode": "replace"},
        {"name": "path", "valueString": "DocumentReference.status"},
        {"name": "value", "valueCode": value},
    ]
    parameters = {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]}
    url = f"DocumentReference/{LINKS.document_id(OLD)}"
    sent["entry"].append({"resource": parameters, "request": {"method": "PATCH", "url": url, "ifMatch": 'W/"3"'}})


def _without_extension(resource: Json, name: str) -> None:
    resource["extension"] = [each for each in resource["extension"] if not each["url"].endswith(name)]


REFUSED: list[tuple[str, Callable[[Json], object], str]] = [
    ("no profile", lambda b: b.pop("meta"), "Bundle.meta.profile"),
    ("no type", lambda b: b.pop("type"), "Bundle.type"),
    ("no entries", lambda b: b.pop("entry"), "Bundle.entry"),
    ("no set", lambda b: b["entry"].pop(0), "Bundle.entry"),
    ("two sets", lambda b: b["entry"].append(copy.deepcopy(b["entry"][0]) | {"fullUrl": "urn:x"}), "Bundle.entry[5]"),
    ("a folder alone", lambda b: set_of(b)["code"]["coding"][0].update(code="folder"), "Bundle.entry"),
    ("another list", lambda b: set_of(b)["code"]["coding"][0].update(code="x"), SET + ".code"),
    ("a stranger replaced", lambda b: relate(b, "DocumentReference/x"), FIRST + ".relatesTo[0].target.reference"),
    ("a relation of no kind", lambda b: relate(b, "DocumentReference/x", "signs"), FIRST + ".relatesTo[0].code"),
    ("a patch of nothing replaced", patch_entry, "Bundle.entry[5].request.url"),
    ("a practitioner", lambda b: b["entry"][1]["resource"].update(resourceType="Practitioner"), "Bundle.entry[1]"),
    ("a put", lambda b: b["entry"][1]["request"].update(method="PUT"), "Bundle.entry[1].request.method"),
    ("a wrong url", lambda b: b["entry"][1]["request"].update(url="List"), "Bundle.entry[1].request.url"),
    ("a condition", lambda b: b["entry"][1]["request"].update(ifNoneExist="x"), "Bundle.entry[1].request.ifNoneExist"),
    ("no fullUrl", lambda b: b["entry"][1].pop("fullUrl"), "Bundle.entry[1].fullUrl"),
    ("one fullUrl twice", lambda b: b["entry"][2].update(fullUrl=b["entry"][1]["fullUrl"]), "Bundle.entry[2].fullUrl"),
    ("no source id", lambda b: set_of(b)["extension"].pop(1), SET + ".extension"),
    ("no date", lambda b: set_of(b).pop("date"), SET + ".date"),
    ("no mode", lambda b: set_of(b).pop("mode"), SET + ".mode"),
    ("a stranger's profile", lambda b: set_of(b).update(meta={"profile": ["http://x"]}), SET + ".meta.profile"),
    ("a member too few", lambda b: set_of(b)["entry"].pop(), "Bundle.entry[3]"),
    ("a member twice", lambda b: set_of(b)["entry"].append(set_of(b)["entry"][0]), SET + ".entry[2].item.reference"),
    ("a stranger", lambda b: set_of(b)["entry"][0]["item"].update(reference="urn:x"), SET + ".entry[0].item.reference"),
    ("no content type", lambda b: _without_extension(set_of(b), "ihe-designationType"), SET + ".extension"),
    ("no type code", lambda b: reference_of(b).pop("type"), FIRST + ".type"),
    ("no format", lambda b: _without(reference_of(b)["content"][0], "format"), FIRST + ".content[0].format"),
    ("no binary", lambda b: b["entry"].pop(2), FIRST + ATTACHMENT + ".url"),
    ("data inside", lambda b: attachment_of(b).update(data="AAAA"), FIRST + ATTACHMENT + ".data"),
    ("an empty binary", lambda b: b["entry"][2]["resource"].pop("data"), CONTENT + ".data"),
    ("another type", lambda b: b["entry"][2]["resource"].update(contentType="text/plain"), CONTENT + ".contentType"),
    ("a binary twice", lambda b: attachment_of(b, 1).update(url=binary_url(0)), SECOND + ATTACHMENT + ".url"),
    ("an entry that is no object", lambda b: b["entry"].append("x"), "Bundle.entry[5]"),
    ("a null entry", lambda b: b["entry"].append(None), "Bundle.entry[5]"),
]  # fmt: skip


class TestBundle:
    def test_what_is_taken_over_may_lack_a_content_type(self) -> None:
        sent = bundle(1)
        _without_extension(set_of(sent), "ihe-designationType")
        assert not read_bundle(root(sent), LINKS, KEY, taken_over=True).request.submission_set.HasField("content_type")

    def test_links_documents_to_their_content(self) -> None:
        sent = bundle(3)
        sent["entry"].reverse()  # order says nothing: fullUrls do
        read = read_bundle(root(sent), LINKS, KEY)
        assert [entry.kind for entry in read.entries] == ["Binary", "DocumentReference"] * 3 + ["List"]
        for item in read.request.documents:
            assert item.content == CDA
        assert read.request.submission_set.unique_id == "1.2.250.1.999.1000"
        assert read.set_path == "Bundle.entry[6].resource"

    @pytest.mark.parametrize(("change", "path"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
    def test_what_is_wrong_is_named(self, change: Callable[[Json], object], path: str) -> None:
        sent = bundle(2)
        change(sent)
        paths, _ = error_of(lambda: read_bundle(root(sent), LINKS, KEY))
        assert len(paths) == 1
        assert paths[0].partition("(")[0] == path

    def test_content_that_nothing_names_is_refused(self) -> None:
        sent = bundle(1)
        extra = copy.deepcopy(sent["entry"][2]) | {"fullUrl": "urn:uuid:extra"}
        sent["entry"].append(extra)
        paths, _ = error_of(lambda: read_bundle(root(sent), LINKS, KEY))
        assert paths == ["Bundle.entry[3]"]

    def test_every_resource_names_the_same_patient(self) -> None:
        sent = bundle(2)
        reference_of(sent, 1)["subject"] = {"reference": f"Patient?identifier=urn:oid:{INS_OID}|{OTHER_INS}"}
        found = error_of(lambda: read_bundle(root(sent), LINKS, KEY))
        assert found == (["Bundle.entry[3].resource.subject.reference"], "PATIENT_MISMATCH")

    def test_fields_of_the_services_are_told_in_fhir_words(self) -> None:
        path_of = submission_field(read_bundle(root(bundle(2)), LINKS, KEY))
        assert path_of("documents[1].document.class_code") == "Bundle.entry[3].resource.category[0]"
        assert path_of("documents[1].authors[2].name") == "Bundle.entry[3].resource.author[2]"
        assert path_of("documents[0].content") == "Bundle.entry[2].resource.data"
        assert path_of("documents") == "Bundle.entry"
        assert path_of("documents[0]") == "Bundle.entry[1].resource"
        assert path_of("submission_set.unique_id") == "Bundle.entry[0].resource.identifier"
        assert path_of("request_id") == "Idempotency-Key"
        assert path_of("parent") == "Bundle.entry[0].resource.subject.reference"
        assert search_field("submit_time.end_time") == "date"
        assert search_field("type_codes[3]") == "type"


def mutations() -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8) | st.sampled_from(["#author", "#patient", "urn:oid:1.2", "current", "POST", "2026"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["coding", "system", "code", "reference", "identifier", "value", "x"]), inner, max_size=3
        ),
        max_leaves=6,
    )  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


class TestReplacements:
    def test_a_replacement_and_its_patch_are_one_relation_with_the_version_expected(self) -> None:
        sent = bundle(1)
        relate(sent, f"{BASE}/DocumentReference/{LINKS.document_id(OLD)}")
        patch_entry(sent)
        read = read_bundle(root(sent), LINKS, KEY)
        (relation,) = read.request.documents[0].relationships
        assert (relation.type, relation.target, relation.expected_version) == (RELATIONSHIP_TYPE_REPLACES, OLD, 3)
        assert [entry.kind for entry in read.entries] == ["List", "DocumentReference", "Binary", "Patch"]

    def test_what_is_replaced_may_be_named_by_its_unique_id(self) -> None:
        sent = bundle(1)
        relate(sent, "DocumentReference?identifier=urn:ietf:rfc:3986|urn:oid:1.2.3", "appends")
        read = read_bundle(root(sent), LINKS, KEY)
        assert read.request.documents[0].relationships[0].target_unique_id == "1.2.3"

    def test_a_patch_entry_does_nothing_but_supersede(self) -> None:
        sent = bundle(1)
        relate(sent, f"DocumentReference/{LINKS.document_id(OLD)}")
        patch_entry(sent, "entered-in-error")
        assert error_of(lambda: read_bundle(root(sent), LINKS, KEY)) == (["Bundle.entry[3].resource"], "METADATA_ERROR")

    def test_a_folder_holds_documents_of_the_bundle(self) -> None:
        sent = bundle(2)
        folder = copy.deepcopy(sent["entry"][0])
        folder["fullUrl"] = "urn:uuid:00000000-0000-4000-8000-0000000000f0"
        folder["resource"]["code"]["coding"][0]["code"] = "folder"
        folder["resource"]["identifier"][0]["value"] = "urn:oid:1.2.250.1.999.77"
        folder["resource"]["entry"] = [{"item": {"reference": sent["entry"][3]["fullUrl"]}}]
        sent["entry"].append(folder)
        set_of(sent)["entry"].append({"item": {"reference": folder["fullUrl"]}})
        request = read_bundle(root(sent), LINKS, KEY).request
        assert [each.unique_id for each in request.folders] == ["1.2.250.1.999.77"]
        assert [list(each.folders) for each in request.documents] == [[], ["1.2.250.1.999.77"]]

    def test_a_document_bundle_is_a_content(self) -> None:
        sent = bundle(1)
        inner = {"resourceType": "Bundle", "type": "document", "entry": []}
        sent["entry"][2].update(resource=inner, request={"method": "POST", "url": "Bundle"})
        attachment_of(sent).update(contentType="application/fhir+json")
        attachment_of(sent).pop("hash")
        attachment_of(sent).pop("size")
        request = read_bundle(root(sent), LINKS, KEY).request
        assert json.loads(request.documents[0].content) == inner


class TestPatient:
    """MHD lets one Patient be in the Bundle: a copy, by which the others may name whose they are."""

    URL = "urn:uuid:00000000-0000-4000-8000-0000000000e0"

    def sent(self, method: str = "POST", **changes: Any) -> Json:
        sent = bundle(1)
        for entry in sent["entry"][:2]:
            entry["resource"]["subject"] = {"reference": self.URL}
        person = source_patient() | changes
        request = {"method": method, "url": "Patient"}
        sent["entry"].append({"fullUrl": self.URL, "resource": person, "request": request})
        return sent

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
    def test_the_others_may_point_to_it(self, method: str) -> None:
        read = read_bundle(root(self.sent(method)), LINKS, KEY)
        assert (read.patient.identifier, read.patient.patient_id) == ((INS_OID, INS), "")
        assert read.entries[-1] == Entry("Patient", -1)

    def test_or_name_the_same_person_otherwise(self) -> None:
        sent = self.sent()
        sent["entry"][1]["resource"]["subject"] = dict(SUBJECT)
        assert read_bundle(root(sent), LINKS, KEY).patient.identifier == (INS_OID, INS)
        other = {"reference": f"Patient?identifier=urn:oid:{INS_OID}|{OTHER_INS}"}
        sent["entry"][1]["resource"]["subject"] = other
        path = "Bundle.entry[1].resource.subject.reference"
        assert error_of(lambda: read_bundle(root(sent), LINKS, KEY)) == ([path], "PATIENT_MISMATCH")

    def test_it_is_the_source_patient_info_of_documents_without(self) -> None:
        sent = self.sent()
        del sent["entry"][1]["resource"]["context"]["sourcePatientInfo"]
        document = read_bundle(root(sent), LINKS, KEY).request.documents[0].document
        assert document.source_patient_info.family_names == ["DUPONT"]
        assert document.source_patient_id.value == INS

    @pytest.mark.parametrize(
        ("wrong", "path"),
        [
            (lambda sent: sent["entry"].append(dict(sent["entry"][-1], fullUrl="urn:uuid:x")), "Bundle.entry[4]"),
            (lambda sent: sent["entry"][-1]["resource"].pop("identifier"), "Bundle.entry[3].resource.identifier"),
            (lambda sent: sent["entry"][-1]["request"].update(method="DELETE"), "Bundle.entry[3].request.method"),
            (lambda sent: sent["entry"][-1]["request"].update(url="List"), "Bundle.entry[3].request.url"),
        ],
    )
    def test_what_is_wrong_with_it_is_named(self, wrong: Callable[[Json], object], path: str) -> None:
        sent = self.sent()
        wrong(sent)
        assert error_of(lambda: read_bundle(root(sent), LINKS, KEY))[0] == [path]


@given(st.data())
@settings(max_examples=100)
def test_hostile_bundles_raise_nothing_else_than_our_errors(data: st.DataObject) -> None:
    sent = bundle(2)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(sent)))
        target = sent
        for key in way:
            target = target[key]
        target[last] = data.draw(mutations())
    _only_our_errors(lambda: read_bundle(check_resource(parse_json(json.dumps(sent).encode()), "Bundle"), LINKS, KEY))


@given(st.data())
@settings(max_examples=100)
def test_hostile_references_raise_nothing_else_than_our_errors(data: st.DataObject) -> None:
    sent = simplified()
    *way, last = data.draw(st.sampled_from(places(sent)))
    target: Any = sent
    for key in way:
        target = target[key]
    target[last] = data.draw(mutations())
    submission = _only_our_errors(
        lambda: read_simplified(check_resource(parse_json(json.dumps(sent).encode()), "DocumentReference"), LINKS, KEY)
    )
    if submission is not None:  # what is taken can be given back
        document = submission.request.documents[0].document
        document.name = document_name(HEALTH_ID, uuid.UUID(int=5))
        document.unique_id = document.unique_id or "1.2.3"
        parsed(write_document(document, LINKS, submission.patient.identifier))


@given(
    st.dictionaries(st.sampled_from(["patient", "status", "type", "date", "_count", "identifier"]), st.text(min_size=1))
)
def test_hostile_searches_raise_nothing_else_than_our_errors(sent: dict[str, str]) -> None:
    pairs = [("patient.identifier", f"urn:oid:{INS_OID}|{INS}"), *sent.items()]
    _only_our_errors(lambda: read_search(Parameters(pairs), LINKS))


def _only_our_errors(read: Callable[[], T]) -> T | None:
    refusal = None
    try:
        return read()
    except DmpError as error:
        refusal = error
    assert refusal.fields
    assert refusal.spec.http in (400, 413, 422)
    return None
