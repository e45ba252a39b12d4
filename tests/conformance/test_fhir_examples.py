"""The official examples of PDSm and MHD, as a partner would send them: taken, or refused saying exactly what is wrong.

The examples hold slips (an INS with a wrong key, a class that is not that of the type, a hash of hexadecimal text);
each is refused by its name. Once the INS is right, the Bundle goes through to the platform.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest

from tests.conformance.fhir_platform import FakePlatform, expressions, issues, parsed
from tests.conformance.fhir_samples import BASE, FHIR, INS, INS_OID, Json

EXAMPLES = Path(__file__).parents[3] / "shared" / "data" / "fhir"
WRONG_INS, INS_SYSTEM = "123456789012345", "urn:oid:1.2.250.1.213.1.4.8"

pytestmark = pytest.mark.skipif(
    not EXAMPLES.is_dir(), reason="../shared/data/fhir is absent: the published examples are not copied"
)


def text_of(name: str) -> str:
    return (EXAMPLES / name).read_text()


def with_right_ins(name: str) -> Json:
    resource: Json = json.loads(
        re.sub(f'{INS_SYSTEM}(["|])', rf"urn:oid:{INS_OID}\1", text_of(name).replace(WRONG_INS, INS))
    )
    return resource


async def test_the_ins_of_the_examples_has_a_wrong_key(client: httpx.AsyncClient) -> None:
    example = text_of("pdsm/DocumentReference-example-td2-iti105-publication-simplifiee.json")
    (issue,) = issues(await client.post("/DocumentReference", content=example, headers=FHIR), 400)
    assert issue["diagnostics"].startswith("ins.form") or issue["diagnostics"].startswith("ins.key")
    assert issue["expression"] == ["DocumentReference.subject.reference"]


async def test_iti_105_is_taken_once_the_ins_is_right(client: httpx.AsyncClient, fake: FakePlatform) -> None:
    example = with_right_ins("pdsm/DocumentReference-example-td2-iti105-publication-simplifiee.json")
    response = await client.post("/DocumentReference", json=example, headers=FHIR)
    assert response.status_code == 201, response.text
    parsed(response.json())
    document = fake.submissions[0].documents[0].document
    assert document.unique_id == "1.2.250.1.213.1.4.8.99999.1"
    assert (document.type_code.system, document.type_code.code) == ("2.16.840.1.113883.6.1", "11488-4")


async def test_iti_65_is_taken_once_the_ins_is_right(client: httpx.AsyncClient, fake: FakePlatform) -> None:
    example = with_right_ins("pdsm/Bundle-example-td2-iti65-lot-soumission.json")
    response = await client.post(BASE, json=example, headers=FHIR)
    assert response.status_code == 200, response.text
    parsed(response.json())
    (request,) = fake.submissions
    assert request.submission_set.source_id == "1.2.3.4.5.6.7.8"
    assert request.submission_set.content_type.system == "1.2.250.1.213.1.1.4.1"
    assert request.submission_set.author.id.value == "899700218896"
    assert request.documents[0].document.class_code.code == "11"  # not the type's: the document service says so


async def test_a_replacement_goes_through_with_its_patch(client: httpx.AsyncClient, fake: FakePlatform) -> None:
    old = with_right_ins("pdsm/DocumentReference-example-td2-iti105-publication-simplifiee.json")
    published = (await client.post("/DocumentReference", json=old, headers=FHIR)).json()
    text = json.dumps(with_right_ins("pdsm/Bundle-example-td2-1-remplacement.json"))
    found = issues(await client.post(BASE, content=text, headers=FHIR), 400)
    assert expressions(found) == ["Bundle.entry[1].resource.relatesTo[0].target.reference"]  # an id of nobody's
    response = await client.post(BASE, content=text.replace("doc-x-id", published["id"]), headers=FHIR)
    assert response.status_code == 200, response.text
    parsed(response.json())
    assert [entry["response"]["status"] for entry in response.json()["entry"]] == [
        "201 Created",
        "201 Created",
        "200 OK",
        "201 Created",
    ]
    (relation,) = fake.submissions[1].documents[0].relationships
    assert relation.target == next(iter(fake.documents))


async def test_a_document_bundle_is_no_transaction(client: httpx.AsyncClient) -> None:
    example = text_of("pdsm/Bundle-example-annexe-fhir-document.json")
    assert expressions(issues(await client.post(BASE, content=example, headers=FHIR), 400)) == ["Bundle.type"]


@pytest.mark.parametrize(
    ("name", "status", "path"),
    [
        ("mhd/Bundle-ex-minimalProvideDocumentBundleSimple.json", 400, "Bundle.meta.profile"),
        ("mhd/Bundle-ex-comprehensiveProvideDocumentBundleReplace.json", None, ""),
        ("mhd/Bundle-ex-comprehensiveProvideDocumentBundleSimple.json", 400, "Bundle.entry[1].resource.author"),
        ("mhd/Bundle-ex-response-comprehensiveProvideDocumentBundleSimple.json", 400, "Bundle.type"),
    ],
)
async def test_bundles_of_other_countries_are_refused_by_name(
    client: httpx.AsyncClient, name: str, status: int | None, path: str
) -> None:
    response = await client.post(BASE, content=text_of(name), headers=FHIR)
    found = issues(response, status or response.status_code)
    assert 400 <= response.status_code < 500
    assert not path or expressions(found) == [path]


async def test_a_hash_of_hexadecimal_text_is_said_to_be_one(client: httpx.AsyncClient) -> None:
    example = with_right_ins("mhd/Bundle-ex-comprehensiveProvideDocumentBundleSimple.json")
    subject = {"reference": f"Patient?identifier=urn:oid:{INS_OID}|{INS}"}
    for entry in example["entry"][:2]:
        entry["resource"]["subject"] = subject
    reference = example["entry"][1]["resource"]
    reference["author"] = [{"display": "Dr Example"}]
    (issue,) = issues(await client.post(BASE, json=example, headers=FHIR), 400)
    assert issue["expression"] == ["Bundle.entry[1].resource.content[0].attachment.hash"]
    assert "hexadecimal" in issue["diagnostics"]
