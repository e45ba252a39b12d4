"""FHIR's medicines: MedicationRequest, -Dispense, -Statement and -Administration, and the Medication that they name."""

from __future__ import annotations

from typing import Final

from dmp.document.v1 import clinical_values_pb2 as values
from services.document.reading.datatypes import small
from services.document.reading.fhir_tree import Node, node, nodes, text
from services.document.reading.fhir_values import (
    Bundle,
    coded,
    coded_all,
    dosage,
    identifiers,
    moment,
    quantity,
    ratio,
    status_of,
    when,
)

_KINDS: Final = {
    "MedicationRequest": values.MEDICATION_KIND_PRESCRIBED,
    "MedicationDispense": values.MEDICATION_KIND_DISPENSED,
    "MedicationStatement": values.MEDICATION_KIND_STATED,
    "MedicationAdministration": values.MEDICATION_KIND_ADMINISTERED,
}
_TIMES: Final = {
    "MedicationRequest": ("authoredOn",),
    "MedicationDispense": ("whenHandedOver", "whenPrepared"),
    "MedicationStatement": ("effectivePeriod", "effectiveDateTime", "dateAsserted"),
    "MedicationAdministration": ("effectivePeriod", "effectiveDateTime"),
}


def medication_of(bundle: Bundle, kind: str, resource: Node) -> values.Medication:
    """The medicine that one resource prescribes, dispenses, states or gives."""
    read = values.Medication(
        kind=_KINDS[kind],
        status=status_of(resource),
        negated=text(resource, "doNotPerform") == "true" or text(resource, "status") in {"not-done", "not-taken"},
        product=product_of(bundle, resource),
        period=_period(kind, resource),
        dosages=[dosage(given) for name in ("dosageInstruction", "dosage") for given in nodes(resource, name)],
        reasons=[*coded_all(resource, "reasonCode"), *coded_all(resource, "statusReasonCodeableConcept")],
        comments=[stated for note in nodes(resource, "note") if (stated := text(note, "text"))],
        item_ids=identifiers(resource),
    )
    for given in nodes(resource, "dosageInstruction"):
        if instruction := text(given, "patientInstruction"):
            read.patient_instructions.append(instruction)
    request = node(resource, "dispenseRequest")
    much = quantity(node(resource, "quantity")) or quantity(node(request, "quantity"))
    if much is not None:
        read.quantity.CopyFrom(much)
    read.renewals = small(text(request, "numberOfRepeatsAllowed"))
    _substitution(resource, read)
    for name in ("requester", "informationSource"):
        if (named := bundle.author(node(resource, name), resource)) is not None:
            read.prescriber.CopyFrom(named)
            break
    for performer in nodes(resource, "performer", "actor")[:1]:
        if (named := bundle.author(performer, resource)) is not None:
            read.performer.CopyFrom(named)
    for answered in nodes(resource, "authorizingPrescription"):
        request = bundle.resolve(answered, resource)
        read.prescription_item_ids.extend([*identifiers(answered), *identifiers(request)])
        if (named := bundle.author(node(request, "requester"), request)) is not None:
            read.prescriber.CopyFrom(named)
    return read


def product_of(bundle: Bundle, resource: Node) -> values.Product | None:
    """The medicine named by a code, or by a Medication that is referred to."""
    code = coded(node(resource, "medicationCodeableConcept"))
    read = values.Product(code=code)
    reference = node(resource, "medicationReference")
    medicine = bundle.resolve(reference, resource)
    if medicine is not None:
        code = coded(node(medicine, "code"))
        if code is not None:
            read.code.CopyFrom(code)
        if (form := coded(node(medicine, "form"))) is not None:
            read.form.CopyFrom(form)
        read.lot_number = text(medicine, "batch", "lotNumber")
        if (expiry := moment(text(medicine, "batch", "expirationDate"))) is not None:
            read.expiry.CopyFrom(expiry)
        for ingredient in nodes(medicine, "ingredient"):
            substance = coded(node(ingredient, "itemCodeableConcept"))
            if substance is not None:
                read.ingredients.add(substance=substance, strength=ratio(node(ingredient, "strength")))
    read.name = read.code.text or read.code.code.display or text(reference, "display")
    return read if read.ByteSize() else None


def _period(kind: str, resource: Node) -> values.Period | None:
    during = when(resource, *_TIMES[kind])
    if kind == "MedicationRequest" and during is not None:
        during.ClearField("end")  # when it was asked for; until when it is taken is in the dosage
    return during


def _substitution(resource: Node, read: values.Medication) -> None:
    given = node(resource, "substitution")
    concept = coded(node(given, "allowedCodeableConcept")) or coded(node(given, "type"))
    if concept is not None:
        read.substitution.CopyFrom(concept)
    elif text(given, "allowedBoolean"):
        read.substitution.text = "allowed" if text(given, "allowedBoolean") == "true" else "not allowed"
