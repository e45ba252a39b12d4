"""Writes gateway/fhir/r4_structure.txt, the structure of FHIR R4, from fhir.resources: `python -m ops.fhir_structure`.

A line is a type: `*` before a resource, its name, and its elements in the order of the specification, each
`name:type`, with `*` behind one that repeats and `!` behind one that is required. Needs the tests' packages.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any, Final

TABLE: Final = Path(__file__).resolve().parents[1] / "gateway" / "fhir" / "r4_structure.txt"
_HEAD: Final = """# FHIR R4 (4.0.1; R4B 4.3.0 where it added elements): types, elements in order, type, cardinality.
# Made from the models of fhir.resources (BSD, generated from HL7's definitions) by `python -m ops.fhir_structure`.
"""
_PRIMITIVE: Final = re.compile(r"Annotated\[.*?, (?:<fhir_core\.types\.)?(\w+)[( ]")
_RENAMED: Final = {"encodedBytes": "base64Binary", "uuidVersion": "uuid"}
_COMPLEX: Final = re.compile(r"(?:\w+\.)*(\w+)Type\b")


def table() -> str:
    """The whole table, types sorted by name."""
    models = importlib.import_module("fhir.resources.R4B")

    lines = {}
    for module in pkgutil.iter_modules(models.__path__):
        found = importlib.import_module(f"{models.__name__}.{module.name}")
        for name, model in vars(found).items():
            if isinstance(model, type) and model.__module__ == found.__name__ and hasattr(model, "elements_sequence"):
                lines[name] = _line(name, model)
    return _HEAD + "".join(lines[name] for name in sorted(lines))


def _line(name: str, model: Any) -> str:
    by_alias = {field.alias or key: field for key, field in model.model_fields.items()}
    resource = any(base.__name__ == "Resource" for base in model.__mro__)
    parts = [_element(element, by_alias[element]) for element in model.elements_sequence()]
    return f"{'*' if resource else ''}{name} {' '.join(parts)}\n"


def _element(name: str, field: Any) -> str:
    text = str(field.annotation)
    primitive, many = _PRIMITIVE.search(text), "List[" in text
    if primitive:
        kind = primitive[1][0].lower() + primitive[1][1:]
        kind = _RENAMED.get(kind, kind)
    else:
        found = _COMPLEX.search(text.replace("FHIRPrimitiveExtensionType", ""))
        if found is not None:
            kind = found[1]
        elif "bool" in text:
            kind = "boolean"
        else:
            raise ValueError(f"{name}: {text}")
    extra = field.json_schema_extra or {}
    required = field.is_required() or extra.get("element_required", False)
    return f"{name}:{kind}{'*' if many else ''}{'!' if required else ''}"


if __name__ == "__main__":
    TABLE.write_text(table(), "utf-8")
