"""Health ids, event and document ids, and resource names: their text forms and nothing else.

A health id is a random 63-bit number. People and partner software see it as 21 digits: 19 of
the number, zero-padded, and a 2-digit key 97 - (n mod 97), so that it can be checked on every
entry and never be mistaken for an INS-C of 22 digits (domain: identifiers). Resource names follow
AIP-122: ``dossiers/{dossier}``, ``dossiers/{dossier}/documents/{document}``, ``people/{person}``.
"""

from __future__ import annotations

import os
import secrets
import time
import uuid
from typing import NewType

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DmpError, FieldViolation

HealthId = NewType("HealthId", int)

_MAX = (1 << 63) - 1
_UUID_VERSION_7 = 0x7 << 76 | 0x2 << 62
_UUID_RANDOM = (1 << 128) - 1 & ~(0xF << 76) & ~(0x3 << 62)
_FICTITIOUS_FROM = 0x7F80 << 48
"""Health ids from here to 2^63-1 are those of fictitious people (docs/decisions/0029-sandbox.md)."""


def new_health_id(*, fictitious: bool = False) -> HealthId:
    """Draw a health id, derived from nothing: uniform in 1 … 2^63-2^55-1, or in the rest for a fictitious person."""
    if fictitious:
        return HealthId(_FICTITIOUS_FROM + secrets.randbelow(_MAX + 1 - _FICTITIOUS_FROM))
    return HealthId(secrets.randbelow(_FICTITIOUS_FROM - 1) + 1)


def is_fictitious(health_id: int) -> bool:
    """Whether this is the health id of a fictitious person, which says nothing about any real one."""
    return health_id >= _FICTITIOUS_FROM


def format_health_id(health_id: int) -> str:
    """Write a health id as its 21 digits."""
    return f"{health_id:019d}{97 - health_id % 97:02d}"


def parse_health_id(text: str, field: str) -> HealthId:
    """Read 21 digits; raises INVALID_FIELD naming `field` when the form or the key is wrong."""
    if len(text) == 21 and text.isascii() and text.isdigit():
        number = int(text[:19])
        if 0 < number <= _MAX and 97 - number % 97 == int(text[19:]):
            return HealthId(number)
        raise _bad(field, "health_id.key", "the 2-digit key does not belong to the number")
    raise _bad(field, "health_id.form", "a health id is 21 digits")


def dossier_of(name: str, field: str) -> HealthId:
    """Read the dossier that a resource name begins with (``dossiers/…`` or ``people/…``)."""
    collection, _, rest = name.partition("/")
    if collection not in ("dossiers", "people"):
        raise _bad(field, "resource_name", "the name begins with dossiers/ or people/")
    return parse_health_id(rest.partition("/")[0], field)


def child_of(name: str, collection: str, field: str) -> tuple[HealthId, uuid.UUID]:
    """Read ``dossiers/{dossier}/{collection}/{uuid}``."""
    parts = name.split("/")
    if len(parts) != 4 or parts[2] != collection:
        raise _bad(field, "resource_name", f"the name is dossiers/{{dossier}}/{collection}/{{id}}")
    try:
        child = uuid.UUID(parts[3])
    except ValueError:
        raise _bad(field, "resource_name", "the last part is a UUID") from None
    return parse_health_id(parts[1], field), child


def dossier_name(health_id: int) -> str:
    """The resource name of a dossier."""
    return f"dossiers/{format_health_id(health_id)}"


def person_name(health_id: int) -> str:
    """The resource name of a person."""
    return f"people/{format_health_id(health_id)}"


def document_name(health_id: int, document_id: uuid.UUID) -> str:
    """The resource name of a document."""
    return f"dossiers/{format_health_id(health_id)}/documents/{document_id}"


def submission_set_name(health_id: int, submission_set_id: uuid.UUID) -> str:
    """The resource name of a submission set."""
    return f"dossiers/{format_health_id(health_id)}/submissionSets/{submission_set_id}"


def folder_name(health_id: int, folder_id: uuid.UUID) -> str:
    """The resource name of a folder."""
    return f"dossiers/{format_health_id(health_id)}/folders/{folder_id}"


def upload_name(health_id: int, upload_id: uuid.UUID) -> str:
    """The resource name of an upload."""
    return f"dossiers/{format_health_id(health_id)}/uploads/{upload_id}"


def event_name(health_id: int, event_id: uuid.UUID) -> str:
    """The resource name of an event of a dossier's trail."""
    return f"dossiers/{format_health_id(health_id)}/events/{event_id}"


def uuid7() -> uuid.UUID:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, the rest random. Never used for dossiers: it tells when."""
    return uuid.UUID(bytes=uuid7_bytes())


def uuid7_bytes() -> bytes:
    """The 16 bytes of a new UUIDv7."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    return (value & _UUID_RANDOM | _UUID_VERSION_7).to_bytes(16, "big")


def uuid8(content: bytes) -> uuid.UUID:
    """A UUIDv8 (RFC 9562) of 16 bytes, six bits of which are replaced: for ids that are made of a digest."""
    value = int.from_bytes(content[:16], "big") & ~(0xF << 76) | 0x8 << 76
    return uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def _bad(field: str, rule: str, description: str) -> DmpError:
    return DmpError(reasons.ERROR_REASON_INVALID_FIELD, fields=(FieldViolation(field, rule, description),))
