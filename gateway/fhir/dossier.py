"""TD0.2: a dossier as a Patient resource that says whether it is open and whether the caller may read it. Pure.

No civil identity: the Patient has the opaque id of the dossier and the identifier that the caller asked with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dmp.consent.v1 import consent_pb2
from dmp.consent.v1.consent_pb2 import AccessibleDossier, GetDossierResponse
from dmp.document.v1.document_pb2 import RecentDossier
from gateway.fhir.codesystems import domain_uri
from gateway.fhir.document_out import Links
from gateway.fhir.identifiers import PatientLink, parse_token, patient_identifier
from gateway.fhir.node import JsonObject
from gateway.fhir.parameters import Parameters, SearchParameter, encode
from gateway.fhir.refusals import invalid
from gateway.fhir.times import write
from services.runtime.identifiers import dossier_of

EXTENSIONS: Final = "https://dmp.sante.fr/fhir/StructureDefinition"
CLOSE_REASONS: Final = "https://dmp.sante.fr/fhir/CodeSystem/dossier-close-reason"

PARAMETERS: Final = (
    SearchParameter("identifier", "token", "system|value of the person, such as urn:oid:1.2.250.1.213.1.4.8|<INS>"),
)
NAMES: Final = frozenset({parameter.name for parameter in PARAMETERS})


def read_patient_search(parameters: Parameters) -> PatientLink:
    """The person that a TD0.2 asks about."""
    text = parameters.single("identifier")
    if not text:
        raise invalid("identifier", "required", "the person is named: identifier=system|value")
    system, value = parse_token(text, "identifier")
    return PatientLink(patient_identifier(system, value, "identifier"), field="identifier")


def write_dossier(
    found: GetDossierResponse,
    health_id: int,
    links: Links,
    asked: tuple[str, str] | None,
    *,
    standing: bool = True,
) -> JsonObject:
    """The Patient of a dossier, with the caller's standing where it was asked for."""
    dossier = found.dossier
    state = consent_pb2.AuthorizationState.Name(found.caller_authorization)
    extensions: list[JsonObject] = [
        {
            "url": f"{EXTENSIONS}/caller-authorization",
            "valueCode": state.removeprefix("AUTHORIZATION_STATE_"),
        },
        {
            "url": f"{EXTENSIONS}/caller-is-attending-physician",
            "valueBoolean": found.caller_is_attending_physician,
        },
    ]
    if found.HasField("caller_authorization_expire_time"):
        until = write(found.caller_authorization_expire_time)
        extensions.append({"url": f"{EXTENSIONS}/caller-authorization-end", "valueDateTime": until})
    if not standing:
        extensions = []
    if dossier.state == consent_pb2.DOSSIER_STATE_CLOSED:
        extensions.append(_closing(dossier))
    patient: JsonObject = {
        "resourceType": "Patient",
        "id": links.patient_id(health_id),
        **({"extension": extensions} if extensions else {}),
        "active": dossier.state == consent_pb2.DOSSIER_STATE_OPEN,
    }
    if asked is not None:
        patient["identifier"] = [{"system": domain_uri(asked[0]), "value": asked[1]}]
    return patient


def write_accessible(found: AccessibleDossier, links: Links) -> JsonObject:
    """The Patient of a dossier that the caller may enter (TD0.4)."""
    until = write(found.expire_time)
    return {
        "resourceType": "Patient",
        "id": links.patient_id(dossier_of(found.name, "name")),
        "extension": [
            {"url": f"{EXTENSIONS}/caller-authorization", "valueCode": "VALID"},
            {"url": f"{EXTENSIONS}/caller-is-attending-physician", "valueBoolean": found.attending_physician},
            {"url": f"{EXTENSIONS}/caller-authorization-start", "valueDateTime": write(found.grant_time)},
            {"url": f"{EXTENSIONS}/caller-authorization-end", "valueDateTime": until},
        ],
        "active": True,
    }


def write_recent(found: RecentDossier, links: Links) -> JsonObject:
    """The Patient of a dossier that the caller may enter, with the date of its last document (TD0.4)."""
    return {
        "resourceType": "Patient",
        "id": links.patient_id(dossier_of(found.name, "name")),
        "extension": [
            {"url": f"{EXTENSIONS}/caller-authorization", "valueCode": "VALID"},
            {"url": f"{EXTENSIONS}/last-document", "valueDateTime": write(found.last_submit_time)},
        ],
        "active": True,
    }


def write_patient_searchset(
    patients: Sequence[JsonObject], pairs: Sequence[tuple[str, str]], links: Links
) -> JsonObject:
    """The searchset of a TD0.2: no entry, or one."""
    bundle: JsonObject = {
        "resourceType": "Bundle",
        "type": "searchset",
        "total": len(patients),
        "link": [{"relation": "self", "url": f"{links.base_url}/Patient?{encode(pairs)}"}],
    }
    if patients:
        bundle["entry"] = [
            {"fullUrl": links.url("Patient", patient["id"]), "resource": patient, "search": {"mode": "match"}}
            for patient in patients
        ]
    return bundle


def _closing(dossier: consent_pb2.Dossier) -> JsonObject:
    """When and why the dossier was closed: date, code, and the reason in words."""
    code = consent_pb2.CloseReason.Name(dossier.close_reason).removeprefix("CLOSE_REASON_")
    concept = {"coding": [{"system": CLOSE_REASONS, "code": code}], "text": _REASONS.get(dossier.close_reason, code)}
    parts: list[JsonObject] = [{"url": "reason", "valueCodeableConcept": concept}]
    if dossier.HasField("close_time"):
        parts.insert(0, {"url": "date", "valueDateTime": write(dossier.close_time)})
    return {"url": f"{EXTENSIONS}/dossier-closing", "extension": parts}


_REASONS: Final = {
    consent_pb2.CLOSE_REASON_PATIENT_REQUEST: "Fermeture à la demande du patient",
    consent_pb2.CLOSE_REASON_DEATH: "Décès",
    consent_pb2.CLOSE_REASON_ERROR: "Dossier ouvert par erreur",
}
