"""Where the body of a CDA begins: the reader looks for a tag, a whole tree knows."""

from __future__ import annotations

from typing import Any

import pytest

from services.document.cda import read_header
from tests import hostile_xml
from tests.unit.test_cda import Independent

_AWAY = (
    "<!-- <structuredBody> -->",
    "<!-- </component></ClinicalDocument> --><?keep <structuredBody> ?>",
    "<title><![CDATA[<structuredBody>]]></title>",
    '<title a="x > y">t</title>',
    "<component><wrapper><structuredBody/></wrapper></component>",
    "<component><wrapper><structuredBody><x/></structuredBody></wrapper></component>",
    "<structuredBody><x/></structuredBody>",
    "<authorization><text>before</text></authorization>",
    '<authorization><text mediaType="application/pdf">before</text></authorization>',
    "<component><structuredBody><component/></structuredBody></component>",
    '<p:component xmlns:p="urn:hl7-org:v3"><p:structuredBody><p:x/></p:structuredBody></p:component>',
    '<component xmlns="urn:other"><structuredBody><x/></structuredBody></component>',
    "<component></component><structuredBody></structuredBody>",
)
_BODIES = (
    "<component><structuredBody><x/></structuredBody></component>",
    '<component><structuredBody classCode="DOCBODY" title="a > b"><x/></structuredBody></component>',
    '<component><nonXMLBody><text mediaType="application/pdf">QQ==</text></nonXMLBody></component>',
    "<component><nonXMLBody><text mediaType='text/plain'/></nonXMLBody></component>",
    '<component><é:nonXMLBody xmlns:é="urn:hl7-org:v3"><é:text mediaType="a/b">x</é:text></é:nonXMLBody></component>',
    "<component><structuredBody/></component>",
    "",
)


@pytest.mark.parametrize("body", _BODIES)
@pytest.mark.parametrize("away", ["", *_AWAY])
def test_a_body_is_where_a_whole_tree_has_it(away: str, body: str) -> None:
    """Whatever looks like the first tag of a body and is none: in comments, in text, in other places."""
    whole, placed = hostile_xml.document().decode(), "<component><structuredBody></structuredBody></component>"
    assert placed in whole
    content = whole.replace(placed, away + body).encode()
    header, xpath = read_header(content), Independent(content)

    bodies = "c:component/c:structuredBody | *[count(ancestor::*) = 1]/c:structuredBody | .//c:nonXMLBody/c:text"
    there: Any = xpath.document.xpath(bodies, namespaces={"c": "urn:hl7-org:v3"})
    first = there[0] if there else None
    found = None if header.body is None else (header.body.structured, header.body.media_type)
    expected = None if first is None else (first.tag.endswith("structuredBody"), first.get("mediaType"))
    assert found == expected
    assert header.patient.identifiers
