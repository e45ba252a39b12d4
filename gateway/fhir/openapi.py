"""The OpenAPI 3.1 description of the FHIR front, made from the table of interactions and the structure of R4. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from gateway.fhir.capability import describe
from gateway.fhir.interactions import INTERACTIONS, Interaction
from gateway.fhir.negotiation import NDJSON
from gateway.fhir.node import JsonObject
from gateway.fhir.structure import INTEGERS, RESOURCE, Element, structure_of

_JSON: Final = "application/fhir+json"
_XML: Final = "application/fhir+xml"
_FORM: Final = "application/x-www-form-urlencoded"
_DEEPEST: Final = 2
"""How deep types are written out. Below, an object is any object: R4 is recursive."""
_PATTERNS: Final = {
    "code": r"^[^\s]+(\s[^\s]+)*$",
    "date": r"^\d{4}(-\d{2}(-\d{2})?)?$",
    "id": r"^[A-Za-z0-9\-.]{1,64}$",
    "instant": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$",
}
_HEADERS: Final = (
    ("X-Request-Id", "Correlates; sent back."),
    ("traceparent", "W3C trace context; sent back."),
)
_KEY: Final = "Makes a change repeatable: the same key and body have one effect, kept for seven days."
_ACCEPTED: Final = {
    "export": "Accepted: the status is at the URL in Content-Location",
    "host-export": "Accepted: the manifest is at the URL in Content-Location",
    "host-export-cancel": "Ended",
    "import": "Accepted: the status is at the URL in Content-Location",
    "import-status": "Under way",
    "import-file": "Not finished: the file is to be sent again",
}
_OUTCOME: Final = {
    "description": "An OperationOutcome: what is wrong, and where",
    "content": {kind: {"schema": {"$ref": "#/components/schemas/OperationOutcome"}} for kind in (_JSON, _XML)},
}


def openapi(base_url: str, version: str) -> JsonObject:
    """The description of a server at `base_url`."""
    paths: dict[str, JsonObject] = {}
    for found in INTERACTIONS:
        paths.setdefault(found.path, {})[found.method.lower()] = _operation(found)
    names = {name for found in INTERACTIONS for name in found.accepts} | {"OperationOutcome", "Bundle"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Dossier médical partagé: FHIR R4",
            "version": version,
            "description": "PDSm 3.1.1 on IHE MHD 4.2.3. JSON and XML in and out; every error is an OperationOutcome.",
        },
        "servers": [{"url": base_url}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A platform token of at most five minutes, from the token endpoint (IHE IUA).",
                }
            },
            "schemas": {name: _schema_of(name, 0) for name in sorted(names)},
        },
    }


def _operation(found: Interaction) -> JsonObject:
    operation: JsonObject = {
        "operationId": f"{found.name}-{found.method.lower()}",
        "summary": found.documentation,
        "tags": [found.resource or "system"],
        "parameters": list(_parameters(found)),
        "responses": _responses(found),
    }
    if found.rpc is None:
        operation["security"] = []
    else:
        operation["description"] = describe(found)
        operation["x-scopes"] = sorted(found.scopes)
        operation["x-transaction"] = found.access.transaction
    content = _body(found)
    if content:
        operation["requestBody"] = {"required": found.body != "form", "content": content}
    return operation


def _parameters(found: Interaction) -> Iterator[JsonObject]:
    for name in re.findall(r"\{(\w+)\}", found.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "maxLength": 64}}
    if found.body != "form":
        for parameter in found.parameters:
            yield {
                "name": parameter.name,
                "in": "query",
                "required": False,
                "description": parameter.documentation,
                "schema": {"type": "string"},
            }
    if found.answer == "FHIR":
        formats = {"type": "string", "enum": ["json", "xml", _JSON, _XML]}
        yield {"name": "_format", "in": "query", "required": False, "schema": formats}
    if found.rpc is None:
        return
    for name, text in _HEADERS:
        yield {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
    if found.access.mutation:
        schema = {"type": "string", "minLength": 8, "maxLength": 128, "pattern": r"^[\x21-\x7e]+$"}
        yield {"name": "Idempotency-Key", "in": "header", "required": False, "description": _KEY, "schema": schema}


def _body(found: Interaction) -> JsonObject:
    if found.body == "form":
        properties = {parameter.name: {"type": "string"} for parameter in found.parameters}
        return {_FORM: {"schema": {"type": "object", "properties": properties}}}
    schemas = [{"$ref": f"#/components/schemas/{name}"} for name in found.accepts]
    schema: JsonObject = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
    if found.body == "ndjson":
        return {NDJSON: {"schema": {"type": "string"}}}
    if found.body == "patch":
        return {
            "application/json-patch+json": {"schema": _JSON_PATCH},
            "application/xml-patch+xml": {"schema": {"type": "string"}},
            _JSON: {"schema": schema},
            _XML: {"schema": {"type": "string"}},
        }
    return {_JSON: {"schema": schema}, _XML: {"schema": {"type": "string"}}} if found.body else {}


_JSON_PATCH: Final = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {"op": {"type": "string"}, "path": {"type": "string"}, "value": {}},
        "required": ["op", "path"],
    },
}


def _responses(found: Interaction) -> JsonObject:
    status = "201" if found.code == "create" else "200"
    if found.answer == "bytes":
        content: JsonObject = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
    else:
        resource = {"type": "object", "properties": {"resourceType": {"type": "string"}}, "required": ["resourceType"]}
        content = {_JSON: {"schema": resource}, _XML: {"schema": {"type": "string"}}}
    answers: JsonObject = {status: {"description": "Done", "content": content}, "default": _OUTCOME}
    if found.name in _ACCEPTED:
        answers["202"] = {"description": _ACCEPTED[found.name]}
    return answers


def _schema_of(name: str, depth: int) -> JsonObject:
    """The JSON schema of a type."""
    structure = structure_of(name)
    if structure is None or depth > _DEEPEST:
        return {"type": "object"}
    properties: JsonObject = {}
    if structure.resource:
        properties["resourceType"] = {"const": name}
    for element in structure.elements.values():
        if element.name not in ("implicitRules", "modifierExtension", "text") and not element.name.startswith("value"):
            properties[element.name] = _element(element, depth)
    required = [element.name for element in structure.elements.values() if element.required]
    if structure.resource:
        required.insert(0, "resourceType")
    required = [each for each in required if each in properties]
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _element(element: Element, depth: int) -> JsonObject:
    if element.type == RESOURCE:
        schema: JsonObject = {"type": "object", "required": ["resourceType"]}
        schema["properties"] = {"resourceType": {"type": "string"}}
    elif element.type == "Extension":
        schema = {"type": "object", "properties": {"url": {"type": "string"}}, "required": ["url"]}
    elif element.primitive:
        schema = _primitive(element.type)
    else:
        schema = _schema_of(element.type, depth + 1)
    return {"type": "array", "items": schema} if element.many else schema


def _primitive(kind: str) -> JsonObject:
    if kind == "boolean":
        return {"type": "boolean"}
    if kind in INTEGERS:
        return {"type": "integer"}
    if kind == "decimal":
        return {"type": "number"}
    schema: dict[str, Any] = {"type": "string", "minLength": 1}
    if kind in _PATTERNS:
        schema["pattern"] = _PATTERNS[kind]
    return schema
