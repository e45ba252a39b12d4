"""Whatever the bytes, reading ends, raises nothing, and says what it could not read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmp.document.v1 import clinical_pb2, document_pb2
from services.document.reading import reader, vaccinations
from services.document.reading.model import MAX_PROJECTIONS, Kind, Reading
from tests import clinical_documents as bodies
from tests import dicom_files as dicom
from tests import fhir_bundles as fhir
from tests import hostile_xml
from tests.documents import cda
from tests.readings import messages, read_body

MIME_TYPES = ("text/xml", "application/fhir+json", "application/fhir+xml", "application/dicom", "application/pdf", "")
TYPES = ("57833-6", "60593-1", "11502-2", "18748-4", "IMG-KOS", "11369-6", "SYNTH", "11490-0", "REMB")

BODY = (
    bodies.prescription(bodies.prescribed(), bodies.prescribed(mood="EVN"))
    + bodies.laboratory(bodies.result(), bodies.result("1-1", '<value xsi:type="IVL_PQ"><low value="1"/></value>'))
    + bodies.vaccinations(bodies.vaccinated())
    + bodies.section("11450-4", bodies.entry(bodies.problem()), title="Problèmes", text="<list><item>A</item></list>")
    + bodies.dispensed()
)
NAMES = sorted(set(re.findall(r"<([A-Za-z]+)", BODY)))
VALUES = ("", " ", "-1", "1e400", "9" * 20, "20240230", "0000", "true", "NA", "#", "#x", "&lt;&amp;", "é" * 3_000)
OTHERS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=20),
    st.sampled_from(["[]", "{}", "[null]", "[[1]]", '{"coding": 3}']).map(json.loads),
)


def metadata(mime_type: str, type_code: str) -> document_pb2.Document:
    document = document_pb2.Document(mime_type=mime_type)
    document.type_code.code = type_code
    document.class_code.code = "31" if type_code in {"18748-4", "IMG-KOS"} else "10"
    return document


def check(reading: Reading) -> None:
    """A reading is one event at least, bounded, and can be written and read back."""
    assert any(p.kind == Kind.EVENT for p in reading.projections)
    assert len(reading.projections) <= 2 * MAX_PROJECTIONS + 10
    for projection in reading.projections:
        assert projection.message is not None or projection.unread
        if projection.message is not None:
            written = projection.message.SerializeToString()
            assert type(projection.message).FromString(written) == projection.message


@given(st.binary(max_size=300), st.sampled_from(MIME_TYPES), st.sampled_from(TYPES))
def test_noise(content: bytes, mime_type: str, type_code: str) -> None:
    check(reader.read(content, metadata(mime_type, type_code)))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_document_with_a_part_renamed_emptied_or_changed(data: st.DataObject) -> None:
    text = cda(body=BODY, extra=bodies.imaging_header()).decode()
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(("rename", "value", "drop", "null", "type")))
        if kind == "rename":
            one, other = data.draw(st.sampled_from(NAMES)), data.draw(st.sampled_from(NAMES))
            text = re.sub(rf"(</?){one}\b", rf"\g<1>{other}", text)
        elif kind == "value":
            found = list(re.finditer(r'(value|code|root|extension|unit)="[^"]*"', text))
            chosen = data.draw(st.sampled_from(found))
            by = data.draw(st.sampled_from(VALUES))
            text = f'{text[: chosen.start()]}{chosen[1]}="{by}"{text[chosen.end() :]}'
        elif kind == "drop":
            name = data.draw(st.sampled_from(NAMES))
            text = re.sub(rf"<{name}\b[^>]*/>", "", text, count=data.draw(st.integers(1, 9)))
        elif kind == "null":
            name = data.draw(st.sampled_from(NAMES))
            text = re.sub(rf"<{name}\b(?![^>]*nullFlavor)", f'<{name} nullFlavor="UNK"', text, count=3)
        else:
            by = data.draw(st.sampled_from(("CD", "PQ", "IVL_PQ", "RTO", "TS", "ED", "x:INT", "SXPR_TS", "BL", "NONE")))
            text = re.sub(r'xsi:type="[^"]*"', f'xsi:type="{by}"', text, count=data.draw(st.integers(1, 5)))
    check(reader.read(text.encode(), metadata("text/xml", data.draw(st.sampled_from(TYPES)))))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_bundle_with_a_value_of_another_kind(data: st.DataObject) -> None:
    parts = (fhir.observation(), fhir.medication_request(), fhir.immunization(), fhir.imaging_study())
    sections = [{"title": "T", "text": {"div": "<div>x</div>"}}]
    bundle = fhir.bundle(*parts, fhir.medication_dispense(), sections=sections)
    for _ in range(data.draw(st.integers(1, 3))):
        _spoil(data, bundle)
    content = fhir.written(json.dumps(bundle, ensure_ascii=False))
    check(reader.read(content, metadata("application/fhir+json", data.draw(st.sampled_from(TYPES)))))


def _spoil(data: st.DataObject, node: Any) -> None:
    """Put something else in some place of a tree."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        child = node[key]
        if isinstance(child, dict | list) and child and data.draw(st.integers(0, 3)):
            node = child
            continue
        node[key] = data.draw(OTHERS)
        return


