"""FHIRPath Patch (a Parameters resource) to operations.

The paths of R4's definition: names, `[n]`, and `where(url = '…')` on extensions; nothing that would need a whole
FHIRPath. `insert` and `move` are not offered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.fhir.node import JsonObject, Node
from gateway.fhir.patch.operations import MOST_OPERATIONS, Operation, Place
from gateway.fhir.refusals import malformed, metadata, unsupported
from gateway.fhir.structure import Structure, structure_of

_STEP: Final = re.compile(r"([A-Za-z]\w{0,63})(?:\[(\d{1,4})\])?", re.ASCII)
_WHERE: Final = re.compile(r"(?:extension\.where\(url\s*=\s*'([^']{1,512})'\)|extension\('([^']{1,512})'\))")
_LONGEST: Final = 1024


def read_fhirpath_patch(parameters: Node, resource: JsonObject) -> Sequence[Operation]:
    """The operations of a FHIRPath Patch on this resource."""
    operations = []
    for parameter in parameters.child("parameter").required().array(MOST_OPERATIONS):
        if parameter.token(name="name") != "operation":
            raise malformed(f"{parameter.path}.name", "code", "each parameter is an operation")
        parts = {part.token(name="name"): part for part in parameter.children("part", 8)}
        operations.append(_operation(parameter, parts, resource))
    if not operations:
        raise malformed(parameters.path, "required", "at least one operation")
    return operations


def places_of(parameters: Node) -> set[str]:
    """The elements that the paths begin with, without knowing the resource."""
    found = set()
    for parameter in parameters.children("parameter", MOST_OPERATIONS):
        parts = {part.token(name="name"): part for part in parameter.children("part", 8)}
        path = parts["path"].token(_LONGEST, "valueString") if "path" in parts else ""
        steps = path.split(".")
        name = steps[1] if len(steps) > 1 else parts["name"].token(name="valueString") if "name" in parts else ""
        found.add(re.split(r"[\[(]", name)[0])
    return found


def _operation(parameter: Node, parts: Mapping[str, Node], resource: JsonObject) -> Operation:
    kind = _part(parameter, parts, "type").token(name="valueCode")
    path_node = _part(parameter, parts, "path")
    path, field = path_node.token(_LONGEST, "valueString"), f"{path_node.path}.valueString"
    if kind == "add":
        name = _part(parameter, parts, "name").token(name="valueString")
        place, structure = _place(path, resource, field)
        element = structure.elements.get(name) if structure is not None else None
        if structure is None or element is None:
            raise metadata(field, "place", "R4 has no such element here")
        value = _value(_part(parameter, parts, "value"))
        if element.many:
            there = _at(resource, (*place, name))
            if there is None:
                return Operation("add", (*place, name), [value], field)
            return Operation("add", (*place, name, "-"), value, field)
        return Operation("add", (*place, name), value, field)
    if kind in ("replace", "delete"):
        place, _ = _place(path, resource, field)
        if kind == "delete":
            return Operation("remove", place, None, field)
        return Operation("replace", place, _value(_part(parameter, parts, "value")), field)
    raise unsupported(f"{parameter.path}.part", "the types offered are add, replace and delete")


def _part(parameter: Node, parts: Mapping[str, Node], name: str) -> Node:
    if name not in parts:
        raise malformed(f"{parameter.path}.part", "required", f"the operation has a {name}")
    return parts[name]


def _value(part: Node) -> Any:
    """The value of a part: value[x], or the object whose elements its own parts name."""
    for name, value in part.object().items():
        if name.startswith("value"):
            return value
    built: JsonObject = {}
    for inner in part.child("part").required().array(32):
        built[inner.token(name="name")] = _value(inner)
    return built


def _place(path: str, resource: JsonObject, field: str) -> tuple[Place, Structure | None]:
    """Where a path leads, and the type of what is there."""
    kind = resource["resourceType"]
    if path != kind and not path.startswith(f"{kind}."):
        raise metadata(field, "path", f"the path begins with {kind}")
    rest, place, structure = path[len(kind) + 1 :], list[str | int](), structure_of(kind)
    while rest:
        where = _WHERE.match(rest)
        if where is not None:
            place += _extension(resource, tuple(place), where[1] or where[2], field)
            structure, rest = structure_of("Extension"), rest[where.end() :]
        else:
            step = _STEP.match(rest)
            if step is None:
                raise unsupported(field, "names, [n] and extension.where(url='…') are the paths offered")
            rest = rest[step.end() :]
            name = step[1]
            if name == "value" and structure is not None and structure.name == "Extension":
                name = _choice(resource, tuple(place))
            element = structure.elements.get(name) if structure is not None else None
            if element is None:
                raise metadata(field, "place", "R4 has no such element here")
            place.append(name)
            if element.many and (step[2] is not None or rest):
                place.append(int(step[2] or 0))
            structure = None if element.primitive else structure_of(element.type)
        if rest and not rest.startswith("."):
            raise unsupported(field, "names, [n] and extension.where(url='…') are the paths offered")
        rest = rest[1:]
    return tuple(place), structure


def _extension(resource: JsonObject, place: Place, url: str, field: str) -> list[str | int]:
    found = _at(resource, (*place, "extension")) or []
    for index, extension in enumerate(found):
        if extension.get("url") == url:
            return ["extension", index]
    raise metadata(field, "place", "the document has no such extension")


def _choice(resource: JsonObject, place: Place) -> str:
    there = _at(resource, place) or {}
    return next((name for name in there if name.startswith("value")), "value")


def _at(resource: Any, place: Place) -> Any:
    for step in place:
        try:
            resource = resource[step]
        except (KeyError, IndexError, TypeError):
            return None
    return resource
