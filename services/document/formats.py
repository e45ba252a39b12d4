"""Whether a content is what its media type says, and what its readers should know before they open it. Pure.

Refused: bytes that are not of their type, two formats in one file (an archive behind a picture), text that is none.
Flagged, and accepted: scripts and actions, embedded files, links that are followed by themselves, encryption. Nothing
here renders, executes or fetches, and what is inflated is bounded, so that a bomb costs no memory: a library that
opens a whole PDF cannot promise that.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Final, TypeAlias

from dmp.document.v1 import document_pb2
from services.document.codes import CDA_MIME_TYPES, WRAPPED_FORMATS, Violation
from services.document.inner_files import FileRefused, InnerFile, inner_files
from services.document.xml_safety import XmlRefused, to_utf8

Finding: TypeAlias = document_pb2.ContentFinding.ValueType

SCRIPT: Final = document_pb2.CONTENT_FINDING_SCRIPT
EMBEDDED_FILE: Final = document_pb2.CONTENT_FINDING_EMBEDDED_FILE
EXTERNAL_LINK: Final = document_pb2.CONTENT_FINDING_EXTERNAL_LINK
ENCRYPTED: Final = document_pb2.CONTENT_FINDING_ENCRYPTED
UNCHECKED: Final = document_pb2.CONTENT_FINDING_UNCHECKED

_STARTS: Final = {
    "application/pdf": (b"%PDF-",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/tiff": (b"II*\x00", b"MM\x00*"),
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "application/rtf": (b"{\\rtf",),
    "text/rtf": (b"{\\rtf",),
}
_PICTURES: Final = tuple(start for media, starts in _STARTS.items() if media.startswith("image/") for start in starts)
_BINARY_STARTS: Final = (b"MZ", b"\x7fELF", b"PK\x03\x04", b"%PDF-", b"{\\rtf", b"\xff\xd8\xff", b"GIF8", b"\x89PNG")
_ARCHIVE_END: Final = b"PK\x05\x06"
_ARCHIVE_TAIL: Final = (1 << 16) + 22
_HTML: Final = re.compile(rb"<\s*(?:!doctype\s+html|html|script|svg|iframe)\b", re.IGNORECASE)

_PDF_NAMES: Final = {
    "script": (SCRIPT, "JavaScript|JS|Launch|RichMedia|XFA|ImportData|Movie|Sound|Rendition"),
    "embedded": (EMBEDDED_FILE, "EmbeddedFiles?|FileAttachment"),
    "link": (EXTERNAL_LINK, "SubmitForm|GoToR|GoToE"),
    "encrypted": (ENCRYPTED, "Encrypt"),
}
_PDF_NAME: Final = re.compile(
    rb"/(?:%b)(?![A-Za-z])" % "|".join(f"(?P<{group}>{names})" for group, (_, names) in _PDF_NAMES.items()).encode()
)
"""One pass for all of them: names begin with a slash and hold none, so that none hides another."""
_PDF_ESCAPE: Final = re.compile(rb"#([0-9A-Fa-f]{2})")
# Each letter of a name may be written as its code; what follows the dictionary is the stream, whatever its filters are
# called.
_OBJECT_STREAM: Final = re.compile(
    b"/" + b"".join(b"(?:%c|#%02x|#%02X)" % (letter, letter, letter) for letter in b"ObjStm") + rb"(?![A-Za-z0-9#])"
)
_OBJECTS: Final = re.compile(rb"\s*\d+\s+\d+\s")
"""How an object stream begins: numbers of objects, and where they lie."""
_STREAM: Final = re.compile(rb"\bstream\r?\n")
_MOST_INFLATED: Final = 8 << 20
_PIECE: Final = 64 << 10
_OF_BROKEN: Final = 256 << 10
"""What a broken stream counts for at least: as much may have been inflated before the fault was met."""
_MOST_STREAMS: Final = 2_000

_XML_SCRIPT: Final = re.compile(rb"<\s*(?:[\w.-]+:)?script\b|javascript:|\son[a-z]{3,20}\s*=", re.IGNORECASE)
_XML_FETCH: Final = re.compile(
    rb"<\s*(?:[\w.-]+:)?(?:import|include|iframe|object|embed)\b|document\s*\(\s*['\"]https?:", re.IGNORECASE
)
_XML_REFERENCE: Final = re.compile(rb"&#(?:x0*([0-9A-Fa-f]{2})|0*([0-9]{2,3}));")
_INNER: Final = frozenset(
    {each for each in WRAPPED_FORMATS if not each.startswith(("application/fhir", "application/dicom"))}
    | {"image/png", "image/gif"}
)
"""What the body of a CDA may be, and what is looked at in an attachment; pictures that are no documents of their own
come in CDAs too."""


class FormatRefused(Exception):
    """The content is not what its media type says."""

    def __init__(self, rule: str, description: str) -> None:
        super().__init__(f"{rule}: {description}")
        self.violation = Violation("content", rule, description)


def examine(mime_type: str, content: bytes, *, wrapped: bool = False, structured: bool = True) -> tuple[Finding, ...]:
    """What its readers should know of a content. Raises FormatRefused.

    For a CDA `wrapped` says that it lies in a stylesheet, `structured` that its body is not another file.
    """
    if mime_type in CDA_MIME_TYPES:
        return tuple(dict.fromkeys(_of_cda(content, wrapped=wrapped, structured=structured)))
    starts = _STARTS.get(mime_type)
    if starts is not None and not content.startswith(starts):
        raise FormatRefused("magic", "the bytes are not of the media type stated")
    if content.find(_ARCHIVE_END, max(0, len(content) - _ARCHIVE_TAIL)) >= 0:
        raise FormatRefused("polyglot", "an archive is hidden in the content")
    if mime_type == "application/pdf":
        return tuple(dict.fromkeys(_of_pdf(content)))
    if starts is None and mime_type.startswith("text/"):
        _check_text(content)
    if mime_type in ("application/rtf", "text/rtf") and re.search(rb"\\obj(?:ect|data|emb|link)", content):
        return (EMBEDDED_FILE,)
    return ()


def _check_text(content: bytes) -> None:
    if content.startswith(_BINARY_STARTS) or b"\x00" in content[:4096].replace(b"\xff\xfe", b"", 1):
        raise FormatRefused("magic", "the bytes are not text")
    if _HTML.search(content[:4096]):
        raise FormatRefused("polyglot", "the text is a web page")


def _of_pdf(content: bytes) -> Iterator[Finding]:
    if _HTML.search(content[:1024]):
        raise FormatRefused("polyglot", "a web page is hidden in the content")
    for part in (content, *_inflated(content)):
        if part is None:
            yield UNCHECKED
            continue
        names = _PDF_ESCAPE.sub(lambda m: bytes([int(m[1], 16)]), part) if b"#" in part else part
        for found in _PDF_NAME.finditer(names):
            yield _PDF_NAMES[found.lastgroup or ""][0]


def _inflated(content: bytes) -> Iterator[bytes | None]:
    """The object streams of a PDF, in which its dictionaries may lie; bounded in number and in sum. None for those
    beyond, and for what is packed otherwise (readers know ASCII85, LZW and others, one around the other)."""
    left, last = _MOST_INFLATED, 0
    for count, found in enumerate(_OBJECT_STREAM.finditer(content)):
        stream = _STREAM.search(content, max(found.end(), last))
        if stream is None:
            return
        if count >= _MOST_STREAMS or left <= 0:
            yield None
            return
        last = stream.end()
        plain, whole = _inflate(content, last, left)
        left -= len(plain) if whole else max(len(plain), _OF_BROKEN)
        yield plain if plain or _OBJECTS.match(content, last) else None


def _inflate(content: bytes, start: int, most: int) -> tuple[bytes, bool]:
    """What a stream holds, at most so much; and whether it ended, or went on, without a fault. Readers show what comes
    before one."""
    inflater, parts, size = zlib.decompressobj(), list[bytes](), 0
    for at in range(start, min(len(content), start + _MOST_INFLATED), _PIECE):
        try:
            parts.append(inflater.decompress(content[at : at + _PIECE], most - size))
        except zlib.error:
            return b"".join(parts), False
        size += len(parts[-1])
        if inflater.eof or size >= most:
            break
    return b"".join(parts), True


def _of_cda(content: bytes, *, wrapped: bool, structured: bool) -> Iterator[Finding]:
    try:
        text = to_utf8(content, max_bytes=len(content) + 1)
        for file in inner_files(text, structured=structured):
            yield from _of_inner(file)
    except (XmlRefused, FileRefused) as refused:
        raise FormatRefused(refused.rule, refused.description) from None
    if wrapped:
        if b"&#" in text:
            text = _XML_REFERENCE.sub(_character, text)
        if _XML_SCRIPT.search(text):
            yield SCRIPT
        if _XML_FETCH.search(text):
            yield EXTERNAL_LINK


def _of_inner(file: InnerFile) -> Iterator[Finding]:
    """A body is what it says, or its document is refused; an attachment that is not is flagged (real documents call a
    PNG a JPEG)."""
    if file.elsewhere:
        yield EXTERNAL_LINK
    known = file.media_type in _INNER
    if file.is_body:
        if not known:
            raise FormatRefused("media_type", f"the body of a CDA is one of {', '.join(sorted(_INNER))}")
        if file.content or not file.elsewhere:
            yield from examine(file.media_type, file.content)
        return
    try:
        yield from examine(file.media_type, file.content) if known else (EMBEDDED_FILE,)
    except FormatRefused:
        if not (file.media_type.startswith("image/") and file.content.startswith(_PICTURES)):
            yield EMBEDDED_FILE


def _character(reference: re.Match[bytes]) -> bytes:
    code = int(reference[1], 16) if reference[1] else int(reference[2])
    return bytes([code]) if code < 128 else reference[0]
