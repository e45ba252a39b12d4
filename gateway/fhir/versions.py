"""Versions as HTTP writes them: ETag and If-Match (RFC 9110), weak as FHIR has them. Pure."""

from __future__ import annotations

import re
from typing import Final

from gateway.fhir.refusals import invalid

_ETAG: Final = re.compile(r'(?:W/)?"([1-9]\d{0,8})"')


def version_of(text: str, field: str) -> int:
    """The version that an If-Match states; 0 without one, or for `*`."""
    if not text or text == "*":
        return 0
    match = _ETAG.fullmatch(text)
    if match is None:
        raise invalid(field, "etag", 'one ETag as given in answers: W/"3"')
    return int(match[1])


def etag(version: int) -> str:
    """The ETag of a version."""
    return f'W/"{version or 1}"'
