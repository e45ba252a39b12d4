"""XML Patch (RFC 5261) to operations.

Selectors are names with `[n]`, from the resource's own name, and `@value` or `@url` at the end; prefixes are accepted
and not looked at, since a resource has one namespace. No XPath is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from lxml import etree

from gateway.fhir.node import JsonObject
from gateway.fhir.patch.operations import MOST_OPERATIONS, Kind, Operation, Place
from gateway.fhir.refusals import malformed, metadata, unsupported
from gateway.fhir.structure import INTEGERS, Element, structure_of
from gateway.fhir.xml_body import parse_xml
from gateway.fhir.xml_write import FHIR

_STEP: Final = re.compile(r"(?:\w+:)?(@?[A-Za-z]\w{0,63})(?:\[(\d{1,4})\])?", re.ASCII)
_KINDS: Final[dict[str, Kind]] = {"add": "add", "replace": "replace", "remove": "remove"}
_LONGEST: Final = 1024


def parse_xml_patch(body: bytes) -> Any:
    """The element `diff` of an XML Patch."""
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise malformed("body", "doctype", "a document type declaration is never accepted")
    parser = etree.XMLParser(encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(body, parser)
    except (etree.XMLSyntaxError, ValueError):
        raise malformed("body", "xml", "not well-formed XML in UTF-8") from None
    if etree.QName(root).localname != "diff" or not 1 <= len(root) <= MOST_OPERATIONS:
        raise malformed("body", "diff", f"an XML Patch is a diff of 1 to {MOST_OPERATIONS} operations")
    return root


def selected(diff: Any) -> set[str]:
    """The elements that the selectors begin with."""
    found = set()
    for index, item in enumerate(diff):
        steps = _steps(item.get("sel", ""), f"diff[{index}]@sel")
        inner = [etree.QName(child).localname for child in item if isinstance(child.tag, str)]
        found.add(steps[1][0] if len(steps) > 1 else inner[0] if inner else "")
    return found


def read_xml_patch(diff: Any, resource: JsonObject) -> Sequence[Operation]:
    """The operations of an XML Patch on this resource."""
    operations: list[Operation] = []
    for index, item in enumerate(diff):
        field = f"diff[{index}]@sel"
        kind = _KINDS.get(etree.QName(item).localname) if isinstance(item.tag, str) else None
        if kind is None:
            raise malformed(f"diff[{index}]", "code", "add, replace or remove")
        place, element = _place(item.get("sel", ""), resource, field)
        operations += _operations(kind, item, place, element, resource, field)
    return operations


def _operations(
    kind: Kind, item: Any, place: Place, element: Element | None, resource: JsonObject, field: str
) -> list[Operation]:
    if kind == "remove":
        return [Operation(kind, place, None, field)]
    children = [child for child in item if isinstance(child.tag, str)]
    if not children:  # the text of an attribute
        return [Operation(kind, place, _value(element, item.text or "", field), field)]
    if kind == "replace":
        name = str(next(step for step in reversed(place) if isinstance(step, str)))
        value = _fragment(children, field).get(name)
        if value is None:
            raise malformed(field, "element", "an element is replaced by one of its own name")
        one = isinstance(place[-1], int) and isinstance(value, list)
        return [Operation(kind, place, value[0] if one else value, field)]
    if place:
        raise unsupported(field, "elements are added to the resource itself")
    added = []
    for name, value in _fragment(children, field).items():
        if isinstance(value, list) and name in resource:
            added += [Operation(kind, (name, "-"), each, field) for each in value]
        elif name != "resourceType":
            added.append(Operation(kind, (name,), value, field))
    return added


def _fragment(children: list[Any], field: str) -> JsonObject:
    """Elements of a DocumentReference as its JSON."""
    inner = b"".join(etree.tostring(child, with_tail=False) for child in children)
    try:
        return parse_xml(f'<DocumentReference xmlns="{FHIR}">'.encode() + inner + b"</DocumentReference>")
    except ValueError:
        raise malformed(field, "element", "not FHIR elements") from None


def _steps(selector: str, field: str) -> list[tuple[str, int | None]]:
    if len(selector) > _LONGEST:
        raise malformed(field, "max_length", f"at most {_LONGEST} characters")
    found = []
    for part in selector.strip("/").split("/"):
        step = _STEP.fullmatch(part)
        if step is None:
            raise unsupported(field, "a selector is names, [n] and @value, separated by /")
        found.append((step[1], int(step[2]) - 1 if step[2] else None))
    return found


def _place(selector: str, resource: JsonObject, field: str) -> tuple[Place, Element | None]:
    kind = resource["resourceType"]
    (root, _), *steps = _steps(selector, field)
    if root != kind:
        raise metadata(field, "path", f"the selector begins with {kind}")
    place, structure, element = list[str | int](), structure_of(kind), None
    for name, index in steps:
        if name in ("@value", "@url"):
            if name == "@url":
                place.append("url")
            continue
        element = structure.elements.get(name) if structure is not None else None
        if element is None:
            raise metadata(field, "place", "R4 has no such element here")
        place.append(name)
        if element.many:
            place.append(index or 0)
        structure = None if element.primitive else structure_of(element.type)
    return tuple(place), element


def _value(element: Element | None, text: str, field: str) -> Any:
    if element is None or not element.primitive:
        raise malformed(field, "element", "an element is replaced by an element, a value by text")
    text = text.strip()
    if element.type == "boolean":
        return {"true": True, "false": False}.get(text, text)
    return int(text) if element.type in INTEGERS and text.isascii() and text.isdigit() else text
