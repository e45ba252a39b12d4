"""Identifiers: FHIR's (system, value) to ours and back; unique ids; the patient that a link or a parameter names. Pure.

A uniqueId is an OID, a UUID, or `root^extension` (IHE PCC). In FHIR the first two are URIs under `urn:ietf:rfc:3986`,
the third is a value in the domain of its root.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qsl

from dmp.common.v1.coding_pb2 import Identifier
from dmp.common.v1.error_reason_pb2 import ERROR_REASON_PATIENT_MISMATCH
from gateway.fhir.codesystems import PROFESSIONAL_DOMAINS, domain_uri, is_oid, to_oid
from gateway.fhir.node import LONGEST_CODE, LONGEST_URI, JsonObject, Node
from gateway.fhir.refusals import invalid, metadata
from services.runtime.errors import DmpError, FieldViolation

RFC_3986: Final = "urn:ietf:rfc:3986"
IDENTIFIER_TYPES: Final = "https://profiles.ihe.net/ITI/MHD/CodeSystem/IHE.MHD.MHDIdentifierType"
INS_DOMAINS: Final = frozenset({f"1.2.250.1.213.1.4.{last}" for last in ("8", "9", "10", "11")})
"""NIR, NIA, and the test and demonstration domains: 13 characters and a 2-digit key."""

IdentifierKind = Literal["uniqueId", "entryUUID"]
_USE: Final[dict[IdentifierKind, str]] = {"uniqueId": "usual", "entryUUID": "official"}

_INS: Final = re.compile(r"(\d{5})(\d\d|2A|2B)(\d{6})(\d\d)", re.ASCII)
_CORSICA: Final = {"2A": "19", "2B": "18"}
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_URNS: Final = ("urn:oid:", "urn:uuid:")
_PATIENT: Final = "Patient/"
_CONDITIONAL: Final = "Patient?"


@dataclass(frozen=True, slots=True)
class PatientLink:
    """The patient that a request names: an identifier (OID, value), a Patient id that we gave out, or both."""

    identifier: tuple[str, str] | None = None
    patient_id: str = ""
    field: str = ""

    def same_patient(self, other: PatientLink) -> bool:
        """Whether both name the patient in the same words."""
        return (self.identifier, self.patient_id) == (other.identifier, other.patient_id)


def unique_id_of(system: str, value: str, field: str) -> str:
    """The uniqueId that an identifier states; INVALID_FIELD when it is none of the three forms."""
    if system == RFC_3986:
        if value.startswith("urn:oid:") and is_oid(value[8:]):
            return value[8:]
        if value.startswith("urn:uuid:") and _UUID.fullmatch(value[9:]):
            return value[9:]
        raise invalid(field, "unique_id", "under urn:ietf:rfc:3986 the value is urn:oid:… or urn:uuid:…")
    root = system.removeprefix("urn:oid:").removeprefix("urn:uuid:")
    if not (is_oid(root) or _UUID.fullmatch(root)):
        raise invalid(field, "unique_id", "the system is urn:ietf:rfc:3986, or urn:oid:… for a value in its domain")
    if not value or "^" in value:
        raise invalid(field, "unique_id", "the value in the domain of an OID has no ^ and is not empty")
    return f"{root}^{value}"


def unique_id_token(text: str, field: str) -> str:
    """The uniqueId that a search token names: `system|value`, or a URN alone, which is its value in whatever system."""
    if "|" not in text and text.startswith(_URNS):
        return unique_id_of(RFC_3986, text, field)
    return unique_id_of(*parse_token(text, field), field)


def write_unique_id(unique_id: str) -> JsonObject:
    """System and value of a uniqueId."""
    root, caret, extension = unique_id.partition("^")
    urn = f"urn:uuid:{root}" if _UUID.fullmatch(root) else domain_uri(root)
    return {"system": urn, "value": extension} if caret else {"system": RFC_3986, "value": urn}


def typed_identifier(kind: IdentifierKind, system_and_value: JsonObject) -> JsonObject:
    """An Identifier told apart both by `use` (MHD 4.2.3) and by `type` (the newer draft)."""
    return {"use": _USE[kind], "type": {"coding": [{"system": IDENTIFIER_TYPES, "code": kind}]}, **system_and_value}


def is_kind(node: Node, kind: IdentifierKind) -> bool:
    """Whether an Identifier says by `use` or by `type` that it is of this kind."""
    codings = node.child("type").children("coding", 16)
    if any(c.uri("system") == IDENTIFIER_TYPES and c.token(name="code") == kind for c in codings):
        return True
    return not codings and node.token(name="use") == _USE[kind]


def read_unique_id(node: Node) -> str:
    """The uniqueId in an Identifier element; '' when absent."""
    if not node.present:
        return ""
    system = node.child("system").required().token(LONGEST_URI)
    return unique_id_of(system, node.child("value").required().token(256), node.path)


def read_identifier(node: Node) -> Identifier | None:
    """An Identifier whose system is an OID or a domain that we know; None when absent."""
    if not node.present:
        return None
    system = node.child("system").required().token(LONGEST_URI)
    return known_identifier(system, node.child("value").required().token(LONGEST_CODE), f"{node.path}.system")


def known_identifier(system: str, value: str, field: str) -> Identifier:
    """The identifier of a system that is an OID or a domain that we know."""
    if system in PROFESSIONAL_DOMAINS:
        oid, prefix = PROFESSIONAL_DOMAINS[system]
        return Identifier(system=oid, value=prefix + value)
    found = to_oid(system)
    if found is None:
        raise invalid(field, "oid", "the system is urn:oid:… or a domain that the platform knows")
    if len(value) > LONGEST_CODE:
        raise invalid(field, "max_length", f"at most {LONGEST_CODE} characters")
    return Identifier(system=found, value=value)


def write_identifier(identifier: Identifier) -> JsonObject:
    """System and value of an identifier."""
    return {"system": domain_uri(identifier.system), "value": identifier.value}


def parse_token(text: str, field: str) -> tuple[str, str]:
    """A token parameter `system|value` that must have both."""
    system, bar, value = text.partition("|")
    if not bar or not system or not value:
        raise invalid(field, "token", "system|value, both present")
    return system, value


def patient_identifier(system: str, value: str, field: str) -> tuple[str, str]:
    """(OID, value) of a patient identifier. The form and the key of an INS are checked here."""
    oid = system.removeprefix("urn:oid:")
    if not is_oid(oid):
        raise invalid(field, "system", "the system is the OID of the identifier's domain: urn:oid:…")
    if len(value) > LONGEST_CODE or not value.isprintable() or value != value.strip():
        raise invalid(field, "value", f"the value is 1 to {LONGEST_CODE} printable characters without outer spaces")
    if oid in INS_DOMAINS:
        check_ins(value, field)
    return oid, value


def check_ins(value: str, field: str) -> None:
    """Refuse an INS of the wrong form or with the wrong key (97 - N mod 97; 2A counts as 19, 2B as 18)."""
    match = _INS.fullmatch(value)
    if match is None:
        raise invalid(field, "ins.form", "an INS is 13 characters and a 2-digit key")
    number = int(match[1] + _CORSICA.get(match[2], match[2]) + match[3])
    if 97 - number % 97 != int(match[4]):
        raise invalid(field, "ins.key", "the 2-digit key does not belong to the INS")


def patient_reference(text: str, field: str, base_url: str) -> PatientLink:
    """The patient of a reference: `Patient/{id}` of ours, or the conditional `Patient?identifier=system|value`."""
    local = text.removeprefix(base_url + "/")
    if local.startswith(_PATIENT):
        return PatientLink(patient_id=local.removeprefix(_PATIENT), field=field)
    if not local.startswith(_CONDITIONAL):
        raise invalid(field, "patient", "Patient?identifier=system|value, or Patient/{id} as given in answers")
    try:
        criteria = parse_qsl(
            local.removeprefix(_CONDITIONAL), keep_blank_values=True, errors="strict", max_num_fields=8
        )
    except ValueError:
        criteria = []
    if [name for name, _ in criteria] != ["identifier"]:
        raise invalid(field, "patient", "the conditional reference has one criterion: identifier")
    system, value = parse_token(criteria[0][1], field)
    return PatientLink(identifier=patient_identifier(system, value, field), field=field)


def read_patient(node: Node, base_url: str) -> PatientLink:
    """The patient that a Reference element names; METADATA_ERROR when it names none."""
    node.required()
    named = PatientLink(field=node.path)
    if node.child("reference").present:
        reference = node.token(LONGEST_URI, "reference")
        named = patient_reference(reference, f"{node.path}.reference", base_url)
    element = node.child("identifier")
    if not element.present:
        if not node.child("reference").present:
            raise metadata(node.path, "required", "the patient is named by reference or by identifier")
        return named
    system = element.child("system").required().token(LONGEST_URI)
    value = element.child("value").required().token(LONGEST_CODE)
    identifier = patient_identifier(system, value, element.path)
    if named.identifier not in (None, identifier):
        raise mismatch(node.path, "reference and identifier name different patients")
    return PatientLink(identifier, named.patient_id, element.path)


def mismatch(field: str, description: str) -> DmpError:
    """A PATIENT_MISMATCH error (XDSPatientIdDoesNotMatch) naming where."""
    return DmpError(ERROR_REASON_PATIENT_MISMATCH, fields=[FieldViolation(field, "patient", description)])


def uuid_oid(value: uuid.UUID) -> str:
    """A UUID as an OID under 2.25 (ITU-T X.667)."""
    return f"2.25.{value.int}"
