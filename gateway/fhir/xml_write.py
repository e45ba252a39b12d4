"""A FHIR resource as XML: the same content as its JSON, elements in the order of the specification. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.fhir.node import JsonObject
from gateway.fhir.structure import RESOURCE, Element, Structure, structure_of

FHIR: Final = "http://hl7.org/fhir"
_SPECIAL: Final = re.compile(r'[&<>"\x00-\x1f\ufffe\uffff\ud800-\udfff]')
_ESCAPES: Final[Mapping[str, str]] = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "\t": "&#9;",
    "\n": "&#10;",
    "\r": "&#13;",
}
_UNWRITABLE: Final = "\ufffd"
"""Stands for a character that XML 1.0 cannot hold in any way."""


def to_xml(resource: JsonObject) -> bytes:
    """The XML of a resource; TypeError for an element that R4 does not have: what is written here is our own."""
    parts = ["<?xml version='1.0' encoding='UTF-8'?>\n"]
    _write_resource(resource, parts, f' xmlns="{FHIR}"')
    return "".join(parts).encode()


def escape(text: str) -> str:
    """Text as it may stand in an attribute between double quotes, or between tags."""
    return _SPECIAL.sub(lambda found: _ESCAPES.get(found[0], _UNWRITABLE), text)


def _write_resource(resource: JsonObject, parts: list[str], namespace: str) -> None:
    name = resource["resourceType"]
    structure = structure_of(name)
    if structure is None:
        raise TypeError(f"no resource {name}")
    parts.append(f"<{name}{namespace}>")
    _write_elements(resource, structure, parts)
    parts.append(f"</{name}>")


def _write_elements(value: JsonObject, structure: Structure, parts: list[str]) -> None:
    attributes = () if structure.resource else ("id", "url") if structure.name == "Extension" else ("id",)
    for name, element in structure.elements.items():
        if name in attributes:
            continue
        there = value.get(name)
        if element.primitive:
            companion = value.get(f"_{name}")
            if there is not None or companion is not None:
                _write_primitives(element, there, companion, parts)
        elif there is not None:
            for item in there if element.many else (there,):
                _write_complex(element, item, parts)
    unknown = [key for key in value if key.removeprefix("_") not in structure.elements and key != "resourceType"]
    if unknown:
        raise TypeError(f"{structure.name} has no {unknown[0]}")


def _write_complex(element: Element, value: JsonObject, parts: list[str]) -> None:
    name = element.name
    if element.type == RESOURCE:
        parts.append(f"<{name}>")
        _write_resource(value, parts, "")
    else:
        structure = structure_of(element.type)
        if structure is None:
            raise TypeError(f"no type {element.type}")
        attributes = _attribute("id", value.get("id"))
        if element.type == "Extension":
            attributes += _attribute("url", value.get("url"))
        parts.append(f"<{name}{attributes}>")
        _write_elements(value, structure, parts)
    parts.append(f"</{name}>")


def _write_primitives(element: Element, value: Any, companion: Any, parts: list[str]) -> None:
    if not element.many:
        _write_primitive(element, value, companion, parts)
        return
    values, companions = value or [], companion or []
    for index in range(max(len(values), len(companions))):
        one = values[index] if index < len(values) else None
        other = companions[index] if index < len(companions) else None
        _write_primitive(element, one, other, parts)


def _write_primitive(element: Element, value: Any, companion: JsonObject | None, parts: list[str]) -> None:
    if element.type == "xhtml":
        parts.append(value)
        return
    attributes = _attribute("id", (companion or {}).get("id")) + _attribute("value", value)
    extensions = (companion or {}).get("extension")
    if not extensions:
        parts.append(f"<{element.name}{attributes}/>")
        return
    parts.append(f"<{element.name}{attributes}>")
    for extension in extensions:
        _write_complex(_EXTENSION, extension, parts)
    parts.append(f"</{element.name}>")


def _attribute(name: str, value: Any) -> str:
    if value is None:
        return ""
    text = ("false", "true")[value] if isinstance(value, bool) else str(value)
    return f' {name}="{escape(text)}"'


_EXTENSION: Final = Element("extension", "Extension", many=True, required=False)
