"""From a FHIR resource in XML to the same values as its JSON, with memory and depth bounded. Pure.

expat walks the document once and no tree is built; the structure of R4 says what each element is, so that an element
that R4 does not have, one that is repeated and may not be, and a value of the wrong kind are refused by their place.
No DOCTYPE is accepted, so there are no entities. Order among elements is not insisted on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final
from xml.parsers import expat

from gateway.fhir.node import JsonObject
from gateway.fhir.refusals import malformed, too_large
from gateway.fhir.structure import INTEGERS, RESOURCE, Element, Structure, is_resource, structure_of
from gateway.fhir.xml_write import FHIR, escape
from services.runtime.errors import DmpError

DEEPEST: Final = 64
MOST_ELEMENTS: Final = 250_000
_XHTML: Final = "http://www.w3.org/1999/xhtml"
_SCHEMA_INSTANCE: Final = "http://www.w3.org/2001/XMLSchema-instance}"
_DECLARATION: Final = re.compile(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']")
_INTEGER: Final = re.compile(r"-?(?:0|[1-9]\d{0,9})", re.ASCII)
_DECIMAL: Final = re.compile(r"-?(?:0|[1-9]\d{0,17})(?:\.\d{1,17})?(?:[eE][+-]?\d{1,3})?", re.ASCII)
_VOID: Final = frozenset({"br", "hr", "img"})


@dataclass(slots=True)
class _Frame:
    """An element that has begun. `structure` is None for a primitive, for narrative, and for a resource's wrapper."""

    path: str
    structure: Structure | None
    value: JsonObject
    element: Element | None = None
    primitive: Any = None
    counts: dict[str, int] = field(default_factory=dict)


def parse_xml(body: bytes) -> JsonObject:
    """The resource in an XML body as its JSON; MALFORMED_REQUEST naming the place of what is wrong."""
    if body.count(b"<") > 2 * MOST_ELEMENTS or body.count(b"=") > 3 * MOST_ELEMENTS:
        raise too_large("body", "max_values", f"at most {MOST_ELEMENTS} elements")
    declared = _DECLARATION.match(body.removeprefix(b"\xef\xbb\xbf"))
    if declared is not None and declared[1].lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        raise malformed("body", "utf8", "the body is XML in UTF-8")
    if not body.strip():
        raise malformed("body", "required", "the body is empty")
    reader = _Reader()
    parser = expat.ParserCreate("utf-8", "}")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.doctype
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise malformed("body", "xml", f"not well-formed XML in UTF-8, at line {error.lineno}") from None
    return reader.result()


