"""Key-object selections: what they refer to, in each encoding; what is none is refused, whatever the bytes."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp.common.v1 import coding_pb2
from services.document.reading import imaging, kos
from tests import dicom_files as dicom


@pytest.mark.parametrize("syntax", [dicom.IMPLICIT, dicom.EXPLICIT])
@pytest.mark.parametrize("undefined", [False, True])
def test_a_selection_is_read_in_each_encoding(syntax: str, undefined: bool) -> None:
    read = kos.read(dicom.part10(dicom.selection(), syntax=syntax, undefined=undefined), "application/dicom")
    assert read is not None
    assert [(n.system, n.value) for n in read.accession_numbers] == [("1.2.250.1.9", "A-1")]
    assert [(n.system, n.value) for n in read.order_ids] == [("", "O-1")]
    [study] = read.studies
    [series] = study.series
    assert (study.study_uid, series.series_uid, series.instances) == ("1.2.3.4.5", "1.2.3.4.5.1", 2)
    assert list(series.locations) == ["https://pacs.invalid/studies", "1.2.250.1.77"]
    assert (read.description, read.institution) == ("Scanner du crâne", "Centre de radiologie")
    assert (read.title.code.code, read.title.text) == ("113030", "Manifest")
    assert read.time.time.ToDatetime(tzinfo=UTC) == datetime(2021, 1, 8, 10, 30, tzinfo=UTC)


def test_the_patient_is_not_looked_at() -> None:
    read = kos.read(dicom.part10(dicom.selection()), "application/dicom")
    assert b"DOMINIQUE" not in read.SerializeToString()  # type: ignore[union-attr]


def test_a_selection_in_json_says_the_same() -> None:
    def model(elements: object) -> dict[str, object]:
        found: dict[str, object] = {}
        for tag, vr, value in elements:  # type: ignore[attr-defined]
            held = [value] if isinstance(value, str) else [model(item) for item in value]
            found[f"{tag:08X}"] = {"vr": vr, "Value": held}
        return found

    content = orjson.dumps([model(dicom.selection())])
    assert kos.read(content, "application/dicom+json") == kos.read(dicom.part10(dicom.selection()), "application/dicom")


def test_dicom_of_another_kind_is_no_selection() -> None:
    image = dicom.selection(sop_class="1.2.840.10008.5.1.4.1.1.2")
    assert kos.read(dicom.part10(image), "application/dicom") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"DICM",
        b"\0" * 128 + b"DICM",
        dicom.part10(dicom.selection())[:-3],
        dicom.part10(dicom.selection(), syntax="1.2.840.10008.1.2.1.99"),
        b"\0" * 128 + b"DICM" + struct.pack("<HH2sH", 2, 0x10, b"UI", 60_000),
    ],
)
def test_what_is_cut_compressed_or_none_is_refused(content: bytes) -> None:
    if content:
        with pytest.raises(kos.DicomRefused):
            kos.read(content, "application/dicom")
    else:
        assert kos.read(content, "application/dicom") is None


def test_sequences_that_nest_without_end_are_refused() -> None:
    deep = b"".join(struct.pack("<HHI", 0x0040, 0xA375, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
                    for _ in range(5_000))  # fmt: skip
    with pytest.raises(kos.DicomRefused):
        kos.read(deep, "application/dicom")


@given(st.binary(max_size=400), st.integers(0, 1_200))
def test_no_bytes_raise_anything_else(noise: bytes, at: int) -> None:
    good = dicom.part10(dicom.selection())
    for content in (noise, good[:at] + noise, good[:at] + noise + good[at + len(noise) :]):
        for mime_type in kos.MIME_TYPES:
            try:
                kos.read(content, mime_type)
            except kos.DicomRefused:
                continue


def _links(side: imaging.Side, system: str, value: str) -> set[str]:
    return set(imaging.links(side, [], [coding_pb2.Identifier(system=system, value=value)], [], []))


@pytest.mark.parametrize(
    ("report", "reference", "joined"),
    [
        (("1.2", "A"), ("1.2", "A"), True),
        (("1.2", "A"), ("1.3", "A"), False),
        (("1.2", "A"), ("", "A"), True),
        (("", "A"), ("1.3", "A"), True),
        (("", "A"), ("", "A"), True),
        (("1.2", "A"), ("1.2", "B"), False),
    ],
)
def test_numbers_meet_when_their_authorities_do_not_differ(
    report: tuple[str, str], reference: tuple[str, str], joined: bool
) -> None:
    assert bool(_links("report", *report) & _links("reference", *reference)) == joined


def test_a_reference_id_that_both_carry_joins_them() -> None:
    shared = [coding_pb2.Identifier(system="1.2.250.1.1", value="R-7")]
    assert set(imaging.links("report", [], [], [], shared)) & set(imaging.links("reference", [], [], [], shared))
    uid = [coding_pb2.Identifier(system="1.2.250.1.1", value="1.2.3.4.5")]
    assert set(imaging.links("report", ["1.2.3.4.5"], [], [], [])) & set(imaging.links("reference", [], [], [], uid))


def test_an_accession_number_never_meets_an_order_number() -> None:
    number = [coding_pb2.Identifier(value="7")]
    assert not set(imaging.links("report", [], number, [], [])) & set(imaging.links("reference", [], [], number, []))
