"""The official examples at the running platform, about somebody who is registered there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.fhir_http import of, simplified
from tests.conformance.fhir_platform import expressions, issues, parsed
from tests.conformance.fhir_samples import Json
from tests.platform_fixture import Patient, Platform

EXAMPLES: Final = Path(__file__).parents[3] / "shared" / "data" / "fhir"
pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(
        not EXAMPLES.is_dir(), reason="../shared/data/fhir is absent: the published examples are not copied"
    ),
]


PROFILES: Final = "https://interop.esante.gouv.fr/ig/fhir/pdsm/StructureDefinition"
CONTENT: Final = "required: ClinicalDocument/effectiveTime: this element is missing"
"""The examples hold a CDA of a few lines."""
REFUSED: Final[dict[str, tuple[int, str, str]]] = {
    "mhd/AuditEvent-ex-auditFindDocumentReferences-responder.json": (404, "AuditEvent.entity[1].what.reference", ""),
    "mhd/AuditEvent-ex-auditProvideBundle-recipient.json": (404, "AuditEvent.entity[0].what.reference", ""),
    "mhd/AuditEvent-ex-auditRetrieveDocument-responder.json": (404, "AuditEvent.entity[1].what.reference", ""),
    "mhd/Bundle-ex-comprehensiveProvideDocumentBundleReplace.json": (400, "Bundle.entry[2].resource.author", ""),
    "mhd/Bundle-ex-comprehensiveProvideDocumentBundleSimple.json": (400, "Bundle.entry[1].resource.author", ""),
    "mhd/Bundle-ex-minimalProvideDocumentBundleSimple.json": (
        400,
        "Bundle.meta.profile",
        f"profile: the profile is {PROFILES}/",
    ),
    "mhd/Bundle-ex-response-comprehensiveProvideDocumentBundleSimple.json": (400, "Bundle.type", "code"),
    "mhd/DocumentReference-ex-DocumentReferenceSimplifiedPublish.json": (
        404,
        "DocumentReference.subject.reference",
        "dossier",
    ),
    "pdsm/Bundle-example-annexe-fhir-document.json": (400, "Bundle.type", "code: the Bundle is a transaction"),
    "pdsm/Bundle-example-annexe-searchset-documentreferences.json": (400, "Bundle.type", "code"),
    "pdsm/Bundle-example-td2-1-remplacement.json": (
        400,
        "Bundle.entry[1].resource.relatesTo[0].target.reference",
        "reference",
    ),
    "pdsm/Bundle-example-td2-iti65-lot-soumission.json": (400, "Bundle.entry[2].resource.data", CONTENT),
    "pdsm/DocumentReference-doc-x-id.json": (
        422,
        "DocumentReference.meta.profile",
        f"profile: the profile is {PROFILES}/",
    ),
    "pdsm/DocumentReference-example-td2-iti105-publication-simplifiee.json": (
        422,
        "DocumentReference.content[0].attachment.data",
        CONTENT,
    ),
}
"""What is said of each when it is posted about a patient who is known: status, place, how the words begin."""
PATHS: Final = {"Bundle": "", "DocumentReference": "DocumentReference", "AuditEvent": "AuditEvent"}


def about(name: str, patient: Patient) -> Json:
    """An example with the INS of a patient."""
    system, value = patient.identifier.split("|")
    text = (EXAMPLES / name).read_text("utf-8").replace("123456789012345", value)
    for end in ("|", '"'):
        text = text.replace(f"urn:oid:1.2.250.1.213.1.4.8{end}", f"{system}{end}")
    resource: Json = json.loads(text)
    return resource


async def test_each_example_is_refused_for_its_own_slip_at_its_place(platform: Platform) -> None:
    assert set(REFUSED) == {each.relative_to(EXAMPLES).as_posix() for each in EXAMPLES.glob("*/*.json")}
    patient = await platform.patient()
    http = of(platform, patient)
    for name, (status, place, words) in REFUSED.items():
        resource = about(name, patient)
        found = issues(await http.send("POST", PATHS[resource["resourceType"]], resource), status)
        assert expressions(found) == [place], name
        assert found[0]["diagnostics"].startswith(words), name


async def test_the_publication_is_taken_once_it_holds_a_document(platform: Platform) -> None:
    patient = await platform.patient()
    example = about("pdsm/DocumentReference-example-td2-iti105-publication-simplifiee.json", patient)
    sent = {name: value for name, value in example.items() if name in ("resourceType", "meta", "status", "subject")}
    sent["content"] = simplified(patient)["content"]
    answer = await of(platform, patient).send("POST", "DocumentReference", sent)
    assert answer.status_code == 201, answer.text
    parsed(answer.json())
