"""Single protobuf fields as bytes, for what is put behind or around a message without parsing it.

A tag is the field's number and wire type as they are on the wire; of a field that comes twice the last one counts
(protobuf's encoding: concatenation is merging). No message is known here.
"""

from __future__ import annotations

from datetime import datetime

from services.document.times import EPOCH


def embedded(tag: bytes, message: bytes) -> bytes:
    """A field that holds a message."""
    return b"%b%b%b" % (tag, varint(len(message)), message)


def text(tag: bytes, text: str) -> bytes:
    """A field of at most 127 ASCII characters."""
    return b"%b%c%b" % (tag, len(text), text.encode("ascii"))


def time(tag: bytes, instant: datetime) -> bytes:
    """A Timestamp, both of its fields written: zero too must replace what was sealed."""
    since = instant - EPOCH
    seconds, nanos = since.days * 86400 + since.seconds, since.microseconds * 1000
    inner = b"\x08%b\x10%b" % (varint(seconds), varint(nanos))
    return b"%b%c%b" % (tag, len(inner), inner)


def varint(number: int) -> bytes:
    """A number from 0 on, as protobuf writes it."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
