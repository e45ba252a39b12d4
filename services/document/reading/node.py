"""The elements of a CDA's body as the readers see them, and the words that they refer to.

Here live access to elements, bounded text, and the way from a reference (`#id`) to the narrative. A `Page` is one
document being read: it counts what is there and cannot be read. HL7's data types are `datatypes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lxml import etree

from services.document.cda_element import HL7

Element = etree._Element

MAX_PHRASE: Final = 2_000
"""Longest text of one value, in characters; the rest is cut off and counted."""
_XSI_TYPE: Final = "{http://www.w3.org/2001/XMLSchema-instance}type"
_BLOCKS: Final = frozenset({"paragraph", "item", "caption", "list", "table", "thead", "tbody", "tfoot", "tr", "br"})
_CELLS: Final = frozenset({"td", "th"})


def local(element: Element) -> str:
    """The name without its namespace; empty for what is no element."""
    tag: object = element.tag  # a function for what is no element
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def every(element: Element, name: str) -> list[Element]:
    """The children of that name in HL7's namespace, in order, those with a nullFlavor too."""
    return element.findall(HL7 + name)


def first(element: Element | None, *names: str) -> Element | None:
    """The first child of each name in turn; None where one is missing."""
    for name in names:
        if element is None:
            return None
        element = element.find(HL7 + name)
    return element


def any_of(element: Element, name: str) -> list[Element]:
    """The children of that name in any namespace (extensions such as pharmacy's)."""
    return element.findall("{*}" + name)


def attribute(element: Element | None, name: str) -> str:
    """An attribute, trimmed; empty where it is missing."""
    if element is None:
        return ""
    return (element.get(name) or "").strip()


def is_null(element: Element | None) -> bool:
    """Whether the element says that there is nothing to say."""
    return element is None or element.get("nullFlavor") is not None


def type_of(element: Element) -> str:
    """The data type that `xsi:type` states, without its prefix; empty where it is not stated."""
    return (element.get(_XSI_TYPE) or "").rpartition(":")[2].strip()


def templates(element: Element) -> set[str]:
    """The roots of the element's templateIds."""
    return {root for child in element.findall(HL7 + "templateId") if (root := child.get("root"))}


def own_text(element: Element) -> str:
    """All the words inside, white space normalised."""
    return " ".join("".join(str(text) for text in element.itertext()).split())


def shown_text(element: Element) -> str:
    """All the words inside, as their reader sees them: blocks on lines of their own."""
    return "\n".join(lines(element)) if len(element) else own_text(element)


class Page:
    """One document being read: its narrative by id, and what was left out."""

    __slots__ = ("_body", "_ids", "left_out")

    def __init__(self, body: Element) -> None:
        """`body` is the element whose narratives references point into."""
        self._body = body
        self._ids: dict[str, Element] | None = None
        self.left_out = 0

    def leave_out(self) -> None:
        """Count one thing that is there and was not read."""
        self.left_out += 1

    def phrase(self, text: str) -> str:
        """The text, bounded."""
        if len(text) > MAX_PHRASE:
            self.left_out += 1
            return text[:MAX_PHRASE]
        return text

    def words(self, element: Element | None) -> str:
        """What an ED, ST or originalText says: its own words, or those of the narrative that it refers to."""
        if element is None:
            return ""
        own = "" if element.get("representation") == "B64" else own_text(element)
        if own:
            return self.phrase(own)
        reference = element.find(HL7 + "reference")
        return self.referred(attribute(reference, "value")) if reference is not None else ""

    def referred(self, value: str) -> str:
        """The words of the narrative with that id. Producers leave out the `#`; what leads nowhere is empty."""
        if not value or ":" in value:  # a URL is not a place in this document
            return ""
        name = value.lstrip("#")
        target = self._narrative().get(name)
        return self.phrase(shown_text(target)) if target is not None else ""

    def _narrative(self) -> dict[str, Element]:
        if self._ids is None:
            self._ids = {}
            for text in self._body.iter(HL7 + "text"):
                for element in text.iter():
                    name = element.get("ID")
                    if name and name not in self._ids:
                        self._ids[name] = element
        return self._ids


def lines(narrative: Element) -> Iterator[str]:
    """The lines of a section's text as its reader sees them: blocks apart, the cells of a row side by side."""
    parts: list[str] = []
    for kind, text in _pieces(narrative):
        if kind == "text":
            parts.append(text)
        elif kind == "cell":
            if parts and parts[-1] != "\t":
                parts.append("\t")
        else:
            line = _line(parts)
            parts.clear()
            if line:
                yield line
    line = _line(parts)
    if line:
        yield line


def _line(parts: list[str]) -> str:
    cells = "".join(parts).split("\t")
    return " | ".join(words for cell in cells if (words := " ".join(cell.split())))


def _pieces(element: Element) -> Iterator[tuple[str, str]]:
    """Words, ends of cells and ends of lines, in order. No recursion: depth is the producer's choice."""
    for event, item in etree.iterwalk(element, events=("start", "end")):
        name = local(item)
        if not name:
            continue
        if name in _BLOCKS:
            yield "line", ""
        elif name in _CELLS:
            yield "cell", ""
        if event == "start" and item.text:
            yield "text", _plain(item.text)
        elif event == "end" and item is not element and item.tail:
            yield "text", _plain(item.tail)


def _plain(text: str) -> str:
    return text.replace("\t", " ")
