"""A person of the register as a Patient (PDQm, FR Core), and a description that comes in as traits. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dmp.common.v1.coding_pb2 import Identifier
from dmp.identity.v1 import identity_pb2
from dmp.identity.v1.identity_pb2 import Contact, Person, Traits
from gateway.fhir.codesystems import domain_uri
from gateway.fhir.document_out import Links
from gateway.fhir.identifiers import INS_DOMAINS, patient_identifier
from gateway.fhir.node import LONGEST_CODE, LONGEST_URI, JsonObject, Node
from gateway.fhir.times import partial_date, write
from services.runtime.identifiers import dossier_of

PROFILE: Final = "https://profiles.ihe.net/ITI/PDQm/StructureDefinition/IHE.PDQm.Patient"
BIRTH_PLACE: Final = "http://hl7.org/fhir/StructureDefinition/patient-birthPlace"
_COG: Final = "https://hl7.fr/ig/fhir/core/StructureDefinition/fr-core-address-insee-code"
_COG_SYSTEM: Final = "https://mos.esante.gouv.fr/NOS/TRE_R13-CommuneOM/FHIR/TRE-R13-CommuneOM"
_RELIABILITY: Final = "https://hl7.fr/ig/fhir/core/StructureDefinition/fr-core-identity-reliability"
_RELIABILITIES: Final = "https://hl7.fr/ig/fhir/core/CodeSystem/fr-core-cs-identity-reliability"
_IDENTIFIER_TYPES: Final = "https://hl7.fr/ig/fhir/core/CodeSystem/fr-core-cs-v2-0203"
_BIRTH_LIST: Final = "https://hl7.fr/ig/fhir/core/StructureDefinition/fr-core-patient-birth-list-given-name"
_LONGEST_NAME: Final = 100

GENDERS: Final = {
    identity_pb2.SEX_FEMALE: "female",
    identity_pb2.SEX_MALE: "male",
    identity_pb2.SEX_UNKNOWN: "unknown",
}
SEXES: Final = {
    "female": identity_pb2.SEX_FEMALE,
    "male": identity_pb2.SEX_MALE,
    "unknown": identity_pb2.SEX_UNKNOWN,
    "other": identity_pb2.SEX_UNKNOWN,
}
_STATUSES: Final = {
    identity_pb2.IDENTITY_STATUS_PROVISIONAL: "PROV",
    identity_pb2.IDENTITY_STATUS_RETRIEVED: "RECUP",
    identity_pb2.IDENTITY_STATUS_VALIDATED: "VALI",
    identity_pb2.IDENTITY_STATUS_QUALIFIED: "QUAL",
}


def write_person(person: Person, links: Links, linked: Sequence[str] = ()) -> JsonObject:
    """The Patient of a person; one that was merged is inactive and says by which it was replaced."""
    traits = person.traits
    resource: JsonObject = {
        "resourceType": "Patient",
        "id": links.patient_id(dossier_of(person.name, "name")),
        "meta": _meta(person),
        "extension": _extensions(person),
        "identifier": _identifiers(person),
        "active": not person.merged_into,
        "name": _names(traits),
        "telecom": _telecom(person.contact),
        "gender": GENDERS.get(traits.sex, "unknown"),
        "birthDate": traits.birth_date,
        "address": _address(person.contact),
        "link": _links(person, linked, links),
    }
    return {name: value for name, value in resource.items() if value not in ("", [], {})}


def read_person(patient: Node) -> Person:
    """What a Patient says of a person: traits, contact and identifiers."""
    patient.refuse_modifiers()
    person = Person(traits=read_traits(patient))
    for item in patient.children("identifier", 16):
        system = item.child("system").required().token(LONGEST_URI)
        value = item.child("value").required().token(LONGEST_CODE)
        if item.token(name="use") != "old":
            oid, text = patient_identifier(system, value, item.path)
            person.identifiers.append(Identifier(system=oid, value=text))
    contact = _read_contact(patient)
    if contact.ListFields():
        person.contact.CopyFrom(contact)
    reliability = patient.extension(_RELIABILITY)
    for coding in _codings(reliability):
        for status, code in _STATUSES.items():
            if coding.token(name="code") == code:
                person.status = status
    return person


def read_traits(patient: Node) -> Traits:
    """The identity traits that a Patient states; what it leaves out is empty."""
    traits = Traits(birth_date=partial_date(patient.child("birthDate")))
    for name in patient.children("name", 8):
        family = name.text(_LONGEST_NAME, "family")
        given = [item.text(_LONGEST_NAME) for item in name.child("given").array(16)]
        if name.token(name="use") in ("usual", "nickname"):
            traits.used_name = traits.used_name or family
            traits.used_given_name = traits.used_given_name or (given[0] if given else "")
            continue
        if not traits.birth_name:
            traits.birth_name = family
        if not traits.first_birth_given_name and given:
            traits.first_birth_given_name, traits.birth_given_names = given[0], " ".join(given)
            listed = name.extension(_BIRTH_LIST)
            if listed.present:
                traits.birth_given_names = listed.text(200, "valueString")
    gender = patient.token(name="gender")
    if gender and gender not in SEXES:
        raise patient.child("gender").error("code", "male, female, other or unknown")
    traits.sex = SEXES.get(gender, identity_pb2.SEX_UNKNOWN)
    place = patient.extension(BIRTH_PLACE).child("valueAddress")
    for coding in [place.extension(_COG).child("valueCoding")]:
        traits.birth_place = coding.token(5, "code") if coding.present else ""
    return traits


def _meta(person: Person) -> JsonObject:
    meta: JsonObject = {"versionId": str(person.version or 1), "profile": [PROFILE]}
    if person.HasField("update_time"):
        meta["lastUpdated"] = write(person.update_time)
    return meta


def _extensions(person: Person) -> list[JsonObject]:
    found: list[JsonObject] = []
    status = _STATUSES.get(person.status)
    if status:
        coding = {"system": _RELIABILITIES, "code": status}
        found.append({"url": _RELIABILITY, "extension": [{"url": "identityStatus", "valueCoding": coding}]})
    if person.traits.birth_place:
        code = {"url": _COG, "valueCoding": {"system": _COG_SYSTEM, "code": person.traits.birth_place}}
        found.append({"url": BIRTH_PLACE, "valueAddress": {"extension": [code]}})
    return found


def _identifiers(person: Person) -> list[JsonObject]:
    current = [(each, "official" if each.system in INS_DOMAINS else "usual") for each in person.identifiers]
    old = [
        (held.identifier, "old")
        for held in person.identifier_history
        if held.use == identity_pb2.IDENTIFIER_USE_OLD and held.HasField("identifier")
    ]
    written = []
    for identifier, use in [*current, *old]:
        one: JsonObject = {"use": use, "system": domain_uri(identifier.system), "value": identifier.value}
        if identifier.system in INS_DOMAINS:
            code = "INS-NIA" if identifier.system.endswith(".9") else "INS-NIR"
            one["type"] = {"coding": [{"system": _IDENTIFIER_TYPES, "code": code}]}
        written.append(one)
    return written


def _names(traits: Traits) -> list[JsonObject]:
    birth: JsonObject = {"use": "official"}
    if traits.birth_given_names:
        birth["extension"] = [{"url": _BIRTH_LIST, "valueString": traits.birth_given_names}]
    if traits.birth_name:
        birth["family"] = traits.birth_name
    if traits.first_birth_given_name:
        birth["given"] = [traits.first_birth_given_name]
    names = [birth] if len(birth) > 1 else []
    if traits.used_name or traits.used_given_name:
        used: JsonObject = {"use": "usual"}
        if traits.used_name:
            used["family"] = traits.used_name
        if traits.used_given_name:
            used["given"] = [traits.used_given_name]
        names.append(used)
    return names


def _telecom(contact: Contact) -> list[JsonObject]:
    pairs = (("phone", contact.phone), ("email", contact.email))
    return [{"system": system, "value": value} for system, value in pairs if value]


def _address(contact: Contact) -> list[JsonObject]:
    address: JsonObject = {"line": list(contact.lines), "city": contact.city, "postalCode": contact.postcode}
    address = {name: value for name, value in address.items() if value}
    return [address] if address else []


def _links(person: Person, linked: Sequence[str], links: Links) -> list[JsonObject]:
    found = []
    if person.merged_into:
        found.append((person.merged_into, "replaced-by"))
    found += [(name, "replaces") for name in linked]
    return [
        {"other": {"reference": f"Patient/{links.patient_id(dossier_of(name, 'name'))}"}, "type": kind}
        for name, kind in found
    ]


def _read_contact(patient: Node) -> Contact:
    contact = Contact()
    for address in patient.children("address", 4)[:1]:
        contact.lines.extend(line.text(100) for line in address.child("line").array(5))
        contact.postcode, contact.city = address.text(10, "postalCode"), address.text(100, "city")
    for telecom in patient.children("telecom", 16):
        system, value = telecom.token(name="system"), telecom.text(254, "value")
        if system == "phone" and not contact.phone:
            contact.phone = value
        if system == "email" and not contact.email:
            contact.email = value
    return contact


def _codings(extension: Node) -> list[Node]:
    inner = extension.extension("identityStatus").child("valueCoding")
    return [inner] if inner.present else []
