"""A document's row: its columns, in one order, and what of them is bound to its seal. No statement."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Final, NamedTuple

COLUMNS: Final = """
d.health_id, d.document_id, d.logical_id, d.version, d.status, d.type_code, d.submitted_at, d.submission_set_id,
d.masked, d.invisible_patient, d.invisible_representatives, d.author_digests, d.stored_size, d.sealed, d.entry_id,
d.changed_at, d.change, d.status_before, d.replaced_by, d.relations, d.folder_ids, d.institution_digests
"""


class DocumentRow(NamedTuple):
    """A document as its row has it, in the order of `COLUMNS`."""

    health_id: int
    document_id: uuid.UUID
    logical_id: uuid.UUID
    version: int
    status: int
    type_code: str
    submitted_at: datetime
    submission_set_id: uuid.UUID
    masked: bool
    invisible_patient: bool
    invisible_representatives: bool
    author_digests: list[bytes]
    stored_size: int
    sealed: bytes
    entry_id: uuid.UUID | None
    changed_at: datetime | None
    change: int
    status_before: int
    replaced_by: uuid.UUID | None
    relations: list[str]
    folder_ids: list[uuid.UUID]
    institution_digests: list[bytes]

    def binding(self) -> bytes | None:
        """What the seal also covers of this row: everything that says who may know of it and where it is in its life.

        A column changed behind our back makes the seal break. None for rows sealed before versions existed.
        """
        (_, _, logical, version, status, kind, submitted, submission, masked, unseen, unshown, authors, *_, entry) = (
            self[:15]
        )
        changed, change, before, replaced, relations, folders, institutions = self[15:]
        if entry is None:
            return None
        # One string: joining eighteen takes longer.
        return (
            f"{logical!s}|{version}|{status}|{kind}|{submitted!s}|{submission!s}|{masked}|{unseen}|{unshown}"
            f"|{b''.join(authors).hex()}|{entry!s}|{changed!s}|{change}|{before}|{replaced}|{','.join(relations)}"
            f"|{','.join(map(str, folders))}|{b''.join(institutions).hex()}"
        ).encode()


class DocumentKey(NamedTuple):
    """A document, or a content, of a dossier."""

    health_id: int
    id: uuid.UUID
