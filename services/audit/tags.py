"""Tags: keyed digests by which a row answers for itself, and by which a row that was ended names why. Pure.

A tag is HMAC-SHA256, under the service's keyring, of a table's name and the values of a row's columns, each after its
kind and its length. Whoever can write to the database and has no keyring can neither change a row nor add one.

A row of the log whose clear part is gone holds, in the place of its actor's digest, its *end* (44 bytes, frozen):

    offset  length  content
    0       4       log id of the event that says why, big-endian
    4       8       its leaf index
    12      32      tag of the row with that place
"""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Sequence
from datetime import date, datetime
from typing import Final, NamedTuple

from services.runtime.keyring import Keyring

_LABEL: Final = "dmp/audit/row/v1"
_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
END_BYTES: Final = 44

Value = int | bool | str | bytes | datetime | date | uuid.UUID | Sequence[str] | Sequence[int] | None


class Place(NamedTuple):
    """Where an event is."""

    log_id: int
    leaf_index: int


class RowTags:
    """Tags under the audit service's keyring: written under its oldest live generation, believed under any live one."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def make(self, table: str, values: Sequence[Value]) -> bytes:
        """The 32 bytes that vouch for a row."""
        return self._keyring.digest(_LABEL, _encoded(table, values))

    def holds(self, table: str, values: Sequence[Value], tag: bytes) -> bool:
        """Whether the tag is that of the row."""
        live = self._keyring.digests(_LABEL, _encoded(table, values))
        return any(hmac.compare_digest(each, tag) for each in live)

    def anew(self, table: str, before: Sequence[Value] | None, tag: bytes, after: Sequence[Value]) -> bytes:
        """The tag of a row that changes, `before` being None for a new one. What did not answer for itself before does
        not afterwards: it keeps its tag, for those who verify to find."""
        return self.make(table, after) if before is None or self.holds(table, before, tag) else tag

    def end(self, row: Sequence[Value], place: Place) -> bytes:
        """The end of a row of the log."""
        log_id, leaf_index = place
        return log_id.to_bytes(4, "big") + leaf_index.to_bytes(8, "big") + self.make("event", (*row, *place))

    def ended_by(self, row: Sequence[Value], end: bytes) -> Place | None:
        """The place of the event that says why the row was ended; None when this is not the row's end."""
        if len(end) != END_BYTES:
            return None
        place = Place(int.from_bytes(end[:4], "big"), int.from_bytes(end[4:12], "big"))
        return place if self.holds("event", (*row, *place), end[12:]) else None


def _encoded(table: str, values: Sequence[Value]) -> bytes:
    return b"".join(map(_one, (table, *values)))


def _one(value: Value) -> bytes:
    kind, content = _bytes(value)
    return kind + len(content).to_bytes(4, "big") + content


def _bytes(value: Value) -> tuple[bytes, bytes]:
    match value:
        case None:
            return b"0", b""
        case bool():
            return b"?", bytes([value])
        case int():
            return b"i", value.to_bytes(9, "big", signed=True)
        case str():
            return b"s", value.encode()
        case bytes():
            return b"b", value
        case uuid.UUID():
            return b"u", value.bytes
        case datetime() if value.tzinfo is None:  # infinity, which nobody here writes
            return b"n", value.isoformat().encode()
        case datetime():
            since = value - _EPOCH
            micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
            return b"t", micros.to_bytes(9, "big", signed=True)
        case date():
            return b"d", value.toordinal().to_bytes(4, "big")
        case _:
            return b"l", b"".join(map(_one, value))
