"""The CapabilityStatement is valid, and true to the routes."""

from __future__ import annotations

import httpx

from gateway.fhir.interactions import INTERACTIONS
from tests.conformance.fhir_platform import FakePlatform, client_of, parsed


async def test_needs_no_token_and_is_valid_fhir(fake: FakePlatform) -> None:
    async with client_of(fake) as client:
        del client.headers["Authorization"]
        response = await client.get("/metadata")
    assert response.status_code == 200
    statement = parsed(response.json())
    assert statement.fhirVersion == "4.0.1"


async def test_lists_what_the_routes_serve(client: httpx.AsyncClient) -> None:
    rest = (await client.get("/metadata")).json()["rest"][0]
    served = {
        (resource["type"], interaction["code"])
        for resource in rest["resource"]
        for interaction in resource["interaction"]
    }
    assert served == {
        (each.resource, each.code) for each in INTERACTIONS if each.resource and each.code not in ("", "operation")
    }
    operations = {
        (resource["type"], operation["name"])
        for resource in rest["resource"]
        for operation in resource.get("operation", ())
    }
    assert {("Patient", "match"), ("Patient", "ihe-pix"), ("AuditEvent", "receipt")} <= operations
    assert [interaction["code"] for interaction in rest["interaction"]] == ["transaction"]


async def test_defines_every_parameter_and_lists_those_that_mhd_requires(client: httpx.AsyncClient) -> None:
    rest = (await client.get("/metadata")).json()["rest"][0]
    listed = {each["type"]: {p["name"]: p for p in each.get("searchParam", ())} for each in rest["resource"]}
    for kind, parameters in listed.items():
        for name, parameter in parameters.items():
            assert parameter["documentation"], (kind, name)
            assert parameter.get("definition", "").startswith("http") or "." in name, (kind, name)
    assert {
        "_id", "_lastUpdated", "author.given", "author.family", "category", "creation", "date", "event", "facility",
        "format", "identifier", "patient", "patient.identifier", "period", "related", "security-label", "setting",
        "status", "type",
    } <= set(listed["DocumentReference"])  # fmt: skip
    assert {
        "_id", "_lastUpdated", "code", "date", "identifier", "patient", "patient.identifier", "source.given",
        "source.family", "status", "designationType", "sourceId",
    } <= set(listed["List"])  # fmt: skip


async def test_names_the_scope_of_each_interaction_from_the_access_option(client: httpx.AsyncClient) -> None:
    rest = (await client.get("/metadata")).json()["rest"][0]
    by_type = {resource["type"]: resource for resource in rest["resource"]}
    create = next(i for i in by_type["DocumentReference"]["interaction"] if i["code"] == "create")
    assert create["documentation"].endswith("Scope: ITI-105.")


async def test_names_profiles_and_operations_by_what_ihe_calls_them(client: httpx.AsyncClient) -> None:
    rest = (await client.get("/metadata")).json()["rest"][0]
    by_type = {resource["type"]: resource for resource in rest["resource"]}
    ihe = "https://profiles.ihe.net/ITI"
    assert by_type["Patient"]["supportedProfile"] == [f"{ihe}/PDQm/StructureDefinition/IHE.PDQm.Patient"]
    assert by_type["Patient"]["conditionalUpdate"] is True
    definitions = {each["name"]: each["definition"] for each in by_type["Patient"]["operation"]}
    assert definitions["ihe-pix"] == f"{ihe}/PIXm/OperationDefinition/IHE.PIXm.pix"
    assert definitions["match"] == f"{ihe}/PDQm/OperationDefinition/PDQmMatch"
    assert definitions["dossier-open"].startswith("https://dmp.sante.fr/")
    assert len(by_type["AuditEvent"]["supportedProfile"]) == 5
    searched = {kind: {each["name"] for each in by_type[kind]["searchParam"]} for kind in ("Patient", "Consent")}
    assert {
        "_id", "_lastUpdated", "active", "family", "given", "identifier", "telecom", "birthdate", "address",
        "address-city", "address-country", "address-postalcode", "address-state", "gender", "mothersMaidenName",
    } <= searched["Patient"]  # fmt: skip
    assert {"_id", "status", "patient", "patient.identifier", "actor"} <= searched["Consent"]
