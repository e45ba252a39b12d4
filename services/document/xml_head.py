"""The elements of an XML document that come before its body, as a light tree; the whole document is checked as well.

expat goes over the whole text in C: whether it is well-formed, and has no DOCTYPE. Only the head becomes a tree: one of
the whole would cost ten times its size. The body begins at its first tag. That this is a tag indeed, and where it lies,
is proved by ending the document right behind it: closed by the end tags of just the elements that a body lies in, it is
well-formed only if those, and no others, were open there, and no comment, text or instruction was. What cannot be read
so (a stylesheet around the document, two documents, thousands of tags) is walked through tag by tag. Nothing here knows
CDA.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from services.document.xml_safety import MAX_DEPTH, Walker, XmlRefused, check, parse, walk

GLANCED: Final = 5_000
"""Most `<` characters of a document whose body is not walked through: bounds its depth and names by itself."""
MAX_HEAD: Final = 20_000
"""Most elements that are kept. Headers of real documents have under 600."""

Ends = Callable[[Sequence[Element]], bool]


@dataclass(frozen=True, slots=True)
class Bodies:
    """Where bodies begin: by the local name of the first element of a body, the local names of those that it lies in,
    from the document's on; and whether the last of some elements, each in the one before, is the first of a body."""

    around: Mapping[str, Sequence[str]]
    begins: Ends

    @property
    def first_tag(self) -> re.Pattern[bytes]:
        """The first tag of a body, wherever it stands: its prefix, its local name, and not empty."""
        names = "|".join(self.around).encode()
        return re.compile(rb"""<((?:[^\s<>/:]++:)?)(%b)(?=[\s>])(?:[^<>"']|"[^<"]*+"|'[^<']*+')*+(?<!/)>""" % names)


@dataclass(frozen=True, slots=True)
class XmlHead:
    """What was read: the document's root element (`{namespace}local`), how often the element asked for occurs, its
    first occurrence up to the body, and the element with which the body begins."""

    root: str
    occurrences: int
    node: Element | None
    body: Element | None


def read_head(text: bytes, wanted: str, bodies: Bodies, first_tag: re.Pattern[bytes]) -> XmlHead:
    """Read the element `wanted` of `text` (from `to_utf8`) up to its body; `first_tag` is that of `bodies`.

    Raises XmlRefused as `walk` does, and with rule `markup` for a head that is too long. Names and depth of a body with
    few tags are not looked at: nothing is built of it.
    """
    walk_all = len(text) > GLANCED and text.count(b"<") > GLANCED
    name = wanted.rpartition("}")[2].encode()
    if not walk_all and text.count(name) == 2:  # it opens, it closes, and there is no other
        check(text)
        head = _cut(text, wanted, bodies, first_tag)
        if head is not None:
            return head
    reader = _HeadReader(wanted, bodies, walk_all=walk_all)
    root = parse(text, reader).root
    occurrences = reader.occurrences
    # An element of that name in the body would have been counted by a walk; so rare that it may cost one.
    if reader.body is not None and not walk_all and text.count(name) > 2 * occurrences:
        occurrences = walk(text, wanted).occurrences
    return XmlHead(root, occurrences, reader.node, reader.body)


def _cut(text: bytes, wanted: str, bodies: Bodies, first_tag: re.Pattern[bytes]) -> XmlHead | None:
    """The head up to the first tag of a body; None when what comes before is not what it must be."""
    found = first_tag.search(text)
    if found is None:
        return None
    prefix, name = found[1], found[2]
    around = (*bodies.around[name.decode()], name.decode())
    parser = XMLParser(encoding="utf-8")  # noqa: S314 (text has no DOCTYPE, so that there is nothing to expand)
    try:
        parser.feed(text[: found.end()])
        parser.feed(b"".join([b"</%b%b>" % (prefix, each.encode()) for each in reversed(around)]))
        root: Element = parser.close()
    except ParseError:
        return None
    opened = [root]
    while len(opened) < len(around):
        opened.append(opened[-1][-1])
    if root.tag != wanted or not bodies.begins(opened):
        return None
    _check_depth(root)
    return XmlHead(root.tag, 1, root, opened[-1])


def _check_depth(root: Element) -> None:
    level = [root]
    for _ in range(MAX_DEPTH):
        level = [child for element in level for child in element]
        if not level:
            return
    raise XmlRefused("depth", f"elements are nested more than {MAX_DEPTH} deep")


class _HeadReader(Walker):
    """A walker that keeps what it meets, until the body begins."""

    __slots__ = ("_begins", "_bodies", "_built", "_kept", "_open", "_walk_all", "body", "node")

    def __init__(self, wanted: str, bodies: Bodies, *, walk_all: bool) -> None:
        super().__init__(wanted)
        self._begins = bodies.begins
        self._walk_all = walk_all
        self._kept = 0
        self._open: list[Element] = []
        self._built = TreeBuilder()
        self.node: Element | None = None
        self.body: Element | None = None

    def start(self, name: str, attributes: list[str]) -> None:
        opened = self._open
        if self._walk_all or not opened:
            super().start(name, attributes)
        elif len(opened) > MAX_DEPTH:
            raise XmlRefused("depth", f"elements are nested more than {MAX_DEPTH} deep")
        elif name == self._wanted:
            self.occurrences += 1
        if not opened:
            if name != self._wanted or self.node is not None:
                return
            self.parser.CharacterDataHandler = self._built.data
        named = {_clark(attributes[at]): attributes[at + 1] for at in range(0, len(attributes), 2)}
        node = self._built.start(_clark(name), named)
        if self.node is None:
            self.node = node
        opened.append(node)
        self._kept += 1
        if self._kept > MAX_HEAD:
            raise XmlRefused("markup", f"more than {MAX_HEAD} elements precede the body")
        if self._begins(opened):
            self.body = node
            self._stop()

    def end(self, name: str) -> None:
        opened = self._open
        if self._walk_all or len(opened) < 2:
            super().end(name)
        if opened:
            self._built.end(opened.pop().tag)
            if not opened:
                self.parser.CharacterDataHandler = None

    def _stop(self) -> None:
        self._open = []
        self.parser.CharacterDataHandler = None
        if not self._walk_all:
            self.parser.StartElementHandler = None
            self.parser.EndElementHandler = None


def _clark(name: str) -> str:
    """A name as the tree has it, from how expat writes it (`namespace}local`)."""
    return "{" + name if "}" in name else name
