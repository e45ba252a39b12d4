"""What a patch does, whatever its format: operations on places of a resource, and how they are applied. Pure.

A place is a sequence of element names and indices, as in a JSON Pointer; `-` as last step is the end of an array.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.fhir.node import JsonObject
from gateway.fhir.refusals import invalid, metadata

MOST_OPERATIONS: Final = 32
Kind = Literal["add", "replace", "remove", "test"]
Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `field` names it in errors."""

    kind: Kind
    place: Place
    value: Any
    field: str


def touched(operations: Sequence[Operation]) -> set[str]:
    """The elements of the resource that the operations touch."""
    return {str(operation.place[0]) if operation.place else "" for operation in operations}


def apply(resource: JsonObject, operations: Sequence[Operation]) -> JsonObject:
    """The resource after the operations; METADATA_ERROR for a place that is not there, or a test that fails (422)."""
    patched = copy.deepcopy(resource)
    for operation in operations:
        if not operation.place:
            raise invalid(operation.field, "place", "a patch changes an element, never the whole resource")
        holder: Any = patched
        for step in operation.place[:-1]:
            holder = _child(holder, step, operation.field)
        _apply_at(holder, operation.place[-1], operation)
    return patched


def _child(holder: Any, step: str | int, field: str) -> Any:
    if isinstance(holder, dict) and isinstance(step, str) and step in holder:
        return holder[step]
    if isinstance(holder, list) and isinstance(step, int) and 0 <= step < len(holder):
        return holder[step]
    raise metadata(field, "place", "the document has no such element")


def _apply_at(holder: Any, last: str | int, operation: Operation) -> None:
    if operation.kind == "test":
        if _child(holder, last, operation.field) != operation.value:
            raise metadata(operation.field, "test", "the element has another value")
        return
    if isinstance(holder, list):
        _apply_in_list(holder, last, operation)
        return
    if not isinstance(holder, dict) or not isinstance(last, str):
        raise metadata(operation.field, "place", "the document has no such element")
    if operation.kind != "add":
        _child(holder, last, operation.field)
    if operation.kind == "remove":
        del holder[last]
    else:
        holder[last] = copy.deepcopy(operation.value)


def _apply_in_list(holder: list[Any], last: str | int, operation: Operation) -> None:
    if operation.kind == "add":
        at = len(holder) if last == "-" else last
        if not isinstance(at, int) or not 0 <= at <= len(holder):
            raise metadata(operation.field, "place", "the document has no such element")
        holder.insert(at, copy.deepcopy(operation.value))
        return
    _child(holder, last, operation.field)
    if operation.kind == "remove":
        del holder[int(last)]
    else:
        holder[int(last)] = copy.deepcopy(operation.value)
