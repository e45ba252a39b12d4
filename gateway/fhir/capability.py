"""The CapabilityStatement, made from the table of interactions. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.fhir.document_out import PROFILE
from gateway.fhir.interactions import INTERACTIONS, Interaction
from gateway.fhir.negotiation import FHIR_JSON, FHIR_XML, JSON_PATCH, XML_PATCH
from gateway.fhir.node import JsonObject

_DATE: Final = "2026-11-25"
_PROFILES: Final[Mapping[str, str]] = {"DocumentReference": PROFILE}
_SERVICES: Final = "http://terminology.hl7.org/CodeSystem/restful-security-service"
_OPERATIONS: Final = "https://dmp.sante.fr/fhir/OperationDefinition"


def capability_statement(base_url: str, version: str) -> JsonObject:
    """The CapabilityStatement of a server at `base_url`."""
    resources = dict.fromkeys(found.resource for found in INTERACTIONS if found.resource)
    rest: JsonObject = {
        "mode": "server",
        "documentation": "PDSm 3.1.1 on IHE MHD 4.2.3. Idempotency-Key makes a change repeatable.",
        "security": {
            "service": [{"coding": [{"system": _SERVICES, "code": "OAuth"}]}],
            "description": "IHE IUA: a bearer token of at most five minutes; scopes are transactions.",
        },
        "resource": [_resource(name) for name in resources],
        "interaction": [
            {"code": found.code, "documentation": describe(found)}
            for found in INTERACTIONS
            if found.code == "transaction"
        ],
    }
    operations = _operations("")
    if operations:
        rest["operation"] = operations
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": _DATE,
        "kind": "instance",
        "software": {"name": "dmp", "version": version},
        "implementation": {"description": "Dossier médical partagé: PDSm on IHE MHD", "url": base_url},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "application/fhir+xml", "json", "xml"],
        **_patch_formats(),
        "rest": [rest],
    }


def _patch_formats() -> JsonObject:
    if not any(found.code == "patch" for found in INTERACTIONS):
        return {}
    return {"patchFormat": [JSON_PATCH, XML_PATCH, FHIR_JSON, FHIR_XML]}


def describe(found: Interaction) -> str:
    """What an interaction does, and the scope that it needs."""
    if found.rpc is None:
        return found.documentation
    return f"{found.documentation} Scope: {' or '.join(sorted(found.scopes))}."


def _resource(name: str) -> JsonObject:
    codes: dict[str, list[Interaction]] = {}
    for found in INTERACTIONS:
        if found.resource == name and found.code not in ("operation", ""):
            codes.setdefault(found.code, []).append(found)
    resource: JsonObject = {"type": name}
    if name in _PROFILES:
        resource["supportedProfile"] = [_PROFILES[name]]
    resource["interaction"] = [{"code": code, "documentation": _all(found)} for code, found in codes.items()]
    if "vread" in codes or "read" in codes:
        resource["versioning"] = "versioned" if "vread" in codes else "versioned-update"
    if any(found.conditional for found in codes.get("create", ())):
        resource["conditionalCreate"] = True
    if any(found.conditional for found in codes.get("update", ())):
        resource["conditionalUpdate"] = True
    parameters = {p.name: p for found in codes.get("search-type", ()) for p in found.parameters}
    if parameters:
        resource["searchParam"] = [
            {"name": parameter.name, "type": parameter.type, "documentation": parameter.documentation}
            for parameter in parameters.values()
        ]
    operations = _operations(name)
    if operations:
        resource["operation"] = operations
    return {key: value for key, value in resource.items() if value != []}


def _all(found: list[Interaction]) -> str:
    """The texts of the interactions with one code, each once."""
    return " ".join(dict.fromkeys(describe(each) for each in found))


def _operations(resource: str) -> list[JsonObject]:
    found: dict[str, JsonObject] = {}
    for each in INTERACTIONS:
        name = each.path.rpartition("$")[2]
        if each.code == "operation" and each.resource == resource:
            found.setdefault(
                name,
                {
                    "name": name,
                    "definition": f"{_OPERATIONS}/{resource or 'System'}-{name}",
                    "documentation": describe(each),
                },
            )
    return list(found.values())
