"""FHIR document Bundles of our own making: what a pharmacist, a laboratory and a physician might send. Data only."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape, quoteattr

LOINC = "http://loinc.org"


def concept(code: str, system: str = LOINC, text: str = "") -> dict[str, Any]:
    """A CodeableConcept."""
    return {"coding": [{"system": system, "code": code, "display": f"display {code}"}], "text": text or f"text {code}"}


def bundle(*resources: dict[str, Any], sections: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A document Bundle: Composition, author, then the resources, each under a full URL of its own."""
    composition = {
        "resourceType": "Composition",
        "id": "composition",
        "status": "final",
        "type": concept("11502-2"),
        "date": "2024-01-02T10:15:00+01:00",
        "author": [{"reference": "urn:uuid:practitioner"}],
        "title": "Document",
        "section": sections or [],
    }
    practitioner = {
        "resourceType": "Practitioner",
        "id": "practitioner",
        "identifier": [{"system": "urn:oid:1.2.250.1.71.4.2.1", "value": "801234567897"}],
        "name": [{"family": "MARTIN", "given": ["Anne"]}],
    }
    entries: list[dict[str, Any]] = [composition, practitioner, *resources]
    return {
        "resourceType": "Bundle",
        "type": "document",
        "timestamp": "2024-01-02T10:15:00+01:00",
        "entry": [{"fullUrl": f"urn:uuid:{each['id']}", "resource": each} for each in entries],
    }


def observation(code: str = "3016-3", value: str = "1.950", **more: Any) -> dict[str, Any]:
    """A laboratory result. `value` is put in as a number with exactly these digits (see `written`)."""
    return {
        "resourceType": "Observation",
        "id": f"observation-{code}",
        "status": "final",
        "category": [{"coding": [{"code": "laboratory"}]}],
        "code": concept(code),
        "effectiveDateTime": "2024-01-02",
        "valueQuantity": {"value": f"§{value}§", "unit": "mU/L", "code": "m[IU]/L"},
        "interpretation": [concept("N", "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation")],
        "referenceRange": [{"low": {"value": "§0.27§", "unit": "mU/L"}, "high": {"value": "§4.20§", "unit": "mU/L"}}],
        "performer": [{"reference": "urn:uuid:practitioner"}],
        **more,
    }


def written(content: str) -> bytes:
    """The document with its numbers as written: `"§1.950§"` becomes `1.950`, which a float would not keep."""
    if content.startswith("<"):
        return content.replace('"§', '"').replace('§"', '"').encode()
    return content.replace('"§', "").replace('§"', "").encode()


def as_xml(resource: dict[str, Any]) -> str:
    """The resource in FHIR's XML; the order of elements is that of the dictionary."""
    return _xml(resource["resourceType"], resource, ' xmlns="http://hl7.org/fhir"')


def _xml(name: str, held: Any, namespace: str = "") -> str:
    if isinstance(held, list):
        return "".join(_xml(name, each) for each in held)
    if name == "div":
        return str(held)
    if not isinstance(held, dict):
        shown = str(held).lower() if isinstance(held, bool) else escape(str(held))
        return f"<{name} value={quoteattr(shown)}/>"
    if name in {"resource", "contained"}:
        kind = held["resourceType"]
        return f"<{name}>{_xml(kind, held)}</{name}>"
    inside = "".join(_xml(child, each) for child, each in held.items() if child != "resourceType")
    return f"<{name}{namespace}>{inside}</{name}>"


def medication_request() -> dict[str, Any]:
    """A prescription with a scheme."""
    return {
        "resourceType": "MedicationRequest",
        "id": "request",
        "status": "active",
        "intent": "order",
        "identifier": [{"system": "urn:oid:1.2.3", "value": "item-1"}],
        "medicationReference": {"reference": "#medicine"},
        "contained": [
            {
                "resourceType": "Medication",
                "id": "medicine",
                "code": concept("63107752", "urn:oid:1.2.250.1.213.2.3.1", "PARACÉTAMOL 500 mg"),
                "form": concept("10219000", "http://standardterms.edqm.eu"),
                "ingredient": [
                    {
                        "itemCodeableConcept": concept("N02BE01", "http://www.whocc.no/atc"),
                        "strength": {"numerator": {"value": "§500§", "unit": "mg"}, "denominator": {"value": "§1§"}},
                    }
                ],
            }
        ],
        "authoredOn": "2024-01-02",
        "requester": {"reference": "urn:uuid:practitioner"},
        "dosageInstruction": [
            {
                "sequence": "§1§",
                "text": "1 à 2 comprimés toutes les 8 heures",
                "patientInstruction": "au repas",
                "timing": {
                    "repeat": {
                        "boundsPeriod": {"start": "2024-01-02", "end": "2024-01-07"},
                        "frequency": "§1§",
                        "period": "§8§",
                        "periodUnit": "h",
                    }
                },
                "route": concept("20053000", "http://standardterms.edqm.eu"),
                "doseAndRate": [{"doseRange": {"low": {"value": "§1§"}, "high": {"value": "§2§", "unit": "cp"}}}],
            }
        ],
        "dispenseRequest": {"numberOfRepeatsAllowed": "§3§", "quantity": {"value": "§2§", "unit": "boîte"}},
        "substitution": {"allowedBoolean": True},
    }


def medication_dispense() -> dict[str, Any]:
    """What was handed over for it."""
    return {
        "resourceType": "MedicationDispense",
        "id": "dispense",
        "status": "completed",
        "medicationCodeableConcept": concept("3400933516390", "urn:oid:1.2.250.1.213.2.3.2"),
        "whenHandedOver": "2024-01-03T09:00:00+01:00",
        "quantity": {"value": "§2§", "unit": "boîte"},
        "authorizingPrescription": [{"reference": "MedicationRequest/request"}],
        "performer": [{"actor": {"reference": "urn:uuid:practitioner"}}],
    }


def immunization(**more: Any) -> dict[str, Any]:
    """A vaccination."""
    return {
        "resourceType": "Immunization",
        "id": "immunization",
        "status": "completed",
        "vaccineCode": concept("J07AM", "http://www.whocc.no/atc", "VACCIN TÉTANIQUE"),
        "occurrenceDateTime": "2009",
        "lotNumber": "4456668",
        "protocolApplied": [{"doseNumberPositiveInt": "§3§", "targetDisease": [concept("A35", "urn:oid:1.2")]}],
        "performer": [{"actor": {"reference": "urn:uuid:practitioner"}}],
        **more,
    }


def imaging_study(study: str = "1.2.3.4.5") -> dict[str, Any]:
    """A study with its accession number."""
    return {
        "resourceType": "ImagingStudy",
        "id": "study",
        "status": "available",
        "identifier": [
            {"system": "urn:dicom:uid", "value": f"urn:oid:{study}"},
            {"type": {"coding": [{"code": "ACSN"}]}, "system": "urn:oid:1.2.250.1.9", "value": "A-1"},
        ],
        "modality": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "CT"}],
        "started": "2021-01-08T10:25:00+01:00",
        "procedureCode": [concept("24727-0")],
        "series": [{"uid": f"{study}.1", "modality": {"code": "CT"}, "numberOfInstances": "§120§"}],
    }