@given(st.binary(min_size=1, max_size=60), st.integers(0, 900))
def test_a_damaged_selection(noise: bytes, at: int) -> None:
    good = dicom.part10(dicom.selection())
    check(reader.read(good[:at] + noise + good[at + len(noise) :], metadata("application/dicom", "IMG-KOS")))


@pytest.fixture(scope="module")
def hostile() -> Mapping[str, bytes]:
    return hostile_xml.hostile_documents()


def test_hostile_xml_stands_in_its_list_unread(hostile: Mapping[str, bytes]) -> None:
    harmless = {"huge_attribute", "huge_text", "other_wrapper"}  # well-formed, bounded, and nothing is found in them
    for name, content in hostile.items():
        reading = reader.read(content, metadata("text/xml", "11502-2"))
        check(reading)
        [unread] = [p.unread for p in reading.projections if p.kind == Kind.RESULT]
        assert (unread == clinical_pb2.UNREAD_REASON_NOTHING_FOUND) == (name in harmless), name


def test_more_entries_than_are_kept_are_counted() -> None:
    many = "".join(f"<component>{bodies.result(str(n))}</component>" for n in range(40))
    battery = f'<organizer classCode="BATTERY" moodCode="EVN">{many}</organizer>'
    reading = read_body(bodies.laboratory(*[battery] * 130))
    assert len(messages(reading, Kind.RESULT)) == MAX_PROJECTIONS
    assert reading.left_out == 130 * 40 - MAX_PROJECTIONS


def test_one_empty_entry_costs_that_one_alone() -> None:
    empty = '<observation classCode="OBS" moodCode="EVN"><code nullFlavor="UNK"/></observation>'
    reading = read_body(bodies.laboratory(bodies.result("1-1"), empty, bodies.result("2-2")))
    assert [r.code.code.code for r in messages(reading, Kind.RESULT)] == ["1-1", "2-2"]
    assert reading.left_out == 1


def test_a_defect_in_one_reader_costs_its_entries_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(vaccinations, "vaccination", broken)
    reading = read_body(bodies.prescription(bodies.prescribed()) + bodies.vaccinations(bodies.vaccinated()))
    assert len(messages(reading, Kind.MEDICATION)) == 1
    assert (messages(reading, Kind.VACCINATION), reading.left_out, reading.unread) == ([], 1, 0)


def test_a_defect_of_the_reader_itself_leaves_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(reader, "to_utf8", broken)
    reading = read_body(bodies.laboratory(bodies.result()))
    assert [p.unread for p in reading.projections if p.kind == Kind.RESULT] == [clinical_pb2.UNREAD_REASON_MALFORMED]
