"""mCSD (ITI-90): professionals, structures and who works where, as FHIR resources, and the searches for them. Pure.

The id of each is its national identifier, which is public: IDNPS, IDNST, or both with a full stop between them.
"""

from __future__ import annotations

import re
from typing import Final

from dmp.common.v1.coding_pb2 import Coding
from dmp.identity.v1.directory_pb2 import (
    Practitioner,
    PractitionerRole,
    SearchPractitionerRolesRequest,
    SearchPractitionersRequest,
    SearchStructuresRequest,
    Structure,
)
from gateway.fhir.codesystems import IDNPS, IDNST, domain_uri
from gateway.fhir.concepts import write_concept
from gateway.fhir.identifiers import known_identifier, parse_token
from gateway.fhir.node import JsonObject
from gateway.fhir.parameters import Parameters, SearchParameter
from gateway.fhir.refusals import invalid
from gateway.fhir.search import read_page
from gateway.fhir.times import write

PRACTITIONER_PARAMETERS: Final = (
    SearchParameter("_id", "token", "IDNPS"),
    SearchParameter("identifier", "token", "system|value: IDNPS or RPPS"),
    SearchParameter("family", "string", "beginning of the family name, two letters at least"),
    SearchParameter("name", "string", "the same as family"),
    SearchParameter("given", "string", "beginning of the given name"),
    SearchParameter("qualification-code", "token", "code of the profession"),
    SearchParameter("specialty", "token", "code of the speciality"),
    SearchParameter("active", "token", "true leaves out those who may not practise"),
)
ORGANIZATION_PARAMETERS: Final = (
    SearchParameter("_id", "token", "IDNST"),
    SearchParameter("identifier", "token", "system|value: IDNST or FINESS"),
    SearchParameter("name", "string", "beginning of the name, two letters at least"),
    SearchParameter("address-postalcode", "string", "beginning of the postcode, two digits at least"),
    SearchParameter("type", "token", "kind of facility"),
    SearchParameter("active", "token", "true leaves out the closed ones"),
)
ROLE_PARAMETERS: Final = (
    SearchParameter("practitioner", "reference", "Practitioner/{IDNPS}"),
    SearchParameter("practitioner.identifier", "token", "system|value: IDNPS or RPPS"),
    SearchParameter("organization", "reference", "Organization/{IDNST}"),
    SearchParameter("organization.identifier", "token", "system|value: IDNST or FINESS"),
    SearchParameter("active", "token", "true leaves out the ended ones"),
    SearchParameter("_include", "special", "PractitionerRole:practitioner, PractitionerRole:organization"),
)
_PAGING: Final = frozenset({"_count", "_page", "_summary"})
PRACTITIONER_NAMES: Final = frozenset({each.name for each in PRACTITIONER_PARAMETERS}) | _PAGING
ORGANIZATION_NAMES: Final = frozenset({each.name for each in ORGANIZATION_PARAMETERS}) | _PAGING
ROLE_NAMES: Final = frozenset({each.name for each in ROLE_PARAMETERS}) | _PAGING
INCLUDES: Final = ("PractitionerRole:practitioner", "PractitionerRole:organization")

_PROFESSIONS: Final = "https://mos.esante.gouv.fr/NOS/TRE_G15-ProfessionSante/FHIR/TRE-G15-ProfessionSante"
_FACILITIES: Final = "https://mos.esante.gouv.fr/NOS/TRE_R02-SecteurActivite/FHIR/TRE-R02-SecteurActivite"
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,62}", re.ASCII)
_HEX: Final = "x-"
_LARGEST: Final = 200


def id_of(text: str) -> str:
    """A national identifier as a FHIR id: itself, or in hexadecimal where it has other characters."""
    return text if _ID.fullmatch(text) and not text.startswith(_HEX) else f"{_HEX}{text.encode().hex()}"


def text_of(id_: str) -> str:
    """The national identifier of such an id; what is none is nobody's."""
    if not id_.startswith(_HEX):
        return id_
    try:
        return bytes.fromhex(id_.removeprefix(_HEX)).decode()
    except ValueError:
        return id_


def write_practitioner(found: Practitioner) -> JsonObject:
    """A Practitioner."""
    qualifications = []
    if found.profession:
        qualifications.append({"code": _concept(_PROFESSIONS, found.profession)})
    qualifications += [{"code": write_concept(each)} for each in found.specialties]
    name: JsonObject = {"use": "official", "family": found.family_name}
    if found.given_name:
        name["given"] = [found.given_name]
    resource: JsonObject = {
        "resourceType": "Practitioner",
        "id": id_of(found.idnps),
        "meta": {"lastUpdated": write(found.update_time)} if found.HasField("update_time") else {},
        "identifier": [{"system": domain_uri(IDNPS), "value": found.idnps}],
        "active": found.active,
        "name": [name],
        "qualification": qualifications,
    }
    return {key: value for key, value in resource.items() if value not in ("", [], {})}


