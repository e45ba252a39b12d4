"""What stands between a stranger's XML and the parser that reads it.

Here live the bounds (size, markup, depth, names), the encodings accepted, the refusal of every DOCTYPE, and the check
that the whole document is well-formed. Nothing here knows CDA, and nothing here builds a tree.

expat walks all of a document without a tree: memory stays flat whatever the body holds, and what it learns is freed
with it. What precedes the body is kept on the way (`xml_head`). lxml, which reads bodies later (`reading`), keeps every
element and attribute name it has ever met in a table of the thread, so a document with a million made-up names must be
refused before lxml sees it (measured: 11 MB of made-up names stay behind as 10 MB of memory).

Without a DOCTYPE there are no entities to expand, no external subsets to fetch and no parameter entities; the parsers'
own switches are set too, as a second lock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from xml.parsers import expat

MAX_BYTES: Final = 32 * 1024 * 1024
"""Largest document, in bytes. Real CDA documents run from 24 kB to 3 MB, 130 kB in the middle."""
MAX_MARKUP: Final = 400_000
"""Most `<` characters: bounds elements. A structured CDA of 3 MB has about 60,000."""
MAX_ATTRIBUTES: Final = 400_000
"""Most `=` characters: bounds attributes and namespace declarations."""
MAX_DEPTH: Final = 128
"""Deepest nesting of elements. Real documents stay under 20."""
MAX_NAMES: Final = 2_000
"""Most distinct element and attribute names. Real documents have under 200, with a whole stylesheet around them."""

_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF16_STARTS: Final = {
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"<\x00": "utf-16-le",
    b"\x00<": "utf-16-be",
}
_CODECS: Final = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "ascii",
    "ascii": "ascii",
    "iso-8859-1": "iso-8859-1",
    "latin1": "iso-8859-1",
    "latin-1": "iso-8859-1",
    "iso8859-1": "iso-8859-1",
    "iso_8859-1": "iso-8859-1",
    "iso-8859-15": "iso-8859-15",
    "iso8859-15": "iso-8859-15",
    "iso_8859-15": "iso-8859-15",
    "windows-1252": "cp1252",
    "cp1252": "cp1252",
}
_DECLARATION_LIMIT: Final = 256
_DECLARED_ENCODING: Final = re.compile(rb"""\sencoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_PROLOG: Final = re.compile(rb"(?:[ \t\r\n]+|<\?.*?\?>|<!--.*?-->)*+", re.DOTALL)


class XmlRefused(Exception):
    """A document that is not read any further. `rule` is stable; `description` never repeats the document's text."""

    def __init__(self, rule: str, description: str) -> None:
        """Keep the two parts; the message is both."""
        super().__init__(f"{rule}: {description}")
        self.rule = rule
        self.description = description


@dataclass(frozen=True, slots=True)
class XmlShape:
    """What a walk over the whole document found.

    `root` is the root element's name in Clark notation (`{namespace}local`); `occurrences` counts the element asked
    for.
    """

    root: str
    occurrences: int