class _Reader:
    """The handlers of one walk."""

    def __init__(self) -> None:
        self._stack: list[_Frame] = []
        self._root: JsonObject | None = None
        self._narrative: list[str] = []
        self._narrative_depth = 0

    def result(self) -> JsonObject:
        """The resource, once the walk is over."""
        if self._root is None:
            raise malformed("body", "xml", "the body has no resource")
        return self._root

    def doctype(self, *_: object) -> None:
        """No document type declaration is ever accepted."""
        raise malformed("body", "doctype", "a document type declaration is never accepted")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        namespace, _, local = name.rpartition("}")
        if self._narrative_depth:
            self._narrative_start(namespace, local, attributes)
            return
        if len(self._stack) >= DEEPEST:
            raise malformed("body", "depth", f"at most {DEEPEST} levels of nesting")
        parent = self._stack[-1] if self._stack else None
        element = parent.structure.elements.get(local) if parent is not None and parent.structure is not None else None
        if element is not None and element.type == "xhtml":
            self._begin(parent, element)
            self._narrative_start(namespace, local, attributes)
            return
        if namespace != FHIR:
            where = parent.path if parent is not None else "body"
            raise malformed(where, "namespace", f"FHIR elements are in the namespace {FHIR}")
        if parent is None or _awaits_resource(parent):
            self._stack.append(_resource_frame(parent, local, attributes))
            return
        if parent.structure is None and local == "extension":
            element = _EXTENSION
        if element is None:
            raise malformed(f"{parent.path}.{local[:64]}", "unknown_element", "R4 has no such element here")
        frame = self._begin(parent, element)
        _read_attributes(frame, element, attributes)

    def text(self, data: str) -> None:
        """Characters between tags: white space only, but in narrative."""
        if self._narrative_depth:
            self._narrative.append(data.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
        elif data.strip():
            where = self._stack[-1].path if self._stack else "body"
            raise malformed(where, "text", "a value is an attribute: value=…")

    def end(self, name: str) -> None:
        """An element ends."""
        if self._narrative_depth:
            self._narrative_end(name.rpartition("}")[2])
            if self._narrative_depth:
                return
        frame = self._stack.pop()
        parent = self._stack[-1] if self._stack else None
        _drop_empty_companions(frame.value)
        if parent is None:
            self._root = frame.value
        elif frame.element is None:
            parent.primitive = frame.value  # the resource inside a wrapper
        else:
            _put(parent, frame)

    def _begin(self, parent: _Frame | None, element: Element) -> _Frame:
        if parent is None:
            raise malformed("body", "xml", "the body is one resource")
        count = parent.counts.get(element.name, 0)
        parent.counts[element.name] = count + 1
        if count and not element.many:
            raise malformed(f"{parent.path}.{element.name}", "max_items", "this element occurs once")
        path = f"{parent.path}.{element.name}" + (f"[{count}]" if element.many else "")
        structure = None if element.primitive or element.type == RESOURCE else structure_of(element.type)
        frame = _Frame(path, structure, {}, element)
        self._stack.append(frame)
        return frame

    def _narrative_start(self, namespace: str, local: str, attributes: dict[str, str]) -> None:
        if namespace != _XHTML:
            raise malformed(self._stack[-1].path, "namespace", f"narrative is in the namespace {_XHTML}")
        self._narrative_depth += 1
        if self._narrative_depth > DEEPEST:
            raise malformed("body", "depth", f"at most {DEEPEST} levels of nesting")
        written = "".join(f' {key}="{escape(value)}"' for key, value in attributes.items() if "}" not in key)
        first = f' xmlns="{_XHTML}"' if self._narrative_depth == 1 else ""
        self._narrative.append(f"<{local}{first}{written}>" if local not in _VOID else f"<{local}{written}/>")

    def _narrative_end(self, local: str) -> None:
        self._narrative_depth -= 1
        if local not in _VOID:
            self._narrative.append(f"</{local}>")
        if not self._narrative_depth:
            self._stack[-1].primitive = "".join(self._narrative)
            self._narrative = []


def _awaits_resource(parent: _Frame) -> bool:
    return parent.structure is None and parent.element is not None and parent.element.type == RESOURCE


def _resource_frame(parent: _Frame | None, local: str, attributes: dict[str, str]) -> _Frame:
    path = parent.path if parent is not None else local
    if parent is not None and parent.primitive is not None:
        raise malformed(path, "max_items", "one resource is expected here")
    if not is_resource(local):
        raise malformed("resourceType" if parent is None else path, "expected", "the element is a FHIR R4 resource")
    if any(not key.startswith(_SCHEMA_INSTANCE) for key in attributes):
        raise malformed(path, "attribute", "a resource has no attributes")
    return _Frame(path, structure_of(local), {"resourceType": local})


def _read_attributes(frame: _Frame, element: Element, attributes: dict[str, str]) -> None:
    for key, text in attributes.items():
        if key == "id":
            frame.value["id"] = text
        elif key == "url" and element.type == "Extension":
            frame.value["url"] = text
        elif key == "value" and element.primitive:
            frame.primitive = _value(frame, element, text)
        else:
            raise malformed(frame.path, "attribute", "an element has no such attribute")


def _value(frame: _Frame, element: Element, text: str) -> Any:
    """The JSON value of a primitive's text."""
    if element.type == "boolean":
        if text not in ("true", "false"):
            raise _wrong(frame, "type", "true or false is expected here")
        return text == "true"
    if element.type in INTEGERS:
        if not _INTEGER.fullmatch(text):
            raise _wrong(frame, "type", "an integer is expected here")
        return int(text)
    if element.type == "decimal":
        if not _DECIMAL.fullmatch(text):
            raise _wrong(frame, "type", "a decimal is expected here")
        return float(text)
    return text


def _wrong(frame: _Frame, rule: str, description: str) -> DmpError:
    return malformed(frame.path, rule, description)


def _put(parent: _Frame, frame: _Frame) -> None:
    """Put what an element held where JSON has it."""
    element = frame.element
    if element is None:
        raise TypeError("only an element has a place")
    if element.primitive:
        companion = frame.value or None
        if frame.primitive is None and companion is None:
            raise malformed(frame.path, "empty", "an element has a value or an extension")
        _put_primitive(parent.value, element, frame.primitive, companion)
        return
    value = frame.primitive if element.type == RESOURCE else frame.value
    if not value:
        raise malformed(frame.path, "empty", "an element is never empty")
    if element.many:
        parent.value.setdefault(element.name, []).append(value)
    else:
        parent.value[element.name] = value


def _put_primitive(target: JsonObject, element: Element, value: Any, companion: JsonObject | None) -> None:
    if element.many:
        target.setdefault(element.name, []).append(value)
        target.setdefault(f"_{element.name}", []).append(companion)
        return
    if value is not None:
        target[element.name] = value
    if companion is not None:
        target[f"_{element.name}"] = companion


def _drop_empty_companions(value: JsonObject) -> None:
    """Leave out the lists of companions, and of values, that hold nothing."""
    for name in [name for name in value if name.startswith("_") and isinstance(value[name], list)]:
        if not any(value[name]):
            del value[name]
        elif all(item is None for item in value[name[1:]]):
            del value[name[1:]]


_EXTENSION: Final = Element("extension", "Extension", many=True, required=False)
