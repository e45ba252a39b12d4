"""Documents: ITI-65, 66, 67, 68, 105 and the conditional PATCH."""

from __future__ import annotations

from typing import Final

from dmp.document.v1 import document_pb2 as document
from gateway.fhir import lists, search
from gateway.fhir.interaction import Interaction, search_by_get_and_post
from gateway.fhir.parameters import SearchParameter
from gateway.fhir.rpcs import DOCUMENT, Rpc

SUBMIT: Final = Rpc(f"{DOCUMENT}/SubmitDocuments", document.SubmitDocumentsRequest, document.SubmitDocumentsResponse)
SEARCH: Final = Rpc(f"{DOCUMENT}/SearchDocuments", document.SearchDocumentsRequest, document.SearchDocumentsResponse)
GET: Final = Rpc(f"{DOCUMENT}/GetDocument", document.GetDocumentRequest, document.GetDocumentResponse)
READ: Final = Rpc(f"{DOCUMENT}/ReadDocument", document.ReadDocumentRequest, document.ReadDocumentResponse)
CHANGE: Final = Rpc(f"{DOCUMENT}/ChangeDocument", document.ChangeDocumentRequest, document.ChangeDocumentResponse)
RESOLVE: Final = Rpc(f"{DOCUMENT}/ResolveUniqueId", document.ResolveUniqueIdRequest, document.ResolveUniqueIdResponse)
LIST_SETS: Final = Rpc(
    f"{DOCUMENT}/ListSubmissionSets", document.ListSubmissionSetsRequest, document.ListSubmissionSetsResponse
)
GET_SET: Final = Rpc(
    f"{DOCUMENT}/GetSubmissionSet", document.GetSubmissionSetRequest, document.GetSubmissionSetResponse
)
LIST_FOLDERS: Final = Rpc(f"{DOCUMENT}/ListFolders", document.ListFoldersRequest, document.ListFoldersResponse)

_PATCH: Final = (
    "TD3.3: mask or unmask, make visible, archive or unarchive, delete. JSON Patch, XML Patch or FHIRPath Patch on"
    " securityLabel, isArchived or status; 405 for anything else."
)
CRITERIA: Final = (
    SearchParameter("identifier", "token", "uniqueId of the document: urn:ietf:rfc:3986|urn:oid:…"),
    *(each for each in search.PARAMETERS if each.name in search.PATIENT_NAMES),
)

TABLE: Final = (
    Interaction(
        "provide-bundle", "POST", "/", "", "transaction", "ITI-65", SUBMIT,
        "TD2.1: a SubmissionSet List, DocumentReferences with their contents, folders, and the patches that supersede"
        " what is replaced; all or nothing.", body="resource", accepts=("Bundle",),
    ),
    Interaction(
        "simplified-publish", "POST", "/DocumentReference", "DocumentReference", "create", "ITI-105", SUBMIT,
        "TD2.1: one document, its content in attachment.data. If-None-Exist: identifier=… makes exactly one.",
        body="resource", accepts=("DocumentReference",), conditional=True,
    ),
    *search_by_get_and_post(
        "document-search", "DocumentReference", "ITI-67", SEARCH,
        "TD3.1: the documents that match and that the caller may know of; by patient and identifier alone, who may not"
        " search gets the technical id of what it, or its structure, fed.", search.PARAMETERS,
    ),
    Interaction(
        "document-read", "GET", "/DocumentReference/{id}", "DocumentReference", "read", "", GET,
        "The metadata of one document.",
    ),
    Interaction(
        "document-patch", "PATCH", "/DocumentReference/{id}", "DocumentReference", "patch", "", CHANGE, _PATCH,
        body="patch", accepts=("Parameters",),
    ),
    Interaction(
        "document-patch-conditional", "PATCH", "/DocumentReference", "DocumentReference", "patch", "", CHANGE, _PATCH,
        CRITERIA, body="patch", accepts=("Parameters",), conditional=True,
    ),
    *search_by_get_and_post(
        "list-search", "List", "ITI-66", LIST_SETS,
        "TD3.1: submission sets or folders, with those of their documents that the caller may know of.",
        lists.PARAMETERS,
    ),
    Interaction("list-read", "GET", "/List/{id}", "List", "read", "ITI-66", GET_SET, "One submission set or folder."),
    Interaction(
        "binary-read", "GET", "/Binary/{id}", "Binary", "read", "ITI-68", READ,
        "TD3.2: the very bytes that were submitted, with their media type.", answer="bytes",
    ),
)  # fmt: skip
