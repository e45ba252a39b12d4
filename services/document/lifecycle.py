"""A document's life as pure rules: from which state each change may be made, and what it makes (domain.md §3, TD3.3).

    mask ⇄ unmask               any time                     show to patient / representatives   once, never undone
    archive ⇄ unarchive         back to the status it had    delete, deprecate                   by the author; final

A newer version takes the place of an archived one too: that stays archived, and comes back deprecated.

MASQUE_PS and INVISIBLE_PATIENT exclude each other unless the settings allow both: masking what is not yet visible to
the patient is then refused.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2

_APPROVED: Final = document_pb2.DOCUMENT_STATUS_APPROVED
_DEPRECATED: Final = document_pb2.DOCUMENT_STATUS_DEPRECATED
_ARCHIVED: Final = document_pb2.DOCUMENT_STATUS_ARCHIVED
_DELETED: Final = document_pb2.DOCUMENT_STATUS_DELETED

MASK: Final = document_pb2.DOCUMENT_CHANGE_MASK
UNMASK: Final = document_pb2.DOCUMENT_CHANGE_UNMASK
SHOW_TO_PATIENT: Final = document_pb2.DOCUMENT_CHANGE_SHOW_TO_PATIENT
SHOW_TO_REPRESENTATIVES: Final = document_pb2.DOCUMENT_CHANGE_SHOW_TO_REPRESENTATIVES
ARCHIVE: Final = document_pb2.DOCUMENT_CHANGE_ARCHIVE
UNARCHIVE: Final = document_pb2.DOCUMENT_CHANGE_UNARCHIVE
DELETE: Final = document_pb2.DOCUMENT_CHANGE_DELETE
DEPRECATE: Final = document_pb2.DOCUMENT_CHANGE_DEPRECATE
SUBMIT: Final = document_pb2.DOCUMENT_CHANGE_SUBMIT
REPLACE: Final = document_pb2.DOCUMENT_CHANGE_REPLACE


class ChangeRule(NamedTuple):
    """What consent is asked for a change, what the trail calls it, and of which transaction it is part."""

    consent: consent_pb2.Action.ValueType
    audit_action: str
    transaction: str


RULES: Final = {
    MASK: ChangeRule(consent_pb2.ACTION_MASK, "document.mask", "TD3.3a"),
    UNMASK: ChangeRule(consent_pb2.ACTION_UNMASK, "document.unmask", "TD3.3a"),
    SHOW_TO_PATIENT: ChangeRule(consent_pb2.ACTION_MAKE_VISIBLE, "document.show_patient", "TD3.3b"),
    SHOW_TO_REPRESENTATIVES: ChangeRule(consent_pb2.ACTION_MAKE_VISIBLE, "document.show_representatives", "TD3.3b"),
    ARCHIVE: ChangeRule(consent_pb2.ACTION_ARCHIVE, "document.archive", "TD3.3d"),
    UNARCHIVE: ChangeRule(consent_pb2.ACTION_UNARCHIVE, "document.unarchive", "TD3.3d"),
    DELETE: ChangeRule(consent_pb2.ACTION_DELETE, "document.delete", "TD3.3c"),
    DEPRECATE: ChangeRule(consent_pb2.ACTION_DELETE, "document.deprecate", "TD3.3c"),
}


class LifeState(NamedTuple):
    """Where a document is in its life, and from whom it is hidden."""

    status: int
    status_before: int
    masked: bool
    invisible_patient: bool
    invisible_representatives: bool


def changed(state: LifeState, change: int, *, allow_masked_and_invisible: bool = False) -> LifeState | None:
    """The state after a change; None when it cannot be made from there."""
    if state.status == _DELETED:
        return None
    if change == MASK:
        both = state.invisible_patient and not allow_masked_and_invisible
        return None if state.masked or both else state._replace(masked=True)
    if change == UNMASK:
        return state._replace(masked=False) if state.masked else None
    if change == SHOW_TO_PATIENT:
        return state._replace(invisible_patient=False) if state.invisible_patient else None
    if change == SHOW_TO_REPRESENTATIVES:
        return state._replace(invisible_representatives=False) if state.invisible_representatives else None
    return _moved(state, change)


def _moved(state: LifeState, change: int) -> LifeState | None:
    if change == ARCHIVE and state.status in (_APPROVED, _DEPRECATED):
        return state._replace(status=_ARCHIVED, status_before=state.status)
    if change == UNARCHIVE and state.status == _ARCHIVED:
        return state._replace(status=state.status_before or _APPROVED, status_before=0)
    if change == DELETE:
        return state._replace(status=_DELETED, status_before=state.status)
    if change == REPLACE and state.status == _ARCHIVED:
        return state._replace(status_before=_DEPRECATED)
    if change in (DEPRECATE, REPLACE) and state.status == _APPROVED:
        return state._replace(status=_DEPRECATED, status_before=0)
    return None
