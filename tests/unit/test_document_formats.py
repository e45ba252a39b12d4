"""What a content may be: of the type that it says, one format only, its dangers named, and memory bounded."""

from __future__ import annotations

import base64
import time
import tracemalloc
import zlib

import pytest

from services.document import formats
from services.document.formats import FormatRefused, examine

ZIP_END = b"PK\x05\x06" + b"\x00" * 18
PDF = b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"

_SCRIPT = b"1 0 << /S /JavaScript /JS (x) >>"


@pytest.mark.parametrize(
    ("mime_type", "content", "rule"),
    [
        ("application/pdf", b"MZ\x90\x00", "magic"),
        ("application/pdf", b" %PDF-1.7", "magic"),
        ("application/pdf", PDF + ZIP_END, "polyglot"),
        ("application/pdf", b"%PDF-1.7\n<html><script>x</script>", "polyglot"),
        ("image/jpeg", b"GIF89a", "magic"),
        ("image/jpeg", b"\xff\xd8\xff\xe0 picture" + ZIP_END, "polyglot"),
        ("image/tiff", b"\xff\xd8\xff", "magic"),
        ("application/rtf", b"%PDF-1.7", "magic"),
        ("text/plain", b"\x7fELF\x02", "magic"),
        ("text/plain", b"PK\x03\x04zip", "magic"),
        ("text/plain", b"a\x00b", "magic"),
        ("text/plain", b"<!DOCTYPE html><html>", "polyglot"),
    ],
)
def test_bytes_of_another_kind_are_refused(mime_type: str, content: bytes, rule: str) -> None:
    with pytest.raises(FormatRefused) as refused:
        examine(mime_type, content)
    assert refused.value.violation.rule == rule


@pytest.mark.parametrize(
    ("mime_type", "content", "findings"),
    [
        ("application/pdf", PDF, ()),
        ("application/pdf", PDF + b"<< /OpenAction << /S /JavaScript /JS (app.alert(1)) >> >>", (formats.SCRIPT,)),
        ("application/pdf", PDF + b"<< /S /#4aavaScript >>", (formats.SCRIPT,)),
        ("application/pdf", PDF + b"<< /Names << /EmbeddedFiles 3 0 R >> >>", (formats.EMBEDDED_FILE,)),
        ("application/pdf", PDF + b"<< /S /SubmitForm >>", (formats.EXTERNAL_LINK,)),
        ("application/pdf", PDF + b"trailer << /Encrypt 9 0 R >>", (formats.ENCRYPTED,)),
        ("text/plain", "Compte rendu, fièvre".encode(), ()),
        ("application/rtf", b"{\\rtf1 bonjour}", ()),
        ("application/rtf", b"{\\rtf1 {\\object\\objemb}}", (formats.EMBEDDED_FILE,)),
        ("image/jpeg", b"\xff\xd8\xff\xe0 picture", ()),
    ],
)
def test_what_readers_should_know_is_named(mime_type: str, content: bytes, findings: tuple[int, ...]) -> None:
    assert examine(mime_type, content) == findings


@pytest.mark.parametrize(
    "dictionary",
    [
        b"/Type /ObjStm /Filter /FlateDecode",
        b"/Type /Obj#53tm /Filter /FlateDecode",
        b"/Type /ObjStm /Filter /Flate#44ecode",
        b"/Type /ObjStm /Filter [/FlateDecode]" + b" " * 5_000,
    ],
)
def test_a_script_in_a_compressed_object_stream_is_found(dictionary: bytes) -> None:
    """However its name is spelt, and however long its dictionary is."""
    packed = zlib.compress(b"1 0 << /S /JavaScript /JS (x) >>")
    stream = b"5 0 obj\n<< %b /Length %d >>\nstream\n" % (dictionary, len(packed))
    assert examine("application/pdf", PDF + stream + packed + b"\nendstream\nendobj\n") == (formats.SCRIPT,)


@pytest.mark.parametrize(
    ("filters", "packed", "found"),
    [
        (b"[/ASCII85Decode /FlateDecode]", base64.a85encode(zlib.compress(_SCRIPT)) + b"~>", (formats.UNCHECKED,)),
        (b"/LZWDecode", b"\x80\x0b\x60\x50", (formats.UNCHECKED,)),
        (b"/FlateDecode", zlib.compress(b"1 0 << /Title (x) >>"), ()),
        (b"null", b"1 0 << /Title (x) >>", ()),
        (b"null", _SCRIPT, (formats.SCRIPT,)),
    ],
    ids=["in two", "LZW", "inflated", "plain", "plain script"],
)
def test_objects_that_are_not_looked_into_are_told_of(filters: bytes, packed: bytes, found: tuple[int, ...]) -> None:
    """A script may be in them, for a reader that unpacks what this does not."""
    stream = b"5 0 obj\n<< /Type /ObjStm /Filter %b >>\nstream\n" % filters
    assert examine("application/pdf", PDF + stream + packed + b"\nendstream\nendobj\n") == found


def test_a_bomb_in_a_document_costs_no_memory() -> None:
    bomb = zlib.compress(b"\x00" * (256 << 20), 9)
    stream = b"5 0 obj\n<< /Type /ObjStm /Filter /FlateDecode /Length %d >>\nstream\n" % len(bomb)
    content = PDF + (stream + bomb + b"\nendstream\nendobj\n") * 3
    tracemalloc.start()
    examine("application/pdf", content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 48 << 20


def test_a_thousand_broken_bombs_in_a_document_cost_no_time() -> None:
    bomb = zlib.compress(b"\x00" * (4 << 20), 9)[:-4] + b"none"
    content = PDF + (b"5 0 obj\n<< /Type /ObjStm >>\nstream\n" + bomb + b"\nendstream\nendobj\n") * 1000
    started = time.thread_time()
    assert examine("application/pdf", content + b"/ObjStm " * 100_000) == (formats.UNCHECKED,)
    assert time.thread_time() - started < 2


def test_what_a_document_wraps_is_examined_too() -> None:
    active = base64.b64encode(PDF + b"<< /JavaScript 1 >>")
    start = b'<ClinicalDocument><nonXMLBody><text mediaType="application/pdf" representation="B64">'
    cda = start + b"%s</text></nonXMLBody></ClinicalDocument>"
    assert examine("text/xml", cda % active, structured=False) == (formats.SCRIPT,)
    with pytest.raises(FormatRefused):
        examine("text/xml", cda % base64.b64encode(b"MZ not a pdf"), structured=False)


def test_a_stylesheet_with_a_script_is_flagged() -> None:
    plain = b"<xsl:stylesheet><xsl:template match='/'><html><body/></html></xsl:template></xsl:stylesheet>"
    assert examine("text/xml", plain, wrapped=True) == ()
    script = plain.replace(b"<body/>", b"<script>alert(1)</script>")
    assert examine("text/xml", script, wrapped=True) == (formats.SCRIPT,)
    handler = plain.replace(b"<body/>", b"<body onload='x()'/>")
    assert examine("text/xml", handler, wrapped=True) == (formats.SCRIPT,)
    fetch = plain.replace(b"<html>", b"<xsl:include href='http://example.org/x.xsl'/><html>")
    assert examine("text/xml", fetch, wrapped=True) == (formats.EXTERNAL_LINK,)
