"""FHIR in XML: the same values as in JSON both ways, and nothing of a hostile document gets further than the walk."""

from __future__ import annotations

import copy
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fhir.structure import INTEGERS, RESOURCE, Element, is_resource, structure_of
from gateway.fhir.xml_body import parse_xml
from gateway.fhir.xml_write import FHIR, to_xml
from ops.fhir_structure import TABLE, table
from services.runtime.errors import DmpError
from tests.conformance.fhir_platform import parsed_xml
from tests.conformance.fhir_samples import bundle, simplified

EXAMPLES = Path(__file__).parents[3] / "shared" / "data" / "fhir"
Json = dict[str, Any]
PATIENT = f'<Patient xmlns="{FHIR}">%s</Patient>'


def refused(body: bytes | str) -> tuple[str, str]:
    """Where and by which rule a body is refused."""
    with pytest.raises(DmpError) as caught:
        parse_xml(body.encode() if isinstance(body, str) else body)
    (violation,) = caught.value.fields
    return violation.field, violation.rule


def test_the_table_is_what_the_definitions_say() -> None:
    assert TABLE.read_text("utf-8") == table(), "python -m ops.fhir_structure"


@pytest.mark.parametrize("resource", [bundle(2), simplified()], ids=["Bundle", "DocumentReference"])
def test_a_resource_goes_out_and_comes_back_and_others_can_read_it(resource: Json) -> None:
    xml = to_xml(resource)
    assert parse_xml(xml) == resource
    assert parsed_xml(xml).get_resource_type() == resource["resourceType"]


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the official examples are not on this machine")
@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*/*.json")))
def test_the_official_examples_go_out_and_come_back(name: str) -> None:
    resource = json.loads(next(EXAMPLES.glob(f"*/{name}")).read_text())
    xml = to_xml(resource)
    parsed_xml(xml)
    again = parse_xml(xml)
    assert without_narrative(again) == without_narrative(resource)
    assert len(json.dumps(again)) == pytest.approx(len(json.dumps(resource)), rel=0.02)


def without_narrative(value: Any) -> Any:
    """Narrative is the same markup, but quotes and entities may be written otherwise."""
    if isinstance(value, dict):
        return {key: without_narrative(item) for key, item in value.items() if key != "div"}
    return [without_narrative(item) for item in value] if isinstance(value, list) else value


def test_elements_come_in_the_order_of_the_specification() -> None:
    xml = to_xml({"resourceType": "Patient", "birthDate": "1980", "active": True, "id": "a", "gender": "female"})
    assert re.findall(rb"<(\w+) value", xml) == [b"id", b"active", b"gender", b"birthDate"]


def test_extensions_of_primitives_keep_their_places() -> None:
    resource = {
        "resourceType": "Patient",
        "_birthDate": {"extension": [{"url": "http://x.test/unknown", "valueBoolean": True}]},
        "name": [{"given": ["A", None, "B"], "_given": [None, {"id": "g2"}, {"extension": [{"url": "u"}]}]}],
    }
    assert parse_xml(to_xml(resource)) == resource


def test_what_xml_cannot_hold_is_replaced_and_the_rest_is_kept() -> None:
    text = "a<b>&\"'\t\n\r é \U0001f600 \x01 \ud800"
    (name,) = parse_xml(to_xml({"resourceType": "Patient", "name": [{"family": text}]}))["name"]
    assert name["family"] == text.replace("\x01", "\ufffd").replace("\ud800", "\ufffd")


# --- any resource ----------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1)
VALUES = {
    "boolean": st.booleans(),
    "decimal": st.floats(-1e6, 1e6, allow_nan=False),
    "xhtml": st.just('<div xmlns="http://www.w3.org/1999/xhtml"><p class="x">é &amp; <br/></p></div>'),
}


def values(kind: str, depth: int) -> st.SearchStrategy[Any]:
    """A value of a type."""
    if kind[0].islower():
        return VALUES.get(kind, st.integers(0, 2**31 - 1) if kind in INTEGERS else TEXTS)
    if kind == RESOURCE:
        return resources("Basic", depth) if depth else st.just({"resourceType": "Basic", "id": "x"})
    return structures(kind, depth)


