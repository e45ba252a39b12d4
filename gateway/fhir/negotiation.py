"""What a request asks for and says in its headers: media types, preferences, correlation, idempotency. Pure."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from starlette.datastructures import Headers

from gateway.fhir.refusals import ProtocolRefusal, invalid

FHIR_JSON: Final = "application/fhir+json"
FORM: Final = "application/x-www-form-urlencoded"

FHIR_XML: Final = "application/fhir+xml"
NDJSON: Final = "application/fhir+ndjson"
JSON_PATCH: Final = "application/json-patch+json"
XML_PATCH: Final = "application/xml-patch+xml"

Format = Literal["json", "xml"]

_MEDIA_TYPES: Final[Mapping[Format, frozenset[str]]] = {
    "json": frozenset({FHIR_JSON, "application/json", "text/json"}),
    "xml": frozenset({FHIR_XML, "application/xml", "text/xml"}),
}
_FORMATS: Final[Mapping[Format, frozenset[str]]] = {
    "json": _MEDIA_TYPES["json"] | {"json", "application/fhir json"},  # a + that was not percent-encoded
    "xml": _MEDIA_TYPES["xml"] | {"xml", "application/fhir xml"},
}
_SERVED: Final = f"answers are served as {FHIR_JSON} or {FHIR_XML}, in version 4.0 of FHIR"
_QUALITY: Final = re.compile(r"[01](\.[0-9]{0,3})?")
_FHIR_VERSIONS: Final = frozenset({"4.0", "4.0.1"})
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{8,128}")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def answer_format(headers: Headers, formats: list[str]) -> Format:
    """The format that a request wants answers in; 406 for one that is not served. `_format` wins over Accept."""
    if formats:
        asked = [_media_type(text) for text in formats]
        for name, kinds in _FORMATS.items():
            if all(kind in kinds and _is_served_version(parameters) for kind, parameters in asked):
                return name
        raise ProtocolRefusal(406, "_format", _SERVED)
    best: tuple[float, int, Format] | None = None
    for pattern, quality in _accepted(headers):
        for rank, (name, kinds) in enumerate(_MEDIA_TYPES.items()):
            offer = (quality, -rank, name)
            if any(_covers(pattern, kind) for kind in kinds) and (best is None or offer > best):
                best = offer
    if best is None:
        raise ProtocolRefusal(406, "Accept", _SERVED)
    return best[2]


def check_binary_accepted(headers: Headers, mime_type: str) -> None:
    """Refuse (406) a read of content whose media type the request does not accept."""
    kinds = (mime_type, "application/octet-stream")
    if not any(_covers(pattern, kind) for pattern, _ in _accepted(headers) for kind in kinds):
        raise ProtocolRefusal(406, "Accept", "the content is served with its own media type only")


def body_format(headers: Headers) -> Format:
    """The format of a FHIR body; 415 when it is neither FHIR JSON nor FHIR XML in UTF-8."""
    kind = _content_type(headers)
    for name, kinds in _MEDIA_TYPES.items():
        if kind in kinds:
            return name
    raise ProtocolRefusal(415, "Content-Type", f"the body is {FHIR_JSON} or {FHIR_XML} in UTF-8, and says so once")


def check_content_type(headers: Headers, *expected: str) -> str:
    """The media type of a body; 415 when it is none of those expected, or not in UTF-8."""
    kind = _content_type(headers)
    if kind not in expected:
        wanted = " or ".join(expected)
        raise ProtocolRefusal(415, "Content-Type", f"the body is {wanted} in UTF-8, and says so once")
    return kind


def media_types(name: Format) -> frozenset[str]:
    """The media types of a format."""
    return _MEDIA_TYPES[name]


def accepts_encoding(headers: Headers, name: str) -> bool:
    """Whether the request names this content coding, and not with quality 0."""
    for value in headers.getlist("accept-encoding"):
        for item in value.split(",")[:32]:
            coding, parameters = _media_type(item)
            if coding == name:
                return not re.fullmatch(r"0(\.0*)?", parameters.get("q", "1"))
    return False


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
    return text if is_request_id(text) else str(uuid.uuid4())


def is_request_id(text: str) -> bool:
    """Whether this can be sent back as the X-Request-Id that came."""
    return _REQUEST_ID.fullmatch(text) is not None


def trace_parent(headers: Headers) -> str:
    """The W3C traceparent that came; '' without a valid one."""
    text = headers.get("traceparent", "")
    return text if is_traceparent(text) else ""


def is_traceparent(text: str) -> bool:
    """Whether this is a W3C trace context."""
    return _TRACEPARENT.fullmatch(text) is not None


def idempotency_key(headers: Headers) -> str:
    """The Idempotency-Key that came, or a new UUID: the request is then one of its own."""
    values = headers.getlist("idempotency-key")
    if not values:
        return str(uuid.uuid4())
    if len(values) > 1 or not _IDEMPOTENCY_KEY.fullmatch(values[0]):
        raise invalid("Idempotency-Key", "key", "one value of 8 to 128 visible ASCII characters")
    return values[0]


def _content_type(headers: Headers) -> str:
    values = headers.getlist("content-type")
    kind, parameters = _media_type(values[0]) if len(values) == 1 else ("", {})
    if parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        return ""
    if not _is_served_version(parameters):
        raise ProtocolRefusal(415, "Content-Type", "the FHIR version is 4.0")
    return kind


def _is_served_version(parameters: Mapping[str, str]) -> bool:
    """Whether the parameters of a media type leave R4 to be the version of FHIR."""
    return parameters.get("fhirversion", "4.0") in _FHIR_VERSIONS


def _accepted(headers: Headers) -> Iterator[tuple[str, float]]:
    """The media ranges accepted, each with its quality; none with quality 0."""
    values = [value for value in headers.getlist("accept") if value.strip()]
    if not values:
        yield "*/*", 1.0
    for value in values:
        for item in value.split(",")[:64]:
            kind, parameters = _media_type(item)
            quality = parameters.get("q", "1")
            if not _is_served_version(parameters):
                continue
            if kind and not re.fullmatch(r"0(\.0*)?", quality):
                yield kind, float(quality) if _QUALITY.fullmatch(quality) else 1.0


def _covers(pattern: str, kind: str) -> bool:
    return pattern in ("*/*", kind.lower()) or (pattern.endswith("/*") and kind.lower().startswith(pattern[:-1]))


def _media_type(text: str) -> tuple[str, dict[str, str]]:
    kind, *rest = text.split(";")
    pairs = (part.partition("=") for part in rest)
    return kind.strip().lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}
