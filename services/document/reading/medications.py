"""Medicines prescribed, dispensed, given or taken: substanceAdministration and supply (IHE PCC and Pharmacy, CI-SIS).

One act may hold a whole scheme: steps of a dosage, the prescribed quantity, instructions, the prescription that a
dispensation answers. Parts that are medicines of their own are given apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dmp.document.v1 import clinical_values_pb2 as values
from services.document.reading import acts
from services.document.reading.datatypes import (
    author,
    concept,
    identifiers,
    quantity,
    ratio,
    says_something,
    small,
    span,
)
from services.document.reading.model import Kind, Projection, codes_of
from services.document.reading.node import Element, Page, attribute, every, first, templates
from services.document.reading.products import device_of, product_of
from services.document.reading.sections import Section

PRESCRIPTION_TYPES: Final = frozenset({"57833-6", "57828-6", "75468-9"})
DISPENSATION_TYPES: Final = frozenset({"60593-1"})
_PRESCRIPTION_SECTIONS: Final = frozenset({"57828-6"})
_PRESCRIPTION_TEMPLATES: Final = frozenset(
    {"1.3.6.1.4.1.19376.1.9.1.2.1", "1.2.250.1.213.1.1.2.171", "1.2.250.1.213.1.1.2.222"}
)
_DEVICE_SECTIONS: Final = frozenset({"46264-8"})
_ADMINISTERED_SECTIONS: Final = frozenset({"18610-6", "29549-3", "55111-9", "73569-6", "87232-5"})
_PRESCRIBED_ITEM: Final = "1.3.6.1.4.1.19376.1.9.1.3.11"
_SUBSTITUTION_SYSTEM: Final = "2.16.840.1.113883.5.1070"
_SUBSTITUTION_TEMPLATES: Final = frozenset({"1.3.6.1.4.1.19376.1.9.1.3.9.1", "1.3.6.1.4.1.19376.1.9.1.3.9.2"})
_PATIENT_INSTRUCTION: Final = "1.3.6.1.4.1.19376.1.5.3.1.4.3"
_FULFILMENT_INSTRUCTION: Final = "1.3.6.1.4.1.19376.1.5.3.1.4.3.1"
_MAX_NESTED: Final = 8


def medications(page: Page, act: Element, section: Section, type_code: str) -> Iterator[values.Medication]:
    """The medicines of one act, its own first."""
    yield from _medications(page, act, _kind(act, section, type_code), 0, in_devices=section.code in _DEVICE_SECTIONS)


def projection(read: values.Medication) -> Projection:
    """A medicine as it is kept."""
    product = read.product
    return Projection(
        kind=Kind.MEDICATION,
        message=read,
        occurred=acts.occurred(acts.start_of(read.period)),
        subkind=read.kind,
        codes=codes_of(product.code, *product.classes, product.packaging, *(i.substance for i in product.ingredients)),
    )


def is_device_held(act: Element, section: Section) -> bool:
    """Whether a supply tells of a device that the patient has, rather than of one prescribed or handed over."""
    return attribute(act, "moodCode") in {"EVN", ""} and section.code in _DEVICE_SECTIONS


def _kind(act: Element, section: Section, type_code: str) -> values.MedicationKind.ValueType:
    supplied = act.tag.endswith("}supply")
    mood = attribute(act, "moodCode")
    prescribing = (
        type_code in PRESCRIPTION_TYPES
        or bool(section.codes & _PRESCRIPTION_SECTIONS)
        or bool(section.templates & _PRESCRIPTION_TEMPLATES)
    )
    if supplied:
        return values.MEDICATION_KIND_DISPENSED if mood in {"EVN", ""} else values.MEDICATION_KIND_PRESCRIBED
    if acts.planned(act) and prescribing:
        return values.MEDICATION_KIND_PRESCRIBED
    if acts.planned(act) and mood in {"RQO", "PRP"}:
        return values.MEDICATION_KIND_PRESCRIBED
    if not acts.planned(act) and section.codes & _ADMINISTERED_SECTIONS:
        return values.MEDICATION_KIND_ADMINISTERED
    return values.MEDICATION_KIND_STATED


def _medications(
    page: Page, act: Element, kind: values.MedicationKind.ValueType, depth: int, *, in_devices: bool
) -> Iterator[values.Medication]:
    during, _ = acts.schedule(page, act)
    read = values.Medication(
        kind=kind,
        status=acts.status(act),
        negated=acts.negated(act),
        item_ids=identifiers(act),
        text=acts.words(page, act),
        comments=acts.comments(page, act),
        renewals=small(attribute(first(act, "repeatNumber"), "value")),
    )
    product = product_of(page, act)
    if product is None or in_devices:
        device = device_of(page, act)
        read.device = device is not None
        product = product or device
    if product is not None:
        read.product.CopyFrom(product)
    if during is not None:
        read.period.CopyFrom(during)
    much = quantity(page, first(act, "quantity"))
    if much is not None:
        read.quantity.CopyFrom(much)
    _people(page, act, read)
    apart = _relations(page, act, read)
    steps = [step for step in (_dosage(page, act), *_steps(page, act)) if step is not None]
    read.dosages.extend(steps)
    said = product is not None or read.text or read.dosages or read.patient_instructions or read.fulfilment_instructions
    if said or read.details or read.prescription_item_ids or read.HasField("quantity"):
        yield read
    else:
        page.leave_out()
    for inner in apart:
        if depth < _MAX_NESTED:
            yield from _medications(page, inner, kind, depth + 1, in_devices=in_devices)
        else:
            page.leave_out()


def _people(page: Page, act: Element, read: values.Medication) -> None:
    for performer in every(act, "performer")[:1]:
        if (named := author(page, performer)) is not None:
            read.performer.CopyFrom(named)
    for written in every(act, "author")[:1]:
        if (named := author(page, written)) is not None:
            wrote = read.performer if read.kind == values.MEDICATION_KIND_DISPENSED else read.prescriber
            if not wrote.ByteSize():
                wrote.CopyFrom(named)


def _relations(page: Page, act: Element, read: values.Medication) -> list[Element]:
    """Fill in what is related to the act; gives the medicines that stand for themselves."""
    apart: list[Element] = []
    for how, name, inner in acts.related(act):
        if name == "substanceAdministration":
            if _is_prescribed_item(inner):
                _prescribed_item(page, inner, read)
            elif product_of(page, inner) is not None:
                apart.append(inner)
        elif name == "supply":
            _supply(page, inner, read)
        elif name == "observation" and how == "RSON":
            _reason(page, inner, read)
        elif name == "observation":
            if (fact := acts.observation(page, inner)) is not None:
                read.details.append(fact)
        elif name == "act":
            _act(page, how, inner, read)
    return apart


def _act(page: Page, how: str, inner: Element, read: values.Medication) -> None:
    coded = first(inner, "code")
    code, found = attribute(coded, "code"), templates(inner)
    if acts.is_comment(inner):
        return  # taken with the comments
    if code == "PINSTRUCT" or (_PATIENT_INSTRUCTION in found and code != "FINSTRUCT"):
        _append(read.patient_instructions, acts.words(page, inner))
    elif code == "FINSTRUCT" or _FULFILMENT_INSTRUCTION in found:
        _append(read.fulfilment_instructions, acts.words(page, inner))
    elif attribute(coded, "codeSystem") == _SUBSTITUTION_SYSTEM or found & _SUBSTITUTION_TEMPLATES:
        if (substitution := concept(page, coded)) is not None:
            read.substitution.CopyFrom(substitution)
    elif how == "RSON":
        _reason(page, inner, read)
    elif (fact := acts.observation(page, inner)) is not None:
        read.details.append(fact)


def _append(texts: object, text: str) -> None:
    if text:
        texts.append(text)  # type: ignore[attr-defined]  # a repeated field, whose type has no public name


def _reason(page: Page, act: Element, read: values.Medication) -> None:
    """Why: the problem in the value of an observation, or the code of an act."""
    for element in (first(act, "value"), first(act, "code")):
        coded = concept(page, element)
        if coded is not None and says_something(coded):
            read.reasons.append(coded)
            return
    if text := acts.words(page, act):
        read.reasons.add(text=text)


def _supply(page: Page, act: Element, read: values.Medication) -> None:
    much = quantity(page, first(act, "quantity"))
    if much is not None and not read.HasField("quantity"):
        read.quantity.CopyFrom(much)
    read.renewals = read.renewals or small(attribute(first(act, "repeatNumber"), "value"))
    if not read.HasField("product") and (product := product_of(page, act)) is not None:
        read.product.CopyFrom(product)


def _is_prescribed_item(act: Element) -> bool:
    return attribute(first(act, "code"), "code") == "PREItem" or _PRESCRIBED_ITEM in templates(act)


def _prescribed_item(page: Page, act: Element, read: values.Medication) -> None:
    read.prescription_item_ids.extend(identifiers(act))
    for written in every(act, "author")[:1]:
        if (named := author(page, written)) is not None:
            read.prescriber.CopyFrom(named)
    for reference in every(act, "reference"):
        for document in every(reference, "externalDocument"):
            for named_by in identifiers(document):
                joined = f"{named_by.system}^{named_by.value}" if named_by.system else named_by.value
                read.prescription_unique_ids.append(joined)


def _steps(page: Page, act: Element) -> list[values.Dosage]:
    """The steps of a dosage: administrations inside the act that name no product of their own, in order."""
    found: list[values.Dosage] = []
    for link in every(act, "entryRelationship"):
        order = small(attribute(first(link, "sequenceNumber"), "value"))
        for inner in every(link, "substanceAdministration"):
            if _is_prescribed_item(inner) or product_of(page, inner) is not None:
                continue
            step = _dosage(page, inner)
            if step is None and (text := acts.words(page, inner)):
                step = values.Dosage(text=text)
            if step is not None:
                step.sequence = order
                step.text = step.text or acts.words(page, inner)
                if (during := acts.schedule(page, inner)[0]) is not None:
                    step.period.CopyFrom(during)
                found.append(step)
    return sorted(found, key=lambda step: step.sequence)


def _dosage(page: Page, act: Element) -> values.Dosage | None:
    """How the act itself says that the medicine is taken; None where it says nothing of it."""
    read = values.Dosage(frequencies=acts.schedule(page, act)[1])
    for name, target in (("doseQuantity", read.dose), ("rateQuantity", read.rate)):
        much = span(page, first(act, name))
        if much is not None:
            target.CopyFrom(much)
    most = ratio(page, first(act, "maxDoseQuantity"))
    if most is not None:
        read.maximum.CopyFrom(most)
    route = acts.route(page, act)
    if route is not None:
        read.route.CopyFrom(route)
    read.sites.extend(acts.approach(page, act))
    for condition in every(act, "precondition"):
        if text := page.words(first(condition, "criterion", "text")):
            read.conditions.append(text)
    return read if read.ByteSize() else None
