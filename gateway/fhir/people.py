"""Who wrote, signed or is described: contained FHIR resources to authors and source patient info, and back. Pure.

People come inside the resource that names them (`contained`), or as a logical reference with an identifier; a link to
a resource on some server says nothing here and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dmp.common.v1.coding_pb2 import Author, Identifier
from dmp.document.v1.document_pb2 import Document, SourcePatientInfo
from gateway.fhir.codesystems import IDNPS, IDNST
from gateway.fhir.concepts import read_concept, write_concept
from gateway.fhir.identifiers import read_identifier, write_identifier
from gateway.fhir.node import LONGEST_URI, JsonObject, Node
from gateway.fhir.refusals import unsupported
from gateway.fhir.times import partial_date

_LONGEST_NAME: Final = 200
_SEX_OF_GENDER: Final = {"male": "M", "female": "F", "other": "U", "unknown": "U"}
_GENDER_OF_SEX: Final = {"M": "male", "F": "female", "U": "unknown"}
_PEOPLE: Final = "a contained Practitioner, PractitionerRole, Organization or Device"


def contained(resource: Node, reference: Node) -> Node:
    """The contained resource that a Reference points to; an absent node when it only has an identifier."""
    target = reference.token(LONGEST_URI, "reference")
    if not target:
        return Node(reference.path, None)
    if not target.startswith("#"):
        raise unsupported(f"{reference.path}.reference", f"the link is to {_PEOPLE}: #id")
    for item in resource.children("contained", 64):
        if item.token(64, "id") == target[1:]:
            return item
    raise reference.child("reference").error("contained", "no contained resource has this id")


def read_author(resource: Node, reference: Node) -> Author:
    """The author that a Reference of `resource` names."""
    found = contained(resource, reference)
    if not found.present:
        author = Author(name=reference.text(_LONGEST_NAME, "display"))
        _set_id(author, read_identifier(reference.child("identifier")))
        if not author.name and not author.HasField("id"):
            raise reference.error("author", f"{_PEOPLE}, an identifier, or a name")
        return author
    kind = found.token(name="resourceType")
    if kind == "PractitionerRole":
        return _read_role(resource, found)
    if kind == "Practitioner":
        return _read_practitioner(found)
    if kind == "Organization":
        return _read_organization(found)
    if kind == "Device":
        author = Author(name=_device_name(found))
        _set_id(author, _preferred(found, ""))
        return author
    raise unsupported(f"{found.path}.resourceType", f"an author is {_PEOPLE}")


def read_custodian(resource: Node) -> Author:
    """The structure that a DocumentReference says keeps it, as an author's institution; nothing of one that is only a
    link to some server."""
    custodian = resource.child("custodian")
    if custodian.token(LONGEST_URI, "reference").startswith("#"):
        return _read_organization(contained(resource, custodian))
    return _read_institution(resource, Node(custodian.path, {**custodian.object(), "reference": None}))


def write_custodian(document: Document) -> JsonObject:
    """The Reference to who keeps a document, whom PDSm requires: as it was stated, else the structure of who signs or
    wrote it, else the record itself."""
    for author in (document.custodian, document.legal_authenticator, *document.authors):
        institution = _institution(author)
        if institution:
            return institution
    return {"display": "Dossier médical partagé"}


def _institution(author: Author) -> JsonObject:
    institution: JsonObject = {}
    if author.HasField("institution_id"):
        institution["identifier"] = write_identifier(author.institution_id)
    if author.institution_name:
        institution["display"] = author.institution_name
    return institution


def write_author(author: Author, local_id: str) -> list[JsonObject]:
    """The contained resources of an author, the first of which is the author: a PractitionerRole, with a Practitioner
    where the parts of the name are known, or an Organization when there is no person."""
    institution = _institution(author)
    person: JsonObject = {}
    if author.HasField("id"):
        person["identifier"] = write_identifier(author.id)
    if author.name:
        person["display"] = author.name
    if not person and institution:
        organization: JsonObject = {"resourceType": "Organization", "id": local_id}
        if author.HasField("institution_id"):
            organization["identifier"] = [institution["identifier"]]
        return [organization | ({"name": author.institution_name} if author.institution_name else {})]
    role: JsonObject = {"resourceType": "PractitionerRole", "id": local_id}
    if author.HasField("id"):
        role["identifier"] = [person["identifier"]]
    if person:
        role["practitioner"] = person
    if institution:
        role["organization"] = institution
    if author.HasField("specialty"):
        role["specialty"] = [write_concept(author.specialty)]
    if not author.family_name and not author.given_names:
        return [role]
    practitioner = _practitioner(author, f"{local_id}-person")
    role["practitioner"] = {"reference": f"#{practitioner['id']}", **person}
    return [role, practitioner]


def _practitioner(author: Author, local_id: str) -> JsonObject:
    name: JsonObject = {"text": author.name} if author.name else {}
    if author.family_name:
        name["family"] = author.family_name
    if author.given_names:
        name["given"] = list(author.given_names)
    practitioner: JsonObject = {"resourceType": "Practitioner", "id": local_id, "name": [name]}
    if author.HasField("id"):
        practitioner["identifier"] = [write_identifier(author.id)]
    return practitioner


def read_source_patient(patient: Node) -> SourcePatientInfo:
    """What the producer says of the patient, from a contained Patient."""
    if patient.token(name="resourceType") != "Patient":
        raise patient.child("resourceType").error("patient", "the source patient info is a contained Patient")
    info = SourcePatientInfo(birth_date=partial_date(patient.child("birthDate")))
    for item in patient.children("identifier", 32):
        identifier = read_identifier(item)
        if identifier is not None:
            info.identifiers.append(identifier)
    for name in patient.children("name", 16):
        family = name.text(_LONGEST_NAME, "family")
        if family:
            info.family_names.append(family)
        info.given_names.extend(given.text(_LONGEST_NAME) for given in name.child("given").array(16))
    gender = patient.token(name="gender")
    if gender and gender not in _SEX_OF_GENDER:
        raise patient.child("gender").error("code", "male, female, other or unknown")
    info.sex = _SEX_OF_GENDER.get(gender, "")
    return info


def write_source_patient(info: SourcePatientInfo, local_id: str) -> JsonObject:
    """The contained Patient of a source patient info."""
    patient: JsonObject = {"resourceType": "Patient", "id": local_id}
    if info.identifiers:
        patient["identifier"] = [write_identifier(identifier) for identifier in info.identifiers]
    names: list[JsonObject] = [{"family": family} for family in info.family_names]
    if info.given_names:
        if not names:
            names.append({})
        names[0]["given"] = list(info.given_names)
    if names:
        patient["name"] = names
    if info.sex:
        patient["gender"] = _GENDER_OF_SEX.get(info.sex, "unknown")
    if info.birth_date:
        patient["birthDate"] = info.birth_date
    return patient


def _read_role(resource: Node, role: Node) -> Author:
    author = Author()
    person = role.child("practitioner")
    if person.present:
        author.CopyFrom(_read_person(resource, person))
    if not author.HasField("id"):
        _set_id(author, _preferred(role, IDNPS))
    for concept in [*role.children("specialty", 16), *role.children("code", 16)][:1]:
        author.specialty.CopyFrom(read_concept(concept))
    organization = role.child("organization")
    if organization.present:
        author.MergeFrom(_read_institution(resource, organization))
    if not author.ListFields():
        raise role.error("author", "a PractitionerRole has a practitioner, an identifier or an organization")
    return author


def _read_person(resource: Node, reference: Node) -> Author:
    found = contained(resource, reference)
    if found.present:
        return _read_practitioner(found)
    author = Author(name=reference.text(_LONGEST_NAME, "display"))
    _set_id(author, read_identifier(reference.child("identifier")))
    return author


def _read_practitioner(practitioner: Node) -> Author:
    author = _named(practitioner.children("name", 8))
    _set_id(author, _preferred(practitioner, IDNPS))
    for qualification in practitioner.children("qualification", 16)[:1]:
        code = qualification.child("code")
        if code.children("coding", 16):
            author.specialty.CopyFrom(read_concept(code))
    if not author.name and not author.HasField("id"):
        raise practitioner.error("author", "a Practitioner has an identifier or a name")
    return author


def _read_institution(resource: Node, reference: Node) -> Author:
    found = contained(resource, reference)
    if found.present:
        return _read_organization(found)
    author = Author(institution_name=reference.text(_LONGEST_NAME, "display"))
    identifier = read_identifier(reference.child("identifier"))
    if identifier is not None:
        author.institution_id.CopyFrom(identifier)
    return author


def _read_organization(organization: Node) -> Author:
    author = Author(institution_name=organization.text(_LONGEST_NAME, "name"))
    identifier = _preferred(organization, IDNST)
    if identifier is not None:
        author.institution_id.CopyFrom(identifier)
    if not author.ListFields():
        raise organization.error("author", "an Organization has an identifier or a name")
    return author


def _preferred(node: Node, domain: str) -> Identifier | None:
    """The identifier of this domain, else the first; None when there is none."""
    found = [read_identifier(item) for item in node.children("identifier", 16)]
    for identifier in found:
        if identifier is not None and identifier.system == domain:
            return identifier
    return found[0] if found else None


def _set_id(author: Author, identifier: Identifier | None) -> None:
    if identifier is not None:
        author.id.CopyFrom(identifier)


def _named(names: Sequence[Node]) -> Author:
    """An author with the first of these names, whole and in its parts."""
    for name in names:
        text = name.text(_LONGEST_NAME, "text")
        given = [item.text(_LONGEST_NAME) for item in name.child("given").array(16)]
        family = name.text(_LONGEST_NAME, "family")
        joined = text or " ".join([*given, family] if family else given)
        if len(joined) > _LONGEST_NAME:
            raise name.error("max_length", f"at most {_LONGEST_NAME} characters in all")
        if joined:
            return Author(name=joined, family_name=family, given_names=given)
    return Author()


def _device_name(device: Node) -> str:
    for name in device.children("deviceName", 8):
        return name.text(_LONGEST_NAME, "name")
    return ""
