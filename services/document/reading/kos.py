"""DICOM key-object selection documents (KOS): which images belong to an examination, and where they are.

A reader for just that: a Part 10 file, or a bare data set, in implicit or explicit little endian, bounded in elements,
depth and bytes, and the same in DICOM JSON. Compressed data sets are refused: nothing is inflated. Names of the patient
are never looked at.

Sources: DICOM PS3.5 §7 (data set), PS3.10 §7 (file), PS3.3 A.35.4 (KOS); IHE XDS-I.b; the French DRIM-M profile.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any, Final

import orjson

from dmp.common.v1 import coding_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from services.document.hl7_time import FIRST_YEAR, LAST_YEAR, PARIS
from services.document.reading.acts import occurred
from services.document.reading.imaging import links_of
from services.document.reading.model import Kind, Projection
from services.document.times import timestamp

MIME_TYPES: Final = frozenset({"application/dicom", "application/dicom+json"})
KEY_OBJECT_SELECTION: Final = "1.2.840.10008.5.1.4.1.1.88.59"
MAX_ELEMENTS: Final = 200_000
"""Most data elements that are read; a selection of ten thousand images has about 50,000."""
MAX_DEPTH: Final = 32
MAX_VALUE: Final = 4_096
"""Longest value that is kept, in bytes; longer ones are skipped."""
MAX_SERIES: Final = 2_000

_IMPLICIT: Final = "1.2.840.10008.1.2"
_EXPLICIT: Final = "1.2.840.10008.1.2.1"
_LONG: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS: Final = 0x7FE00010

_CHARSET, _SOP_CLASS, _SOP_INSTANCE, _CONTENT_DATE, _CONTENT_TIME = (
    0x00080005, 0x00080016, 0x00080018, 0x00080023, 0x00080033,
)  # fmt: skip
_ACCESSION, _ACCESSION_ISSUER, _RETRIEVE_AE, _INSTITUTION, _OFFSET = (
    0x00080050, 0x00080051, 0x00080054, 0x00080080, 0x00080201,
)  # fmt: skip
_STUDY_DESCRIPTION, _CODE, _SCHEME, _MEANING = 0x00081030, 0x00080100, 0x00080102, 0x00080104
_SERIES_SEQUENCE, _RETRIEVE_URL, _SOP_SEQUENCE = 0x00081115, 0x00081190, 0x00081199
_MODALITY, _STUDY_UID, _SERIES_UID = 0x00080060, 0x0020000D, 0x0020000E
_UNIVERSAL_ID, _LOCAL_ID, _PLACER_ISSUER, _FILLER_ISSUER = 0x00400032, 0x00400031, 0x00400026, 0x00400027
_PLACER, _FILLER, _CONCEPT, _REQUESTS, _EVIDENCE, _LOCATION = (
    0x00402016, 0x00402017, 0x0040A043, 0x0040A370, 0x0040A375, 0x0040E011,
)  # fmt: skip
_SEQUENCES: Final = frozenset(
    {_ACCESSION_ISSUER, _SERIES_SEQUENCE, _SOP_SEQUENCE, _PLACER_ISSUER, _FILLER_ISSUER, _CONCEPT, _REQUESTS, _EVIDENCE}
)
"""The sequences that are opened; others are stepped over."""
_WANTED: Final = _SEQUENCES | {
    _CHARSET, _SOP_CLASS, _SOP_INSTANCE, _CONTENT_DATE, _CONTENT_TIME, _ACCESSION, _RETRIEVE_AE, _INSTITUTION, _OFFSET,
    _STUDY_DESCRIPTION, _CODE, _SCHEME, _MEANING, _RETRIEVE_URL, _MODALITY, _STUDY_UID, _SERIES_UID, _UNIVERSAL_ID,
    _LOCAL_ID, _PLACER, _FILLER, _LOCATION,
}  # fmt: skip
_CHARSETS: Final = {
    "": "ascii",
    "ISO_IR 6": "ascii",
    "ISO_IR 100": "iso-8859-1",
    "ISO_IR 101": "iso-8859-2",
    "ISO_IR 192": "utf-8",
    "ISO 2022 IR 100": "iso-8859-1",
    "ISO_IR 203": "iso-8859-15",
}

DataSet = dict[int, Any]
"""Tag → text, or the data sets of a sequence."""


class DicomRefused(Exception):
    """The bytes are not DICOM that is read here. The message never repeats them."""

    def __init__(self, description: str, *, too_large: bool = False) -> None:
        super().__init__(description)
        self.too_large = too_large


def is_dicom(content: bytes, mime_type: str) -> bool:
    """Whether this is DICOM: by its mark, or by what the metadata say."""
    return content[128:132] == b"DICM" or mime_type in MIME_TYPES


def read(content: bytes, mime_type: str) -> values.ImagingReference | None:
    """The selection; None for DICOM of another kind. Raises DicomRefused."""
    data = _from_json(content) if mime_type == "application/dicom+json" else _from_file(content)
    if _text(data, _SOP_CLASS) != KEY_OBJECT_SELECTION:
        return None
    return _reference(data)


def projection(read: values.ImagingReference, reference_ids: Iterable[coding_pb2.Identifier]) -> Projection:
    """A selection as it is kept."""
    when = read.time if read.HasField("time") else None
    return Projection(
        Kind.IMAGING_REFERENCE,
        read,
        occurred(when),
        links=links_of(read, reference_ids),
    )


def _reference(data: DataSet) -> values.ImagingReference:
    read = values.ImagingReference(
        sop_instance_uid=_text(data, _SOP_INSTANCE),
        description=_text(data, _STUDY_DESCRIPTION),
        institution=_text(data, _INSTITUTION).partition("^")[0].strip(),
    )
    _numbers(data, read)
    for request in _items(data, _REQUESTS):
        _numbers(request, read)
    for concept in _items(data, _CONCEPT)[:1]:
        read.title.text = _text(concept, _MEANING)
        if code := _text(concept, _CODE):
            read.title.code.code, read.title.code.system = code, _text(concept, _SCHEME)
    for study in _items(data, _EVIDENCE):
        added = read.studies.add(study_uid=_text(study, _STUDY_UID))
        for series in _items(study, _SERIES_SEQUENCE)[:MAX_SERIES]:
            _series(series, added)
    if not read.studies and (uid := _text(data, _STUDY_UID)):
        read.studies.add(study_uid=uid)
    when = _time(data)
    if when is not None:
        read.time.CopyFrom(when)
    return read


def _numbers(data: DataSet, read: values.ImagingReference) -> None:
    """Accession and order numbers, each with its authority where that is stated."""
    for tag, issuer, target in (
        (_ACCESSION, _ACCESSION_ISSUER, read.accession_numbers),
        (_PLACER, _PLACER_ISSUER, read.order_ids),
        (_FILLER, _FILLER_ISSUER, read.order_ids),
    ):
        number = _text(data, tag)
        if not number:
            continue
        authority = next((_text(item, _UNIVERSAL_ID) for item in _items(data, issuer)), "")
        named = coding_pb2.Identifier(system=authority, value=number)
        if named not in target:
            target.append(named)


def _series(series: DataSet, study: values.ImagingStudy) -> None:
    places = [_text(series, _RETRIEVE_URL).partition("?")[0], _text(series, _LOCATION), _text(series, _RETRIEVE_AE)]
    study.series.add(
        series_uid=_text(series, _SERIES_UID),
        modality=_text(series, _MODALITY),
        instances=len(_items(series, _SOP_SEQUENCE)),
        locations=[place for place in places if place],
    )


def _time(data: DataSet) -> values.PartialTime | None:
    day, hour = _text(data, _CONTENT_DATE), _text(data, _CONTENT_TIME).partition(".")[0]
    if len(day) != 8 or not day.isdigit() or not FIRST_YEAR <= int(day[:4]) <= LAST_YEAR:
        return None
    timed = len(hour) in {4, 6} and hour.isdigit()
    try:
        naive = datetime.strptime(day + (hour.ljust(6, "0") if timed else "000000"), "%Y%m%d%H%M%S")  # noqa: DTZ007
    except ValueError:
        return None
    zone = _zone(_text(data, _OFFSET))
    precision = values.TIME_PRECISION_SECOND if timed else values.TIME_PRECISION_DAY
    return values.PartialTime(time=timestamp(naive.replace(tzinfo=zone or PARIS)), precision=precision)


def _zone(text: str) -> timezone | None:
    if len(text) != 5 or text[0] not in "+-" or not text[1:].isdigit() or int(text[1:3]) > 14 or int(text[3:]) > 59:
        return None
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[3:]))
    return timezone(-offset if text[0] == "-" else offset)


def _text(data: DataSet, tag: int) -> str:
    value = data.get(tag, "")
    return value if isinstance(value, str) else ""


def _items(data: DataSet, tag: int) -> list[DataSet]:
    value = data.get(tag, [])
    return value if isinstance(value, list) else []


def _from_file(content: bytes) -> DataSet:
    start, syntax = 0, _IMPLICIT
    if content[128:132] == b"DICM":
        meta = _Scanner(content, explicit=True)
        start, syntax = meta.meta(132)
    if syntax not in {_IMPLICIT, _EXPLICIT}:
        raise DicomRefused("a transfer syntax that a key-object selection does not need")
    return _Scanner(content, explicit=syntax == _EXPLICIT).data_set(start)


class _Scanner:
    """Goes through the elements of a data set, keeping those that are wanted."""

    def __init__(self, content: bytes, *, explicit: bool) -> None:
        self._content = content
        self._explicit = explicit
        self._seen = 0
        self._codec = "ascii"

    def meta(self, start: int) -> tuple[int, str]:
        """Where the data set begins after the file meta information, and in which transfer syntax it is."""
        at, syntax = start, ""
        while at < len(self._content):
            tag, _, length, value = self._header(at)
            if tag >> 16 != 0x0002:
                break
            if length == _UNDEFINED:
                raise DicomRefused("file meta information of undefined length")
            if tag == 0x00020010:
                syntax = self._decoded(value, length)
            at = value + length
        if not syntax:
            raise DicomRefused("no transfer syntax")
        return at, syntax

    def data_set(self, start: int) -> DataSet:
        """The whole data set."""
        data, _ = self._elements(start, len(self._content), 0, until_end=False)
        return data

    def _header(self, at: int) -> tuple[int, bytes, int, int]:
        """Tag, VR (empty when implicit), length, and where the value begins."""
        try:
            group, element = struct.unpack_from("<HH", self._content, at)
            tag = group << 16 | element
            if group == 0xFFFE or not self._explicit:
                return tag, b"", struct.unpack_from("<I", self._content, at + 4)[0], at + 8
            vr = self._content[at + 4 : at + 6]
            if vr in _LONG:
                return tag, vr, struct.unpack_from("<I", self._content, at + 8)[0], at + 12
            return tag, vr, struct.unpack_from("<H", self._content, at + 6)[0], at + 8
        except struct.error:
            raise DicomRefused("an element ends early") from None

    def _elements(self, at: int, end: int, depth: int, *, until_end: bool) -> tuple[DataSet, int]:
        """The elements up to `end`, or up to the end of the item when its length is not stated."""
        if depth > MAX_DEPTH:
            raise DicomRefused("sequences are nested too deep", too_large=True)
        data: DataSet = {}
        while at < end:
            self._count()
            tag, vr, length, value = self._header(at)
            if tag == _ITEM_END and until_end:
                return data, value
            if tag == _PIXELS:
                break
            if length == _UNDEFINED or vr == b"SQ" or tag in _SEQUENCES:
                items, at = self._sequence(value, length, depth + 1, keep=tag in _SEQUENCES)
                if tag in _SEQUENCES:
                    data[tag] = items
                continue
            if value + length > end:
                raise DicomRefused("an element is longer than what holds it")
            if tag in _WANTED and length <= MAX_VALUE:
                data[tag] = self._decoded(value, length)
                if tag == _CHARSET:
                    self._codec = _CHARSETS.get(data[tag].partition("\\")[0].strip(), "ascii")
            at = value + length
        if until_end and at >= end:
            raise DicomRefused("an item has no end")
        return data, at

    def _sequence(self, at: int, length: int, depth: int, *, keep: bool) -> tuple[list[DataSet], int]:
        end = len(self._content) if length == _UNDEFINED else at + length
        if end > len(self._content):
            raise DicomRefused("a sequence is longer than the file")
        if not keep and length != _UNDEFINED:
            return [], end
        items: list[DataSet] = []
        while at < end:
            self._count()
            tag, _, item_length, value = self._header(at)
            if tag == _SEQUENCE_END:
                return items, value
            if tag != _ITEM:
                raise DicomRefused("a sequence holds something else than items")
            undefined = item_length == _UNDEFINED
            limit = end if undefined else value + item_length
            if limit > end:
                raise DicomRefused("an item is longer than its sequence")
            data, at = self._elements(value, limit, depth, until_end=undefined)
            items.append(data)
        return items, at

    def _count(self) -> None:
        self._seen += 1
        if self._seen > MAX_ELEMENTS:
            raise DicomRefused("more elements than are read", too_large=True)

    def _decoded(self, at: int, length: int) -> str:
        raw = self._content[at : at + length]
        return raw.decode(self._codec, "replace").replace("\x00", "").strip()


def _from_json(content: bytes) -> DataSet:
    """A data set in the DICOM JSON model (PS3.18 F)."""
    try:
        given = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise DicomRefused("not JSON") from None
    if isinstance(given, list):
        given = given[0] if given else {}
    if not isinstance(given, dict):
        raise DicomRefused("not a data set")
    return _json_data(given, 0)


def _json_data(given: dict[str, Any], depth: int) -> DataSet:
    if depth > MAX_DEPTH:
        raise DicomRefused("sequences are nested too deep", too_large=True)
    data: DataSet = {}
    for tag in _WANTED & {int(name, 16) for name in given if _is_tag(name)}:
        element = given.get(f"{tag:08X}", given.get(f"{tag:08x}"))
        held = element.get("Value") if isinstance(element, dict) else None
        if not isinstance(held, list):
            continue
        if tag in _SEQUENCES:
            data[tag] = [_json_data(item, depth + 1) for item in held[:MAX_ELEMENTS] if isinstance(item, dict)]
        elif held and isinstance(held[0], str | int):
            data[tag] = str(held[0])[:MAX_VALUE].strip()
    return data


def _is_tag(name: str) -> bool:
    return len(name) == 8 and all(c in "0123456789abcdefABCDEF" for c in name)
