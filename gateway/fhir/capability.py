"""The CapabilityStatement, made from the table of interactions. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.fhir.document_out import PROFILE
from gateway.fhir.interactions import INTERACTIONS, Interaction
from gateway.fhir.negotiation import FHIR_JSON, FHIR_XML, JSON_PATCH, XML_PATCH
from gateway.fhir.node import JsonObject
from gateway.fhir.parameters import SearchParameter
from gateway.fhir.person_out import PROFILE as PATIENT_PROFILE
from gateway.fhir.submission import FOLDER_PROFILES, LIST_PROFILES

_DATE: Final = "2026-11-25"
_BALP: Final = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.Patient"
_PROFILES: Final[Mapping[str, Sequence[str]]] = {
    "AuditEvent": tuple(f"{_BALP}{kind}" for kind in ("Create", "Read", "Update", "Delete", "Query")),
    "DocumentReference": (PROFILE,),
    "List": (LIST_PROFILES[0], FOLDER_PROFILES[0]),
    "Patient": (PATIENT_PROFILE,),
}
_SERVICES: Final = "http://terminology.hl7.org/CodeSystem/restful-security-service"
_OWN_PARAMETERS: Final = "https://dmp.sante.fr/fhir/SearchParameter"
_R4: Final = "http://hl7.org/fhir/SearchParameter"
_MHD: Final = "https://profiles.ihe.net/ITI/MHD/SearchParameter"
_PDSM: Final = "https://interop.esante.gouv.fr/ig/fhir/pdsm/SearchParameter"
_CLINICAL: Final = ("patient", "identifier", "code", "date", "type")
_OWN_OF_R4: Final[Mapping[str, Sequence[str]]] = {
    "AuditEvent": ("action", "agent", "date", "entity", "outcome", "subtype"),
    "Consent": ("actor", "category", "status"),
    "DocumentReference": (
        "author", "category", "date", "event", "facility", "format", "period", "related", "relatesto", "relation",
        "security-label", "setting", "status",
    ),
    "List": ("source", "status"),
    "Organization": ("active", "address-postalcode", "identifier", "name", "type"),
    "Patient": ("active", "identifier"),
    "Practitioner": ("active", "identifier", "name"),
    "PractitionerRole": ("active", "organization", "practitioner", "specialty"),
}  # fmt: skip
_OF_PEOPLE: Final = (
    "address", "address-city", "address-country", "address-postalcode", "address-state", "birthdate", "family",
    "gender", "given", "telecom",
)  # fmt: skip
_DEFINITIONS: Final[Mapping[str, str]] = {
    "_id": f"{_R4}/Resource-id",
    "_lastUpdated": f"{_R4}/Resource-lastUpdated",
    **{
        f"{kind}-{name}": f"{_R4}/clinical-{name}"
        for kind in ("Consent", "DocumentReference", "List")
        for name in _CLINICAL
    },
    "AuditEvent-patient": f"{_R4}/AuditEvent-patient",
    **{f"{kind}-{name}": f"{_R4}/individual-{name}" for kind in ("Patient", "Practitioner") for name in _OF_PEOPLE},
    **{f"{kind}-{name}": f"{_R4}/{kind}-{name}" for kind, names in _OWN_OF_R4.items() for name in names},
    "DocumentReference-creation": f"{_MHD}/DocumentReference-Creation",
    "DocumentReference-isArchived": f"{_PDSM}/PDSm-isArchived",
    "DocumentReference-period-start": f"{_PDSM}/PDSm-DocumentReference-period-start",
    "DocumentReference-period-end": f"{_PDSM}/PDSm-DocumentReference-period-end",
    "Patient-mothersMaidenName": f"{_R4}/patient-extensions-Patient-mothersMaidenName",
    "List-isArchived": f"{_PDSM}/PDSm-isArchived",
    "List-authorOrg": f"{_PDSM}/PDSm-List-authorOrg",
    "List-designationType": f"{_MHD}/List-DesignationType",
    "List-sourceId": f"{_MHD}/List-SourceId",
}
"""The canonical URLs of search parameters that R4, MHD and PDSm define."""
_OPERATIONS: Final = "https://dmp.sante.fr/fhir/OperationDefinition"
_DEFINED_ELSEWHERE: Final[Mapping[str, str]] = {
    "Patient-ihe-pix": "https://profiles.ihe.net/ITI/PIXm/OperationDefinition/IHE.PIXm.pix",
    "Patient-match": "https://profiles.ihe.net/ITI/PDQm/OperationDefinition/PDQmMatch",
}
"""The canonical URLs of operations that IHE defines."""


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
        resource["supportedProfile"] = list(_PROFILES[name])
    resource["interaction"] = [{"code": code, "documentation": _all(found)} for code, found in codes.items()]
    if "vread" in codes or "read" in codes:
        resource["versioning"] = "versioned" if "vread" in codes else "versioned-update"
    if any(found.conditional for found in codes.get("create", ())):
        resource["conditionalCreate"] = True
    if any(found.conditional for found in codes.get("update", ())):
        resource["conditionalUpdate"] = True
    parameters = {p.name: p for found in codes.get("search-type", ()) for p in found.parameters}
    if parameters:
        resource["searchParam"] = [_search_parameter(name, parameter) for parameter in parameters.values()]
    operations = _operations(name)
    if operations:
        resource["operation"] = operations
    return {key: value for key, value in resource.items() if value != []}


def _search_parameter(resource: str, parameter: SearchParameter) -> JsonObject:
    """A parameter with the definition that it has elsewhere; what names a part of what a reference points to (chained:
    `author.family`) has none, and what R4 does not know is defined here."""
    written: JsonObject = {"name": parameter.name}
    if "." not in parameter.name:
        known = _DEFINITIONS.get(f"{resource}-{parameter.name}") or _DEFINITIONS.get(parameter.name)
        written["definition"] = known or f"{_OWN_PARAMETERS}/{resource}-{parameter.name}"
    return {**written, "type": parameter.type, "documentation": parameter.documentation}


def _all(found: list[Interaction]) -> str:
    """The texts of the interactions with one code, each once."""
    return " ".join(dict.fromkeys(describe(each) for each in found))


def _operations(resource: str) -> list[JsonObject]:
    found: dict[str, JsonObject] = {}
    for each in INTERACTIONS:
        name = each.path.rpartition("$")[2]
        defined = f"{resource or 'System'}-{name}"
        if each.code == "operation" and each.resource == resource:
            found.setdefault(
                name,
                {
                    "name": name,
                    "definition": _DEFINED_ELSEWHERE.get(defined, f"{_OPERATIONS}/{defined}"),
                    "documentation": describe(each),
                },
            )
    return list(found.values())
