"""The files inside a CDA: found and examined however they are written, refused when they are not what they say."""

from __future__ import annotations

import base64
import binascii
import time
import tracemalloc
import zlib
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.document import formats, inner_files
from services.document.inner_files import FileRefused
from services.runtime.errors import DmpError
from tests.cda_variations import accepted, attached, wrapping

_PDF: Final = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n%%EOF"
_ACTIVE: Final = b"%PDF-1.4\n<< /S /JavaScript /JS (x) >>\n%%EOF"
_LATE_SCRIPT: Final = b" " * 5000 + b"<script/>"
_B64: Final = 'mediaType="application/pdf" representation="B64"'


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def deflated(content: bytes, bits: int) -> str:
    packer = zlib.compressobj(wbits=bits)
    return b64(packer.compress(content) + packer.flush())


_ACTIVE_BODIES: Final[dict[str, str | bytes]] = {
    "plainly": wrapping(_B64, b64(_ACTIVE)),
    "in lines": wrapping(_B64, b64(_ACTIVE)[:8] + "\r\n\t " + b64(_ACTIVE)[8:]),
    "as CDATA": wrapping(_B64, f"<![CDATA[{b64(_ACTIVE)}]]>"),
    "around a comment": wrapping(_B64, f"{b64(_ACTIVE)[:8]}<!-- x -->{b64(_ACTIVE)[8:]}"),
    "by references": wrapping(_B64, "".join(f"&#{ord(each)};" for each in b64(_ACTIVE))),
    "with a type by references": wrapping('mediaType="application/&#112;df" representation="B6&#52;"', b64(_ACTIVE)),
    "in capitals, with a parameter": wrapping('mediaType="Application/PDF; x=y" representation="B64"', b64(_ACTIVE)),
    "without saying that it is base64": wrapping('mediaType="application/pdf"', b64(_ACTIVE)),
    "in UTF-16": wrapping(_B64, b64(_ACTIVE)).replace("UTF-8", "UTF-16").encode("utf-16"),
    "in a second text": wrapping('mediaType="text/plain"', f"x</text><text {_B64}>{b64(_ACTIVE)}<reference/>"),
    "deflated": wrapping(f'{_B64} compression="DF"', deflated(_ACTIVE, -15)),
    "in zlib": wrapping(f'{_B64} compression="ZL"', deflated(_ACTIVE, 15)),
    "in gzip": wrapping(f'{_B64} compression="GZ"', deflated(_ACTIVE, 31)),
    "attached to a section": attached('mediaType="application/pdf"', _ACTIVE),
}


@pytest.mark.parametrize("how", _ACTIVE_BODIES)
def test_a_script_is_found_in_a_file_however_it_is_written(how: str) -> None:
    assert list(accepted(_ACTIVE_BODIES[how]).document.findings) == [formats.SCRIPT]


