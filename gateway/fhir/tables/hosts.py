"""`$export` of a whole home host, for who takes over its dossiers: a job, its manifest page by page, its files."""

from __future__ import annotations

from typing import Final

from dmp.consent.v1 import consent_pb2 as consent
from gateway.fhir.interaction import Interaction
from gateway.fhir.parameters import SearchParameter
from gateway.fhir.rpcs import CONSENT, Rpc
from gateway.fhir.tables.bulk import CONTENTS, PAGE
from gateway.fhir.tables.documents import LIST_SETS, READ, SEARCH
from gateway.fhir.tables.people import GET

LIST_HOST: Final = Rpc(f"{CONSENT}/ListHostDossiers", consent.ListHostDossiersRequest, consent.ListHostDossiersResponse)
TAKE_IN: Final = Rpc(f"{CONSENT}/TakeInDossier", consent.TakeInDossierRequest, consent.TakeInDossierResponse)
TYPES: Final = ("Patient", "Parameters", "Consent", "List", "DocumentReference", "Binary")
"""What an export has when nothing is said."""
WHOLE_SETS: Final = "Bundle"
"""Submission sets with their documents, contents and folders, as `$import` takes them: in place of the last three."""
KNOWN: Final = (*TYPES, WHOLE_SETS)
SCOPE: Final = "host.export"

_WHICH: Final = (
    SearchParameter("_type", "token", f"which files: {', '.join(TYPES)}, all when left out; or {WHOLE_SETS}"),
    CONTENTS,
)
_OF_DOSSIER: Final = SearchParameter("_dossier", "token", "of which dossier, as the manifest says")

TABLE: Final = (
    Interaction(
        "host-export", "GET", "/$export", "", "operation", SCOPE, LIST_HOST,
        "Begin the export of all dossiers of the home host that the token takes over: 202, and the URL of its manifest"
        " in Content-Location.", _WHICH,
    ),
    Interaction(
        "host-export-manifest", "GET", "/$export-job/{id}", "", "", SCOPE, LIST_HOST,
        "The files of some of the dossiers; link next has those of further ones.", PAGE, answer="bytes",
    ),
    Interaction(
        "host-export-cancel", "DELETE", "/$export-job/{id}", "", "", SCOPE, LIST_HOST,
        "End an export: 202; its files are no longer served.", answer="bytes",
    ),
    Interaction(
        "host-export-people", "GET", "/$export-job/{id}/Patient", "", "", "ITI-78", GET,
        "A file of Patients, NDJSON.", PAGE, answer="bytes",
    ),
    Interaction(
        "host-export-openings", "GET", "/$export-job/{id}/Parameters", "", "", SCOPE, LIST_HOST,
        "A file of Parameters, NDJSON: each the opening of a dossier (TD1.1) and what became of it.", PAGE,
        answer="bytes",
    ),
    Interaction(
        "host-export-consents", "GET", "/$export-job/{id}/Consent", "", "", SCOPE, LIST_HOST,
        "A file of Consents, NDJSON: blocks, authorisations with their dates, and what was decided about emergencies.",
        PAGE, answer="bytes",
    ),
    Interaction(
        "host-export-lists", "GET", "/$export-job/{id}/List", "", "", "ITI-66", LIST_SETS,
        "The submission sets and folders of a dossier, NDJSON.", (_OF_DOSSIER,), answer="bytes",
    ),
    Interaction(
        "host-export-references", "GET", "/$export-job/{id}/DocumentReference", "", "", "ITI-67", SEARCH,
        "A file of DocumentReferences of a dossier, NDJSON.", (_OF_DOSSIER, *PAGE, CONTENTS), answer="bytes",
    ),
    Interaction(
        "host-export-sets", "GET", "/$export-job/{id}/Bundle", "", "", "ITI-68", READ,
        "A file of submission sets of a dossier, NDJSON, oldest first: each the Bundle of ITI-65 with its documents,"
        " their contents and their folders, as $import takes it.", (_OF_DOSSIER, *PAGE), answer="bytes",
    ),
    Interaction(
        "host-export-contents", "GET", "/$export-job/{id}/Binary", "", "", "ITI-68", READ,
        "A file of Binaries of a dossier, NDJSON; an OperationOutcome stands for a content that is refused.",
        (_OF_DOSSIER, *PAGE), answer="bytes",
    ),
)  # fmt: skip
