"""Which cells of the rights table give an action of the contract, and which words of them. Data, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dmp.consent.v1 import consent_pb2 as pb
from services.consent.functional_rights import Function, Right

CHECK_DOSSIER: Final = Function("TD0.2", "test_existence_and_check_auth")
_FREE: Final[Mapping[Right, int]] = {Right.YES: pb.DOCUMENT_RESTRICTION_UNSPECIFIED}
_OWN: Final[Mapping[Right, int]] = {**_FREE, Right.OWN_DOCUMENTS_ONLY: pb.DOCUMENT_RESTRICTION_OWN}
Cells = tuple[tuple[Function, ...], Mapping[Right, int]]


def _cells(transaction: str, action: str, words: Mapping[Right, int] = _FREE) -> Cells:
    return (Function(transaction, action),), words


GIVEN_BY: Final[Mapping[int, Cells]] = {
    pb.ACTION_SUBMIT: (
        (Function("TD2.1", "submit"), Function("TD2.2", "submit_by_cpe")),
        {
            **_FREE,
            Right.IMPUTED_TO_STRUCTURE: pb.DOCUMENT_RESTRICTION_UNSPECIFIED,
            Right.PATIENT_DOCUMENT_TYPES_ONLY: pb.DOCUMENT_RESTRICTION_PATIENT_TYPES,
        },
    ),
    pb.ACTION_SEARCH: _cells(
        "TD3.1", "search_metadata", {**_FREE, Right.IF_VISIBLE_TO_CALLER: pb.DOCUMENT_RESTRICTION_UNSPECIFIED}
    ),
    pb.ACTION_READ: _cells("TD3.2", "read_not_masked"),
    pb.ACTION_SEARCH_REFERENCE: _cells(
        "TD3.1", "search_reference", {**_FREE, Right.REFERENCE_ONLY: pb.DOCUMENT_RESTRICTION_REFERENCE}
    ),
    pb.ACTION_READ_TRACES: _cells(
        "TRACE",
        "read_traces",
        dict.fromkeys((Right.YES, Right.OWN_ACTIONS_ONLY, Right.WITHOUT_SECRET_CONNECTIONS), 0),
    ),
    pb.ACTION_READ_ADMINISTRATIVE: _cells("TD1.3a", "read_admin_data"),
    pb.ACTION_CHANGE_ADMINISTRATIVE: _cells("TD1.3b", "change_admin_data"),
    pb.ACTION_MASK: _cells("TD3.3a", "mask_ps"),
    pb.ACTION_UNMASK: _cells("TD3.3a", "unmask_ps", _OWN),
    pb.ACTION_MAKE_VISIBLE: _cells("TD3.3b", "make_visible_to_patient"),
    pb.ACTION_DELETE: _cells(
        "TD3.3c", "delete", {**_OWN, Right.AUTHORED_BY_STRUCTURE_ONLY: pb.DOCUMENT_RESTRICTION_STRUCTURE}
    ),
    pb.ACTION_ARCHIVE: _cells("TD3.3d", "archive", _OWN),
    pb.ACTION_UNARCHIVE: _cells("TD3.3d", "unarchive", _OWN),
    pb.ACTION_CHECK_DOSSIER: ((CHECK_DOSSIER,), _FREE),
    pb.ACTION_LIST_AUTHORIZATIONS: _cells("TD1.6", "list_authorised_blocked_ps"),
    pb.ACTION_FIND_PATIENT: _cells("TD0.5", "search_patient_without_ins"),
    pb.ACTION_OPEN_PATIENT_ACCESS: _cells("TD1.5", "open_patient_access"),
    pb.ACTION_LIST_ACCESSIBLE: _cells(
        "TD0.4",
        "list_authorised_dmp",
        dict.fromkeys((Right.YES, Right.SAME_STRUCTURE_ONLY, Right.NEW_AUTHORISATIONS_ONLY), 0),
    ),
    pb.ACTION_WEB_ACCESS: _cells("TD0.9", "web_ps_contextual"),
    pb.ACTION_SEARCH_HELD: _cells("TD3.1", "search_metadata"),
}
"""The cells that give an action, tried in order, and the words that give it, with the documents that each is bound to.
A word that is not here gives nothing."""

# A list by last document tells of documents, so it takes the right to search as well as the right to list; a
# certificate, which is told of new authorisations only, has no such list (decision 0036).
NEEDS_TOO: Final[Mapping[int, tuple[Function, frozenset[Right]]]] = {
    pb.ACTION_SEARCH_HELD: (
        Function("TD0.4", "list_authorised_dmp"),
        frozenset({Right.YES, Right.SAME_STRUCTURE_ONLY}),
    )
}
