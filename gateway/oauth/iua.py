"""The claims that IHE IUA gives an access token (ITI-71, JWT option), from who acts. Pure. They are for other readers
of a token: our own services believe the signed ActingContext beside them and nothing here.

A patient's name is in no token; a patient is a health id.
"""

from __future__ import annotations

from typing import Any

from dmp.common.v1 import context_pb2
from dmp.common.v1.context_pb2 import ActingContext
from services.runtime.identifiers import format_health_id

PROFESSION = "urn:oid:1.2.250.1.71.1.2.7"
"""TRE_G15, professions of health."""
SPECIALTY = "urn:oid:1.2.250.1.213.1.1.4.5"
IDNPS = "urn:oid:1.2.250.1.71.4.2.1"
IDNST = "urn:oid:1.2.250.1.71.4.2.2"
ACT_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"

_PEOPLE = frozenset({context_pb2.ACTOR_KIND_PATIENT, context_pb2.ACTOR_KIND_REPRESENTATIVE})


def claims(actor: ActingContext) -> dict[str, Any]:
    """`sub`, `client_id` and `extensions` of a token for `actor`."""
    return {"sub": actor.subject, "client_id": actor.client_id, "extensions": {"ihe_iua": _iua(actor)}}


def _iua(actor: ActingContext) -> dict[str, Any]:
    person = actor.actor_kind in _PEOPLE
    named: dict[str, Any] = {
        "subject_name": "" if person else actor.subject_name,
        "subject_organization": actor.structure_name,
        "subject_organization_id": f"{IDNST}|{actor.structure}" if actor.structure else "",
        "subject_role": _roles(actor),
        "purpose_of_use": [{"system": ACT_REASON, "code": actor.purpose_of_use}] if actor.purpose_of_use else [],
        "person_id": format_health_id(actor.patient_health_id) if actor.patient_health_id else "",
    }
    if actor.actor_kind == context_pb2.ACTOR_KIND_PROFESSIONAL:
        named["national_provider_identifier"] = f"{IDNPS}|{actor.subject}"
    return {name: value for name, value in named.items() if value}


def _roles(actor: ActingContext) -> list[dict[str, str]]:
    roles = []
    if actor.profession:
        roles.append({"system": PROFESSION, "code": actor.profession})
    if actor.specialty:
        roles.append({"system": SPECIALTY, "code": actor.specialty})
    return roles
