"""Samples to send to the FHIR front, as small as the official examples, and the people whom they are about."""

from __future__ import annotations

import base64
import hashlib
import uuid
from typing import Any

BASE = "https://dmp.test/fhir"
INS_OID = "1.2.250.1.213.1.4.10"
INS = "180017512345697"[:13] + f"{97 - 1800175123456 % 97:02d}"
OTHER_INS = "2800175123456" + f"{97 - 2800175123456 % 97:02d}"
UNKNOWN_INS = "1990175123456" + f"{97 - 1990175123456 % 97:02d}"
NO_DOSSIER_INS = "2990175123456" + f"{97 - 2990175123456 % 97:02d}"
HEALTH_ID, OTHER_HEALTH_ID, NO_DOSSIER_ID = 4611686018427387905, 4611686018427387906, 4611686018427387907
SUBJECT = {"reference": f"Patient?identifier=urn:oid:{INS_OID}|{INS}"}
"""Copied into each sample."""
FHIR = {"Content-Type": "application/fhir+json"}
"""Headers of what is sent."""
PATIENT = {"patient.identifier": f"urn:oid:{INS_OID}|{INS}"}
"""The parameter of a search."""
TOKEN = {"Authorization": "Bearer good"}
CDA = b"<ClinicalDocument xmlns='urn:hl7-org:v3'>\xc3\xa9</ClinicalDocument>"
ALL_SCOPES = frozenset({"TD0.2", "ITI-65", "ITI-66", "ITI-67", "ITI-68", "ITI-105"})

Json = dict[str, Any]


def simplified(content: bytes = CDA, **changes: Any) -> Json:
    """A DocumentReference of ITI-105, as small as the official example."""
    return {
        "resourceType": "DocumentReference",
        "meta": {
            "profile": ["https://interop.esante.gouv.fr/ig/fhir/pdsm/StructureDefinition/pdsm-simplified-publish"]
        },
        "contained": [practitioner()],
        "masterIdentifier": {"system": "urn:ietf:rfc:3986", "value": "urn:oid:1.2.250.1.999.1"},
        "status": "current",
        "type": {"coding": [{"system": "http://loinc.org", "code": "11488-4", "display": "CR de consultation"}]},
        "subject": dict(SUBJECT),
        "author": [{"reference": "#author"}],
        "content": [
            {
                "attachment": {
                    "contentType": "text/xml",
                    "data": base64.b64encode(content).decode(),
                    "title": "Compte rendu",
                }
            }
        ],
    } | changes


def practitioner() -> Json:
    return {
        "resourceType": "Practitioner",
        "id": "author",
        "identifier": [{"system": "urn:oid:1.2.250.1.71.4.2.1", "value": "899700218896"}],
        "name": [{"family": "MARTIN", "given": ["Anne"]}],
    }


def source_patient() -> Json:
    return {
        "resourceType": "Patient",
        "id": "patient",
        "identifier": [{"system": f"urn:oid:{INS_OID}", "value": INS}],
        "name": [{"family": "DUPONT", "given": ["Jeanne"]}],
        "gender": "female",
        "birthDate": "1980-01-17",
    }


def attachment(index: int, content: bytes) -> Json:
    digest = hashlib.sha1(content, usedforsecurity=False).digest()
    return {
        "contentType": "text/xml",
        "language": "fr-FR",
        "url": binary_url(index),
        "size": len(content),
        "hash": base64.b64encode(digest).decode(),
        "title": "Compte rendu",
        "creation": "2026-06-12T10:00:00+02:00",
    }


