"""FHIR R4 resources as a tree of names, from JSON or XML alike; numbers keep the digits that were written.

Here live the bounds and the access to elements. Values are `fhir_values`, what resources mean is `fhir_bundle`.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any, Final

from lxml import etree

from services.document.xml_safety import XmlRefused, to_utf8, walk

JSON_TYPES: Final = frozenset({"application/fhir+json", "application/json+fhir"})
XML_TYPES: Final = frozenset({"application/fhir+xml", "application/xml+fhir"})
MAX_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 64
MAX_ENTRIES: Final = 5_000
MAX_PHRASE: Final = 2_000

_FHIR: Final = "{http://hl7.org/fhir}"
_BUNDLE: Final = f"{_FHIR}Bundle"
_DIV: Final = "{http://www.w3.org/1999/xhtml}div"
_BLOCKS: Final = frozenset({"p", "div", "li", "tr", "br", "table", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6"})
_NESTING: Final = re.compile(rb"[\[{]")

Node = dict[str, Any]
"""An element: name → a text, a truth, another element, or a list of them."""


class FhirRefused(Exception):
    """The bytes are no FHIR Bundle that is read here. The message never repeats them."""

    def __init__(self, description: str, *, too_large: bool = False) -> None:
        super().__init__(description)
        self.too_large = too_large


def bundle_of(content: bytes, mime_type: str) -> Node:
    """The Bundle in the bytes. Raises FhirRefused."""
    if len(content) > MAX_BYTES:
        raise FhirRefused("larger than is read", too_large=True)
    node = _from_xml(content) if mime_type in XML_TYPES else _from_json(content)
    if node.get("resourceType") != "Bundle":
        raise FhirRefused("not a Bundle")
    return node


def many(node: Node | None, name: str) -> list[Any]:
    """What stands under a name, one or several."""
    held = node.get(name) if isinstance(node, dict) else None
    if held is None:
        return []
    return held[:MAX_ENTRIES] if isinstance(held, list) else [held]


def nodes(node: Node | None, *names: str) -> list[Node]:
    """The elements under a path of names, in order."""
    found: list[Node] = [node] if isinstance(node, dict) else []
    for name in names:
        found = [child for parent in found for child in many(parent, name) if isinstance(child, dict)]
    return found


def node(parent: Node | None, *names: str) -> Node | None:
    """The first element under a path of names."""
    return next(iter(nodes(parent, *names)), None)


def text(parent: Node | None, *names: str) -> str:
    """The first primitive under a path of names, as text; empty without one."""
    for holder in nodes(parent, *names[:-1]):
        for held in many(holder, names[-1]):
            if isinstance(held, str):
                return held.strip()[:MAX_PHRASE]
            if isinstance(held, bool):
                return "true" if held else "false"
    return ""


def narrative_lines(div: str) -> list[str]:
    """The lines of an XHTML narrative as its reader sees them."""
    stripper = _Stripper()
    stripper.feed(div[:2_000_000])
    stripper.close()
    return [line for raw in "".join(stripper.parts).split("\n") if (line := " ".join(html.unescape(raw).split()))]


def _from_json(content: bytes) -> Node:
    if len(_NESTING.findall(content)) > 1_000_000:
        raise FhirRefused("more elements than are read", too_large=True)
    try:
        given = json.loads(content.decode("utf-8-sig"), parse_float=str, parse_int=str, parse_constant=str)
    except RecursionError:
        raise FhirRefused("nested too deep", too_large=True) from None
    except (ValueError, UnicodeDecodeError):
        raise FhirRefused("not JSON") from None
    if not isinstance(given, dict):
        raise FhirRefused("not a resource")
    return given


def _from_xml(content: bytes) -> Node:
    try:
        safe = to_utf8(content, max_bytes=MAX_BYTES)
        if walk(safe, _BUNDLE).root != _BUNDLE:
            raise FhirRefused("not a Bundle")
        root = etree.fromstring(
            safe,
            etree.XMLParser(
                encoding="utf-8",
                resolve_entities=False,
                no_network=True,
                load_dtd=False,
                remove_comments=True,
                remove_pis=True,
                collect_ids=False,
                huge_tree=True,
            ),
        )
    except XmlRefused as refused:
        raise FhirRefused(refused.rule, too_large=refused.rule in {"size", "markup", "depth", "names"}) from None
    except etree.LxmlError:
        raise FhirRefused("not well-formed") from None
    return _resource(root, 0)


def _resource(element: etree._Element, depth: int) -> Node:
    read = _element(element, depth)
    read["resourceType"] = _local(element)
    return read


def _element(element: etree._Element, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise FhirRefused("nested too deep", too_large=True)
    read: Node = {}
    for name in ("url", "id"):
        if element.get(name) is not None:
            read[name] = element.get(name)
    for child in element:
        if child.tag == _DIV:
            read["div"] = etree.tostring(child, encoding="unicode", with_tail=False)
            continue
        name = _local(child)
        if not name:
            continue
        read.setdefault(name, []).append(_child(child, name, depth))
    return read


def _child(child: etree._Element, name: str, depth: int) -> Any:
    if name in {"resource", "contained"}:
        for inner in child:
            if _local(inner):
                return _resource(inner, depth + 1)
    value = child.get("value")
    return value if value is not None and not len(child) else _element(child, depth + 1)


def _local(element: etree._Element) -> str:
    tag: object = element.tag  # a function for what is no element
    return tag.rpartition("}")[2] if isinstance(tag, str) and tag.startswith(_FHIR) else ""


class _Stripper(HTMLParser):
    """Words and ends of lines of an XHTML fragment; tolerant, fetches and runs nothing."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n")
        elif tag in {"td", "th"}:
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        self.parts.append(data.replace("\n", " "))


def resources(bundle: Node) -> Iterator[tuple[str, Node]]:
    """Each resource of a Bundle with its full URL."""
    for entry in nodes(bundle, "entry"):
        for resource in nodes(entry, "resource"):
            yield text(entry, "fullUrl"), resource
