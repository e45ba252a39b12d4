"""ITI-78, ITI-119 and ITI-83: parameters and Parameters to requests of the register, and their answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Final

from dmp.common.v1.coding_pb2 import Identifier
from dmp.document.v1.document_pb2 import TimeRange
from dmp.identity.v1 import identity_pb2
from dmp.identity.v1.identity_pb2 import (
    CrossReferenceRequest,
    CrossReferenceResponse,
    MatchPersonRequest,
    MatchPersonResponse,
    Person,
    SearchPeopleRequest,
)
from gateway.fhir import shape
from gateway.fhir.codesystems import domain_uri, is_oid
from gateway.fhir.document_out import Links
from gateway.fhir.identifiers import parse_token, patient_identifier, write_identifier
from gateway.fhir.node import JsonObject, Node
from gateway.fhir.parameters import Parameters, SearchParameter
from gateway.fhir.person_out import PROFILE, SEXES, read_person, write_person
from gateway.fhir.refusals import invalid
from gateway.fhir.search import dates, read_page
from gateway.fhir.times import is_within, narrow
from services.runtime.identifiers import dossier_of

_NOT_HELD: Final = ("address-state", "address-country", "mothersMaidenName")
PARAMETERS: Final = (
    SearchParameter("_id", "token", "id as given in answers"),
    SearchParameter("_lastUpdated", "date", "when the person last changed; with other criteria"),
    SearchParameter("identifier", "token", "system|value: INS or a local number"),
    SearchParameter("active", "token", "true or false (merged into another)"),
    SearchParameter("family", "string", "beginning of the birth or used name; :exact for the whole name"),
    SearchParameter("given", "string", "beginning of a given name; :exact for the whole name"),
    SearchParameter("birthdate", "date", "YYYY-MM-DD; with family, needed where there is no identifier"),
    SearchParameter("gender", "token", "male, female or unknown"),
    SearchParameter("address", "string", "city"),
    SearchParameter("address-city", "string", "city"),
    SearchParameter("address-postalcode", "string", "beginning of the postcode"),
    SearchParameter("address-state", "string", "finds nobody: the register holds none"),
    SearchParameter("address-country", "string", "finds nobody: the register holds none"),
    SearchParameter("telecom", "token", "telephone number or e-mail address, or system|value"),
    SearchParameter("mothersMaidenName", "string", "finds nobody: the register holds none"),
)
_EXACT: Final = ("family", "given", "address", "address-city", "address-postalcode", *_NOT_HELD)
NAMES: Final = frozenset(
    {parameter.name for parameter in PARAMETERS}
    | {f"{name}:exact" for name in _EXACT}
    | {"_count", "_page", "_profile"}
)
PIX_PARAMETERS: Final = (
    SearchParameter("sourceIdentifier", "token", "system|value that is known"),
    SearchParameter(
        "targetSystem", "uri", "domain wanted, such as urn:oid:…; all that the caller may see when left out"
    ),
)
PIX_NAMES: Final = frozenset({parameter.name for parameter in PIX_PARAMETERS})
_GRADES: Final = {
    identity_pb2.MATCH_GRADE_CERTAIN: "certain",
    identity_pb2.MATCH_GRADE_PROBABLE: "probable",
    identity_pb2.MATCH_GRADE_POSSIBLE: "possible",
    identity_pb2.MATCH_GRADE_CERTAINLY_NOT: "certainly-not",
}
_MATCH_GRADE: Final = "http://hl7.org/fhir/StructureDefinition/match-grade"
_LARGEST_PAGE: Final = 50


def wants_traits(parameters: Parameters, scopes: Set[str]) -> bool:
    """Whether this is ITI-78: TD0.2 asks with an identifier alone, unless the profile of PDQm is asked for.

    A token that has the scope of one of the two only asks for that one.
    """
    if not {"ITI-78", "TD0.2"} <= scopes:
        return "ITI-78" in scopes
    profile = parameters.single("_profile").partition("|")[0]
    return {name for name, _ in parameters.pairs} - shape.NAMES != {"identifier"} or profile == PROFILE


def read_search(parameters: Parameters) -> SearchPeopleRequest:
    """The search of ITI-78."""
    page = read_page(parameters, _LARGEST_PAGE)
    request = SearchPeopleRequest(page_size=page.size, page_token=page.token)
    text = _read_identifier(parameters)[0]
    if text:
        oid, value = patient_identifier(*parse_token(text, "identifier"), "identifier")
        request.identifier.CopyFrom(Identifier(system=oid, value=value))
    for name in ("family", "given"):
        exact, begins = parameters.single(f"{name}:exact"), parameters.single(name)
        if exact and begins:
            raise invalid(name, "repeated", "either the whole name or its beginning")
        setattr(request, f"{name}_name", (exact or begins)[:200])
        request.exact = request.exact or bool(exact)
    birth = parameters.single("birthdate").removeprefix("eq")
    if birth and not _is_date(birth):
        raise invalid("birthdate", "date", "one date, with no prefix but eq")
    request.birth_date = birth
    gender = parameters.single("gender")
    if gender and gender not in SEXES:
        raise invalid("gender", "code", "male, female, other or unknown")
    if gender:
        request.sex = SEXES[gender]
    request.city = (_string(parameters, "address-city") or _string(parameters, "address"))[:100]
    request.postcode = _string(parameters, "address-postalcode")[:10]
    return request


def _string(parameters: Parameters, name: str) -> str:
    return parameters.single(f"{name}:exact") or parameters.single(name)


def _read_identifier(parameters: Parameters) -> tuple[str, list[str]]:
    """The one identifier that is sought, '' without one, and the domains whose identifiers are wanted: tokens without a
    value, such as `urn:oid:1.2.3|` (ITI-78: which domains are returned)."""
    tokens = [token for value in parameters.values("identifier") for token in value.split(",")]
    sought = [token for token in tokens if not token.endswith("|")]
    if len(sought) > 1:
        raise invalid("identifier", "repeated", "one identifier is sought; a domain alone is system|")
    return (sought[0] if sought else ""), [token[:-1] for token in tokens if token.endswith("|")]


def shown(parameters: Parameters, people: Sequence[Person]) -> list[Person]:
    """Those people who meet the criteria that the register does not search by, each with the identifiers that are
    wanted."""
    systems = _read_identifier(parameters)[1]
    wanted = {system.removeprefix("urn:oid:") for system in systems}
    if not all(is_oid(system) for system in wanted):
        raise invalid("identifier", "system", "the OID of a domain: urn:oid:…|")
    updated = TimeRange()
    for value in dates(parameters, "_lastUpdated"):
        narrow(updated, value, "_lastUpdated")
    kept = [each for each in people if _matches(parameters, each) and is_within(updated, each.update_time)]
    for each in kept if wanted else ():
        held = [one for one in each.identifiers if one.system in wanted]
        del each.identifiers[:], each.identifier_history[:]
        each.identifiers.extend(held)
    return kept


def _matches(parameters: Parameters, person: Person) -> bool:
    contact = person.contact
    telecom = parameters.single("telecom").rpartition("|")[2]
    exact = (
        (parameters.single("address-postalcode:exact"), contact.postcode),
        (parameters.single("address-city:exact") or parameters.single("address:exact"), contact.city),
        (telecom, contact.email if "@" in telecom else contact.phone),
        *((_string(parameters, name), "") for name in _NOT_HELD),
    )
    return matches_active(parameters, bool(person.merged_into)) and all(wanted in ("", held) for wanted, held in exact)


def matches_active(parameters: Parameters, merged: bool) -> bool:
    """Whether a person passes the criterion `active`."""
    wanted = parameters.single("active")
    if wanted not in ("", "true", "false"):
        raise invalid("active", "code", "true or false")
    return not wanted or (wanted == "false") == merged


def read_match(parameters: Node) -> MatchPersonRequest:
    """The request of ITI-119."""
    by_name = {item.token(name="name"): item for item in parameters.child("parameter").required().array(16)}
    if "resource" not in by_name:
        raise invalid("Parameters.parameter", "required", "the parameter resource is the Patient to match")
    patient = by_name["resource"].child("resource").required()
    if patient.token(name="resourceType") != "Patient":
        raise patient.child("resourceType").error("expected", "the resource to match is a Patient")
    person = read_person(patient)
    request = MatchPersonRequest(traits=person.traits, identifiers=person.identifiers)
    if person.HasField("contact"):
        request.contact.CopyFrom(person.contact)
    if "onlyCertainMatches" in by_name:
        request.only_certain = by_name["onlyCertainMatches"].boolean("valueBoolean")
    if "count" in by_name:
        request.count = by_name["count"].integer("valueInteger", 1, 50) or 0
    return request


def write_matches(response: MatchPersonResponse, links: Links) -> JsonObject:
    """The searchset of ITI-119: each candidate with its score and grade."""
    entries = []
    for candidate in response.candidates:
        patient = write_person(candidate.person, links)
        grade = {"url": _MATCH_GRADE, "valueCode": _GRADES.get(candidate.grade, "possible")}
        search = {"extension": [grade], "mode": "match", "score": round(min(max(candidate.score, 0.0), 1.0), 4)}
        entries.append({"fullUrl": links.url("Patient", patient["id"]), "resource": patient, "search": search})
    bundle: JsonObject = {"resourceType": "Bundle", "type": "searchset", "total": len(entries)}
    return {**bundle, "entry": entries} if entries else bundle


def read_cross_reference(parameters: Parameters) -> CrossReferenceRequest:
    """The request of ITI-83."""
    text = parameters.single("sourceIdentifier")
    if not text:
        raise invalid("sourceIdentifier", "required", "the known identifier: system|value")
    oid, value = patient_identifier(*parse_token(text, "sourceIdentifier"), "sourceIdentifier")
    request = CrossReferenceRequest(source=Identifier(system=oid, value=value))
    for target in parameters.values("targetSystem"):
        system = target.removeprefix("urn:oid:")
        if not is_oid(system):
            raise invalid("targetSystem", "system", "the OID of a domain: urn:oid:…")
        request.target_systems.append(system)
    return request


def write_cross_reference(response: CrossReferenceResponse, wanted: Sequence[str], links: Links) -> JsonObject:
    """The Parameters of ITI-83: each identifier, and the Patient of the platform."""
    found: list[JsonObject] = [
        {"name": "targetIdentifier", "valueIdentifier": write_identifier(each)} for each in response.identifiers
    ]
    if not wanted:
        reference = f"Patient/{links.patient_id(dossier_of(response.name, 'name'))}"
        found.append({"name": "targetId", "valueReference": {"reference": reference}})
    parameters: JsonObject = {"resourceType": "Parameters"}
    return {**parameters, "parameter": found} if found else parameters


def describes(identifier: Identifier) -> str:
    """system|value of an identifier, as a criterion."""
    return f"{domain_uri(identifier.system)}|{identifier.value}"


def _is_date(text: str) -> bool:
    parts = text.split("-")
    lengths = [len(part) for part in parts]
    return lengths in ([4], [4, 2], [4, 2, 2]) and all(part.isascii() and part.isdigit() for part in parts)
