"""Conditions and ranges of reads (RFC 9110 §13 and §14; FHIR: conditional read). Pure.

What is not understood here is ignored, as HTTP has it: a read is then answered whole.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from starlette.datastructures import Headers

from gateway.fhir.refusals import ProtocolRefusal

_TAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_RANGE: Final = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII | re.IGNORECASE)


class Part(NamedTuple):
    """Some bytes of a content: from `start`, included, to `end`, excluded."""

    start: int
    end: int

    def header(self, size: int) -> str:
        """The Content-Range."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


def is_known(headers: Headers, etag: str, last_modified: str = "") -> bool:
    """Whether the client has this version already: 304. If-None-Match decides alone where it is sent."""
    sent = headers.getlist("if-none-match")
    if sent:
        text = ",".join(sent)
        return bool(etag) and (text.strip() == "*" or _opaque(etag) in _TAG.findall(text))
    since, changed = _moment(headers.get("if-modified-since", "")), _moment(last_modified)
    return since is not None and changed is not None and changed <= since


def read_part(headers: Headers, etag: str, size: int) -> Part | None:
    """The one range that a read asks for; None for the whole. 416 when it lies beyond the content.

    Several ranges, other units and an If-Range that is not this very ETag get the whole.
    """
    asked = headers.getlist("range")
    match = _RANGE.fullmatch(asked[0]) if len(asked) == 1 else None
    if match is None or headers.get("if-range", etag).strip() != etag:
        return None
    first, last = match[1], match[2]
    if not first and not last:
        return None
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        raise ProtocolRefusal(
            416, "Range", "the range lies beyond the content", headers={"Content-Range": f"bytes */{size}"}
        )
    return Part(start, end)


def _opaque(etag: str) -> str:
    match = _TAG.fullmatch(etag)
    return match[1] if match else etag


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, IndexError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
