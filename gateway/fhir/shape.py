"""How much of each resource an answer shows: `_summary` and `_elements` (R4 search, 3.1.1.5.8 and 3.1.1.5.9). Pure.

A resource that is not whole says so (tag SUBSETTED), and keeps its id, its meta, what R4 requires, what may change its
meaning, and the contained resources that the rest still points to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

from gateway.fhir.node import JsonObject
from gateway.fhir.refusals import invalid
from gateway.fhir.structure import structure_of

SUBSETTED: Final = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
NAMES: Final = frozenset({"_summary", "_elements"})

_MODES: Final = frozenset({"", "count", "true", "text", "data", "false"})
_ALWAYS: Final = frozenset({"resourceType", "id", "meta", "implicitRules", "language", "modifierExtension"})
_IN_SUMMARY: Final[Mapping[str, frozenset[str]]] = {
    "AuditEvent": frozenset({"period", "subtype", "action", "outcome", "outcomeDesc", "purposeOfEvent"}),
    "Consent": frozenset(
        {"identifier", "patient", "dateTime", "performer", "organization", "sourceAttachment", "sourceReference"}
        | {"policyRule", "provision"}
    ),
    "DocumentReference": frozenset(
        {"masterIdentifier", "identifier", "docStatus", "type", "category", "subject", "date", "author", "relatesTo"}
        | {"description", "securityLabel", "context"}
    ),
    "List": frozenset({"title", "code", "subject", "encounter", "date", "source"}),
    "Organization": frozenset({"identifier", "active", "type", "name", "partOf", "endpoint"}),
    "Patient": frozenset(
        {"identifier", "active", "name", "telecom", "gender", "birthDate", "deceasedBoolean", "deceasedDateTime"}
        | {"address", "managingOrganization", "link"}
    ),
    "Practitioner": frozenset({"identifier", "active", "name", "telecom", "address", "gender", "birthDate"}),
    "PractitionerRole": frozenset(
        {"identifier", "active", "period", "practitioner", "organization", "code", "specialty", "location", "telecom"}
    ),
}
"""The elements that R4 marks as part of the summary, of the resources that are served; besides those it requires."""
_WITHIN: Final[Mapping[tuple[str, str], frozenset[str]]] = {("DocumentReference", "context"): frozenset({"period"})}
"""Parts that are in the summary of an element whose other parts are not."""
_ELEMENT: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}(\.[A-Za-z0-9\[\]]{1,64}){0,8}")
_MOST: Final = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """What of each resource is wanted: `mode` is the value of `_summary`, `elements` those of `_elements`."""

    mode: str = ""
    elements: Sequence[str] = ()

    @property
    def whole(self) -> bool:
        """Whether resources are shown as they are. (`data` leaves out the narrative: there is none.)"""
        return not self.elements and self.mode not in ("true", "text")

    def of(self, resource: JsonObject) -> JsonObject:
        """The resource, or the searchset with its resources, as it is wanted."""
        if self.whole:
            return resource
        if resource["resourceType"] != "Bundle":
            return self._cut(resource)
        if "entry" not in resource:
            return resource
        entries = [{**entry, "resource": self._cut(entry["resource"])} for entry in resource["entry"]]
        return {**resource, "entry": entries}

    def _cut(self, resource: JsonObject) -> JsonObject:
        kind = resource["resourceType"]
        structure = structure_of(kind)
        if structure is None or kind == "OperationOutcome":
            return resource
        kept = _ALWAYS | {name for name, element in structure.elements.items() if element.required} | self._wanted(kind)
        shown = {name: self._part(kind, name, value) for name, value in resource.items() if name in kept}
        if "contained" in resource and "contained" not in shown:
            shown |= _still_named(resource["contained"], shown)
        if all(shown.get(name) == value for name, value in resource.items()):
            return resource
        meta = shown.get("meta", {})
        tags = meta.get("tag", [])
        if SUBSETTED not in tags:
            shown["meta"] = {**meta, "tag": [*tags, SUBSETTED]}
        return {name: value for name, value in shown.items() if value not in ({}, [])}

    def _wanted(self, kind: str) -> Set[str]:
        if self.mode == "true":
            return _IN_SUMMARY.get(kind, frozenset())
        if self.mode == "text":
            return {"text"}
        return {element.removeprefix(f"{kind}.").partition(".")[0].partition("[")[0] for element in self.elements}

    def _part(self, kind: str, name: str, value: Any) -> Any:
        inner = _WITHIN.get((kind, name)) if self.mode == "true" else None
        return value if inner is None else {part: item for part, item in value.items() if part in inner}


def read_shape(pairs: Sequence[tuple[str, str]], kind: str, *, search: bool) -> Shape:
    """What the parameters of a request about resources of a kind ask for; INVALID_FIELD names what is wrong."""
    modes = [value for name, value in pairs if name == "_summary"]
    listed = [value for name, value in pairs if name == "_elements"]
    if len(modes) > 1 or (modes and modes[0] not in _MODES):
        raise invalid("_summary", "code", "once: count, true, text, data or false")
    mode = modes[0] if modes else ""
    if mode == "count" and not search:
        raise invalid("_summary", "code", "count is for searches: true, text, data or false")
    elements = [element.strip() for value in listed for element in value.split(",")]
    if elements and mode not in ("", "false"):
        raise invalid("_elements", "combination", "either _elements or _summary")
    if len(elements) > _MOST or not all(_ELEMENT.fullmatch(element) for element in elements):
        raise invalid("_elements", "element", f"at most {_MOST} names of elements, with commas between them")
    for element in elements:
        _check(element, kind)
    return Shape(mode, tuple(elements))


def _check(element: str, kind: str) -> None:
    head, dot, rest = element.partition(".")
    named, name = (head, rest) if dot and structure_of(head) is not None else (kind, element)
    structure = structure_of(named)
    if structure is not None and name.partition(".")[0].partition("[")[0] not in structure.elements:
        raise invalid("_elements", "element", f"{named} has no such element; names are those of FHIR R4")


def _still_named(contained: Sequence[JsonObject], shown: JsonObject) -> JsonObject:
    """The contained resources that what is shown points to, and those that these point to."""
    named: set[str] = set()
    pending: list[Any] = [shown]
    by_id = {f"#{item['id']}": item for item in contained}
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            target = value.get("reference")
            if isinstance(target, str) and target in by_id and target not in named:
                named.add(target)
                pending.append(by_id[target])
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    kept = [item for reference, item in by_id.items() if reference in named]
    return {"contained": kept} if kept else {}
