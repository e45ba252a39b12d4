"""Whose a submission is: the subject of each resource of an ITI-65 Bundle, and the Patient who may be in it. Pure.

That Patient (MHD, 2:3.65.4.1.2.2) is a copy of somebody who is registered: nobody is registered or changed by it. It
says by an identifier who it is, and stands for the source patient info of the documents that bring none.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.fhir.identifiers import INS_DOMAINS, PatientLink, mismatch, patient_identifier, read_patient
from gateway.fhir.node import LONGEST_URI, Node
from gateway.fhir.refusals import metadata
from gateway.fhir.submission_slots import Slot


def one_patient(set_slot: Slot, others: Sequence[Slot], person: Slot | None, base_url: str) -> PatientLink:
    """Whom all of a submission is about; PATIENT_MISMATCH naming the first resource that is about somebody else."""
    patient = _subject(set_slot.resource, person, base_url)
    for slot in others:
        other = _subject(slot.resource, person, base_url)
        if not patient.same_patient(other):
            raise mismatch(other.field, "every resource of a submission names the patient of the SubmissionSet")
    return patient


def _subject(resource: Node, person: Slot | None, base_url: str) -> PatientLink:
    """The patient of a resource; with a Patient in the Bundle, who must be the same, by what that one is known by."""
    subject = resource.child("subject").required()
    if person is None:
        return read_patient(subject, base_url)
    known = _known_by(person.resource)
    if person.full_url and subject.token(LONGEST_URI, "reference") == person.full_url:
        return PatientLink(known, field=f"{subject.path}.reference")
    named = read_patient(subject, base_url)
    if named.identifier not in (None, known):
        raise mismatch(named.field, "every resource of a submission names the Patient of the Bundle")
    return PatientLink(known, named.patient_id, named.field)


def _known_by(person: Node) -> tuple[str, str]:
    """The identifier by which a Patient is found here: the INS, else the first."""
    held = [
        patient_identifier(
            item.child("system").required().token(LONGEST_URI), item.child("value").required().token(), item.path
        )
        for item in person.children("identifier", 32)
        if item.token(name="use") != "old"
    ]
    if not held:
        raise metadata(f"{person.path}.identifier", "required", "the Patient is known by an identifier")
    return next((each for each in held if each[0] in INS_DOMAINS), held[0])
