"""Bulk data of one dossier: `$export` as NDJSON, file by file."""

from __future__ import annotations

from typing import Final

from gateway.fhir.interaction import Interaction
from gateway.fhir.parameters import SearchParameter
from gateway.fhir.tables.documents import READ, SEARCH

TYPES: Final = ("DocumentReference", "Binary")
PARAMETERS: Final = (SearchParameter("_type", "token", f"which files: {', '.join(TYPES)}; all when left out"),)
PAGE: Final = (SearchParameter("_page", "token", "which file, as the status says"),)

TABLE: Final = (
    Interaction(
        "export", "GET", "/Patient/{id}/$export", "Patient", "operation", "ITI-67", SEARCH,
        "Begin the export of a dossier: 202, and the URL of its status in Content-Location.", PARAMETERS,
    ),
    Interaction(
        "export-status", "GET", "/$export-status/{id}", "", "", "ITI-67", SEARCH,
        "The files of an export. Each is small: after a break only the one under way is fetched again.", PARAMETERS,
        answer="bytes",
    ),
    Interaction(
        "export-references", "GET", "/$export-file/DocumentReference/{id}", "", "", "ITI-67", SEARCH,
        "A file of DocumentReferences, NDJSON.", PAGE, answer="bytes",
    ),
    Interaction(
        "export-contents", "GET", "/$export-file/Binary/{id}", "", "", "ITI-68", READ,
        "A file of Binaries, NDJSON; an OperationOutcome stands for a content that is refused.", PAGE, answer="bytes",
    ),
)  # fmt: skip
