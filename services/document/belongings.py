"""Whether what belongs to documents is what was stored: earlier versions, submission sets, folders, projections.

As `verification` for the documents themselves, and with it: each slice of documents brings its own along, four
statements a slice. A fault is told of the document that it was found with.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from dmp.document.v1 import document_pb2
from services.document import clinical_envelope, envelope
from services.document.clinical_store import ProjectionRow
from services.document.store import keeping
from services.document.store.keeping import StoredDocument
from services.document.times import instant
from services.document.unique_ids import UniqueIds
from services.runtime.errors import DmpError
from services.runtime.postgres import Pool
from services.runtime.sealing import DossierKey

_Kind: TypeAlias = document_pb2.ContentFaultKind.ValueType
_Of: TypeAlias = tuple[int, uuid.UUID]
_VERSION: Final = document_pb2.CONTENT_FAULT_KIND_VERSION
_SET: Final = document_pb2.CONTENT_FAULT_KIND_SUBMISSION_SET
_FOLDER: Final = document_pb2.CONTENT_FAULT_KIND_FOLDER
_PROJECTION: Final = document_pb2.CONTENT_FAULT_KIND_PROJECTION


class Fault(NamedTuple):
    """What is wrong, and of which document."""

    of: _Of
    kind: _Kind


class Belongings:
    """Checks what belongs to documents."""

    def __init__(self, pool: Pool, unique_ids: UniqueIds) -> None:
        self._pool = pool
        self._unique_ids = unique_ids

    async def check(self, documents: Sequence[StoredDocument], keys: Mapping[int, DossierKey]) -> list[Fault]:
        """Every fault in what belongs to these documents, of dossiers whose keys are `keys`."""
        held = [one for one in documents if one.row.health_id in keys]
        if not held:
            return []
        faults = await self._versions(held, keys)
        faults += await self._sets(held, keys)
        faults += await self._folders(held, keys)
        return faults + await self._projections(held, keys)

    async def _versions(self, documents: Sequence[StoredDocument], keys: Mapping[int, DossierKey]) -> list[Fault]:
        """A document of version n has n - 1 before it; each opens as that very version."""
        whole: Counter[_Of] = Counter()
        for health_id, document_id, version, entry_id, sealed in await keeping.versions_of(self._pool, documents):

            def opens(
                key: DossierKey = keys[health_id],
                document_id: uuid.UUID = document_id,
                entry_id: uuid.UUID = entry_id,
                version: int = version,
                sealed: bytes = sealed,
            ) -> bool:
                return envelope.open_version(key, document_id, entry_id, sealed).document.version == version

            whole[health_id, document_id] += _holds(opens)
        identities = [(one.row.health_id, one.row.document_id, one.row.version) for one in documents]
        return [Fault((h, d), _VERSION) for h, d, version in identities if whole[h, d] != version - 1]

    async def _sets(self, documents: Sequence[StoredDocument], keys: Mapping[int, DossierKey]) -> list[Fault]:
        sound: set[_Of] = set()
        for stored in await keeping.sets_of(self._pool, documents):

            def opens(stored: keeping.StoredSet = stored) -> bool:
                opened = envelope.open_submission_set(keys[stored.health_id], stored.set_id, stored.sealed)
                return (
                    stored.unique_id_digest == self._unique_ids.of_set(opened.unique_id)
                    and stored.submitted_at == instant(opened.submit_time)
                    and (stored.source_id, stored.content_type) == (opened.source_id, opened.content_type.code)
                )

            if _holds(opens):
                sound.add((stored.health_id, stored.set_id))
        wanted = {(one.row.health_id, one.row.submission_set_id): one.row.document_id for one in reversed(documents)}
        return [Fault((h, document), _SET) for (h, set_id), document in wanted.items() if (h, set_id) not in sound]

    async def _folders(self, documents: Sequence[StoredDocument], keys: Mapping[int, DossierKey]) -> list[Fault]:
        sound: set[_Of] = set()
        for stored in await keeping.folders_of(self._pool, documents):

            def opens(stored: keeping.StoredFolder = stored) -> bool:
                opened = envelope.open_folder(keys[stored.health_id], stored.folder_id, stored.sealed)
                return stored.unique_id_digest == self._unique_ids.of_folder(opened.unique_id) and stored.codes == [
                    code.code for code in opened.codes
                ]

            if _holds(opens):
                sound.add((stored.health_id, stored.folder_id))
        wanted = {
            (one.row.health_id, folder_id): one.row.document_id
            for one in reversed(documents)
            for folder_id in one.row.folder_ids
        }
        return [Fault((h, document), _FOLDER) for (h, folder), document in wanted.items() if (h, folder) not in sound]

    async def _projections(self, documents: Sequence[StoredDocument], keys: Mapping[int, DossierKey]) -> list[Fault]:
        """Each opens; how many there are is the reader's business, who may read all again."""
        broken: dict[_Of, None] = {}
        for row in await keeping.projections_of(self._pool, documents):

            def opens(key: DossierKey = keys[row.health_id], row: ProjectionRow = row) -> bool:
                return (clinical_envelope.opened(key, row) is None) == (not row.sealed)

            if not _holds(opens):
                broken[row.health_id, row.document_id] = None
        return [Fault(of, _PROJECTION) for of in broken]


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except DmpError:
        return False
