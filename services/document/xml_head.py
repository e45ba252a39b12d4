"""The elements of an XML document that come before its body, as a light tree; the whole document is checked on the way.

One parser goes over the text once: expat, whose walk (`xml_safety`) keeps to the bounds. Up to the body it keeps what
it meets; from there on it only checks, in C, that the text is well-formed. A tree of the whole would cost ten times its
size, and every name in it would stay in libxml2's table. Nothing here knows CDA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from services.document.xml_safety import MAX_DEPTH, Walker, XmlRefused, parse, walk

GLANCED: Final = 5_000
"""Most `<` characters of a document whose body is not walked through: bounds its depth and names by itself."""
MAX_HEAD: Final = 20_000
"""Most elements that are kept. Headers of real documents have under 400."""


class XmlNode:
    """An element: its name as expat writes it (`namespace}local`), its attributes, and what lies in it, in order."""

    __slots__ = ("_attributes", "elements", "parts", "tag")

    def __init__(self, tag: str, attributes: list[str]) -> None:
        """`attributes` are names and values in turn."""
        self.tag = tag
        self.elements: list[XmlNode] = []
        self.parts: list[XmlNode | str] = []
        self._attributes = attributes

    def get(self, name: str) -> str | None:
        """The value of an attribute."""
        attributes = self._attributes
        for index in range(0, len(attributes), 2):
            if attributes[index] == name:
                return attributes[index + 1]
        return None

    def first(self, tag: str) -> XmlNode | None:
        """The first element in it of that name."""
        for element in self.elements:
            if element.tag == tag:
                return element
        return None

    def text(self) -> str:
        """All the text in it, at any depth."""
        return "".join([part if isinstance(part, str) else part.text() for part in self.parts])


@dataclass(frozen=True, slots=True)
class XmlHead:
    """What was read: the document's root element (`namespace}local`), how often the element asked for occurs, its
    first occurrence up to the body, and the element with which the body begins."""

    root: str
    occurrences: int
    node: XmlNode | None
    body: XmlNode | None


def read_head(text: bytes, wanted: str, bodies: frozenset[str], ends: Callable[[Sequence[XmlNode]], bool]) -> XmlHead:
    """Read the element `wanted` of `text` (from `to_utf8`) up to its body: the first element named in `bodies` for
    which `ends` says yes, given the elements from `wanted` down to it.

    Raises XmlRefused as `walk` does, and with rule `markup` for a head that is too long. Names and depth of a body with
    few tags are not looked at: nothing is built of it.
    """
    walk_all = len(text) > GLANCED and text.count(b"<") > GLANCED
    reader = _HeadReader(wanted, bodies, ends, walk_all=walk_all)
    root = parse(text, reader).root
    occurrences = reader.occurrences
    # An element of that name in the body would have been counted by a walk; so rare that it may cost one.
    if reader.body is not None and not walk_all and text.count(wanted.rpartition("}")[2].encode()) > 2 * occurrences:
        occurrences = walk(text, wanted).occurrences
    return XmlHead(root, occurrences, reader.node, reader.body)


class _HeadReader(Walker):
    """A walker that keeps what it meets, until the body begins."""

    __slots__ = ("_bodies", "_ends", "_kept", "_open", "_walk_all", "body", "node")

    def __init__(
        self, wanted: str, bodies: frozenset[str], ends: Callable[[Sequence[XmlNode]], bool], *, walk_all: bool
    ) -> None:
        super().__init__(wanted)
        self._bodies = bodies
        self._ends = ends
        self._walk_all = walk_all
        self._kept = 0
        self._open: list[XmlNode] = []
        self.node: XmlNode | None = None
        self.body: XmlNode | None = None

    def start(self, name: str, attributes: list[str]) -> None:
        opened = self._open
        if self._walk_all or not opened:
            super().start(name, attributes)
        elif len(opened) > MAX_DEPTH:
            raise XmlRefused("depth", f"elements are nested more than {MAX_DEPTH} deep")
        elif name == self._wanted:
            self.occurrences += 1
        if opened:
            node = XmlNode(name, attributes)
            within = opened[-1]
            within.elements.append(node)
            within.parts.append(node)
        elif name == self._wanted and self.node is None:
            self.node = node = XmlNode(name, attributes)
            self.parser.CharacterDataHandler = self.text
        else:
            return
        opened.append(node)
        self._kept += 1
        if self._kept > MAX_HEAD:
            raise XmlRefused("markup", f"more than {MAX_HEAD} elements precede the body")
        if name in self._bodies and self._ends(opened):
            self.body = node
            self._stop()

    def end(self, name: str) -> None:
        opened = self._open
        if self._walk_all or len(opened) < 2:
            super().end(name)
        if opened:
            opened.pop()
            if not opened:
                self.parser.CharacterDataHandler = None

    def text(self, text: str) -> None:
        """Keep a piece of text."""
        self._open[-1].parts.append(text)

    def _stop(self) -> None:
        self._open = []
        self.parser.CharacterDataHandler = None
        if not self._walk_all:
            self.parser.StartElementHandler = None
            self.parser.EndElementHandler = None
