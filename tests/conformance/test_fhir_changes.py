"""TD3.3 over PATCH in its three formats, conditional create, and ITI-66, over a platform of our own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from dmp.document.v1 import document_pb2
from gateway.fhir.document_out import IS_ARCHIVED, IS_DELETED, Links
from gateway.fhir.xml_write import to_xml
from tests.conformance.fhir_platform import (
    FakePlatform,
    client_of,
    expressions,
    external_ids,
    issues,
    parsed,
    parsed_xml,
)
from tests.conformance.fhir_samples import BASE, FHIR, INS, PATIENT, Json, bundle, simplified

JSON_PATCH = {"Content-Type": "application/json-patch+json"}
XML_PATCH = {"Content-Type": "application/xml-patch+xml"}
IDENTIFIER = "urn:ietf:rfc:3986|urn:oid:1.2.250.1.999.1"
FLAGS = "https://mos.esante.gouv.fr/NOS/TRE_A07-StatutVisibiliteDocument/FHIR/TRE-A07-StatutVisibiliteDocument"
MASKED = {"coding": [{"system": FLAGS, "code": "MASQUE_PS"}]}


@pytest.fixture
async def client(fake: FakePlatform) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(fake) as http:
        label = {"coding": [{"system": "urn:oid:2.16.840.1.113883.5.25", "code": "N"}]}
        published = await http.post("/DocumentReference", json=simplified(securityLabel=[label]), headers=FHIR)
        assert published.status_code == 201, published.text
        yield http


def operation(kind: str, path: str, **more: Any) -> Json:
    parts = [{"name": "type", "valueCode": kind}, {"name": "path", "valueString": path}]
    parts += [{"name": name, **value} for name, value in more.items()]
    return {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]}


def mask_by_fhirpath() -> Json:
    coding = {"name": "coding", "valueCoding": MASKED["coding"][0]}
    return operation(
        "add",
        "DocumentReference",
        name={"valueString": "securityLabel"},
        value={"valueCodeableConcept": {"coding": [coding["valueCoding"]]}},
    )


MASK: list[tuple[str, dict[str, str], bytes]] = [
    ("JSON Patch", JSON_PATCH, orjson.dumps([{"op": "add", "path": "/securityLabel/-", "value": MASKED}])),
    (
        "JSON Patch of one coding",
        JSON_PATCH,
        orjson.dumps([{"op": "add", "path": "/securityLabel/0/coding/1", "value": MASKED["coding"][0]}]),
    ),
    ("FHIRPath Patch", FHIR, orjson.dumps(mask_by_fhirpath())),
    ("FHIRPath Patch in XML", {"Content-Type": "application/fhir+xml"}, to_xml(mask_by_fhirpath())),
    (
        "XML Patch",
        XML_PATCH,
        f"""<diff xmlns:f="http://hl7.org/fhir"><add sel="f:DocumentReference"><securityLabel
        xmlns="http://hl7.org/fhir"><coding><system value="{FLAGS}"/><code value="MASQUE_PS"/></coding></securityLabel>
        </add></diff>""".encode(),
    ),
]


@pytest.mark.parametrize(("headers", "body"), [each[1:] for each in MASK], ids=[each[0] for each in MASK])
async def test_a_document_is_masked_in_every_patch_format(
    client: httpx.AsyncClient, fake: FakePlatform, headers: dict[str, str], body: bytes
) -> None:
    response = await client.patch(
        "/DocumentReference", params={"identifier": IDENTIFIER, **PATIENT}, content=body, headers=headers
    )
    assert response.status_code == 200, response.text
    parsed(response.json())
    (change,) = fake.changes
    assert (change.change, change.expected_version) == (document_pb2.DOCUMENT_CHANGE_MASK, 1)
    assert response.headers["etag"] == 'W/"2"'
    assert MASKED in response.json()["securityLabel"]


OTHERS: list[tuple[str, Any, document_pb2.DocumentChange.ValueType]] = [
    (
        "archive",
        [{"op": "add", "path": "/extension", "value": [{"url": IS_ARCHIVED, "valueBoolean": True}]}],
        document_pb2.DOCUMENT_CHANGE_ARCHIVE,
    ),
    (
        "delete",
        [{"op": "replace", "path": "/status", "value": "entered-in-error"}],
        document_pb2.DOCUMENT_CHANGE_DELETE,
    ),
    (
        "delete by the other word",
        [{"op": "replace", "path": "/status", "value": "superseded"}],
        document_pb2.DOCUMENT_CHANGE_DELETE,
    ),
    (
        "delete by the newer draft",
        [{"op": "add", "path": "/extension", "value": [{"url": IS_DELETED, "valueBoolean": True}]}],
        document_pb2.DOCUMENT_CHANGE_DELETE,
    ),
]


@pytest.mark.parametrize(("body", "change"), [each[1:] for each in OTHERS], ids=[each[0] for each in OTHERS])
async def test_each_patch_is_one_change_of_the_record(
    client: httpx.AsyncClient, fake: FakePlatform, body: Any, change: int
) -> None:
    params = {"identifier": IDENTIFIER}
    response = await client.patch("/DocumentReference", params=params, content=orjson.dumps(body), headers=JSON_PATCH)
    assert response.status_code == 200, response.text
    assert [each.change for each in fake.changes] == [change]


async def test_unarchiving_and_unmasking_undo(client: httpx.AsyncClient, fake: FakePlatform) -> None:
    url = f"/DocumentReference?identifier={IDENTIFIER}"
    for body in (
        [{"op": "add", "path": "/extension", "value": [{"url": IS_ARCHIVED, "valueBoolean": True}]}],
        [{"op": "replace", "path": "/extension/0/valueBoolean", "value": False}],
        [{"op": "add", "path": "/securityLabel/-", "value": MASKED}],
        [{"op": "remove", "path": "/securityLabel/1"}],
        [
            {"op": "test", "path": "/status", "value": "current"},
            {"op": "replace", "path": "/status", "value": "current"},
        ],
    ):
        response = await client.patch(url, content=orjson.dumps(body), headers=JSON_PATCH)
        assert response.status_code == 200, response.text
    names = [document_pb2.DocumentChange.Name(each.change) for each in fake.changes]
    assert [name.removeprefix("DOCUMENT_CHANGE_") for name in names] == ["ARCHIVE", "UNARCHIVE", "MASK", "UNMASK"]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (orjson.dumps([{"op": "replace", "path": "/description", "value": "x"}]), JSON_PATCH),
        (orjson.dumps([{"op": "remove", "path": "/content/0"}]), JSON_PATCH),
        (orjson.dumps(operation("replace", "DocumentReference.type", value={"valueCode": "x"})), FHIR),
        (b'<diff><replace sel="f:DocumentReference/f:date/@value">2020</replace></diff>', XML_PATCH),
        (orjson.dumps([{"op": "add", "path": "/extension", "value": [{"url": "http://x.test"}]}]), JSON_PATCH),
    ],
)
async def test_any_other_element_is_405(
    client: httpx.AsyncClient, fake: FakePlatform, body: bytes, headers: dict[str, str]
) -> None:
    response = await client.patch(f"/DocumentReference?identifier={IDENTIFIER}", content=body, headers=headers)
    issues(response, 405)
    assert response.headers["allow"]
    assert fake.changes == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ([{"op": "replace", "path": "/status", "value": "current-ish"}], 422),
        ([{"op": "add", "path": "/securityLabel/-", "value": {"coding": [{"code": "INVISIBLE_PATIENT"}]}}], 422),
        ([{"op": "remove", "path": "/securityLabel/0"}], 422),
        ([{"op": "remove", "path": "/securityLabel/7"}], 422),
        ([{"op": "test", "path": "/status", "value": "superseded"}], 422),
        ([{"op": "move", "from": "/status", "path": "/securityLabel"}], 422),
        ([{"op": "replace", "path": "/status"}], 400),
        ([], 400),
        ({}, 400),
        ([{"op": "add", "path": "/securityLabel/-", "value": "x"}], 400),
        (
            [
                {"op": "replace", "path": "/status", "value": "entered-in-error"},
                {"op": "add", "path": "/securityLabel/-", "value": MASKED},
            ],
            422,
        ),
    ],
)
async def test_what_cannot_be_done_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, fake: FakePlatform, body: Any, status: int
) -> None:
    response = await client.patch(
        f"/DocumentReference?identifier={IDENTIFIER}", content=orjson.dumps(body), headers=JSON_PATCH
    )
    issues(response, status)
    assert fake.changes == []


async def test_if_match_holds_a_change_back(client: httpx.AsyncClient, fake: FakePlatform) -> None:
    body = orjson.dumps([{"op": "replace", "path": "/status", "value": "entered-in-error"}])
    url = f"/DocumentReference?identifier={IDENTIFIER}"
    issues(await client.patch(url, content=body, headers=JSON_PATCH | {"If-Match": 'W/"9"'}), 412)
    issues(await client.patch(url, content=body, headers=JSON_PATCH | {"If-Match": "nine"}), 400)
    assert (await client.patch(url, content=body, headers=JSON_PATCH | {"If-Match": 'W/"1"'})).status_code == 200


async def test_deleting_twice_deletes_once_and_says_so(client: httpx.AsyncClient, fake: FakePlatform) -> None:
    body = orjson.dumps([{"op": "replace", "path": "/status", "value": "entered-in-error"}])
    (name,) = fake.documents
    by_id = Links(BASE, external_ids()).document_id(name)
    for url in (f"/DocumentReference?identifier={IDENTIFIER}", f"/DocumentReference/{by_id}"):
        for _ in range(2):
            response = await client.patch(url, content=body, headers=JSON_PATCH)
            assert response.status_code == 200, response.text
            parsed(response.json())
            assert response.json()["status"] == "entered-in-error"
    assert len(fake.changes) == 1


async def test_a_patch_of_nothing_and_of_several(client: httpx.AsyncClient, fake: FakePlatform) -> None:
    body = orjson.dumps([{"op": "replace", "path": "/status", "value": "entered-in-error"}])
    unknown = {"identifier": "urn:ietf:rfc:3986|urn:oid:1.2.3"}
    issues(await client.patch("/DocumentReference", params=unknown, content=body, headers=JSON_PATCH), 404)
    assert (await client.post("/DocumentReference", json=simplified(), headers=FHIR)).status_code == 201
    found = issues(
        await client.patch("/DocumentReference", params={"identifier": IDENTIFIER}, content=body, headers=JSON_PATCH),
        412,
    )
    assert expressions(found) == ["identifier"]
    issues(await client.patch("/DocumentReference", content=body, headers=JSON_PATCH), 400)


async def test_a_conditional_create_makes_one(client: httpx.AsyncClient, fake: FakePlatform) -> None:
    fake.unique = True
    headers = FHIR | {"If-None-Exist": f"identifier={IDENTIFIER}"}
    response = await client.post("/DocumentReference", json=simplified(), headers=headers)
    assert response.status_code == 200
    assert response.headers["location"].startswith(f"{BASE}/DocumentReference/")
    assert len(fake.documents) == 1
    other = FHIR | {"If-None-Exist": "identifier=urn:ietf:rfc:3986|urn:oid:1.2.3"}
    assert expressions(issues(await client.post("/DocumentReference", json=simplified(), headers=other), 400)) == [
        "If-None-Exist"
    ]


class TestLists:
    async def test_submission_sets_come_with_their_documents_page_by_page(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        assert (await client.post(BASE, json=bundle(2), headers=FHIR)).status_code == 200
        response = await client.get(
            "/List", params={**PATIENT, "code": "submissionset", "status": "current", "_count": 1}
        )
        page = response.json()
        parsed(page)
        assert page["total"] == 2
        (link,) = [each["url"] for each in page["link"] if each["relation"] == "next"]
        assert INS not in link
        second = (await client.get(link)).json()
        (found,) = [each["resource"] for each in second["entry"]]
        assert len(found["entry"]) == 2
        assert found["source"] == {"reference": "#source"}
        read = await client.get(f"/List/{found['id']}")
        parsed(read.json())
        assert read.json()["entry"] == found["entry"]

    async def test_a_folder_is_a_list_too(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        sent = bundle(1)
        folder = orjson.loads(orjson.dumps(sent["entry"][0]))
        folder["fullUrl"] = "urn:uuid:00000000-0000-4000-8000-0000000000f0"
        folder["resource"]["code"]["coding"][0]["code"] = "folder"
        folder["resource"]["identifier"][0]["value"] = "urn:oid:1.2.250.1.999.77"
        folder["resource"]["title"] = "Grossesse"
        sent["entry"].append(folder)
        sent["entry"][0]["resource"]["entry"].append({"item": {"reference": folder["fullUrl"]}})
        answer = (await client.post(BASE, json=sent, headers=FHIR)).json()
        location = answer["entry"][3]["response"]["location"]
        read = await client.get(f"/{location}", headers={"Accept": "application/fhir+xml"})
        assert parsed_xml(read.content).title == "Grossesse"
        found = (await client.post("/List/_search", data={**PATIENT, "code": "folder"})).json()
        parsed(found)
        assert [each["resource"]["title"] for each in found["entry"]] == ["Grossesse"]
        assert len(found["entry"][0]["resource"]["entry"]) == 1

    async def test_a_list_of_no_kind_is_refused_and_an_empty_answer_is_200(self, client: httpx.AsyncClient) -> None:
        assert expressions(issues(await client.get("/List", params=PATIENT), 400)) == ["code"]
        response = await client.get("/List", params={**PATIENT, "code": "submissionset", "status": "retired"})
        assert (response.status_code, response.json()["total"]) == (200, 0)
        issues(await client.get("/List/" + "a" * 64), 404)
