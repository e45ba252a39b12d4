"""What a request asks for and says in its headers: media types, preferences, correlation, idempotency. Pure."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Final

from starlette.datastructures import Headers

from gateway.fhir.refusals import ProtocolRefusal, invalid

FHIR_JSON: Final = "application/fhir+json"
FORM: Final = "application/x-www-form-urlencoded"

_JSON: Final = frozenset({FHIR_JSON, "application/json", "text/json"})
_JSON_FORMATS: Final = _JSON | {"json", "application/fhir json"}  # a + that was not percent-encoded
_FHIR_VERSIONS: Final = frozenset({"4.0", "4.0.1"})
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{8,128}")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def check_json_accepted(headers: Headers, formats: list[str]) -> None:
    """Refuse (406) a request that wants something else than JSON; `_format` wins over Accept."""
    if formats:
        if all(text.partition(";")[0].strip().lower() in _JSON_FORMATS for text in formats):
            return
    elif any(_covers(pattern, kind) for pattern in _accepted(headers) for kind in _JSON):
        return
    raise ProtocolRefusal(406, "Accept" if not formats else "_format", f"answers are served as {FHIR_JSON}")


def check_binary_accepted(headers: Headers, mime_type: str) -> None:
    """Refuse (406) a read of content whose media type the request does not accept."""
    kinds = (mime_type, "application/octet-stream")
    if not any(_covers(pattern, kind) for pattern in _accepted(headers) for kind in kinds):
        raise ProtocolRefusal(406, "Accept", "the content is served with its own media type only")


def check_content_type(headers: Headers, *, form: bool = False) -> None:
    """Refuse (415) a body that is not FHIR JSON in UTF-8, or not a form where one is expected."""
    expected = FORM if form else FHIR_JSON
    values = headers.getlist("content-type")
    kind, parameters = _media_type(values[0]) if len(values) == 1 else ("", {})
    right = kind == FORM if form else kind in _JSON
    if not right or parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise ProtocolRefusal(415, "Content-Type", f"the body is {expected} in UTF-8, and says so once")
    if parameters.get("fhirversion", "4.0") not in _FHIR_VERSIONS:
        raise ProtocolRefusal(415, "Content-Type", "the FHIR version is 4.0")


def preference(headers: Headers, name: str) -> str:
    """The value of a preference such as `return` or `handling`; '' without it."""
    for header in headers.getlist("prefer"):
        for part in re.split(r"[,;]", header):
            key, _, value = part.strip().partition("=")
            if key.lower() == name:
                return value.strip().strip('"')
    return ""


def correlation_id(headers: Headers) -> str:
    """The X-Request-Id that came, or a new one when there is none that can be sent back."""
    text = headers.get("x-request-id", "")
    return text if _REQUEST_ID.fullmatch(text) else str(uuid.uuid4())


def trace_parent(headers: Headers) -> str:
    """The W3C traceparent that came; '' without a valid one."""
    text = headers.get("traceparent", "")
    return text if _TRACEPARENT.fullmatch(text) else ""


def idempotency_key(headers: Headers) -> str:
    """The Idempotency-Key that came, or a new UUID: the request is then one of its own."""
    values = headers.getlist("idempotency-key")
    if not values:
        return str(uuid.uuid4())
    if len(values) > 1 or not _IDEMPOTENCY_KEY.fullmatch(values[0]):
        raise invalid("Idempotency-Key", "key", "one value of 8 to 128 visible ASCII characters")
    return values[0]


def _accepted(headers: Headers) -> Iterator[str]:
    values = [value for value in headers.getlist("accept") if value.strip()]
    if not values:
        yield "*/*"
    for value in values:
        for item in value.split(",")[:64]:
            kind, parameters = _media_type(item)
            if kind and not re.fullmatch(r"0(\.0*)?", parameters.get("q", "1")):
                yield kind


def _covers(pattern: str, kind: str) -> bool:
    return pattern in ("*/*", kind.lower()) or (pattern.endswith("/*") and kind.lower().startswith(pattern[:-1]))


def _media_type(text: str) -> tuple[str, dict[str, str]]:
    kind, *rest = text.split(";")
    pairs = (part.partition("=") for part in rest)
    return kind.strip().lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}
