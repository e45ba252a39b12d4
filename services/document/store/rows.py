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
        if self.entry_id is None:
            return None
        parts = (
            self.logical_id,
            self.version,
            self.status,
            self.type_code,
            self.submitted_at,
            self.submission_set_id,
            self.masked,
            self.invisible_patient,
            self.invisible_representatives,
            b"".join(self.author_digests).hex(),
            self.entry_id,
            self.changed_at,
            self.change,
            self.status_before,
            self.replaced_by,
            ",".join(self.relations),
            ",".join(map(str, self.folder_ids)),
            b"".join(self.institution_digests).hex(),
        )
        return "|".join(map(str, parts)).encode()


class DocumentKey(NamedTuple):
    """A document, or a content, of a dossier."""

    health_id: int
    id: uuid.UUID
