"""An event made ready for the log: checked, its producer set, serialised once, its keyed digests taken.

What is stored in clear beside the sealed event is here too, and is all that an index may be made of: the producer, the
event id, the dossier, the time, whether the connection was secret, and two digests that mean nothing without the
service's keyring. No database and no dossier key here.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from dmp.audit.v1 import audit_pb2
from services.audit.tags import RowTags
from services.runtime.errors import invalid
from services.runtime.identifiers import uuid8
from services.runtime.keyring import Keyring

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the last of google.protobuf.Timestamp
_CONTENT: Final = "dmp/audit/content/v1"
_EVENT_ID: Final = "dmp/audit/event-id/v1"
_ACTOR: Final = "dmp/audit/actor/v1"


class Entry(NamedTuple):
    """An event ready to be appended. `clear` is what the leaf will commit to, byte for byte."""

    producer: str
    event_id: bytes
    health_id: int
    event_time: datetime
    secret: bool
    actor_digest: bytes
    content_digest: bytes
    clear: bytes


class EntryDigests:
    """The keyed digests of entries, under the audit service's keyring."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self.tags = RowTags(keyring)

    def actor(self, health_id: int, subject: str) -> bytes:
        """By which the acts of one subject in one dossier are found; across dossiers these have nothing in common."""
        return self._keyring.digest(_ACTOR, health_id.to_bytes(8, "big") + subject.encode())

    def content(self, clear: bytes) -> bytes:
        """By which a retry of an event is told from another event under the same id."""
        return self._keyring.digest(_CONTENT, clear)

    def event_id(self, use: str, value: bytes) -> bytes:
        """An event id that is always the same for a value, and tells nothing of it: for events that are made again."""
        return self.event_ids(use, value)[0]

    def event_ids(self, use: str, value: bytes) -> list[bytes]:
        """What `event_id` gave under each live generation of the keyring, oldest first."""
        content = use.encode() + b"\x00" + value
        return [uuid8(digest).bytes for digest in self._keyring.digests(_EVENT_ID, content)]

    def contents(self, clear: bytes) -> list[bytes]:
        """What `content` gave under each live generation of the keyring."""
        return list(self._keyring.digests(_CONTENT, clear))


def prepare(event: audit_pb2.AuditEvent, producer: str, digests: EntryDigests) -> Entry:
    """The entry of a valid event (protovalidate has passed); sets the event's producer, whatever it was.

    DmpError INVALID_FIELD for a time that is no date, which the contract's rules cannot say.
    """
    event.producer = producer
    health_id, actor = event.health_id, event.actor
    clear = event.SerializeToString(deterministic=True)
    return Entry(
        producer,
        event.event_id,
        health_id,
        _instant(event.event_time),
        actor.secret_connection,
        digests.actor(health_id, actor.subject),
        digests.content(clear),
        clear,
    )


def _instant(time: Timestamp) -> datetime:
    """The time to the microsecond (the clear part keeps the nanoseconds)."""
    seconds, nanos = time.seconds, time.nanos
    if not 0 <= seconds <= _LAST_SECOND or not 0 <= nanos < 1_000_000_000:
        raise invalid("event_time", "timestamp", "a time from 1970 to 9999, with 0 to 999,999,999 nanoseconds")
    return _EPOCH + timedelta(0, seconds, nanos // 1000)
