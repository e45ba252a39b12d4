"""The bytes of a leaf and of its sealed clear part: frozen, and nothing else lives here. No key store, no database.

Entry of the log (version 1, 49 bytes; docs/decisions/0005):

    offset  length  content
    0       1       version, 0x01
    1       16      event id, the bytes of the producer's UUID
    17      32      commitment

    commitment = SHA-256( tag ‖ salt ‖ clear )
    tag        = the 27 bytes "dmp.sante.fr/audit/leaf/v1" and a line feed
    salt       = 32 random bytes, drawn for this event alone
    clear      = the serialized dmp.audit.v1.AuditEvent, kept as it was when it was appended and never serialised again

Sealed clear part: `sealing.seal` (version 1) of salt ‖ clear under the dossier's key of the audit service, with the
associated data health id (8 bytes) ‖ event id (16 bytes) ‖ log id (4 bytes), integers big-endian.

Whoever holds the salt and the clear part recomputes the commitment with `cat tag salt clear | sha256sum`. Whoever holds
only the leaf can guess nothing, and once the dossier's key is destroyed nobody can.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from services.runtime.sealing import DossierKey, SealBroken, open_sealed, seal, seal_all

LEAF_VERSION: Final = b"\x01"
LEAF_BYTES: Final = 49
COMMITMENT_TAG: Final = b"dmp.sante.fr/audit/leaf/v1\n"
SALT_BYTES: Final = 32
EVENT_ID_BYTES: Final = 16


class EventPlace(NamedTuple):
    """What a sealed clear part is bound to."""

    health_id: int
    event_id: bytes
    log_id: int


class ClearPart(NamedTuple):
    """What the leaf commits to, and what opens the commitment."""

    salt: bytes
    clear: bytes


def commitment(part: ClearPart) -> bytes:
    """The 32 bytes that bind a leaf to its clear part without telling anything of it."""
    return hashlib.sha256(b"".join((COMMITMENT_TAG, part.salt, part.clear))).digest()


def leaf(event_id: bytes, part: ClearPart) -> bytes:
    """The 49 bytes of the entry. ValueError unless the event id has 16 bytes and the salt 32."""
    if len(event_id) != EVENT_ID_BYTES or len(part.salt) != SALT_BYTES:
        raise ValueError(f"an event id has {EVENT_ID_BYTES} bytes and a salt {SALT_BYTES}")
    return b"".join((LEAF_VERSION, event_id, commitment(part)))


def clear_aad(place: EventPlace) -> bytes:
    """The 28 bytes that bind a sealed clear part to its dossier, its event and its log."""
    return place.health_id.to_bytes(8, "big") + place.event_id + place.log_id.to_bytes(4, "big")


def seal_clear(key: DossierKey, part: ClearPart, place: EventPlace) -> bytes:
    """The sealed clear part."""
    return seal(key, part.salt + part.clear, clear_aad(place))


def commit_and_seal(
    events: Iterable[tuple[int, bytes, bytes]], keys: Sequence[DossierKey], log_id: int
) -> tuple[list[bytes], list[bytes]]:
    """The entries of a batch and its sealed clear parts, as `leaf` and `seal_clear` make them, each with a new salt.

    An event is its health id, its event id (16 bytes) and its clear part; `keys` are those of the dossiers, in order.
    """
    drawn, log = os.urandom(SALT_BYTES * len(keys)), log_id.to_bytes(4, "big")
    leaves: list[bytes] = []
    items: list[tuple[DossierKey, bytes, bytes]] = []
    for at, key, (health_id, event_id, clear) in zip(range(0, len(drawn), SALT_BYTES), keys, events, strict=True):
        content = drawn[at : at + SALT_BYTES] + clear
        leaves.append(LEAF_VERSION + event_id + hashlib.sha256(COMMITMENT_TAG + content).digest())
        items.append((key, content, health_id.to_bytes(8, "big") + event_id + log))
    return leaves, seal_all(items)


def open_clear(key: DossierKey, sealed: bytes, place: EventPlace) -> ClearPart:
    """The clear part of a blob made by `seal_clear` with the same key and place. Raises SealBroken."""
    content = open_sealed(key, sealed, clear_aad(place))
    if len(content) < SALT_BYTES:
        raise SealBroken("a clear part begins with its salt")
    return ClearPart(content[:SALT_BYTES], content[SALT_BYTES:])
