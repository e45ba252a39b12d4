"""From the bytes of a JSON body to a typed reader, with memory and depth bounded before anything is built. Pure.

orjson refuses invalid UTF-8, lone surrogates and nesting beyond 1024 levels without recursion. What it cannot bound is
the number of values: a body of `[{},{},…]` would grow thirty-fold, so structural characters are counted first.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

from gateway.fhir.node import JsonObject, Node
from gateway.fhir.refusals import malformed, too_large
from services.runtime.errors import DmpError

MOST_VALUES: Final = 250_000
"""Structural characters in a body. A submission of 64 documents has about 20,000."""
DEEPEST: Final = 64
"""Levels of nesting; the deepest resource of PDSm has about twelve."""
_ELEMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def parse_json(body: bytes) -> JsonObject:
    """The resource in a JSON body; MALFORMED_REQUEST when it is none."""
    if sum(body.count(mark) for mark in (b"{", b"[", b",")) > MOST_VALUES:
        raise too_large("body", "max_values", f"at most {MOST_VALUES} JSON values")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _undecodable(str(error)) from None
    if not isinstance(value, dict):
        raise malformed("body", "object", "the body is one JSON object: a FHIR resource")
    return value


def check_resource(value: JsonObject, *expected: str) -> Node:
    """A parsed resource as a typed reader; MALFORMED_REQUEST when its type is none of `expected`."""
    kind = value.get("resourceType")
    if kind not in expected:
        raise malformed("resourceType", "expected", f"the resource is a {' or a '.join(expected)}")
    _walk(str(kind), value)
    return Node(str(kind), value)


def _undecodable(message: str) -> DmpError:
    """The parser's words are not repeated: they may quote the body."""
    if message.startswith("depth limit"):
        return malformed("body", "depth", f"at most {DEEPEST} levels of nesting")
    if "UTF-8" in message or "surrogate" in message:
        return malformed("body", "utf8", "the body is JSON in valid UTF-8, without a byte order mark")
    if not message or "Input is a zero-length" in message:
        return malformed("body", "required", "the body is empty")
    return malformed("body", "json", "the body is not well-formed JSON")


def _walk(root: str, value: object) -> None:
    """Refuse NUL characters, deep nesting and odd element names wherever they are, ignored elements included."""
    pending: list[tuple[str, object, int]] = [(root, value, 1)]
    while pending:
        path, current, depth = pending.pop()
        if depth > DEEPEST:
            raise malformed("body", "depth", f"at most {DEEPEST} levels of nesting")
        if isinstance(current, dict):
            for name, item in current.items():
                if not _ELEMENT.fullmatch(name):
                    raise malformed(path, "element_name", "element names are letters and digits")
                if isinstance(item, (str, dict, list)):
                    _check(f"{path}.{name}", item, depth, pending)
        elif isinstance(current, list):
            for index, item in enumerate(current):
                if isinstance(item, (str, dict, list)):
                    _check(f"{path}[{index}]", item, depth, pending)


def _check(path: str, item: object, depth: int, pending: list[tuple[str, object, int]]) -> None:
    if not isinstance(item, str):
        pending.append((path, item, depth + 1))
    elif "\0" in item:
        raise malformed(path, "nul", "no NUL characters")
