"""The CapabilityStatement, made from the table of interactions and the tables of search parameters. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.fhir import dossier, search
from gateway.fhir.document_out import PROFILE
from gateway.fhir.interactions import INTERACTIONS, Interaction
from gateway.fhir.node import JsonObject
from gateway.fhir.search import SearchParameter

_DATE: Final = "2026-11-22"
_PARAMETERS: Final[Mapping[str, Sequence[SearchParameter]]] = {
    "Patient": dossier.PARAMETERS,
    "DocumentReference": search.PARAMETERS,
}
_PROFILES: Final[Mapping[str, str]] = {"DocumentReference": PROFILE}
_SERVICES: Final = "http://terminology.hl7.org/CodeSystem/restful-security-service"


def capability_statement(base_url: str, version: str) -> JsonObject:
    """The CapabilityStatement of a server at `base_url`."""
    resources = dict.fromkeys(found.resource for found in INTERACTIONS if found.resource)
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": _DATE,
        "kind": "instance",
        "software": {"name": "dmp", "version": version},
        "implementation": {"description": "Dossier médical partagé: PDSm on IHE MHD", "url": base_url},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [
            {
                "mode": "server",
                "documentation": "PDSm 3.1.1 on IHE MHD 4.2.3. Idempotency-Key makes a submission repeatable.",
                "security": {
                    "service": [{"coding": [{"system": _SERVICES, "code": "OAuth"}]}],
                    "description": "IHE IUA: a bearer token of at most five minutes; scopes are transactions.",
                },
                "resource": [_resource(name) for name in resources],
                "interaction": [
                    {"code": found.code, "documentation": _documentation(found)}
                    for found in INTERACTIONS
                    if found.code == "transaction"
                ],
            }
        ],
    }


def _resource(name: str) -> JsonObject:
    codes: dict[str, Interaction] = {}
    for found in INTERACTIONS:
        if found.resource == name:
            codes.setdefault(found.code, found)
    resource: JsonObject = {"type": name}
    if name in _PROFILES:
        resource["supportedProfile"] = [_PROFILES[name]]
    resource["interaction"] = [{"code": code, "documentation": _documentation(found)} for code, found in codes.items()]
    if name in _PARAMETERS:
        resource["searchParam"] = [
            {"name": parameter.name, "type": parameter.type, "documentation": parameter.documentation}
            for parameter in _PARAMETERS[name]
        ]
    return resource


def _documentation(found: Interaction) -> str:
    return f"{found.documentation} Scope: {' or '.join(sorted(found.scopes))}."
