"""A stored document as the message that is shown, and its next version. Pure: keys come in, nothing is read."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Final

from dmp.document.v1 import document_pb2
from services.document import codes
from services.document.envelope import message_of, open_metadata, read_metadata, seal_metadata, seal_version
from services.document.lifecycle import LifeState
from services.document.store.rows import DocumentRow
from services.document.store.writing import Revision
from services.document.times import timestamp
from services.runtime import wire
from services.runtime.identifiers import document_name, folder_name, submission_set_name, uuid7
from services.runtime.sealing import DossierKey

_DELETED: Final = document_pb2.DOCUMENT_STATUS_DELETED
_VISIBILITY: Final = codes.VISIBILITY.encode()
_DOSSIER_CHARS: Final = len("dossiers/") + 21


def shown(document: document_pb2.Document, row: DocumentRow) -> document_pb2.Document:
    """The sealed metadata with what the row knows: names, version, status, flags. Of a deleted one, nothing else."""
    if row.status == _DELETED:
        document = document_pb2.Document(unique_id=document.unique_id)
    else:
        _set_flags(document, row)
    document.name = document_name(row.health_id, row.document_id)
    document.logical_id = str(row.logical_id)
    document.entry_id = str(row.entry_id or row.document_id)
    document.version = row.version
    document.status = row.status  # type: ignore[assignment]
    document.submit_time.CopyFrom(timestamp(row.submitted_at))
    document.change_time.CopyFrom(timestamp(row.changed_at or row.submitted_at))
    document.submission_set = submission_set_name(row.health_id, row.submission_set_id)
    if row.replaced_by is not None:
        document.replaced_by = document_name(row.health_id, row.replaced_by)
    if row.folder_ids:
        document.folders.extend(folder_name(row.health_id, folder) for folder in row.folder_ids)
    return document


def shown_bytes(plain: bytes, row: DocumentRow, name: str) -> bytes:
    """`shown`, serialized, of the unsealed metadata of a row whose document is named `name`.

    What the row knows is written behind the sealed message: of a field that comes twice the last counts, so nothing
    has to be parsed and written anew. Not where something of the sealed message goes (flags, a deleted document).
    """
    unlike = row.status == _DELETED or row.masked or row.invisible_patient or row.invisible_representatives
    if unlike or row.replaced_by is not None or row.folder_ids or _VISIBILITY in plain:
        return shown(read_metadata(plain).document, row).SerializeToString()
    submitted = row.submitted_at
    set_name = f"{name[:_DOSSIER_CHARS]}/submissionSets/{row.submission_set_id}"
    return b"".join(
        (
            message_of(plain),
            wire.short_text(b"\x0a", name),
            wire.short_text(b"\x12", str(row.logical_id)),
            b"\x18" + wire.varint(row.version),
            b"\x28" + wire.varint(row.status),
            wire.time(b"\xc2\x01", submitted),
            wire.short_text(b"\xe2\x01", set_name),
            wire.short_text(b"\xea\x01", str(row.entry_id or row.document_id)),
            wire.time(b"\xf2\x01", row.changed_at or submitted),
        )
    )


def opened(key: DossierKey, row: DocumentRow) -> document_pb2.Document:
    """A row as it is shown. CONTENT_CORRUPTED when it was altered."""
    return shown(open_metadata(key, row).document, row)


def state_of(row: DocumentRow) -> LifeState:
    """Where the document is in its life."""
    return LifeState(row.status, row.status_before, row.masked, row.invisible_patient, row.invisible_representatives)


def revision(
    key: DossierKey,
    row: DocumentRow,
    state: LifeState,
    change: int,
    now: datetime,
    replaced_by: uuid.UUID | None = None,
) -> Revision:
    """The document's next metadata version in that state, and the one before as it is kept."""
    metadata = open_metadata(key, row)
    next_row = row._replace(
        version=row.version + 1,
        status=state.status,
        status_before=state.status_before,
        masked=state.masked,
        invisible_patient=state.invisible_patient,
        invisible_representatives=state.invisible_representatives,
        entry_id=uuid7(),
        changed_at=now,
        change=change,
        replaced_by=replaced_by or row.replaced_by,
    )
    sealed = seal_metadata(key, next_row, metadata.content, metadata.document)
    kept = document_pb2.DocumentVersion(
        document=shown(metadata.document, row),
        change=row.change,  # type: ignore[arg-type]
    )
    kept.end_time.CopyFrom(timestamp(now))
    return Revision(next_row._replace(sealed=sealed), row, seal_version(key, row.document_id, kept))


def _set_flags(document: document_pb2.Document, row: DocumentRow) -> None:
    """The visibility flags among the confidentiality codes are those of the row; what they were is in the seal."""
    held = {
        codes.MASKED_FROM_PROFESSIONALS: row.masked,
        codes.INVISIBLE_TO_PATIENT: row.invisible_patient,
        codes.INVISIBLE_TO_REPRESENTATIVES: row.invisible_representatives,
    }
    stated = {code.code for code in document.confidentiality if code.system == codes.VISIBILITY}
    if stated == {flag for flag, holds in held.items() if holds}:
        return
    kept = [code for code in document.confidentiality if code.system != codes.VISIBILITY or held.get(code.code)]
    del document.confidentiality[:]
    document.confidentiality.extend(kept)
    for flag, holds in held.items():
        if holds and flag not in stated:
            document.confidentiality.add(system=codes.VISIBILITY, code=flag)
