"""Bulk data as NDJSON, file by file: `$export` of a dossier, and `$import` of what another platform exported."""

from __future__ import annotations

from typing import Final

from gateway.fhir.interaction import Interaction
from gateway.fhir.parameters import SearchParameter
from gateway.fhir.tables.documents import READ, SEARCH, SUBMIT

TYPES: Final = ("DocumentReference", "Binary")
PARAMETERS: Final = (SearchParameter("_type", "token", f"which files: {', '.join(TYPES)}; all when left out"),)
CONTENTS: Final = SearchParameter(
    "_contents", "token", "inline: each DocumentReference has its content in attachment.data, as $import takes it"
)
PAGE: Final = (SearchParameter("_page", "token", "which file, as the status says"),)
FILE: Final = (SearchParameter("file", "token", "the name of the file: letters, digits and hyphens"),)
ERRORS: Final = (SearchParameter("_page", "token", "which page, as the Link header says"),)

TABLE: Final = (
    Interaction(
        "export", "GET", "/Patient/{id}/$export", "Patient", "operation", "ITI-67", SEARCH,
        "Begin the export of a dossier: 202, and the URL of its status in Content-Location.",
        (*PARAMETERS, CONTENTS),
    ),
    Interaction(
        "export-status", "GET", "/$export-status/{id}", "", "", "ITI-67", SEARCH,
        "The files of an export. Each is small: after a break only the one under way is fetched again.",
        (*PARAMETERS, CONTENTS), answer="bytes",
    ),
    Interaction(
        "export-references", "GET", "/$export-file/DocumentReference/{id}", "", "", "ITI-67", SEARCH,
        "A file of DocumentReferences, NDJSON.", (*PAGE, CONTENTS), answer="bytes",
    ),
    Interaction(
        "export-contents", "GET", "/$export-file/Binary/{id}", "", "", "ITI-68", READ,
        "A file of Binaries, NDJSON; an OperationOutcome stands for a content that is refused.", PAGE, answer="bytes",
    ),
    Interaction(
        "import", "POST", "/$import", "", "operation", "ITI-105", SUBMIT,
        "Begin an import: 202, and the URL of its status in Content-Location. Each line of a file is a request of its"
        " own: Patient (ITI-104), Parameters (TD1.1), Consent (ITI-108), DocumentReference (ITI-105, content inline)."
        " Who takes over a home host sends its Patients, Parameters (each a dossier, whole) and Bundles (ITI-65).",
    ),
    Interaction(
        "import-status", "GET", "/$import-status/{id}", "", "", "ITI-105", SUBMIT,
        "How far an import is: 202 until each file is finished, then 200.", answer="bytes",
    ),
    Interaction(
        "import-file", "PUT", "/$import-file/{id}", "", "", "ITI-105", SUBMIT,
        "Send a file. 202: send it again, it goes on at its line. 200: finished, with what became of its lines.",
        FILE, body="ndjson", answer="bytes",
    ),
    Interaction(
        "import-errors", "GET", "/$import-errors/{id}", "", "", "ITI-105", SUBMIT,
        "The refused lines: an OperationOutcome each, its id the file and the line.", ERRORS, answer="bytes",
    ),
)  # fmt: skip
