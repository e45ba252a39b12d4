"""Medicines, vaccines and devices as CDA names them: HL7's manufactured products, with IHE Pharmacy's extensions.

The extensions stand in a namespace of their own, of which there are several spellings in the field; they are found by
their names in any.
"""

from __future__ import annotations

from dmp.document.v1 import clinical_values_pb2 as values
from services.document.reading.datatypes import concept, point, quantity, ratio, says_something
from services.document.reading.model import codings
from services.document.reading.node import Element, Page, any_of, attribute, every, first, is_null, own_text


def product_of(page: Page, act: Element) -> values.Product | None:
    """What an act administers or supplies; None where it names nothing."""
    for way in ("consumable", "product"):
        for holder in every(act, way):
            manufactured = first(holder, "manufacturedProduct")
            if manufactured is None:
                continue
            for kind in ("manufacturedMaterial", "manufacturedLabeledDrug"):
                material = first(manufactured, kind)
                if material is not None and (read := _material(page, material)) is not None:
                    return read
    return None


def device_of(page: Page, act: Element) -> values.Product | None:
    """The device that takes part in an act; None without one."""
    for participant in every(act, "participant"):
        if attribute(participant, "typeCode") not in {"DEV", "PRD"}:
            continue
        role = first(participant, "participantRole")
        device = first(role, "playingDevice")
        coded = concept(page, first(device, "code"))
        model = page.words(first(device, "manufacturerModelName"))
        if not says_something(coded) and not model:
            continue
        read = values.Product(name=model)
        if coded is not None:
            read.code.CopyFrom(coded)
            read.name = read.name or _shown(coded)
        return read
    return None


def _material(page: Page, material: Element) -> values.Product | None:
    coded = concept(page, first(material, "code"))
    name = first(material, "name")
    read = values.Product(lot_number=page.words(first(material, "lotNumberText")))
    if name is not None and not is_null(name):
        read.name = page.phrase(own_text(name))
    if coded is not None:
        read.code.CopyFrom(coded)
        read.name = read.name or _shown(coded)
    _extensions(page, material, read)
    named = read.name or says_something(coded) or read.ingredients or read.classes or read.HasField("form")
    return read if named else None


def _extensions(page: Page, material: Element, read: values.Product) -> None:
    _forms(page, material, read)
    _ingredients(page, material, read)
    for kind in any_of(material, "asSpecializedKind")[:16]:
        for general in any_of(kind, "generalizedMedicineClass") + any_of(kind, "generalizedMaterialKind"):
            if (found := _named(page, general)) is not None:
                read.classes.append(found)
    for content in any_of(material, "asContent")[:1]:
        _package(page, content, read)


def _forms(page: Page, material: Element, read: values.Product) -> None:
    for form in any_of(material, "formCode")[:1]:
        if (found := concept(page, form)) is not None:
            read.form.CopyFrom(found)
    for expiry in any_of(material, "expirationTime")[:1]:
        at = point(page, expiry) or point(page, first(expiry, "high"))
        if at is not None:
            read.expiry.CopyFrom(at)


def _ingredients(page: Page, material: Element, read: values.Product) -> None:
    for role in any_of(material, "ingredient")[:64]:
        ingredient = values.Ingredient()
        for substance in any_of(role, "ingredient") + any_of(role, "ingredientSubstance"):
            if (found := _named(page, substance)) is not None:
                ingredient.substance.CopyFrom(found)
        for strength in any_of(role, "quantity")[:1]:
            if (much := ratio(page, strength)) is not None:
                ingredient.strength.CopyFrom(much)
        if ingredient.ByteSize():
            read.ingredients.append(ingredient)


def _package(page: Page, content: Element, read: values.Product) -> None:
    for package in any_of(content, "containerPackagedMedicine") + any_of(content, "containerPackagedProduct"):
        if (found := _named(page, package)) is not None:
            read.packaging.CopyFrom(found)
        for capacity in any_of(package, "capacityQuantity")[:1]:
            if (much := quantity(page, capacity)) is not None:
                read.package_content.CopyFrom(much)


def _named(page: Page, entity: Element) -> values.CodedText | None:
    """An entity with `code` and `name` in whatever namespace."""
    read: values.CodedText | None = None
    for coded in any_of(entity, "code")[:1]:
        read = concept(page, coded)
    for name in any_of(entity, "name")[:1]:
        if not is_null(name) and (text := page.phrase(own_text(name))):
            read = read or values.CodedText()
            read.text = read.text or text
    return read if says_something(read) else None


def _shown(coded: values.CodedText) -> str:
    """A concept as words: those of the document, else the first label that came with a code."""
    return coded.text or next((code.display for code in codings(coded) if code.display), "")
