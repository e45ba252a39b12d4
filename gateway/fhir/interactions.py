"""The FHIR interactions that are served, as one table. Routes, CapabilityStatement and OpenAPI are made from it."""

from __future__ import annotations

from typing import Final

from gateway.fhir.interaction import Interaction
from gateway.fhir.tables import bulk, consents, directory, documents, hosts, people, traces

__all__ = ["INTERACTIONS", "Interaction"]

_SYSTEM: Final = (
    Interaction(
        "capabilities", "GET", "/metadata", "", "capabilities", "", None, "The CapabilityStatement; no token needed."
    ),
    Interaction(
        "openapi", "GET", "/openapi.json", "", "", "", None, "The OpenAPI description; no token needed.", answer="bytes"
    ),
    Interaction(
        "documentation", "GET", "/docs", "", "", "", None, "This interface as a page; no token needed.", answer="bytes"
    ),
)

INTERACTIONS: Final = (
    *_SYSTEM,
    *people.TABLE,
    *documents.TABLE,
    *consents.TABLE,
    *directory.TABLE,
    *traces.TABLE,
    *bulk.TABLE,
    *hosts.TABLE,
)
