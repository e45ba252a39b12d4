"""The directory: mCSD ITI-90."""

from __future__ import annotations

from typing import Final

from dmp.identity.v1 import directory_pb2 as found
from gateway.fhir import directory
from gateway.fhir.interaction import Interaction, search_by_get_and_post
from gateway.fhir.rpcs import IDENTITY, Rpc

PRACTITIONERS: Final = Rpc(
    f"{IDENTITY}/SearchPractitioners", found.SearchPractitionersRequest, found.SearchPractitionersResponse
)
STRUCTURES: Final = Rpc(f"{IDENTITY}/SearchStructures", found.SearchStructuresRequest, found.SearchStructuresResponse)
ROLES: Final = Rpc(
    f"{IDENTITY}/SearchPractitionerRoles", found.SearchPractitionerRolesRequest, found.SearchPractitionerRolesResponse
)
ENTRIES: Final = Rpc(
    f"{IDENTITY}/BatchGetDirectoryEntries",
    found.BatchGetDirectoryEntriesRequest,
    found.BatchGetDirectoryEntriesResponse,
)

TABLE: Final = (
    *search_by_get_and_post(
        "practitioner-search", "Practitioner", "ITI-90", PRACTITIONERS, "Professionals of the directory.",
        directory.PRACTITIONER_PARAMETERS,
    ),
    Interaction(
        "practitioner-read", "GET", "/Practitioner/{id}", "Practitioner", "read", "ITI-90", ENTRIES, "A professional.",
    ),
    *search_by_get_and_post(
        "organization-search", "Organization", "ITI-90", STRUCTURES, "Structures of the directory.",
        directory.ORGANIZATION_PARAMETERS,
    ),
    Interaction(
        "organization-read", "GET", "/Organization/{id}", "Organization", "read", "ITI-90", ENTRIES, "A structure.",
    ),
    *search_by_get_and_post(
        "role-search", "PractitionerRole", "ITI-90", ROLES, "Who works where.", directory.ROLE_PARAMETERS,
    ),
    Interaction(
        "role-read", "GET", "/PractitionerRole/{id}", "PractitionerRole", "read", "ITI-90", ROLES,
        "That a professional works in a structure.",
    ),
)  # fmt: skip
