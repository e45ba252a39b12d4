"""The structure of FHIR R4: types, their elements in order, each with its type and cardinality. A table, read once.

`r4_structure.txt` says where it comes from. A type is parsed when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_TABLE: Final = Path(__file__).with_name("r4_structure.txt")

INTEGERS: Final = frozenset({"integer", "positiveInt", "unsignedInt"})
RESOURCE: Final = "Resource"
"""The type of an element that holds any resource: in XML, one more level with the resource's own name."""


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a type. `type` begins in lower case for a primitive."""

    name: str
    type: str
    many: bool
    required: bool

    @property
    def primitive(self) -> bool:
        """Whether this is a primitive: a value, not a structure."""
        return self.type[0].islower()


@dataclass(frozen=True, slots=True)
class Structure:
    """A type: its elements by name, in the order of the specification."""

    name: str
    resource: bool
    elements: Mapping[str, Element]


@cache
def structure_of(name: str) -> Structure | None:
    """The structure of a type; None when R4 has no such type."""
    line = _lines().get(name)
    if line is None:
        return None
    elements = {}
    for part in line.lstrip("*").split()[1:]:
        element, _, kind = part.partition(":")
        elements[element] = Element(element, kind.rstrip("!*"), "*" in kind, kind.endswith("!"))
    return Structure(name, line.startswith("*"), elements)


def is_resource(name: str) -> bool:
    """Whether R4 has a resource of this name that may stand by itself."""
    found = _lines().get(name, "")
    return found.startswith("*") and name not in (RESOURCE, "DomainResource")


@cache
def _lines() -> Mapping[str, str]:
    lines = _TABLE.read_text("utf-8").splitlines()
    return {line.lstrip("*").partition(" ")[0]: line for line in lines if not line.startswith("#")}
