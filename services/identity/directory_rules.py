"""What a row of the directory must be to be taken. Pure rules: findings, not exceptions, as an import goes on.

Identifiers have the form that their first digit announces; RPPS, SIREN, SIRET and FINESS numbers carry a Luhn key
(in Corsican FINESS numbers 2A and 2B count as digits). Test cards may fail the key: outside production that is a
warning. Professions are those of the field; specialities those of the published list, for physicians and pharmacists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from dmp.identity.v1 import directory_pb2 as pb
from services.identity.professional_ids import parse_idnps, parse_idnst
from services.runtime.errors import DmpError
from services.runtime.validation import validate_for_storage

PROFESSIONS: Final = frozenset(
    {"10", "21", "26", "28", "40", "50", "60", "70", "80", "86", "91", "92", "94", "95", "96", "98"}
)
"""Profession codes (domain §1)."""
_EMAIL: Final = re.compile(r"[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+\.[^@\s\x00-\x1f]+")
_WITH_SPECIALTY: Final = frozenset({"10", "21"})


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, or doubtful, with a field of a row."""

    field: str
    rule: str
    refused: bool = True


def judge(row: pb.DirectoryRow, *, strict_keys: bool) -> list[Finding]:
    """The findings of a row; it is taken when none of them refuses it. `strict_keys` refuses a wrong Luhn key."""
    kind = row.WhichOneof("entry")
    if kind == "practitioner":
        return _with_contract(_judge_practitioner(row.practitioner, strict_keys), row.practitioner)
    if kind == "structure":
        return _with_contract(_judge_structure(row.structure, strict_keys), row.structure)
    if kind == "role":
        return _with_contract(_judge_role(row.role, strict_keys), row.role)
    return [Finding("entry", "directory.entry")]


def _with_contract(findings: list[Finding], entry: Message) -> list[Finding]:
    """With what the contract says of the other fields: no text is longer than that, or holds U+0000."""
    try:
        validate_for_storage(entry)
    except DmpError as error:
        named = {found.field for found in findings}
        findings += [Finding(each.field, each.rule) for each in error.fields if each.field not in named]
    return findings


def _judge_practitioner(one: pb.Practitioner, strict_keys: bool) -> list[Finding]:
    findings = _judge_idnps("idnps", one.idnps, strict_keys)
    findings += _judge_text("family_name", one.family_name, required=True)
    findings += _judge_text("given_name", one.given_name)
    findings += _judge_profession(one.profession)
    if one.email and not _EMAIL.fullmatch(one.email):
        findings.append(Finding("email", "email.form"))
    if one.specialties and one.profession not in _WITH_SPECIALTY:
        findings.append(Finding("specialties", "specialty.profession", refused=False))
    return findings


def _judge_structure(one: pb.Structure, strict_keys: bool) -> list[Finding]:
    findings = _judge_idnst("idnst", one.idnst, strict_keys)
    findings += _judge_text("display_name", one.display_name, required=True)
    return findings + _judge_text("city", one.city)


def _judge_role(one: pb.PractitionerRole, strict_keys: bool) -> list[Finding]:
    findings = _judge_idnps("idnps", one.idnps, strict_keys) + _judge_idnst("idnst", one.idnst, strict_keys)
    return findings + (_judge_profession(one.profession) if one.profession else [])


def _judge_idnps(field: str, text: str, strict_keys: bool) -> list[Finding]:
    try:
        parsed = parse_idnps(text)
    except ValueError:
        return [Finding(field, "idnps.form")]
    return [Finding(field, "idnps.key", refused=strict_keys)] if parsed.luhn_valid is False else []


def _judge_idnst(field: str, text: str, strict_keys: bool) -> list[Finding]:
    try:
        parsed = parse_idnst(text)
    except ValueError:
        return [Finding(field, "idnst.form")]
    return [Finding(field, "idnst.key", refused=strict_keys)] if parsed.luhn_valid is False else []


def _judge_profession(code: str) -> list[Finding]:
    return [] if code in PROFESSIONS else [Finding("profession", "profession.known")]


def _judge_text(field: str, text: str, *, required: bool = False) -> list[Finding]:
    if required and not text.strip():
        return [Finding(field, "required")]
    return [] if text.isprintable() else [Finding(field, "text.printable")]