def to_utf8(content: bytes, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the document as UTF-8 without a byte order mark, bounded and free of a DOCTYPE.

    The encoding declaration stays in the text and is to be overridden by "utf-8". Accepted: UTF-8, UTF-16 (with a mark,
    or recognised by its first character), US-ASCII, ISO-8859-1, ISO-8859-15, windows-1252. Others hide markup from the
    bounds (UTF-7, EBCDIC) and are refused.

    Raises XmlRefused with rule `size`, `encoding`, `markup` or `doctype`.
    """
    if len(content) > max_bytes:
        raise XmlRefused("size", f"the document is longer than {max_bytes} bytes")
    if not content:
        raise XmlRefused("size", "the document is empty")
    text = _transcode(content)
    if len(text) > MAX_MARKUP and text.count(b"<") > MAX_MARKUP:
        raise XmlRefused("markup", f"the document has more than {MAX_MARKUP} tags")
    if len(text) > MAX_ATTRIBUTES and text.count(b"=") > MAX_ATTRIBUTES:
        raise XmlRefused("markup", f"the document has more than {MAX_ATTRIBUTES} attributes")
    prolog = _PROLOG.match(text)
    start = prolog.end() if prolog else 0
    if text[start : start + 2] == b"<!":
        raise XmlRefused("doctype", "a document type declaration is never accepted")
    return text


def walk(text: bytes, wanted: str) -> XmlShape:
    """Go through the whole of `text` (from `to_utf8`), counting the elements named `wanted` (Clark notation).

    Raises XmlRefused with rule `well_formed`, `depth`, `names` or `doctype`. Takes about 0.6 ms for 100 kB.
    """
    return parse(text, Walker(wanted))


def parse(text: bytes, walker: Walker) -> XmlShape:
    """Send `walker` over the whole of `text` (from `to_utf8`). Raises XmlRefused as `walk` does."""
    parser = _parser()
    parser.ordered_attributes = True
    parser.buffer_text = True
    parser.StartElementHandler = walker.start
    parser.EndElementHandler = walker.end
    walker.parser = parser
    _run(parser, text)
    return XmlShape(walker.root, walker.occurrences)


def check(text: bytes) -> None:
    """Go through the whole of `text` (from `to_utf8`) in C alone: neither depth nor names are looked at, and nothing is
    kept. Raises XmlRefused with rule `well_formed` or `doctype`. Takes about 0.2 ms for 100 kB."""
    _run(_parser(), text)


def _parser() -> expat.XMLParserType:
    parser = expat.ParserCreate("utf-8", "}")
    parser.StartDoctypeDeclHandler = _doctype
    return parser


def _run(parser: expat.XMLParserType, text: bytes) -> None:
    try:
        # One call: fed in pieces, expat scans a long token again and again.
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise XmlRefused("well_formed", f"not well-formed XML at line {error.lineno}") from None


def _doctype(_name: str, _system: str | None, _public: str | None, _internal: bool) -> None:
    """A document type declaration begins."""
    raise XmlRefused("doctype", "a document type declaration is never accepted")


def _transcode(content: bytes) -> bytes:
    if content.startswith(_UTF8_BOM):
        text = content[len(_UTF8_BOM) :]
        _declared_codec(text)
        return text
    codec = _UTF16_STARTS.get(content[:2])
    if codec is not None:
        if content[2:4] == b"\x00\x00":
            raise XmlRefused("encoding", "UTF-32 is not accepted")
        return _decoded(content, codec)
    codec = _declared_codec(content)
    return content if codec == "utf-8" else _decoded(content, codec)


def _decoded(content: bytes, codec: str) -> bytes:
    try:
        return content.decode(codec).encode("utf-8")
    except UnicodeError:
        raise XmlRefused("encoding", "the bytes do not follow the encoding of the document") from None


def _declared_codec(text: bytes) -> str:
    """Give the codec of an ASCII-compatible document's XML declaration, UTF-8 where it states none."""
    if not text.lstrip(b" \t\r\n").startswith(b"<"):
        raise XmlRefused("well_formed", "the document is not XML in an accepted encoding")
    if not text.startswith(b"<?xml"):
        return "utf-8"
    end = text.find(b"?>", 0, _DECLARATION_LIMIT)
    if end < 0:
        raise XmlRefused("well_formed", f"the XML declaration is longer than {_DECLARATION_LIMIT} bytes")
    declared = _DECLARED_ENCODING.search(text, 0, end)
    if declared is None:
        return "utf-8"
    codec = _CODECS.get(declared.group(1).decode("ascii").lower())
    if codec is None:
        raise XmlRefused("encoding", "the encoding declared is not one of those accepted")
    return codec


class Walker:
    """The handlers of one walk, within its bounds. Each is called once per tag: they stay short."""

    __slots__ = ("_depth", "_names", "_wanted", "occurrences", "parser", "root")

    parser: expat.XMLParserType

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted.removeprefix("{")
        self._depth = 0
        self._names: set[str] = set()
        self.root = ""
        self.occurrences = 0

    def start(self, name: str, attributes: list[str]) -> None:
        """A tag opens; `attributes` are names and values in turn."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise XmlRefused("depth", f"elements are nested more than {MAX_DEPTH} deep")
        if name == self._wanted:
            self.occurrences += 1
        names = self._names
        names.add(name)
        if attributes:
            names.update(attributes[::2])
        if len(names) > MAX_NAMES:
            raise XmlRefused("names", f"the document uses more than {MAX_NAMES} different names")
        if not self.root:
            self.root = "{" + name if "}" in name else name

    def end(self, _name: str) -> None:
        """A tag closes."""
        self._depth -= 1
