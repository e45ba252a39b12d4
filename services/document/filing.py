"""Into which folders the documents of a submission go: new ones, and those that the dossier holds. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from services.document import envelope
from services.document.store.writing import Moment, NewFolder, Taken
from services.document.times import timestamp
from services.document.unique_ids import UniqueIds
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.identifiers import folder_name, uuid7
from services.runtime.sealing import DossierKey


class Filing:
    """Decides about folders."""

    def __init__(self, unique_ids: UniqueIds) -> None:
        self._unique_ids = unique_ids

    def folders(
        self,
        request: document_pb2.SubmitDocumentsRequest,
        taken: Sequence[Taken],
        key: DossierKey,
        answer: document_pb2.SubmitDocumentsResponse,
        moment: Moment,
    ) -> tuple[list[NewFolder], list[list[uuid.UUID]]]:
        """The new folders, and for each document those that it lies in: folders of its own dossier."""
        held: dict[bytes, uuid.UUID] = {}
        linked: set[bytes] = set()
        for one in taken:
            if one.folder_id is not None and one.health_id == key.health_id:
                held[one.unique_id_digest] = one.folder_id
            elif one.folder_id is not None:
                linked.add(one.unique_id_digest)
        new: list[NewFolder] = []
        for index, folder in enumerate(request.folders):
            digest = self._unique_ids.of_folder(folder.unique_id)
            if digest in held or digest in linked:
                field = FieldViolation(f"folders[{index}].unique_id", "unique", "the dossier holds a folder with it")
                raise DmpError(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID, fields=(field,))
            folder_id = held[digest] = uuid7()
            made = answer.folders.add()
            made.CopyFrom(folder)
            made.name = folder_name(key.health_id, folder_id)
            made.status = document_pb2.DOCUMENT_STATUS_APPROVED
            made.update_time.CopyFrom(timestamp(moment.now))
            made.submission_set = answer.submission_set.name
            sealed = envelope.seal_folder(key, folder_id, made)
            new.append(NewFolder(folder_id, digest, [code.code for code in folder.codes], sealed))
        known = set(held.values())
        return new, [
            [self._folder(index, folder, held, known) for folder in submitted.folders]
            for index, submitted in enumerate(request.documents)
        ]

    def _folder(self, index: int, named: str, held: Mapping[bytes, uuid.UUID], known: set[uuid.UUID]) -> uuid.UUID:
        if named.startswith("dossiers/"):
            found: uuid.UUID | None = folder_id_of(named)
            found = found if found in known else None
        else:
            found = held.get(self._unique_ids.of_folder(named))
        if found is None:
            field = FieldViolation(f"documents[{index}].folders", "known", "the dossier holds no such folder")
            raise DmpError(reasons.ERROR_REASON_METADATA_ERROR, fields=(field,))
        return found


def folder_id_of(name: str) -> uuid.UUID:
    """The id at the end of a folder's name; one that no folder has where it is none."""
    try:
        return uuid.UUID(name[-36:])
    except ValueError:
        return uuid.UUID(int=0)