def write_structure(found: Structure) -> JsonObject:
    """An Organization."""
    address = {"city": found.city, "postalCode": found.postcode}
    address = {name: value for name, value in address.items() if value}
    resource: JsonObject = {
        "resourceType": "Organization",
        "id": id_of(found.idnst),
        "meta": {"lastUpdated": write(found.update_time)} if found.HasField("update_time") else {},
        "identifier": [{"system": domain_uri(IDNST), "value": found.idnst}],
        "active": found.active,
        "type": [_concept(_FACILITIES, found.facility_type)] if found.facility_type else [],
        "name": found.display_name,
        "address": [address] if address else [],
    }
    return {key: value for key, value in resource.items() if value not in ("", [], {})}


def write_role(found: PractitionerRole) -> JsonObject:
    """A PractitionerRole."""
    resource: JsonObject = {
        "resourceType": "PractitionerRole",
        "id": f"{id_of(found.idnps)}.{id_of(found.idnst)}",
        "meta": {"lastUpdated": write(found.update_time)} if found.HasField("update_time") else {},
        "active": found.active,
        "practitioner": {
            "reference": f"Practitioner/{id_of(found.idnps)}",
            "identifier": {"system": domain_uri(IDNPS), "value": found.idnps},
        },
        "organization": {
            "reference": f"Organization/{id_of(found.idnst)}",
            "identifier": {"system": domain_uri(IDNST), "value": found.idnst},
        },
        "code": [_concept(_PROFESSIONS, found.profession)] if found.profession else [],
        "specialty": [write_concept(found.specialty)] if _is_coding(found.specialty) else [],
    }
    return {key: value for key, value in resource.items() if value not in ("", [], {})}


def read_practitioners(parameters: Parameters) -> SearchPractitionersRequest:
    """The search for professionals."""
    page = read_page(parameters, _LARGEST)
    return SearchPractitionersRequest(
        idnps=_national(parameters, "identifier", "_id"),
        family_name=(parameters.single("family") or parameters.single("name"))[:100],
        given_name=parameters.single("given")[:100],
        profession=parameters.single("qualification-code").rpartition("|")[2][:8],
        specialty=parameters.single("specialty").rpartition("|")[2][:64],
        active_only=_active(parameters),
        page_size=page.size,
        page_token=page.token,
    )


def read_structures(parameters: Parameters) -> SearchStructuresRequest:
    """The search for structures."""
    page = read_page(parameters, _LARGEST)
    return SearchStructuresRequest(
        idnst=_national(parameters, "identifier", "_id"),
        display_name=parameters.single("name")[:200],
        postcode=parameters.single("address-postalcode")[:10],
        facility_type=parameters.single("type").rpartition("|")[2][:16],
        active_only=_active(parameters),
        page_size=page.size,
        page_token=page.token,
    )


def read_roles(parameters: Parameters) -> SearchPractitionerRolesRequest:
    """The search for who works where."""
    page = read_page(parameters, _LARGEST)
    for wanted in parameters.values("_include"):
        if wanted not in INCLUDES:
            raise invalid("_include", "code", f"one of {', '.join(INCLUDES)}")
    return SearchPractitionerRolesRequest(
        idnps=_national(parameters, "practitioner.identifier", "practitioner"),
        idnst=_national(parameters, "organization.identifier", "organization"),
        active_only=_active(parameters),
        page_size=page.size,
        page_token=page.token,
    )


def _national(parameters: Parameters, identifier: str, reference: str) -> str:
    """The IDNPS or IDNST that an identifier or a reference names."""
    text = parameters.single(identifier)
    if text:
        value = known_identifier(*parse_token(text, identifier), identifier).value
    else:
        value = text_of(parameters.single(reference).rpartition("/")[2])
    if len(value) > 32:
        raise invalid(identifier if text else reference, "max_length", "at most 32 characters")
    return value


def _active(parameters: Parameters) -> bool:
    text = parameters.single("active")
    if text not in ("", "true", "false"):
        raise invalid("active", "code", "true or false")
    return text == "true"


def _concept(system: str, code: str) -> JsonObject:
    return {"coding": [{"system": system, "code": code}]}


def _is_coding(coding: Coding) -> bool:
    return bool(coding.code)
