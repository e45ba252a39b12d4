"""Single protobuf fields as bytes: for messages that are built many times a second of parts that are bytes already, and
for what is put behind or around a message without parsing it.

A tag is the field's number and wire type as they are on the wire. Of a field that comes twice the last one counts, and
messages are merged (protobuf's encoding: concatenation is merging). No message is known here; whoever writes one has a
test that parsing it gives what the generated class would.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SMALL: Final = tuple(
    bytes((number,)) if number < 0x80 else bytes((number & 0x7F | 0x80, number >> 7)) for number in range(1 << 14)
)
_MORE: Final = tuple(bytes((number & 0x7F | 0x80, number >> 7 | 0x80)) for number in range(1 << 14))
"""Fourteen bits that are followed by more."""


def embedded(tag: bytes, message: bytes) -> bytes:
    """A field that holds a message, or bytes."""
    return b"%b%b%b" % (tag, varint(len(message)), message)


def text(tag: bytes, text: str) -> bytes:
    """A field of text."""
    data = text.encode()
    return b"%b%b%b" % (tag, varint(len(data)), data)


def short_text(tag: bytes, text: str) -> bytes:
    """A field of at most 127 ASCII characters."""
    return b"%b%c%b" % (tag, len(text), text.encode("ascii"))


def time(tag: bytes, instant: datetime) -> bytes:
    """A Timestamp, both of its fields written: zero too must replace what was sealed."""
    since = instant - _EPOCH
    inner = b"\x08%b\x10%b" % (varint(since.days * 86400 + since.seconds), varint(since.microseconds * 1000))
    return b"%b%c%b" % (tag, len(inner), inner)


def varint(number: int) -> bytes:
    """A number from 0 on, as protobuf writes it."""
    if number < 1 << 14:
        return _SMALL[number]
    low = _MORE[number & 0x3FFF]
    if number < 1 << 28:
        return low + _SMALL[number >> 14]
    return b"%b%b%b" % (low, _MORE[number >> 14 & 0x3FFF], varint(number >> 28))