@pytest.mark.parametrize(
    ("document", "code", "findings"),
    [
        (wrapping(_B64, b64(_PDF)), "urn:ihe:iti:xds-sd:pdf:2008", []),
        (wrapping(_B64.replace("application/pdf", "APPLICATION/PDF"), b64(_PDF)), "urn:ihe:iti:xds-sd:pdf:2008", []),
        (wrapping('mediaType="text/plain"', "Compte rendu &amp; suite"), "urn:ihe:iti:xds-sd:text:2008", []),
        (
            wrapping(f'xmlns:x="urn:x" {_B64} x:mediaType="image/png" x:compression="GZ"', b64(_PDF)),
            "urn:ihe:iti:xds-sd:pdf:2008",
            [],
        ),
        (wrapping("", "Compte rendu"), "urn:asipSante:modelesHorsProfils:2011", []),
        (
            wrapping('mediaType="text/rtf" representation="B64"', b64(b"{\\rtf1 x}")),
            "urn:ihe:iti-fr:xds-sd:rtf:2010",
            [],
        ),
        (
            wrapping('mediaType="image/tiff" representation="B64"', b64(b"II*\x00")),
            "urn:ihe:iti-fr:xds-sd:tiff:2010",
            [],
        ),
        (
            wrapping('mediaType="image/png" representation="B64"', b64(b"\x89PNG\r\n\x1a\n")),
            "urn:asipSante:modelesHorsProfils:2011",
            [],
        ),
        (
            wrapping('mediaType="application/pdf"', '<reference value="http://example.org/x.pdf"/>'),
            "urn:ihe:iti:xds-sd:pdf:2008",
            [formats.EXTERNAL_LINK],
        ),
        (
            attached('mediaType="application/zip"', b"PK"),
            "urn:asipSante:modelesHorsProfils:2011",
            [formats.EMBEDDED_FILE],
        ),
        (
            attached('mediaType="application/pdf"', b"MZ no pdf"),
            "urn:asipSante:modelesHorsProfils:2011",
            [formats.EMBEDDED_FILE],
        ),
        (
            attached('mediaType="image/jpeg"', b"\x89PNG\r\n\x1a\n"),
            "urn:asipSante:modelesHorsProfils:2011",
            [],
        ),
    ],
    ids=[
        "PDF",
        "capitals",
        "text",
        "foreign",
        "no type",
        "RTF",
        "TIFF",
        "PNG",
        "elsewhere",
        "attached",
        "lies",
        "PNG as JPEG",
    ],
)
def test_a_file_in_a_document_gives_its_format(document: str, code: str, findings: list[int]) -> None:
    made = accepted(document).document
    assert (made.format_code.code, list(made.findings)) == (code, findings)


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        (wrapping(_B64, b64(b"MZ no pdf")), "magic"),
        (wrapping(_B64, "@@@"), "base64"),
        (wrapping(_B64, ""), "magic"),
        (wrapping('mediaType="image/png" representation="B64"', b64(b"GIF89a")), "magic"),
        (wrapping('mediaType="text/html" representation="B64"', b64(b"<script/>")), "media_type"),
        (
            wrapping('mediaType="text/html" representation="B64" x="\n mediaType=\'text/plain\'"', b64(_LATE_SCRIPT)),
            "media_type",
        ),
        (wrapping('mediaType="application/x-msdownload" representation="B64"', b64(b"MZ")), "media_type"),
        (wrapping(f'{_B64} compression="DF"', b64(b"none")), "compression"),
        (wrapping(f'{_B64} compression="DF"', deflated(_PDF, -15)[:12]), "inflated"),
        (wrapping(f'{_B64} compression="DF"', deflated(b"%PDF-" + bytes(40 << 20), -15)), "inflated"),
        (wrapping(f'{_B64} compression="Z7"', b64(_PDF)), "compression"),
    ],
    ids=[
        "magic",
        "base64",
        "empty",
        "png",
        "html",
        "html in a value",
        "program",
        "not deflated",
        "cut off",
        "bomb",
        "Z7",
    ],
)
def test_a_file_that_is_not_what_it_says_refuses_its_document(document: str, rule: str) -> None:
    with pytest.raises(DmpError) as refused:
        accepted(document)
    assert [field.rule for field in refused.value.fields] == [rule]


def test_two_hundred_bombs_attached_cost_neither_memory_nor_time() -> None:
    bomb = deflated(bytes(32 << 20), -15)
    value = f'<value mediaType="application/pdf" representation="B64" compression="DF">{bomb}</value>'
    document = attached("", b"").replace('<value  representation="B64"></value>', value * 200).encode()
    assert document.count(b"compression") == 200
    started = time.thread_time()
    tracemalloc.start()
    found = formats.examine("text/xml", document)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == (formats.EMBEDDED_FILE,)
    assert peak < 160 << 20
    assert time.thread_time() - started < 3


@given(st.one_of(st.binary(max_size=40).map(base64.b64encode), st.text("AB+/= \n\t@", max_size=12).map(str.encode)))
@example(b"QUJD\nQUJD\n")
@example(b"AAAA====")
@example(b" QUI= ")
@example(b"QUI=QUI=")
def test_base64_is_read_as_the_standard_library_reads_it_white_space_apart(written: bytes) -> None:
    """Two decoders must not differ: what one lets through, another one's reader would not have been shown."""
    try:
        expected = base64.b64decode(b"".join(written.split()), validate=True)
    except binascii.Error:
        with pytest.raises(FileRefused):
            inner_files._decoded(written)
    else:
        assert inner_files._decoded(written) == expected