@st.composite
def structures(draw: st.DrawFn, kind: str, depth: int) -> Json:
    """A value of a complex type with some of its elements."""
    structure = structure_of(kind)
    assert structure is not None, kind
    names = [each for each in structure.elements.values() if depth > 0 or each.primitive]
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique_by=lambda each: each.name))
    return {each.name: draw(element(each, depth)) for each in chosen}


def element(each: Element, depth: int) -> st.SearchStrategy[Any]:
    inner = values(each.type, depth - 1)
    return st.lists(inner, min_size=1, max_size=2) if each.many else inner


def resources(kind: str, depth: int) -> st.SearchStrategy[Json]:
    return structures(kind, depth).map(lambda value: {"resourceType": kind, **value})


KINDS = sorted(
    name for line in TABLE.read_text().splitlines() if is_resource(name := line.lstrip("*").partition(" ")[0])
)


@given(st.sampled_from(KINDS).flatmap(lambda kind: resources(kind, 3)))
@settings(max_examples=150, deadline=None)
def test_any_resource_of_r4_comes_back_as_it_went(resource: Json) -> None:
    assert parse_xml(to_xml(copy.deepcopy(resource))) == resource


# --- hostile ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "where", "rule"),
    [
        ("", "body", "required"),
        ("<Patient", "body", "xml"),
        ('<Patient xmlns="urn:x"/>', "body", "namespace"),
        ("<Patient/>", "body", "namespace"),
        (f'<Nothing xmlns="{FHIR}"/>', "resourceType", "expected"),
        (f'<Identifier xmlns="{FHIR}"/>', "resourceType", "expected"),
        (PATIENT % "<surprise value='1'/>", "Patient.surprise", "unknown_element"),
        (PATIENT % "<gender value='male'/><gender value='male'/>", "Patient.gender", "max_items"),
        (PATIENT % "<gender/>", "Patient.gender", "empty"),
        (PATIENT % "<name/>", "Patient.name[0]", "empty"),
        (PATIENT % "<active value='1'/>", "Patient.active", "type"),
        (PATIENT % "<multipleBirthInteger value='1.0'/>", "Patient.multipleBirthInteger", "type"),
        (PATIENT % "<gender value='male' size='1'/>", "Patient.gender", "attribute"),
        (PATIENT % "text", "Patient", "text"),
        (PATIENT % "<name><family value='A'>B</family></name>", "Patient.name[0].family", "text"),
        (PATIENT % "<text><div><p/></div></text>", "Patient.text.div", "namespace"),
        (PATIENT % ("<extension url='a'>" * 80 + "</extension>" * 80), "body", "depth"),
        (b"\xff\xfe<\x00P\x00", "body", "xml"),
        ("<?xml version='1.0' encoding='latin-1'?>" + PATIENT % "", "body", "utf8"),
        (b'<Patient xmlns="http://hl7.org/fhir"><id value="\xff"/></Patient>', "body", "xml"),
        ("<!DOCTYPE x SYSTEM 'file:///etc/passwd'>" + PATIENT % "", "body", "doctype"),
        ('<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + PATIENT % "<id value='&b;'/>", "body", "doctype"),
        (PATIENT % "<id value='&nbsp;'/>", "body", "xml"),
        ("<a>" * 600_000, "body", "max_values"),
        (f'<Patient xmlns="{FHIR}" ' + " ".join(f'a{n}=""' for n in range(800_000)) + "/>", "body", "max_values"),
    ],
)
def test_a_document_that_is_not_fhir_is_refused_where_it_is_wrong(body: bytes | str, where: str, rule: str) -> None:
    assert refused(body) == (where, rule)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(deadline=None)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for candidate in (body, (PATIENT % "").encode().replace(b"></", b">" + body + b"</")):
        with suppress(DmpError):
            parse_xml(candidate)
