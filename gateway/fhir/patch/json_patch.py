"""JSON Patch (RFC 6902) to operations. `move` and `copy` are not offered: too little may be patched."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, cast

import orjson

from gateway.fhir.patch.operations import MOST_OPERATIONS, Kind, Operation, Place
from gateway.fhir.refusals import malformed, unsupported

_KINDS: Final = frozenset({"add", "replace", "remove", "test"})
_INDEX: Final = re.compile(r"0|[1-9]\d{0,3}", re.ASCII)
_LONGEST: Final = 1024
_DEEPEST: Final = 16
_MOST_VALUES: Final = 4_096


def parse_patch_json(body: bytes, field: str = "body") -> Any:
    """The JSON of a patch."""
    if sum(body.count(mark) for mark in (b"{", b"[", b",")) > _MOST_VALUES:
        raise malformed(field, "max_values", f"at most {_MOST_VALUES} JSON values")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise malformed(field, "json", "not well-formed JSON in UTF-8") from None


def read_json_patch(value: Any) -> Sequence[Operation]:
    """The operations of a JSON Patch document."""
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_OPERATIONS:
        raise malformed("body", "array", f"a JSON Patch is an array of 1 to {MOST_OPERATIONS} operations")
    return [_operation(item, f"[{index}]") for index, item in enumerate(value)]


def _operation(item: Any, field: str) -> Operation:
    if not isinstance(item, dict):
        raise malformed(field, "object", "an operation is an object")
    kind, path = item.get("op"), item.get("path")
    if kind in ("move", "copy"):
        raise unsupported(f"{field}.op", "move and copy are not offered")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise malformed(f"{field}.op", "code", "add, replace, remove or test")
    if not isinstance(path, str) or not path.startswith("/") or len(path) > _LONGEST:
        raise malformed(f"{field}.path", "pointer", "a JSON Pointer to an element")
    if kind != "remove" and item.get("value") is None:
        raise malformed(f"{field}.value", "required", "the operation needs a value")
    return Operation(cast(Kind, kind), _place(path, f"{field}.path"), item.get("value"), f"{field}.path")


def _place(path: str, field: str) -> Place:
    steps = [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]
    if len(steps) > _DEEPEST:
        raise malformed(field, "depth", f"at most {_DEEPEST} steps")
    return tuple(int(step) if _INDEX.fullmatch(step) else step for step in steps)