def document_reference(index: int, content: bytes = CDA) -> Json:
    """A comprehensive DocumentReference of ITI-65."""
    nos = "https://mos.esante.gouv.fr/NOS"
    return {
        "resourceType": "DocumentReference",
        "meta": {
            "profile": [
                "https://interop.esante.gouv.fr/ig/fhir/pdsm/StructureDefinition/pdsm-comprehensive-document-reference"
            ]
        },
        "contained": [source_patient(), practitioner()],
        "masterIdentifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:oid:1.2.250.1.999.{index}"},
        "status": "current",
        "type": {"coding": [{"system": "http://loinc.org", "code": "11488-4"}]},
        "category": [
            {"coding": [{"system": f"{nos}/TRE_A03-ClasseDocument/FHIR/TRE-A03-ClasseDocument", "code": "10"}]}
        ],
        "subject": dict(SUBJECT),
        "author": [{"reference": "#author"}],
        "authenticator": {"reference": "#author"},
        "securityLabel": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "N"}]}
        ],
        "content": [
            {
                "attachment": attachment(index, content),
                "format": {
                    "system": "http://ihe.net/fhir/ihe.formatcode.fhir/CodeSystem/formatcode",
                    "code": "urn:ihe:iti:xds:2017:mimeTypeSufficient",
                },
            }
        ],
        "context": {
            "period": {"start": "2026-06-12T09:00:00+02:00", "end": "2026-06-12"},
            "sourcePatientInfo": {"reference": "#patient"},
            "facilityType": {
                "coding": [{"system": f"{nos}/TRE_R02-SecteurActivite/FHIR/TRE-R02-SecteurActivite", "code": "SA01"}]
            },
            "practiceSetting": {
                "coding": [{"system": f"{nos}/TRE_A01-CadreExercice/FHIR/TRE-A01-CadreExercice", "code": "AMBULATOIRE"}]
            },
        },
    }


def binary_url(index: int) -> str:
    return f"urn:uuid:{uuid.UUID(int=1000 + index)}"


def document_url(index: int) -> str:
    return f"urn:uuid:{uuid.UUID(int=2000 + index)}"


def submission_set(count: int) -> Json:
    mhd = "https://profiles.ihe.net/ITI/MHD"
    return {
        "resourceType": "List",
        "contained": [practitioner()],
        "extension": [
            {
                "url": f"{mhd}/StructureDefinition/ihe-designationType",
                "valueCodeableConcept": {"coding": [{"system": "urn:oid:1.2.250.1.213.2.2", "code": "04"}]},
            },
            {
                "url": f"{mhd}/StructureDefinition/ihe-sourceId",
                "valueIdentifier": {"system": "urn:ietf:rfc:3986", "value": "urn:oid:1.2.3.4.5.6.7.8"},
            },
        ],
        "identifier": [{"use": "usual", "system": "urn:ietf:rfc:3986", "value": "urn:oid:1.2.250.1.999.1000"}],
        "status": "current",
        "mode": "working",
        "code": {"coding": [{"system": f"{mhd}/CodeSystem/MHDlistTypes", "code": "submissionset"}]},
        "subject": dict(SUBJECT),
        "date": "2026-06-12T10:00:00+02:00",
        "source": {"reference": "#author"},
        "entry": [{"item": {"reference": document_url(index)}} for index in range(count)],
    }


def bundle(count: int = 1, content: bytes = CDA) -> Json:
    """A transaction Bundle of ITI-65 with `count` documents."""

    def entry(url: str, resource: Json) -> Json:
        return {
            "fullUrl": url,
            "resource": resource,
            "request": {"method": "POST", "url": resource["resourceType"]},
        }

    entries = [entry("urn:uuid:00000000-0000-4000-8000-000000000001", submission_set(count))]
    for index in range(count):
        entries.append(entry(document_url(index), document_reference(index, content)))
        binary = {"resourceType": "Binary", "contentType": "text/xml", "data": base64.b64encode(content).decode()}
        entries.append(entry(binary_url(index), binary))
    profile = (
        "https://interop.esante.gouv.fr/ig/fhir/pdsm/StructureDefinition/pdsm-comprehensive-provide-document-bundle"
    )
    return {"resourceType": "Bundle", "meta": {"profile": [profile]}, "type": "transaction", "entry": entries}


def reported(*entities: Json) -> Json:
    """An AuditEvent of a partner's software (ITI-20): what it did with these."""
    return {
        "resourceType": "AuditEvent",
        "type": {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "110106"},
        "subtype": [{"system": "urn:ihe:event-type-code", "code": "ITI-68"}],
        "recorded": "2026-06-12T10:00:00+02:00",
        "outcome": "0",
        "agent": [{"who": {"display": "LPS"}, "requestor": True}],
        "source": {"observer": {"display": "poste 3"}},
        "entity": list(entities),
    }
