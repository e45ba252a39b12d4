"""DICOM key-object selections of our own making: a small writer of data sets, implicit and explicit."""

from __future__ import annotations

import struct
from collections.abc import Sequence

KOS = "1.2.840.10008.5.1.4.1.1.88.59"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
_LONG = {"SQ", "UR", "UT"}

Element = tuple[int, str, "str | Sequence[Sequence[Element]]"]


class Writer:
    """Writes elements in one transfer syntax; `undefined` leaves the lengths of sequences open."""

    def __init__(self, *, explicit: bool, undefined: bool = False) -> None:
        self.explicit = explicit
        self.undefined = undefined

    def data_set(self, elements: Sequence[Element]) -> bytes:
        return b"".join(self._element(*element) for element in elements)

    def _element(self, tag: int, vr: str, value: str | Sequence[Sequence[Element]]) -> bytes:
        if isinstance(value, str):
            raw = value.encode("latin-1")
            raw += b"\0" * (len(raw) % 2) if vr == "UI" else b" " * (len(raw) % 2)
            length = len(raw)
        else:
            raw = b"".join(self._item(item) for item in value)
            length = len(raw)
            if self.undefined:
                raw += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
                length = 0xFFFFFFFF
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        if not self.explicit:
            return head + struct.pack("<I", length) + raw
        if vr in _LONG:
            return head + vr.encode() + b"\0\0" + struct.pack("<I", length) + raw
        return head + vr.encode() + struct.pack("<H", length) + raw

    def _item(self, elements: Sequence[Element]) -> bytes:
        inside = self.data_set(elements)
        if self.undefined:
            end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
            return struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inside + end
        return struct.pack("<HHI", 0xFFFE, 0xE000, len(inside)) + inside


def selection(
    study: str = "1.2.3.4.5",
    accession: str = "A-1",
    issuer: str = "1.2.250.1.9",
    *,
    sop_class: str = KOS,
    images: int = 2,
    order: str = "O-1",
) -> list[Element]:
    """The elements of a selection of one study's images, with a patient's name that nobody must look at."""
    issued: list[Element] = (
        [(0x00080051, "SQ", [[(0x00400032, "UT", issuer), (0x00400033, "CS", "ISO")]])] if issuer else []
    )
    objects = [[(0x00081150, "UI", "1.2.840.10008.5.1.4.1.1.2"), (0x00081155, "UI", f"1.9.{n}")] for n in range(images)]
    series: list[Element] = [
        (0x0020000E, "UI", f"{study}.1"),
        (0x00081190, "UR", "https://pacs.invalid/studies?patient=1"),
        (0x00081199, "SQ", objects),
        (0x0040E011, "UI", "1.2.250.1.77"),
    ]
    return [
        (0x00080005, "CS", "ISO_IR 100"),
        (0x00080016, "UI", sop_class),
        (0x00080018, "UI", "1.2.3.4.9"),
        (0x00080023, "DA", "20210108"),
        (0x00080033, "TM", "113000"),
        (0x00080060, "CS", "KO"),
        (0x00080080, "LO", "Centre de radiologie^^^^^^^^^101"),
        (0x00080201, "SH", "+0100"),
        (0x00081030, "LO", "Scanner du crâne"),
        (0x00100010, "PN", "PATIENTE^DOMINIQUE"),
        (0x0020000D, "UI", study),
        (0x0040A043, "SQ", [[(0x00080100, "SH", "113030"), (0x00080102, "SH", "DCM"), (0x00080104, "LO", "Manifest")]]),
        (0x0040A370, "SQ", [[(0x00080050, "SH", accession), *issued, (0x00402016, "LO", order)]]),
        (0x0040A375, "SQ", [[(0x00081115, "SQ", [series]), (0x0020000D, "UI", study)]]),
    ]


def part10(elements: Sequence[Element], *, syntax: str = IMPLICIT, undefined: bool = False) -> bytes:
    """A file: preamble, file meta information, data set."""
    meta = Writer(explicit=True).data_set([(0x00020002, "UI", KOS), (0x00020010, "UI", syntax)])
    writer = Writer(explicit=syntax == EXPLICIT, undefined=undefined)
    return b"\0" * 128 + b"DICM" + meta + writer.data_set(elements)
